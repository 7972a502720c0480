"""What a user should know of an epoch before it is read: warnings that name the option that changes it.

All of it follows from the sampler: it must not know of datasets.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

from ge2e_transforms import coverage
from ge2e_transforms.sampling import Sampler

_HERE = str(Path(__file__).parent)


def warn(message: str) -> None:
    """A warning that points at the line which called this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def tell(split: str, sampler: Sampler) -> None:
    """Warns (UserWarning) of what an epoch leaves out, repeats or leaves to later ones, and what `locality` costs."""
    for note in (_left_out(sampler), _repeated(sampler), _later(sampler), _few(sampler), _apart(sampler)):
        if note:
            warn(f"an epoch of split {split!r} {note}")


def _left_out(sampler: Sampler) -> str:
    population, m = sampler.population, sampler.options.utterances_per_speaker
    speakers = len(population.speakers)
    left_out = speakers - len(np.unique(population.label[population.held > 0]))
    if not left_out:
        return ""
    out = f"leaves out {left_out} of {speakers} speakers"
    if sampler.options.distinct == "strict":
        return f"{out}, who cannot give {m} different ones: distinct='prefer' takes more"
    return f"{out}, who hold fewer than {m} crops: under_m='repeat' takes them"


def _repeated(sampler: Sampler) -> str:
    if not (repeated := coverage.repeated_utterances(sampler)):
        return ""
    what = "a session" if sampler.options.distinct_sessions else "an utterance"
    return (
        f"takes {repeated} crops from {what} that its group of {sampler.options.utterances_per_speaker} holds already, "
        "as speakers have too few: distinct='strict' leaves them out"
    )


def _later(sampler: Sampler) -> str:
    used = sampler.batches_per_epoch * sampler.speakers_per_batch * sampler.options.utterances_per_speaker
    later, slots = coverage.left_for_later_epochs(sampler), int(sampler.population.slots.sum())
    if later <= used:
        return ""
    more = "fewer speakers_per_batch" + (", or speakers='proportional'" if sampler.options.exponent < 1 else "")
    return (
        f"takes {used} of {slots} crops and leaves {later} to later epochs (about {coverage.repetitions(sampler)[1]} "
        f"for all), since speakers with much speech give no more than the others: for more in an epoch {more}"
    )


def _few(sampler: Sampler) -> str:
    """Groups that the size of the batches keeps from being used, once they are over a tenth and fill a batch."""
    given = int(sampler.wanted.sum())
    used = sampler.batches_per_epoch * sampler.speakers_per_batch
    if used >= 0.9 * given or given - used < sampler.speakers_per_batch or sampler.options.locality:
        return ""
    n = coverage.speakers_for_most(sampler)
    if n < 2 or n == sampler.speakers_per_batch:
        return ""
    return (
        f"uses {used} of {given} groups of {sampler.options.utterances_per_speaker} crops, since few speakers "
        "hold most of them and a batch takes "
        f"{sampler.speakers_per_batch} different ones: speakers_per_batch={n} would use nine in ten"
    )


def _apart(sampler: Sampler) -> str:
    if not sampler.options.locality:
        return ""
    population = sampler.population
    speakers = len(np.unique(population.label[population.held > 0]))
    return (
        f"is read in {sampler.parts} windows of up to {sampler.options.locality} shards: a speaker can meet about "
        f"{max(0, round(speakers / sampler.parts) - 1)} of {speakers - 1} others in an epoch, and others in the next"
    )
