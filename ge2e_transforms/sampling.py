"""The plan of an epoch: which crops make which batch of N speakers x M utterances. Pure NumPy, no files.

A plan is a pure function of (index, options, epoch). Three steps, each described where it is done: slots (the crops
that utterances can give: `supply.Supply`), groups of M slots of one speaker (`Sampler`), batches of N groups
(`placing.place`). What does not depend on the epoch is worked out once, so the number of batches is known
beforehand. Draws are keyed by (seed, label, utterance, stream, epoch): where a crop starts does not depend on the
order of the records, on other speakers or on the machine.
"""

from __future__ import annotations

import decimal
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ge2e_transforms.checks import check_integer
from ge2e_transforms.placing import Ints, batch_count, largest, place
from ge2e_transforms.rng import Bits, below, derive
from ge2e_transforms.supply import Supply, offsets

Int32s = npt.NDArray[np.int32]

# Ids of the streams of random bits. A change of their order changes every plan.
_SPEAKERS, _BATCHES, _UTTERANCES, _SESSIONS, _ORDER, _TURN, _START = range(7)

# 'uniform': all but one in this many of the speakers can fill the quota.
_BELOW_QUOTA = 10
# Slots that are worked out at a time; bounds the memory beside the plan.
_CHUNK_SLOTS = 1 << 20


@dataclass(frozen=True)
class Plan:
    """All batches of one epoch.

    Attributes:
        records: int32 `[B, N*M]`, row numbers of the split's index.
        starts: int32 `[B, N*M]`, first row of the crop within the record; 0 where the record is shorter.
        labels: int32 `[B, N]`, the speakers: each label holds for M columns side by side.
    """

    records: Int32s
    starts: Int32s
    labels: Int32s

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
    """One epoch's view of what each speaker laid out for its walk: see `Sampler`."""

    owner: Int32s  # utterance of each place
    shift: Ints  # per utterance: place + shift is its slot, modulo its slots
    skip: Ints  # per speaker: first group of this epoch
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
        supply: of the split, for the same M, crop and policies.
        speakers_per_batch: N; by default that of the supply's options.

    Attributes:
        batches_per_epoch: B, the same in every epoch, and as large as can be.
        quota: int64 `[speakers]`, groups that each speaker of the supply gives in an epoch; to fill whole batches, a
            few give one less.

    Raises:
        SamplingError: fewer than N speakers hold a group.
    """

    def __init__(self, supply: Supply, speakers_per_batch: int | None = None) -> None:
        self.options, self.supply = supply.options, supply
        self.speakers_per_batch = speakers_per_batch or self.options.speakers_per_batch
        supply.require(self.speakers_per_batch)
        wanted = quotas(supply.held, self.options.exponent)
        self.batches_per_epoch = batch_count(wanted, self.speakers_per_batch)
        self.quota = self._spare_repetitions(np.minimum(wanted, self.batches_per_epoch))
        whole = supply.distinct_groups if self.options.distinct == "prefer" else supply.held
        self._walk = np.maximum(1, whole // np.maximum(1, self.quota))
        self._groups = self._walk * self.quota
        places = self._groups * self.options.utterances_per_speaker
        self._first_place = offsets(places)
        self._level = largest(lambda level: self._laid_out(level) <= places, places)
        self._extra = places - self._laid_out(self._level)
        # Walks after which all slots of an utterance had their turn.
        self._rounds = -(-supply.slots // np.maximum(1, self._level)[supply.speaker])
        self._speaker_key = derive(int(self.options.seed), _SPEAKERS, supply.label)
        self._utterance_key = derive(self._speaker_key[supply.speaker], _UTTERANCES, supply.number)

    def plan(self, epoch: int) -> Plan:
        """All batches of an epoch (counted from 0); see `Plan`."""
        check_integer("epoch", epoch, 0, 1 << 62)
        n, m, batches = self.speakers_per_batch, self.options.utterances_per_speaker, self.batches_per_epoch
        seats = place(self.quota, batches, n, derive(int(self.options.seed), _BATCHES, epoch))
        layout = self._layout(epoch)
        records, starts = np.empty((2, batches * n, m), dtype=np.int32)
        step = max(1, _CHUNK_SLOTS // m)
        for first in range(0, batches * n, step):
            groups = slice(first, first + step)
            owner, slot = self._slots(layout, seats.speaker[groups], seats.number[groups])
            records[groups], starts[groups] = self._crops(owner, slot, layout.start_key)
        labels = self.supply.label[seats.speaker[seats.group]].astype(np.int32)
        return Plan(records[seats.group].reshape(batches, -1), starts[seats.group].reshape(batches, -1), labels)

    def coverage(self) -> dict[str, int]:
        """What an epoch uses and leaves, in slots, and what was relaxed.

        `slots` = `used` + all that is `left_...` - `repeated_slots`. What is left has its turn in other epochs, but for
        `left_too_few` (of speakers who cannot give one group) and `short_records_dropped`; `epochs_for_all` says in
        about how many.
        """
        m, supply = self.options.utterances_per_speaker, self.supply
        have = np.where(supply.held > 0, supply.speaker_slots, 0)
        used = self.batches_per_epoch * self.speakers_per_batch * m
        excess = self._groups * m - self._laid_out(self._groups)
        return {
            "speakers": len(supply.label),
            "eligible_speakers": supply.eligible,
            "batches": self.batches_per_epoch,
            "slots": int(supply.speaker_slots.sum()),
            "used": used,
            "left_too_few": int(supply.speaker_slots.sum() - have.sum()),
            "left_for_whole_groups": int(np.maximum(0, have - supply.held * m).sum()),
            "left_for_later_epochs": int((supply.held - self.quota).sum()) * m,
            "left_for_whole_batches": int(self.quota.sum()) * m - used,
            "repeated_slots": int(np.maximum(0, supply.held * m - have).sum()),
            "repeated_utterances": int((np.maximum(0, excess) // self._walk).sum()),
            "short_records_dropped": supply.short_dropped,
            "epochs_for_all": int((self._walk[supply.speaker] * self._rounds).max()),
        }

    def _spare_repetitions(self, quota: Ints) -> Ints:
        """Takes groups that whole batches do not need from speakers who would repeat utterances for them.

        So where groups are left to `place` to be cut, nobody repeats an utterance for a group that is not used.
        """
        if self.options.distinct != "prefer":
            return quota
        spare = quota.sum() - self.batches_per_epoch * self.speakers_per_batch
        repeating = np.maximum(0, quota - np.maximum(1, self.supply.distinct_groups))
        taken: Ints = np.clip(spare - offsets(repeating)[:-1], 0, repeating)
        return quota - taken

    def _laid_out(self, level: Ints) -> Ints:
        """Slots in each speaker's layout when no utterance has more than `level`."""
        return self.supply.speaker_sums(np.minimum(self.supply.slots, level[self.supply.speaker]))

    def _layout(self, epoch: int) -> _Layout:
        supply = self.supply
        walk, turn = np.divmod(np.int64(epoch), self._walk)
        walk = walk[supply.speaker]
        session = derive(self._speaker_key[supply.speaker], _SESSIONS, walk, supply.session)
        order = np.lexsort((derive(self._utterance_key, _ORDER, walk), session, supply.speaker))
        share = self._shares(order)
        first = np.empty_like(share)
        first[order] = offsets(share)[:-1]
        begin = below(derive(self._utterance_key, _TURN, walk // self._rounds), supply.slots)
        begin += walk % self._rounds * np.maximum(1, self._level)[supply.speaker]
        start_key = derive(self._utterance_key, _START, epoch)
        return _Layout(np.repeat(order.astype(np.int32), share), begin - first, turn, start_key)

    def _shares(self, order: Ints) -> Ints:
        """Slots in the layout of each utterance in layout order: the level, and one more for the first with more."""
        slots, level = self.supply.slots[order], self._level[self.supply.speaker]
        more = slots > level
        before: Ints = np.cumsum(more) - more
        chosen = more & (before - self.supply.speaker_firsts(before) < self._extra[self.supply.speaker])
        return np.minimum(slots, level) + chosen

    def _slots(self, layout: _Layout, speaker: Ints, number: Ints) -> tuple[Int32s, Ints]:
        """Utterance and slot, `[groups, M]` each, of what the layout deals to these groups.

        The groups of one epoch are k apart in the walk, so that neighbours in the layout fall into different epochs.
        """
        first = self._first_place[speaker] + layout.skip[speaker] + number * self._walk[speaker]
        places = first[:, None] + np.arange(self.options.utterances_per_speaker) * self._groups[speaker, None]
        owner = layout.owner[places]
        return owner, (places + layout.shift[owner]) % self.supply.slots[owner]

    def _crops(self, owner: Int32s, slot: Ints, start_key: Bits) -> tuple[Ints, Ints]:
        """Record and first row of slots of utterances."""
        supply, crop = self.supply, self.options.crop_frames
        inside = supply.first_slot[owner] + slot % (supply.slots // supply.copies)[owner]
        record = supply.record_of_slot[inside]
        part, parts = inside - supply.record_first[record], supply.record_slots[record]
        possible = np.maximum(1, supply.record_frames[record] - crop + 1)
        if self.options.crops == "grid":
            first_part = supply.record_first[record] - supply.first_slot[owner]
            spare = possible - (parts - 1) * crop
            start = part * crop + below(derive(start_key[owner], first_part), spare)
        else:
            low, high = part * possible // parts, (part + 1) * possible // parts
            start = low + below(derive(start_key[owner], slot), high - low)
        return supply.record[record], start
