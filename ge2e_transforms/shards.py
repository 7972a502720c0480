"""The rows of one shard to its records and index: decode, extract, write, one recording at a time.

A shard depends on its rows, the recipe and the audio alone. Speakers and utterances stand in sorted
order; rows that share a recording share its decoding. It must not know of Beam, of where the files end
up, or of other shards.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ge2e_transforms import audio, records, schema
from ge2e_transforms.config import AudioConfig, Recipe
from ge2e_transforms.errors import (
    AlreadyThereError,
    DataError,
    DiskError,
    DoubledUtteranceError,
    ErasedSpeakerError,
    LedgerRow,
)
from ge2e_transforms.extractor import Extraction, FeatureExtractor, Segment
from ge2e_transforms.identity import Tombstones, erased_row
from ge2e_transforms.planning import ShardTask
from ge2e_transforms.utterance import Utterance, ledger_row

# Where encoded audio comes from: a location to a local path, or to the bytes of an object.
AudioSource = Callable[[str], "str | bytes"]
# What decodes: `audio.load`, or what does the same elsewhere.
AudioLoader = Callable[["str | bytes", AudioConfig, "str | int | None", str], "npt.NDArray[np.float32]"]
# Decoded recordings that later rows of a shard need again are kept up to this (256 MiB of float32).
_KEPT_SAMPLES = 1 << 26
KEPT_BYTES = 4 * _KEPT_SAMPLES
# Label, numbers of utterance and session, and audio_hash.
_Numbers = tuple[int, int, int, int]
# Waits before a read that failed is tried again; then the shard fails, and the runner may try it elsewhere.
_RETRY_WAITS_S = (0.5, 1.0, 2.0, 5.0)


@dataclass
class FrameSums:
    """Records and frames of a shard, and per-bin sums over them. They add up over shards."""

    records: int = 0
    frames: int = 0
    bin_sums: npt.NDArray[np.float64] | None = None
    bin_squares: npt.NDArray[np.float64] | None = None

    def add(self, values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Adds a record `[frames, bins]`; returns its own mean and deviation per bin."""
        exact = values.astype(np.float64)
        if values.dtype.kind == "i":
            exact /= schema.PCM16_SCALE
        # Along the first axis NumPy adds row by row, so the order is fixed.
        sums, squares = np.add.reduce(exact, axis=0), np.add.reduce(np.square(exact), axis=0)
        self.records += 1
        self.frames += len(values)
        self.bin_sums = sums if self.bin_sums is None else self.bin_sums + sums
        self.bin_squares = squares if self.bin_squares is None else self.bin_squares + squares
        mean = sums / len(values)
        deviation = np.sqrt(np.maximum(squares / len(values) - np.square(mean), 0))
        return mean.astype(np.float32), deviation.astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        return {
            "records": self.records,
            "frames": self.frames,
            "statistics": {
                "frames": self.frames,
                "sums": [] if self.bin_sums is None else self.bin_sums.tolist(),
                "squares": [] if self.bin_squares is None else self.bin_squares.tolist(),
            },
        }


@dataclass
class ShardSums:
    """What a shard holds, as its done file says it."""

    rows: int = 0
    utterances: int = 0
    speakers: int = 0
    filtered: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    ledger: list[LedgerRow] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("rows", "utterances", "speakers")},
            **{name: dict(sorted(getattr(self, name).items())) for name in ("filtered", "rejected")},
            "ledger": [list(row) for row in self.ledger],
        }


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
    """

    def __init__(
        self,
        task: ShardTask,
        extractor: FeatureExtractor,
        sources: tuple[str, ...],
        open_audio: AudioSource,
        known: Known | None = None,
        load: AudioLoader | None = None,
    ) -> None:
        self._known = known or Known()
        self._task = task
        self._extractor = extractor
        self._sources = {name: number for number, name in enumerate(sources)}
        self._open_audio = open_audio
        self._load = load or audio.load
        self._columns: dict[str, list[Any]] = {name: [] for name in schema.index_schema(extractor.recipe.n_bins).names}
        self._sums, self._frames = ShardSums(), FrameSums()
        self._digest = hashlib.sha256()
        self._offset = 0

    def write(self, ordered: Sequence[Utterance], records_path: Path, index_path: Path) -> dict[str, Any]:
        """Writes both files and returns the content of the done file.

        The rows are `in_order`. A shard without records leaves both files empty, with 0 bytes in the result.
        """
        wanted = [row for row in ordered if not self._known.refusal(row)]
        recordings = _Recordings(wanted, self._extractor.recipe, self._open_audio, self._load)
        with records_path.open("wb") as stream:
            label = self._task.label  # of the next new speaker
            for speaker, group in itertools.groupby(ordered, key=lambda row: row.speaker_key):
                known = self._known.labels.get(speaker)
                self._write_speaker(group, label if known is None else known, recordings, stream)
                label += known is None
        table = pa.Table.from_pydict(self._columns, schema=schema.index_schema(self._extractor.recipe.n_bins))
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

    def _write_speaker(self, rows: Iterable[Utterance], label: int, recordings: _Recordings, stream: BinaryIO) -> None:
        sessions: dict[str, int] = {}
        written: Utterance | None = None
        utterances = 0
        for row in rows:
            self._sums.rows += 1
            try:
                if refusal := self._known.refusal(row):
                    raise refusal
                _refuse_double(written, row)
                samples = recordings.take(row)
                extraction = self._extractor.extract(
                    samples, utterance_id=row.utterance_id, keep_all=self._task.keep_all
                )
            except DataError as error:
                getattr(self._sums, error.kind)[error.reason] += 1
                self._sums.ledger.append(self._known.ledger_row(row, error))
                continue
            written = row
            session = sessions.setdefault(row.session_id, len(sessions))
            audio_hash = audio.content_hash(samples)
            for segment in extraction.segments:
                self._write_record(row, segment, extraction, (label, utterances, session, audio_hash), stream)
            utterances += 1
        self._sums.utterances += utterances
        self._sums.speakers += utterances > 0

    def _write_record(
        self, row: Utterance, segment: Segment, extraction: Extraction, numbers: _Numbers, stream: BinaryIO
    ) -> None:
        label, utterance, session, audio_hash = numbers
        repeated: dict[str, str | int] = {
            "label": label,
            "speaker_id": row.speaker_key,
            "utterance_id": row.utterance_id,
            "session_id": row.session_id,
            "source": row.source,
            "subset": row.subset,
            "start": segment.start,
            "samples": segment.samples,
        }
        fields = {key: repeated[name] for name, key in schema.REPEATED.items()}
        framed, payload = records.encode_record(segment.values, fields)
        stream.write(framed)
        self._digest.update(framed)
        mean, deviation = self._frames.add(segment.values)
        values = {
            **repeated,
            "offset": self._offset,
            "length": len(framed),
            "payload_offset": self._offset + payload,
            "frames": len(segment.values),
            "utterance_index": utterance,
            "session_index": session,
            "source_index": self._sources[row.source],
            "flags": segment.flags,
            "audio_path": "" if self._known.pseudonymous else row.audio_path,
            "voiced_fraction": extraction.voiced_fraction,
            "gain_db": extraction.gain_db,
            "audio_hash": audio_hash,
            "mean": mean,
            "deviation": deviation,
        }
        for name, column in self._columns.items():
            column.append(values[name])
        self._offset += len(framed)


def write_index(table: pa.Table, path: Path) -> dict[str, Any]:
    """Writes the index of a shard, empty for one without records, and returns what its done file says of it."""
    with path.open("wb") as stream:
        if len(table):
            pq.write_table(table, stream, compression="zstd")
    content = path.read_bytes()
    return {"index_bytes": len(content), "index_sha256": hashlib.sha256(content).hexdigest()}


def _refuse_double(written: Utterance | None, row: Utterance) -> None:
    if written is not None and written.utterance_id == row.utterance_id:
        raise DoubledUtteranceError(
            f"utterance {row.utterance_id!r} of speaker {row.speaker_key!r} stands before, in {written.manifest} "
            f"at {written.position}: that row is kept; give each row an utterance_id of its own"
        )


class _Recordings:
    """Decoded recordings by row; one that later rows need again is kept, within a limit."""

    def __init__(self, rows: list[Utterance], recipe: Recipe, open_audio: AudioSource, load: AudioLoader) -> None:
        self._config = recipe.audio
        self._open_audio = open_audio
        self._decode = load
        self._left = Counter(map(self._key, rows))
        self._kept: dict[tuple[str, str | int], npt.NDArray[np.float32] | DataError] = {}

    def _key(self, row: Utterance) -> tuple[str, str | int]:
        return row.location, self._config.channel if row.channel is None else row.channel

    def take(self, row: Utterance) -> npt.NDArray[np.float32]:
        """Mono samples of a row's segment at the recipe's rate; raises the DataError of its recording."""
        key = self._key(row)
        self._left[key] -= 1
        samples = self._kept.pop(key, None)
        if samples is None:
            samples = self._load(key)
        if self._left[key]:
            self._keep(key, samples)
        if isinstance(samples, DataError):
            raise type(samples)(str(samples))
        if row.offset_s is None:
            return samples
        return audio.cut(samples, self._config.sample_rate_hz, row.offset_s, row.duration_s, row.location)

    def _load(self, key: tuple[str, str | int]) -> npt.NDArray[np.float32] | DataError:
        location, channel = key
        waits = iter(_RETRY_WAITS_S)
        while True:
            try:
                return self._decode(self._open_audio(location), self._config, channel, location)
            except DataError as error:
                return error
            except OSError as error:  # of the disk or the network, not of the recording: it may pass
                wait_s = next(waits, None)
                if wait_s is None:
                    if error.errno is None:  # ours, or of a store: it has a name
                        raise
                    raise DiskError(
                        f"{location} cannot be read ({error.strerror}), when tried again too: check the disk, or the "
                        "network it is on, and run the same command again; finished shards are kept"
                    ) from error
                time.sleep(wait_s)

    def _keep(self, key: tuple[str, str | int], samples: npt.NDArray[np.float32] | DataError) -> None:
        self._kept[key] = samples
        # The one used longest ago goes first: each use takes a recording out and puts it back at the end.
        for old in self._over_limit():
            del self._kept[old]

    def _over_limit(self) -> Iterator[tuple[str, str | int]]:
        total = sum(0 if isinstance(kept, DataError) else len(kept) for kept in self._kept.values())
        for key, kept in list(self._kept.items())[:-1]:
            if total <= _KEPT_SAMPLES:
                return
            total -= 0 if isinstance(kept, DataError) else len(kept)
            yield key
