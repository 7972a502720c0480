"""Whole utterances of a dataset, one by its id or all of a split: joined from their records, normalised, filled up.

For datasets in utterance form. Every record has its checksum verified. It must not know how batches are made. Values
are float32, `[bins, frames]` or `[frames, bins]`.
"""

from __future__ import annotations

import collections
import difflib
import io
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ge2e_transforms import records, schema
from ge2e_transforms.checks import check, check_integer, check_one_of
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import CorruptRecordError, DatasetError
from ge2e_transforms.reading import LAYOUTS, scale_of, silence
from ge2e_transforms.runs import Ints
from ge2e_transforms.shard_files import LocalShards, StoreShards
from ge2e_transforms.utterance_rows import PLACE_COLUMNS, RecordRow, UtteranceRows, joined, utterance_rows

Values = npt.NDArray[np.float32]

NORMALIZE = ("none", "dataset", "utterance")
ORDERS = ("index", "length")

_TEXT_COLUMNS = ("speaker_id", "utterance_id")
_IDENTITY = (schema.KEY_SPEAKER, schema.KEY_UTTERANCE, schema.KEY_LABEL)
# Of the shards' tables that were searched last: some hundred thousand utterances.
_KEPT_BYTES = 1 << 26
# Names that an unknown one is compared with (about 20 us each), and what messages show.
_COMPARED, _NEAR, _LISTED = 20_000, 3, 10
# Utterances that are read together.
_TOGETHER = 16


class WholeUtterance(NamedTuple):
    """One utterance.

    speaker_id: `namespace/speaker_id`.
    utterance_id: as the manifest says.
    label: of the speaker, as in batches.
    values: float32, C-contiguous, `[bins, frames]` ('mel_time') or `[frames, bins]` ('time_mel').
    frames: its true length in rows, without what `pad_to` added.
    """

    speaker_id: str
    utterance_id: str
    label: int
    values: Values
    frames: int


def parse_record(framed: bytes, row: RecordRow, where: str) -> tuple[npt.NDArray[Any], dict[str, str | int]]:
    """Values `[rows, bins]`, float32, float16 or int16 as stored, and the other fields of one record.

    Raises:
        CorruptRecordError: a checksum does not match, or the record is not as long as its index says.
    """
    where = f"{where} at offset {row.offset}"
    stream = io.BytesIO(framed)
    data = records.check_frame(stream.read(records.HEADER_BYTES), stream, where)
    if (got := stream.tell()) != row.length:
        raise CorruptRecordError(f"{where}: expected a record of {row.length} bytes, as its index says, got {got}")
    return records.decode_example(data, where)


class WholeUtterances:
    """Whole utterances of a dataset in utterance form. Safe to call from several threads at once.

    Args:
        dataset: an open dataset.
        layout: 'mel_time' gives values `[bins, frames]`, 'time_mel' `[frames, bins]`.
        normalize: 'none'; else (value - mean) / deviation per bin, with those of all train frames ('dataset') or of
            the utterance ('utterance'). A bin without deviation becomes 0.

    Raises:
        ConfigError: unknown `layout` or `normalize`.
    """

    def __init__(self, dataset: Dataset, layout: str = "mel_time", normalize: str = "none") -> None:
        check_one_of("layout", layout, LAYOUTS)
        check_one_of("normalize", normalize, NORMALIZE)
        self._dataset, self._layout, self._normalize = dataset, layout, normalize
        self._silence = silence(dataset.recipe)
        self._tables: collections.OrderedDict[tuple[str, int], pa.Table] = collections.OrderedDict()
        self._kept_bytes = 0
        self._files: dict[str, LocalShards | StoreShards] = {}
        self._labels: dict[str, tuple[Ints, Ints, Ints]] = {}
        self._lock = threading.Lock()

    def one(self, utterance_id: str, speaker_id: str | None = None) -> WholeUtterance:
        """One utterance by its id.

        Without a speaker the ids of all shards are searched, one shard at a time; with one, only those of the
        speaker's shards.

        Args:
            utterance_id: as the manifest says.
            speaker_id: `namespace/speaker_id`; needed where several speakers have an utterance of this id.

        Raises:
            DatasetError: no such utterance or speaker, several such utterances, a dataset in windows form, or
                `normalize='dataset'` without train frames.
            CorruptRecordError: a record does not match its checksum or its index.
        """
        self._refuse_windows()
        return self.with_records(utterance_id, speaker_id)[0]

    def with_records(self, utterance_id: str, speaker_id: str | None = None) -> tuple[WholeUtterance, list[int]]:
        """As `one`, also in windows form, with the rows of each record.

        Those of utterance form follow one another; between two windows something may be left out.
        """
        check(isinstance(utterance_id, str), "utterance_id", utterance_id, "text")
        check(speaker_id is None or isinstance(speaker_id, str), "speaker_id", speaker_id, "text or None")
        searched, label = self._dataset.held_shards(), None
        if speaker_id is not None:
            split, label = self._speaker(speaker_id)
            searched = [(split, shard) for shard in self._shards_of(split, label)]
        found = [match for split, shard in searched for match in self._search(split, shard, utterance_id, label)]
        if not found:
            raise DatasetError(self._unknown(utterance_id, speaker_id, searched, label))
        if len(found) > 1:
            raise DatasetError(_ambiguous(utterance_id, speaker_id, [match[-1] for match in found]))
        ((split, shard, utterance, speaker),) = found
        ((whole, rows),) = self._read(split, [(self._places(split, shard, self._table(split, shard)), utterance)], None)
        if (whole.speaker_id, whole.utterance_id) != (speaker, utterance_id):
            raise CorruptRecordError(
                f"{self._dataset.root}, split {split!r}, shard {shard}: expected utterance {utterance_id!r} of "
                f"{speaker!r} by the index, got {whole.utterance_id!r} of {whole.speaker_id!r} from the records"
            )
        return whole, rows

    def all(self, split: str, order: str = "index", pad_to: int | None = None) -> Iterator[WholeUtterance]:
        """All utterances of a split, a few in memory at a time.

        Args:
            split: its name.
            order: 'index' as stored; 'length' shortest first (those of one length as stored), so that neighbours make
                a batch with little padding. For 'length', about 130 bytes an utterance are held in memory.
            pad_to: values are filled up with silence, normalised as they are, to the next multiple of this many rows,
                so that a compiled model meets few shapes; None leaves them as they are.

        Raises:
            ConfigError: unknown `order`, or a `pad_to` that is no positive integer.
            DatasetError, CorruptRecordError: as `one`, or no such split.
        """
        self._refuse_windows()
        check_one_of("order", order, ORDERS)
        if pad_to is not None:
            check_integer("pad_to", pad_to, 1, 1 << 31)
        shards = range(len(self._dataset.shards(split)))
        walk = self._walk(split, order, shards)
        some = iter(lambda: list(itertools.islice(walk, _TOGETHER)), [])
        return (whole for utterances in some for whole, _ in self._read(split, utterances, pad_to))

    def _walk(self, split: str, order: str, shards: Iterable[int]) -> Iterator[tuple[UtteranceRows, int]]:
        tables = ((shard, self._dataset.shard_index(split, shard, PLACE_COLUMNS)) for shard in shards)
        by_shard = (self._places(split, shard, table) for shard, table in tables)
        if order == "index":
            for places in by_shard:
                yield from zip(itertools.repeat(places), range(len(places.frames)), strict=False)
        elif whole := joined(list(by_shard)):
            for utterance in np.argsort(whole.frames, kind="stable"):
                yield whole, int(utterance)

    def _places(self, split: str, shard: int, table: pa.Table) -> UtteranceRows:
        return utterance_rows(table, shard, self._dataset.shards(split)[shard]["records_bytes"])

    def _refuse_windows(self) -> None:
        if self._dataset.metadata["segments"] == "windows":
            raise DatasetError(
                f"{self._dataset.root} holds windows, which are fixed cuts and not utterances: whole utterances need a "
                "dataset that was made with --segments utterance"
            )

    def _read(
        self, split: str, utterances: Sequence[tuple[UtteranceRows, int]], pad_to: int | None
    ) -> Iterator[tuple[WholeUtterance, list[int]]]:
        """Utterances whose records are read together, so that the requests to a store are under way at once.

        Each with the rows of its records.
        """
        rows = [places.rows(utterance) for places, utterance in utterances]
        framed = iter(self._files_of(split).read(list(itertools.chain(*rows))))
        for (places, utterance), own in zip(utterances, rows, strict=True):
            parsed = [parse_record(next(framed), row, self._where(split, row)) for row in own]
            label = int(places.label[utterance])
            speaker, name, stored = self._joined(split, own[0], label, int(places.frames[utterance]), parsed)
            whole = WholeUtterance(speaker, name, label, self._finish(stored, pad_to), len(stored))
            yield whole, [len(values) for values, _ in parsed]

    def _where(self, split: str, row: RecordRow) -> str:
        return self._dataset.folder.where(self._dataset.shard_names(split)[row.shard])

    def _files_of(self, split: str) -> LocalShards | StoreShards:
        with self._lock:
            if split not in self._files:
                self._files[split] = self._dataset.open_shards(split)
            return self._files[split]

    def _joined(
        self,
        split: str,
        first: RecordRow,
        label: int,
        frames: int,
        parsed: Sequence[tuple[npt.NDArray[Any], dict[str, str | int]]],
    ) -> tuple[str, str, npt.NDArray[Any]]:
        """Ids of speaker and utterance, and stored values `[rows, bins]`, from the records in the order spoken."""
        parts, fields = zip(*parsed, strict=True)
        values = np.concatenate(parts)
        # What the records say of themselves: one utterance of this speaker, as long as the index says.
        identities = {tuple(entry.get(key) for key in _IDENTITY) for entry in fields}
        if len(identities) > 1 or {entry[2] for entry in identities} != {label} or len(values) != frames:
            raise CorruptRecordError(
                f"{self._dataset.root}, split {split!r}, shard {first.shard} at offset {first.offset}: expected "
                f"one utterance of label {label} with {frames} rows, as the index says, got {len(values)} rows of "
                f"(speaker, utterance, label) {sorted(map(str, identities))}: records and index are of two datasets"
            )
        ((speaker_id, utterance_id, _),) = identities
        return str(speaker_id), str(utterance_id), values

    def _finish(self, stored: npt.NDArray[Any], pad_to: int | None) -> Values:
        """Stored values `[rows, bins]` as they are given."""
        rows = len(stored)
        more = -rows % pad_to if pad_to else 0
        values = np.empty((rows + more, stored.shape[1]), dtype=np.float32)
        values[:rows] = stored
        if stored.dtype.kind == "i":
            values[:rows] /= np.float32(schema.PCM16_SCALE)
        values[rows:] = self._silence
        if self._normalize != "none":
            mean, scale = self._statistics(values[:rows])
            values -= mean.astype(np.float32)
            values *= scale.astype(np.float32)
        return np.ascontiguousarray(values.T) if self._layout == "mel_time" else values

    def _statistics(self, values: Values) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Mean and 1 / deviation per bin, `[bins]` each."""
        if self._normalize == "dataset":
            mean, deviation = self._dataset.statistics("use normalize='utterance'")
        else:
            mean, deviation = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
        return mean, scale_of(mean, deviation)

    # Finding one utterance.

    def _table(self, split: str, shard: int) -> pa.Table:
        """Places and ids of a shard; those used last are kept, within a limit."""
        with self._lock:
            key = (split, shard)
            table = self._tables.pop(key, None)
            if table is None:
                table = self._dataset.shard_index(split, shard, (*PLACE_COLUMNS, *_TEXT_COLUMNS))
                self._kept_bytes += table.nbytes
            self._tables[key] = table
            while len(self._tables) > 1 and self._kept_bytes > _KEPT_BYTES:
                self._kept_bytes -= self._tables.popitem(last=False)[1].nbytes
            return table

    def _search(self, split: str, shard: int, name: str, label: int | None) -> Iterator[tuple[str, int, int, str]]:
        """Split, shard, number within the shard, and speaker, of each utterance of this id (and speaker)."""
        table = self._table(split, shard)
        rows = np.flatnonzero(pc.equal(table["utterance_id"], name).to_numpy())
        if not len(rows):
            return
        places = self._places(split, shard, table)
        for utterance in np.unique(np.searchsorted(places.first, rows, side="right") - 1).tolist():
            if label is None or places.label[utterance] == label:
                yield split, shard, utterance, table["speaker_id"][int(places.first[utterance])].as_py()

    def _speaker(self, speaker_id: str) -> tuple[str, int]:
        """Split and label of a speaker."""
        table = self._dataset.speakers
        rows = np.flatnonzero(pc.equal(table["speaker_id"], speaker_id).to_numpy())
        if len(rows) != 1:
            near = _near(speaker_id, (name.as_py() for name in table["speaker_id"]))
            raise DatasetError(
                f"{self._dataset.root} has no speaker {speaker_id!r} among its {len(table)}: expected "
                f"namespace/speaker_id, as in {schema.KEY_SPEAKER}{near}"
            )
        return table["split"][int(rows[0])].as_py(), table["label"][int(rows[0])].as_py()

    def _shards_of(self, split: str, label: int) -> list[int]:
        """Shards whose range of labels holds a speaker's."""
        with self._lock:
            if split not in self._labels:
                index = self._dataset.index(split)
                shards, labels = np.flatnonzero(np.diff(index.first_rows)), index["label"]
                first = index.first_rows[shards]
                self._labels[split] = (shards, np.minimum.reduceat(labels, first), np.maximum.reduceat(labels, first))
            shards, lowest, highest = self._labels[split]
        held: list[int] = shards[(lowest <= label) & (label <= highest)].tolist()
        return held

    def _unknown(self, name: str, speaker: str | None, searched: Sequence[tuple[str, int]], label: int | None) -> str:
        def names() -> Iterator[str]:
            for split, shard in searched:
                table = self._table(split, shard)
                if label is not None:
                    table = table.filter(pc.equal(table["label"], label))
                yield from pc.unique(table["utterance_id"]).to_pylist()

        of = f"speaker {speaker!r} in {self._dataset.root}" if speaker else f"{self._dataset.root}"
        return f"{of} has no utterance {name!r}: expected an utterance_id as in the manifest{_near(name, names())}"


def _near(name: str, names: Iterable[str]) -> str:
    """For messages: the names that are most like one that is not there."""
    near = difflib.get_close_matches(name, itertools.islice(names, _COMPARED), _NEAR)
    return f". Near it: {', '.join(map(repr, near))}" if near else ""


def _ambiguous(name: str, speaker: str | None, speakers: Sequence[str]) -> str:
    if speaker is not None:
        return f"speaker {speaker!r} has {len(speakers)} utterances {name!r}: the index is damaged"
    shown = ", ".join(map(repr, sorted(speakers)[:_LISTED])) + (", ..." if len(speakers) > _LISTED else "")
    return f"{len(speakers)} speakers have an utterance {name!r}: {shown}. Give speaker_id, one of them"
