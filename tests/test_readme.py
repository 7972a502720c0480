"""The README's code runs as it stands, and its commands are commands that the program knows."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import on_ci
from jobs import run_here
from synth import small_corpus, speechlike

from ge2e_transforms import BatchLoader
from pipeline.__main__ import main

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the dataset `features`, of 12 speakers with 5 utterances each."""
    root = tmp_path_factory.mktemp("readme")
    manifest = small_corpus(root / "corpus", speakers=12, utterances=5)
    run_here(manifest, root / "features", "--test_speakers=3")
    return root


@pytest.fixture(scope="module")
def namespace(folder: Path) -> dict[str, Any]:
    """The names that all Python blocks together leave behind, run one after the other in that folder."""
    names: dict[str, Any] = {"waveform": speechlike(1, 3.0), "rate_hz": 16000}
    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match="3 speakers"):
        patch.chdir(folder)
        for block in blocks("python"):
            if "import torch" not in block or on_ci() or importlib.util.find_spec("torch"):
                exec(compile(block, "README.md", "exec"), names)
    return names


def test_there_is_a_block_for_each_way_to_read() -> None:
    text = "\n".join(blocks("python"))
    for name in ("GE2EDatasetLoader", "BatchLoader", "FeatureExtractor", "TFRecordDataset", "DataLoader"):
        assert name in text


def test_batches_are_as_the_comments_say(namespace: dict[str, Any]) -> None:
    examples, labels = np.asarray(namespace["examples"]), np.asarray(namespace["labels"])
    assert examples.shape == (32, 40, 121)
    assert examples.dtype == np.float32
    assert labels.dtype == np.int64
    assert [len(set(labels[i : i + 4].tolist())) for i in range(0, 32, 4)] == [1] * 8
    assert len(set(labels.tolist())) == 8


def test_plain_tensorflow_reads_what_the_loader_reads(namespace: dict[str, Any], folder: Path) -> None:
    spectrogram = namespace["spectrogram"].numpy()
    index = BatchLoader(folder / "features")._dataset.shard_index("train", 0)
    assert spectrogram.shape == (index["frames"][0].as_py(), 40)
    np.testing.assert_allclose(spectrogram.mean(axis=0), index["mean"][0].as_py(), rtol=1e-5)


def test_the_extractor_gives_frames_by_bands(namespace: dict[str, Any]) -> None:
    assert namespace["features"].shape[1] == 40
    assert namespace["features"].dtype == np.float32


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("ge2e ")]


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words[1:4]))
def test_every_command_is_one(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With a flag that no command has, the program must complain of that flag alone."""
    if "--" in words:
        words = words[: words.index("--")]
    with pytest.raises(SystemExit) as stopped:
        main([*words[1:], "--no-such-flag"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.strip().endswith("unrecognized arguments: --no-such-flag")
