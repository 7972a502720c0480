"""A short run of each fuzzer finds nothing; a crash, a hang, an error and too much memory would be noticed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import programs
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def fuzzing() -> ModuleType:
    return programs.load("fuzzing")


def fuzz(program: str, json_path: Path, *arguments: object) -> dict[str, Any]:
    """The result of a run that found nothing; a program of its own, as threads of this one must not be forked."""
    command = [sys.executable, str(programs.FOLDER / program), "--json", str(json_path), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    found: dict[str, Any] = json.loads(json_path.read_text())
    assert found["findings"] == []
    return found


def test_damaged_audio_is_a_named_error_or_samples(tmp_path: Path) -> None:
    found = fuzz("fuzz_audio.py", tmp_path / "found.json", "--mutants", 320, "--seed", 11)
    outcomes = {name for some in found["outcomes"].values() for name in some}
    assert sum(sum(some.values()) for some in found["outcomes"].values()) == 320
    assert {"same samples", "other samples", "CorruptAudioError", "TruncatedAudioError", "NotAudioError"} <= outcomes
    assert {"WAV 16 bit", "FLAC 16 bit", "Ogg Opus", "MP3 VBR", "NIST SPHERE", "CAF"} <= found["outcomes"].keys()
    assert 0 < found["peak_mib"] < 256


def test_a_damaged_dataset_is_a_named_error_or_the_right_batch(tmp_path: Path) -> None:
    found = fuzz("fuzz_dataset.py", tmp_path / "found.json", "--mutants", 80, "--seed", 11)
    outcomes = {name for some in found["outcomes"].values() for name in some}
    assert sum(sum(some.values()) for some in found["outcomes"].values()) == 80
    assert {"error", "verify alone", "as undamaged"} <= outcomes
    kinds = {group.partition(",")[0] for group in found["outcomes"]}
    assert {"records", "shard index", "split index", "speakers", "metadata"} <= kinds


PROGRAM = """
import ctypes, sys
from pathlib import Path
from fuzzing import Limits, run

def check(number):
    if number == 1:
        ctypes.string_at(0)
    while number == 2:
        pass
    if number == 3:
        return "large", "" if bytearray(b"x") * (80 << 20) else "none"
    if number == 4:
        raise KeyError("unnamed")
    if number == 5:
        bytearray(8 << 30)
    if number == 6:
        sys.exit(3)
    return "fine", "wrong" if number == 7 else ""

for numbers, seconds in ([2], 1), ([0, 1, 3, 4, 5, 6, 7, 8, 9], 60):
    for result in run(numbers, lambda: check, Limits(seconds, 50), 2, Path(sys.argv[1])):
        print(result.number, result.outcome, result.finding.splitlines()[:1], sep="|")
"""


def test_crash_hang_error_and_too_much_memory_are_noticed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=programs.FOLDER, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = {int(number): rest for number, _, rest in (line.partition("|") for line in done.stdout.splitlines())}
    assert {number: found.pop(number) for number in (0, 8, 9)} == dict.fromkeys((0, 8, 9), "fine|[]")
    assert found.pop(3).startswith("large|['took 8")
    assert found.pop(7) == "fine|['wrong']"
    assert {number: rest.partition("|")[0] for number, rest in found.items()} == {
        1: "crash: SIGSEGV",
        2: "hang",
        4: "unnamed: KeyError",
        5: "unnamed: MemoryError",
        6: "unnamed: SystemExit",
    }


def test_damage_follows_from_the_number_alone(fuzzing: ModuleType) -> None:
    data, other = bytes(range(256)) * 4, b"other" * 50
    made = [fuzzing.damaged(data, other, fuzzing.draw_of(5, number)) for number in range(300)]
    assert made == [fuzzing.damaged(data, other, fuzzing.draw_of(5, number)) for number in range(300)]
    assert sum(damage[0] != data for damage in made) > 270
    assert len({damage[0] for damage in made}) > 270


@pytest.mark.parametrize("data", [b"", b"x", b"xy"])
def test_any_damage_fits_what_is_tiny(fuzzing: ModuleType, data: bytes) -> None:
    for damage in fuzzing._DAMAGES:
        for number in range(40):
            made, what = damage(data, b"", random.Random(number))
            assert isinstance(made, bytes)
            assert what
