"""What the indexes of a dataset hold, in numbers: sizes, lengths, voice, levels, values of bins, spectra of speakers.

Copies of utterances, and what was written at other speeds, are counted apart: all else is of clean utterances. All
shards are gone through once, some indexes at a time, so that memory does not grow with the number of records: what is
kept are sums, histograms, and two spectra for each of at most `MOST_SPEAKERS` speakers. It must not know how the
numbers are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import DatasetError
from ge2e_transforms.histogram import Histogram
from ge2e_transforms.rng import derive
from ge2e_transforms.runs import changes
from ge2e_transforms.schema import FLAG_SHORT, FLAG_UNVOICED
from ge2e_transforms.suspects import Spectra
from ge2e_transforms.treatments import COLUMNS as COPY_COLUMNS
from ge2e_transforms.treatments import Treatments, labels_at_other_speeds

# Speakers whose spectra are kept; of more so many are drawn.
MOST_SPEAKERS = 50_000
# Sources that have figures of their own; the others have them together.
MOST_SOURCES = 8
# Speech whose root mean square is above this is nearly always clipped or compressed: its peaks are some 12 dB higher.
LOUD_DBFS = -12.0
_READERS = 8
_COLUMNS = ("label", "utterance_index", "frames", "source_index", "flags", "voiced_fraction", "gain_db")
Column = npt.NDArray[Any]


@dataclass
class Sizes:
    """Of one split and source."""

    speakers: int = 0
    utterances: int = 0
    records: int = 0
    seconds: float = 0.0


@dataclass
class SourceSummary:
    """Figures of one source, or of several together.

    Attributes:
        name: of the source.
        numbers: of the sources in metadata `datasets`.
        durations: of utterances, as they are stored, in seconds.
        voiced: share of each utterance that was kept as voice, 0 to 1.
        levels: root mean square of the voice of each utterance before the level stage, dBFS; none without that stage.
        loud: utterances above `LOUD_DBFS`.
        short, unvoiced: records that are shorter than a crop, or in which no voice was found.
        frames: of all records; with the sums per bin, `[bins]`, of their values and of the squares of these.
    """

    name: str
    numbers: tuple[int, ...]
    bins: int
    durations: Histogram = field(default_factory=lambda: Histogram(np.geomspace(0.1, 1000, 81)))
    voiced: Histogram = field(default_factory=lambda: Histogram(np.linspace(0, 1, 41)))
    levels: Histogram = field(default_factory=lambda: Histogram(np.linspace(-90, 0, 91)))
    loud: int = 0
    short: int = 0
    unvoiced: int = 0
    frames: int = 0
    total: npt.NDArray[np.float64] = field(init=False)
    square: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.total, self.square = np.zeros(self.bins), np.zeros(self.bins)

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """Per bin over all frames, `[bins]`."""
        return self.total / max(1, self.frames)

    @property
    def deviation(self) -> npt.NDArray[np.float64]:
        """Per bin over all frames, `[bins]`."""
        return np.sqrt(np.maximum(0, self.square / max(1, self.frames) - self.mean**2))


@dataclass
class Summary:
    """What is in a dataset.

    Attributes:
        sizes: by (split, number in `sources`).
        sources: with most speech first.
        spectra: of the speakers, or of those that were drawn.
        speakers: how many there are.
        treatments: the copies; None of a dataset without augmentation.
    """

    sizes: dict[tuple[str, int], Sizes]
    sources: list[SourceSummary]
    spectra: Spectra
    speakers: int
    treatments: Treatments | None = None


def summarize(dataset: Dataset, seed: int = 0) -> Summary:
    """Goes through the indexes of all shards.

    Args:
        dataset: an open dataset, on a disk or on a store.
        seed: of the draw of speakers, where there are more than `MOST_SPEAKERS`.

    Raises:
        DatasetError: an index is missing or damaged, or holds figures that no writer gives.
    """
    sources = _sources(dataset)
    of_source = np.zeros(max(1, len(dataset.metadata["datasets"])), dtype=np.int64)
    for number, source in enumerate(sources):
        of_source[list(source.numbers)] = number
    config = Augmentation.of(dataset.metadata)
    treatments = Treatments(config) if config else None
    labels = np.setdiff1d(dataset.speakers["label"].to_numpy().astype(np.int64), labels_at_other_speeds(dataset))
    count = len(labels)
    if count > MOST_SPEAKERS:
        labels = np.sort(labels[np.argsort(derive(seed, labels), kind="stable")[:MOST_SPEAKERS]])
    spectra = _no_spectra(labels, dataset.recipe.n_bins)
    sizes: dict[tuple[str, int], Sizes] = {}
    people: dict[tuple[str, int], list[Column]] = {}
    for split, table in _clean(dataset, treatments):
        columns = {name: table[name].to_numpy() for name in _COLUMNS}
        _require_source(dataset, split, columns["source_index"])
        columns["source"] = of_source[columns["source_index"]]
        mean, deviation = (_matrix(table[name]) for name in ("mean", "deviation"))
        figures = (columns["voiced_fraction"], columns["gain_db"], mean, deviation)
        if columns["frames"].min(initial=1) < 1 or not all(np.isfinite(figure).all() for figure in figures):
            raise _damaged(dataset, split, "frames from 1 on, and no NaN and no infinity among the figures")
        _add_spectra(spectra, columns, mean)
        for number in np.unique(columns["source"]).tolist():
            mine = columns["source"] == number
            own = {name: column[mine] for name, column in columns.items()}
            seconds = _add_source(sources[number], dataset, own, mean[mine], deviation[mine])
            size = sizes.setdefault((split, number), Sizes())
            size.records += len(own["label"])
            size.utterances += len(seconds)
            size.seconds += float(seconds.sum())
            people.setdefault((split, number), []).append(np.unique(own["label"]))
    for key, parts in people.items():
        sizes[key].speakers = len(np.unique(np.concatenate(parts)))
    return Summary(sizes, sources, _with_frames(spectra), count, treatments)


def _sources(dataset: Dataset) -> list[SourceSummary]:
    """Those with most frames, by the indexes of the splits, and the others together."""
    names = dataset.metadata["datasets"]
    frames = np.zeros(max(1, len(names)), dtype=np.int64)
    for split in dataset.splits:
        index = dataset.index(split)
        for first, last in zip(index.first_rows[:-1], index.first_rows[1:], strict=True):
            source = index["source_index"][first:last]
            _require_source(dataset, split, source)
            np.add.at(frames, source, index["frames"][first:last])
    order = [number for number in np.argsort(-frames, kind="stable").tolist() if frames[number]]
    alone = order if len(order) <= MOST_SOURCES else order[: MOST_SOURCES - 1]
    bins = dataset.recipe.n_bins
    found = [SourceSummary(names[number], (number,), bins) for number in alone]
    if others := tuple(order[len(alone) :]):
        found.append(SourceSummary(f"{len(others)} other sources", others, bins))
    return found


def _require_source(dataset: Dataset, split: str, source: Column) -> None:
    count = len(dataset.metadata["datasets"])
    if len(source) and not 0 <= source.min() <= source.max() < count:
        raise _damaged(dataset, split, f"source_index from 0 to {count - 1}, as metadata.json names sources")


def _damaged(dataset: Dataset, split: str, expected: str) -> DatasetError:
    return DatasetError(
        f"{dataset.root}: expected {expected}, in the indexes of split {split!r}: they are damaged, or of another "
        "dataset; `ge2e verify` says where"
    )


def _clean(dataset: Dataset, treatments: Treatments | None) -> Iterator[tuple[str, pa.Table]]:
    """As `_tables`, the rows of clean utterances; the copies are counted."""
    if treatments is None:
        yield from _tables(dataset, _COLUMNS)
        return
    for split, table in _tables(dataset, tuple(dict.fromkeys((*_COLUMNS, *COPY_COLUMNS)))):
        done = treatments.done(table, dataset.root)
        treatments.add(table, done)
        yield split, table.filter(pa.array(done.clean))


def _tables(dataset: Dataset, names: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """Split by split, the indexes of all shards that hold records, some of them read ahead."""
    columns, places = (*names, "mean", "deviation"), dataset.held_shards()

    def opened(place: tuple[str, int]) -> tuple[str, pa.Table]:
        return place[0], dataset.shard_index(place[0], place[1], columns)

    with ThreadPoolExecutor(_READERS) as pool:
        for first in range(0, len(places), _READERS):
            yield from pool.map(opened, places[first : first + _READERS])


def _matrix(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """A column of lists of one length, `[records, bins]`."""
    width = column.type.list_size
    values: npt.NDArray[np.float32] = column.combine_chunks().flatten().to_numpy()
    return values.astype(np.float64).reshape(-1, width)


def _heads(columns: dict[str, Column]) -> Column:
    """Rows where an utterance begins: its records lie side by side."""
    return np.flatnonzero(changes(columns["label"], columns["utterance_index"]))


def _add_source(
    source: SourceSummary, dataset: Dataset, own: dict[str, Column], mean: Column, deviation: Column
) -> npt.NDArray[np.float64]:
    """Adds some records of a shard; returns the seconds of each utterance."""
    recipe, heads = dataset.recipe, _heads(own)
    frames = own["frames"].astype(np.int64)
    records = np.diff(heads, append=len(frames))
    one_frame = recipe.seconds(1, 0)
    seconds = np.add.reduceat(frames, heads) * one_frame - records * (one_frame - recipe.seconds(1, 1))
    source.durations.add(seconds)
    source.voiced.add(own["voiced_fraction"][heads])
    if recipe.level.level_dbfs is not None:
        levels = recipe.level.level_dbfs - own["gain_db"][heads]
        source.levels.add(levels)
        source.loud += int(np.count_nonzero(levels > LOUD_DBFS))
    source.short += int(np.count_nonzero(own["flags"] & FLAG_SHORT))
    source.unvoiced += int(np.count_nonzero(own["flags"] & FLAG_UNVOICED))
    source.frames += int(frames.sum())
    source.total += frames @ mean
    source.square += frames @ (mean**2 + deviation**2)
    return np.asarray(seconds, dtype=np.float64)


def _no_spectra(labels: npt.NDArray[np.int64], bins: int) -> Spectra:
    shape = (len(labels), bins)
    return Spectra(labels, np.zeros_like(labels), np.zeros(len(labels)), np.zeros(shape), np.zeros(shape))


def _add_spectra(spectra: Spectra, columns: dict[str, Column], mean: Column) -> None:
    place = np.searchsorted(spectra.label, columns["label"])
    place = np.minimum(place, max(0, len(spectra.label) - 1))
    known = spectra.label[place] == columns["label"]
    place, frames, mean = place[known], columns["frames"][known].astype(np.float64), mean[known]
    np.add.at(spectra.records, place, 1)
    np.add.at(spectra.frames, place, frames)
    np.add.at(spectra.total, place, frames[:, None] * mean)
    np.add.at(spectra.square, place, frames[:, None] * mean**2)


def _with_frames(spectra: Spectra) -> Spectra:
    label, records, frames, total, square = spectra
    kept = frames > 0
    return Spectra(label[kept], records[kept], frames[kept], total[kept], square[kept])
