"""The evaluation of the training example, on a small tree of VoxCeleb1's form and lists as they are published."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import evaluation
import jobs
import keras
import numpy as np
import numpy.typing as npt
import pytest
import scores
import synth
from encoder import About, Encoder, EncoderError, Normalize, windows
from rich.console import Console

from ge2e_transforms import PRESETS, BatchLoader, Recipe
from ge2e_transforms.errors import ConfigError, DatasetError, StorageError
from ge2e_transforms.whole import WholeUtterances
from pipeline.__main__ import main
from pipeline.commit import commit

RECIPE = PRESETS["ge2e"]
DEV, TEST = [f"id{number}" for number in (10001, 10002)], [f"id{number}" for number in range(10270, 10276)]
VIDEOS = ("5r0dWxy17C8", "x6uYqmx31kE")
# All that the functions of a job wait for the disk for is not needed here.
pytestmark = pytest.mark.usefixtures("unsynced")


@pytest.fixture(scope="module")
def vox1(tmp_path_factory: pytest.TempPathFactory, unsynced: None) -> Path:
    """`corpus/{dev,test}/wav/<speaker>/<video>/<number>.wav`, its manifest by `ge2e manifest`, and `features`."""
    root = tmp_path_factory.mktemp("vox1")
    for place, speaker in enumerate([*DEV, *TEST]):
        part = "dev" if speaker in DEV else "test"
        for number in range(4):
            path = root / "corpus" / part / "wav" / speaker / VIDEOS[number // 2] / f"{number % 2 + 1:05d}.wav"
            samples = synth.speechlike(100 * place + number, 1.6 + 0.4 * number, pitch_hz=90 * 2 ** (place / 6))
            synth.write(path, samples, 16000, subtype="PCM_16")
    return dataset_of(root / "corpus", root)


def dataset_of(corpus: Path, root: Path, *flags: str, recipe: Recipe = RECIPE) -> Path:
    """Writes `vox1.csv` and `features` into a folder, and returns it."""
    root.mkdir(exist_ok=True)
    assert main(["manifest", "voxceleb1", str(corpus), "-o", str(root / "vox1.csv"), "-q", *flags]) == 0
    config = jobs.job(root / "features", root / "vox1.csv", recipe=recipe)
    made = jobs.write_all(config)
    commit(config, made.plan, made.rejected)
    return root


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """Not trained, and without recurrent layers, which take their time; windows of 40 frames."""
    keras.utils.set_random_seed(1)
    features = keras.Input((None, 40))
    hidden = keras.layers.Dense(16, activation="tanh")(Normalize("crop")(features))
    embedding = keras.layers.Dense(8)(keras.layers.GlobalAveragePooling1D()(hidden))
    network = keras.Model(features, keras.layers.UnitNormalization()(embedding))
    return Encoder(network, About(RECIPE.fingerprint(), RECIPE.to_dict(), "crop", 40, 8, None, {}))


@pytest.fixture
def folder(tmp_path: Path, encoder: Encoder) -> Path:
    encoder.save(tmp_path / "encoder")
    return tmp_path / "encoder"


def wav(speaker: str, video: int = 0, number: int = 1, ending: str = ".wav") -> str:
    """An utterance as the lists of VoxCeleb name it."""
    return f"{speaker}/{VIDEOS[video]}/{number:05d}{ending}"


def written(path: Path, lines: list[tuple[int, str, str]]) -> Path:
    path.write_text("".join(f"{label} {enrol} {test}\n" for label, enrol, test in lines))
    return path


def of(*speakers: str) -> list[tuple[int, str, str]]:
    """Lines `label enrol test`: each speaker's videos with each other, and with the next speaker's."""
    following = [*speakers[1:], speakers[0]]
    return [
        line
        for speaker, other in zip(speakers, following, strict=True)
        for line in ((1, wav(speaker, 0), wav(speaker, 1, 2)), (0, wav(speaker, 0), wav(other, 1)))
    ]


# Lists of VoxCeleb.


def test_a_list_over_the_test_speakers_as_vox1_o(vox1: Path, tmp_path: Path) -> None:
    trials = BatchLoader(vox1 / "features").trials(written(tmp_path / "veri_test2.txt", of(*TEST)))
    assert trials.same.tolist() == [True, False] * 6
    assert trials.utterances[:2] == [
        ("voxceleb/id10270", "5r0dWxy17C8/00001"),
        ("voxceleb/id10270", "x6uYqmx31kE/00002"),
    ]
    assert {speaker for speaker, _ in trials.utterances} == {f"voxceleb/{speaker}" for speaker in TEST}


def test_a_list_over_all_speakers_as_vox1_e_and_h(vox1: Path, tmp_path: Path) -> None:
    loader = BatchLoader(vox1 / "features")
    trials = loader.trials(written(tmp_path / "list_test_all2.txt", of(*DEV, *TEST)))
    assert {speaker for speaker, _ in trials.utterances} == {f"voxceleb/{speaker}" for speaker in (*DEV, *TEST)}
    assert set(loader.speaker_ids("train")) == {f"voxceleb/{speaker}" for speaker in DEV}
    assert {whole.speaker_id for whole in loader.utterances("test")} == {f"voxceleb/{speaker}" for speaker in TEST}


def test_a_list_without_endings_names_the_same(vox1: Path, tmp_path: Path) -> None:
    """What `sed` makes of a list where the audio is of another format."""
    loader = BatchLoader(vox1 / "features")
    path = written(tmp_path / "list.txt", of(*TEST))
    whole = loader.trials(path).utterances
    path.write_text(path.read_text().replace(".wav", ""))
    assert loader.trials(path).utterances == whole


def test_a_table_that_calls_all_speakers_test_keeps_the_short_ones(vox1: Path, tmp_path: Path) -> None:
    """As the guide edits it for E and H. Of a train split, an utterance of so little voice is left out."""
    corpus = tmp_path / "corpus"
    shutil.copytree(vox1 / "corpus", corpus)
    for speaker in DEV:
        synth.write(corpus / "dev" / "wav" / wav(speaker), synth.tone(300, 0.2), 16000, subtype="PCM_16")
    meta = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n" + "".join(
        f"{speaker}\tname\tm\tIreland\t{'dev' if speaker in DEV else 'test'}\n" for speaker in (*DEV, *TEST)
    )
    (corpus / "vox1_meta.csv").write_text(meta)
    edited = subprocess.run(["sed", r"s/dev[[:space:]]*$/test/", corpus / "vox1_meta.csv"], capture_output=True)
    (tmp_path / "all_test.csv").write_bytes(edited.stdout)
    path = written(tmp_path / "list_test_hard2.txt", of(*DEV, *TEST))
    for name, table in (("as-it-is", corpus / "vox1_meta.csv"), ("all-test", tmp_path / "all_test.csv")):
        loader = BatchLoader(dataset_of(corpus, tmp_path / name, "--table", str(table)) / "features")
        if name == "as-it-is":
            with pytest.raises(DatasetError, match=r"'id10001/5r0dWxy17C8/00001.wav' \(line 1\) is unknown"):
                loader.trials(path)
        else:
            assert len(loader.trials(path)) == 16
            assert list(loader.get_metadata()["splits"]) == ["test"]
            assert loader.get_metadata()["fingerprint"] == RECIPE.fingerprint()


def test_an_utterance_that_a_list_names_and_the_dataset_lacks_is_told(vox1: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "list.txt", [*of(*TEST), (0, wav("id10270"), wav("id10309"))])
    with pytest.raises(DatasetError, match=r"1 of 19 ids .* 'id10309/5r0dWxy17C8/00001.wav' \(line 13\) is unknown"):
        BatchLoader(vox1 / "features").trials(path)


@pytest.mark.parametrize(
    ("non_targets", "supported"), [(37_611 // 2, (0.05, 0.01)), (550_894 // 2, (0.05, 0.01, 0.001))]
)
def test_the_costs_that_the_guide_says_a_list_supports(non_targets: int, supported: tuple[float, ...]) -> None:
    all_of_them = (0.05, 0.01, 0.001)
    assert tuple(p for p in all_of_them if not scores.supports_dcf(non_targets, non_targets, p)) == supported


# A whole evaluation.


def test_what_is_written_follows_from_the_embeddings(
    vox1: Path, tmp_path: Path, folder: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str | None, str]] = []
    one = WholeUtterances.one
    monkeypatch.setattr(WholeUtterances, "one", lambda self, u, s: read.append((s, u)) or one(self, u, s))
    before = (folder / "encoder.json").read_bytes()
    results = evaluation.evaluate(folder, vox1 / "features", tmp_path / "out", evaluation.Settings(per_speaker=3))
    loader = BatchLoader(vox1 / "features", layout="time_mel")
    trials = loader.verification_trials("test", per_speaker=3)

    assert read == trials.utterances
    assert len(set(read)) == len(read)
    monkeypatch.undo()
    embedded = [encoder.embed(loader.utterance(utterance, speaker).values) for speaker, utterance in read]
    expected = [embedded[enrol] @ embedded[test] for enrol, test in zip(trials.enrol, trials.test, strict=True)]
    lines = [line.split("\t") for line in (tmp_path / "out" / "scores.txt").read_text().splitlines()]
    found = np.array([line[0] for line in lines], np.float32)
    np.testing.assert_allclose(found, expected, atol=1e-5)

    (tmp_path / "list.txt").write_text("".join("\t".join(line[1:]) + "\n" for line in lines))
    again = loader.trials(tmp_path / "list.txt")
    assert again.same.tolist() == trials.same.tolist()
    pairs = [(again.utterances[a], again.utterances[b]) for a, b in zip(again.enrol, again.test, strict=True)]
    assert pairs == [(read[a], read[b]) for a, b in zip(trials.enrol, trials.test, strict=True)]

    assert (results.eer, results.threshold) == scores.equal_error_rate(found, trials.same)
    speakers = np.array([speaker for speaker, _ in read])
    interval, _ = scores.eer_interval(found, trials.same, speakers[trials.enrol], speakers[trials.test])
    assert results.eer_interval == interval is not None
    assert (results.targets, results.non_targets, results.speakers, results.utterances) == (18, 18, 6, len(read))
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == json.loads(json.dumps(asdict(results)))
    assert all((tmp_path / "out" / name).read_bytes()[1:4] == b"PNG" for name in ("det.png", "embeddings.png"))
    assert (folder / "encoder.json").read_bytes() == before


def test_a_list_is_scored_and_the_threshold_stored_when_asked(vox1: Path, tmp_path: Path, folder: Path) -> None:
    path = written(tmp_path / "list.txt", of(*DEV, *TEST))
    network = (folder / "encoder.keras").read_bytes()
    settings = evaluation.Settings(trials=path, p_target=0.5)
    results = evaluation.evaluate(folder, vox1 / "features", tmp_path / "out", settings, store_threshold=True)
    assert (results.trials, results.targets, results.speakers) == (str(path), 8, 8)
    assert Encoder.load(folder).about.threshold == results.threshold
    assert (folder / "encoder.keras").read_bytes() == network
    assert sorted(file.name for file in folder.iterdir()) == ["encoder.json", "encoder.keras"]
    assert "expected 30 target and 30 non-target trials or more" in results.min_dcf_missing


def test_a_threshold_is_written_whole_or_not_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "encoder.json").read_bytes()

    def full(self: Path, text: str, **_: Any) -> None:
        self.write_bytes(text.encode()[:40])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match="No space left"):
        evaluation.write_threshold(folder, 0.5)
    assert (folder / "encoder.json").read_bytes() == before


def test_utterances_embedded_together_are_means_of_their_own_windows(encoder: Encoder) -> None:
    rng = np.random.default_rng(0)
    lengths = [40, 2, 39, 41, 700, *rng.integers(30, 300, 80).tolist()]
    spoken = [rng.normal(-3, 2, (rows, 40)).astype(np.float32) for rows in lengths]
    found = list(encoder.embed_all(iter(spoken)))
    assert len(found) == len(spoken)
    for number in (1, 3, 64):
        mean = encoder.network(windows(spoken[number], 40)).numpy().mean(axis=0)
        np.testing.assert_allclose(found[number], mean / np.linalg.norm(mean), atol=1e-5)
    for number in (0, 4, 63, 84):
        np.testing.assert_allclose(found[number], encoder.embed(spoken[number]), atol=1e-5)
    assert list(encoder.embed_all([])) == []


# What cannot be evaluated.


def test_a_dataset_of_another_recipe_is_refused(vox1: Path, encoder: Encoder) -> None:
    other = Encoder(encoder.network, replace(encoder.about, fingerprint=RECIPE.replace(n_mels=41).fingerprint()))
    with pytest.raises(EncoderError, match=r"features cannot be used with this encoder: expected the recipe"):
        evaluation.open_dataset(other, vox1 / "features")


def test_waveforms_are_refused(vox1: Path, tmp_path: Path, encoder: Encoder) -> None:
    raw = dataset_of(vox1 / "corpus", tmp_path, recipe=RECIPE.replace(features="raw")) / "features"
    with pytest.raises(EncoderError, match=r"features cannot be evaluated: expected features .* got waveforms"):
        evaluation.open_dataset(encoder, raw)


class Never(BatchLoader):
    """A loader that no utterance may be read of."""

    def utterance(self, *_: Any) -> Any:
        raise AssertionError("an utterance is read")


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        ([(1, wav("id10270"), wav("id10271"))], ConfigError, "labelled otherwise than their speakers say"),
        ([(1, wav("id10270"), wav("id10270", 1))], ConfigError, "error rates need target and non-target trials"),
    ],
)
def test_trials_that_cannot_be_scored_are_told_before_anything_is_embedded(
    vox1: Path, tmp_path: Path, encoder: Encoder, lines: list[tuple[int, str, str]], error: Any, message: str
) -> None:
    loader = Never(vox1 / "features", layout="time_mel")
    more = of(*TEST) if "labelled" in message else []
    trials = loader.trials(written(tmp_path / "list.txt", [*more, *lines]))
    with pytest.raises(error, match=message):
        evaluation.evaluate_trials(encoder, loader, trials, tmp_path / "out", evaluation.Settings())
    assert not (tmp_path / "out").exists()


def test_options_and_folders_that_cannot_be_used_are_told_before(vox1: Path, tmp_path: Path, encoder: Encoder) -> None:
    loader = Never(vox1 / "features", layout="time_mel")
    trials = loader.verification_trials("test")
    with pytest.raises(ConfigError, match=r"p_target=1.5"):
        evaluation.evaluate_trials(encoder, loader, trials, tmp_path / "out", evaluation.Settings(p_target=1.5))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file cannot be a folder for results"):
        evaluation.evaluate_trials(encoder, loader, trials, tmp_path / "file", evaluation.Settings())


def test_a_network_that_diverged_leaves_no_results(vox1: Path, tmp_path: Path, encoder: Encoder) -> None:
    (tmp_path / "results.json").write_text("{}")
    broken = Encoder(keras.models.clone_model(encoder.network), encoder.about)
    broken.network.set_weights([np.full_like(values, np.nan) for values in encoder.network.get_weights()])
    loader = evaluation.open_dataset(broken, vox1 / "features")
    trials = loader.verification_trials("test", per_speaker=1)
    all_of_them = len(trials.utterances)
    message = f"{all_of_them} of {all_of_them} utterances get no finite embedding, first voxceleb/id10270/"
    with pytest.raises(EncoderError, match=message):
        evaluation.evaluate_trials(broken, loader, trials, tmp_path, evaluation.Settings())
    assert not (tmp_path / "results.json").exists()


# What is shown.


def measured(same: npt.NDArray[np.bool_], found: npt.NDArray[Any], p_target: float = 0.01) -> evaluation.Results:
    """Results of scores of trials: target trials of speaker i, non-targets of i and i + 1, ten speakers."""
    own = np.arange(len(same)) % 10
    pairs = np.stack([own, np.where(same, own, (own + 1) % 10)])
    return evaluation.measure(found, same, pairs, 20, evaluation.Settings(p_target=p_target))


def table(results: evaluation.Results) -> str:
    stream = io.StringIO()
    evaluation.print_results(results, Console(file=stream, width=300))
    return stream.getvalue()


def test_the_table_has_each_figure_or_why_it_is_missing() -> None:
    rng, same = np.random.default_rng(0), np.arange(8000) < 4000
    enough = measured(same, rng.normal(0, 1, 8000) + 2 * same)
    assert enough.min_dcf is not None
    assert enough.eer_interval is not None
    shown = table(enough)
    low, high = enough.eer_interval
    assert f"EER                   │ {100 * enough.eer:.2f} % ({100 * low:.2f} to {100 * high:.2f})" in shown
    assert f"minDCF, p_target 0.01 │ {enough.min_dcf:.3f}" in shown
    assert "4,000 target, 4,000 non-target" in shown

    few = measured(same[3900:4100], rng.normal(0, 1, 200) + 2 * same[3900:4100])
    assert few.min_dcf is None
    assert few.min_dcf_threshold is None
    shown = table(few)
    assert re.search(r"minDCF, p_target 0.01 │ none ", shown)
    assert f"- {few.min_dcf_missing}" in shown
    assert "- the EER rests on" in shown


@pytest.mark.parametrize(("distance", "rough"), [(2.0, ()), (50.0, ("the EER rests on 0 misses", "minDCF rests on 0"))])
def test_figures_of_few_errors_are_said_to_be_rough(distance: float, rough: tuple[str, ...]) -> None:
    same = np.arange(8000) < 4000
    notes = measured(same, np.random.default_rng(0).normal(0, 1, 8000) + distance * same, p_target=0.5).notes
    assert len(notes) == len(rough)
    assert all(note.startswith(start) for note, start in zip(notes, rough, strict=True))
