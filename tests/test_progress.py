"""Shards that are done, counted from their files while others come and go."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path

import pytest

from pipeline import progress

SINCE = 1_700_000_000


def done(folder: Path, split: str, number: int, shards: int, *, late: int = 10, generation: str = "0123abcd") -> Path:
    path = folder / split / f"features-{generation}-{number:05d}-of-{shards:05d}.done.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (SINCE + late, SINCE + late))
    return path


class Terminal(io.StringIO):
    """A stderr that says it is a terminal, and tells when something is on it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if "3/7" in text:
            self.written.set()
        return super().write(text)


def watchers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "(_watch)" in thread.name]


def test_counts_what_was_finished_since(tmp_path: Path) -> None:
    assert progress.count_done(tmp_path / "nothing", SINCE) == (0, 0)
    for number in range(3):
        done(tmp_path, "train", number, 16)
    done(tmp_path, "test", 0, 6)
    assert progress.count_done(tmp_path, SINCE) == (4, 22)


def test_older_and_other_files_do_not_count(tmp_path: Path) -> None:
    done(tmp_path, "train", 0, 16, late=-1)
    done(tmp_path, "train", 1, 16, late=0)
    (tmp_path / "train" / "features-0123abcd-00003-of-00016.index.parquet").touch()
    (tmp_path / "train" / "features-0123abcd-00003-of-00016.done.json.tmp-1").touch()
    (tmp_path / "train" / "features-mine.done.json").touch()
    assert progress.count_done(tmp_path, SINCE) == (1, 16)


def test_a_file_that_goes_while_it_is_counted_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = done(tmp_path, "train", 0, 16)
    done(tmp_path, "train", 1, 16)
    listed = list(tmp_path.glob("*/*"))
    gone.unlink()
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(listed))
    assert progress.count_done(tmp_path, SINCE) == (1, 16)


def test_a_bar_is_shown_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        done(tmp_path, "train", number, 7)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LOOKS", 0.001)
    with progress.shown(str(tmp_path), SINCE):
        assert watchers()
        assert terminal.written.wait(timeout=30)
    assert not watchers()


def test_nothing_is_shown_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LOOKS", 0.001)
    started: list[str] = []
    monkeypatch.setattr(progress.threading, "Thread", lambda **_: started.append("watcher"))
    with progress.shown("gs://bucket/out", SINCE):
        pass
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress.shown(str(tmp_path), SINCE):
        pass
    assert started == []
    assert terminal.getvalue() == ""


def test_the_watcher_ends_when_the_job_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyError), progress.shown(str(tmp_path), SINCE):
        assert watchers()
        raise KeyError
    assert not watchers()
