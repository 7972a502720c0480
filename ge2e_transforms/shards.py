"""The rows of one shard to its records and index: decode, extract, write, one recording at a time.

A shard depends on its rows, the recipe and the audio alone. Speakers and utterances stand in sorted
order; rows that share a recording share its decoding. It must not know of Beam, of where the files end
up, or of other shards.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ge2e_transforms import audio, records, schema
from ge2e_transforms.augmentation import MARK, sped
from ge2e_transforms.copies import Copies
from ge2e_transforms.decoded import AudioLoader, AudioSource, Recordings
from ge2e_transforms.decoders import Samples
from ge2e_transforms.errors import (
    AlreadyThereError,
    DataError,
    DoubledUtteranceError,
    ErasedSpeakerError,
    LedgerRow,
)
from ge2e_transforms.extractor import Extraction, FeatureExtractor, Segment
from ge2e_transforms.identity import Tombstones, erased_row
from ge2e_transforms.mixing import at_speed
from ge2e_transforms.planning import ShardTask
from ge2e_transforms.shard_sums import FrameSums, ShardSums
from ge2e_transforms.utterance import Utterance, ledger_row


class _Spoken(NamedTuple):
    """What the records of an utterance and of its copies share.

    row: the utterance at its speed.
    parent: utterance id of its row in the manifest; treatment: what was done to all of them, such as 'speed0.9'.
    """

    row: Utterance
    parent: str
    treatment: str
    label: int
    utterance: int
    session: int
    audio_hash: int


class _Copied(NamedTuple):
    """Which copy of an utterance a record is of, 0 for itself; and what was done to it."""

    number: int = 0
    kind: str = ""
    name: str = ""
    snr_db: float | None = None


@dataclass(frozen=True)
class Known:
    """What a shard must know of people beside its rows.

    Attributes:
        labels: of those of its speakers that stand in the dataset already; the others get new ones.
        utterances: ids of what is there of each of them.
        erased: speakers whose rows are left out.
        pseudonymous: ids are pseudonyms, so nothing else may tell who speaks either.
    """

    labels: Mapping[str, int] = field(default_factory=dict)
    utterances: Mapping[str, Collection[str]] = field(default_factory=dict)
    erased: Tombstones | None = None
    pseudonymous: bool = False

    def refusal(self, row: Utterance) -> DataError | None:
        """Why a row must not be written, whatever its audio is; None if it may be."""
        if self.erased and self.erased.hide(row.speaker_key):
            return ErasedSpeakerError("the speaker was erased")
        if row.utterance_id in self.utterances.get(row.speaker_key, ()):
            return AlreadyThereError("the dataset holds it already")
        return None

    def ledger_row(self, row: Utterance, error: DataError) -> LedgerRow:
        """The ledger's entry for a row that could not be written."""
        entry = ledger_row(row, error)
        if isinstance(error, ErasedSpeakerError):
            return erased_row(entry)
        return entry._replace(detail="", audio_path="") if self.pseudonymous else entry


def in_order(rows: Iterable[Utterance]) -> list[Utterance]:
    """Rows of a shard in the order in which they are written."""
    return sorted(rows, key=lambda row: (row.speaker_key, row.utterance_id, row.manifest, row.position))


def recordings_of(ordered: Iterable[Utterance]) -> list[str]:
    """Locations of audio in the order in which a writer first asks for them (once for each channel)."""
    return [location for location, _ in dict.fromkeys((row.location, row.channel) for row in ordered)]


class ShardWriter:
    """Writes one shard; use once.

    Args:
        task: which shard.
        extractor: built once per process.
        sources: all sources of the dataset, sorted; the index holds their numbers.
        open_audio: where encoded audio comes from.
        known: what is known of its speakers.
        load: what decodes it; by default `audio.load`.
        copies: what is written beside the utterances.
    """

    def __init__(
        self,
        task: ShardTask,
        extractor: FeatureExtractor,
        sources: tuple[str, ...],
        open_audio: AudioSource,
        known: Known | None = None,
        load: AudioLoader | None = None,
        copies: Copies | None = None,
    ) -> None:
        self._known = known or Known()
        self._task = task
        self._extractor = extractor
        self._sources = {name: number for number, name in enumerate(sources)}
        self._open_audio = open_audio
        self._load = load or audio.load
        self._copies = copies
        self._keys = {**schema.REPEATED, **(schema.REPEATED_OF_COPIES if copies else {})}
        self._schema = schema.index_schema(extractor.recipe.n_bins, augmented=copies is not None)
        self._columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        self._sums, self._frames = ShardSums(), FrameSums()
        self._digest = hashlib.sha256()
        self._offset = 0
        # What `write` reads from and writes to.
        self._recordings: Recordings
        self._stream: BinaryIO

    def write(self, ordered: Sequence[Utterance], records_path: Path, index_path: Path) -> dict[str, Any]:
        """Writes both files and returns the content of the done file.

        The rows are `in_order`. A shard without records leaves both files empty, with 0 bytes in the result.
        """
        wanted = [row for row in ordered if not self._known.refusal(row)]
        config, folder = self._extractor.recipe.audio, records_path.parent
        factors = self._copies.config.factors(self._task.split) if self._copies else (1.0,)
        with (
            Recordings(wanted * len(factors), config, self._open_audio, self._load, folder) as self._recordings,
            records_path.open("wb") as self._stream,
        ):
            label = self._task.label  # of the next new speaker
            for speaker, group in itertools.groupby(ordered, key=lambda row: row.speaker_key):
                known = self._known.labels.get(speaker)
                self._write_speeds(list(group), factors, label if known is None else known)
                label += len(factors) if known is None else 0
        table = pa.Table.from_pydict(self._columns, schema=self._schema)
        return {
            "generation": self._task.generation,
            "split": self._task.split,
            "shard": self._task.shard,
            "shards": self._task.shards,
            "records_bytes": self._offset,
            "records_sha256": self._digest.hexdigest(),
            **write_index(table, index_path),
            **self._sums.to_json(),
            **self._frames.to_json(),
        }

    def _write_speeds(self, rows: Sequence[Utterance], factors: Sequence[float], label: int) -> None:
        """A speaker, and what was written of it at other speeds as a speaker each, with the labels that follow."""
        self._sums.rows += len(rows)
        written = self._write_speaker(rows, 1.0, label)
        kept = set(map(id, written))
        for number, factor in enumerate(factors[1:], 1):
            for row in rows:
                if id(row) not in kept and not self._known.refusal(row):
                    self._recordings.pass_over(row)
            self._sums.sped += len(written)
            self._write_speaker(written, factor, label + number)

    def _write_speaker(self, rows: Sequence[Utterance], factor: float, label: int) -> list[Utterance]:
        """Writes a speaker at a speed, and returns the rows that could be written."""
        sessions: dict[str, int] = {}
        written: list[Utterance] = []
        for source in rows:
            row = _at_speed(source, factor)
            try:
                if factor == 1 and (refusal := self._known.refusal(row) or _double(written, row)):
                    raise refusal
                samples = self._recordings.take(source)
                if factor != 1:
                    samples = at_speed(samples, self._extractor.recipe.audio.sample_rate_hz, factor)
                extraction = self._extractor.extract(
                    samples, utterance_id=row.utterance_id, keep_all=self._task.keep_all
                )
            except DataError as error:
                getattr(self._sums, error.kind)[error.reason] += 1
                self._sums.ledger.append(self._known.ledger_row(row, error))
                continue
            session = sessions.setdefault(row.session_id, len(sessions))
            treatment = "" if factor == 1 else f"speed{factor:g}"
            audio_hash = audio.content_hash(samples)
            spoken = _Spoken(row, source.utterance_id, treatment, label, len(written), session, audio_hash)
            self._write_records(spoken, _Copied(), extraction)
            for copied, found in self._copied(row, samples, extraction):
                self._write_records(spoken, copied, found)
                self._sums.copies += 1
            written.append(source)
        self._sums.utterances += len(written)
        self._sums.speakers += bool(written)
        return written

    def _copied(self, row: Utterance, samples: Samples, extraction: Extraction) -> Iterator[tuple[_Copied, Extraction]]:
        if self._copies is None or self._task.split not in self._copies.config.splits:
            return
        made = self._copies.made(f"{row.speaker_key}{MARK}{row.utterance_id}", samples, extraction.voiced, self._load)
        for number, copy in enumerate(made, 1):
            found = self._extractor.extract(
                copy.samples,
                utterance_id=f"{row.utterance_id}{MARK}{copy.name}",
                keep_all=self._task.keep_all,
                voiced=extraction.voiced,
            )
            yield _Copied(number, copy.kind, copy.name, copy.snr_db), found

    def _write_records(self, spoken: _Spoken, copied: _Copied, extraction: Extraction) -> None:
        for segment in extraction.segments:
            self._write_record(spoken, copied, segment, extraction)

    def _write_record(self, spoken: _Spoken, copied: _Copied, segment: Segment, extraction: Extraction) -> None:
        repeated = self._repeated(spoken, copied, segment)
        fields = {key: repeated[name] for name, key in self._keys.items()}
        framed, payload = records.encode_record(segment.values, fields)
        self._stream.write(framed)
        self._digest.update(framed)
        mean, deviation = self._frames.add(segment.values)
        values = {
            **repeated,
            "offset": self._offset,
            "length": len(framed),
            "payload_offset": self._offset + payload,
            "frames": len(segment.values),
            "utterance_index": spoken.utterance,
            "session_index": spoken.session,
            "source_index": self._sources[spoken.row.source],
            "flags": segment.flags | copied.number << schema.COPY_SHIFT,
            "audio_path": "" if self._known.pseudonymous else spoken.row.audio_path,
            "voiced_fraction": extraction.voiced_fraction,
            "gain_db": extraction.gain_db,
            "audio_hash": spoken.audio_hash,
            "mean": mean,
            "deviation": deviation,
            "snr_db": copied.snr_db,
        }
        for name, column in self._columns.items():
            column.append(values[name])
        self._offset += len(framed)

    def _repeated(self, spoken: _Spoken, copied: _Copied, segment: Segment) -> dict[str, str | int]:
        """What record and index both hold."""
        row = spoken.row
        return {
            "label": spoken.label,
            "speaker_id": row.speaker_key,
            "utterance_id": f"{row.utterance_id}{MARK}{copied.name}" if copied.name else row.utterance_id,
            "session_id": row.session_id,
            "source": row.source,
            "subset": row.subset,
            "start": segment.start,
            "samples": segment.samples,
            "augmentation": "+".join(filter(None, (spoken.treatment, copied.kind))),
            "parent_id": spoken.parent,
        }


def _at_speed(row: Utterance, factor: float) -> Utterance:
    if factor == 1:
        return row
    return row._replace(speaker_id=sped(row.speaker_id, factor), utterance_id=sped(row.utterance_id, factor))


def write_index(table: pa.Table, path: Path) -> dict[str, Any]:
    """Writes the index of a shard, empty for one without records, and returns what its done file says of it."""
    with path.open("wb") as stream:
        if len(table):
            pq.write_table(table, stream, compression="zstd")
    content = path.read_bytes()
    return {"index_bytes": len(content), "index_sha256": hashlib.sha256(content).hexdigest()}


def _double(written: Sequence[Utterance], row: Utterance) -> DoubledUtteranceError | None:
    if not written or written[-1].utterance_id != row.utterance_id:
        return None
    return DoubledUtteranceError(
        f"utterance {row.utterance_id!r} of speaker {row.speaker_key!r} stands before, in {written[-1].manifest} "
        f"at {written[-1].position}: that row is kept; give each row an utterance_id of its own"
    )
