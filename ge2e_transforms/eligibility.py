"""Crops per speaker, who can take part as M grows, and what an epoch of the loader uses: numbers before training.

Counts are int64, one entry a speaker. It must not know how they are shown.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import SamplingError
from ge2e_transforms.loader import BatchLoader
from ge2e_transforms.population import Population
from ge2e_transforms.runs import Ints
from ge2e_transforms.supply import SamplingOptions


class Supplied(NamedTuple):
    """What the speakers of a split have, int64 `[speakers]` each: crops end to end, and different utterances."""

    crops: Ints
    utterances: Ints


@dataclass(frozen=True)
class Epoch:
    """What epoch 0 of a split uses and leaves, with the loader's defaults.

    Attributes:
        speakers_per_batch, utterances_per_speaker: N and M of its batches.
        coverage: as `coverage.coverage`; empty if no batch can be made.
        notes: what the loader warns of, or why no batch can be made.
    """

    speakers_per_batch: int
    utterances_per_speaker: int
    coverage: dict[str, int | float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def supplied(dataset: Dataset, split: str) -> Supplied:
    """Crops of the dataset's length, and utterances, of each speaker of a split; DatasetError without that split."""
    metadata = dataset.metadata
    options = SamplingOptions(
        metadata["speakers_per_batch"], metadata["utterances_per_speaker"], metadata["feature_shape"][1], seed=0
    )
    population = Population(dataset.index(split), options)
    return Supplied(population.slots, population.utterances)


def eligible(have: Ints, counts: Sequence[int]) -> Ints:
    """How many speakers have at least so many, for each of some counts: int64, one entry a count.

    >>> eligible(np.array([3, 10, 5]), [1, 5, 11]).tolist()
    [3, 2, 0]
    """
    return len(have) - np.searchsorted(np.sort(have), np.asarray(counts, dtype=np.int64), side="left")


def grid(highest: int) -> list[int]:
    """Values of M from 1 to the highest, rising, about eight to each doubling.

    >>> grid(12)
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    """
    steps = np.unique(np.round(2 ** (np.arange(0, 8 * 31) / 8)).astype(np.int64))
    return [*steps[steps < highest].tolist(), max(1, highest)]


def epoch(dataset: Dataset, split: str) -> Epoch:
    """What the loader plans for the first epoch of a split, with the N and M that the dataset proposes."""
    loader = BatchLoader(dataset.root, seed=0)
    m = dataset.metadata["utterances_per_speaker"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            coverage = loader.coverage(split)
            n = loader.stream(split).sampler.speakers_per_batch
        except SamplingError as error:
            return Epoch(0, m, {}, (str(error),))
    return Epoch(n, m, coverage, tuple(str(note.message) for note in caught))
