"""Whole jobs for the tests: run here or in a process of their own, and what they left in the output folder."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy.typing as npt
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.runner import PipelineResult
from apache_beam.testing.test_pipeline import TestPipeline

from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import LedgerRow
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.planning import ManifestSummary, Plan, PlanConfig, SpeakerTotal, expected_ms
from ge2e_transforms.records import decode_example, read_records
from ge2e_transforms.row_chunks import pack, place, unpack
from ge2e_transforms.utterance import Utterance
from pipeline import __main__ as program
from pipeline import metrics
from pipeline.assembly import listed_files
from pipeline.main import RunResult, run
from pipeline.options import JobConfig
from pipeline.plan import plan_job
from pipeline.read import wanted_rows
from pipeline.sound_lists import copies_of
from pipeline.write import known_people, write_shard

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parent.parent
LIMIT_S = 300

TestPipeline.__test__ = False  # a tool, not a class of tests


def job(output: Path | str, *manifests: Path | str, **fields: Any) -> JobConfig:
    """A job of the default recipe; the fields of `JobConfig` may be given."""
    made = {"recipe": Recipe(), "plan": PlanConfig(), "token": "token", **fields}
    return JobConfig(tuple(map(str, manifests)), str(output), **made)


def write_rows(path: Path, rows: Iterable[Sequence[object]], header: str = "audio_path,speaker_id") -> Path:
    """A CSV manifest."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


class Planned(NamedTuple):
    """What the stages before WriteShards make of a job's manifests, made without Beam."""

    plan: Plan
    rejected: list[LedgerRow]
    shards: dict[int, list[bytes]]  # parcels of rows by shard, with the empty one that announces it


def planned(config: JobConfig) -> Planned:
    rows: list[Utterance] = []
    rejected: list[LedgerRow] = []
    summaries = []
    for path in config.manifests:
        with Path(path).open("rb") as stream:
            items = list(wanted_rows(config, stream, path))
        bad = [item for item in items if isinstance(item, LedgerRow)]
        rejected += bad
        rows += [item for item in items if isinstance(item, Utterance)]
        summaries.append(ManifestSummary(path, sha256(Path(path)), len(items), len(bad)))
    totals = [
        SpeakerTotal(row.speaker_key, row.split, row.source, expected_ms(row, config.recipe.audio.max_seconds))
        for row in rows
    ]
    plan = plan_job(config, totals, summaries)
    shards = {number: [b""] for number in range(len(plan.tasks))}
    if rows and plan.ranges:
        for number, parcel in place(pack(rows, config.recipe.audio.max_seconds, {}), plan).items():
            shards[number].append(parcel)
    return Planned(plan, rejected, shards)


def write_all(config: JobConfig) -> Planned:
    """Writes all shards of a job, without Beam and without commit."""
    made, extractor = planned(config), FeatureExtractor(config.recipe)
    for number, parcels in made.shards.items():
        utterances = list(itertools.chain.from_iterable(map(unpack, parcels)))
        task = made.plan.tasks[number]
        known = known_people(config.output, made.plan, task, utterances)
        copies = copies_of(config, made.plan)
        write_shard(config.output, task, utterances, extractor, made.plan.sources, known, copies=copies)
    return made


def run_here(manifest: Path | str, output: Path | str, *flags: str) -> RunResult:
    """`ge2e run` in this process, with one worker unless the flags say otherwise."""
    own = (
        []
        if any(flag.startswith(("--direct_num_workers", "--runner")) for flag in flags)
        else ["--direct_num_workers=1"]
    )
    return run(["--manifest", str(manifest), "--output", str(output), *own, *flags])


def command(*arguments: object) -> list[str]:
    """The program `ge2e` as a process of its own."""
    return [sys.executable, "-m", "pipeline", *map(str, arguments)]


def run_command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `ge2e` to its end, whatever that is."""
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def counters(result: PipelineResult) -> dict[str, int]:
    """Our counters of a finished job, by name."""
    found = result.metrics().query(MetricsFilter().with_namespace(metrics.NAMESPACE))["counters"]
    return {entry.key.metric.name: entry.result for entry in found}


def metadata_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metadata.json").read_text())
    return content


def content_of(folder: Path) -> dict[str, Any]:
    """Its metadata, but for what names the submission that made it."""
    return {name: value for name, value in metadata_of(folder).items() if name not in ("token", "checksum")}


def stored_records(folder: Path) -> Iterator[tuple[npt.NDArray[Any], dict[str, str | int], bytes]]:
    """Values, fields and bytes of every record that a dataset lists."""
    for name in metadata_of(folder)["files"]:
        with (folder / name).open("rb") as stream:
            for _, data in read_records(stream, name):
                yield (*decode_example(data, name), data)


def done_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.done.json"))


def done_contents(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in done_files(folder)]


def pids(folder: Path) -> set[int]:
    """Processes that wrote the shards of a dataset."""
    return {int(content["written_by"].rpartition(":")[2]) for content in done_contents(folder)}


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def unlisted(folder: Path) -> set[str]:
    """Files that are neither listed by metadata nor its card, and (with a '-') such as are not there."""
    metadata = metadata_of(folder)
    listed = {"metadata.json", "README.md"} | listed_files(metadata)
    empty = {entry["base"] for split in metadata["shards"].values() for entry in split if not entry["records"]}
    listed -= {f"{base}{ending}" for base in empty for ending in (".tfrecord", ".index.parquet")}
    found = files_in(folder)
    return (found - listed) | {f"-{name}" for name in listed - found}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(folder: Path, *patterns: str) -> dict[str, str]:
    """sha256 of all files, or of those that fit a pattern, by their path in the folder."""
    paths = {path for pattern in patterns or ("**/*",) for path in folder.glob(pattern) if path.is_file()}
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(paths)}


def data_digests(folder: Path) -> dict[str, str]:
    """sha256 of everything that readers read: shards, their indexes, indexes of splits, speakers, ledger."""
    return digests(folder, "**/*.tfrecord", "**/*.parquet", "**/*.arrow")


def stamps(paths: Iterable[Path]) -> dict[str, tuple[int, int]]:
    """Inode and time of change: a file that was written again, even with the same bytes, has others."""
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def ge2e(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status and what was printed; argparse ends by itself for wrong usage."""
    try:
        status = program.main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err
