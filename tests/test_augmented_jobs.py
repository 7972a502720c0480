"""Jobs with `--augment`: what they write, wherever they run, and what becomes of copies when a dataset changes."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import augmented
import jobs
import numpy as np
import pyarrow as pa
import pytest
import s3_server
import synth

from ge2e_transforms import BatchLoader, FeatureExtractor, schema
from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import digest
from ge2e_transforms.errors import DatasetError, NoiseError
from ge2e_transforms.planning import PlanConfig
from ge2e_transforms.trials import read_trials, verification_trials
from ge2e_transforms.verify import verify
from pipeline import sound_lists
from pipeline.augment_file import read_augmentation
from pipeline.commit import commit
from pipeline.erase import erase
from pipeline.write import adoptable

COPIES = ("noise1", "music1", "babble1", "room1", "codec1", "codec2")
# Ids of what is written of one utterance of a train speaker, in order.
FORMS = ("", *(f"~{name}" for name in COPIES))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three speakers in train, one in test, with two utterances each; every kind of copy, and one speed."""
    folder = tmp_path_factory.mktemp("augmented")
    augmented.small(folder)
    return folder


def index_of(dataset: Dataset) -> pa.Table:
    """The indexes of all shards, split by split."""
    tables = [
        dataset.shard_index(split, shard) for split in dataset.splits for shard in range(len(dataset.shards(split)))
    ]
    return pa.concat_tables(tables)


def job_of(folder: Path, output: Path | str, text: str | None = None, **fields: Any) -> Any:
    """The job that made the dataset of a folder, or one with another `augment.yaml`."""
    path = folder / "sounds" / "augment.yaml"
    if text is not None:
        path = path.with_name("other.yaml")
        path.write_text(text)
    fields = {"plan": PlanConfig(min_shards=2), "augmentation": read_augmentation(str(path)), **fields}
    return jobs.job(output, folder / "corpus" / "manifest.csv", **fields)


def run(config: Any) -> Dataset:
    planned = jobs.write_all(config)
    commit(config, planned.plan, planned.rejected)
    return Dataset.open(config.output)


# What is written.


def test_an_utterance_its_copies_and_its_speeds_stand_side_by_side(made: Path) -> None:
    dataset = Dataset.open(made / "dataset")
    assert verify(dataset).records == {"train": 3 * 2 * 2 * 7, "test": 2}
    rows = [row for row in index_of(dataset).to_pylist() if row["speaker_id"].startswith("synth/spk00")]
    clean = [row["utterance_id"] for row in rows if not row["augmentation"]]
    assert len(clean) == 2
    expected = [
        (speaker, f"{name}{speed}{form}")
        for speaker, speed in (("synth/spk00", ""), ("synth/spk00~speed0.9", "~speed0.9"))
        for name in clean
        for form in FORMS
    ]
    assert [(row["speaker_id"], row["utterance_id"]) for row in rows] == expected
    assert [row["label"] for row in rows] == [0] * 14 + [1] * 14
    assert [row["utterance_index"] for row in rows] == ([0] * 7 + [1] * 7) * 2
    assert [row["flags"] >> schema.COPY_SHIFT for row in rows] == list(range(7)) * 4
    assert [row["parent_id"] for row in rows] == [clean[0]] * 7 + [clean[1]] * 7 + [clean[0]] * 7 + [clean[1]] * 7
    kinds = ["", "noise", "music", "babble", "room", "codec", "codec"]
    fast = ["speed0.9", *(f"speed0.9+{kind}" for kind in kinds[1:])]
    assert [row["augmentation"] for row in rows] == kinds * 2 + fast * 2
    for row in rows:
        low, high = {"noise": (0, 15), "music": (5, 15), "babble": (13, 20)}.get(
            row["augmentation"].rpartition("+")[2], (1, 0)
        )
        assert row["snr_db"] is None if low > high else low <= row["snr_db"] <= high
    hashes = {(row["label"], row["utterance_index"], row["audio_hash"]) for row in rows}
    assert len(hashes) == 4 == len({entry[2] for entry in hashes})  # of the audio at its speed; copies have the same


def test_counts_say_what_was_made(made: Path) -> None:
    metadata = Dataset.open(made / "dataset").metadata
    assert metadata["counts"] == {
        "rows": 8, "sped": 6, "copies": 12 * 6, "written": 14, "filtered": {}, "rejected": {}
    }  # fmt: skip
    assert {name: split["speakers"] for name, split in metadata["splits"].items()} == {"train": 6, "test": 1}
    assert metadata["next_label"] == 7
    told = metadata["augmentation"]
    assert Augmentation.from_dict(told["config"]) == read_augmentation(str(made / "sounds" / "augment.yaml"))
    assert [(entry["kind"], entry["rows"]) for entry in told["sounds"]] == [
        ("noise", 4), ("music", 4), ("babble", 4), ("room", 2)
    ]  # fmt: skip
    assert told["unusable"] == {}


def test_records_say_of_whom_they_are_copies(made: Path) -> None:
    for _, fields, _ in jobs.stored_records(made / "dataset"):
        name = str(fields[schema.KEY_UTTERANCE])
        assert name.startswith(str(fields[schema.KEY_PARENT]))
        assert bool(fields[schema.KEY_AUGMENTATION]) == (name != fields[schema.KEY_PARENT])


def test_clean_records_are_those_of_a_dataset_without_copies(made: Path, tmp_path: Path) -> None:
    plain = run(job_of(made, tmp_path, augmentation=None))
    assert not plain.augmented and "augmentation" not in index_of(plain).column_names
    assert set(plain.metadata["counts"]) == {"rows", "written", "filtered", "rejected"}
    values = {str(fields[schema.KEY_UTTERANCE]): found for found, fields, _ in jobs.stored_records(tmp_path)}
    seen = 0
    for found, fields, _ in jobs.stored_records(made / "dataset"):
        if not fields[schema.KEY_AUGMENTATION]:
            np.testing.assert_array_equal(found, values[str(fields[schema.KEY_UTTERANCE])])
            seen += 1
    assert seen == len(values) == 8


def test_speech_at_a_speed_is_that_of_the_extractor(made: Path) -> None:
    from ge2e_transforms import audio, mixing

    dataset = Dataset.open(made / "dataset")
    loader, extractor = BatchLoader(made / "dataset"), FeatureExtractor(dataset.recipe)
    row = next(row for row in index_of(dataset).to_pylist() if row["augmentation"] == "speed0.9")
    recording = audio.decode(str(made / "corpus" / row["audio_path"]), dataset.recipe.audio)
    slow = mixing.at_speed(audio.to_mono(recording, "mean"), 16000, 0.9)
    np.testing.assert_array_equal(loader.utterance(row["utterance_id"]).values.T, extractor(slow, 16000))


@pytest.mark.parametrize(
    ("changed", "records"),
    [
        ({"segments": "windows"}, None),
        ({"features": "raw"}, 84),
        ({"features": "mfcc"}, 84),
        ({"dtype": "float16"}, 84),
        ({"voice": "mask"}, 84),
        ({"voice": "none", "level_dbfs": None}, 84),
        ({"dither": 1.0, "pre_emphasis": 0.97}, 84),
    ],
)
def test_copies_of_every_form(made: Path, tmp_path: Path, changed: dict[str, Any], records: int | None) -> None:
    dataset = run(job_of(made, tmp_path, recipe=jobs.Recipe().replace(**changed)))
    report = verify(dataset)
    table = index_of(dataset).to_pylist()
    by_copy = Counter(row["flags"] >> schema.COPY_SHIFT for row in table if row["label"] < 6)
    assert len(set(by_copy.values())) == 1 and set(by_copy) == set(range(7))  # each copy has what the utterance has
    assert records is None or report.records["train"] == records
    if records is None:  # what is too short at another speed is in the ledger, and counts
        assert verify(dataset) and dataset.metadata["counts"]["sped"] == dataset.metadata["counts"][
            "written"
        ] - 8 + sum(dataset.metadata["counts"]["filtered"].values())


def test_a_speed_that_leaves_no_window_is_a_row_of_the_ledger(tmp_path: Path) -> None:
    synth.write(tmp_path / "corpus" / "a.wav", synth.tone(300, 1.25), 16000)
    synth.write(tmp_path / "corpus" / "b.wav", synth.tone(200, 1.5), 16000)
    jobs.write_rows(tmp_path / "corpus" / "manifest.csv", [("a.wav", "a"), ("b.wav", "b")])
    (tmp_path / "sounds").mkdir()
    recipe = jobs.Recipe().replace(segments="windows")
    dataset = run(job_of(tmp_path, tmp_path / "out", "speed: [1.1]\n", recipe=recipe))
    verify(dataset)
    assert dataset.metadata["counts"] == {
        "rows": 2, "sped": 2, "copies": 0, "written": 3, "filtered": {"too_short": 1}, "rejected": {}
    }  # fmt: skip
    ((speaker, name, reason),) = [
        (r["speaker_id"], r["utterance_id"], r["reason"]) for r in dataset.ledger().to_pylist()
    ]
    assert (speaker, name, reason) == ("unnamed/a~speed1.1", "a.wav~speed1.1", "too_short")
    labels = {row["speaker_id"]: row["label"] for row in dataset.speakers.to_pylist()}
    assert labels == {"unnamed/a": 0, "unnamed/b": 2, "unnamed/b~speed1.1": 3}


def test_splits_that_are_named_are_augmented_too(made: Path, tmp_path: Path) -> None:
    dataset = run(job_of(made, tmp_path, "noise: {manifest: sounds.csv, subset: noise}\nsplits: [test]\n"))
    verify(dataset)
    kinds = {
        split: Counter(r["augmentation"] for r in dataset.shard_index(split, 0).to_pylist()) for split in dataset.splits
    }
    assert set(kinds["train"]) == {""} and kinds["test"] == {"": 2, "noise": 2}


def test_ids_that_copies_have_are_refused_in_manifests(made: Path, tmp_path: Path) -> None:
    corpus = made / "corpus"
    rows = [
        (path, "s", name) for path, name in zip(sorted(corpus.rglob("*.wav")), ("a", "a~noise1", "b"), strict=False)
    ]
    manifest = jobs.write_rows(tmp_path / "m.csv", rows, "audio_path,speaker_id,utterance_id")
    config = jobs.job(tmp_path / "out", manifest, augmentation=job_of(made, tmp_path).augmentation, max_rejected=0.5)
    dataset = run(config)
    assert dataset.metadata["counts"]["rejected"] == {"bad_row": 1}
    assert "ends as the ids of copies do" in dataset.ledger()["detail"][0].as_py()


def test_a_sound_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    dataset = augmented.small(tmp_path, "noise: {manifest: sounds.csv, subset: noise, copies: 3}\n", broken=1)
    verify(dataset)
    ((location, fault),) = dataset.metadata["augmentation"]["unusable"].items()
    assert location.endswith("sounds/noise0.wav") and "noise0.wav" in fault
    assert dataset.metadata["counts"]["copies"] == 18


def test_a_sound_that_is_missing_ends_the_job_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = synth.small_corpus(tmp_path / "corpus", 2, 1, 1.0)
    path = augmented.sounds(tmp_path, "noise: {manifest: sounds.csv, subset: noise, copies: 8}\n")
    (tmp_path / "noise2.wav").unlink()
    with pytest.raises(NoiseError, match=r"augment\.noise names a recording that cannot be opened: .*noise2\.wav"):
        jobs.run_here(manifest, tmp_path / "out", "--augment", str(path))
    assert not (tmp_path / "out" / "metadata.json").exists()
    code, _, err = jobs.ge2e(
        capsys, "run", "--manifest", manifest, "--output", tmp_path / "out", "--augment", path, "--direct_num_workers=1"
    )
    assert code == 1 and "noise2.wav" in err and "Traceback" not in err


def test_sounds_are_let_go_with_the_job(made: Path, tmp_path: Path) -> None:
    augment = ("--augment", str(made / "sounds" / "augment.yaml"), "--segments", "windows")
    jobs.run_here(made / "corpus" / "manifest.csv", tmp_path, *augment)
    assert Dataset.open(tmp_path).metadata["counts"]["copies"] > 0
    assert sound_lists._sounds.cache_info().currsize == 0


# Wherever it runs: on Flink in test_flink.py, on other CPUs in test_cpus.py.


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3_server.S3Server]:
    with s3_server.s3_server() as server:
        yield from s3_server.in_environment(server, monkeypatch)


def test_lists_and_sounds_may_lie_on_a_store(made: Path, s3: s3_server.S3Server, tmp_path: Path) -> None:
    for path in (made / "sounds").iterdir():
        s3.put(f"sounds/{path.name}", path.read_bytes())
    place = f"s3://{s3_server.BUCKET}"
    config = job_of(made, f"{place}/out", augmentation=read_augmentation(f"{place}/sounds/augment.yaml"))
    assert config.augmentation.room.manifest == f"{place}/sounds/rooms.csv"
    run(config)
    assert digest(Dataset.open(f"{place}/out")) == digest(Dataset.open(made / "dataset"))


def test_shards_do_not_matter(made: Path, tmp_path: Path) -> None:
    run(job_of(made, tmp_path, plan=PlanConfig(min_shards=1, shard_mib=0.2)))

    def records(folder: Path) -> dict[str, bytes]:
        return {
            str(fields[schema.KEY_UTTERANCE]): values.tobytes() for values, fields, _ in jobs.stored_records(folder)
        }

    assert records(tmp_path) == records(made / "dataset")


def test_a_speaker_in_several_shards_is_numbered_through_at_each_speed(tmp_path: Path) -> None:
    """It was not: parts of a speaker follow each other with the labels of all its speeds."""
    synth.small_corpus(tmp_path / "corpus", 2, 10, 1.2)
    (tmp_path / "sounds").mkdir()
    augmented.sounds(tmp_path / "sounds", "speed: [0.9, 1.1]\n")
    dataset = run(job_of(tmp_path, tmp_path / "out", plan=PlanConfig(min_shards=1, shard_mib=0.2)))
    parts = [set(dataset.shard_index("train", n)["label"].to_pylist()) for n in range(len(dataset.shards("train")))]
    assert any(first & second for first, second in itertools.pairwise(parts))
    verify(dataset)
    people = {row["speaker_id"]: row["utterances"] for row in dataset.speakers.to_pylist()}
    assert len(people) == 6 and set(people.values()) == {10}
    index = dataset.index("train")
    for label in range(6):
        mine = index["utterance_index"][index["label"] == label]
        assert sorted(mine.tolist()) == list(range(10))


def test_a_sound_that_is_mended_makes_its_shards_anew(tmp_path: Path) -> None:
    manifest = synth.small_corpus(tmp_path / "corpus", 3, 1, 1.2)
    path = augmented.sounds(tmp_path, "noise: {manifest: sounds.csv, subset: noise, copies: 3}\n", broken=1)
    config = jobs.job(tmp_path / "out", manifest, augmentation=read_augmentation(str(path)))
    before = {done.name: done.stat().st_mtime_ns for done in _written(config)}
    assert before == {done.name: done.stat().st_mtime_ns for done in _adopted(config)}
    synth.write(tmp_path / "noise0.wav", synth.speechlike(1, 2.0), 16000)
    assert len(_adopted(config)) < len(before)


def _written(config: Any) -> list[Path]:
    jobs.write_all(config)
    return jobs.done_files(Path(config.output))


def _adopted(config: Any) -> list[Path]:
    """Done files of the shards that another attempt would adopt."""
    tasks = jobs.planned(config).plan.tasks
    kept = [task for task in tasks if adoptable(config.output, task, published=False)]
    return [Path(config.output) / schema.shard_files(task.base)[2] for task in kept]


# When the dataset changes.


def test_speakers_that_are_added_get_copies_and_those_there_keep_their_labels(made: Path, tmp_path: Path) -> None:
    output = shutil.copytree(made / "dataset", tmp_path / "out")
    before = {row["speaker_id"]: row["label"] for row in Dataset.open(output).speakers.to_pylist()}
    config = job_of(made, output)
    more = synth.small_corpus(tmp_path / "more", 4, 4, 1.4)  # spk00 to spk03, two more utterances each
    added = run(jobs.job(output, more, kind="add", augmentation=config.augmentation, plan=config.plan, token="2"))
    verify(added)
    after = {row["speaker_id"]: row["label"] for row in added.speakers.to_pylist()}
    assert before.items() <= after.items()
    counts = added.metadata["counts"]
    assert counts["rows"] + counts["sped"] == counts["written"] + sum(counts["filtered"].values())
    assert counts["copies"] == 6 * sum(
        split["utterances"] for name, split in added.metadata["splits"].items() if name == "train"
    )
    people = {row["speaker_id"]: row["utterances"] for row in added.speakers.to_pylist()}
    assert people["synth/spk00"] == people["synth/spk00~speed0.9"] == 4


def test_erasing_a_speaker_takes_copies_and_speeds_along(made: Path, tmp_path: Path) -> None:
    output = shutil.copytree(made / "dataset", tmp_path / "out")
    with pytest.raises(DatasetError, match=r"'synth/spk01~speed0\.9' is speaker 'synth/spk01' at another speed"):
        erase(str(output), ["synth/spk01~speed0.9"])
    done = erase(str(output), ["synth/spk01"])
    assert done.utterances == 4
    dataset = Dataset.open(output)
    verify(dataset)
    assert {row["speaker_id"] for row in dataset.speakers.to_pylist()} == {
        "synth/spk00", "synth/spk00~speed0.9", "synth/spk02", "synth/spk02~speed0.9", "synth/spk03"
    }  # fmt: skip
    assert dataset.metadata["counts"]["copies"] == 48
    contents = jobs.done_contents(output)
    assert [sum(done[name] for done in contents) for name in ("rows", "sped", "utterances", "copies")] == [6, 4, 10, 48]
    for path in output.rglob("*"):
        assert not path.is_file() or b"spk01" not in path.read_bytes(), path


def test_a_row_that_is_mended_gets_its_copies(made: Path, tmp_path: Path) -> None:
    corpus = shutil.copytree(made / "corpus", tmp_path / "corpus")
    shutil.copytree(made / "sounds", tmp_path / "sounds")
    broken = sorted(corpus.rglob("*.wav"))[0]
    content = broken.read_bytes()
    broken.write_bytes(b"nothing")
    first = run(job_of(tmp_path, tmp_path / "out", max_rejected=0.5))
    assert first.metadata["counts"]["rejected"] == {"not_audio": 1} and first.metadata["counts"]["sped"] == 5
    broken.write_bytes(content)
    config = job_of(tmp_path, tmp_path / "out", kind="retry", max_rejected=1.0, token="2")
    mended = run(config)
    verify(mended)
    assert mended.metadata["counts"] == Dataset.open(made / "dataset").metadata["counts"]


def test_pseudonyms_are_those_of_copies_too(made: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    dataset = run(job_of(made, tmp_path / "out", pseudonym_key=str(key)))
    verify(dataset)
    text = b"".join(
        path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.suffix in (".tfrecord", ".parquet")
    )
    assert b"spk0" not in text
    assert all("~" in r["utterance_id"] for r in index_of(dataset).to_pylist() if r["augmentation"])


# What readers make of it.


def test_clean_and_noisy_never_pass_as_two_utterances(made: Path) -> None:
    loader = BatchLoader(made / "dataset", 4, 2, 60, distinct="strict", seed=1)
    stream, index = loader.stream("train"), Dataset.open(made / "dataset").index("train")
    kinds: Counter[int] = Counter()
    for epoch in range(20):
        plan = stream.plans.get(epoch, 0, False)
        for records in plan.records.reshape(-1, 2):
            first, second = index["utterance_index"][records]
            assert first != second
            kinds.update((index["flags"][records] >> schema.COPY_SHIFT).tolist())
    assert set(kinds) == set(range(7))  # all of them are read
    with pytest.raises(Exception, match="no batch of 4 speakers x 3 utterances"):
        next(BatchLoader(made / "dataset", 4, 3, 60, distinct="strict").batches())


def test_whole_utterances_are_told_apart_from_their_copies(made: Path) -> None:
    loader = BatchLoader(made / "dataset")
    train = list(loader.utterances("train"))
    assert len(train) == 84 == len({whole.utterance_id for whole in train})
    clean = loader.utterance(train[0].utterance_id)
    noisy = loader.utterance(f"{train[0].utterance_id}~noise1")
    assert clean.values.shape == noisy.values.shape and not np.array_equal(clean.values, noisy.values)


def test_trials_are_of_utterances(made: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(made / "dataset")
    drawn = verification_trials(dataset, "train", cross_session=False)
    assert all("~noise" not in name and "~room" not in name for _, name in drawn.utterances)
    path = index_of(dataset)["audio_path"][0].as_py()
    (tmp_path / "list.txt").write_text(f"1 {path} {path.removesuffix('.wav')}\n")
    read = read_trials(tmp_path / "list.txt", dataset)  # its copies have the same path
    assert len(read.utterances) == 1


def test_metadata_that_miscounts_copies_is_found(made: Path, tmp_path: Path) -> None:
    output = shutil.copytree(made / "dataset", tmp_path / "out")
    from small_dataset import write_metadata

    metadata = Dataset.open(output).metadata
    metadata["counts"]["copies"] += 1
    write_metadata(output, metadata)
    with pytest.raises(DatasetError, match="metadata counts 73 copies, the indexes hold 72"):
        verify(Dataset.open(output))
