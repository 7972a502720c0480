"""What `benchmarks/mutation.py` makes of the fates of mutants; the mutants themselves take too long for a test."""

from __future__ import annotations

from types import ModuleType

import programs
import pytest


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(programs.FOLDER))
    return programs.load("mutation")


def test_only_what_a_test_noticed_is_killed(program: ModuleType) -> None:
    fates = [*["killed"] * 7, "survived", "no tests", "timeout", "segfault", "suspicious"]
    assert program.counted(fates) == {
        "mutants": 12,
        "killed": 7,
        "survived": 4,
        "timeouts": 1,
        "killed_percent": 58.3,
    }


@pytest.mark.parametrize("fates", [[], ["killed", "not checked"]])
def test_a_run_that_ended_early_is_no_result(program: ModuleType, fates: list[str]) -> None:
    with pytest.raises(SystemExit, match="mutants that were not tested"):
        program.counted(fates)


def test_files_and_tests_that_are_named_are_there(program: ModuleType) -> None:
    """What mutmut does not find it leaves out, and says nothing."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    config = tomllib.loads((program.ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
    assert config["only_mutate"] == [f"ge2e_transforms/{name}.py" for name in program.FILES]
    assert all((program.ROOT / path).is_file() for path in config["only_mutate"])
    for entry in config["pytest_add_cli_args_test_selection"]:
        path, _, test = entry.removeprefix("--deselect=").partition("::")
        if path.startswith("tests/"):
            assert f"def {test}" in (program.ROOT / path).read_text()
