"""What an epoch uses, what it leaves and why, which relaxations it takes, and how many speakers meet. Pure NumPy.

Counts are of slots, groups of M slots, and speakers. It must not know of files, or how batches are read.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ge2e_transforms.dealing import rounds
from ge2e_transforms.placing import batch_count, largest
from ge2e_transforms.runs import Ints
from ge2e_transforms.sampling import Sampler

# Speakers that are looked at to say how many others one meets.
_LOOKED_AT = 256


def coverage(sampler: Sampler, epoch: int = 0) -> dict[str, int | float]:
    """What an epoch uses and leaves, in slots, and what was relaxed.

    `slots` = `used` + all that is `left_...` - `repeated_slots`. What is left has its turn in other epochs, but for
    `left_too_few` (of speakers who cannot give one group) and `short_records_dropped`; `epochs_for_all` says in
    about how many. `repeated_utterances` is the most: groups that whole batches have no room for are counted too.
    `speakers_met` is how many different others a speaker shares a batch with in this epoch, the mean of up to 256
    speakers.
    """
    m, units = sampler.options.utterances_per_speaker, sampler.population
    have = np.where(units.held > 0, units.slots, 0)
    used = sampler.batches_per_epoch * sampler.speakers_per_batch * m
    repeated, epochs_for_all = repetitions(sampler)
    return {
        "speakers": len(units.speakers),
        "eligible_speakers": units.eligible,
        "batches": sampler.batches_per_epoch,
        "slots": int(units.slots.sum()),
        "used": used,
        "left_too_few": int(units.slots.sum() - have.sum()),
        "left_for_whole_groups": int(np.maximum(0, have - units.held * m).sum()),
        "left_for_later_epochs": left_for_later_epochs(sampler),
        "left_for_whole_batches": int(sampler.quota.sum()) * m - used,
        "repeated_slots": int(np.maximum(0, units.held * m - have).sum()),
        "repeated_utterances": repeated,
        "short_records_dropped": units.short_dropped,
        "epochs_for_all": epochs_for_all,
        "speakers_met": _speakers_met(sampler, epoch),
    }


def left_for_later_epochs(sampler: Sampler) -> int:
    """Slots of groups that speakers hold and do not give in an epoch."""
    return int((sampler.population.held - sampler.quota).sum()) * sampler.options.utterances_per_speaker


def repeated_utterances(sampler: Sampler) -> int:
    """Slots of an epoch whose utterance their group holds already; see `SamplingOptions.distinct`."""
    groups = sampler.dealer.walk * sampler.quota
    return repetitions(sampler, np.flatnonzero(groups > sampler.population.distinct_groups))[0]


def repetitions(sampler: Sampler, units: Ints | None = None) -> tuple[int, int]:
    """(repeated utterances of an epoch, epochs in which every slot has its turn), of some units or of all."""
    population, dealer, repeated, epochs = sampler.population, sampler.dealer, 0, 1
    units = np.arange(len(population)) if units is None else units
    for chunk in population.chunks(units):
        supply, _ = population.supply(units[chunk])
        walk, places = dealer.walk[supply.label], dealer.places(supply)
        excess = places - supply.laid_out(walk * sampler.quota[supply.label])
        repeated += int((np.maximum(0, excess) // walk).sum())
        turns = rounds(supply, dealer.level(supply, places))
        epochs = max(epochs, int((walk[supply.speaker] * turns).max(initial=1)))
    return repeated, epochs


def speakers_for_most(sampler: Sampler) -> int:
    """The largest N with which an epoch uses nine in ten of the groups that speakers would give; 0 if none does."""
    source = sampler.population.source
    totals = [sampler.wanted[source == number] for number in np.unique(source)]

    def enough(n: Ints) -> npt.NDArray[np.bool_]:
        used = sum(batch_count(wanted, int(n[0])) * int(n[0]) for wanted in totals) if n[0] else 0
        return np.atleast_1d(not n[0] or used >= 0.9 * sampler.wanted.sum())

    return int(largest(enough, np.array([sampler.speakers_per_batch]))[0])


def _speakers_met(sampler: Sampler, epoch: int) -> float:
    labels = [sampler.plan(epoch, part).labels for part in range(sampler.parts)]
    names = np.unique(np.concatenate([np.unique(part) for part in labels]))
    looked_at = names[np.linspace(0, len(names) - 1, min(len(names), _LOOKED_AT)).astype(np.int64)]
    met = []
    for name in looked_at:
        others = [part[np.any(part == name, axis=1)] for part in labels]
        met.append(len(np.unique(np.concatenate([part.ravel() for part in others]))) - 1)
    return round(float(np.mean(met)), 1)
