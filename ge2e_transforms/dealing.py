"""Groups of M crops of one speaker, dealt from its utterances; and where each crop begins. Pure NumPy.

It must not know of batches, or of who else is in them. Lengths and starts are stored rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ge2e_transforms.placing import largest
from ge2e_transforms.population import Population
from ge2e_transforms.rng import Bits, below, derive
from ge2e_transforms.runs import Ints, offsets
from ge2e_transforms.supply import Supply

Int32s = npt.NDArray[np.int32]

# Ids of the streams of random bits. A change of their order changes every plan.
_SPEAKERS, _UTTERANCES, _SESSIONS, _ORDER, _TURN, _START, _SHIFT = range(7)


class Layout(NamedTuple):
    """One epoch's view of what each speaker laid out for its walk: see `Dealer`. Speakers are those of a supply."""

    owner: Int32s  # utterance of each place
    shift: Ints  # per utterance: place + shift is its slot, modulo its slots
    first_place: Ints  # per speaker
    skip: Ints  # per speaker: first group of this epoch
    walk: Ints  # per speaker: epochs in a walk
    groups: Ints  # per speaker: groups in a walk
    start_key: Bits  # per utterance


class Dealer:
    """Deals groups of M crops.

    Each speaker goes on *walks* of k epochs, in which it comes to k x quota different groups, its quota in each epoch;
    a new walk forms new groups. To form g groups, its utterances are laid out in random order, session by
    session, each with some of its slots, and place p of the layout belongs to group p mod g. Every utterance has up to
    `level` slots in the layout, some have one more, with the lowest level that gives g x M in all. So an utterance
    has more than g slots there, and comes twice into a group, only where g groups cannot be had without; and
    the slots of a session are spread as evenly as can be. Which slots of an utterance take part goes round
    from walk to walk, so that all get their turn.

    Args:
        population: who takes part.
        quota: int64 `[units]`, groups that each unit gives in an epoch.

    Attributes:
        walk: int64 `[units]`, epochs in a walk.
    """

    def __init__(self, population: Population, quota: Ints) -> None:
        self._options, self._quota = population.options, quota
        whole = population.distinct_groups if self._options.distinct == "prefer" else population.held
        self.walk = np.maximum(1, whole // np.maximum(1, quota))
        units = (population.label, population.source, population.shard)
        self._unit_key = derive(int(self._options.seed), _SPEAKERS, *units)

    def places(self, supply: Supply) -> Ints:
        """Slots that each speaker lays out for a walk."""
        return self.walk[supply.label] * self._quota[supply.label] * self._options.utterances_per_speaker

    def level(self, supply: Supply, places: Ints) -> Ints:
        """The most slots of an utterance that each speaker lays out, but for the first few, who have one more."""
        return largest(lambda level: supply.laid_out(level) <= places, np.minimum(places, supply.richest))

    def layout(self, supply: Supply, epoch: int) -> Layout:
        """How the speakers of a supply, whose labels are numbers of units, are laid out in an epoch."""
        unit_key, k = self._unit_key[supply.label], self.walk[supply.label]
        places = self.places(supply)
        level = self.level(supply, places)
        walk, turn = np.divmod(np.int64(epoch), k)
        walk = walk[supply.speaker]
        utterance_key = derive(unit_key[supply.speaker], _UTTERANCES, supply.number)
        session = derive(unit_key[supply.speaker], _SESSIONS, walk, supply.session)
        order = _shuffled(supply.speaker, session, derive(utterance_key, _ORDER, walk))
        share = _shares(supply, order, level, places - supply.laid_out(level))
        first = np.empty_like(share)
        first[order] = offsets(share)[:-1]
        turns = rounds(supply, level)
        begin = below(derive(utterance_key, _TURN, walk // turns), supply.slots)
        begin += walk % turns * np.maximum(1, level)[supply.speaker]
        owner = np.repeat(order.astype(np.int32), share)
        groups = k * self._quota[supply.label]
        return Layout(owner, begin - first, offsets(places), turn, k, groups, derive(utterance_key, _START, epoch))

    def slots(self, supply: Supply, layout: Layout, speaker: Ints, number: Ints) -> tuple[Int32s, Ints]:
        """Utterance and slot, `[groups, M]` each, of what the layout deals to these groups.

        The groups of one epoch are k apart in the walk, so that neighbours in the layout fall into different epochs.
        """
        first = layout.first_place[speaker] + layout.skip[speaker] + number * layout.walk[speaker]
        places = first[:, None] + np.arange(self._options.utterances_per_speaker) * layout.groups[speaker, None]
        owner = layout.owner[places]
        return owner, (places + layout.shift[owner]) % supply.slots[owner]

    def crops(self, supply: Supply, owner: Int32s, slot: Ints, start_key: Bits, lengths: Int32s) -> tuple[Ints, Ints]:
        """Record and first row of slots of utterances, `[groups, M]` each; `lengths` are rows of a crop, `[groups]`."""
        longest = self._options.longest
        inside = supply.first_slot[owner] + slot % (supply.slots // supply.copies)[owner]
        record = supply.record_of_slot[inside]
        part, parts = inside - supply.record_first[record], supply.record_slots[record]
        frames = supply.record_frames[record]
        possible = np.maximum(1, frames - longest + 1)
        if self._options.crops == "grid":
            first_part = supply.record_first[record] - supply.first_slot[owner]
            spare = possible - (parts - 1) * longest
            start = part * longest + below(derive(start_key[owner], first_part), spare)
        else:
            low, high = part * possible // parts, (part + 1) * possible // parts
            start = low + below(derive(start_key[owner], slot), high - low)
        if len(self._options.lengths) > 1:  # a shorter crop lies anywhere in the place of the longest
            room = np.minimum(frames, longest) - np.minimum(frames, lengths[:, None])
            start += below(derive(start_key[owner], _SHIFT, slot), room + 1)
        return supply.record[record], start


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


def rounds(supply: Supply, level: Ints) -> Ints:
    """Walks after which all slots of an utterance had their turn."""
    return -(-supply.slots // np.maximum(1, level)[supply.speaker])
