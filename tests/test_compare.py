"""Results of benchmarks are compared by the names of their keys: what got worse is told, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import programs
import pytest

RESULTS = sorted((programs.FOLDER / "results").glob("*.json"))


@pytest.fixture(scope="module")
def program() -> ModuleType:
    return programs.load("compare")


def worse(program: ModuleType, old: Any, new: Any, percent: float = 10) -> list[str]:
    return [change.name for change in program.compare(old, new, percent)[0]]


@pytest.mark.parametrize(
    "key", ["seconds", "wall_s", "first_batch_seconds", "us_per_row", "peak_mib", "ms_an_hour", "eer_percent"]
)
def test_more_of_what_it_costs_is_worse(program: ModuleType, key: str) -> None:
    assert worse(program, {key: 10.0}, {key: 11.1}) == [key]
    assert worse(program, {key: 10.0}, {key: 10.9}) == []
    assert worse(program, {key: 10.0}, {key: 5.0}) == []


@pytest.mark.parametrize(
    "key",
    [
        "x_real_time",
        "x_real_time_cpu",
        "decode_x_real_time",
        "slots_per_s",
        "audio_s_per_core_s",
        "later_epochs",
        "killed_percent",
    ],
)
def test_less_of_a_rate_is_worse(program: ModuleType, key: str) -> None:
    assert worse(program, {key: 1000}, {key: 900}) == [key]
    assert worse(program, {key: 1000}, {key: 910}) == []
    assert worse(program, {key: 1000}, {key: 2000}) == []


def test_what_is_no_measure_is_not_compared(program: ModuleType) -> None:
    old = {"rows": 10, "audio_s": 1.0, "output_bytes_per_s": 9, "load_before": 1.0, "python": "3.11", "ok": True}
    assert program.figures({**old, "about": {"wall_s": 1}, "rounds": [{"wall_s": 1}], "goals": [{"wall_s": 1}]}) == {}


def test_rows_are_matched_by_what_identifies_them_not_by_their_place(program: ModuleType) -> None:
    old = [{"name": "a", "rows": 10, "wall_s": 1.0}, {"name": "b", "rows": 10, "wall_s": 5.0}]
    assert worse(program, old, old[::-1]) == []
    new = [{"name": "b", "rows": 10, "wall_s": 6.0}, {"name": "a", "rows": 10, "wall_s": 1.0}]
    assert worse(program, old, new) == ["b, rows=10 / wall_s"]


def test_rounds_count_by_their_median(program: ModuleType) -> None:
    assert program.figures({"seconds": {"a": [1.0, 9.0, 2.0]}})["seconds / a"].value == 2.0
    runs = [{"times": 4, "wall_s": wall} for wall in (1.0, 9.0, 2.0)]
    assert program.figures({"runs": runs})["runs / times=4 / wall_s"].value == 2.0
    columns = program.figures({"seconds": [[1.0, 10.0], [3.0, 30.0], [2.0, 20.0]]})
    assert [columns[f"seconds / column {number}"].value for number in (0, 1)] == [2.0, 20.0]


def test_a_number_without_a_name_takes_the_one_around_it(program: ModuleType) -> None:
    assert worse(program, {"seconds": {"first shard": 1.0}}, {"seconds": {"first shard": 2.0}}) == [
        "seconds / first shard"
    ]
    assert program.figures({"counts": {"first shard": 1.0}}) == {}


def test_the_rounding_of_small_numbers_is_no_change(program: ModuleType) -> None:
    assert worse(program, {"plan_s": 0.03}, {"plan_s": 0.04}) == []
    assert worse(program, {"plan_s": 0.0}, {"plan_s": 0.5}) == ["plan_s"]


def test_the_worst_comes_first(program: ModuleType) -> None:
    old = {"read_s": 1.0, "plan_s": 1.0, "x_real_time": 100}
    assert worse(program, old, {"read_s": 2.0, "plan_s": 4.0, "x_real_time": 30}) == ["plan_s", "x_real_time", "read_s"]


def test_what_stands_on_one_side_only_is_told(program: ModuleType) -> None:
    slower, text = program.compare({"read_s": 1.0, "plan_s": 1.0}, {"read_s": 1.0, "write_s": 1.0}, 10)
    assert slower == []
    assert "only in the old result: plan_s" in text
    assert "only in the new result: write_s" in text


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_every_result_of_the_folder_has_figures_and_equals_itself(program: ModuleType, path: Path) -> None:
    result = json.loads(path.read_text())
    assert program.figures(result)
    slower, text = program.compare(result, result, 10)
    assert slower == []
    assert "only in" not in text


def test_the_exit_status_tells(program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seconds in (("old", 1.0), ("new", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "job.json").write_text(json.dumps({"wall_s": seconds}))
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    assert program.main([old, old]) == 0
    assert program.main([old, new]) == 1
    assert "| wall_s | 1 | 2 | 2.00 |" in capsys.readouterr().out
    assert program.main([f"{new}/job.json", f"{old}/job.json"]) == 0
    assert program.main([old, new, "--percent=150"]) == 0
