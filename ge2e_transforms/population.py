"""Who takes part: the speakers of a split that filters leave, and where their records stand in its index. Pure NumPy.

A *unit* is what is planned as one: a speaker; with `batch_sources='single'` a speaker within one source; with
`locality` a speaker within one shard. Its records are a run of rows, so that a plan can be made some units at a time,
and what is held in memory does not grow with the number of records. It must not know of epochs or of chance. What is
said of units is int64, one entry a unit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ge2e_transforms.checks import check_integer
from ge2e_transforms.runs import Ints, offsets
from ge2e_transforms.supply import SamplingOptions, Supply, require

# Records whose supply is worked out at a time; bounds the memory beside the plan (about 150 bytes a record).
CHUNK_RECORDS = 1 << 17
_THREADS = 2
# Rows of a column that are compared at a time, so that a mapped column is never copied whole.
_STEP = 1 << 22
_COLUMNS = ("frames", "label", "utterance_index", "session_index")


class Index(Protocol):
    """Integer columns of all records of a split by name, such as `split_index.SplitIndex` or a dict."""

    def __getitem__(self, name: str, /) -> npt.NDArray[Any]: ...


@dataclass(frozen=True)
class Filters:
    """Which speakers and records take part.

    Attributes:
        only: labels; None for all.
        excluded: labels.
        sources: numbers of sources (`source_index`); None for all.
        min_utterances, min_sessions: of a speaker, counted after the other filters.
    """

    only: tuple[int, ...] | None = None
    excluded: tuple[int, ...] = ()
    sources: tuple[int, ...] | None = None
    min_utterances: int = 0
    min_sessions: int = 0

    def __post_init__(self) -> None:
        check_integer("min_utterances", self.min_utterances, 0, 1 << 31)
        check_integer("min_sessions", self.min_sessions, 0, 1 << 31)


class Population:
    """The units of a split, sorted by (source, label, shard), and their holdings.

    Args:
        index: columns `frames`, `label`, `utterance_index`, `session_index`, and `source_index` where sources matter.
        options: what a batch is.
        filters: who takes part.
        first_rows: int64 `[shards + 1]`, first row of each shard; for `locality`.

    Attributes:
        label, source, shard: int64 `[units]`; source and shard are 0 where they do not matter.
        held, distinct_groups, slots, utterances, sessions, copies: int64 `[units]`; see `Supply`. `held` and `slots`
            are 0 for units that the minimum counts leave out.
        speakers: int64, labels of the speakers that the filters leave, rising.
        short_dropped: records without a slot.
    """

    def __init__(
        self,
        index: Index,
        options: SamplingOptions,
        filters: Filters | None = None,
        first_rows: npt.NDArray[np.integer] | None = None,
    ) -> None:
        self.options, self._index = options, index
        filters = filters or Filters()
        chosen, keys = _sorted_rows(index, options, filters, first_rows)
        self._order = chosen
        heads = _heads(keys)
        self.source, self.label, self.shard = (column[heads].astype(np.int64) for column in keys)
        self._first = heads
        self._count = np.diff(heads, append=len(keys[1]))
        kept = np.ones(len(heads), dtype=np.bool_) if filters.only is None else np.isin(self.label, filters.only)
        self._keep(kept & ~np.isin(self.label, filters.excluded))
        self._count_supply()
        self._refuse_small(filters)

    def __len__(self) -> int:
        return len(self.label)

    @functools.cached_property
    def eligible(self) -> int:
        """Speakers that hold a group: the largest N. With `batch_sources='single'` of the source with most of them."""
        pairs = np.unique(np.stack([self.source, self.label])[:, self.held > 0], axis=1)
        return int(np.bincount(pairs[0]).max(initial=0))

    def require(self, speakers: int) -> None:
        """Refuses more speakers in a batch than can take part; see `supply.require`."""
        strict = self.options.distinct == "strict"
        of_unit = (self.sessions if self.options.distinct_sessions else self.utterances) if strict else self.slots
        labels, where = np.unique(self.label, return_inverse=True)
        have = np.zeros(len(labels), dtype=np.int64)
        np.maximum.at(have, where, of_unit)
        require(speakers, self.eligible, have, self.options)

    def wanted(self, quotas: Callable[[Ints, float], Ints]) -> Ints:
        """Groups that each unit would give in an epoch: `quotas` of what it holds, source by source."""
        wanted = np.zeros_like(self.held)
        for source in np.unique(self.source):
            mine = self.source == source
            wanted[mine] = quotas(self.held[mine], self.options.exponent)
        return wanted

    def chunks(self, units: Ints) -> Iterator[slice]:
        """Parts of an array of units whose records are looked at together."""
        ends = np.cumsum(self._count[units])
        first = 0
        while first < len(units):
            before = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + CHUNK_RECORDS, side="right")))
            yield slice(first, last)
            first = last

    def for_chunks(self, units: Ints, work: Callable[[slice], None]) -> None:
        """Does some work for each of the `chunks` of units, two at a time: NumPy lets go of Python's lock meanwhile."""
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(work, self.chunks(units)):
                pass

    def supply(self, units: Ints) -> tuple[Supply, npt.NDArray[np.integer]]:
        """What units (rising numbers) have, with unit numbers for labels, and the rows of the supply's records."""
        rows = self._rows(units)
        columns = {name: self._index[name][rows] for name in _COLUMNS}
        columns["label"] = np.repeat(units, self._count[units])
        return Supply(columns, self.options), rows

    def _rows(self, units: Ints) -> npt.NDArray[np.integer]:
        first, count = self._first[units], self._count[units]
        places = np.repeat(first - offsets(count)[:-1], count) + np.arange(int(count.sum()))
        return places if self._order is None else self._order[places]

    def _keep(self, mask: npt.NDArray[np.bool_]) -> None:
        for name in ("label", "source", "shard", "_first", "_count"):
            setattr(self, name, getattr(self, name)[mask])

    def _count_supply(self) -> None:
        names = ("held", "distinct_groups", "speaker_slots", "speaker_copies", "utterances", "sessions")
        totals = np.zeros((len(names), len(self)), dtype=np.int64)
        dropped: list[int] = []
        everyone = np.arange(len(self))

        def count(chunk: slice) -> None:
            supply, _ = self.supply(everyone[chunk])
            totals[:, supply.label] = [getattr(supply, name) for name in names]
            dropped.append(supply.short_dropped)

        self.for_chunks(everyone, count)
        self.short_dropped = sum(dropped)
        self.held, self.distinct_groups, self.slots, self.copies, self.utterances, self.sessions = totals

    def _refuse_small(self, filters: Filters) -> None:
        """Units of speakers below the minimum counts hold nothing."""
        labels, where = np.unique(self.label, return_inverse=True)
        small = np.zeros(len(labels), dtype=np.bool_)
        for least, have in ((filters.min_utterances, self.utterances), (filters.min_sessions, self.sessions)):
            small |= np.bincount(where, weights=have, minlength=len(labels)) < least
        self.held, self.slots = (np.where(small[where], 0, values) for values in (self.held, self.slots))
        self.speakers = labels[~small]


def _sorted_rows(
    index: Index, options: SamplingOptions, filters: Filters, first_rows: npt.NDArray[np.integer] | None
) -> tuple[npt.NDArray[np.integer] | None, list[npt.NDArray[Any]]]:
    """Rows that take part in the order of their units (None: all as they are), and their sources, labels and shards."""
    label = index["label"]
    rows = None
    if filters.sources is not None:
        rows = np.flatnonzero(np.isin(index["source_index"], filters.sources)).astype(np.int32)
    nothing = np.broadcast_to(np.int32(0), label.shape)
    source = index["source_index"] if options.batch_sources == "single" else nothing
    shard = nothing
    if options.locality and first_rows is not None:
        shard = np.repeat(np.arange(len(first_rows) - 1, dtype=np.int32), np.diff(first_rows))
    keys = [column if rows is None else column[rows] for column in (source, label, shard)]
    if _rising(keys):
        return rows, keys
    order = np.lexsort(keys[::-1]).astype(np.int32)  # stable: the records of a unit stay in order
    return (order if rows is None else rows[order]), [column[order] for column in keys]


def _rising(keys: list[npt.NDArray[Any]]) -> bool:
    """Whether rows are in the order of their keys."""
    for first in range(0, len(keys[0]) - 1, _STEP):
        before, after = ([column[first + step :][:_STEP] for column in keys] for step in (0, 1))
        less = np.zeros(len(after[0]), dtype=np.bool_)
        for left, right in zip(before[::-1], after[::-1], strict=True):
            left = left[: len(right)]
            less = (right < left) | ((right == left) & less)
        if np.any(less):
            return False
    return True


def _heads(keys: list[npt.NDArray[Any]]) -> Ints:
    """Rows where a unit begins."""
    heads = [np.zeros(min(1, len(keys[0])), dtype=np.int64)]
    for first in range(0, len(keys[0]) - 1, _STEP):
        last = min(first + _STEP, len(keys[0]) - 1)
        new = np.zeros(last - first, dtype=np.bool_)
        for column in keys:
            new |= column[first + 1 : last + 1] != column[first:last]
        heads.append(first + 1 + np.flatnonzero(new))
    return np.concatenate(heads)
