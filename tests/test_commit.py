"""What is published, when, and what is refused; then the same through Beam."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import apache_beam as beam
import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synth
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from jobs import (
    Planned,
    data_digests,
    digests,
    done_contents,
    done_files,
    files_in,
    job,
    metadata_of,
    planned,
    run_here,
    stamps,
    unlisted,
    write_all,
    write_rows,
)
from small_dataset import write_metadata

from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import CommitError, LedgerRow
from ge2e_transforms.planning import Plan, PlanConfig
from ge2e_transforms.schema import shard_files
from ge2e_transforms.verify import verify
from pipeline import storage
from pipeline.assembly import listed_files
from pipeline.commit import CommitDataset, commit
from pipeline.options import JobConfig
from pipeline.write import adoptable

HEADER = "audio_path,speaker_id,source,split,session_id"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three train speakers and one test speaker, three utterances each; a missing, a short and a bad row."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for speaker, split in (("s1", "train"), ("s2", "train"), ("s3", "train"), ("s4", "test")):
        for number in range(3):
            path = f"{speaker}/{number}.wav"
            synth.write(folder / path, synth.speechlike(number, 1.5), 16000)
            rows.append((path, speaker, "corpus", split, f"c{number % 2}"))
    synth.write(folder / "s1" / "short.wav", synth.speechlike(9, 0.2), 16000)
    faults = [("s1/short.wav", "s1", "corpus", "train", ""), ("gone.wav", "s2", "corpus", "train", ""), ("x", "s2")]
    return write_rows(folder / "m.csv", [*rows, *faults], HEADER)


@pytest.fixture(scope="module")
def written(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[JobConfig, Planned]:
    """All shards, not committed."""
    config = job(tmp_path_factory.mktemp("written") / "out", corpus, max_rejected=0.2)
    return config, write_all(config)


@pytest.fixture
def ready(written: tuple[JobConfig, Planned], tmp_path: Path) -> tuple[JobConfig, Planned]:
    """A copy of the shards, to commit."""
    config, made = written
    shutil.copytree(config.output, tmp_path / "out")
    return job(tmp_path / "out", *config.manifests, max_rejected=0.2), made


def publish(ready: tuple[JobConfig, Planned]) -> dict[str, Any]:
    config, made = ready
    return commit(config, made.plan, made.rejected)


def test_metadata(ready: tuple[JobConfig, Planned]) -> None:
    config, made = ready
    root = Path(config.output)
    metadata = publish(ready)
    assert metadata == metadata_of(root)
    generation = made.plan.generation
    assert {name: metadata[name] for name in ("format", "format_version", "generation", "feature_shape", "dtype")} == {
        **{"format": "ge2e-features", "format_version": 3, "generation": generation},
        **{"feature_shape": [40, 121], "dtype": "float32"},
    }
    assert metadata["fingerprint"] == config.recipe.fingerprint()
    assert metadata["cpus"] == sorted({content["cpu"] for content in done_contents(root)})
    assert len(metadata["cpus"]) == 1
    assert metadata["recipe"] == config.recipe.to_dict()
    assert (metadata["speakers_per_batch"], metadata["utterances_per_speaker"], metadata["batch_size"]) == (8, 4, 32)
    assert metadata["datasets"] == ["corpus"]
    assert metadata["counts"] == {
        **{"rows": 15, "written": 12},
        **{"filtered": {"too_short": 1}, "rejected": {"bad_row": 1, "missing": 1}},
    }
    assert list(metadata["splits"]) == ["train", "test"]
    train, test = metadata["splits"]["train"], metadata["splits"]["test"]
    assert [(split["speakers"], split["utterances"], split["shards"]) for split in (train, test)] == [
        (3, 9, 3),
        (1, 3, 1),
    ]
    assert metadata["files"] == [
        *(f"train/features-{generation}-{number:05d}-of-00003.tfrecord" for number in range(3)),
        f"test/features-{generation}-00000-of-00001.tfrecord",
    ]
    assert metadata["files_created"] == 4
    assert metadata["manifests"] == [entry._asdict() for entry in made.plan.manifests]
    assert metadata["plan"]["shard_mib"] == 128
    assert metadata["versions"]["numpy"] == np.__version__
    assert metadata["versions"]["numba"] == version("numba")  # it makes the code that computes; was not told


def test_every_listed_file_is_there_and_no_other(ready: tuple[JobConfig, Planned]) -> None:
    metadata = publish(ready)
    root = Path(ready[0].output)
    assert files_in(root) == listed_files(metadata) | {"metadata.json", "README.md"}
    assert len(listed_files(metadata)) == 4 * 3 + 2 + 2
    assert unlisted(root) == set()
    files = digests(root)
    for entry in (metadata["speakers"], metadata["ledger"], *(split["index"] for split in metadata["splits"].values())):
        path = root / entry["path"]
        assert (entry["sha256"], entry["bytes"]) == (files[entry["path"]], path.stat().st_size)
        if path.suffix == ".arrow":
            assert entry["rows"] == len(pa.ipc.open_file(path).read_all())
            assert entry["crc32c"] == google_crc32c.value(path.read_bytes())
        else:
            assert entry["rows"] == len(pq.read_table(path))
    assert sorted(path.name[:6] for path in root.rglob("*.arrow")) == ["index-", "index-"]
    for split in metadata["shards"].values():
        for shard in split:
            assert shard["records_sha256"] == files[f"{shard['base']}.tfrecord"]
            assert shard["index_sha256"] == files[f"{shard['base']}.index.parquet"]
    verify(Dataset.open(root))


def test_statistics_are_those_of_the_train_split(ready: tuple[JobConfig, Planned]) -> None:
    metadata = publish(ready)
    dataset = Dataset.open(ready[0].output)
    frames, mean = [], []
    for number in range(3):
        index = dataset.shard_index("train", number)
        frames += index["frames"].to_pylist()
        mean += index["mean"].to_pylist()
    statistics = metadata["statistics"]
    assert (statistics["split"], statistics["frames"]) == ("train", sum(frames))
    np.testing.assert_allclose(statistics["mean"], np.average(mean, axis=0, weights=frames), rtol=1e-6)
    assert len(statistics["std"]) == 40
    assert min(statistics["std"]) > 0


def test_ledger_holds_all_that_was_not_written(ready: tuple[JobConfig, Planned]) -> None:
    publish(ready)
    rows = Dataset.open(ready[0].output).ledger().to_pylist()
    assert [(row["kind"], row["stage"], row["reason"], row["audio_path"]) for row in rows] == [
        ("filtered", "segment", "too_short", "s1/short.wav"),
        ("rejected", "decode", "missing", "gone.wav"),
        ("rejected", "manifest", "bad_row", ""),
    ]
    assert [row["position"] for row in rows] == sorted(row["position"] for row in rows)


def test_sources_and_sessions_reach_the_speakers_table(ready: tuple[JobConfig, Planned]) -> None:
    publish(ready)
    rows = Dataset.open(ready[0].output).speakers.to_pylist()
    assert [(row["speaker_id"], row["label"], row["split"], row["utterances"], row["sessions"]) for row in rows] == [
        ("corpus/s1", 0, "train", 3, 2),
        ("corpus/s2", 1, "train", 3, 2),
        ("corpus/s3", 2, "train", 3, 2),
        ("corpus/s4", 3, "test", 3, 2),
    ]
    assert {row["source"] for row in rows} == {"corpus"}


def test_twice_is_as_once(ready: tuple[JobConfig, Planned]) -> None:
    root = Path(ready[0].output)
    metadata = publish(ready)
    before = digests(root)
    assert publish(ready) == metadata
    assert digests(root) == before


def test_the_order_of_the_ledger_rows_does_not_matter(ready: tuple[JobConfig, Planned]) -> None:
    config, made = ready
    rejected = [made.rejected[0], LedgerRow(*made.rejected[0][:5], 7, "", "", "")]
    rows = made.plan.manifests[0].rows + 1
    plan = with_rows(made.plan, rows)
    assert commit(config, plan, rejected) == commit(config, plan, iter(rejected[::-1]))


def with_rows(plan: Plan, rows: int) -> Plan:
    (manifest,) = plan.manifests
    return dataclasses.replace(plan, manifests=(manifest._replace(rows=rows),))


@pytest.mark.parametrize("rows", [14, 16])
def test_sums_that_do_not_balance_are_refused(ready: tuple[JobConfig, Planned], rows: int) -> None:
    """As when a manifest changes between the reading of its rows and the writing."""
    config, made = ready
    before = digests(Path(config.output))
    message = rf"the sums do not balance: the manifests hold {rows} rows, but 12 written \+ .* make 15\. .*changed"
    with pytest.raises(CommitError, match=message):
        commit(config, with_rows(made.plan, rows), made.rejected)
    assert digests(Path(config.output)) == before


def test_a_shard_that_is_not_finished_is_refused(ready: tuple[JobConfig, Planned]) -> None:
    root = Path(ready[0].output)
    done_files(root)[1].unlink()
    before = digests(root)
    with pytest.raises(CommitError, match=r"shard train/features-\w{8}-0000\d-of-00003 in .* is not finished"):
        publish(ready)
    assert digests(root) == before


def test_too_many_rejected_rows_publish_nothing_and_are_taken_again(ready: tuple[JobConfig, Planned]) -> None:
    config, made = ready
    strict = job(config.output, *config.manifests, max_rejected=0.1)
    before = digests(Path(config.output))
    message = (
        r"2 of 15 rows were rejected, more than --max_rejected=0\.1 \(filtered \{'too_short': 1\}, rejected "
        r"\{'bad_row': 1, 'missing': 1\}\)\. First: bad_row: .*m\.csv \(.*missing: gone\.wav .*Nothing was published"
    )
    with pytest.raises(CommitError, match=message):
        commit(strict, made.plan, made.rejected)
    assert digests(Path(config.output)) == before
    assert all(adoptable(config.output, task, published=False) for task in made.plan.tasks)
    # The shard with the missing file is written again when it is there; the one with the short file need not.
    (Path(config.manifests[0]).parent / "gone.wav").touch()
    again = [task.label for task in made.plan.tasks if not adoptable(config.output, task, published=False)]
    assert again == [1]
    assert all(adoptable(config.output, task, published=True) for task in made.plan.tasks)


def test_filtered_rows_do_not_count_against_the_limit(ready: tuple[JobConfig, Planned]) -> None:
    config, made = ready
    commit(job(config.output, *config.manifests, max_rejected=2 / 15), made.plan, made.rejected)
    with pytest.raises(CommitError, match="2 of 15 rows were rejected"):
        commit(job(config.output, *config.manifests, max_rejected=1.99 / 15), made.plan, made.rejected)


def test_nothing_written_is_refused_whatever_the_limit(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path / "m.csv", [("a.wav", "s1"), ("b.wav", "s2")])
    config = job(tmp_path / "out", manifest, max_rejected=1.0)
    made = write_all(config)
    with pytest.raises(CommitError, match=r"none of the 2 rows could be written .*First: missing: a\.wav"):
        commit(config, made.plan, made.rejected)
    assert files_in(tmp_path / "out") == {shard_files(task.base)[2] for task in made.plan.tasks}
    (tmp_path / "a.wav").touch()
    assert [bool(adoptable(config.output, task, published=False)) for task in made.plan.tasks] == [False, True]


def test_a_published_dataset_is_not_harmed_by_a_later_refusal(ready: tuple[JobConfig, Planned]) -> None:
    config, made = ready
    publish(ready)
    before = digests(Path(config.output))
    strict = job(config.output, *config.manifests, max_rejected=0.0)
    with pytest.raises(CommitError, match="rows were rejected"):
        commit(strict, made.plan, made.rejected)
    assert digests(Path(config.output)) == before


def test_files_of_the_dataset_before_are_removed_and_those_of_others_are_not(
    ready: tuple[JobConfig, Planned], corpus: Path
) -> None:
    config, _ = ready
    root = Path(config.output)
    old = set(listed_files(publish(ready)))
    (root / "notes.txt").write_text("mine")
    (root / "train" / "notes.txt").write_text("mine")
    for place in (root, root / "train"):  # of attempts that were killed
        (place / f"features.tfrecord.tmp-gone-1-{'0' * 32}").write_text("half")
        os.utime(place / f"features.tfrecord.tmp-gone-1-{'0' * 32}", (0, 0))
    other = job(root, corpus, max_rejected=0.2, plan=PlanConfig(min_shards=1), overwrite=True)
    made = write_all(other)
    metadata = commit(other, made.plan, made.rejected)
    assert metadata_of(root) == metadata
    assert len(old) == 16
    assert not old & files_in(root)
    assert files_in(root) - listed_files(metadata) == {"metadata.json", "README.md", "notes.txt", "train/notes.txt"}
    verify(Dataset.open(root))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_dataset_that_another_job_published_meanwhile_is_not_replaced(
    ready: tuple[JobConfig, Planned], corpus: Path, overwrite: bool
) -> None:
    """Two jobs into one folder: the second to end wiped the first one's dataset, with --overwrite to the last."""
    config, _ = ready
    other = job(config.output, corpus, max_rejected=0.2, plan=PlanConfig(min_shards=1), overwrite=overwrite)
    made = write_all(other)
    publish(ready)
    before = digests(Path(config.output))
    with pytest.raises(
        CommitError, match=r"another job has published generation \w{8} .* since this one .* was planned"
    ):
        commit(other, made.plan, made.rejected)
    assert digests(Path(config.output)) == before


def test_an_attempt_after_one_that_died_removes_what_was_replaced(
    ready: tuple[JobConfig, Planned], corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the dataset before stayed for ever if Commit died right after metadata.json."""
    config, _ = ready
    root = Path(config.output)
    old = listed_files(publish(ready))
    other = job(root, corpus, max_rejected=0.2, plan=PlanConfig(min_shards=1), overwrite=True)
    made = write_all(other)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pipeline.assembly.remove_replaced", interrupt)
        commit(other, made.plan, made.rejected)
    assert old <= files_in(root)
    commit(other, made.plan, made.rejected)
    assert not old & files_in(root)
    third = job(root, corpus, max_rejected=0.2, plan=PlanConfig(min_shards=2), overwrite=True)
    replaced = publish((third, write_all(third)))["replaced"]
    assert not old & set(replaced)  # the list does not grow from dataset to dataset
    assert replaced


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_only_files_with_names_of_ours_are_removed(ready: tuple[JobConfig, Planned], corpus: Path) -> None:
    """Paths that metadata gives were deleted unchecked, outside of the folder too."""
    config, _ = ready
    root = Path(config.output)
    publish(ready)
    (root.parent / "precious.txt").write_text("mine")
    metadata = metadata_of(root)
    metadata["speakers"]["path"] = "../precious.txt"
    write_metadata(root, metadata)
    other = job(root, corpus, max_rejected=0.2, plan=PlanConfig(min_shards=1), overwrite=True)
    made = write_all(other)
    commit(other, made.plan, made.rejected)
    assert (root.parent / "precious.txt").read_text() == "mine"


def test_metadata_comes_last(ready: tuple[JobConfig, Planned], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever file cannot be written, the folder has no metadata, or still that of the dataset before."""
    root = Path(ready[0].output)
    really = storage._temporaries
    order: list[str] = []
    failing_at = 0

    @contextmanager
    def failing(finals: tuple[str, ...]) -> Iterator[tuple[Path, ...]]:
        order.append(Path(finals[0]).name)
        if len(order) == failing_at:
            raise OSError("disk full")
        with really(finals) as paths:
            yield paths

    monkeypatch.setattr(storage, "_temporaries", failing)
    for number in range(1, 7):
        failing_at = number
        order.clear()
        with pytest.raises(OSError, match="disk full"):
            publish(ready)
        assert not (root / "metadata.json").exists()
    failing_at = 0
    order.clear()
    publish(ready)
    assert [name.partition("-")[0] for name in order] == [
        "index",
        "index",
        "speakers",
        "ledger",
        "README.md",
        "metadata.json",
    ]


def test_a_speaker_in_parts_gets_dense_numbers(tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        synth.write(tmp_path / f"a{number:02d}.wav", synth.speechlike(number, 1.5), 16000)
        rows.append((f"a{number:02d}.wav", "giant", f"c{number // 3}", 1.5))
    synth.write(tmp_path / "b.wav", synth.speechlike(50, 1.5), 16000)
    rows.append(("b.wav", "small", "c0", 1.5))
    manifest = write_rows(tmp_path / "m.csv", rows, "audio_path,speaker_id,session_id,duration_s")
    config = job(tmp_path / "out", manifest, plan=PlanConfig(shard_mib=0.05))
    made = write_all(config)
    assert len(made.plan.tasks) == 7
    commit(config, made.plan, [])
    dataset = Dataset.open(tmp_path / "out")
    verify(dataset)
    index = dataset.index("train")
    giant, shards = index["label"] == 0, index.shard(np.arange(len(index)))
    assert sorted(index["utterance_index"][giant].tolist()) == list(range(12))
    assert set(index["session_index"][giant].tolist()) == {0, 1, 2, 3}
    assert len(set(shards[giant].tolist())) > 2
    assert index["utterance_index"][~giant].tolist() == [0]
    people = {row["speaker_id"]: row for row in dataset.speakers.to_pylist()}
    assert (people["unnamed/giant"]["utterances"], people["unnamed/giant"]["sessions"]) == (12, 4)
    # A session has one number, in whichever shards its utterances lie.
    sessions: dict[str, set[int]] = {}
    for shard in range(7):
        names = dataset.shard_index("train", shard)["session_id"].to_pylist()
        numbers = index["session_index"][shards == shard].tolist()
        for label, name, number in zip(index["label"][shards == shard], names, numbers, strict=True):
            if label == 0:
                sessions.setdefault(name, set()).add(number)
    assert sorted(sessions) == ["c0", "c1", "c2", "c3"]
    assert all(len(numbers) == 1 for numbers in sessions.values())


def through_beam(config: JobConfig, made: Planned, done: list[str], expected: list[dict[str, Any]]) -> None:
    pipeline = TestPipeline(runner="FnApiRunner")
    inputs = (
        pipeline | "Done" >> beam.Create(done, reshuffle=False).with_output_types(str),
        pipeline | "Plan" >> beam.Create([made.plan], reshuffle=False).with_output_types(Plan),
        pipeline | "Rejected" >> beam.Create(made.rejected, reshuffle=False).with_output_types(LedgerRow),
    )
    assert_that(inputs | CommitDataset(config), equal_to(expected))
    pipeline.run().wait_until_finish()


def done_paths(made: Planned) -> list[str]:
    return [shard_files(task.base)[2] for task in made.plan.tasks]


def test_the_stage_gives_the_metadata_that_it_published(
    ready: tuple[JobConfig, Planned], written: tuple[JobConfig, Planned], tmp_path: Path
) -> None:
    config, made = ready
    shutil.copytree(config.output, tmp_path / "by hand")
    expected = commit(job(tmp_path / "by hand", *config.manifests, max_rejected=0.2), made.plan, made.rejected)
    through_beam(config, made, done_paths(made), [expected])
    assert metadata_of(Path(config.output)) == expected
    assert data_digests(Path(config.output)) == data_digests(tmp_path / "by hand")


def test_the_stage_refuses_with_a_verdict(ready: tuple[JobConfig, Planned]) -> None:
    config, made = ready
    root = Path(config.output)
    with pytest.raises(CommitError, match="4 shards were planned, but only 3 are reported done"):
        through_beam(config, made, done_paths(made)[:3], [])
    assert json.loads((root / "failed-token.json").read_text())["error"] == "CommitError"
    assert not (root / "metadata.json").exists()
    kept = stamps(done_files(root))
    with pytest.raises(CommitError, match="only 3 are reported done"):  # although all are, this time
        through_beam(config, made, done_paths(made), [])
    assert not (root / "metadata.json").exists()
    assert stamps(done_files(root)) == kept


def test_nothing_is_listed_of_no_metadata() -> None:
    assert listed_files({}) == set()


def test_planned_here_is_planned_there(written: tuple[JobConfig, Planned], corpus: Path, tmp_path: Path) -> None:
    """The helper of these tests makes what the whole pipeline makes of the same manifest."""
    config, made = written
    result = run_here(corpus, tmp_path / "out", "--max_rejected=0.2")
    assert result.metadata is not None
    assert result.metadata["generation"] == made.plan.generation == planned(config).plan.generation
    shards = {name: digest for name, digest in data_digests(tmp_path / "out").items() if "/features-" in name}
    assert shards == data_digests(Path(config.output))
