"""The integers that the index of a split holds of each record, and where records lie by them. Pure NumPy.

Columns are integers, one entry a record; offsets and lengths are bytes. It must not know how an index is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ge2e_transforms.errors import CorruptRecordError
from ge2e_transforms.records import FOOTER_BYTES, HEADER_BYTES
from ge2e_transforms.runs import offsets


class Places(NamedTuple):
    """Where records lie: int64 `[n]` each."""

    shard: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]  # of the framed record in its file
    length: npt.NDArray[np.int64]  # of the framed record
    payload: npt.NDArray[np.int64]  # offset of the first value in the file


class SplitIndex:
    """The integers of all records of a split, in record order: `schema.SPLIT_COLUMNS`.

    Columns of a large index are read-only views of a file that is mapped into memory.

    Args:
        columns: integers `[records]` each, by name.
        shards: what metadata says of each shard, in order.
        row_bytes: of a stored row: a frame, or a sample of a raw dataset.

    Attributes:
        first_rows: int64 `[shards + 1]`, the first row of each shard, and last the number of rows.
    """

    def __init__(
        self, columns: Mapping[str, npt.NDArray[Any]], shards: Sequence[dict[str, Any]], row_bytes: int
    ) -> None:
        self._columns = columns
        self._row_bytes = row_bytes
        self.first_rows = offsets(np.array([entry["records"] for entry in shards], dtype=np.int64))
        self._ends = np.array([entry["records_bytes"] for entry in shards], dtype=np.int64)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._columns[name]

    def __len__(self) -> int:
        return int(self.first_rows[-1])

    def shard(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """The shard of each row."""
        return np.searchsorted(self.first_rows, rows, side="right") - 1

    def places(self, rows: npt.NDArray[np.integer]) -> Places:
        """Where the records of rows lie: one ends where the next of its shard, or the shard, does.

        Raises:
            CorruptRecordError: a record would not lie within its shard, or be too short for its frames.
        """
        shard, offset = self.shard(rows), self["offset"][rows]
        following = np.asarray(rows, dtype=np.int64) + 1
        last = following == self.first_rows[shard + 1]
        end = np.where(last, self._ends[shard], self["offset"][np.where(last, 0, following)])
        payload = end - FOOTER_BYTES - self["frames"][rows].astype(np.int64) * self._row_bytes
        unfit = (offset < 0) | (payload < offset + HEADER_BYTES) | (end > self._ends[shard])
        if np.any(unfit):
            row = int(np.asarray(rows)[np.flatnonzero(unfit)[0]])
            raise CorruptRecordError(
                f"row {row} of a split's index says {self['frames'][row]} frames at offset {self['offset'][row]}, for "
                "which there is no room before the next record: the index is damaged, or not of these shards"
            )
        return Places(shard, offset, end - offset, payload)
