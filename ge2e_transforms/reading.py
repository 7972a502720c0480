"""Crops of stored records as arrays: one positional read each, short ones filled up, values normalised.

It must not know how batches are made. Safe to call from several threads at once.
"""

from __future__ import annotations

import math
import os
import resource
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ge2e_transforms.config import Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import ConfigError, CorruptRecordError, DatasetError
from ge2e_transforms.records import DTYPES
from ge2e_transforms.schema import PCM16_SCALE

Values = npt.NDArray[np.float32]

NORMALIZE = ("none", "dataset", "crop", "utterance")
# Crops are read and turned over in blocks that stay in a 1 MiB L2 cache (measured: 2.5 times as fast as turning
# over a whole batch of 640).
_BLOCK_BYTES = 1 << 18
# Files kept open where the system sets no limit.
_MOST_OPEN = 4096
# A bin whose deviation is this small beside its mean is constant, up to rounding: it becomes 0.
_CONSTANT = 1e-6


class ShardFiles:
    """Numbered files for positional reads.

    They are opened on first use and stay open, up to half of what the process may have open, all `ShardFiles` of it
    together; any beyond are opened for each read.

    Args:
        paths: in the order of their numbers.
    """

    _lock = threading.Lock()
    _kept_open = 0

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: dict[int, int] = {}
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = _MOST_OPEN if limit == resource.RLIM_INFINITY else limit // 2
        weakref.finalize(self, _close_all, self._open)

    def read(self, number: int, offset: int, target: memoryview) -> None:
        """Fills `target` from a file.

        Raises:
            CorruptRecordError: the file ends before.
            DatasetError: the file cannot be opened or read.
        """
        path = self._paths[number]
        try:
            got = self._read(number, offset, target)
        except OSError as error:
            raise DatasetError(
                f"{path} cannot be read at offset {offset}: {error}. "
                "Was the dataset moved or removed while it was in use?"
            ) from error
        if got != target.nbytes:
            raise CorruptRecordError(
                f"{path} at offset {offset}: expected {target.nbytes} bytes, got {got}: the file is cut off, or is not "
                "the one that its index was made for. `ge2e verify` finds what else is damaged"
            )

    def _read(self, number: int, offset: int, target: memoryview) -> int:
        descriptor = self._open.get(number)
        if descriptor is not None:
            return os.preadv(descriptor, [target], offset)
        with self._lock:
            if number not in self._open and ShardFiles._kept_open < self._most:
                self._open[number] = os.open(self._paths[number], os.O_RDONLY)
                ShardFiles._kept_open += 1
            descriptor = self._open.get(number)
        if descriptor is not None:
            return os.preadv(descriptor, [target], offset)
        descriptor = os.open(self._paths[number], os.O_RDONLY)
        try:
            return os.preadv(descriptor, [target], offset)
        finally:
            os.close(descriptor)


def _close_all(descriptors: dict[int, int]) -> None:
    # No lock: a finalizer may run in a thread that holds it. A count that is off by one does no harm.
    ShardFiles._kept_open -= len(descriptors)
    for descriptor in descriptors.values():
        os.close(descriptor)


class CropReader:
    """Crops of the records of one split.

    Args:
        dataset: an open dataset.
        split: its name.
        crop_frames: length of a crop in stored rows.
        short: how a record shorter than a crop is filled up: 'pad' by silence, else from its start again.
        normalize: 'none'; else (value - mean) / deviation per bin, with those of all train frames ('dataset'), of
            the crop ('crop'), or of the whole record ('utterance'; they are held in memory, 8 bytes a bin and record).
            A bin without deviation becomes 0.

    Raises:
        ConfigError: unknown `normalize`, or a crop longer than the stored windows.
        DatasetError: the split or its files are missing, or no train frame was ever stored ('dataset').
    """

    def __init__(self, dataset: Dataset, split: str, crop_frames: int, short: str, normalize: str) -> None:
        bins, window = dataset.metadata["feature_shape"]
        if normalize not in NORMALIZE:
            raise ConfigError(f"normalize={normalize!r} cannot be used: expected one of {NORMALIZE}")
        if dataset.metadata["segments"] == "windows" and crop_frames > window:
            raise ConfigError(
                f"crop_frames={crop_frames} cannot be used: {dataset.root} holds windows of {window} rows. "
                "Store --segments utterance to choose the length of crops when reading"
            )
        index = dataset.index(split)
        self._shard, self._frames, self._payload = index["shard"], index["frames"], index["payload_offset"]
        self._files = ShardFiles(dataset.shard_paths(split))
        self._shape = (crop_frames, bins)
        self._dtype = DTYPES[dataset.metadata["dtype"]]
        self._padding = silence(dataset.recipe) if short == "pad" else None
        self._statistics = _statistics(dataset, split, normalize)
        self._by_crop = normalize == "crop"

    def read(self, records: npt.NDArray[np.integer], starts: npt.NDArray[np.integer]) -> Values:
        """Crops, float32 `[n, bins, crop_frames]`, of records (numbers in the split's index) and first rows.

        Raises:
            CorruptRecordError: a file ends before a crop does.
            DatasetError: a file cannot be read.
        """
        crop, bins = self._shape
        rows = np.minimum(self._frames[records], crop).tolist()
        offsets = (self._payload[records] + starts.astype(np.int64) * (bins * self._dtype.itemsize)).tolist()
        shards = self._shard[records].tolist()
        values = np.empty((len(records), bins, crop), dtype=np.float32)
        step = max(1, _BLOCK_BYTES // (crop * bins * self._dtype.itemsize))
        block = np.empty((step, crop, bins), dtype=self._dtype)
        for first in range(0, len(records), step):
            part = slice(first, first + step)
            for target, *place in zip(block, shards[part], offsets[part], rows[part], strict=False):
                self._read_crop(target, *place)
            values[part] = block[: len(values[part])].transpose(0, 2, 1)
            if self._dtype.kind == "i":
                values[part] /= np.float32(PCM16_SCALE)
            self._normalize_block(values[part], records[part])
        return values

    def _read_crop(self, target: npt.NDArray[np.generic], shard: int, offset: int, rows: int) -> None:
        self._files.read(shard, offset, memoryview(target[:rows]).cast("B"))  # type: ignore[arg-type]
        if rows < len(target):
            again = target[np.arange(rows, len(target)) % rows]
            target[rows:] = again if self._padding is None else self._padding

    def _normalize_block(self, values: Values, records: npt.NDArray[np.integer]) -> None:
        """Normalises `[n, bins, crop]` in place."""
        if self._by_crop:
            mean = values.mean(axis=2, dtype=np.float64)
            values -= mean.astype(np.float32)[:, :, None]
            deviation = np.sqrt(np.einsum("nbt,nbt->nb", values, values) / values.shape[2])
            values *= _scale(mean, deviation).astype(np.float32)[:, :, None]
        elif self._statistics is not None:
            mean, scale = (column if len(column) == 1 else column[records] for column in self._statistics)
            values -= mean.astype(np.float32)[:, :, None]
            values *= scale.astype(np.float32)[:, :, None]


def silence(recipe: Recipe) -> Values:
    """The row, float32 `[bins]`, that a frame without any sound has."""
    config = recipe.feature
    row = np.zeros(recipe.n_bins, dtype=np.float32)
    if config.features == "raw" or config.log == "none":
        return row
    level = (math.log10 if config.log == "log10" else math.log)(np.float32(config.floor))
    if config.features == "mfcc":
        row[0] = level * math.sqrt(config.n_mels)  # an orthonormal DCT of a constant is in its first coefficient
    else:
        row[:] = level
    return row


def _scale(mean: npt.NDArray[Any], deviation: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """1 / deviation, 0 for constant bins."""
    varies = deviation > _CONSTANT * np.abs(mean)
    scale = np.zeros_like(deviation)
    np.divide(1, deviation, out=scale, where=varies)
    return scale


def _statistics(dataset: Dataset, split: str, normalize: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    """Mean and scale per bin, `[1, bins]` or `[records, bins]` each."""
    if normalize == "dataset":
        stored = dataset.metadata["statistics"]
        if not stored["frames"]:
            raise DatasetError(f"{dataset.root} has no statistics, as it has no train frames: use normalize='crop'")
        mean, deviation = np.array([stored["mean"]]), np.array([stored["std"]])
    elif normalize == "utterance":
        names, bins = ("mean", "deviation"), dataset.metadata["feature_shape"][0]
        tables = [dataset.shard_index(split, shard, names) for shard in range(len(dataset.shard_paths(split)))]
        mean, deviation = (
            np.concatenate([np.asarray(table[name].combine_chunks().flatten()) for table in tables]).reshape(-1, bins)
            for name in names
        )
    else:
        return None
    return mean, _scale(mean, deviation)
