"""CommitDataset: checks what the shards hold and publishes the dataset, metadata last.

One element, the last of the graph, safe to run twice. All figures come from the done files, in shard
order; nothing depends on the program that submitted the job.
"""

from __future__ import annotations

import json
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from ge2e_transforms import __version__, schema
from ge2e_transforms.dataset import sha256_of
from ge2e_transforms.errors import CommitError, LedgerRow
from ge2e_transforms.planning import Plan, ShardTask
from ge2e_transforms.records import crc32c_of
from pipeline import storage, tables
from pipeline.options import JobConfig
from pipeline.plan import published
from pipeline.verdict import recorded
from pipeline.write import finished

# Small objects on a store are read so many at a time.
_READERS = 16
_In = TypeVar("_In")
_Out = TypeVar("_Out")
_PACKAGES = ("apache-beam", "librosa", "numpy", "pyarrow", "scipy", "soundfile", "soxr")


def commit(job: JobConfig, plan: Plan, rejected: Iterable[LedgerRow]) -> dict[str, Any]:
    """Publishes the dataset and returns its metadata.

    Raises:
        CommitError: a shard is not finished, the sums do not balance, too many rows are rejected, or
            nothing was written. Nothing is published then.
    """
    done = _read_done(job.output, plan)
    ledger = [*rejected, *(LedgerRow(*entry) for part in done for entry in part["ledger"])]
    counts = _balance(plan, done, ledger)
    previous = published(job.output)
    if _over_limit(job, counts):
        raise CommitError(_refusal(job, counts, ledger))
    if not job.overwrite and previous.get("generation", plan.standing) not in (plan.standing, plan.generation):
        raise CommitError(
            f"another job has published generation {previous['generation']} in {job.output} since this one "
            f"(generation {plan.generation}) was planned: run it with another --output, or with --overwrite"
        )
    metadata = _describe(job, plan, done, counts)
    if previous.get("generation") == plan.generation:
        metadata["token"] = previous.get("token")  # who made it, not who found it made
    speakers = []
    for split in plan.shards:
        index, people = _split_tables(job, plan, done, split)
        speakers.append(people)
        own = [part for part in done if part["split"] == split]
        metadata["splits"][split] = tables.split_counts(own, people, job.recipe)
        metadata["splits"][split]["index"] = _publish_index(job, index, schema.split_index_file(split, plan.generation))
    metadata["speakers"] = _publish_table(job, pa.concat_tables(speakers), schema.speakers_file(plan.generation))
    metadata["ledger"] = _publish_table(job, tables.ledger_table(ledger), schema.ledger_file(plan.generation))
    metadata["replaced"] = _replaced(job.output, previous, metadata)
    content = json.dumps(metadata, indent=1, allow_nan=False).encode()
    storage.write_bytes(storage.join(job.output, schema.METADATA_FILE), content)
    _remove_unlisted(job.output, plan, metadata["replaced"])
    return metadata


def listed_files(metadata: dict[str, Any]) -> set[str]:
    """Every file of a dataset but `metadata.json`, relative to its folder; none for no metadata."""
    if not metadata:
        return set()
    shards = [entry for split in metadata["shards"].values() for entry in split]
    names = {name for entry in shards for name in schema.shard_files(entry["base"])}
    single = [metadata["speakers"], metadata["ledger"], *(split["index"] for split in metadata["splits"].values())]
    return names | {entry["path"] for entry in single}


def _replaced(output: str, previous: dict[str, Any], metadata: dict[str, Any]) -> list[str]:
    """Files to remove once `metadata` is published, with those that an attempt before died over.

    They are listed in metadata, so that an attempt after one that dies from here on removes them.
    """
    earlier = set(previous.get("replaced", ()))
    if previous.get("generation") != metadata["generation"]:
        earlier = {name for name in earlier if storage.exists(storage.join(output, name))}
    names = (listed_files(previous) | earlier) - listed_files(metadata)
    return sorted(name for name in names if schema.OWN_FILE.fullmatch(name))


def _read_done(output: str, plan: Plan) -> list[dict[str, Any]]:
    def read(task: ShardTask) -> dict[str, Any]:
        done = finished(output, task)
        if done is None:
            raise CommitError(
                f"shard {task.base} in {output} is not finished, although its worker said so: were files "
                "removed while the job ran? Run the same command again; finished shards are kept"
            )
        return done

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read, plan.tasks))


def _balance(plan: Plan, done: list[dict[str, Any]], ledger: list[LedgerRow]) -> dict[str, Any]:
    """Counts of the whole job; every manifest row must be accounted for once."""
    rows = sum(entry.rows for entry in plan.manifests)
    written = sum(part["utterances"] for part in done)
    by_kind = {
        kind: tables.add_counts({row.reason: 1} for row in ledger if row.kind == kind)
        for kind in ("filtered", "rejected")
    }
    total = written + sum(by_kind["filtered"].values()) + sum(by_kind["rejected"].values())
    if total != rows:
        raise CommitError(
            f"the sums do not balance: the manifests hold {rows} rows, but {written} written + "
            f"{by_kind['filtered']} filtered + {by_kind['rejected']} rejected make {total}. Was a manifest "
            "changed while the job ran? Nothing was published"
        )
    return {"rows": rows, "written": written, **by_kind}


def _over_limit(job: JobConfig, counts: dict[str, Any]) -> bool:
    return not counts["written"] or sum(counts["rejected"].values()) > job.max_rejected * counts["rows"]


def _refusal(job: JobConfig, counts: dict[str, Any], ledger: list[LedgerRow]) -> str:
    first = [row for row in ledger if row.kind == "rejected"][:3] or ledger[:3]
    examples = "; ".join(f"{row.reason}: {row.audio_path or row.manifest} ({row.detail})" for row in first)
    if not counts["written"]:
        problem = f"none of the {counts['rows']} rows could be written"
    else:
        rejected = sum(counts["rejected"].values())
        problem = f"{rejected} of {counts['rows']} rows were rejected, more than --max_rejected={job.max_rejected:g}"
    return (
        f"{problem} (filtered {counts['filtered']}, rejected {counts['rejected']}). First: {examples}. Nothing was "
        "published: mend these files and run the same command again, or raise --max_rejected"
    )


def _describe(job: JobConfig, plan: Plan, done: list[dict[str, Any]], counts: dict[str, Any]) -> dict[str, Any]:
    shards: dict[str, list[dict[str, Any]]] = {split: [] for split in plan.shards}
    for task, part in zip(plan.tasks, done, strict=True):
        names = ("records", "frames", "records_bytes", "records_sha256", "index_bytes", "index_sha256")
        shards[task.split].append({"base": task.base, **{name: part[name] for name in names}})
    files = [schema.shard_files(entry["base"])[0] for split in shards.values() for entry in split if entry["records"]]
    recipe = job.recipe
    return {
        "format": schema.FORMAT,
        "format_version": schema.FORMAT_VERSION,
        "generation": plan.generation,
        "edition": plan.edition,
        "token": job.token,
        "fingerprint": recipe.fingerprint(),
        "feature_shape": recipe.feature_shape,
        "features": recipe.feature.features,
        "segments": recipe.segment.segments,
        "dtype": "pcm16" if recipe.feature.features == "raw" else "float32",
        "speakers_per_batch": job.speakers_per_batch,
        "utterances_per_speaker": job.utterances_per_speaker,
        "batch_size": job.speakers_per_batch * job.utterances_per_speaker,
        "datasets": list(plan.sources),
        "counts": counts,
        "splits": {},
        "statistics": {
            "split": schema.TRAIN_SPLIT,
            **tables.feature_statistics(part for part in done if part["split"] == schema.TRAIN_SPLIT),
        },
        "recipe": recipe.to_dict(),
        "plan": asdict(job.plan),
        "manifests": [entry._asdict() for entry in plan.manifests],
        "files_created": len(files),
        "files": files,
        "shards": shards,
        "versions": run_versions(),
        "cpus": sorted({part.get("cpu", "unknown") for part in done}),
    }


def run_versions() -> dict[str, str]:
    """What computed the dataset; kept for questions later, not part of its digest."""
    versions = {"ge2e-features": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions


def _split_tables(job: JobConfig, plan: Plan, done: list[dict[str, Any]], split: str) -> tuple[pa.Table, pa.Table]:
    def read(pair: tuple[ShardTask, dict[str, Any]]) -> pa.Table | None:
        task, part = pair
        if not part["records"]:
            return None
        with storage.reading(storage.join(job.output, schema.shard_files(task.base)[1])) as stream:
            return pq.read_table(pa.BufferReader(stream.read()), columns=list(tables.SHARD_COLUMNS))

    own = [pair for pair in zip(plan.tasks, done, strict=True) if pair[0].split == split]
    with ThreadPoolExecutor(_READERS) as pool:
        return tables.split_tables(_ahead(pool, read, own), split, job.recipe)


def _ahead(pool: ThreadPoolExecutor, function: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
    """As `pool.map`, but only so many results as there are readers wait to be taken: memory does not grow."""
    waiting: deque[Future[_Out]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= _READERS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _publish_table(job: JobConfig, table: pa.Table, name: str) -> dict[str, Any]:
    with storage.building(storage.join(job.output, name)) as (path,):
        pq.write_table(table, path, compression="zstd")
        return _described(path, table, name)


def _publish_index(job: JobConfig, index: pa.Table, name: str) -> dict[str, Any]:
    with storage.building(storage.join(job.output, name)) as (path,):
        tables.write_index(index, path)
        with path.open("rb") as stream:
            return {**_described(path, index, name), "crc32c": crc32c_of(stream)}


def _described(path: Path, table: pa.Table, name: str) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"path": name, "rows": len(table), "bytes": path.stat().st_size, "sha256": sha256_of(stream)}


def _remove_unlisted(output: str, plan: Plan, names: list[str]) -> None:
    storage.remove(storage.join(output, name) for name in names)
    folders = [output, *(storage.join(output, split) for split in plan.shards)]
    storage.remove(path for folder in folders for path in storage.leftovers(folder))


class _CommitFn(beam.DoFn):
    def __init__(self, job: JobConfig) -> None:
        self._job = job

    def process(
        self, _: None, done: Iterable[str], plan: Plan, rejected: Iterable[LedgerRow]
    ) -> Iterator[dict[str, Any]]:
        with recorded(self._job.output, self._job.token):
            reported = len(set(done))
            if reported < len(plan.tasks):
                raise CommitError(f"{len(plan.tasks)} shards were planned, but only {reported} are reported done")
            yield commit(self._job, plan, rejected)


class CommitDataset(beam.PTransform):
    """(done paths, plan, manifest rows rejected) -> the metadata of the published dataset."""

    def __init__(self, job: JobConfig) -> None:
        super().__init__()
        self._job = job

    def expand(
        self, inputs: tuple[beam.PCollection[str], beam.PCollection[Plan], beam.PCollection[LedgerRow]]
    ) -> beam.PCollection[dict[str, Any]]:
        done, plan, rejected = inputs
        return (
            done.pipeline
            | "CommitOnce" >> beam.Create([None])
            | "Commit"
            >> beam.ParDo(
                _CommitFn(self._job),
                beam.pvalue.AsList(done),
                beam.pvalue.AsSingleton(plan),
                beam.pvalue.AsIter(rejected),
            ).with_output_types(dict[str, Any])
        )
