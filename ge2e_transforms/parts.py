"""An epoch in parts that are planned one at a time: blocks of random speakers, or windows of shards. Pure NumPy.

A large epoch is planned in blocks, so that memory does not grow with it; with `locality` it is planned in windows, so
that a reader holds the shards of one window at a time. Both know beforehand how many batches an epoch has, the same in
every epoch. They must not know of crops. Arrays are int64, one entry a unit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ge2e_transforms.errors import SamplingError
from ge2e_transforms.placing import batch_count, cut, largest
from ge2e_transforms.population import Population
from ge2e_transforms.rng import Bits, derive
from ge2e_transforms.runs import Ints

# Ids of the streams of random bits. A change of their order changes every plan.
_SPEAKERS, _SHARDS, _CUT = range(3)


class Piece(NamedTuple):
    """Groups that are put into batches together.

    Attributes:
        units: rising numbers of units, int64 `[units]`.
        first: number of each unit's first group in this piece.
        given: groups of each.
        batches: how many batches of N they fill.
    """

    units: Ints
    first: Ints
    given: Ints
    batches: int


class Blocks:
    """K parts of `batches` batches each. The speakers of a part are drawn anew for each epoch.

    Groups of all speakers, in random order, lie end to end and are cut into K parts; where a speaker is cut, each part
    takes some of its groups. With several sources each is cut by itself, and every part has batches of each.

    Args:
        population: who takes part.
        wanted: int64 `[units]`, groups that each unit would give in an epoch.
        speakers_per_batch: N.
        parts: K.

    Attributes:
        quota: int64 `[units]`, groups that each gives; to fill whole batches, a few give one less.
        batches_per_epoch: the same in every epoch.
    """

    def __init__(self, population: Population, wanted: Ints, speakers_per_batch: int, parts: int) -> None:
        self.parts, self._n = parts, speakers_per_batch
        self.quota = np.zeros_like(wanted)
        self._classes: list[tuple[Ints, int]] = []
        for source in np.unique(population.source):
            units = np.flatnonzero((population.source == source) & (wanted > 0))
            batches = batch_count(wanted[units], speakers_per_batch * parts)
            if batches:
                self._classes.append((units, batches))
                self.quota[units] = np.minimum(wanted[units], batches)
        self._batches = sum(batches for _, batches in self._classes)
        self.batches_per_epoch = self._batches * parts

    def surpluses(self) -> list[tuple[Ints, int]]:
        """Units that are cut together, and how many of their groups whole batches do not need."""
        used = self._n * self.parts
        return [(units, int(self.quota[units].sum()) - batches * used) for units, batches in self._classes]

    def batches(self, key: Bits) -> Ints:
        """Batches of each part, int64 `[K]`."""
        return np.full(self.parts, self._batches)

    def pieces(self, part: int, key: Bits) -> list[Piece]:
        """What a part of an epoch consists of: one piece a source. `key` belongs to the epoch."""
        return [
            self._piece(part, units, batches, derive(key, _SPEAKERS, int(units[0]))) for units, batches in self._classes
        ]

    def _piece(self, part: int, units: Ints, batches: int, key: Bits) -> Piece:
        if self.parts == 1:
            return Piece(units, np.zeros_like(units), self.quota[units], batches)
        order = units[np.argsort(derive(key, units), kind="stable")]
        surplus = int(self.quota[order].sum()) - batches * self._n * self.parts
        given = cut(self.quota[order], surplus, derive(key, _CUT, 0))
        ends = np.cumsum(given)
        first, last = (np.clip(bound * batches * self._n - (ends - given), 0, given) for bound in (part, part + 1))
        chosen = np.flatnonzero(last > first)
        chosen = chosen[np.argsort(order[chosen], kind="stable")]
        return Piece(order[chosen], first[chosen], (last - first)[chosen], batches)


class Windows:
    """Parts of W shards each, drawn anew for each epoch; batches are made within one window.

    A window of G groups gives G // N batches. Windows differ from epoch to epoch, so a few of the last batches of an
    epoch are left out: it has as many as every epoch has at the least. A speaker that is cut over several shards is a
    unit in each of them, and in no batch twice.

    Args:
        population: who takes part, made with `locality`.
        wanted: int64 `[units]`, groups that each unit would give in an epoch.
        speakers_per_batch: N.

    Attributes:
        quota, batches_per_epoch: as for `Blocks`.

    Raises:
        SamplingError: a window may hold fewer than N speakers.
    """

    def __init__(self, population: Population, wanted: Ints, speakers_per_batch: int) -> None:
        self._n, width = speakers_per_batch, population.options.locality or 1
        self._shards, where = np.unique(population.shard, return_inverse=True)
        self.parts = -(-len(self._shards) // width)
        labels, label = np.unique(population.label, return_inverse=True)
        share = np.bincount(label, minlength=len(labels))[label]
        smallest = len(self._shards) // self.parts

        def groups(most: int) -> Ints:
            given = np.minimum(wanted, most // share)
            return np.asarray(np.bincount(where, weights=given, minlength=len(self._shards)), dtype=np.int64)

        def enough(most: Ints) -> npt.NDArray[np.bool_]:
            # No speaker may have more groups than a window has batches, whichever shards make the window.
            return np.atleast_1d(np.sort(groups(int(most[0])))[:smallest].sum() >= speakers_per_batch * most)

        most = int(largest(enough, np.array([wanted.sum() // speakers_per_batch]))[0])
        if not most:
            raise SamplingError(
                f"locality={width} windows of {smallest} of the {len(self._shards)} shards may hold fewer than "
                f"{speakers_per_batch} speakers: give a larger locality or fewer speakers_per_batch"
            )
        self.quota = np.minimum(wanted, most // share)
        self._where, self._groups = where, groups(most)
        self._drawn: dict[int, list[Ints]] = {}
        self.batches_per_epoch = int(self._groups.sum()) // speakers_per_batch - (self.parts - 1)

    def shards(self, part: int, key: Bits) -> Ints:
        """Numbers of the shards of a window, rising. `key` belongs to the epoch."""
        shards: Ints = self._shards[self._windows(key)[part]]
        return shards

    def batches(self, key: Bits) -> Ints:
        """Batches of each part, int64 `[windows]`."""
        counts = np.array([self._groups[window].sum() // self._n for window in self._windows(key)])
        ends = np.minimum(np.cumsum(counts), self.batches_per_epoch)
        batches: Ints = np.diff(ends, prepend=0)
        return batches

    def pieces(self, part: int, key: Bits) -> list[Piece]:
        """What a part of an epoch consists of."""
        window = self._windows(key)[part]
        units = np.flatnonzero(np.isin(self._where, window) & (self.quota > 0))
        batches = int(self._groups[window].sum()) // self._n
        return [Piece(units, np.zeros_like(units), self.quota[units], batches)]

    def _windows(self, key: Bits) -> list[Ints]:
        epoch = int(key[0])
        windows = self._drawn.get(epoch)
        if windows is None:
            order: Ints = np.argsort(derive(key, _SHARDS, np.arange(len(self._shards))), kind="stable")
            windows = [np.sort(window) for window in np.array_split(order, self.parts)]
            self._drawn = {**dict(list(self._drawn.items())[-1:]), epoch: windows}  # of two epochs
        return windows
