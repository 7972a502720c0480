"""The crops of a batch as they are delivered: read, changed as waveforms, turned into features, normalised and masked.

What is drawn for a crop follows from the seed and its place in the stream of batches, so it is the same in every
process. It must not know how batches are planned. What it makes is float32, `[n, bins, rows]` or `[n, rows, bins]`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ge2e_transforms.augment import SpecAugment
from ge2e_transforms.crop_features import CropFeatures, WaveformOptions
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.mel_augment import MelAugment, MelAugmenter
from ge2e_transforms.reading import Buffers, CropReader, ReadingOptions, Values
from ge2e_transforms.rng import derive
from ge2e_transforms.shard_files import StoreShards
from ge2e_transforms.split_index import SplitIndex
from ge2e_transforms.supply import SamplingOptions
from ge2e_transforms.waveform_transform import bound, transformed
from ge2e_transforms.windows import Window, Windows

# Ids of the streams of random bits for SpecAugment, what a waveform_transform draws, MelAugment, and dither.
_AUGMENT, _WAVEFORM, _MEL, _DITHER = 100, 101, 102, 103
# Crops that are read, changed and turned into features at a time: their waveforms, 2.4 MB at 1.2 s, stay in the cache,
# and what is done once for all of them costs each a few microseconds.
_TOGETHER = 32


class Crops(NamedTuple):
    """Which crops a batch is made of.

    records, starts: integers `[n]`: number in the split's index, and first row.
    rows: of every crop, as stored.
    epoch, batch: the place in the stream of batches.
    first_slot: which of the slots of the whole batch the first of these crops is; not 0 on a host that takes a part.
    window: shards that hold all of these records, and those that will be needed next; None without `locality`.
    """

    records: npt.NDArray[np.integer]
    starts: npt.NDArray[np.integer]
    rows: int
    epoch: int
    batch: int
    first_slot: int
    window: tuple[tuple[int, ...], tuple[int, ...]] | None


class Source(NamedTuple):
    """All that decides what is made of crops. It can be sent to another process."""

    dataset: Dataset
    split: str
    sampling: SamplingOptions
    reading: ReadingOptions
    waveforms: WaveformOptions
    mel_augment: MelAugment | None
    spec_augment: SpecAugment | None


class Examples:
    """Makes arrays of crops. Safe to call from several threads at once.

    Args:
        source: see there.
        index: of the split.

    Raises:
        ConfigError, DatasetError: as `CropReader`, and for options that do not fit each other.
    """

    def __init__(self, source: Source, index: SplitIndex) -> None:
        self._source = source
        dataset, split, sampling, reading, waveforms, mel, _ = source
        self.recipe = waveforms.delivered(dataset.recipe)
        _check_normalize(source)
        self._reader = CropReader(dataset, split, index, reading, sampling.longest, sampling.short)
        sizes = [entry["records_bytes"] for entry in dataset.shards(split)]
        self._windows = Windows(self._reader.files, sizes) if sampling.locality else None
        transform = waveforms.waveform_transform
        self._transform = None if transform is None else bound(transform, dataset.recipe)
        self._features = None if waveforms.features is None else CropFeatures(self.recipe)
        self._mel = None if mel is None else MelAugmenter(mel, self.recipe, reading.layout)
        self._buffers = Buffers()
        self._fill = _mask_values(source, self.recipe.n_bins)

    def rows(self, stored: int) -> int:
        """Rows that are delivered of a crop of so many rows as stored: frames of features, or as many."""
        return stored if self._features is None else self.recipe.rows(stored)

    def make(self, crops: Crops) -> Values:
        """Crops as float32 `[n, bins, rows]` or `[n, rows, bins]`.

        Raises:
            CorruptRecordError, DatasetError: as `CropReader.read`.
            ConfigError: a waveform_transform gave what cannot be used.
        """
        source = self._source
        place = (crops.epoch, crops.batch, np.arange(crops.first_slot, crops.first_slot + len(crops.records)))
        time_axis = 2 if source.reading.layout == "mel_time" else 1
        window = None
        if self._windows is not None and crops.window is not None:
            window = self._windows.get(*crops.window)
        if source.waveforms.in_use:
            values = self._from_waveforms(crops, window, place, time_axis)
        else:
            values = self._reader.read(crops.records, crops.starts, crops.rows, window, normalize=self._mel is None)
        if self._mel is not None:
            self._mel.apply(values, derive(int(source.sampling.seed), _MEL, *place))
        if source.waveforms.in_use or self._mel is not None:
            self._reader.normalize(values, crops.records)
        if source.spec_augment is not None:
            bits = derive(int(source.sampling.seed), _AUGMENT, *place)
            source.spec_augment.apply(values, bits, self._fill, time_axis)
        return values

    def _from_waveforms(
        self, crops: Crops, window: Window | None, place: tuple[int, int, npt.NDArray[np.int64]], time_axis: int
    ) -> Values:
        """What becomes of stored samples, some crops at a time."""
        seed, n = int(self._source.sampling.seed), len(crops.records)
        keys, seeds = derive(seed, _WAVEFORM, *place), derive(seed, _DITHER, *place)
        shape = (self.recipe.n_bins, self.rows(crops.rows))
        values = self._buffers.take((n, *(shape if time_axis == 2 else shape[::-1])))
        # On a store all reads of a batch are under way at once.
        step = n if isinstance(self._reader.files, StoreShards) and window is None else _TOGETHER
        for first in range(0, n, step):
            part = slice(first, first + step)
            records, starts = crops.records[part], crops.starts[part]
            stored = self._reader.read(records, starts, crops.rows, window, normalize=False)
            found = stored.reshape(len(stored), -1)
            if self._transform is not None:
                found = transformed(self._transform, found, keys[part])
            if self._features is not None:
                found = self._features(found, seeds[part])
            rows = found.reshape(len(stored), *shape[::-1])
            values[part] = rows.swapaxes(1, 2) if time_axis == 2 else rows
        return values


def _check_normalize(source: Source) -> None:
    """Statistics in a dataset of waveforms are of samples as they are stored."""
    normalize, waveforms = source.reading.normalize, source.waveforms
    if waveforms.in_use and normalize not in ("none", "crop"):
        raise ConfigError(
            f"normalize={normalize!r} cannot be used with features or waveform_transform: the statistics of "
            f"{source.dataset.root} are of its samples as stored. Use 'crop' or 'none'"
        )
    if waveforms.features is not None and source.spec_augment is not None and normalize != "crop":
        raise ConfigError(
            "spec_augment cannot be used with features and normalize='none': it hides values by the mean of each bin, "
            "which is known of stored features only. Use normalize='crop'"
        )


def _mask_values(source: Source, bins: int) -> Values:
    """What SpecAugment hides values by: the mean of the train frames, which is 0 once they are normalised."""
    if source.reading.normalize != "none" or source.spec_augment is None:
        return np.zeros(bins, dtype=np.float32)
    mean, _ = source.dataset.statistics("spec_augment needs normalize='crop'")
    return mean.astype(np.float32)
