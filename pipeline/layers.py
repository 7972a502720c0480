"""Parts of a split that were written by different jobs, joined to one index and one row a speaker. Pure functions.

A speaker whose utterances were added later has records in several parts, each of which counts utterances and sessions
from 0. Here they are numbered through; the records stay where they are.

Tables by `schema`, in and out. It must not know files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ge2e_transforms import schema

_SUMS = ("utterances", "sessions", "frames", "seconds")


class Layer(NamedTuple):
    """A part that is numbered through in itself.

    Attributes:
        index: `schema.split_index_schema()`, one row a record.
        speakers: `schema.speakers_schema()`, sorted by label.
        sessions: from `session_names`.
    """

    index: pa.Table
    speakers: pa.Table
    sessions: pa.Table


def session_names(index: pa.Table) -> pa.Table:
    """The name of each session: `label`, `session_index`, `session_id_min`, sorted by the first two."""
    groups = index.group_by(["label", "session_index"], use_threads=False).aggregate([("session_id", "min")])
    return groups.sort_by([("label", "ascending"), ("session_index", "ascending")])


def join(layers: Sequence[Layer]) -> tuple[list[pa.Table], pa.Table]:
    """Indexes of all parts, in their order, and all speakers by label."""
    speakers = pa.concat_tables(layer.speakers for layer in layers)
    labels, counts = np.unique(speakers["label"].to_numpy(), return_counts=True)
    returning = labels[counts > 1]
    if not len(returning):
        return [layer.index for layer in layers], speakers.sort_by("label")
    numbering = _Numbering(returning)
    indexes = [numbering.number(layer) for layer in layers]
    return indexes, _merged(speakers, numbering)


class _Numbering:
    """Numbers of utterances and sessions of the speakers that return, as one part after the other is seen."""

    def __init__(self, returning: npt.NDArray[np.integer]) -> None:
        self._utterances = dict.fromkeys(returning.tolist(), 0)
        self.sessions: dict[int, dict[str, int]] = {label: {} for label in self._utterances}

    def number(self, layer: Layer) -> pa.Table:
        """The index of a part, with the numbers that follow those of the parts before."""
        index, own = layer.index, layer.speakers["label"].to_numpy()
        back = np.flatnonzero(np.isin(own, list(self._utterances)))
        if not len(back):
            return index
        before = np.zeros(len(own), dtype=np.int32)
        told = layer.speakers["utterances"].to_numpy()
        for place in back.tolist():
            label = int(own[place])
            before[place] = self._utterances[label]
            self._utterances[label] += int(told[place])
        speaker = np.searchsorted(own, index["label"].to_numpy())
        utterance = index["utterance_index"].to_numpy() + before[speaker]
        session = self._session_numbers(layer)[
            np.searchsorted(layer.sessions["label"].to_numpy(), own)[speaker] + index["session_index"].to_numpy()
        ]
        for name, values in (("utterance_index", utterance), ("session_index", session)):
            index = index.set_column(index.column_names.index(name), schema.split_index_schema().field(name), [values])
        return index

    def _session_numbers(self, layer: Layer) -> npt.NDArray[np.int32]:
        """The number of each session of a part, in the order of its `sessions`."""
        labels = layer.sessions["label"].to_numpy()
        numbers: npt.NDArray[np.int32] = layer.sessions["session_index"].to_numpy().astype(np.int32)
        back = np.flatnonzero(np.isin(labels, list(self.sessions)))
        names = layer.sessions["session_id_min"].take(pa.array(back)).to_pylist()
        for place, label, name in zip(back.tolist(), labels[back].tolist(), names, strict=True):
            known = self.sessions[label]
            numbers[place] = known.setdefault(name, len(known))
        return numbers


def _merged(speakers: pa.Table, numbering: _Numbering) -> pa.Table:
    """One row for each speaker."""
    names = ["label", "speaker_id", "split"]
    groups = speakers.group_by(names, use_threads=False).aggregate(
        [("source", "min"), *((name, "sum") for name in _SUMS)]
    )
    groups = groups.sort_by("label")
    sessions = groups["sessions_sum"].to_numpy().copy()
    for place, label in enumerate(groups["label"].to_pylist()):
        if label in numbering.sessions:
            sessions[place] = len(numbering.sessions[label])
    columns = {name: groups[name] for name in names} | {"source": groups["source_min"]}
    columns |= {name: groups[f"{name}_sum"] for name in _SUMS} | {"sessions": pa.array(sessions)}
    order = schema.speakers_schema().names
    return pa.table({name: columns[name] for name in order}).cast(schema.speakers_schema())


def concatenated(indexes: Iterable[pa.Table]) -> pa.Table:
    """One index of a split, in one piece."""
    return pa.concat_tables([schema.split_index_schema().empty_table(), *indexes]).combine_chunks()
