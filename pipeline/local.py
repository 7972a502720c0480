"""Running on this machine: worker processes, and what they print."""

from __future__ import annotations

import logging
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from ge2e_transforms.errors import Ge2eError
from pipeline.options import LOCAL_RUNNER


def worker_processes(beam_options: PipelineOptions, log: Path) -> FnApiRunner | None:
    """The local runner with worker processes, where the options ask for it; None leaves the choice to Beam.

    Beam's own way (`direct_running_mode`) hands the path of Python to a shell unquoted: with a space in it no worker
    ever starts, and the job waits for them without end.

    Args:
        beam_options: changed, so that Beam does not go its own way.
        log: what the workers print is appended to it.
    """
    direct = beam_options.view_as(DirectOptions)
    name = beam_options.view_as(StandardOptions).runner
    if name != LOCAL_RUNNER or direct.direct_running_mode != "multi_processing":
        return None
    direct.direct_running_mode = None
    command = f"exec {shlex.quote(sys.executable)} -m pipeline.local_worker 2>>{shlex.quote(str(log))}"
    return FnApiRunner(default_environment=SubprocessSDKEnvironment.from_command_string(command))


@contextmanager
def worker_log() -> Iterator[Path]:
    """A file for what worker processes print: Beam's tracebacks, notes of decoders.

    It is kept, and named, only if the block ends with an error that is not one of ours.
    """
    with tempfile.NamedTemporaryFile(prefix="ge2e-workers-", suffix=".log", delete=False) as file:
        path = Path(file.name)
    try:
        yield path
    except (Ge2eError, KeyboardInterrupt):
        path.unlink()
        raise
    except BaseException:
        if path.stat().st_size:
            logging.getLogger(__name__).error("what the worker processes printed is in %s", path)
        else:
            path.unlink()
        raise
    path.unlink()
