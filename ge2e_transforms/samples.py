"""Some records of a dataset: drawn by a seed, or found by the id of their utterance. What their values tell.

Values are float32 `[rows, bins]`. It must not know how they are shown.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ge2e_transforms import schema
from ge2e_transforms.augmentation import MARK
from ge2e_transforms.config import Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import CorruptRecordError, DatasetError
from ge2e_transforms.rng import derive
from ge2e_transforms.split_index import SplitIndex
from ge2e_transforms.treatments import COLUMNS, Treatments, labels_at_other_speeds
from ge2e_transforms.utterance import shown
from ge2e_transforms.utterance_rows import RecordRow
from ge2e_transforms.whole import parse_record

Values = npt.NDArray[np.float32]

_STREAM = 0x7265706F7274  # of random numbers, so that a draw is not that of a loader
# Rows whose random numbers are made at once, and records that are read together.
_STEP, _TOGETHER = 1 << 20, 16
_FULL_SCALE = (schema.PCM16_SCALE - 1) / schema.PCM16_SCALE  # the highest 16-bit sample


class Row(NamedTuple):
    """A record by its number in the index of its split."""

    split: str
    number: int


class Treated(NamedTuple):
    """A record of an utterance or of one of its copies.

    factor: speed, 1 for its own.
    kind: of the copy, '' of the utterance itself.
    snr_db: ratio of speech to what was added; None where nothing was.
    """

    row: Row
    factor: float
    kind: str
    snr_db: float | None


class Sample(NamedTuple):
    """One record.

    source: number in metadata `datasets`.
    start_s: where it begins in its recording.
    values: float32 `[rows, bins]`; raw samples in [-1, 1).
    """

    split: str
    speaker_id: str
    utterance_id: str
    label: int
    source: int
    start_s: float
    values: Values


class Samples:
    """Records of a dataset by number, whatever their form. Indexes of splits are opened once.

    Args:
        dataset: an open dataset, on a disk or on a store.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._index = functools.cache(dataset.index)
        self._files = functools.cache(dataset.open_shards)

    def draw(self, each: int, seed: int, among: Container[str] | None = None) -> list[Row]:
        """Up to `each` records of every source, in an order that follows from the seed; of clean utterances.

        Args:
            each: of a source.
            seed: any integer.
            among: splits; None for all.
        """
        splits = [split for split in self._dataset.splits if among is None or split in among]
        sped = labels_at_other_speeds(self._dataset)
        kept = np.empty((4, 0), dtype=np.int64)  # source, number of the split, row, and key as signed bits
        for place, split in enumerate(splits):
            index = self._index(split)
            for first in range(0, len(index), _STEP):
                source = index["source_index"][first : first + _STEP].astype(np.int64)
                rows = np.arange(first, first + len(source))
                keys = derive(seed, _STREAM, place, rows).view(np.int64)
                some = np.stack([source, np.full_like(rows, place), rows, keys])
                if self._dataset.augmented:
                    some = some[:, _clean(index, slice(first, first + _STEP), sped)]
                kept = _lowest(np.concatenate([kept, some], axis=1), each)
        order = np.argsort(kept[3], kind="stable")
        return [Row(splits[place], row) for place, row in kept[1:3, order].T.tolist()]

    def find(self, utterances: Sequence[str]) -> list[Row]:
        """The first record of each utterance of these ids, in the order of the ids; all speakers who have one.

        Raises:
            DatasetError: no utterance has such an id.
        """
        wanted = pa.array(list(dict.fromkeys(utterances)), pa.string())
        found: dict[str, dict[int, Row]] = {}
        for split in self._dataset.splits:
            first_row = 0
            for shard, entry in enumerate(self._dataset.shards(split)):
                table = self._dataset.shard_index(split, shard, ("label", "utterance_id"))
                for number in np.flatnonzero(pc.is_in(table["utterance_id"], wanted).to_numpy()).tolist():
                    of_id = found.setdefault(table["utterance_id"][number].as_py(), {})
                    of_id.setdefault(table["label"][number].as_py(), Row(split, first_row + number))
                first_row += entry["records"]
        if lacking := [name for name in wanted.to_pylist() if name not in found]:
            raise DatasetError(
                f"{self._dataset.root} has no utterance {shown(lacking[0])}: expected an utterance_id as in the "
                "manifest"
            )
        return [row for name in wanted.to_pylist() for row in found[name].values()]

    def family(self, row: Row, treatments: Treatments, each: int) -> list[Treated]:
        """An utterance and its copies, the first record of each: as it was spoken, then at the other speeds.

        Args:
            row: a record of any of them.
            treatments: of the dataset.
            each: the most copies of a kind; of the utterance at other speeds none are taken.

        Raises:
            DatasetError: the index is missing or damaged.
        """
        index = self._index(row.split)
        shard = int(index.shard(np.array([row.number]))[0])
        first = int(index.first_rows[shard])
        table = self._dataset.shard_index(row.split, shard, (*COLUMNS, "speaker_id", "parent_id"))
        done = treatments.done(table, self._dataset.root)
        speaker, parent = (table[name][row.number - first].as_py() for name in ("speaker_id", "parent_id"))
        own = speaker if done.factor[row.number - first] == 1 else speaker.rpartition(MARK)[0]
        voices = pa.array([own, *treatments.config.at_speeds(own)], pa.string())
        mine = pc.and_(pc.is_in(table["speaker_id"], voices), pc.equal(table["parent_id"], parent))
        found, seen, told = [], set[tuple[int, int]](), Counter[str]()
        for number in np.flatnonzero(mine.to_numpy()).tolist():
            factor, kind = float(done.factor[number]), [*treatments.kinds, ""][done.kind[number]]
            copy = table["label"][number].as_py(), table["flags"][number].as_py() >> schema.COPY_SHIFT
            if copy in seen or (kind and (factor != 1 or told[kind] == each)):
                continue
            seen.add(copy)
            told[kind] += 1
            found.append(Treated(Row(row.split, first + number), factor, kind, table["snr_db"][number].as_py()))
        return found

    def read(self, rows: Sequence[Row]) -> Iterator[Sample]:
        """Records with their values, a few in memory at a time, in the order of the rows.

        Raises:
            DatasetError, CorruptRecordError: a file is missing, or a record is damaged.
        """
        for first in range(0, len(rows), _TOGETHER):
            some = rows[first : first + _TOGETHER]
            found: dict[Row, Sample] = {}
            for split in dict.fromkeys(row.split for row in some):
                own = [row for row in some if row.split == split]
                found |= zip(own, self._read(split, [row.number for row in own]), strict=True)
            yield from (found[row] for row in some)

    def _read(self, split: str, numbers: Sequence[int]) -> Iterator[Sample]:
        index, dataset = self._index(split), self._dataset
        places = index.places(np.asarray(numbers, dtype=np.int64))
        rows = [RecordRow(*place) for place in zip(*(column.tolist() for column in places[:3]), strict=True)]
        names, rate = dataset.shard_names(split), dataset.recipe.audio.sample_rate_hz
        for number, row, framed in zip(numbers, rows, self._files(split).read(rows), strict=True):
            stored, fields = parse_record(framed, row, dataset.folder.where(names[row.shard]))
            values = stored.astype(np.float32)
            if stored.dtype.kind == "i":
                values /= np.float32(schema.PCM16_SCALE)
            if not np.isfinite(values).all():
                where = dataset.folder.where(names[row.shard])
                raise CorruptRecordError(
                    f"{where} at offset {row.offset}: expected finite values, got NaN or infinity: the "
                    "record is damaged"
                )
            speaker, utterance = (str(fields.get(key, "")) for key in (schema.KEY_SPEAKER, schema.KEY_UTTERANCE))
            label, start = (int(fields.get(key, 0)) for key in (schema.KEY_LABEL, schema.KEY_START))
            source = int(index["source_index"][number])
            yield Sample(split, speaker, utterance, label, source, start / rate, values)


def _clean(index: SplitIndex, rows: slice, sped: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which rows are of clean utterances at their own speed."""
    copied, other = index["flags"][rows] >> schema.COPY_SHIFT > 0, np.isin(index["label"][rows], sped)
    return np.asarray(~copied & ~other)


def _lowest(columns: npt.NDArray[np.int64], each: int) -> npt.NDArray[np.int64]:
    """Of each source (first row) the columns with the lowest keys (last row)."""
    columns = columns[:, np.lexsort((columns[-1], columns[0]))]
    heads = np.flatnonzero(np.diff(columns[0], prepend=-1))
    rank = np.arange(columns.shape[1]) - np.repeat(heads, np.diff(heads, append=columns.shape[1]))
    return columns[:, rank < each]


def at_floor(values: Values, recipe: Recipe) -> float | None:
    """The share, 0 to 1, of values whose power is at most the floor of the logarithm; None where there is no floor."""
    feature = recipe.feature
    if feature.features != "logmel" or feature.log == "none":
        return None
    power = 2 * feature.floor if feature.floor_kind == "add" else feature.floor
    level = feature.logarithm(power)
    # Stored values are rounded, to half of what lies between two of them there.
    rounding = float(np.spacing(np.abs(np.array(level, dtype=recipe.dtype)))) / 2
    return float(np.mean(values <= level + rounding + 1e-6))


def clipped(values: Values, recipe: Recipe) -> float | None:
    """The share, 0 to 1, of raw samples at full scale; None of other features, in which that cannot be seen."""
    if recipe.feature.features != "raw":
        return None
    return float(np.mean(np.abs(values) >= _FULL_SCALE))
