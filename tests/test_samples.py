"""Records that are drawn by a seed or found by id, and what their values tell, in every form of a dataset."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from small_dataset import DEFAULT, marked, speakers, write_dataset
from test_command_inspect import mixed

from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import CorruptRecordError, DatasetError
from ge2e_transforms.samples import Row, Samples, at_floor, clipped


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    splits = {"train": speakers("a", 4, 0, 3), "test": speakers("b", 2, 50, 3)}
    return Dataset.open(write_dataset(tmp_path_factory.mktemp("samples") / "dataset", splits))


def test_a_draw_follows_from_its_seed(dataset: Dataset) -> None:
    drawn = Samples(dataset).draw(8, 5)
    assert len(set(drawn)) == 8
    assert Samples(dataset).draw(8, 5) == drawn
    assert Samples(dataset).draw(8, 6) != drawn
    assert Samples(dataset).draw(5, 5) == drawn[:5]
    assert len(Samples(dataset).draw(100, 5)) == 18


def test_of_every_source_the_same_number_is_drawn(tmp_path: Path) -> None:
    dataset = mixed(tmp_path, ["a", "b", "c"])
    found = Counter(sample.source for sample in Samples(dataset).read(Samples(dataset).draw(1, 0)))
    assert found == {0: 1, 1: 1, 2: 1}
    assert set(Samples(dataset).draw(1, 0)) <= set(Samples(dataset).draw(2, 0))
    assert len(Samples(dataset).draw(2, 0)) == 6


def test_every_record_is_drawn_equally_often(dataset: Dataset) -> None:
    counts = Counter(row for seed in range(600) for row in Samples(dataset).draw(3, seed))
    assert len(counts) == 18
    assert min(counts.values()) > 60 and max(counts.values()) < 145  # 100 each; 4.5 deviations


def test_records_are_read_in_the_order_asked_for(dataset: Dataset) -> None:
    rows = [Row("test", 4), Row("train", 11), Row("train", 0), Row("test", 0)]
    found = list(Samples(dataset).read(rows))
    assert [(sample.split, sample.speaker_id, sample.utterance_id, sample.label) for sample in found] == [
        ("test", "test/b1", "u1", 5),
        ("train", "test/a3", "u2", 3),
        ("train", "test/a0", "u0", 0),
        ("test", "test/b0", "u0", 4),
    ]
    assert np.array_equal(found[2].values, marked(0, 130))
    assert {sample.source for sample in found} == {0}


def test_an_utterance_is_found_with_all_who_have_it(dataset: Dataset) -> None:
    assert Samples(dataset).find(["u1"]) == [
        *(Row("train", number) for number in (1, 4, 7, 10)),
        *(Row("test", number) for number in (1, 4)),
    ]
    assert Samples(dataset).find(["u2", "u0", "u2"])[:2] == [Row("train", 2), Row("train", 5)]
    with pytest.raises(DatasetError, match=r"has no utterance 'no\\u202e': expected an utterance_id"):
        Samples(dataset).find(["u1", "no\u202e"])


def test_of_an_utterance_in_parts_the_first_is_taken(tmp_path: Path) -> None:
    parts = {"test/a": [[marked(0, 130)], [marked(1, 130), marked(2, 130)]]}
    dataset = Dataset.open(write_dataset(tmp_path / "dataset", {"train": parts}))
    rows = Samples(dataset).find(["u1"])
    assert rows == [Row("train", 1)]
    assert np.array_equal(next(Samples(dataset).read(rows)).values, marked(1, 130))


@pytest.mark.parametrize("recipe", [DEFAULT.replace(dtype="float16"), DEFAULT.replace(features="raw")])
def test_values_are_float32_whatever_is_stored(recipe: Recipe, tmp_path: Path) -> None:
    raw = recipe.dtype == "pcm16"
    stored = np.arange(-300, 300, dtype=np.int16)[:, None] if raw else marked(0, 20).astype(np.float16)
    dataset = Dataset.open(write_dataset(tmp_path / "dataset", {"train": {"test/a": [[stored]]}}, recipe))
    (sample,) = Samples(dataset).read([Row("train", 0)])
    assert sample.values.dtype == np.float32
    assert np.array_equal(sample.values, stored / np.float32(32768 if raw else 1))


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    values = marked(0, 20)
    values[3, 3] = np.nan
    dataset = Dataset.open(write_dataset(tmp_path / "dataset", {"test": {"test/a": [[values]]}}))
    with pytest.raises(CorruptRecordError, match="at offset 0: expected finite values"):
        list(Samples(dataset).read([Row("test", 0)]))


def test_the_share_at_the_floor() -> None:
    power = np.array([[0, 5e-7, 1e-6, 2e-6, 1e-3]])
    added = np.log10(power + 1e-6).astype(np.float32)
    assert at_floor(added, DEFAULT) == pytest.approx(3 / 5)
    highest = np.log(np.maximum(power, 1e-6)).astype(np.float32)
    assert at_floor(highest, DEFAULT.replace(floor_kind="max", log="ln")) == pytest.approx(3 / 5)
    decibels, in_decibels = (10 * np.log10(np.maximum(power, 1e-10))).astype(np.float32), PRESETS["librosa"]
    assert at_floor(decibels, in_decibels) == pytest.approx(1 / 5)  # it was compared with a natural logarithm
    for values, recipe in ((added, DEFAULT), (decibels, in_decibels)):
        halved = values.astype(np.float16).astype(np.float32)
        assert at_floor(halved, recipe.replace(dtype="float16")) == at_floor(values, recipe)
    for recipe in (DEFAULT.replace(features="mfcc"), DEFAULT.replace(log="none"), DEFAULT.replace(features="raw")):
        assert at_floor(added, recipe) is None


def test_the_share_at_full_scale() -> None:
    values = (np.array([[-32768], [-32767], [32767], [32766], [0]]) / 32768).astype(np.float32)
    assert clipped(values, DEFAULT.replace(features="raw")) == pytest.approx(3 / 5)
    assert clipped(values, DEFAULT) is None
