"""`ge2e plan`: what it prints, and the command that it ends with."""

from __future__ import annotations

import json
from pathlib import Path

import augmented
import pytest
from synth import small_corpus

from ge2e_transforms.errors import WorkerError
from pipeline import __main__ as program
from pipeline import calibrate
from pipeline.calibrate import Speed
from pipeline.main import run


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = small_corpus(tmp_path_factory.mktemp("a corpus"), speakers=5, utterances=4)
    with found.open("a", newline="") as file:
        file.write("gone.wav,spk00,synth,s0\r\n")
    return found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes of each calibration; none is started."""
    processes: list[int] = []

    def calibrated(job: object, rows: object, number: int, augmented: object) -> Speed:
        processes.append(number)
        return Speed(number, 2000.0, 0.8, 12000.0, 3.0, 300 << 20, 20.0 if augmented else None)

    monkeypatch.setattr(calibrate, "calibrate", calibrated)
    return processes


def plan(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert program.main(["plan", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_what_is_printed(manifest: Path, tmp_path: Path, asked: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    text = plan(capsys, "--manifest", manifest, "--output", out, "--test_speakers=2", "--direct_num_workers=2")
    for line in (
        "rows       21, of which 1 cannot be used",
        "speech     0.0 hours of 5 speakers, silence included",
        "lengths    20 from headers",
        "audio      WAV PCM_16 20; 16,000 Hz 20",
        "voice      80% of what was computed is kept",
        "memory     300 MiB for a worker process",
        "wall time  6 s by 2 processes here",
        "warning: 3 speakers of train have 4 utterances, fewer than the 8 of a batch; others give several crops of one "
        "(distinct='prefer'), or none",
        "warning: 1 of 21 rows cannot be used (missing 1): they go to the ledger, such as 'gone.wav'",
        f"  ge2e run --manifest '{manifest}' --output {out} --test_speakers=2 --direct_num_workers=2",
    ):
        assert f"{line}\n" in text
    assert asked == [2]
    assert not out.exists()


def test_json_has_all_of_it_and_its_command_runs(
    manifest: Path, tmp_path: Path, asked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--manifest", manifest, "--output", tmp_path / "out", "--direct_num_workers=1", "--json")
    found = json.loads(plan(capsys, *words))
    assert found["splits"]["train"]["speakers"] == 5
    assert found["splits"]["train"]["eligible"]["4"] == 5
    assert found["splits"]["train"]["eligible"]["5"] == 0
    assert (found["processes"], found["unreadable"], found["wall_s"] > 3) == (1, 1, True)
    assert found["command"][:2] == ["ge2e", "run"]
    assert "--json" not in found["command"]
    assert run(found["command"][2:]).metadata["splits"]["train"]["speakers"] == 5


def test_another_runner_gets_core_hours_and_its_options_back(
    manifest: Path, tmp_path: Path, asked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    there = ("--", "--runner=PrismRunner", "--prism_location=/p")
    text = plan(capsys, "--manifest", manifest, "--output", tmp_path / "out", *there)
    assert "wall time" not in text
    assert "work       0 s of one core such as these\n" in text
    assert text.rstrip().endswith(" -- --runner=PrismRunner --prism_location=/p")
    assert asked == [1]


def test_without_a_calibration_the_rest_is_told(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def died(*_: object) -> Speed:
        raise WorkerError("a process died")

    monkeypatch.setattr(calibrate, "calibrate", died)
    text = plan(capsys, "--manifest", manifest, "--output", tmp_path / "out")
    assert "warning: a process died\n" in text
    assert "splits and shards" in text
    assert "wall time" not in text


def test_errors_are_those_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["plan", "--manifest", str(tmp_path / "none.csv"), "--output", "out"]) == 1
    assert "ge2e: ManifestError: no manifest at" in capsys.readouterr().err


# Copies.


def test_what_is_told_of_copies(
    manifest: Path, tmp_path: Path, asked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    path = augmented.sounds(tmp_path)
    words = ("--manifest", manifest, "--output", tmp_path / "out", "--test_speakers=2", "--direct_num_workers=1")
    text = plan(capsys, *words, "--augment", path)
    for line in (
        "beside it  copies noise1, music1, babble1, room1, codec1, codec2 and speeds 0.9: 14.8 times train",
        "sounds     noise 4, music 4, babble 4, room 2",
        "wall time  4 s by 1 process here",
        f"  ge2e run --manifest '{manifest}' --output {tmp_path / 'out'} --test_speakers=2 --direct_num_workers=1 "
        f"--augment {path}",
    ):
        assert f"{line}\n" in text
    assert "6 speakers of train have 4 utterances" in text  # three at two speeds


def test_sounds_that_cannot_be_used_are_told_before_anything_is_read(
    manifest: Path, tmp_path: Path, asked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    path = augmented.sounds(tmp_path)
    (tmp_path / "rooms.csv").unlink()
    words = ["--manifest", str(manifest), "--output", str(tmp_path / "out"), "--augment", str(path)]
    assert program.main(["plan", *words]) == 1
    assert "ge2e: NoiseError: the manifest of augment.room" in capsys.readouterr().err
    assert asked == []
