"""A shard without some of its speakers: all other records stay byte for byte. Pure functions of local files.

It must not know of datasets, or of where the files end up.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from ge2e_transforms import records
from ge2e_transforms.errors import CorruptRecordError, LedgerRow
from ge2e_transforms.schema import COPY_SHIFT
from ge2e_transforms.shard_sums import FrameSums
from ge2e_transforms.shards import write_index


def mentions(done: dict[str, Any], speakers: Collection[str]) -> bool:
    """Whether the done file of a shard names one of some speakers among the rows that were not written."""
    return any(LedgerRow(*entry).speaker_id in speakers for entry in done["ledger"])


def without(
    speakers: Collection[str], done: dict[str, Any], source: BinaryIO, index: pa.Table, paths: Sequence[Path]
) -> dict[str, Any]:
    """Writes what is left of a shard and returns its done file.

    Args:
        speakers: who is left out, as `namespace/speaker_id`.
        done: content of the shard's done file.
        source: its records.
        index: its index, a row for each record in the order of the records.
        paths: of the records and the index to write; both are left empty if no record is left.

    Raises:
        CorruptRecordError: a record does not match its checksum, or the index.
    """
    kept = pc.invert(pc.is_in(index["speaker_id"], pa.array(sorted(speakers), pa.string())))
    offsets, digest, sums = [], hashlib.sha256(), FrameSums()
    offset = 0
    with paths[0].open("wb") as stream:
        found = records.read_records(source, f"{done['split']} shard {done['shard']}")
        for keep, expected, (at, data) in zip(kept.to_pylist(), index["offset"].to_pylist(), found, strict=False):
            if at != expected:
                raise CorruptRecordError(f"the index says offset {expected}, the record lies at {at}")
            if not keep:
                continue
            framed = records.frame(data)
            stream.write(framed)
            digest.update(framed)
            offsets.append(offset)
            offset += len(framed)
            sums.add(records.decode_example(data, f"offset {at}")[0])
    left = index.filter(kept)
    moved = pc.subtract(pa.array(offsets, pa.int64()), left["offset"])
    for name in ("offset", "payload_offset"):
        place = left.column_names.index(name)
        left = left.set_column(place, index.schema.field(name), pc.add(left[name], moved))
    utterances = len(left.group_by(["label", "utterance_index"]).aggregate([]))
    copy = pc.shift_right(left["flags"], pa.scalar(COPY_SHIFT, pa.int32()))
    copies = left.append_column("copy", copy).filter(pc.greater(copy, 0))
    people = pc.count_distinct(left["label"]).as_py()
    return {
        **done,
        **_counts(done, utterances, people, speakers),
        "copies": len(copies.group_by(["label", "utterance_index", "copy"]).aggregate([])),
        **sums.to_json(),
        "records_bytes": offset,
        "records_sha256": digest.hexdigest(),
        **write_index(left, paths[1]),
    }


def without_rows(speakers: Collection[str], done: dict[str, Any]) -> dict[str, Any]:
    """The done file of a shard without records, once the rows of some speakers are forgotten."""
    return {**done, **_counts(done, 0, 0, speakers)}


def _counts(done: dict[str, Any], utterances: int, people: int, speakers: Collection[str]) -> dict[str, Any]:
    rows = [LedgerRow(*entry) for entry in done["ledger"]]
    ledger = [row for row in rows if row.speaker_id not in speakers]
    return {
        "rows": utterances + len(ledger),
        "utterances": utterances,
        "speakers": people,
        "filtered": _by_reason(ledger, "filtered"),
        "rejected": _by_reason(ledger, "rejected"),
        "ledger": [list(row) for row in ledger],
    }


def _by_reason(ledger: list[LedgerRow], kind: str) -> dict[str, int]:
    return dict(sorted(Counter(row.reason for row in ledger if row.kind == kind).items()))
