"""How fast this machine computes a recipe: some rows of the manifest, by the code that a job runs, for two seconds.

In as many processes as a job would have, all at once: cores that share a memory are slower together. Where a job writes
copies, too, they are made for two seconds without a clock, until sounds are kept as in a long job, and two with one.

Lengths and times are seconds, sizes bytes. It must not read a job's manifests: rows are handed to it.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.config import Recipe
from ge2e_transforms.copies import Copies
from ge2e_transforms.errors import WorkerError
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.planning import Augmented, ShardTask, expected_ms
from ge2e_transforms.schema import TRAIN_SPLIT
from ge2e_transforms.shards import ShardWriter, in_order, recordings_of
from ge2e_transforms.sounds import Sounds
from ge2e_transforms.utterance import Utterance
from pipeline import hygiene, recordings, watchdog
from pipeline.options import JobConfig
from pipeline.sound_lists import sounds_of

MEASURED_S = 2.0
_START_S = 300.0  # the most that libraries may take to import, and their code to compile
# Speech that is written between two looks at the clock: some tenths of a second of work.
_CHUNK_MS = 300_000
# As a task of a held-out split, so that nothing is left out for shortness.
_TASK = ShardTask("test", 0, 1, 0, "00000000")


class Measured(NamedTuple):
    """What one process did: seconds of speech in recordings and in features, bytes of shards, seconds, peak memory."""

    speech_s: float
    voiced_s: float
    written: int
    wall_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Speed:
    """What all processes did together.

    Attributes:
        processes: how many there were.
        real_time: seconds of recordings that are computed in a second, by all of them, where no copies are made.
        voiced: share of the recordings that is stored.
        bytes_per_s: of shards, for a second of recordings without copies.
        start_s: until the processes were ready.
        peak_bytes: of the largest of them, with all the sounds that it may keep.
        copied: as `real_time`, where all copies are made; None of a job that makes none.
    """

    processes: int
    real_time: float
    voiced: float
    bytes_per_s: float
    start_s: float
    peak_bytes: int
    copied: float | None = None

    def pace(self, *, augmented: bool) -> float:
        """Seconds of recordings of a split in a second."""
        return self.copied if augmented and self.copied else self.real_time


def calibrate(job: JobConfig, rows: Sequence[Utterance], processes: int, augmented: Augmented | None = None) -> Speed:
    """Computes some of the rows, over and over if they are few.

    Args:
        job: what is computed.
        rows: that can be read, at least one.
        processes: of the job, on this machine.
        augmented: what is written beside them.

    Raises:
        WorkerError: a process died, as a decoder crashed or memory ran out.
        NoiseError: the sounds of a list cannot be used.
    """
    context, began = multiprocessing.get_context("spawn"), time.monotonic()
    together = context.Barrier(processes)
    shares = [rows[number::processes] or rows for number in range(processes)]
    try:
        with ProcessPoolExecutor(processes, context, _prepare, (job, augmented, together)) as pool:
            list(pool.map(_ready, range(processes)))
            start_s = time.monotonic() - began
            plain = list(pool.map(_measure, shares, [MEASURED_S] * processes))
            parts = list(pool.map(_measure_copies, shares, [MEASURED_S] * processes)) if augmented else []
    except BrokenProcessPool as error:
        raise WorkerError(
            "a process that computed some rows of the manifest died: run the job with --isolate_decoder, which finds "
            "the recording that a decoder crashes on, or free memory"
        ) from error
    speech = sum(part.speech_s for part in plain)
    return Speed(
        processes=processes,
        real_time=_real_time(plain),
        voiced=sum(part.voiced_s for part in plain) / speech,
        bytes_per_s=sum(part.written for part in plain) / speech,
        start_s=start_s,
        peak_bytes=max(part.peak_bytes for part in parts or plain),
        copied=_real_time(parts) if parts else None,
    )


def _real_time(parts: Sequence[Measured]) -> float:
    return sum(part.speech_s for part in parts) / (sum(part.wall_s for part in parts) / len(parts))


class _Worker(NamedTuple):
    """What a process of a job has; `sounds` where it makes copies of this config."""

    recipe: Recipe
    extractor: FeatureExtractor
    config: Augmentation | None
    sounds: Sounds | None


_worker: _Worker | None = None


def _prepare(job: JobConfig, augmented: Augmented | None, together: threading.Barrier) -> None:
    """As a worker of a job: its libraries are loaded, and what is compiled is compiled."""
    global _worker
    import pipeline.graph  # noqa: F401

    hygiene.limit_threads()
    hygiene.keep_memory()
    extractor = FeatureExtractor(job.recipe)
    noise = np.random.default_rng(0).normal(0, 0.1, job.recipe.audio.sample_rate_hz * 2).astype(np.float32)
    extractor.extract(noise, keep_all=True)
    config, sounds = (augmented.config, sounds_of(job, augmented)) if augmented else (None, None)
    _worker = _Worker(job.recipe, extractor, config, sounds)
    together.wait(_START_S)


def _ready(_: int) -> None:
    """Comes back when all processes are prepared."""


def _measure(rows: Sequence[Utterance], measured_s: float) -> Measured:
    """As in a split that is not augmented."""
    return _written(_chunks(rows, _CHUNK_MS), TRAIN_SPLIT, measured_s)


def _measure_copies(rows: Sequence[Utterance], measured_s: float) -> Measured:
    """As in a split that is augmented, once sounds are kept; with what may still be kept of them."""
    assert _worker is not None and _worker.sounds is not None and _worker.config is not None
    growth = _worker.config.growth(_worker.config.splits[0])
    chunks = _chunks(rows, _CHUNK_MS / growth)
    _written(chunks, _TASK.split, measured_s)
    found = _written(chunks, _TASK.split, measured_s)
    return found._replace(peak_bytes=found.peak_bytes + _worker.sounds.room_left)


def _written(chunks: Iterator[list[Utterance]], augmented: str, measured_s: float) -> Measured:
    """Writes some chunks; `augmented` is the split whose utterances would have copies."""
    assert _worker is not None  # made by `_prepare`
    recipe, sounds = _worker.recipe, _worker.sounds
    config = replace(_worker.config, splits=(augmented,)) if _worker.config else None
    speech_ms = frames = records = written = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ge2e-calibrate-") as folder:
        for chunk in chunks:
            sources = tuple(sorted({row.source for row in chunk}))
            copies = Copies(config, sounds, recipe) if config and sounds else None
            with recordings.reading(recordings_of(chunk)) as open_audio:
                writer = ShardWriter(_TASK, _worker.extractor, sources, open_audio, load=watchdog.load, copies=copies)
                done = writer.write(chunk, Path(folder, "records"), Path(folder, "index"))
            speech_ms += sum(expected_ms(row, recipe.audio.max_seconds) for row in chunk)
            frames, records = frames + done["frames"], records + done["records"]
            written += done["records_bytes"] + done["index_bytes"]
            if time.monotonic() - began >= measured_s:
                break
    wall = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Measured(speech_ms / 1000, recipe.seconds(frames, records), written, wall, peak)


def _chunks(rows: Sequence[Utterance], limit_ms: float) -> Iterator[list[Utterance]]:
    """Rows in turn, in parts of so much speech, each row once in a part; without end."""
    assert _worker is not None
    while True:
        part, length = list[Utterance](), 0
        for row in rows:
            part.append(row)
            length += expected_ms(row, _worker.recipe.audio.max_seconds)
            if length >= limit_ms:
                yield in_order(part)
                part, length = [], 0
        if part:
            yield in_order(part)
