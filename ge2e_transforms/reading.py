"""Crops of stored records as arrays: one positional read each, short ones filled up, values normalised.

It must not know how batches are made. Safe to call from several threads at once. What it gives is float32,
`[n, bins, rows]` or `[n, rows, bins]`.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from ge2e_transforms.checks import check_integer, check_one_of
from ge2e_transforms.config import Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import ConfigError, CorruptRecordError, DatasetError
from ge2e_transforms.feature_kinds import FEATURE_KINDS
from ge2e_transforms.half_floats import widen
from ge2e_transforms.records import DTYPES, HEADER_BYTES, body_is_whole, label_entry, payload_head
from ge2e_transforms.schema import PCM16_SCALE
from ge2e_transforms.shard_files import READERS, LocalShards, StoreShards
from ge2e_transforms.split_index import SplitIndex
from ge2e_transforms.stores import MOST_READERS
from ge2e_transforms.windows import Window

Values = npt.NDArray[np.float32]
Rows = npt.NDArray[np.integer]

NORMALIZE = ("none", "dataset", "crop", "utterance")
LAYOUTS = ("mel_time", "time_mel")
CHECKS = ("first", "always", "never")
# Crops are read and turned over in blocks that stay in a 1 MiB L2 cache (measured: 2.5 times as fast as turning
# over a whole batch of 640).
_BLOCK_BYTES = 1 << 18
# Arrays that begin at such an address are taken over by TensorFlow as they are, others are copied.
_ALIGNMENT = 64
# Memory of so many batches is kept for later ones.
_KEPT_BUFFERS = 6
# A bin whose deviation is this small beside its mean is constant, up to rounding: it becomes 0.
_CONSTANT = 1e-6


@dataclass(frozen=True)
class ReadingOptions:
    """How crops are read.

    Attributes:
        normalize: 'none'; else (value - mean) / deviation per bin, with those of all train frames ('dataset'), of
            the crop ('crop'), or of the whole record ('utterance'; they are held in memory, 8 bytes a bin and record).
            A bin without deviation becomes 0.
        layout: 'mel_time' for `[n, bins, rows]`, 'time_mel' for `[n, rows, bins]`, which is how records are stored.
        check_crc: when a record's checksum is compared, for which all of the record is read: the 'first' time that
            this reader comes to it, 'always' or 'never'.
        readers: reads under way at once, of a dataset on a store.
    """

    normalize: str = "none"
    layout: str = "mel_time"
    check_crc: str = "first"
    readers: int = READERS

    def __post_init__(self) -> None:
        for name, allowed in (("normalize", NORMALIZE), ("layout", LAYOUTS), ("check_crc", CHECKS)):
            check_one_of(name, getattr(self, name), allowed)
        check_integer("readers", self.readers, 1, MOST_READERS + 1)


# A record that is read whole, without its header, to be checked: number of the crop, (shard, offset, length), where its
# values and where the crop begin in it, bytes of its values, and label. Plain tuples, as one is made for each crop.
_Body: TypeAlias = tuple[int, tuple[int, int, int], int, int, int, int]


class _Request(NamedTuple):
    """What to read for a batch; crops are numbered within it."""

    crops: list[tuple[int, int]]  # shard and offset of each
    checked: list[int]  # crops whose record has to be checked, rising
    bodies: list[_Body]  # of these
    short: dict[int, int]  # rows of the crops whose record is shorter


class CropReader:
    """Crops of the records of one split.

    Args:
        dataset: an open dataset.
        split: its name.
        index: of the split.
        options: how crops are read.
        longest: rows of the longest crop that will be asked for.
        short: how a record shorter than a crop is filled up: 'pad' by silence, else from its start again.

    Raises:
        ConfigError: a crop longer than the stored windows.
        DatasetError: files are missing, or no train frame was ever stored ('dataset').
    """

    def __init__(
        self, dataset: Dataset, split: str, index: SplitIndex, options: ReadingOptions, longest: int, short: str
    ) -> None:
        self._bins, window = dataset.metadata["feature_shape"]
        if dataset.metadata["segments"] == "windows" and longest > window:
            raise ConfigError(
                f"crop_frames={longest} cannot be used: {dataset.root} holds windows of {window} rows. "
                "Store --segments utterance to choose the length of crops when reading"
            )
        dataset.check_shards(split)
        self._dataset, self._split, self._index, self._options = dataset, split, index, options
        self.files = dataset.open_shards(split, options.readers)
        self._dtype = DTYPES[dataset.metadata["dtype"]]
        self._padding = silence(dataset.recipe) if short == "pad" else None
        self._statistics = _statistics(dataset, split, options.normalize)
        self._checked = np.zeros(-(-len(index) // 8), dtype=np.uint8)
        self._buffers = Buffers()
        self._lock = threading.Lock()

    def read(
        self, records: Rows, starts: Rows, rows: int, window: Window | None = None, normalize: bool = True
    ) -> Values:
        """Crops of records (numbers in the split's index), from a first row on.

        Args:
            records: integers `[n]`.
            starts: integers `[n]`, the first row of each crop.
            rows: of every crop.
            window: shards in memory, to read from instead of the files.
            normalize: False leaves that to `normalize`, for values that are changed before.

        Returns:
            float32 `[n, bins, rows]` or `[n, rows, bins]`.

        Raises:
            CorruptRecordError: a record does not match its checksum or its index row, or a file ends before a crop.
            DatasetError: a file cannot be read.
        """
        request = self._request(records, starts, rows)
        mel_first = self._options.layout == "mel_time"
        shape = (self._bins, rows) if mel_first else (rows, self._bins)
        values = self._buffers.take((len(records), *shape))
        direct = not mel_first and self._dtype == values.dtype
        step = max(1, _BLOCK_BYTES // (rows * self._bins * self._dtype.itemsize))
        if isinstance(self.files, StoreShards) and window is None:
            step = len(records)  # so that all reads are under way at once
        block = np.empty((0 if direct else step, rows, self._bins), dtype=self._dtype)
        for first in range(0, len(records), step):
            part = slice(first, first + step)
            target = values[part] if direct else block[: len(values[part])]
            self._read_block(target, first, request, window or self.files)
            if not direct:
                stored = target.transpose(0, 2, 1) if mel_first else target
                if self._dtype == np.float16:
                    widen(np.ascontiguousarray(stored), values[part])
                elif self._dtype.kind == "i":  # a power of two: to multiply is to divide, in one pass
                    np.multiply(stored, np.float32(1 / PCM16_SCALE), out=values[part], dtype=np.float32)
                else:
                    values[part] = stored
            if normalize:
                self._normalize_block(values[part], records[part])
        if request.checked:
            self._mark(records[request.checked])
        return values

    def normalize(self, values: Values, records: Rows) -> None:
        """Normalises in place crops that were read without: as the options say, with what is stored of `records`.

        Args:
            values: as `read` gives them; for 'crop' it is their own mean and deviation that count.
            records: integers `[n]`, which they are of.
        """
        step = max(1, _BLOCK_BYTES // max(1, values[:1].nbytes))
        for first in range(0, len(values), step):
            self._normalize_block(values[first : first + step], records[first : first + step])

    def _request(self, records: Rows, starts: Rows, rows: int) -> _Request:
        """What to read for a batch; worked out for all crops at once: an array operation costs as much as a read."""
        places, frames = self._index.places(records), self._index["frames"][records].astype(np.int64)
        row_bytes = self._bins * self._dtype.itemsize
        begin = starts.astype(np.int64) * row_bytes
        short = np.flatnonzero(frames < rows)
        checked = self._to_check(records)
        bodies: list[_Body] = []
        if len(checked):
            shards, offsets, lengths, payload = (column[checked] for column in places)
            heads = payload - offsets - HEADER_BYTES
            framed = zip(
                shards.tolist(), (offsets + HEADER_BYTES).tolist(), (lengths - HEADER_BYTES).tolist(), strict=True
            )
            sizes = (frames[checked] * row_bytes).tolist()
            labels = self._index["label"][records[checked]].tolist()
            columns = (checked.tolist(), framed, heads.tolist(), (heads + begin[checked]).tolist(), sizes, labels)
            bodies = list(zip(*columns, strict=True))
        crops = list(zip(places.shard.tolist(), (places.payload + begin).tolist(), strict=True))
        return _Request(crops, checked.tolist(), bodies, dict(zip(short.tolist(), frames[short].tolist(), strict=True)))

    def _read_block(
        self, target: npt.NDArray[Any], first: int, request: _Request, files: LocalShards | StoreShards | Window
    ) -> None:
        """Reads the crops from number `first` on into `[n, rows, bins]`."""
        last, dtype = first + len(target), self._dtype
        flat = memoryview(target).cast("B")  # type: ignore[arg-type]
        size = len(flat) // len(target)
        views = [flat[place : place + size] for place in range(0, len(flat), size)]
        short = [crop for crop in range(first, last) if crop in request.short] if request.short else []
        for crop in short:
            views[crop - first] = views[crop - first][: request.short[crop] * (size // target.shape[1])]
        some = request.bodies[bisect_left(request.checked, first) : bisect_left(request.checked, last)]
        if not some:
            files.read_into(request.crops[first:last], views)
        else:
            whole = {body[0] for body in some}
            plain = [crop for crop in range(first, last) if crop not in whole]
            files.read_into([request.crops[crop] for crop in plain], [views[crop - first] for crop in plain])
            for body, content in zip(some, files.read([body[1] for body in some]), strict=True):
                crop, _, head, begin, size, label = body
                expected = payload_head(dtype, size)
                if (
                    not body_is_whole(content)
                    or content[head - len(expected) : head] != expected
                    or content.find(label_entry(label), 0, head) < 0
                ):
                    self._refuse(body, content)
                view = views[crop - first]
                view[:] = memoryview(content)[begin : begin + len(view)]
        for crop in short:
            self._fill_up(target[crop - first], request.short[crop])

    def _to_check(self, records: Rows) -> npt.NDArray[np.int64]:
        """Which of some records have to be read whole."""
        if self._options.check_crc == "first":
            return np.flatnonzero(self._checked[records >> 3] & (1 << (records & 7)) == 0)
        return np.arange(len(records) if self._options.check_crc == "always" else 0)

    def _mark(self, records: Rows) -> None:
        if self._options.check_crc == "first":
            with self._lock:  # two records may share a byte
                np.bitwise_or.at(self._checked, records >> 3, (1 << (records & 7)).astype(np.uint8))

    def _refuse(self, body: _Body, content: bytes) -> NoReturn:
        """Says what is wrong with a record that does not match its checksum, or its index row."""
        _, (shard, offset, _), _, _, size, label = body
        rows = size // (self._bins * self._dtype.itemsize)
        what = "the checksum of the record does not match"
        if body_is_whole(content):
            what = f"the record holds other than the {rows} rows of label {label} that the index says"
        where = self._dataset.folder.where(self._dataset.shard_names(self._split)[shard])
        offset -= HEADER_BYTES
        raise CorruptRecordError(
            f"{where} at offset {offset}, {self._name(shard, offset)}: {what}: the file is damaged or was changed. "
            "Copy it again; or the same `ge2e run` command makes a damaged shard anew; `ge2e verify` finds what else "
            "is damaged"
        )

    def _name(self, shard: int, offset: int) -> str:
        """Speaker and utterance of a record, as far as the shard's own index can still be read."""
        try:
            table = self._dataset.shard_index(self._split, shard, ("offset", "speaker_id", "utterance_id"))
            row = table["offset"].to_pylist().index(offset)
        except (DatasetError, ValueError) as error:
            return f"of which the shard's index does not tell whose it is ({error})"
        return f"utterance {table['utterance_id'][row].as_py()!r} of speaker {table['speaker_id'][row].as_py()!r}"

    def _fill_up(self, crop: npt.NDArray[Any], rows: int) -> None:
        """Fills what follows the first rows of a crop `[rows, bins]`."""
        again = crop[np.arange(rows, len(crop)) % rows] if self._padding is None else self._padding
        crop[rows:] = again

    def _normalize_block(self, values: Values, records: Rows) -> None:
        """Normalises a block in place."""
        time = 2 if self._options.layout == "mel_time" else 1
        if self._options.normalize == "crop":
            mean = values.mean(axis=time, dtype=np.float64)
            values -= np.expand_dims(mean.astype(np.float32), time)
            deviation = np.sqrt(np.square(values).mean(axis=time))
            values *= np.expand_dims(scale_of(mean, deviation).astype(np.float32), time)
        elif self._statistics is not None:
            mean, scale = (column if len(column) == 1 else column[records] for column in self._statistics)
            values -= np.expand_dims(mean.astype(np.float32), time)
            values *= np.expand_dims(scale.astype(np.float32), time)


class _Lease:
    """The memory of one batch, given back when no array of it is left."""

    def __init__(self, buffer: Values, size: int, returned: list[Values]) -> None:
        self._buffer, self._returned = buffer, returned
        address = -(-buffer.ctypes.data // _ALIGNMENT) * _ALIGNMENT
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": (size,), "typestr": "<f4"}

    def __del__(self) -> None:
        if len(self._returned) < _KEPT_BUFFERS:
            self._returned.append(self._buffer)


class Buffers:
    """Memory for batches, used again once a batch is gone, since fresh pages cost time."""

    def __init__(self) -> None:
        self._returned: list[Values] = []

    def take(self, shape: tuple[int, ...]) -> Values:
        """An array whose values are whatever they are; its memory comes back when nothing refers to it any more."""
        size = math.prod(shape)
        needed = size + _ALIGNMENT // 4
        try:
            buffer = self._returned.pop()
        except IndexError:
            buffer = np.empty(0, dtype=np.float32)
        if len(buffer) < needed:
            buffer = np.empty(needed, dtype=np.float32)
        return np.asarray(_Lease(buffer, size, self._returned)).reshape(shape)


def silence(recipe: Recipe) -> Values:
    """The row, float32 `[bins]`, that is stored for a frame without any sound."""
    config = recipe.feature
    level = 0.0 if config.log == "none" else config.logarithm(float(np.float32(config.floor)))
    row = FEATURE_KINDS[config.features].silent_row(level, config)
    return row if config.features == "raw" else row.astype(recipe.dtype).astype(np.float32)


def scale_of(mean: npt.NDArray[Any], deviation: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """1 / deviation for any shape of both, 0 for constant bins."""
    varies = deviation > _CONSTANT * np.abs(mean)
    scale = np.zeros_like(deviation)
    np.divide(1, deviation, out=scale, where=varies)
    return scale


def _statistics(dataset: Dataset, split: str, normalize: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    """Mean and scale per bin, `[1, bins]` or `[records, bins]` each."""
    if normalize == "dataset":
        mean, deviation = (figures[None] for figures in dataset.statistics("use normalize='crop'"))
    elif normalize == "utterance":
        names, bins = ("mean", "deviation"), dataset.metadata["feature_shape"][0]
        tables = [dataset.shard_index(split, shard, names) for shard in range(len(dataset.shards(split)))]
        mean, deviation = (
            np.concatenate([np.asarray(table[name].combine_chunks().flatten()) for table in tables]).reshape(-1, bins)
            for name in names
        )
    else:
        return None
    return mean, scale_of(mean, deviation)
