"""The plan of an epoch: which crops make which batch of N speakers x M utterances. Pure NumPy, no files.

A plan is a pure function of (index, options, epoch). Three steps, each described where it is done: slots (the crops
that utterances can give: `supply.Supply`), groups of M slots of one speaker (`dealing.Dealer`), batches of N groups
(`placing.place`). What does not depend on the epoch is worked out once, so the number of batches is known beforehand.
Draws are keyed by (seed, label, utterance, stream, epoch): where a crop starts does not depend on the order of the
records, on other speakers or on the machine. A large epoch is planned in parts (`parts`). Lengths and starts are stored
rows. It must not know where records lie, or how they are read.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ge2e_transforms.checks import check_integer
from ge2e_transforms.dealing import Dealer
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.parts import Blocks, Piece, Windows
from ge2e_transforms.placing import Seats, place, place_in_order
from ge2e_transforms.population import Population
from ge2e_transforms.rng import Bits, below, derive
from ge2e_transforms.runs import Ints, changes, offsets, run_sums

Int32s = npt.NDArray[np.int32]
# The order of speakers (labels) that batches of an epoch follow, neighbours together.
SpeakerOrder = Callable[[int], Sequence[int]]

# Ids of the streams of random bits. A change of their order changes every plan.
_BATCHES, _LENGTH, _PARTS, _MIX = range(10, 14)

# 'uniform': all but one in this many of the speakers can fill the quota.
_BELOW_QUOTA = 10
# An epoch of more slots is planned in blocks of about so many.
_BLOCK_SLOTS = 20_000_000
# Slots that are worked out at a time; bounds the memory beside the plan.
_CHUNK_SLOTS = 1 << 19


class Plan:
    """The batches of one part of an epoch.

    Args:
        table: int32 `[B, 2*N*M + N + 1]`, one row a batch: records, starts, labels, rows of a crop. May be mapped from
            a file.
        speakers_per_batch: N.

    Attributes:
        records: int32 `[B, N*M]`, row numbers of the split's index.
        starts: int32 `[B, N*M]`, first row of the crop within the record; 0 where the record is shorter.
        labels: int32 `[B, N]`, the speakers: each label holds for M columns side by side.
        frames: int32 `[B]`, rows of each crop of a batch.
    """

    def __init__(self, table: Int32s, speakers_per_batch: int) -> None:
        size = (table.shape[1] - speakers_per_batch - 1) // 2
        self.table = table
        self.records, self.starts = table[:, :size], table[:, size : 2 * size]
        self.labels, self.frames = table[:, 2 * size : -1], table[:, -1]


def quotas(held: Ints, exponent: float) -> Ints:
    """Groups that each speaker gives in an epoch, of those it holds; see `SamplingOptions.speakers`."""
    if exponent == 1 or not np.any(held):
        return held
    some = np.sort(held[held > 0])
    base = int(some[len(some) // _BELOW_QUOTA])
    if exponent == 0:
        return np.minimum(held, base)
    sizes, where = np.unique(held, return_inverse=True)
    given: Ints = np.array([_scaled(size, base, exponent) for size in sizes.tolist()], dtype=np.int64)
    return np.minimum(held, given[where])


def _scaled(size: int, base: int, exponent: float) -> int:
    """Groups by the power law, base x (size / base)^exponent, rounded down: at least 1 of at least 1.

    In decimal, since powers of floats differ in their last bits between machines; 1e-9 is for exact roots.
    """
    with decimal.localcontext(decimal.Context(prec=30)):
        ratio = decimal.Decimal(size) / base
        return math.floor(base * ratio ** decimal.Decimal(exponent) + decimal.Decimal("1e-9"))


class Sampler:
    """Plans of all epochs, for one split and one N x M.

    Args:
        population: who takes part, for the same M, crop and policies.
        speakers_per_batch: N; by default that of the population's options.
        speaker_order: labels in an order of which neighbours meet, by epoch; see `placing.place_in_order`. Labels that
            are left out of it follow, rising.

    Attributes:
        batches_per_epoch: B, the same in every epoch, and as large as can be.
        parts: of each epoch.
        dealer: deals the groups.
        wanted: int64 `[units]`, groups that each unit would give in an epoch if batches had room for all.
        quota: int64 `[units]`, groups that each unit of the population gives in an epoch; to fill whole batches, a
            few give one less.

    Raises:
        SamplingError: fewer than N speakers hold a group.
    """

    def __init__(
        self,
        population: Population,
        speakers_per_batch: int | None = None,
        speaker_order: SpeakerOrder | None = None,
    ) -> None:
        self.options, self.population, self._speaker_order = population.options, population, speaker_order
        self.speakers_per_batch = n = speakers_per_batch or self.options.speakers_per_batch
        population.require(n)
        self.wanted = wanted = population.wanted(quotas)
        self._parts: Blocks | Windows
        if self.options.locality:
            self._parts = Windows(population, wanted, n)
            self.quota = self._parts.quota
        else:
            self._parts = Blocks(population, wanted, n, 1)
            slots = self._parts.batches_per_epoch * n * self.options.utterances_per_speaker
            if slots > _BLOCK_SLOTS:
                self._parts = Blocks(population, wanted, n, -(-slots // _BLOCK_SLOTS))
            self._spare_repetitions(self._parts)
            self.quota = self._parts.quota
        self.parts, self.batches_per_epoch = self._parts.parts, self._parts.batches_per_epoch
        self.dealer = Dealer(population, self.quota)
        self._ends: dict[int, Ints] = {}

    @property
    def has_order(self) -> bool:
        """Whether a `speaker_order` decides who meets whom."""
        return self._speaker_order is not None

    def locate(self, epoch: int, number: int) -> tuple[int, int]:
        """Part and row in its plan of a batch of an epoch."""
        ends = self._ends.get(epoch)
        if ends is None:
            ends = np.cumsum(self._parts.batches(self._epoch_key(epoch)))
            self._ends = {**dict(list(self._ends.items())[-1:]), epoch: ends}  # of two epochs
        part = int(np.searchsorted(ends, number, side="right"))
        return part, number - (int(ends[part - 1]) if part else 0)

    def shards(self, epoch: int, part: int) -> list[int]:
        """Shards that hold all records of a part, with `locality`; none without: it may be any of them."""
        windows = isinstance(self._parts, Windows)
        return self._parts.shards(part, self._epoch_key(epoch)).tolist() if windows else []  # type: ignore[union-attr]

    def plan(self, epoch: int, part: int = 0) -> Plan:
        """The batches of a part of an epoch (both counted from 0); see `Plan`.

        The last rows of the plan of a window may be more than the epoch has batches; see `locate`.
        """
        check_integer("epoch", epoch, 0, 1 << 62)
        check_integer("part", part, 0, self.parts)
        pieces = self._parts.pieces(part, self._epoch_key(epoch))
        n, m = self.speakers_per_batch, self.options.utterances_per_speaker
        batches = sum(piece.batches for piece in pieces)
        plan = Plan(np.empty((batches, 2 * n * m + n + 1), dtype=np.int32), n)
        key = derive(int(self.options.seed), _BATCHES, epoch, part)
        lengths = self.options.lengths
        drawn = below(derive(key, _LENGTH, np.arange(batches)), len(lengths))
        plan.frames[:] = lengths.start + drawn * lengths.step
        rows = np.arange(batches)
        if len(pieces) > 1:  # batches of all sources come mixed
            rows = np.argsort(derive(key, _MIX, rows), kind="stable")
        first = 0
        for piece in pieces:
            self._fill(plan, rows[first : first + piece.batches], piece, epoch, derive(key, first))
            first += piece.batches
        return plan

    def _spare_repetitions(self, blocks: Blocks) -> None:
        """Takes groups that whole batches do not need from speakers who would repeat utterances for them.

        So where groups are left to `place` to be cut, nobody repeats an utterance for a group that is not used.
        """
        if self.options.distinct != "prefer":
            return
        for units, spare in blocks.surpluses():
            quota = blocks.quota[units]
            repeating = np.maximum(0, quota - np.maximum(1, self.population.distinct_groups[units]))
            blocks.quota[units] = quota - np.clip(spare - offsets(repeating)[:-1], 0, repeating)

    def _epoch_key(self, epoch: int) -> Bits:
        return derive(int(self.options.seed), _PARTS, epoch)

    def _fill(self, plan: Plan, rows: Ints, piece: Piece, epoch: int, key: Bits) -> None:
        """Writes the batches of a piece to rows of a plan, some units at a time."""
        n, m = self.speakers_per_batch, self.options.utterances_per_speaker
        seat_of, ends = self._seat(piece, epoch, key)
        records, starts = (part.reshape(len(plan.table), n, m) for part in (plan.records, plan.starts))

        def write(chunk: slice) -> None:
            first = int(ends[chunk.start - 1]) if chunk.start else 0
            places = first + np.flatnonzero(seat_of[first : ends[chunk.stop - 1]] >= 0)
            unit = np.searchsorted(ends, places, side="right")
            number = places - (ends - piece.given)[unit] + piece.first[unit]
            supply, of_record = self.population.supply(piece.units[chunk])
            layout, speaker = self.dealer.layout(supply, epoch), np.searchsorted(supply.label, piece.units[unit])
            batch, seat = np.divmod(seat_of[places], n)
            batch = rows[batch]
            plan.labels[batch, seat] = self.population.label[piece.units[unit]]
            for some in _steps(len(places), max(1, _CHUNK_SLOTS // m)):
                to = batch[some], seat[some]
                owner, slot = self.dealer.slots(supply, layout, speaker[some], number[some])
                record, starts[to] = self.dealer.crops(supply, owner, slot, layout.start_key, plan.frames[batch[some]])
                records[to] = of_record[record]

        self.population.for_chunks(piece.units, write)

    def _seat(self, piece: Piece, epoch: int, key: Bits) -> tuple[Int32s, Ints]:
        """The seat of every group of a piece, -1 where none, groups of a unit side by side, and where those end."""
        label = self.population.label[piece.units]
        head = np.flatnonzero(changes(label))
        counts = run_sums(piece.given, head)
        if self._speaker_order is None:
            seats = place(counts, piece.batches, self.speakers_per_batch, key)
        else:
            order = self._ordered(label[head], epoch, self._speaker_order(epoch))
            seats = place_in_order(counts[order], piece.batches, self.speakers_per_batch, key)
            seats = Seats(order[seats.speaker], seats.number, seats.group)
        groups = offsets(counts)[:-1][seats.speaker] + seats.number
        seat_of = np.full(int(counts.sum()), -1, dtype=np.int32)
        seat_of[groups[seats.group.ravel()]] = np.arange(seats.group.size, dtype=np.int32)
        return seat_of, np.cumsum(piece.given)

    def _ordered(self, labels: Ints, epoch: int, order: Sequence[int]) -> Ints:
        """Places of rising labels in the order that `speaker_order` asks for."""
        wanted = np.asarray(order, dtype=np.int64)
        unknown = np.setdiff1d(wanted, self.population.label)
        if len(unknown) or len(np.unique(wanted)) < len(wanted):
            raise ConfigError(
                f"speaker_order({epoch}) gave {unknown[:5].tolist() or 'a label twice'}: expected labels of speakers "
                "of the split, each at most once"
            )
        rank = np.full(int(self.population.label.max()) + 1, len(wanted))
        rank[wanted] = np.arange(len(wanted))
        return np.argsort(rank[labels], kind="stable")


def _steps(count: int, step: int) -> Iterator[slice]:
    return (slice(first, first + step) for first in range(0, count, step))
