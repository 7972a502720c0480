"""Crops of noise come from their keys alone, from every record and place, of a dataset by the same recipe only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from small_dataset import write_dataset

from ge2e_transforms.config import PRESETS
from ge2e_transforms.errors import ConfigError, DatasetError
from ge2e_transforms.noise_crops import NoiseCrops
from ge2e_transforms.rng import random_bits

RECIPE = PRESETS["ge2e"].replace(n_mels=3)


def noise(root: Path, *rows: int) -> Path:
    """A dataset of noise with one record of each length; values tell record and row."""
    records = [np.full((length, 3), 1000 * number, np.float32) for number, length in enumerate(rows)]
    for values in records:
        values += np.arange(len(values), dtype=np.float32)[:, None]
    return write_dataset(
        root, {"train": {f"test/n{number}": [[values]] for number, values in enumerate(records)}}, RECIPE
    )


def first_rows(crops: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Record and row that each crop `[n, bins, rows]` begins with."""
    number, row = np.divmod(crops[:, 0, 0].astype(np.int64), 1000)
    return number, row


def test_a_crop_follows_from_its_key_alone(tmp_path: Path) -> None:
    crops, keys = NoiseCrops(noise(tmp_path, 30, 50, 70), RECIPE), random_bits(1, 64)
    together = crops.draw(keys, 20)
    assert together.shape == (64, 3, 20) and together.dtype == np.float32
    for place in (63, 0, 17):
        np.testing.assert_array_equal(crops.draw(keys[place : place + 1], 20)[0], together[place])
    rows = together[:, 0]
    np.testing.assert_array_equal(np.diff(rows, axis=1), 1)  # neighbours of one record


def test_every_record_and_every_place_is_drawn(tmp_path: Path) -> None:
    crops = NoiseCrops(noise(tmp_path, 24, 40, 20), RECIPE)
    number, row = first_rows(crops.draw(random_bits(2, 3000), 20))
    counts = np.bincount(number)
    assert len(counts) == 3 and counts.min() > 900  # each as likely, however long it is
    assert [sorted(set(row[number == record].tolist())) for record in range(3)] == [
        list(range(5)),
        list(range(21)),
        [0],
    ]


def test_a_short_record_is_repeated(tmp_path: Path) -> None:
    crops = NoiseCrops(noise(tmp_path, 7), RECIPE, layout="time_mel").draw(random_bits(3, 2), 20)
    assert crops.shape == (2, 20, 3)
    np.testing.assert_array_equal(crops[0, :, 0], np.arange(20) % 7)


def test_noise_of_other_values_is_refused_and_other_stages_do_not_matter(tmp_path: Path) -> None:
    root = noise(tmp_path, 30)
    with pytest.raises(ConfigError, match=r"log \('log10', not 'ln'\), floor \(1e-06, not 1e-05\)"):
        NoiseCrops(root, RECIPE.replace(log="ln", floor=1e-5))
    with pytest.raises(ConfigError, match="sample_rate_hz"):
        NoiseCrops(root, RECIPE.replace(sample_rate_hz=8000, window_ms=25.0))
    assert NoiseCrops(root, RECIPE.replace(voice="none", level_dbfs=None, dtype="float16")).draw(
        random_bits(0, 1), 5
    ).shape == (1, 3, 5)


def test_a_folder_without_a_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=str(tmp_path / "none")):
        NoiseCrops(tmp_path / "none", RECIPE)
