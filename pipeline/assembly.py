"""The shards of a dataset to the files that join them, `metadata.json` last: of a new one, a grown and a lesser one.

Tables are by `schema`, sizes bytes. It must not know what job asks for it.
"""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ge2e_transforms import __version__, schema
from ge2e_transforms.config import Recipe
from ge2e_transforms.dataset import sha256_of
from ge2e_transforms.errors import CommitError, DatasetError, LedgerRow
from ge2e_transforms.metadata import checksum_of, require_complete
from ge2e_transforms.records import crc32c_of
from pipeline import publishing, storage, tables
from pipeline.card import write_card
from pipeline.growth import read_table
from pipeline.publishing import Published
from pipeline.write import finished

# Small objects on a store are read so many at a time.
_READERS = 16
_In = TypeVar("_In")
_Out = TypeVar("_Out")
_PACKAGES = ("apache-beam", "numba", "numpy", "pyarrow", "scipy", "soundfile", "soxr", "xxhash")


@dataclass(frozen=True)
class Part:
    """A shard: its path without ending, the content of its done file, and its lowest and highest label."""

    base: str
    done: dict[str, Any]
    labels: list[int] = field(default_factory=list)


def read_parts(output: str, bases: Iterable[str]) -> list[Part]:
    """Shards by their done files, in order.

    Raises:
        CommitError: one of them is not finished.
    """

    def read(base: str) -> Part:
        done = finished(output, base)
        if done is None:
            raise CommitError(
                f"shard {base} in {output} is not finished, although its worker said so: were files removed while the "
                "job ran? Run the same command again; finished shards are kept"
            )
        return Part(base, done)

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read, bases))


def standing_bases(metadata: Mapping[str, Any]) -> list[str]:
    """Shards of the dataset that stands, in order."""
    return [entry["base"] for entries in metadata.get("shards", {}).values() for entry in entries]


def assemble(
    output: str, facts: Mapping[str, Any], parts: Iterable[Part], ledger: Iterable[LedgerRow], previous: Published
) -> dict[str, Any]:
    """Writes the tables of a dataset and its metadata, and removes what they replace.

    Args:
        output: its folder.
        facts: what metadata says that does not follow from the shards.
        parts: all of its shards; those of a split in order.
        ledger: all of its ledger.
        previous: what stood there when this began; nothing is published if that has changed.
    """
    by_split: dict[str, list[Part]] = {}
    for part in parts:
        by_split.setdefault(part.done["split"], []).append(part)
    by_split = {split: by_split[split] for split in sorted(by_split, key=schema.split_key)}
    recipe, generation = Recipe.from_dict(facts["recipe"]), facts["generation"]
    metadata: dict[str, Any] = {**facts, "splits": {}, "shards": {}}
    # Not told from the names of the shards: erasing may have given all of them one generation.
    layered = any(step["kind"] in ("add", "retry") for step in facts["history"])
    speakers = []
    for split, own in by_split.items():
        index, people = _split_tables(output, recipe, split, own, layered=layered)
        speakers.append(people)
        metadata["splits"][split] = tables.split_counts([part.done for part in own], people, recipe)
        name = schema.split_index_file(split, generation)
        metadata["splits"][split]["index"] = _publish_index(output, index, name)
        metadata["shards"][split] = [_entry(part) for part in own]
    metadata |= _sums(by_split)
    metadata["speakers"] = _publish_table(output, pa.concat_tables(speakers), schema.speakers_file(generation))
    metadata["ledger"] = _publish_table(output, tables.ledger_table(ledger), schema.ledger_file(generation))
    metadata["replaced"] = _replaced(output, previous.metadata, metadata)
    metadata["checksum"] = checksum_of(metadata)
    _refuse_unreadable(output, metadata)
    _publish(output, metadata, previous.version)
    remove_replaced(output, metadata)
    return metadata


def _publish(output: str, metadata: dict[str, Any], version: str | None) -> None:
    """The card, then metadata; where another job was first, the card is that of its dataset again."""
    write_card(output, metadata)
    try:
        publishing.write(output, metadata, version)
    except CommitError:
        if standing := publishing.read(output).metadata:
            write_card(output, standing)
        raise


def _refuse_unreadable(output: str, metadata: dict[str, Any]) -> None:
    """What stood is removed once this is published, so it must be what readers take."""
    try:
        require_complete(metadata, storage.join(output, schema.METADATA_FILE))
    except DatasetError as error:
        raise CommitError(f"{error}. This was made just now and is a defect: nothing was published") from error


def _entry(part: Part) -> dict[str, Any]:
    names = ("records", "frames", "records_bytes", "records_sha256", "index_bytes", "index_sha256")
    return {"base": part.base, **{name: part.done[name] for name in names}, "labels": part.labels}


def _sums(by_split: Mapping[str, Sequence[Part]]) -> dict[str, Any]:
    """What follows from the shards of all splits."""
    parts = [part for own in by_split.values() for part in own]
    files = [schema.shard_files(part.base)[0] for part in parts if part.done["records"]]
    train = [part.done for part in by_split.get(schema.TRAIN_SPLIT, ())]
    return {
        "statistics": {"split": schema.TRAIN_SPLIT, **tables.feature_statistics(train)},
        "files_created": len(files),
        "files": files,
        "versions": run_versions(),
        "cpus": sorted({part.done.get("cpu", "unknown") for part in parts}),
    }


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


def run_versions() -> dict[str, str]:
    """What computed the dataset; kept for questions later, not part of its digest."""
    versions = {"ge2e-features": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions


def _split_tables(
    output: str, recipe: Recipe, split: str, parts: Sequence[Part], *, layered: bool
) -> tuple[pa.Table, pa.Table]:
    """Index and speakers of a split; the entries of its shards get the lowest and highest label of each."""

    def read(part: Part) -> pa.Table | None:
        if not part.done["records"]:
            return None
        table = read_table(storage.join(output, schema.shard_files(part.base)[1]), *tables.SHARD_COLUMNS)
        part.labels[:] = pc.min_max(table["label"]).as_py().values()
        return table

    with ThreadPoolExecutor(_READERS) as pool:
        return tables.split_tables(_ahead(pool, read, parts), split, recipe, layered=layered)


def _ahead(pool: ThreadPoolExecutor, function: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
    """As `pool.map`, but only so many results as there are readers wait to be taken: memory does not grow."""
    waiting: deque[Future[_Out]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= _READERS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@storage.tried_again
def _publish_table(output: str, table: pa.Table, name: str) -> dict[str, Any]:
    with storage.building(storage.join(output, name)) as (path,):
        with path.open("wb") as stream:
            pq.write_table(table, stream, compression="zstd")
        return _described(path, table, name)


@storage.tried_again
def _publish_index(output: str, index: pa.Table, name: str) -> dict[str, Any]:
    with storage.building(storage.join(output, name)) as (path,):
        tables.write_index(index, path)
        with path.open("rb") as stream:
            return {**_described(path, index, name), "crc32c": crc32c_of(stream)}


def _described(path: Path, table: pa.Table, name: str) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"path": name, "rows": len(table), "bytes": path.stat().st_size, "sha256": sha256_of(stream)}


def remove_replaced(output: str, metadata: Mapping[str, Any]) -> None:
    """Removes what a published dataset took the place of; whoever comes after one that died here does it again."""
    storage.remove(storage.join(output, name) for name in metadata["replaced"])
    folders = [output, *(storage.join(output, split) for split in metadata["splits"])]
    storage.remove(path for folder in folders for path in storage.leftovers(folder))
