"""How fast this machine computes a recipe: some rows of the manifest, by the code that a job runs, for two seconds.

In as many processes as a job would have, all at once: cores that share a memory are slower together.
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
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import WorkerError
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.planning import ShardTask, expected_ms
from ge2e_transforms.shards import ShardWriter, in_order, recordings_of
from ge2e_transforms.utterance import Utterance
from pipeline import hygiene, recordings, watchdog

MEASURED_S = 2.0
_START_S = 300.0  # the most that libraries may take to import, and their code to compile
# Speech that is computed between two looks at the clock: some tenths of a second of work.
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
        real_time: seconds of recordings that are computed in a second, by all of them.
        voiced: share of the recordings that is stored.
        bytes_per_s: of shards, for a second of recordings.
        start_s: until the processes were ready.
        peak_bytes: of the largest of them.
    """

    processes: int
    real_time: float
    voiced: float
    bytes_per_s: float
    start_s: float
    peak_bytes: int


def calibrate(recipe: Recipe, rows: Sequence[Utterance], processes: int) -> Speed:
    """Computes some of the rows, over and over if they are few.

    Args:
        recipe: of the job.
        rows: that can be read, at least one.
        processes: of the job, on this machine.

    Raises:
        WorkerError: a process died, as a decoder crashed or memory ran out.
    """
    context, began = multiprocessing.get_context("spawn"), time.monotonic()
    together = context.Barrier(processes)
    try:
        with ProcessPoolExecutor(processes, context, _prepare, (recipe, together)) as pool:
            shares = [rows[number::processes] or rows for number in range(processes)]
            parts = list(pool.map(_measure, shares))
    except BrokenProcessPool as error:
        raise WorkerError(
            "a process that computed some rows of the manifest died: run the job with --isolate_decoder, which finds "
            "the recording that a decoder crashes on, or free memory"
        ) from error
    speech, wall = sum(part.speech_s for part in parts), sum(part.wall_s for part in parts)
    return Speed(
        processes=processes,
        real_time=speech / (wall / processes),
        voiced=sum(part.voiced_s for part in parts) / speech,
        bytes_per_s=sum(part.written for part in parts) / speech,
        start_s=time.monotonic() - began - wall / processes,
        peak_bytes=max(part.peak_bytes for part in parts),
    )


_extractor: FeatureExtractor | None = None


def _prepare(recipe: Recipe, together: threading.Barrier) -> None:
    """As a worker of a job: its libraries are loaded, and what is compiled is compiled."""
    global _extractor
    import pipeline.graph  # noqa: F401

    hygiene.limit_threads()
    hygiene.keep_memory()
    _extractor = FeatureExtractor(recipe)
    noise = np.random.default_rng(0).normal(0, 0.1, recipe.audio.sample_rate_hz * 2).astype(np.float32)
    _extractor.extract(noise, keep_all=True)
    together.wait(_START_S)


def _measure(rows: Sequence[Utterance]) -> Measured:
    assert _extractor is not None  # made by `_prepare`
    recipe, sources = _extractor.recipe, tuple(sorted({row.source for row in rows}))
    speech_ms = frames = records = written = 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ge2e-calibrate-") as folder:
        for chunk in _chunks(rows, recipe):
            with recordings.reading(recordings_of(chunk)) as open_audio:
                writer = ShardWriter(_TASK, _extractor, sources, open_audio, load=watchdog.load)
                done = writer.write(chunk, Path(folder, "records"), Path(folder, "index"))
            speech_ms += sum(expected_ms(row, recipe.audio.max_seconds) for row in chunk)
            frames, records = frames + done["frames"], records + done["records"]
            written += done["records_bytes"] + done["index_bytes"]
            if time.monotonic() - began >= MEASURED_S:
                break
    wall = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Measured(speech_ms / 1000, recipe.seconds(frames, records), written, wall, peak)


def _chunks(rows: Sequence[Utterance], recipe: Recipe) -> Iterator[list[Utterance]]:
    """Rows in turn, in parts of some minutes of speech, each row once in a part; without end."""
    while True:
        part, length = list[Utterance](), 0
        for row in rows:
            part.append(row)
            length += expected_ms(row, recipe.audio.max_seconds)
            if length >= _CHUNK_MS:
                yield in_order(part)
                part, length = [], 0
        if part:
            yield in_order(part)
