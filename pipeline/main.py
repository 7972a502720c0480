"""`ge2e run`: manifests of speech to a dataset of features, on any Beam runner.

    ge2e run --manifest manifest.csv --output features
    ge2e run --manifest /shared/m.csv --output /shared/features -- --runner=FlinkRunner \
        --flink_version=1.19 --flink_master=localhost:8081

`run(argv)` does the same from Python and returns what was made. It must not know what the stages do, nor how a result
is shown: `graph` builds, `commands/run.py` prints.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState

from ge2e_transforms.errors import CommitError, ConfigError, DiskError, Ge2eError, StorageError
from ge2e_transforms.schema import METADATA_FILE
from ge2e_transforms.stores import StoreError
from pipeline import dataflow, flags, graph, hygiene, interrupt, local, options, progress, sound_lists, storage, verdict
from pipeline.options import JobConfig
from pipeline.read import expand_manifests, read_key

_NAMED_ERROR = re.compile(r"ge2e_transforms\.\w+\.(StorageError|DiskError|StoreError): (.+)")


@dataclass(frozen=True)
class RunResult:
    """What a job made.

    Attributes:
        output: folder of the dataset.
        metadata: its metadata; empty for a template.
        wall_seconds: from submission to the end.
        pipeline_result: Beam's own result, with the metrics of the stages.
        template: where the job was written instead of being run (`--template_location`), else empty.
    """

    output: str
    metadata: dict[str, Any]
    wall_seconds: float
    pipeline_result: PipelineResult
    template: str = ""


def run(argv: Sequence[str], *, quiet: bool = False) -> RunResult:
    """Runs the job that the arguments of `ge2e run` describe, and waits for it.

    Args:
        argv: arguments, Beam's after `--`.
        quiet: nothing is shown of how far the job is.

    Raises:
        Ge2eError: an option, a manifest or the outcome cannot be used; the message says what to do.
    """
    own, beam_arguments = flags.split_arguments(argv)
    parser = argparse.ArgumentParser(prog="ge2e run", allow_abbrev=False)
    flags.add_run(parser)
    args = parser.parse_args(own)
    return run_job(options.job_config(args), options.beam_options(args, beam_arguments), quiet=quiet)


def run_job(job: JobConfig, beam_options: PipelineOptions, *, quiet: bool = False) -> RunResult:
    """Runs one job and waits for it; a template is only written, so that others can launch it."""
    dataflow.check(job, beam_options)
    template = dataflow.template_location(beam_options)
    if template:
        job = replace(job, token=options.TEMPLATE + job.token)
    if job.pseudonym_key:
        read_key(job.pseudonym_key)
    if all(map(storage.is_local, job.manifests)):
        expand_manifests(job.manifests)  # told here, not when the workers have started
    storage.prepare(job.output)
    began = time.monotonic()
    with (
        local.worker_log() as log,
        interrupt.interruptible(),
        _named_errors(job),
        dataflow.named_errors(beam_options),
        progress.shown(job, quiet=quiet or bool(template)),
        hygiene.one_thread(),
        sound_lists.let_go(),
    ):
        result = local.again_if_a_worker_dies(lambda: _submitted(job, beam_options, log, wait=not template))
    metadata = {} if template else json.loads(storage.read_bytes(storage.join(job.output, METADATA_FILE)))
    return RunResult(job.output, metadata, time.monotonic() - began, result, template)


def _submitted(job: JobConfig, beam_options: PipelineOptions, log: Path, *, wait: bool) -> PipelineResult:
    with local.worker_processes(beam_options, log) as runner:
        pipeline = _pipeline(beam_options, runner)
        graph.build(pipeline, job)
        result = pipeline.run()
        if wait:
            _wait(result, job, beam_options)
        return result


def _pipeline(beam_options: PipelineOptions, runner: PipelineRunner | None) -> beam.Pipeline:
    try:
        return beam.Pipeline(runner=runner, options=beam_options)
    except ValueError as error:
        raise ConfigError(f"Beam cannot use these options. {error}") from error


def _wait(result: PipelineResult, job: JobConfig, beam_options: PipelineOptions) -> None:
    """Waits in another thread: where Ctrl-C meets Beam's own waiting, it stops the job server before the job."""
    outcome: Future[str] = Future()

    def wait() -> None:
        try:
            outcome.set_result(result.wait_until_finish())
        except BaseException as error:
            outcome.set_exception(error)

    try:
        threading.Thread(target=wait, name="wait-for-job", daemon=True).start()
        state = outcome.result()
    except KeyboardInterrupt:
        _cancel(result)  # first, as it needs no store
        if options.has_job_server(beam_options):
            verdict.stop(job.output, job.token)
        raise
    if state != PipelineState.DONE:
        raise CommitError(f"the job ended as {state}: run the same command again, finished shards are kept")


def _cancel(result: PipelineResult) -> None:
    """Ends a job for which nobody waits any more: it would go on, and cost."""
    log = logging.getLogger(__name__)
    try:
        result.cancel()
        log.warning("the job was cancelled")
    except NotImplementedError:  # a local runner, which has ended with the interrupt
        return
    except Exception as error:  # of as many kinds as there are runners
        what = f"{type(error).__name__}: {error}"
        log.error("the job could not be cancelled (%s): do it by the runner's own tools", what)


@contextmanager
def _named_errors(job: JobConfig) -> Iterator[None]:
    """Whatever a runner makes of an error: our own, if a worker met one, is raised in its place."""
    try:
        yield
    except Exception as error:
        own = _own_error(job, error)
        if own is None:
            raise
        raise own from error


def _own_error(job: JobConfig, error: Exception) -> Ge2eError | None:
    # A disk or a store that failed left no verdict, as it may be well again, and a full disk took none; but runners
    # pass on what was told of it.
    told = [(type(error).__name__, str(error))]
    if not isinstance(error, DiskError | StoreError):
        told = _NAMED_ERROR.findall(str(error))
    try:
        verdict.raise_if_any(job.output, job.token)
    except Ge2eError as own:
        verdict.forget(job.output, job.token)
        return own
    except (DiskError, StoreError) as still:
        told = told or [(type(still).__name__, str(still))]
    if not told:
        return None
    name, text = told[-1]
    text = text.partition(" [while running ")[0]
    again = ". Run the same command again: finished shards are kept" if name == StoreError.__name__ else ""
    return StorageError(text + again)
