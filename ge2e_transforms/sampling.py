"""The plan of an epoch: which crops make which batch of N speakers x M utterances. Pure NumPy, no files.

A plan is a pure function of (index, options, epoch). Three steps, each described where it is done: slots (the crops
that utterances can give: `supply.Supply`), groups of M slots of one speaker (`Sampler`), batches of N groups
(`placing.place`). What does not depend on the epoch is worked out once, so the number of batches is known
beforehand. Draws are keyed by (seed, label, utterance, stream, epoch): where a crop starts does not depend on the
order of the records, on other speakers or on the machine. A large epoch is planned in parts (`parts`).
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ge2e_transforms.checks import check_integer
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.parts import Blocks, Piece, Windows
from ge2e_transforms.placing import Ints, Seats, batch_count, largest, place, place_in_order
from ge2e_transforms.population import Population
from ge2e_transforms.rng import Bits, below, derive
from ge2e_transforms.supply import Supply, changes, offsets, run_sums

Int32s = npt.NDArray[np.int32]
# The order of speakers (labels) that batches of an epoch follow, neighbours together.
SpeakerOrder = Callable[[int], Sequence[int]]

# Ids of the streams of random bits. A change of their order changes every plan.
_SPEAKERS, _BATCHES, _UTTERANCES, _SESSIONS, _ORDER, _TURN, _START, _LENGTH, _SHIFT, _PARTS, _MIX = range(11)

# 'uniform': all but one in this many of the speakers can fill the quota.
_BELOW_QUOTA = 10
# An epoch of more slots is planned in blocks of about so many.
_BLOCK_SLOTS = 20_000_000
# Slots that are worked out at a time; bounds the memory beside the plan.
_CHUNK_SLOTS = 1 << 19
# Speakers that `coverage` looks at to say how many others one meets.
_LOOKED_AT = 256


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

    def batch_labels(self, batch: int) -> Ints:
        """Labels int64 `[N*M]` of one batch, in runs of M."""
        return np.repeat(self.labels[batch].astype(np.int64), self.records.shape[1] // self.labels.shape[1])


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
    """Groups by the power law, base x (size / base)^exponent, rounded down, at least 1.

    In decimal, since powers of floats differ in their last bits between machines; 1e-9 is for exact roots.
    """
    with decimal.localcontext(decimal.Context(prec=30)):
        ratio = decimal.Decimal(size) / base
        return max(1, math.floor(base * ratio ** decimal.Decimal(exponent) + decimal.Decimal("1e-9")))


class _Layout(NamedTuple):
    """One epoch's view of what each speaker laid out for its walk: see `Sampler`. Speakers are those of a supply."""

    owner: Int32s  # utterance of each place
    shift: Ints  # per utterance: place + shift is its slot, modulo its slots
    first_place: Ints  # per speaker
    skip: Ints  # per speaker: first group of this epoch
    walk: Ints  # per speaker: epochs in a walk
    groups: Ints  # per speaker: groups in a walk
    start_key: Bits  # per utterance


class Sampler:
    """Plans of all epochs, for one split and one N x M.

    Each speaker goes on *walks* of k epochs, in which it comes to k x quota different groups, its quota in each epoch;
    a new walk forms new groups. To form g groups, its utterances are laid out in random order, session by
    session, each with some of its slots, and place p of the layout belongs to group p mod g. Every utterance has up to
    `level` slots in the layout, some have one more, with the lowest level that gives g x M in all. So an utterance
    has more than g slots there, and comes twice into a group, only where g groups cannot be had without; and
    the slots of a session are spread as evenly as can be. Which slots of an utterance take part goes round
    from walk to walk, so that all get their turn.

    Args:
        population: who takes part, for the same M, crop and policies.
        speakers_per_batch: N; by default that of the population's options.
        speaker_order: labels in an order of which neighbours meet, by epoch; see `placing.place_in_order`. Labels that
            are left out of it follow, rising.

    Attributes:
        batches_per_epoch: B, the same in every epoch, and as large as can be.
        parts: of each epoch.
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
        distinct = self.options.distinct == "prefer"
        whole = population.distinct_groups if distinct else population.held
        self._walk = np.maximum(1, whole // np.maximum(1, self.quota))
        seed = int(self.options.seed)
        self._unit_key = derive(seed, _SPEAKERS, population.label, population.source, population.shard)

    @property
    def has_order(self) -> bool:
        """Whether a `speaker_order` decides who meets whom."""
        return self._speaker_order is not None

    def locate(self, epoch: int, number: int) -> tuple[int, int]:
        """Part and row in its plan of a batch of an epoch."""
        counts = self._parts.batches(self._epoch_key(epoch))
        part = int(np.searchsorted(np.cumsum(counts), number, side="right"))
        return part, number - int(counts[:part].sum())

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

    def coverage(self, epoch: int = 0) -> dict[str, int | float]:
        """What an epoch uses and leaves, in slots, and what was relaxed.

        `slots` = `used` + all that is `left_...` - `repeated_slots`. What is left has its turn in other epochs, but for
        `left_too_few` (of speakers who cannot give one group) and `short_records_dropped`; `epochs_for_all` says in
        about how many. `speakers_met` is how many different others a speaker shares a batch with in this epoch, the
        mean of up to 256 speakers.
        """
        m, units = self.options.utterances_per_speaker, self.population
        have = np.where(units.held > 0, units.slots, 0)
        used = self.batches_per_epoch * self.speakers_per_batch * m
        repeated, epochs_for_all = self._repetitions()
        return {
            "speakers": len(np.unique(units.label)),
            "eligible_speakers": units.eligible,
            "batches": self.batches_per_epoch,
            "slots": int(units.slots.sum()),
            "used": used,
            "left_too_few": int(units.slots.sum() - have.sum()),
            "left_for_whole_groups": int(np.maximum(0, have - units.held * m).sum()),
            "left_for_later_epochs": self.left_for_later_epochs,
            "left_for_whole_batches": int(self.quota.sum()) * m - used,
            "repeated_slots": int(np.maximum(0, units.held * m - have).sum()),
            "repeated_utterances": repeated,
            "short_records_dropped": units.short_dropped,
            "epochs_for_all": epochs_for_all,
            "speakers_met": self._speakers_met(epoch),
        }

    @property
    def left_for_later_epochs(self) -> int:
        """Slots of groups that speakers hold and do not give in an epoch."""
        return int((self.population.held - self.quota).sum()) * self.options.utterances_per_speaker

    @property
    def repeated_utterances(self) -> int:
        """Slots of an epoch whose utterance their group holds already; see `SamplingOptions.distinct`."""
        groups = self._walk * self.quota
        return self._repetitions(np.flatnonzero(groups > self.population.distinct_groups))[0]

    @property
    def epochs_for_all(self) -> int:
        """Epochs in which about every slot has its turn."""
        return self._repetitions()[1]

    def speakers_for_most(self) -> int:
        """The largest N with which an epoch uses nine in ten of the groups that speakers would give; 0 if none does."""
        totals = [self.wanted[self.population.source == source] for source in np.unique(self.population.source)]

        def enough(n: Ints) -> npt.NDArray[np.bool_]:
            used = sum(batch_count(wanted, int(n[0])) * int(n[0]) for wanted in totals) if n[0] else 0
            return np.atleast_1d(not n[0] or used >= 0.9 * self.wanted.sum())

        return int(largest(enough, np.array([self.speakers_per_batch]))[0])

    def _repetitions(self, units: Ints | None = None) -> tuple[int, int]:
        """(repeated utterances of an epoch, epochs in which every slot has its turn), of some units or of all."""
        population, repeated, epochs = self.population, 0, 1
        units = np.arange(len(population)) if units is None else units
        for chunk in population.chunks(units):
            supply, _ = population.supply(units[chunk])
            walk = self._walk[supply.label]
            groups = walk * self.quota[supply.label]
            excess = groups * self.options.utterances_per_speaker - supply.laid_out(groups)
            repeated += int((np.maximum(0, excess) // walk).sum())
            level = self._level(supply, groups * self.options.utterances_per_speaker)
            epochs = max(epochs, int((walk[supply.speaker] * _rounds(supply, level)).max(initial=1)))
        return repeated, epochs

    def _speakers_met(self, epoch: int) -> float:
        labels = [self.plan(epoch, part).labels for part in range(self.parts)]
        names = np.unique(np.concatenate([np.unique(part) for part in labels]))
        looked_at = names[np.linspace(0, len(names) - 1, min(len(names), _LOOKED_AT)).astype(np.int64)]
        met = []
        for name in looked_at:
            others = [part[np.any(part == name, axis=1)] for part in labels]
            met.append(len(np.unique(np.concatenate([part.ravel() for part in others]))) - 1)
        return round(float(np.mean(met)), 1)

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
        for chunk in self.population.chunks(piece.units):
            first = int(ends[chunk.start - 1]) if chunk.start else 0
            places = first + np.flatnonzero(seat_of[first : ends[chunk.stop - 1]] >= 0)
            unit = np.searchsorted(ends, places, side="right")
            number = places - (ends - piece.given)[unit] + piece.first[unit]
            supply, of_record = self.population.supply(piece.units[chunk])
            layout, speaker = self._layout(supply, epoch), np.searchsorted(supply.label, piece.units[unit])
            batch, seat = np.divmod(seat_of[places], n)
            batch = rows[batch]
            plan.labels[batch, seat] = self.population.label[piece.units[unit]]
            for some in _steps(len(places), max(1, _CHUNK_SLOTS // m)):
                to = batch[some], seat[some]
                owner, slot = self._slots(supply, layout, speaker[some], number[some])
                record, starts[to] = self._crops(supply, owner, slot, layout.start_key, plan.frames[batch[some]])
                records[to] = of_record[record]

    def _seat(self, piece: Piece, epoch: int, key: Bits) -> tuple[Int32s, Ints]:
        """The seat of every group of a piece, -1 where none, groups of a unit side by side, and where those end."""
        label = self.population.label[piece.units]
        head = np.flatnonzero(changes(label))
        counts = run_sums(piece.given, head)
        if self._speaker_order is None:
            seats = place(counts, piece.batches, self.speakers_per_batch, key)
        else:
            order = self._ordered(label[head], epoch)
            seats = place_in_order(counts[order], piece.batches, self.speakers_per_batch, key)
            seats = Seats(order[seats.speaker], seats.number, seats.group)
        groups = offsets(counts)[:-1][seats.speaker] + seats.number
        seat_of = np.full(int(counts.sum()), -1, dtype=np.int32)
        seat_of[groups[seats.group.ravel()]] = np.arange(seats.group.size, dtype=np.int32)
        return seat_of, np.cumsum(piece.given)

    def _ordered(self, labels: Ints, epoch: int) -> Ints:
        """Places of rising labels in the order that `speaker_order` asks for."""
        wanted = np.asarray(self._speaker_order(epoch) if self._speaker_order else (), dtype=np.int64)
        unknown = np.setdiff1d(wanted, self.population.label)
        if len(unknown) or len(np.unique(wanted)) < len(wanted):
            raise ConfigError(
                f"speaker_order({epoch}) gave {unknown[:5].tolist() or 'a label twice'}: expected labels of speakers "
                "of the split, each at most once"
            )
        rank = np.full(int(self.population.label.max()) + 1, len(wanted))
        rank[wanted] = np.arange(len(wanted))
        return np.argsort(rank[labels], kind="stable")

    def _level(self, supply: Supply, places: Ints) -> Ints:
        """The most slots of an utterance that each speaker lays out, but for the first few, who have one more."""
        return largest(lambda level: supply.laid_out(level) <= places, np.minimum(places, supply.richest))

    def _layout(self, supply: Supply, epoch: int) -> _Layout:
        unit_key, k = self._unit_key[supply.label], self._walk[supply.label]
        groups = k * self.quota[supply.label]
        places = groups * self.options.utterances_per_speaker
        level = self._level(supply, places)
        walk, turn = np.divmod(np.int64(epoch), k)
        walk = walk[supply.speaker]
        utterance_key = derive(unit_key[supply.speaker], _UTTERANCES, supply.number)
        session = derive(unit_key[supply.speaker], _SESSIONS, walk, supply.session)
        order = _shuffled(supply.speaker, session, derive(utterance_key, _ORDER, walk))
        share = _shares(supply, order, level, places - supply.laid_out(level))
        first = np.empty_like(share)
        first[order] = offsets(share)[:-1]
        rounds = _rounds(supply, level)
        begin = below(derive(utterance_key, _TURN, walk // rounds), supply.slots)
        begin += walk % rounds * np.maximum(1, level)[supply.speaker]
        owner = np.repeat(order.astype(np.int32), share)
        return _Layout(owner, begin - first, offsets(places), turn, k, groups, derive(utterance_key, _START, epoch))

    def _slots(self, supply: Supply, layout: _Layout, speaker: Ints, number: Ints) -> tuple[Int32s, Ints]:
        """Utterance and slot, `[groups, M]` each, of what the layout deals to these groups.

        The groups of one epoch are k apart in the walk, so that neighbours in the layout fall into different epochs.
        """
        first = layout.first_place[speaker] + layout.skip[speaker] + number * layout.walk[speaker]
        places = first[:, None] + np.arange(self.options.utterances_per_speaker) * layout.groups[speaker, None]
        owner = layout.owner[places]
        return owner, (places + layout.shift[owner]) % supply.slots[owner]

    def _crops(
        self, supply: Supply, owner: Int32s, slot: Ints, start_key: Bits, lengths: Int32s
    ) -> tuple[Int32s, Ints]:
        """Record and first row of slots of utterances, `[groups, M]` each; `lengths` are rows of a crop, `[groups]`."""
        longest = self.options.longest
        inside = supply.first_slot[owner] + slot % (supply.slots // supply.copies)[owner]
        record = supply.record_of_slot[inside]
        part, parts = inside - supply.record_first[record], supply.record_slots[record]
        frames = supply.record_frames[record]
        possible = np.maximum(1, frames - longest + 1)
        if self.options.crops == "grid":
            first_part = supply.record_first[record] - supply.first_slot[owner]
            spare = possible - (parts - 1) * longest
            start = part * longest + below(derive(start_key[owner], first_part), spare)
        else:
            low, high = part * possible // parts, (part + 1) * possible // parts
            start = low + below(derive(start_key[owner], slot), high - low)
        if len(self.options.lengths) > 1:  # a shorter crop lies anywhere in the place of the longest
            room = np.minimum(frames, longest) - np.minimum(frames, lengths[:, None])
            start += below(derive(start_key[owner], _SHIFT, slot), room + 1)
        return supply.record[record], start


def _steps(count: int, step: int) -> Iterator[slice]:
    return (slice(first, first + step) for first in range(0, count, step))


def _shares(supply: Supply, order: Ints, level: Ints, extra: Ints) -> Ints:
    """Slots in the layout of each utterance in layout order: the level, and one more for the first with more."""
    slots, most = supply.slots[order], level[supply.speaker]
    more = slots > most
    before: Ints = np.cumsum(more) - more
    chosen = more & (before - supply.speaker_firsts(before) < extra[supply.speaker])
    return np.minimum(slots, most) + chosen


def _shuffled(speaker: Ints, session: Bits, utterance: Bits) -> Ints:
    """Utterances by speaker, session by session in random order, and in random order within; all by one key."""
    free = 64 - int(speaker[-1]).bit_length() if len(speaker) else 64
    of_session = free // 2
    keys = speaker.astype(np.uint64) << np.uint64(free % 64)
    keys |= session >> np.uint64(64 - of_session) << np.uint64(free - of_session)
    keys |= utterance >> np.uint64(64 - free + of_session)
    return np.argsort(keys, kind="stable")


def _rounds(supply: Supply, level: Ints) -> Ints:
    """Walks after which all slots of an utterance had their turn."""
    return -(-supply.slots // np.maximum(1, level)[supply.speaker])
