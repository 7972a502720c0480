"""Rows of a shard to its published files, and the adoption of what stands already, through Beam."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
import synth
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from jobs import Planned, counters, digests, done_contents, files_in, job, pids, planned, stamps, write_rows

from ge2e_transforms import audio, decoded
from ge2e_transforms.errors import LedgerRow, PlanError
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.planning import Plan, PlanConfig
from ge2e_transforms.records import read_records
from ge2e_transforms.schema import shard_files
from pipeline import metrics
from pipeline.options import JobConfig
from pipeline.write import WriteShards, finished

HEADER = "audio_path,speaker_id,split"


def write(config: JobConfig, made: Planned, expected: list[LedgerRow], done: list[str] | None = None) -> dict[str, int]:
    """Runs the stage on all shards, checks its output and the ledgers of its done files, and gives its counters."""
    pipeline = TestPipeline(runner="FnApiRunner")
    shards = pipeline | "Shards" >> beam.Create(list(made.shards.items()), reshuffle=False).with_output_types(
        tuple[int, Iterable[bytes]]
    )
    plan = pipeline | "Plan" >> beam.Create([made.plan], reshuffle=False).with_output_types(Plan)
    out = (shards, plan) | "WriteShards" >> WriteShards(config)
    paths = [shard_files(task.base)[2] for task in made.plan.tasks] if done is None else done
    assert_that(out, equal_to(paths))
    result = pipeline.run()
    result.wait_until_finish()
    contents = [json.loads(Path(config.output, path).read_text()) for path in paths]
    assert sorted(LedgerRow(*row) for content in contents for row in content["ledger"]) == sorted(expected)
    return counters(result)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of two train speakers with three utterances each, and one test speaker; two rows have faults."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for speaker, split in (("s1", "train"), ("s2", "train"), ("s3", "test")):
        for number in range(3):
            path = f"{speaker}/{number}.wav"
            synth.write(folder / path, synth.speechlike(number, 1.5), 16000)
            rows.append((path, speaker, split))
    synth.write(folder / "s1" / "short.wav", synth.speechlike(9, 0.2), 16000)
    return write_rows(folder / "m.csv", [*rows, ("s1/short.wav", "s1", "train"), ("gone.wav", "s2", "train")], HEADER)


def faults(manifest: Path) -> list[LedgerRow]:
    """The ledger of `corpus`."""
    short = "168 ms of voice hold no segment of min_utterance_ms=300"
    gone = f"{manifest.parent}/gone.wav: no such file (No such file or directory): check audio_path"
    place = str(manifest)
    return [
        LedgerRow("filtered", "segment", "too_short", short, place, 197, "unnamed/s1", *["s1/short.wav"] * 2),
        LedgerRow("rejected", "decode", "missing", gone, place, 220, "unnamed/s2", *["gone.wav"] * 2),
    ]


class Written(NamedTuple):
    """Shards that the stage wrote once: the job, its plan, the counters."""

    config: JobConfig
    made: Planned
    counters: dict[str, int]


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    config = job(tmp_path_factory.mktemp("whole") / "out", corpus)
    made = planned(config)
    return Written(config, made, write(config, made, faults(corpus)))


@pytest.fixture
def copied(whole: Written, tmp_path: Path) -> Written:
    """A copy of the written shards to spoil."""
    shutil.copytree(whole.config.output, tmp_path / "out")
    return whole._replace(config=job(tmp_path / "out", *whole.config.manifests))


def test_counters(whole: Written) -> None:
    assert whole.counters == {
        metrics.SHARDS_WRITTEN: 3,
        metrics.UTTERANCES_WRITTEN: 9,
        metrics.UTTERANCES_FILTERED: 1,
        metrics.UTTERANCES_REJECTED: 1,
        metrics.RECORDS_WRITTEN: 9,
    }


def test_each_shard_has_its_three_files(whole: Written) -> None:
    config, made, _ = whole
    assert [(task.split, task.shard, task.shards) for task in made.plan.tasks] == [
        ("train", 0, 2),
        ("train", 1, 2),
        ("test", 0, 1),
    ]
    assert files_in(Path(config.output)) == {name for task in made.plan.tasks for name in shard_files(task.base)}


def test_done_files_say_what_the_shards_hold(whole: Written) -> None:
    config, made, _ = whole
    root = Path(config.output)
    files = digests(root)
    for task in made.plan.tasks:
        records, index, done_path = shard_files(task.base)
        done = json.loads((root / done_path).read_text())
        assert (done["generation"], done["split"], done["shard"], done["shards"]) == (
            *(made.plan.generation, task.split),
            *(task.shard, task.shards),
        )
        assert (done["records_sha256"], done["index_sha256"]) == (files[records], files[index])
        assert (done["records_bytes"], done["index_bytes"]) == tuple(
            (root / n).stat().st_size for n in (records, index)
        )
        assert done["rows"] == done["utterances"] + len(done["ledger"])
        with (root / records).open("rb") as stream:
            assert len(list(read_records(stream, records))) == done["records"] == 3
        assert pq.read_table(root / index)["label"].to_pylist() == [task.label] * 3
        assert done["statistics"]["frames"] == done["frames"] > 0


def test_the_writing_process_is_named(whole: Written) -> None:
    assert pids(Path(whole.config.output)) == {os.getpid()}


def test_finished_shards_are_adopted_untouched(copied: Written) -> None:
    config, made, _ = copied
    paths = [path for path in Path(config.output).rglob("*") if path.is_file()]
    before = stamps(paths)
    assert write(config, made, faults(Path(config.manifests[0]))) == {metrics.SHARDS_ADOPTED: 3}
    assert stamps(paths) == before
    assert len(before) == 9


@pytest.mark.parametrize(
    "damage",
    ["", "{", "null", "[]", '"done"', "7", '{"records_bytes": 1}', "\udcff\udcfe", "cut"],
)
def test_a_done_file_that_says_nothing_is_not_believed(copied: Written, damage: str) -> None:
    config, made, _ = copied
    path = Path(config.output) / shard_files(made.plan.tasks[0].base)[2]
    content = path.read_bytes()[:-5] if damage == "cut" else damage.encode(errors="surrogateescape")
    assert finished(config.output, made.plan.tasks[0].base) is not None
    path.write_bytes(content)
    assert finished(config.output, made.plan.tasks[0].base) is None


@pytest.mark.parametrize("which", [0, 1])
def test_a_shard_whose_files_are_gone_or_cut_is_not_finished(copied: Written, which: int) -> None:
    config, made, _ = copied
    path = Path(config.output) / shard_files(made.plan.tasks[1].base)[which]
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert finished(config.output, made.plan.tasks[1].base) is None
    path.write_bytes(content)
    assert finished(config.output, made.plan.tasks[1].base) is not None
    path.unlink()
    assert finished(config.output, made.plan.tasks[1].base) is None


def test_unfinished_shards_are_written_again_with_the_same_bytes(
    copied: Written,
) -> None:
    config, made, _ = copied
    root = Path(config.output)
    before = digests(root, "**/*.tfrecord", "**/*.parquet")
    first, second, third = (shard_files(task.base) for task in made.plan.tasks)
    (root / first[2]).write_text("torn")
    (root / second[0]).write_bytes((root / second[0]).read_bytes()[:1000])
    kept = stamps(root / name for name in third)
    found = write(config, made, faults(Path(config.manifests[0])))
    assert (found[metrics.SHARDS_ADOPTED], found[metrics.SHARDS_WRITTEN]) == (1, 2)
    assert digests(root, "**/*.tfrecord", "**/*.parquet") == before
    assert stamps(root / name for name in third) == kept


@pytest.mark.parametrize("faults", [None, [], "x"])
def test_a_done_file_without_the_state_of_its_faults_is_not_finished(copied: Written, faults: object) -> None:
    """It would end every attempt to adopt the shard with a KeyError."""
    config, made, _ = copied
    path = Path(config.output) / shard_files(made.plan.tasks[0].base)[2]
    content = json.loads(path.read_text())
    assert finished(config.output, made.plan.tasks[0].base) is not None
    spoilt = {**content, "faults": faults}
    path.write_text(json.dumps({name: value for name, value in spoilt.items() if value is not None}))
    assert finished(config.output, made.plan.tasks[0].base) is None


def test_a_finished_shard_with_a_flipped_byte_is_written_again(copied: Written) -> None:
    """Only sizes were compared, so damage on the disk was adopted and published."""
    config, made, _ = copied
    before = digests(Path(config.output), "**/*.tfrecord", "**/*.parquet")
    for number, kind in ((0, 0), (1, 1)):
        path = Path(config.output) / shard_files(made.plan.tasks[number].base)[kind]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    found = write(config, made, faults(Path(config.manifests[0])))
    assert (found[metrics.SHARDS_ADOPTED], found[metrics.SHARDS_WRITTEN]) == (1, 2)
    assert digests(Path(config.output), "**/*.tfrecord", "**/*.parquet") == before


def test_shards_without_records_have_a_done_file_only(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path / "m.csv", [("gone.wav", "s1", "test")], HEADER)
    config = job(tmp_path / "out", manifest)
    made = planned(config)
    detail = f"{tmp_path}/gone.wav: no such file (No such file or directory): check audio_path"
    place = (str(manifest), 29, "unnamed/s1", "gone.wav", "gone.wav")
    found = write(config, made, [LedgerRow("rejected", "decode", "missing", detail, *place)])
    assert found == {
        metrics.SHARDS_WRITTEN: 1,
        metrics.UTTERANCES_WRITTEN: 0,
        metrics.UTTERANCES_FILTERED: 0,
        metrics.UTTERANCES_REJECTED: 1,
        metrics.RECORDS_WRITTEN: 0,
    }
    task = made.plan.tasks[0]
    assert files_in(tmp_path / "out") == {shard_files(task.base)[2]}
    done = finished(config.output, task.base)
    assert done is not None
    assert (done["rows"], done["utterances"], done["records_bytes"], done["index_bytes"]) == (1, 0, 0, 0)


def test_a_part_that_no_utterance_falls_into_is_written_as_nothing(tmp_path: Path) -> None:
    synth.write(tmp_path / "a.wav", synth.speechlike(1, 2.0), 16000)
    manifest = write_rows(tmp_path / "m.csv", [("a.wav", "s1", 60)], "audio_path,speaker_id,duration_s")
    config = job(tmp_path / "out", manifest, plan=PlanConfig(shard_mib=0.2))
    made = planned(config)
    assert len(made.plan.tasks) == 5  # of 60 s by the manifest, which exaggerates
    assert sorted(map(len, made.shards.values())) == [1, 1, 1, 1, 2]
    assert write(config, made, [])[metrics.SHARDS_WRITTEN] == 5
    assert sorted(content["records"] for content in done_contents(tmp_path / "out")) == [0, 0, 0, 0, 1]
    assert len(files_in(tmp_path / "out")) == 5 + 2


def test_an_earlier_attempt_with_records_does_not_stand_in_the_way_of_an_empty_shard(
    copied: Written, tmp_path: Path
) -> None:
    """Its files were left beside a done file that says 0 bytes, so the shard never counted as finished."""
    config, made, _ = copied
    task = made.plan.tasks[2]
    (Path(config.output) / shard_files(task.base)[2]).unlink()
    empty = Planned(made.plan, [], {2: [b""]})
    write(config, empty, [], [shard_files(task.base)[2]])
    assert finished(config.output, task.base) is not None
    assert not any((Path(config.output) / name).exists() for name in shard_files(task.base)[:2])


def test_a_bug_fails_the_job_and_becomes_no_ledger_row(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: FeatureExtractor, samples: np.ndarray, **_: Any) -> None:
        raise RuntimeError("a bug in the extractor")

    monkeypatch.setattr(FeatureExtractor, "extract", broken)
    config = job(tmp_path / "out", corpus)
    with pytest.raises(RuntimeError, match="a bug in the extractor"):
        write(config, planned(config), [])
    assert files_in(tmp_path / "out") == set()


def test_a_disk_that_fails_for_a_moment_fails_the_job_and_becomes_no_ledger_row(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_open = audio.open_regular

    def failing(path: str) -> BinaryIO:
        if path.endswith("1.wav"):
            raise OSError(errno.EIO, "Input/output error", path)
        return really_open(path)

    monkeypatch.setattr(audio, "open_regular", failing)
    monkeypatch.setattr(decoded, "_RETRY_WAITS_S", (0.0,) * 4)
    config = job(tmp_path / "out", corpus)
    made = planned(config)
    with pytest.raises(Exception, match="Input/output error"):
        write(config, made, [])
    assert files_in(tmp_path / "out") == set()

    monkeypatch.undo()
    write(config, made, faults(corpus))
    assert sum(content["utterances"] for content in done_contents(tmp_path / "out")) == 9


def test_a_disk_that_fails_once_is_tried_again(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_open = audio.open_regular
    failures = [errno.EIO, errno.ESTALE]

    def failing(path: str) -> BinaryIO:
        if path.endswith("1.wav") and failures:
            raise OSError(failures.pop(), "for a moment", path)
        return really_open(path)

    monkeypatch.setattr(audio, "open_regular", failing)
    monkeypatch.setattr(decoded, "_RETRY_WAITS_S", (0.0,) * 4)
    config = job(tmp_path / "out", corpus)
    write(config, planned(config), faults(corpus))
    assert failures == []
    assert sum(content["utterances"] for content in done_contents(tmp_path / "out")) == 9


def test_a_verdict_that_stands_fails_the_stage_before_any_work(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "failed-token.json").write_text('{"error": "PlanError", "message": "from before"}')
    config = job(tmp_path / "out", corpus)
    with pytest.raises(PlanError, match="from before"):
        write(config, planned(config), [])
    assert files_in(tmp_path / "out") == {"failed-token.json"}
