"""Worker processes that cannot start end the job with one line, and none outlives its program (see also test_kill)."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from jobs import LIMIT_S, ROOT, command, run_here
from synth import small_corpus

from ge2e_transforms.errors import DoctorError, WorkerError
from pipeline import doctor
from pipeline.crew import Workers, crew
from pipeline.local import again_if_a_worker_dies
from pipeline.local_worker import LIFELINE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds worker processes in /proc")


def workers_of(program: int) -> set[int]:
    """Worker processes below a program."""
    found = set()
    for path in Path(f"/proc/{program}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found |= {int(pid) for pid in path.read_text().split() if is_worker(int(pid))}
    return found


def is_worker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"pipeline.local_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"), speakers=16, utterances=4, seconds=3)


def test_a_worker_that_cannot_start_is_told(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that died before they had reached the program were waited for without end; the doctor waited too."""
    wrong = tmp_path / "python"
    wrong.write_text("#!/bin/sh\nexit 3\n")
    wrong.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(wrong))
    with pytest.raises(WorkerError, match="a worker process ended with status 3, in each of 3 attempts"):
        run_here(corpus, tmp_path / "out", "--direct_num_workers=2")
    with pytest.raises(DoctorError, match="the small job on the workers failed: a worker process ended with status 3"):
        doctor.examine_workers(["--direct_num_workers=2"])


def test_attempts_are_bounded_and_other_errors_are_not_tried_again() -> None:
    tried = []

    def attempt(*errors: Exception | None) -> int:
        error = errors[len(tried)]
        tried.append(error)
        if error:
            raise error
        return len(tried)

    assert again_if_a_worker_dies(lambda: attempt(WorkerError("one"), WorkerError("two"), None)) == 3
    tried.clear()
    with pytest.raises(ValueError, match="bug"):
        again_if_a_worker_dies(lambda: attempt(WorkerError("one"), ValueError("bug")))


def test_a_program_that_is_killed_takes_its_workers_with_it(corpus: Path, tmp_path: Path) -> None:
    """They stayed for seconds and wrote on; those that were just starting for a minute."""
    job = command("run", "--manifest", corpus, "--output", tmp_path, "--direct_num_workers=2")
    with subprocess.Popen(job, cwd=ROOT, stdout=subprocess.DEVNULL) as program:
        limit = time.monotonic() + LIMIT_S
        while not (workers := workers_of(program.pid)):
            assert program.poll() is None and time.monotonic() < limit
            time.sleep(0.005)
        program.kill()
    while any(map(is_worker, workers)):
        assert time.monotonic() < limit
        time.sleep(0.005)


@pytest.mark.parametrize("told", [b"", b"{}\n", b"{}\nwhatever comes is no end"])
def test_a_worker_ends_when_its_lifeline_does(told: bytes) -> None:
    """One that was started ahead and is not needed, and one that works."""
    arguments = [sys.executable, "-m", "pipeline.local_worker", LIFELINE]
    with subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        worker.stdin.write(told)
        worker.stdin.close()
        assert worker.wait(LIMIT_S) == 1


def test_workers_that_were_started_ahead_for_nothing_end_with_the_block(tmp_path: Path) -> None:
    with crew(tmp_path / "log", 2) as workers:
        ahead = list(workers._ahead)
        assert [process.poll() for process in ahead] == [None, None]
    assert [process.poll() for process in ahead] == [1, 1]


def test_a_worker_that_died_before_it_was_asked_for_is_told(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="ended by signal 9"), crew(tmp_path / "log", 1) as workers:
        workers._ahead[0].kill()
        workers._ahead[0].wait()
        runner = FnApiRunner(default_environment=Workers(workers.name))
        with beam.Pipeline(runner=runner) as pipeline:
            pipeline | beam.Create([1])
