"""A worker process that dies: the job goes on by itself, or ends with one line; and none outlives its program."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jobs import LIMIT_S, ROOT, command, done_files, run_here, stamps, unlisted
from synth import small_corpus

from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import DoctorError, WorkerError
from ge2e_transforms.verify import verify
from pipeline import doctor
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


@contextlib.contextmanager
def reaper(due: Callable[[], bool]) -> Iterator[list[int]]:
    """Kills one worker of this process, once it is due; gives those that were killed."""
    killed: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.005) and not killed:
            if due() and (found := workers_of(os.getpid())):
                killed.append(min(found))
                os.kill(killed[0], signal.SIGKILL)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield killed
    finally:
        stop.set()
        watcher.join()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"), speakers=16, utterances=4, seconds=3)


def test_a_worker_that_dies_in_the_middle_costs_what_it_had_begun(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The job waited without end, or ended with Beam's traceback of a channel that was closed."""
    out = tmp_path / "out"
    kept: dict[str, tuple[int, int]] = {}

    def due() -> bool:
        done = done_files(out)
        kept.update(stamps(done))
        return len(done) >= 2

    with reaper(due) as killed:
        result = run_here(corpus, out, "--direct_num_workers=2")
    assert len(killed) == 1
    assert 2 <= len(kept) < len(done_files(out)) == 16
    assert stamps(map(Path, kept)) == kept
    assert result.metadata["counts"]["written"] == 64
    verify(Dataset.open(out))
    assert unlisted(out) == set()
    assert workers_of(os.getpid()) == set()
    said = "a worker process was ended by signal 9 (Killed): starting again, finished shards are kept (attempt 2 of 3)"
    assert [record.getMessage() for record in caplog.records if record.name == "pipeline.local"] == [said]
    assert "Traceback" not in capfd.readouterr().err


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


def test_a_worker_ends_when_its_lifeline_does() -> None:
    arguments = [sys.executable, "-m", "pipeline.local_worker", LIFELINE]
    with subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        worker.stdin.write(b"whatever comes is no end")
        worker.stdin.close()
        assert worker.wait(LIMIT_S) == 1
