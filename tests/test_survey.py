"""What manifests name, by the headers of their recordings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from jobs import job, write_rows

from ge2e_transforms.errors import ManifestError
from pipeline import survey as module
from pipeline.survey import Finding, Survey, survey

HEADER = "audio_path,speaker_id,utterance_id,source,split,offset_s,duration_s,channel"


def wav(path: Path, seconds: float, rate: int = 16000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros((round(seconds * rate), channels)), rate, subtype="PCM_16")
    return path


def found(folder: Path, *rows: tuple[object, ...]) -> Survey:
    padded = [(*row, *[""] * (8 - len(row))) for row in rows]
    return survey(job(folder / "out", write_rows(folder / "m.csv", padded, HEADER)))


def test_lengths_come_from_headers_where_the_manifest_has_none(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", 2.0)
    wav(tmp_path / "b.wav", 3.0, rate=8000, channels=2)
    wav(tmp_path / "c.wav", 1.5)
    result = found(
        tmp_path,
        ("a.wav", "s1", "a", "x"),
        ("b.wav", "s1", "b", "x"),
        ("b.wav", "s2", "c", "x", "test", 0.5),
        ("b.wav", "s2", "d", "x", "test", 0.5, 1.25),
        ("c.wav", "s3", "e", "x", "", "", 1.75),
    )
    assert result.rows == 5
    assert {key: (tally.rows, tally.seconds) for key, tally in result.tallies.items()} == {
        ("x/s1", "", "x"): (2, 5.0),
        ("x/s2", "test", "x"): (2, 2.5 + 1.25),
        ("x/s3", "", "x"): (1, 1.75),  # as the manifest says
    }
    assert result.seconds == 10.5
    assert result.lengths == {"header": 4, "manifest": 1}
    assert result.faults == {}
    assert set(result.rates) == {16000, 8000}
    assert set(result.channels) == {1, 2}


def test_a_job_plans_with_what_its_manifest_says(tmp_path: Path) -> None:
    """Not with the headers, so a forecast can tell how far off its shards will be."""
    wav(tmp_path / "a.wav", 2.0)
    (tally,) = found(tmp_path, ("a.wav", "s1", "a", "x")).tallies.values()
    assert (tally.planned_ms, tally.seconds) == (8000, 2.0)  # what a row without length and bytes counts as


def test_what_cannot_be_read_is_counted_by_reason_with_examples(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    wav(tmp_path / "a.wav", 1.0)
    gone = [(f"gone{number}.wav", "s1", f"g{number}", "x") for number in range(5)]
    rows = [("text.wav", "s1", "t", "x"), ("a.wav", "", "no speaker", "x"), ("gone.wav", "s2", "", "x", "", "", 3.0)]
    result = found(tmp_path, *gone, *rows, ("a.wav", "s1", "a", "x"))
    assert result.refused == {"empty_speaker": 1}
    assert {reason: fault.count for reason, fault in result.faults.items()} == {"missing": 6, "not_audio": 1}
    assert result.faults["missing"].examples == ["gone0.wav", "gone1.wav", "gone2.wav"]
    assert result.unreadable == 7
    assert [row.utterance_id for row in result.sample] == ["a"]


def test_what_looks_wrong(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", 0.2)
    wav(tmp_path / "b.wav", 700.0, rate=1000)
    result = found(
        tmp_path,
        ("a.wav", "s1", "a", "x"),
        ("a.wav", "s2", "b", "x"),
        ("b.wav", "s1 ", "c\u00a0d", "x"),
        ("b.wav", "s3", "two words", "x", "", 0, 1.0),
        ("b.wav", "s3", "part", "x", "", 1.0, 1.0),
        ("b.wav", "s3", "part again", "x", "", 1.0, 1.0),
        ("b.wav", "s3", "other channel", "x", "", 1.0, 1.0, 1),
    )
    assert result.short == 2
    assert result.long == 1
    assert result.doubled == Finding(2, ["a.wav", "b.wav"])
    assert result.spaced == Finding(5, ["s1 ", "c\u00a0d", "two words"])


def test_the_sample_does_not_depend_on_the_order_and_has_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAMPLED", 4)
    rows = [(wav(tmp_path / f"{number}.wav", 1 + number / 10), f"s{number}", f"u{number}", "x") for number in range(20)]
    forwards, backwards = found(tmp_path, *rows), found(tmp_path, *rows[::-1])
    ids = [row.utterance_id for row in forwards.sample]
    assert len(set(ids)) == 4
    assert ids == [row.utterance_id for row in backwards.sample]
    assert [row.duration_s for row in forwards.sample] == [1 + int(name[1:]) / 10 for name in ids]


def test_only_so_many_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HEADERS", 3)
    monkeypatch.setattr(module, "_TOGETHER", 2)
    rows = [(wav(tmp_path / f"{number}.wav", 1.0), "s", f"u{number}", "x") for number in range(6)]
    result = found(tmp_path, *rows)
    assert result.lengths == {"header": 3, "bytes": 3}


def test_progress_is_told_row_by_row(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", 1.0)
    manifest = write_rows(tmp_path / "m.csv", [("a.wav", "s1"), ("a.wav", ""), ("gone.wav", "s1")])
    told: list[int] = []
    survey(job(tmp_path / "out", manifest), told.append)
    assert sum(told) == 3


def test_no_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no manifest at"):
        survey(replace(job(tmp_path), manifests=(str(tmp_path / "none.csv"),)))
