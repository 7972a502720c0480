"""A stored utterance and a fresh extraction of its recording are equal to the byte, in every form and preset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jobs
import numpy as np
import numpy.typing as npt
import pytest
import synth

from ge2e_transforms import BatchLoader, features_of_file
from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.errors import ConfigError, NoSuchChannelError, TooShortError, TruncatedAudioError
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.schema import KEY_START, KEY_UTTERANCE
from pipeline import __main__ as program
from pipeline.commit import commit

GE2E = PRESETS["ge2e"]
# Rows of the manifest below, by the utterance's id: what `ge2e extract` has to be told.
ROWS: dict[str, dict[str, Any]] = {
    "whole": {"file": "a.flac"},
    "other rate": {"file": "b.flac"},
    "second channel": {"file": "stereo.flac", "channel": 1},
    "both channels": {"file": "stereo.flac"},
    "segment": {"file": "a.flac", "offset_s": 0.75, "duration_s": 2.25},
    "rest": {"file": "a.flac", "offset_s": 1.5},
    "short": {"file": "short.flac", "keep_all": True},
}
RECIPES = {
    **PRESETS,
    "float16": GE2E.replace(dtype="float16"),
    "mfcc": GE2E.replace(features="mfcc"),
    "raw": GE2E.replace(features="raw"),
    "windows": GE2E.replace(segments="windows"),
    "parts": GE2E.replace(max_part_s=1.2, dither=1.0),
    "raw windows of Kaldi": PRESETS["kaldi"].replace(features="raw", segments="windows"),
}


def voices(seed: int, seconds: float, rate: int = 16000) -> npt.NDArray[np.float32]:
    """Several at once, so that there are stretches without a pause, in which windows fit."""
    every = [synth.speechlike(10 * seed + number, seconds, rate) for number in range(8)]
    return np.asarray(np.mean(every, axis=0), dtype=np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings, and a manifest that makes train utterances of most rows and a held-out one of the short one."""
    folder = tmp_path_factory.mktemp("corpus")
    synth.write(folder / "a.flac", voices(1, 4.2), 16000)
    synth.write(folder / "b.flac", voices(2, 4.0, 22050), 22050)
    synth.write(folder / "stereo.flac", np.stack([voices(3, 4.2), voices(4, 4.2)], axis=1), 16000)
    synth.write(folder / "short.flac", synth.speechlike(4, 0.25), 16000)
    header = "audio_path,speaker_id,utterance_id,split,channel,offset_s,duration_s"
    rows = []
    for name, row in ROWS.items():
        held_out = "keep_all" in row
        place = [row.get(field, "") for field in ("channel", "offset_s", "duration_s")]
        rows.append([row["file"], "held" if held_out else "spk", name, "test" if held_out else "train", *place])
    jobs.write_rows(folder / "manifest.csv", rows, header)
    return folder


def dataset(folder: Path, corpus: Path, recipe: Recipe) -> Path:
    job = jobs.job(folder, corpus / "manifest.csv", recipe=recipe, max_rejected=1.0)
    planned = jobs.write_all(job)
    commit(job, planned.plan, planned.rejected)
    return folder


def stored(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """What the records of each utterance hold, one after the other: `[rows, bins]` of the stored type."""
    records: dict[str, dict[int, npt.NDArray[Any]]] = {}
    for values, fields, _ in jobs.stored_records(folder):
        records.setdefault(str(fields[KEY_UTTERANCE]), {})[int(fields[KEY_START])] = values
    return {name: np.concatenate([found[start] for start in sorted(found)]) for name, found in records.items()}


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize("name", RECIPES)
def test_stored_and_fresh_are_equal_to_the_byte(
    name: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = RECIPES[name]
    folder = dataset(tmp_path / "out", corpus, recipe)
    kept = stored(folder)
    assert set(kept) == set(ROWS)
    extractor = FeatureExtractor.from_metadata(jobs.metadata_of(folder))
    for utterance, row in ROWS.items():
        options = {key: value for key, value in row.items() if key != "file"}
        fresh = features_of_file(corpus / row["file"], extractor, utterance_id=utterance, **options)
        assert fresh.dtype == (np.int16 if recipe.dtype == "pcm16" else np.float32)
        values = fresh.reshape(-1, recipe.n_bins).astype(kept[utterance].dtype)
        assert values.tobytes() == kept[utterance].tobytes(), utterance
        if recipe.feature.dither == 0:
            values = by_command(folder, corpus / row["file"], options, tmp_path / "new")
            assert values.tobytes() == fresh.tobytes(), utterance
    assert capsys.readouterr().err == ""


def by_command(folder: Path, file: Path, options: dict[str, Any], output: Path) -> npt.NDArray[Any]:
    flags = [f"--{key}" if value is True else f"--{key}={value}" for key, value in options.items()]
    assert program.main(["extract", str(file), "--dataset", str(folder), "-o", str(output), *flags]) == 0
    values: npt.NDArray[Any] = np.load(output / f"{file.stem}.npy")
    return values


def test_a_reader_gives_what_is_extracted(corpus: Path, tmp_path: Path) -> None:
    folder = dataset(tmp_path / "out", corpus, RECIPES["float16"])
    loader = BatchLoader(folder, speakers_per_batch=1, utterances_per_speaker=1)
    extractor = FeatureExtractor.from_metadata(loader.get_metadata())
    whole = loader.utterance("whole").values
    assert np.array_equal(whole.T, features_of_file(str(corpus / "a.flac"), extractor))
    assert np.array_equal(whole.T, features_of_file((corpus / "a.flac").read_bytes(), extractor))


def test_dither_follows_from_the_path_unless_an_id_is_given(corpus: Path) -> None:
    extractor = FeatureExtractor(GE2E.replace(dither=1.0))
    path = str(corpus / "a.flac")
    assert np.array_equal(features_of_file(path, extractor), features_of_file(path, extractor, utterance_id=path))
    assert not np.array_equal(features_of_file(path, extractor), features_of_file(path, extractor, utterance_id="u"))


def test_what_cannot_be_used_is_told(corpus: Path) -> None:
    extractor = FeatureExtractor(GE2E)
    with pytest.raises(TooShortError):
        features_of_file(corpus / "short.flac", extractor)
    with pytest.raises(NoSuchChannelError, match=r"stereo\.flac: channel 2"):
        features_of_file(corpus / "stereo.flac", extractor, channel=2)
    with pytest.raises(TruncatedAudioError, match=r"the recording ends at 4\.200 s"):
        features_of_file(corpus / "a.flac", extractor, offset_s=5)
    for piece in ({"offset_s": -1}, {"duration_s": 0}, {"offset_s": float("nan")}):
        with pytest.raises(ConfigError, match=rf"^{next(iter(piece))}="):
            features_of_file(corpus / "a.flac", extractor, **piece)
