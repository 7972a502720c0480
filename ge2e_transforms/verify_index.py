"""What the indexes of splits, and the files of a dataset as a whole, are checked for: a part of `verify`.

Columns are integers, one entry a record. It must not know what the values of records are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ge2e_transforms import records, schema
from ge2e_transforms.dataset import Dataset, sha256_of
from ge2e_transforms.errors import CorruptRecordError, DatasetError


def check_sha256(path: Path, size: int, expected: str) -> None:
    """Compares a local file of so many bytes with its checksum, 64 hex digits.

    Raises:
        DatasetError: it is missing or longer.
        CorruptRecordError: it has another checksum; of a record, where one is damaged.
    """
    if not path.is_file():
        raise DatasetError(
            f"{path} is missing, although metadata.json lists it: copy it again, or run `ge2e run` again"
        )
    # What is longer is not read: it may be a hole of any length.
    if (got := path.stat().st_size) > size:
        raise DatasetError(f"{path}: expected {size} bytes, got {got}: something was added to the file")
    with path.open("rb") as stream:
        found = sha256_of(stream)
    if found != expected:
        # The records' own checksums say where, if a record is hit.
        if path.suffix == ".tfrecord":
            with path.open("rb") as stream:
                for _ in records.read_records(stream, str(path)):
                    pass
        raise CorruptRecordError(
            f"{path}: sha256 is {found}, expected {expected}: the file was changed. The same `ge2e run` "
            "command makes a damaged shard anew, or with --overwrite all of a dataset that was added to or erased from"
        )


def check_split(dataset: Dataset, split: str, tables: list[pa.Table]) -> None:
    """The split's index repeats those of its shards, and the counts add up.

    Args:
        dataset: on the local disk.
        split: its name.
        tables: of each shard in order: `schema.SAMPLER_COLUMNS` and `session_id`.

    Raises:
        DatasetError: the first fault; CorruptRecordError where the index leads out of a shard.
    """
    entry = dataset.metadata["splits"][split]
    check_sha256(dataset.root / entry["index"]["path"], entry["index"]["bytes"], entry["index"]["sha256"])
    whole = dataset.index(split)
    where = dataset.root / entry["index"]["path"]
    expected = _joined(tables)
    _compare(where, {name: whole[name] for name in schema.SPLIT_COLUMNS}, expected)
    places = whole.places(np.arange(len(whole)))
    _compare(where, {"length": places.length, "payload_offset": places.payload}, expected)
    people = dataset.speakers.filter(pc.equal(dataset.speakers["split"], split))
    totals = {
        "speakers": len(np.unique(whole["label"])),
        "records": len(whole),
        "frames": int(whole["frames"].sum()),
        "utterances": len(np.unique(whole["label"].astype(np.int64) << 32 | whole["utterance_index"])),
    }
    table = {"speakers": len(people), "utterances": sum(people["utterances"].to_pylist())}
    table["frames"] = sum(people["frames"].to_pylist())
    for source, counts in (("index", totals), ("speakers table", table)):
        for name, value in counts.items():
            if value != entry[name]:
                raise DatasetError(f"split {split!r}: metadata says {entry[name]} {name}, the {source} {value}")


def _compare(where: Path, columns: dict[str, npt.NDArray[Any]], expected: dict[str, npt.NDArray[Any]]) -> None:
    for name, found in columns.items():
        if not np.array_equal(found, expected[name]):
            place = int(np.flatnonzero(found != expected[name])[0])
            raise DatasetError(
                f"{where}: {name} of row {place} is {found[place]}, by the shards it is {expected[name][place]}"
            )


def _joined(tables: list[pa.Table]) -> dict[str, npt.NDArray[Any]]:
    """What the index of a split must hold: the columns of its shards, utterances and sessions numbered through."""
    joined = {name: np.concatenate([table[name].to_numpy() for table in tables]) for name in schema.SAMPLER_COLUMNS}
    # Each shard counts from 0; a session may go on in the next one, an utterance does not.
    before = np.cumsum([0, *(pc.max(table["utterance_index"]).as_py() + 1 if len(table) else 0 for table in tables)])
    utterance = joined["utterance_index"] + np.repeat(before[:-1], [len(table) for table in tables])
    names = pa.chunked_array([chunk for table in tables for chunk in table["session_id"].chunks], pa.string())
    session = pc.index_in(names, pc.unique(names)).to_numpy()
    for name, keys in (("utterance_index", utterance), ("session_index", session)):
        joined[name] = _numbered(joined["label"], keys)
    return joined


def _numbered(label: npt.NDArray[np.int32], keys: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Numbers from 0 within each label, in the order in which its keys first appear."""
    pairs = label.astype(np.int64) << 32 | keys
    _, first, inverse = np.unique(pairs, return_index=True, return_inverse=True)
    owner = label[first]  # in rising order, as the pairs are
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.lexsort((first, owner))] = np.arange(len(first)) - np.searchsorted(owner, owner)
    return rank[inverse]


def check_copies(dataset: Dataset) -> None:
    """The copies that metadata counts are there, each of an utterance that is there; DatasetError if not."""
    copies = 0
    for split in dataset.splits:
        index = dataset.index(split)
        utterance = index["label"].astype(np.int64) << 32 | index["utterance_index"]
        number = index["flags"] >> schema.COPY_SHIFT
        copies += len(np.unique(np.stack([utterance, number.astype(np.int64)])[:, number > 0], axis=1).T)
        if len(orphans := np.setdiff1d(utterance, utterance[number == 0])):
            label, of_speaker = divmod(int(orphans[0]), 1 << 32)
            raise DatasetError(
                f"split {split!r}: utterance {of_speaker} of label {label} has copies but is not there itself"
            )
    if copies != (stated := dataset.metadata["counts"]["copies"]):
        raise DatasetError(f"metadata counts {stated} copies, the indexes hold {copies}")
