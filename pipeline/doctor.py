"""`ge2e doctor`: a small job on the workers of a runner that says what a large one would meet there.

    ge2e doctor
    ge2e doctor --manifest m.csv --output features
    ge2e doctor --manifest gs://bucket/m.csv --output gs://bucket/features -- --runner=DataflowRunner ...

`examine_workers(argv)` does the same from Python. It must not know what is tried (`examine`), nor what that means for a
job (`diagnosis`).
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, StandardOptions
from apache_beam.runners.runner import PipelineState

from ge2e_transforms.errors import ConfigError, DoctorError, Ge2eError, WorkerError
from ge2e_transforms.splits import PlanConfig
from pipeline import dataflow, diagnosis, flags, hygiene, interrupt, local, options, storage
from pipeline.diagnosis import Finding
from pipeline.examine import Report, examined
from pipeline.options import JobConfig

# So many elements that some come to every worker process.
_ELEMENTS = 256
# On a cluster each keeps its worker busy for a moment, or the first process would take all before others have started.
_HOLD_S = 0.05
# Runners whose workers are on this machine.
_ON_THIS_MACHINE = ("fnapirunner", "prismrunner", "bundlebaseddirectrunner", "switchingdirectrunner")


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        reports: of each worker process that answered, by host and process.
        program: of this process, which may be one of them.
        findings: all that is to know, worst first.
    """

    reports: list[Report]
    program: Report
    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        return all(finding.kind == "note" for finding in self.findings)


def examine_workers(argv: Sequence[str]) -> Diagnosis:
    """Runs the job that the arguments of `ge2e doctor` describe, and says what it found.

    Raises:
        ConfigError: an option cannot be used, or the output cannot be made.
        DoctorError: no worker could be examined.
    """
    own, beam_arguments = flags.split_arguments(argv)
    parser = argparse.ArgumentParser(prog="ge2e doctor", allow_abbrev=False)
    flags.add_doctor(parser)
    return examine(parser.parse_args(own), beam_arguments)


def examine(args: argparse.Namespace, beam_arguments: list[str]) -> Diagnosis:
    """As `examine_workers`, with what was parsed."""
    job = JobConfig(
        manifests=tuple(options.absolute("--manifest", path) for path in args.manifest),
        output="" if args.output is None else options.absolute("--output", args.output),
        recipe=options.chosen_recipe(args),
        plan=PlanConfig(shard_mib=args.shard_mib),
        allow_outside=args.allow_outside,
        allow_schemes=tuple(args.allow_schemes),
        augmentation=options.augmentation_of(args),
        token=options.new_token(),
    )
    reports = examine_job(job, options.beam_options(args, beam_arguments))
    # Of a program that is no worker only versions and digests count; it leaves the output alone.
    program = examined(dataclasses.replace(job, output="", manifests=()))
    needs = diagnosis.needs_of(job.recipe, job.plan.shard_mib, av=args.require_av)
    return Diagnosis(reports, program, diagnosis.diagnose(reports, program, needs))


def examine_job(job: JobConfig, beam_options: PipelineOptions) -> list[Report]:
    """Reports of the worker processes that the options of a runner give, by host and process."""
    here = _on_this_machine(beam_options)
    runner = beam_options.view_as(StandardOptions).runner
    if not here and not job.output:
        raise ConfigError(
            f"--output is missing: workers of {runner} are not on this machine, and give their reports back as a small "
            "object in the output, which is removed afterwards"
        )
    dataflow.check(job, beam_options)
    with _prepared(job.output), _report_place(job, here=here) as path:
        _run(job, beam_options, path, hold_s=0.0 if here else _HOLD_S)
        if not storage.exists(path):
            raise DoctorError(
                f"the job ran, but its workers wrote to another {path} than this program sees: expected an --output "
                "that both reach, such as a mounted share, gs:// or s3://"
            )
        texts = storage.read_bytes(path).decode().splitlines()
    return sorted(map(Report.from_json, texts), key=lambda report: (report.host, report.pid, report.key))


def _on_this_machine(beam_options: PipelineOptions) -> bool:
    environment = beam_options.view_as(PortableOptions).environment_type
    if environment is not None:
        return bool(environment == "LOOPBACK")
    return beam_options.view_as(StandardOptions).runner.lower() in _ON_THIS_MACHINE


@contextmanager
def _prepared(output: str) -> Iterator[None]:
    """The folder of the output; one that was made for this, and stayed empty, is removed."""
    if not output:
        yield
        return
    made = [Path(output), *Path(output).parents] if storage.is_local(output) else []
    made = [path for path in made if not path.exists()]
    storage.prepare(output)
    try:
        yield
    finally:
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


@contextmanager
def _report_place(job: JobConfig, *, here: bool) -> Iterator[str]:
    """Where the workers leave their reports. On this machine not in the output, which may be what is wrong."""
    if here:
        folder = tempfile.mkdtemp(prefix="ge2e-doctor-")
        try:
            yield storage.join(folder, "reports.jsonl")
        finally:
            shutil.rmtree(folder)
        return
    path = storage.join(job.output, f"doctor-{job.token}.jsonl")
    try:
        yield path
    finally:
        storage.remove([path])


def _run(job: JobConfig, beam_options: PipelineOptions, path: str, hold_s: float) -> None:
    try:
        with (
            local.worker_log() as log,
            interrupt.interruptible(),
            hygiene.one_thread(),
            local.worker_processes(beam_options, log) as runner,
        ):
            pipeline = beam.Pipeline(runner=runner, options=beam_options)
            build(pipeline, job, path, hold_s)
            state = pipeline.run().wait_until_finish()
    except WorkerError as error:
        raise DoctorError(f"the small job on the workers failed: {error}") from error
    except Ge2eError:
        raise
    except Exception as error:  # each runner has errors of its own
        raise DoctorError(f"the small job on the workers failed: {_reason(error)}") from error
    if state != PipelineState.DONE:
        raise DoctorError(f"the small job on the workers ended as {state}: see what the runner says of it")


def _reason(error: Exception) -> str:
    """The last line of what a runner says, and what to do if we know it."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [repr(error)]
    if "No module named 'pipeline'" in text or "No module named 'ge2e_transforms'" in text:
        return f"{lines[-1]}. Install ge2e-features in the workers' environment, or their image"
    return lines[-1]


def build(pipeline: beam.Pipeline, job: JobConfig, path: str, hold_s: float) -> beam.PCollection[None]:
    """Many elements over all workers; the report of each process once, all together in one object at `path`."""
    return (
        pipeline
        | "Elements" >> beam.Create(range(_ELEMENTS))
        | "SpreadElements" >> beam.Reshuffle()
        | "ExamineWorker" >> beam.ParDo(_ExamineFn(job, hold_s)).with_output_types(str)
        | "EachProcessOnce" >> beam.Distinct()  # a report as JSON
        | "GatherReports" >> beam.combiners.ToList()
        | "WriteReports" >> beam.Map(_write_reports, path)
    )


def _write_reports(reports: list[str], path: str) -> None:
    storage.write_bytes(path, "\n".join(sorted(reports)).encode())


class _ExamineFn(beam.DoFn):
    """Any element -> the report of the process that has it, always the same."""

    def __init__(self, job: JobConfig, hold_s: float) -> None:
        self._job = job
        self._hold_s = hold_s

    def setup(self) -> None:
        hygiene.limit_threads()

    def process(self, _: int) -> Iterator[str]:
        time.sleep(self._hold_s)
        yield examined(self._job).to_json()
