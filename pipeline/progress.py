"""Progress of a running job, on any runner: from a note of its plan, and the done files that appear in its output.

Beam tells nothing while a local runner works, and each cluster tells it in another place. The files are there wherever
the job runs. A terminal gets a bar, a log gets a plain line now and then.

Lengths are seconds of speech in features. It must not ask the runner, and what it meets must not fail a job.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tqdm import tqdm

from ge2e_transforms.config import Recipe
from ge2e_transforms.planning import Plan
from ge2e_transforms.schema import PROGRESS_FILE
from pipeline import storage
from pipeline.options import TEMPLATE, JobConfig

_DONE = re.compile(r"[^/]+/features-(?P<generation>[0-9a-f]{8})-\d+-of-\d+\.done\.json")
# Between two looks at a folder, and at a store, where each costs requests; they take a tenth of the time at most.
_LOCAL_S, _STORE_S, _SHARE = 0.5, 10.0, 10
_SECONDS_BETWEEN_LINES = 20.0


def _note(output: str) -> str:
    return storage.join(output, PROGRESS_FILE)


def announce(job: JobConfig, plan: Plan) -> None:
    """Leaves a note of how much there is to do, where the program that waits finds it.

    A job that nobody waits for has no use for it, and none fails for want of it.
    """
    if not job.token or job.token.startswith(TEMPLATE) or plan.nothing_to_do:
        return
    rejected = sum(entry.rejected for entry in plan.manifests)
    content = {
        "token": job.token,
        "generation": plan.generation,
        "shards": sum(plan.shards.values()),
        "rows": sum(entry.rows for entry in plan.manifests),
        "rejected": rejected,
    }
    with contextlib.suppress(OSError), storage.building(_note(job.output)) as (path,):
        path.write_text(json.dumps(content))


def forget(output: str) -> None:
    """Removes the note, whoever left it: that of a job that was killed, too."""
    with contextlib.suppress(OSError):
        storage.remove([_note(output)])


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        shards, all_shards: finished, and all.
        rows, all_rows: rows of the manifests that are in finished shards or were refused, and all.
        rejected: of those rows.
        seconds: of speech, in the features of the finished shards.
    """

    shards: int
    all_shards: int
    rows: int
    all_rows: int
    rejected: int
    seconds: float


class Watch:
    """Looks at the output of a job.

    Args:
        output: of the job.
        token: of the job.
        recipe: gives the seconds of a frame.
    """

    def __init__(self, output: str, token: str, recipe: Recipe) -> None:
        self._output, self._token, self._recipe = output, token, recipe
        self._generation = ""
        self._seen: set[str] = set()
        self._progress: Progress | None = None

    def look(self) -> Progress | None:
        """How far the job is; None while it is not planned, and where there is nothing to do."""
        progress = self._progress or self._planned()
        if progress is None:
            return None
        for name in storage.listing(self._output):
            match = _DONE.fullmatch(name)
            if match and match["generation"] == self._generation and name not in self._seen:
                progress = self._with(progress, name)
        self._progress = progress
        return progress

    def _planned(self) -> Progress | None:
        try:
            note = json.loads(storage.read_bytes(_note(self._output)))
            if note["token"] != self._token:  # of a job before, or of another one at once
                return None
            self._generation = note["generation"]
            return Progress(0, note["shards"], note["rejected"], note["rows"], note["rejected"], 0.0)
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or one that no job of ours wrote
            return None

    def _with(self, progress: Progress, name: str) -> Progress:
        try:
            done = json.loads(storage.read_bytes(storage.join(self._output, name)))
            seconds = self._recipe.seconds(done["frames"], done["records"])
            rows, rejected = done["rows"], sum(done["rejected"].values())
        except (FileNotFoundError, ValueError, KeyError):  # gone since it was listed, or damaged: it is written again
            return progress
        self._seen.add(name)
        return replace(
            progress,
            shards=len(self._seen),
            rows=progress.rows + rows,
            rejected=progress.rejected + rejected,
            seconds=progress.seconds + seconds,
        )


@contextmanager
def shown(job: JobConfig, *, quiet: bool = False) -> Iterator[None]:
    """Shows on the standard error how far a job is, while the block runs."""
    stop = threading.Event()
    watch = Watch(job.output, job.token, job.recipe)
    show = _bar if sys.stderr.isatty() else _lines
    every = _LOCAL_S if storage.is_local(job.output) else _STORE_S
    watcher = threading.Thread(target=show, args=(_looks(watch, every, stop),), name="progress", daemon=True)
    if not quiet:
        watcher.start()
    try:
        yield
    finally:
        stop.set()
        if not quiet:
            watcher.join()
        forget(job.output)


def _looks(watch: Watch, every: float, stop: threading.Event) -> Iterator[Progress | None]:
    pause = every
    while not stop.wait(pause):
        began = time.monotonic()
        with contextlib.suppress(OSError):  # a store that does not answer for once: the job tells, if it lasts
            yield watch.look()
        pause = max(every, _SHARE * (time.monotonic() - began))


def _bar(looks: Iterator[Progress | None]) -> None:
    pace = _Pace()
    with tqdm(desc="reading manifests", unit=" rows", leave=False, dynamic_ncols=True) as bar:
        for progress in looks:
            if progress is not None:
                if pace.first is None:
                    bar.set_description("computing", refresh=False)
                    bar.reset(progress.all_rows)
                    bar.initial = progress.rows  # shards of an earlier attempt took no time
                bar.n = progress.rows
                bar.set_postfix_str(_told(progress, pace.of(progress)), refresh=False)
            bar.refresh()


def _lines(looks: Iterator[Progress | None]) -> None:
    pace, said = _Pace(), time.monotonic()
    for progress in looks:
        if progress is None:
            continue
        real_time = pace.of(progress)
        if time.monotonic() - said >= _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            rows = f"{progress.rows:,} of {progress.all_rows:,} rows"
            line = f"ge2e: {rows}, {_told(progress, real_time)}{pace.left(progress)}"
            print(line, file=sys.stderr, flush=True)


class _Pace:
    """How fast it goes, counted from when the plan was first seen."""

    def __init__(self) -> None:
        self.first: Progress | None = None
        self._since = 0.0

    def of(self, progress: Progress) -> float:
        """Seconds of speech a second."""
        if self.first is None:
            self.first, self._since = progress, time.monotonic()
        return (progress.seconds - self.first.seconds) / max(time.monotonic() - self._since, 1e-3)

    def left(self, progress: Progress) -> str:
        """', 12 min left'; empty while nothing is known."""
        made = progress.rows - self.first.rows if self.first else 0
        if not made:
            return ""
        seconds = (time.monotonic() - self._since) * (progress.all_rows - progress.rows) / made
        return f", {tqdm.format_interval(round(seconds))} left"


def _told(progress: Progress, real_time: float) -> str:
    return (
        f"{progress.shards:,} of {progress.all_shards:,} shards, {real_time:,.0f} x real time, "
        f"{progress.rejected:,} rejected"
    )
