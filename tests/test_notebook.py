"""The notebook runs from its first cell to its last, which assert what it claims."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from pipeline.__main__ import main

ROOT = Path(__file__).parent.parent
FILE = ROOT / "examples" / "batch_exploration.ipynb"


@pytest.fixture(scope="module")
def notebook() -> Any:
    return nbformat.read(FILE, as_version=4)


def text_of(cell: Any) -> str:
    """What a cell shows, as text."""
    shown = [output.get("data", {}).get("text/plain", output.get("text", "")) for output in cell.get("outputs", ())]
    return "\n".join(shown)


def test_it_is_kept_without_outputs(notebook: Any) -> None:
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_it_runs_and_shows_what_it_says(
    notebook: Any, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GE2E_DATASET", str(documents / "features"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = {cell.source.splitlines()[-1]: text_of(cell) for cell in notebook.cells if cell.cell_type == "code"}
    assert shown['metadata["feature_shape"]  # mel bands, frames'] == "[40, 121]"
    assert "TensorShape([32, 40, 121])" in shown["examples.shape, examples.dtype"]
    assert shown["speakers_and_utterances(labels.numpy())"] == "(8, 4)"
    assert shown["equal(first, second), equal(first, again)"] == "(False, True)"
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2


def test_the_commands_that_make_its_data_are_commands(
    notebook: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They take longer than all of the rest, and are tested where they belong; here only their words."""
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda words, check: commands.append(words))
    made = {"dataset": ""}
    exec(next(cell.source for cell in notebook.cells if "make" in cell.metadata.get("tags", ())), made)
    speak, compute = commands
    assert (FILE.parent / speak[1]).is_file()
    assert compute[1:3] == ["-m", "pipeline"]
    with pytest.raises(SystemExit):
        main([*compute[3:], "--no-such-flag"])
    assert capsys.readouterr().err.strip().endswith("unrecognized arguments: --no-such-flag")
