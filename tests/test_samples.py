"""Records that are drawn by a seed or found by id, and what their values tell, in every form of a dataset."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import augmented
import numpy as np
import pytest
from small_dataset import DEFAULT, marked, speakers, write_dataset
from test_command_inspect import mixed

from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import CorruptRecordError, DatasetError
from ge2e_transforms.samples import Row, Samples, Treated, at_floor, clipped
from ge2e_transforms.treatments import Treatments


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


# Copies.


def treatments(dataset: Dataset) -> Treatments:
    config = Augmentation.of(dataset.metadata)
    assert config is not None
    return Treatments(config)


def test_only_clean_speech_at_its_own_speed_is_drawn(augmented_dataset: Dataset) -> None:
    samples = Samples(augmented_dataset)
    drawn = samples.draw(1000, 3)
    assert len(set(drawn)) == 24
    names = [sample.utterance_id for sample in samples.read(drawn)]
    assert len(set(names)) == 24 and not any("~" in name for name in names)
    among = samples.draw(1000, 3, ["test"])
    assert [row.split for row in among] == ["test"] * 2


def test_an_utterance_with_its_copies_whichever_is_asked_for(augmented_dataset: Dataset) -> None:
    samples, told = Samples(augmented_dataset), treatments(augmented_dataset)
    (row,) = samples.find(["spk03/utt01.wav"])
    family = samples.family(row, told, 1)
    assert [(member.factor, member.kind) for member in family] == [
        *((1, kind) for kind in ("", "noise", "music", "babble", "room", "codec")),
        (0.9, ""),
    ]
    assert [member.snr_db is not None for member in family] == [False, True, True, True, False, False, False]
    names = [sample.utterance_id.removeprefix("spk03/utt01.wav") for sample in samples.read([m.row for m in family])]
    assert names == ["", "~noise1", "~music1", "~babble1", "~room1", "~codec1", "~speed0.9"]
    assert {sample.speaker_id for sample in samples.read([m.row for m in family])} == {
        "synth/spk03",
        "synth/spk03~speed0.9",
    }
    for asked in ("spk03/utt01.wav~codec2", "spk03/utt01.wav~speed0.9", "spk03/utt01.wav~speed0.9~room1"):
        (other,) = samples.find([asked])
        assert samples.family(other, told, 1) == family
    assert [member.kind for member in samples.family(row, told, 9)].count("codec") == 2


def test_in_a_split_that_is_not_augmented_it_is_alone(augmented_dataset: Dataset) -> None:
    (row,) = Samples(augmented_dataset).find(["spk11/utt00.wav"])
    assert Samples(augmented_dataset).family(row, treatments(augmented_dataset), 2) == [Treated(row, 1.0, "", None)]


def test_of_copies_in_parts_the_first_of_each_is_taken(tmp_path: Path) -> None:
    text = "codec: {codecs: [telephone]}\nspeed: [1.1]"
    dataset = augmented.small(tmp_path, text, speakers=2, recipe=Recipe().replace(max_part_s=1, crop_ms=500))
    assert dataset.metadata["splits"]["train"]["records"] > 2 * 2 * 2  # utterances, copies, speeds
    samples = Samples(dataset)
    (row,) = samples.find(["spk00/utt01.wav"])
    family = samples.family(row, treatments(dataset), 2)
    assert [(member.factor, member.kind) for member in family] == [(1, ""), (1, "codec"), (1.1, "")]
    assert {sample.start_s for sample in samples.read([member.row for member in family[:2]])} == {0.0}
