"""Ctrl-C in the middle of a job, where it is dropped by a callback, and outside of a job."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult, PipelineState
from jobs import files_in, job, run_here
from synth import small_corpus

from ge2e_transforms.errors import StoppedError
from ge2e_transforms.extractor import FeatureExtractor
from pipeline import main, verdict
from pipeline.interrupt import interruptible, raise_if_interrupted


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def dropped() -> None:
    """As a callback of a C library does."""
    try:
        press()
        signal.sigtimedwait([], 0)  # lets Python handle the signal here
    except KeyboardInterrupt:
        return
    raise AssertionError("the signal did not come")


def test_an_interrupt_that_a_callback_dropped_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recording that was being decoded was rejected as corrupt, and the dataset published without it."""
    extract = FeatureExtractor.extract

    def interrupted(self: FeatureExtractor, *arguments: Any, **named: Any) -> Any:
        dropped()
        return extract(self, *arguments, **named)

    monkeypatch.setattr(FeatureExtractor, "extract", interrupted)
    manifest = small_corpus(tmp_path / "corpus", speakers=2, utterances=1)
    with pytest.raises(KeyboardInterrupt):
        run_here(manifest, tmp_path / "out")
    assert files_in(tmp_path / "out") == set()
    monkeypatch.undo()
    assert run_here(manifest, tmp_path / "out").metadata["counts"]["written"] == 2


def test_other_exceptions_stay_what_they_are() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="mine"), interruptible():
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is before
    raise_if_interrupted()


def test_a_runner_that_makes_another_exception_of_it() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        dropped()
        raise RuntimeError("Traceback ... KeyboardInterrupt")
    raise_if_interrupted()  # forgotten with the block


def test_another_thread_leaves_the_signal_alone() -> None:
    found = []

    def work() -> None:
        with interruptible():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


class Endless(PipelineResult):
    """A job that goes on until it is cancelled; cancelling it may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(PipelineState.RUNNING)
        self.cancelled, self._error = threading.Event(), error

    def wait_until_finish(self, duration: object = None) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        self.cancelled.wait(30)
        return PipelineState.CANCELLED

    def cancel(self) -> None:
        self.cancelled.set()
        if self._error:
            raise self._error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, ["the job was cancelled"]),
        (NotImplementedError(), []),
        (
            ConnectionError("gone"),
            ["the job could not be cancelled (ConnectionError: gone): do it by the runner's own tools"],
        ),
    ],
)
@pytest.mark.parametrize("runner", ["FlinkRunner", "PrismRunner"])
def test_ctrl_c_cancels_a_job_that_is_waited_for(
    runner: str, error: Exception | None, told: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Beam's job servers for Flink and Spark let a cluster go on with the job, so its workers are told, too."""
    result, submitted = Endless(error), job(tmp_path)
    with pytest.raises(KeyboardInterrupt), interruptible():
        main._wait(result, submitted, PipelineOptions([f"--runner={runner}"]))
    assert result.cancelled.is_set()
    assert caplog.messages == told
    if runner == "FlinkRunner":
        with pytest.raises(StoppedError, match="was interrupted"), verdict.recorded(submitted.output, submitted.token):
            pass
    assert files_in(tmp_path) == ({"failed-token.json"} if runner == "FlinkRunner" else set())
