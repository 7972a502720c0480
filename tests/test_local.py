"""Worker processes of this machine: what they print is kept only if it is needed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from jobs import run_command
from synth import small_corpus

from ge2e_transforms.errors import PlanError, WorkerError
from pipeline.local import worker_log


@pytest.mark.parametrize("error", [None, PlanError("ours"), KeyboardInterrupt()])
def test_the_log_goes_where_nobody_needs_it(error: BaseException | None) -> None:
    kept: list[Path] = []

    def block() -> None:
        with worker_log() as path:
            path.write_text("noise")
            kept.append(path)
            if error is not None:
                raise error

    if error is None:
        block()
    else:
        with pytest.raises(type(error)):
            block()
    assert not kept[0].exists()


@pytest.mark.parametrize("error", [RuntimeError(), WorkerError("a worker process ended with status 1")])
def test_the_log_of_a_bug_and_of_a_dead_worker_is_kept_and_named(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(type(error)), worker_log() as path:
        path.write_text("Traceback of a worker")
        raise error
    assert str(path) in caplog.text
    assert path.read_text() == "Traceback of a worker"
    path.unlink()


def test_a_named_error_in_a_worker_process_is_one_line(tmp_path: Path) -> None:
    """Beam's workers print tracebacks, a hundred lines before the one that says what to do."""
    manifest = small_corpus(tmp_path / "corpus", speakers=2, utterances=1)
    ended = run_command(
        "run", "--manifest", manifest, "--output", tmp_path / "out", "--test_speakers=5", "--direct_num_workers=2"
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("ge2e: PlanError: the test and valid splits would take all of the 2 speakers")
