"""Where the records of whole utterances lie, from the indexes of their shards.

Offsets and lengths are bytes, frames stored rows. It must not know how records are read.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ge2e_transforms.errors import CorruptRecordError
from ge2e_transforms.runs import Ints, changes, run_sums
from ge2e_transforms.schema import COPY_SHIFT

# Columns of a shard's index that say where the records of its utterances lie.
PLACE_COLUMNS = ("offset", "length", "frames", "label", "utterance_index", "start", "flags")


class RecordRow(NamedTuple):
    """Where a record lies: number of its shard within the split, offset and length in bytes of the framed record."""

    shard: int
    offset: int
    length: int


class UtteranceRows(NamedTuple):
    """Where the utterances of some shards lie, in the order stored; the parts of each in the order spoken."""

    shard: Ints  # per record, as offset and length
    offset: Ints
    length: Ints
    first: Ints  # per utterance: its first record
    records: Ints  # per utterance, as what follows
    frames: Ints
    label: Ints

    def rows(self, utterance: int) -> list[RecordRow]:
        """The records of an utterance, in the order spoken."""
        part = slice(self.first[utterance], self.first[utterance] + self.records[utterance])
        columns = (column[part].tolist() for column in (self.shard, self.offset, self.length))
        return list(map(RecordRow, *columns))


def utterance_rows(table: pa.Table, shard: int, shard_bytes: int) -> UtteranceRows:
    """The utterances of a shard from its index, with `PLACE_COLUMNS`.

    Raises:
        CorruptRecordError: a record would not lie within the `shard_bytes` of its file.
    """
    offset, length, frames, label, number, start, flags = (table[name].to_numpy() for name in PLACE_COLUMNS)
    unfit = np.flatnonzero((offset < 0) | (length < 0) | (offset > shard_bytes) | (length > shard_bytes - offset))
    if len(unfit):
        row = int(unfit[0])
        raise CorruptRecordError(
            f"row {row} of the index of shard {shard}: expected a record within its {shard_bytes} bytes, got "
            f"{length[row]} bytes at offset {offset[row]}: the index is damaged, or not of this shard"
        )
    new = changes(label, number, flags >> COPY_SHIFT)  # a copy of an utterance has its number
    order = np.lexsort((start, np.cumsum(new)))  # stable: parts of one start stay as stored
    first = np.flatnonzero(new)
    counts = np.diff(first, append=len(table))
    total = run_sums(frames.astype(np.int64), first)
    shards = np.full(len(table), shard)
    return UtteranceRows(shards, offset[order], length[order], first, counts, total, label[first])


def joined(parts: Sequence[UtteranceRows]) -> UtteranceRows | None:
    """The utterances of several shards, in order; None of no shard."""
    if not parts:
        return None
    before = itertools.accumulate((len(part.offset) for part in parts), initial=0)
    moved = [part._replace(first=part.first + shift) for part, shift in zip(parts, before, strict=False)]
    return UtteranceRows(*(np.concatenate(columns) for columns in zip(*moved, strict=True)))
