"""A named error is left beside the output, stops later attempts of the same job, and only of that."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from jobs import files_in

from ge2e_transforms.errors import CommitError, PlanError, StorageError
from pipeline import storage, verdict
from pipeline.options import TEMPLATE


def fail(output: Path, token: str = "one") -> None:
    with pytest.raises(PlanError, match="no row"), verdict.recorded(str(output), token):
        raise PlanError("no row")


def test_a_named_error_is_recorded_and_raised(tmp_path: Path) -> None:
    fail(tmp_path)
    assert files_in(tmp_path) == {"failed-one.json"}
    assert json.loads((tmp_path / "failed-one.json").read_text()) == {"error": "PlanError", "message": "no row"}


def test_a_second_attempt_with_the_same_token_fails_at_once(tmp_path: Path) -> None:
    fail(tmp_path)
    with pytest.raises(PlanError, match=r"^no row$"), verdict.recorded(str(tmp_path), "one"):
        pytest.fail("the block of the second attempt was entered")
    with pytest.raises(PlanError, match=r"^no row$"):
        verdict.raise_if_any(str(tmp_path), "one")


def test_another_job_is_not_stopped(tmp_path: Path) -> None:
    fail(tmp_path)
    entered = []
    with verdict.recorded(str(tmp_path), "two"):
        entered.append(1)
    verdict.raise_if_any(str(tmp_path), "two")
    assert entered == [1]


def test_a_forgotten_verdict_stops_nobody(tmp_path: Path) -> None:
    fail(tmp_path)
    verdict.forget(str(tmp_path), "one")
    verdict.forget(str(tmp_path), "one")
    assert files_in(tmp_path) == set()
    verdict.raise_if_any(str(tmp_path), "one")


def test_a_bug_is_raised_without_verdict(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), verdict.recorded(str(tmp_path), "one"):
        _ = 1 / 0
    assert files_in(tmp_path) == set()


def test_the_first_verdict_stays(tmp_path: Path) -> None:
    fail(tmp_path)
    with pytest.raises(PlanError), verdict.recorded(str(tmp_path), "one"):
        raise CommitError("a later reason")
    assert json.loads((tmp_path / "failed-one.json").read_text())["message"] == "no row"


def test_workers_do_not_log_tracebacks_of_named_errors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Beam logs an exception twice, with all of its own stack; the program tells a named one in one line."""
    fail(tmp_path)
    worker, bundle = (logging.getLogger(f"apache_beam.runners.{name}") for name in ("common", "worker.sdk_worker"))
    for error in (PlanError("a named one"), ValueError("a bug")):
        try:
            raise error
        except ValueError as caught:
            worker.exception(caught)
    bundle.error("Original traceback is\n%s", "ge2e_transforms.errors.PlanError: a named one")
    bundle.error("Original traceback is\n%s", "ValueError: a bug")
    assert [record.getMessage() for record in caplog.records] == ["a bug", "Original traceback is\nValueError: a bug"]


def test_one_launch_of_a_template_does_not_stop_the_next(tmp_path: Path) -> None:
    """All launches of a classic template have the token that was baked into it."""
    fail(tmp_path, f"{TEMPLATE}one")
    assert files_in(tmp_path) == set()
    with verdict.recorded(str(tmp_path), f"{TEMPLATE}one"):
        pass


def test_an_error_that_cannot_be_recorded_is_still_the_one_that_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the failure to say why the job failed was all that was said."""

    def full(path: str, content: bytes) -> None:
        raise StorageError(f"{path} cannot be written (No space left on device)")

    monkeypatch.setattr(storage, "write_bytes", full)
    fail(tmp_path)
    assert files_in(tmp_path) == set()
