"""The code in README and docs runs as it stands, and its commands are commands that there are.

Blocks of a page run one after the other in a folder that holds a dataset `features`. What cannot be run is fenced as
`text`; what is in a comment does not count.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import on_ci

from ge2e_transforms import BatchLoader
from pipeline.__main__ import main

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "deploy").rglob("README.md")),
]
# Programs of others that pages call, and words of the shell.
OTHERS = {".", "cd", "docker", "done", "export", "gcloud", "git", "java", "mvn"}


def blocks(page: Path, language: str) -> list[str]:
    text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run_blocks(page: Path, folder: Path) -> dict[str, Any]:
    """The names that all Python blocks of a page together leave behind."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks(page, "python"):
            if "import torch" not in block or on_ci() or importlib.util.find_spec("torch"):
                exec(compile(block, name_of(page), "exec"), names)
    return names


# Python.


@pytest.fixture(scope="module")
def namespace(documents: Path) -> dict[str, Any]:
    return run_blocks(README, documents)


def test_readme_has_a_block_for_each_way_to_read() -> None:
    text = "\n".join(blocks(README, "python"))
    for name in ("GE2EDatasetLoader", "BatchLoader", "DataLoader"):
        assert name in text
    assert all(block.count("\n") <= 6 for block in blocks(README, "python"))


def test_batches_are_as_the_comments_say(namespace: dict[str, Any]) -> None:
    examples, labels = np.asarray(namespace["examples"]), np.asarray(namespace["labels"])
    assert examples.shape == (32, 40, 121)
    assert examples.dtype == np.float32
    assert labels.dtype == np.int64
    assert [len(set(labels[i : i + 4].tolist())) for i in range(0, 32, 4)] == [1] * 8
    assert len(set(labels.tolist())) == 8


RUN = [page for page in PAGES if blocks(page, "python") and page != README]


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_the_blocks_of_a_page_run(page: Path, documents: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the loader, whose splits are small here
        names = run_blocks(page, documents)
    check = CHECKS.get(page.name)
    if check:
        check(names, documents)


def plain_tensorflow_reads_what_the_loader_reads(names: dict[str, Any], folder: Path) -> None:
    spectrogram = names["spectrogram"].numpy()
    index = BatchLoader(folder / "features")._dataset.shard_index("train", 0)
    assert spectrogram.shape == (index["frames"][0].as_py(), 40)
    np.testing.assert_allclose(spectrogram.mean(axis=0), index["mean"][0].as_py(), rtol=1e-5)
    assert names["trials"].same.any()


def the_extractor_gives_frames_by_bands(names: dict[str, Any], folder: Path) -> None:
    assert names["features"].shape[1] == 40
    assert names["features"].dtype == np.float32


def crops_are_augmented(names: dict[str, Any], folder: Path) -> None:
    plain, _ = next(BatchLoader(folder / "features", seed=0).batches("train"))
    changed = [(names[kind] != plain).mean() for kind in ("masked", "noisy")]
    assert 0.05 < changed[0] < 0.6
    assert changed[1] > 0.9
    plain, _ = next(BatchLoader(folder / "waveforms", features="logmel").batches("train"))
    assert (names["examples"] != plain).any(axis=(1, 2)).all()


CHECKS = {
    "batches.md": plain_tensorflow_reads_what_the_loader_reads,
    "dataset.md": the_extractor_gives_frames_by_bands,
    "augmentation.md": crops_are_augmented,
}


def test_every_check_has_its_page() -> None:
    assert set(CHECKS) <= {page.name for page in RUN}


# Commands.


def commands(page: Path) -> list[list[str]]:
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    parts = [part for line in lines if line.strip() for part in re.split(r"\s&&\s", line)]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]
OURS = [(page, words) for page, words in COMMANDS if words[0] == "ge2e"]


@pytest.mark.parametrize(("page", "words"), OURS, ids=[f"{page.stem}-{'-'.join(words[1:3])}" for page, words in OURS])
def test_every_command_is_one(page: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With a flag that no command has, the program must complain of that flag alone."""
    words = list(itertools.takewhile(lambda word: word not in ("--", ">"), words))
    with pytest.raises(SystemExit) as stopped:
        main([*words[1:], "--no-such-flag"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip().endswith("unrecognized arguments: --no-such-flag")


def extras(words: list[str]) -> set[str]:
    """Extras of this project that a `pip install` names."""
    found = [re.fullmatch(r"(?:ge2e-features|\.)\[(.*)\]", word) for word in words]
    return {name for match in found if match for name in match[1].split(",")}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_other_commands_name_what_there_is(page: Path) -> None:
    setup, script = (ROOT / "setup.py").read_text(), (ROOT / "run_local.sh").read_text()
    for program, *words in (words for _page, words in COMMANDS if _page == page and words[0] != "ge2e"):
        shown = " ".join([program, *words])
        if program == "python":
            path = ROOT / words[0]
            source = (path / "__main__.py" if path.is_dir() else path).read_text()
            assert all(word.partition("=")[0] in source for word in words if word.startswith("--")), shown
        elif program == "pip":
            assert words[0] == "install", shown
            assert all(f'"{name}":' in setup for name in extras(words)), shown
        elif program == "./run_local.sh":
            assert len(words) > 1 or not words or re.search(rf"^  {words[0]}\)", script, re.MULTILINE), shown
        elif "/" in program and "=" not in program:
            assert (ROOT / program).is_file(), shown
        else:
            assert program in OTHERS or "=" in program, shown


def test_the_checks_are_one_command() -> None:
    """What a commit, a checking machine and a person run is defined once."""
    for path in (".pre-commit-config.yaml", ".ci/run"):
        text = (ROOT / path).read_text()
        assert "./run_local.sh check\n" in text, path
        assert not re.search(r"\b(ruff|mypy)\b", text), path


def test_the_script_tells_each_of_its_commands() -> None:
    usage, script = (ROOT / "run_local.sh").read_text().split("\nEND\n")
    there = set(re.findall(r"^  ([a-z]+)\)$", script[script.index('case "${1-demo}"') :], re.MULTILINE)) - {"demo"}
    assert there == set(re.findall(r"^  \./run_local\.sh ([a-z]+) ", usage, re.MULTILINE))
    shown = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")}
    for name, text in shown.items():
        assert {word for word in there if f"./run_local.sh {word}" in text} == there, name
