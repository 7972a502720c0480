"""Crops per speaker, who takes part as M grows, and epochs, beside what the loader itself says."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from small_dataset import marked, speakers, write_dataset

from ge2e_transforms.dataset import Dataset
from ge2e_transforms.eligibility import eligible, epoch, grid, supplied
from ge2e_transforms.loader import BatchLoader


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    splits = {"train": speakers("a", 6, 0, 3), "test": {"test/z": [[marked(90, 130)]]}}
    return Dataset.open(write_dataset(tmp_path_factory.mktemp("eligibility") / "dataset", splits))


def test_crops_and_utterances_of_each_speaker(dataset: Dataset) -> None:
    found = supplied(dataset, "train")
    frames = np.array([130 + 27 * (number % 11) for number in range(18)]).reshape(6, 3)
    assert found.crops.tolist() == (frames // 121).sum(axis=1).tolist()
    assert found.utterances.tolist() == [3] * 6


@pytest.mark.filterwarnings("ignore:an epoch of split")
def test_who_takes_part_is_as_the_loader_says(dataset: Dataset) -> None:
    crops = supplied(dataset, "train").crops
    for m in (1, 3, 4, 5, 6):
        loader = BatchLoader(dataset.root, 1, m)
        assert eligible(crops, [m]).tolist() == [loader.coverage("train")["eligible_speakers"]]
    strict = BatchLoader(dataset.root, 1, 3, distinct="strict")
    assert eligible(supplied(dataset, "train").utterances, [3, 4]).tolist() == [6, 0]
    assert strict.coverage("train")["eligible_speakers"] == 6


def test_eligible_of_known_numbers() -> None:
    assert eligible(np.array([5, 1, 3, 3]), [1, 2, 3, 4, 5, 6]).tolist() == [4, 3, 3, 1, 1, 0]


def test_the_grid_of_m_has_both_ends() -> None:
    assert grid(1) == [1]
    assert grid(5) == [1, 2, 3, 4, 5]
    large = grid(100_000)
    assert (large[0], large[-1]) == (1, 100_000)
    assert large == sorted(set(large))
    assert len(large) < 150


def test_an_epoch_is_the_loaders_own(dataset: Dataset) -> None:
    found = epoch(dataset, "train")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = BatchLoader(dataset.root)
        assert found.coverage == loader.coverage("train")
        assert found.speakers_per_batch * found.utterances_per_speaker == len(next(loader.batches("train"))[1])


def test_where_no_batch_can_be_made_it_says_why(dataset: Dataset) -> None:
    found = epoch(dataset, "test")
    assert found.coverage == {}
    (note,) = found.notes
    assert note.startswith("no batch of ")
