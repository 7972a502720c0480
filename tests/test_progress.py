"""How far a job is, told from its plan and its done files while others come and go."""

from __future__ import annotations

import io
import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import jobs
import pytest
from synth import small_corpus

from ge2e_transforms.config import PRESETS
from ge2e_transforms.planning import ManifestSummary
from pipeline import progress
from pipeline.options import TEMPLATE, JobConfig

GENERATION, TOKEN = "0123abcd", "0123456789abcdef"


def job_into(output: Path | str) -> JobConfig:
    return replace(jobs.job(output, "/m.csv"), token=TOKEN)


def plan(output: Path, *, shards: int = 22, rows: int = 100, rejected: int = 4) -> Path:
    note = {"token": TOKEN, "generation": GENERATION, "shards": shards, "rows": rows, "rejected": rejected}
    output.mkdir(exist_ok=True)
    path = output / "ge2e-progress.json"
    path.write_text(json.dumps(note))
    return path


def done(output: Path, split: str, number: int, *, generation: str = GENERATION, **changed: Any) -> Path:
    content = {"rows": 5, "rejected": {"missing": 1}, "frames": 202, "records": 2, **changed}
    path = output / split / f"features-{generation}-{number:05d}-of-00016.done.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def watch(output: Path) -> progress.Watch:
    return progress.Watch(str(output), TOKEN, PRESETS["ge2e"])


class Stream(io.StringIO):
    """A stderr that tells when a text is on it."""

    def __init__(self, text: str, *, terminal: bool) -> None:
        super().__init__()
        self.written = threading.Event()
        self._text, self._terminal = text, terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        if self._text in text:
            self.written.set()
        return super().write(text)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LOCAL_S", 0.001)
    monkeypatch.setattr(progress, "_SHARE", 0)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)


def watchers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "progress"]


def test_nothing_is_known_before_the_plan(tmp_path: Path) -> None:
    assert watch(tmp_path / "nothing").look() is None
    done(tmp_path, "train", 0)
    assert watch(tmp_path).look() is None


def test_finished_shards_add_up(tmp_path: Path) -> None:
    plan(tmp_path)
    watched = watch(tmp_path)
    assert watched.look() == progress.Progress(0, 22, 4, 100, 4, 0.0)
    done(tmp_path, "train", 0)
    done(tmp_path, "test", 3, rejected={})
    expected = progress.Progress(2, 22, 4 + 2 * 5, 100, 4 + 1, 2 * 2.0)
    assert watched.look() == expected
    assert watched.look() == expected  # each counts once
    done(tmp_path, "train", 1)
    assert watched.look() == progress.Progress(3, 22, 19, 100, 6, 6.0)


def test_other_generations_and_other_files_do_not_count(tmp_path: Path) -> None:
    plan(tmp_path)
    done(tmp_path, "train", 0, generation="ffffffff")
    path = done(tmp_path, "train", 1)
    path.rename(path.with_name(f"{path.name}.tmp-host-1-{'0' * 32}"))
    (tmp_path / "train" / f"features-{GENERATION}-00003-of-00016.index.parquet").touch()
    found = watch(tmp_path).look()
    assert found is not None and found.shards == 0


def test_a_done_file_that_is_damaged_or_gone_counts_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(tmp_path)
    path = done(tmp_path, "train", 0)
    content = path.read_text()
    path.write_text(content[:20])
    watched = watch(tmp_path)
    listed = [f"train/{path.name}", f"train/{path.name.replace('00000', '00007')}"]
    monkeypatch.setattr(progress.storage, "listing", lambda folder: dict.fromkeys(listed, 1))
    first = watched.look()
    path.write_text(content)
    second = watched.look()
    assert first is not None and second is not None
    assert (first.shards, second.shards) == (0, 1)


def test_a_bar_is_shown_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: None) -> None:
    note = plan(tmp_path)
    done(tmp_path, "train", 0)
    terminal = Stream("9/100", terminal=True)
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.shown(job_into(tmp_path)):
        assert watchers()
        assert terminal.written.wait(timeout=30)
    assert not watchers()
    assert not note.exists()
    assert "1 of 22 shards" in terminal.getvalue()
    assert "5 rejected" in terminal.getvalue()


def test_plain_lines_are_written_to_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: None) -> None:
    plan(tmp_path)
    log = Stream("left", terminal=False)
    monkeypatch.setattr(sys, "stderr", log)
    with progress.shown(job_into(tmp_path)):
        while "0 of 22 shards" not in log.getvalue():
            assert watchers()
        done(tmp_path, "train", 0)
        assert log.written.wait(timeout=30)
    lines = log.getvalue().splitlines()
    assert lines[0] == "ge2e: 4 of 100 rows, 0 of 22 shards, 0 x real time, 4 rejected"
    assert lines[-1].startswith("ge2e: 9 of 100 rows, 1 of 22 shards, ")
    assert "\r" not in log.getvalue()


def test_short_jobs_write_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Stream("", terminal=False)
    monkeypatch.setattr(sys, "stderr", log)
    jobs.run_here(small_corpus(tmp_path / "corpus", speakers=2, utterances=1), tmp_path / "out")
    assert log.getvalue() == ""


def test_quiet_shows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: None) -> None:
    note = plan(tmp_path)
    terminal = Stream("", terminal=True)
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.shown(job_into(tmp_path), quiet=True):
        assert not watchers()
    assert terminal.getvalue() == ""
    assert not note.exists()


def test_the_watcher_ends_when_the_job_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: None) -> None:
    monkeypatch.setattr(sys, "stderr", Stream("", terminal=True))
    with pytest.raises(KeyError), progress.shown(job_into(tmp_path)):
        assert watchers()
        raise KeyError
    assert not watchers()


def test_a_store_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([OSError("busy"), None, progress.Progress(1, 2, 3, 4, 0, 0.5)])

    class Watched(progress.Watch):
        def look(self) -> progress.Progress | None:
            answer = next(answers)
            if isinstance(answer, OSError):
                raise answer
            return answer

    looks = progress._looks(Watched("", TOKEN, PRESETS["ge2e"]), 0.0, threading.Event())
    assert [next(looks), next(looks)] == [None, progress.Progress(1, 2, 3, 4, 0, 0.5)]


def test_what_is_announced_is_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note of a real job, and its last look: all rows, with one that the manifest's reader refused."""
    manifest = small_corpus(tmp_path / "corpus", speakers=3, utterances=2)
    with manifest.open("a", newline="") as file:
        file.write("gone.wav,spk00,synth,s0\r\nx.wav,,synth,s0\r\n")
    monkeypatch.setattr(progress, "forget", lambda output: None)
    out = tmp_path / "out"
    metadata = jobs.run_here(manifest, out, "--max_rejected=0.5").metadata
    token = json.loads((out / "ge2e-progress.json").read_text())["token"]
    found = progress.Watch(str(out), token, PRESETS["ge2e"]).look()
    assert token == metadata["token"]
    assert found is not None
    assert (found.rows, found.all_rows, found.rejected) == (8, 8, 2)
    assert found.shards == found.all_shards == sum(split["shards"] for split in metadata["splits"].values())
    assert found.seconds == pytest.approx(sum(split["seconds"] for split in metadata["splits"].values()), abs=0.01)


def test_the_note_of_another_job_is_not_taken(tmp_path: Path) -> None:
    plan(tmp_path)
    done(tmp_path, "train", 0)
    assert progress.Watch(str(tmp_path), "f" * 16, PRESETS["ge2e"]).look() is None
    for foreign in ("", "[]", "{}", '{"token": "' + TOKEN + '"}', "\0"):
        (tmp_path / "ge2e-progress.json").write_text(foreign)
        assert watch(tmp_path).look() is None


@pytest.mark.parametrize("token", ["", f"{TEMPLATE}{TOKEN}"])
def test_nothing_is_announced_where_nobody_waits(token: str, tmp_path: Path) -> None:
    planned = jobs.planned(jobs.job(tmp_path / "out", small_corpus(tmp_path / "corpus", speakers=2, utterances=1))).plan
    progress.announce(replace(job_into(tmp_path / "out"), token=token), planned)
    assert not (tmp_path / "out").exists()


def test_a_note_that_cannot_be_written_fails_no_job(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    manifests = (ManifestSummary("/m.csv", "0" * 64, 3, 0),)
    planned = jobs.planned(jobs.job(tmp_path / "x", small_corpus(tmp_path / "corpus", speakers=2, utterances=1))).plan
    progress.announce(job_into(tmp_path / "out"), replace(planned, manifests=manifests))
