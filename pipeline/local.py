"""Running on this machine: worker processes, and what they print.

It must not know the job: what runs in these processes is handed to it.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from ge2e_transforms.errors import Ge2eError, WorkerError
from pipeline.crew import Workers, crew
from pipeline.options import LOCAL_RUNNER

# A worker may die of what comes by once, or of one recording, which is decoded apart once a worker has died over it.
_ATTEMPTS = 3
_Out = TypeVar("_Out")


@contextmanager
def worker_processes(beam_options: PipelineOptions, log: Path) -> Iterator[FnApiRunner | None]:
    """The local runner with worker processes, where the options ask for it; None leaves the choice to Beam.

    Beam's own way (`direct_running_mode`) hands the path of Python to a shell unquoted: with a space in it no worker
    ever starts, and the job waits for them without end. So it does when a worker dies.

    Args:
        beam_options: changed within the block, so that Beam does not go its own way.
        log: what the workers print is appended to it.

    Raises:
        WorkerError: a worker died.
    """
    direct = beam_options.view_as(DirectOptions)
    name, mode = beam_options.view_as(StandardOptions).runner, direct.direct_running_mode
    if name != LOCAL_RUNNER or mode != "multi_processing":
        yield None
        return
    direct.direct_running_mode = None
    try:
        with crew(log, direct.direct_num_workers) as workers:
            yield FnApiRunner(default_environment=Workers(workers.name))
    finally:
        direct.direct_running_mode = mode


def again_if_a_worker_dies(attempt: Callable[[], _Out]) -> _Out:
    """Result of an attempt at a job; of the next one if a worker dies, as that finds the shards that are finished.

    Raises:
        WorkerError: a worker died in each of `_ATTEMPTS` attempts.
    """
    for number in range(1, _ATTEMPTS):
        try:
            return attempt()
        except WorkerError as error:
            text = "%s: starting again, finished shards are kept (attempt %d of %d)"
            logging.getLogger(__name__).warning(text, error, number + 1, _ATTEMPTS)
    try:
        return attempt()
    except WorkerError as error:
        raise WorkerError(
            f"{error}, in each of {_ATTEMPTS} attempts. Run the same command again, with fewer --direct_num_workers if "
            "memory ran out: finished shards are kept"
        ) from error


@contextmanager
def worker_log() -> Iterator[Path]:
    """A file for what worker processes print: Beam's tracebacks, notes of decoders.

    It is kept, and named, only if the block ends with an error that is not one of ours, or as a worker died.
    """
    with tempfile.NamedTemporaryFile(prefix="ge2e-workers-", suffix=".log", delete=False) as file:
        path = Path(file.name)
    try:
        yield path
    except BaseException as error:
        told = isinstance(error, Ge2eError | KeyboardInterrupt) and not isinstance(error, WorkerError)
        if told or not path.stat().st_size:
            path.unlink()
        else:
            logging.getLogger(__name__).error("what the worker processes printed is in %s", path)
        raise
    path.unlink()
