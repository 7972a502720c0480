"""Manifests to rows, ledger rows and summaries, through Beam."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from jobs import counters, files_in, job, write_rows

from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import LedgerRow, ManifestError
from ge2e_transforms.lengths import totals
from ge2e_transforms.planning import ManifestSummary, PlanConfig, SpeakerTotal, make_plan
from ge2e_transforms.row_chunks import place, unpack
from ge2e_transforms.utterance import Utterance
from pipeline import metrics
from pipeline.options import JobConfig
from pipeline.read import LENGTHS, REJECTED, ROWS, SUMMARIES, ReadManifest, expand_manifests

HEADER = b"audio_path,speaker_id\n"


def rows_of(chunk: bytes) -> Iterable[Utterance]:
    """The rows of a chunk, by a plan of one shard."""
    plan = make_plan([SpeakerTotal("any", "", "any", 1)], [], PlanConfig(min_shards=1), Recipe())
    return unpack(place(chunk, plan)[0])


def read(
    config: JobConfig, rows: list[Utterance], rejected: list[LedgerRow], summaries: list[ManifestSummary]
) -> dict[str, int]:
    """Runs the stage, checks all four outputs, and gives its counters."""
    lengths = [SpeakerTotal(row.speaker_key, row.split, row.source, 8000) for row in rows]
    pipeline = TestPipeline(runner="FnApiRunner")
    out = pipeline | "ReadManifest" >> ReadManifest(config)
    assert_that(out[ROWS] | "Unpack" >> beam.FlatMap(rows_of), equal_to(rows), label="CheckRows")
    found = out[LENGTHS] | beam.FlatMapTuple(lambda bucket, packed: totals(packed)) | beam.combiners.ToList()
    assert_that(found | beam.Map(summed), equal_to([summed(lengths)]), label="CheckLengths")
    assert_that(out[REJECTED], equal_to(rejected), label="CheckRejected")
    assert_that(out[SUMMARIES], equal_to(summaries), label="CheckSummaries")
    result = pipeline.run()
    result.wait_until_finish()
    return counters(result)


def summed(lengths: list[SpeakerTotal]) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in lengths:
        found[entry.speaker] = found.get(entry.speaker, 0) + entry.milliseconds
    return found


def row(path: str, speaker: str, manifest: Path, position: int) -> Utterance:
    return Utterance(path, speaker, "unnamed", path, "unnamed", manifest=str(manifest), position=position)


def summary(path: Path, rows: int, rejected: int) -> ManifestSummary:
    return ManifestSummary(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), rows, rejected)


def test_rows_rejected_rows_and_summary(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_bytes(HEADER + b"a.wav,s1\nb.wav,\nc.wav,s2,more\nd.wav,s1\n")
    place = (str(manifest),)
    empty_speaker = LedgerRow(
        *("rejected", "manifest", "empty_speaker", "speaker_id is empty: every row must say who speaks"),
        *(*place, 31, "", "b.wav", "b.wav"),
    )
    bad_row = LedgerRow(
        *("rejected", "manifest", "bad_row", "expected 2 fields as in the header, got 3"), *(*place, 38, "", "", "")
    )
    found = read(
        job(tmp_path / "out", manifest),
        [row("a.wav", "s1", manifest, 22), row("d.wav", "s1", manifest, 52)],
        [empty_speaker, bad_row],
        [summary(manifest, 4, 2)],
    )
    assert found == {metrics.MANIFESTS_READ: 1, metrics.ROWS_READ: 4, metrics.ROWS_REJECTED: 2}
    assert not (tmp_path / "out").exists()


def test_a_manifest_without_rows_gives_a_summary_only(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_bytes(HEADER)
    found = read(job(tmp_path / "out", manifest), [], [], [summary(manifest, 0, 0)])
    assert found == {metrics.MANIFESTS_READ: 1, metrics.ROWS_READ: 0, metrics.ROWS_REJECTED: 0}


def test_a_manifest_without_faults_has_no_rejected_rows(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_bytes(HEADER + b"a.wav,s1\n")
    read(job(tmp_path / "out", manifest), [row("a.wav", "s1", manifest, 22)], [], [summary(manifest, 1, 0)])


def test_many_rows_are_cut_in_chunks_and_their_lengths_sent_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.read.CHUNK_ROWS", 7)
    monkeypatch.setattr("pipeline.read.CHUNK_BYTES", 100)
    monkeypatch.setattr("ge2e_transforms.lengths.HELD_SPEAKERS", 3)
    manifest = tmp_path / "m.csv"
    lines = [f"{n:02d}{'x' * 200 * (n % 10 == 9)}.wav,s{n % 5}\n".encode() for n in range(50)]
    manifest.write_bytes(HEADER + b"".join(lines))
    starts = itertools.accumulate(map(len, lines), initial=len(HEADER))
    rows = [
        row(line.decode().partition(",")[0], f"s{n % 5}", manifest, start)
        for n, (line, start) in enumerate(zip(lines, starts, strict=False))
    ]
    found = read(job(tmp_path / "out", manifest), rows, [], [summary(manifest, 50, 0)])
    assert found[metrics.ROWS_READ] == 50


def test_several_manifests_of_all_kinds_each_once(tmp_path: Path) -> None:
    plain, packed, lines = tmp_path / "a.csv", tmp_path / "b.csv.gz", tmp_path / "c.jsonl"
    plain.write_bytes(HEADER + b"a.wav,s1\n")
    packed.write_bytes(gzip.compress(HEADER + b"b.wav,s2\n"))
    lines.write_text(json.dumps({"audio_filepath": "c.wav", "speaker": "s3"}))
    (tmp_path / "d.txt").write_text("no manifest")
    found = read(
        job(tmp_path / "out", f"{tmp_path}/*.csv*", plain, lines),
        [row("a.wav", "s1", plain, 22), row("b.wav", "s2", packed, 22), row("c.wav", "s3", lines, 0)],
        [],
        [summary(plain, 1, 0), summary(packed, 1, 0), summary(lines, 1, 0)],
    )
    assert found == {metrics.MANIFESTS_READ: 3, metrics.ROWS_READ: 3, metrics.ROWS_REJECTED: 0}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", None, "no manifest at .*/m.csv: expected a file or a glob that matches some"),
        ("m.csv.gz", b"not gzip", "damaged gzip"),
    ],
)
def test_a_manifest_that_cannot_be_used_fails_the_job_with_a_verdict(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        read(job(tmp_path / "out", tmp_path / name), [], [], [])
    assert files_in(tmp_path / "out") == {"failed-token.json"}
    assert json.loads((tmp_path / "out" / "failed-token.json").read_text())["error"] == "ManifestError"


def test_a_pattern_of_several_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path / "m.csv", [])
    with pytest.raises(ManifestError, match=r"no manifest at .*nothing\*\.csv"):
        expand_manifests((str(manifest), f"{tmp_path}/nothing*.csv"))


def test_a_folder_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "m.csv").mkdir()
    with pytest.raises(ManifestError, match=r"m\.csv cannot be read \(Is a directory\): expected a file"):
        read(job(tmp_path / "out", tmp_path / "m.csv"), [], [], [])


def test_files_are_sorted_whatever_the_order_of_the_patterns(tmp_path: Path) -> None:
    for name in "cab":
        write_rows(tmp_path / f"{name}.csv", [])
    patterns = (f"{tmp_path}/c.csv", f"{tmp_path}/*.csv", f"{tmp_path}/a.csv")
    assert expand_manifests(patterns) == [f"{tmp_path}/{name}.csv" for name in "abc"]
