"""Crops of noise, drawn from a dataset of noise: what is mixed into batches while they are read.

A draw follows from its key alone, so a batch has the same noise whenever and wherever it is made. It must not know how
noise is mixed in. Crops are float32, `[n, bins, rows]` or `[n, rows, bins]`, as they are stored.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from ge2e_transforms.config import Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.reading import CropReader, ReadingOptions, Values
from ge2e_transforms.rng import Bits, below, derive
from ge2e_transforms.schema import TRAIN_SPLIT

# Streams of random bits of a crop's key. A change of their order changes every draw.
_RECORD, _START = range(2)


class NoiseCrops:
    """Random crops of the records of the train split of a dataset of noise.

    Args:
        root_dir: folder of the dataset, or its URL.
        recipe: of what it is mixed with. Its sample rate and feature stage must be the same, so that values mean the
            same; how voice was found, the level, the form of records and the type they are stored as may differ.
        layout: 'mel_time' or 'time_mel', as the batches have it.

    Raises:
        ConfigError: the dataset holds values of another kind.
        DatasetError: no complete dataset there, or it has no train split.
    """

    def __init__(self, root_dir: str | Path, recipe: Recipe, layout: str = "mel_time") -> None:
        dataset = Dataset.open(root_dir)
        _refuse_other_values(str(root_dir), dataset.recipe, recipe)
        self._index = dataset.index(TRAIN_SPLIT)
        self._reader = CropReader(dataset, TRAIN_SPLIT, self._index, ReadingOptions(layout=layout), 1, "repeat")

    def draw(self, bits: Bits, rows: int) -> Values:
        """One crop a key; a record shorter than a crop is repeated from its start.

        Every record is as likely as any other, and so is every place within it.

        Args:
            bits: uint64 `[n]`, one key a crop.
            rows: of every crop.

        Returns:
            float32 `[n, bins, rows]` or `[n, rows, bins]`.

        Raises:
            CorruptRecordError, DatasetError: as `CropReader.read`.
        """
        records = below(derive(bits, _RECORD), len(self._index))
        spare = self._index["frames"][records].astype(np.int64) - rows
        starts = below(derive(bits, _START), np.maximum(1, spare + 1))
        return self._reader.read(records, starts, rows)


def _refuse_other_values(root: str, noise: Recipe, speech: Recipe) -> None:
    stored, wanted = (
        {"sample_rate_hz": recipe.audio.sample_rate_hz, **dataclasses.asdict(recipe.feature)}
        for recipe in (noise, speech)
    )
    del wanted["dtype"]  # whatever they are stored as, crops are float32
    if noise.feature.features == speech.feature.features == "raw":  # nothing else decides what a sample is
        stored, wanted = ({"sample_rate_hz": values["sample_rate_hz"]} for values in (stored, wanted))
    differ = [f"{name} ({stored[name]!r}, not {wanted[name]!r})" for name in wanted if stored[name] != wanted[name]]
    if differ:
        raise ConfigError(
            f"the noise in {root} cannot be mixed with this speech: it differs in {', '.join(differ)}. Make it with "
            "the same preset, --features and --set options"
        )
