"""What an epoch leaves out or repeats is said once, where the loader was called, with the option that changes it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from small_dataset import marked, write_dataset

from ge2e_transforms import BatchLoader


def notes(root: Path, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        BatchLoader(root, **options).batches()
    assert {warning.filename for warning in caught} <= {__file__}
    return [str(warning.message) for warning in caught]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six speakers with 6 utterances of one crop, two in a session, and one speaker with one."""
    speakers = {f"s{s}": [[marked(6 * s + u, 121)] for u in range(6)] for s in range(6)}
    speakers["t"] = [[marked(50, 121)]]
    return write_dataset(tmp_path_factory.mktemp("dataset"), {"train": speakers}, shards=2)


def test_nothing_is_said_where_nothing_is_lost(root: Path):
    assert (
        notes(root, speakers_per_batch=3, utterances_per_speaker=1, speakers="proportional", exclude_speakers=["t"])
        == []
    )


def test_speakers_with_too_few_crops(root: Path):
    (note,) = notes(root, speakers_per_batch=3, utterances_per_speaker=2, speakers="proportional")
    assert "leaves out 1 of 7 speakers, who hold fewer than 2 crops: under_m='repeat' takes them" in note
    options = {"speakers_per_batch": 3, "utterances_per_speaker": 2, "speakers": "proportional"}
    assert notes(root, min_utterances=2, **options) == []  # as was asked for
    (note,) = notes(root, distinct="strict", **options)
    assert "who cannot give 2 different ones: distinct='prefer' takes more" in note


def test_repeated_sessions(root: Path):
    options = {"speakers_per_batch": 3, "utterances_per_speaker": 6, "exclude_speakers": ["t"]}
    (note,) = notes(root, distinct_sessions=True, **options)
    assert "takes 18 crops from a session that its group of 6 holds already" in note


def test_few_speakers_are_told_a_number_that_works(tmp_path: Path):
    """Two speakers hold nearly all; batches of four can only use as many groups as the others hold."""
    rich = {f"r{s}": [[marked(u, 121)] for u in range(40)] for s in range(2)}
    poor = {f"s{s}": [[marked(u, 121)] for u in range(2)] for s in range(4)}
    write_dataset(tmp_path, {"train": rich | poor})
    found = notes(tmp_path, speakers_per_batch=4, utterances_per_speaker=2, speakers="proportional")
    (note,) = [note for note in found if "nine in ten" in note]
    assert "speakers_per_batch=2 would use nine in ten" in note
    loader = BatchLoader(tmp_path, speakers_per_batch=2, utterances_per_speaker=2, speakers="proportional")
    assert loader.coverage()["used"] >= 0.9 * loader.coverage()["slots"]


def test_the_cost_of_locality(root: Path):
    found = notes(root, speakers_per_batch=2, utterances_per_speaker=2, locality=1, speakers="proportional")
    (note,) = [note for note in found if "windows" in note]
    assert "is read in 2 windows of up to 1 shards: a speaker can meet about 2 of 5 others in an epoch" in note
