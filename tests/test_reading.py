"""Crops come back value for value, filled up and normalised as asked; damage is told by name and place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_dataset import write_dataset

from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import ConfigError, CorruptRecordError, DatasetError
from ge2e_transforms.features import FeatureKernel
from ge2e_transforms.reading import CropReader, ShardFiles, silence

RECIPE = PRESETS["ge2e"].replace(n_mels=5, n_mfcc=3)


def noise(rows: int, bins: int = 5, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng([rows, seed]).normal(-3, 2, (rows, bins)).astype(np.float32)


def make(
    root: Path, records: Sequence[npt.NDArray[Any]], recipe: Recipe = RECIPE, split: str = "train", **kind: Any
) -> CropReader:
    """A reader of one split with one speaker a record, in four shards (some of them without records)."""
    speakers = {f"s{number:02d}": [[values]] for number, values in enumerate(records)}
    options = {"crop_frames": 20, "short": "repeat", "normalize": "none"} | kind
    return CropReader(Dataset.open(write_dataset(root, {split: speakers}, recipe, shards=4)), split, **options)


def read(reader: CropReader, *places: tuple[int, int]) -> npt.NDArray[np.float32]:
    records, starts = np.array(places, dtype=np.int32).T
    return reader.read(records, starts)


def test_crops_are_what_was_stored_with_bins_first(tmp_path: Path):
    records = [noise(rows) for rows in (20, 33, 200)]
    crops = read(make(tmp_path, records), (2, 180), (0, 0), (2, 0), (1, 13), (1, 7))
    expected = [records[2][180:], records[0], records[2][:20], records[1][13:], records[1][7:27]]
    assert crops.dtype == np.float32
    assert crops.flags.c_contiguous
    assert np.array_equal(crops, np.stack(expected).transpose(0, 2, 1))


def test_crops_of_many_blocks(tmp_path: Path):
    """260 crops of 200 x 40 floats are read in 33 blocks of 8."""
    values = noise(900, 40)
    starts = [(0, start) for start in range(0, 520, 2)]
    crops = read(make(tmp_path, [values], PRESETS["ge2e"], crop_frames=200), *starts)
    assert np.array_equal(crops, np.stack([values[start : start + 200].T for _, start in starts]))


def test_short_records_are_repeated_or_padded_with_silence(tmp_path: Path):
    records = [noise(rows) for rows in (1, 8, 19, 20)]
    places = [(number, 0) for number in range(4)]
    repeated = read(make(tmp_path / "a", records), *places)
    padded = read(make(tmp_path / "b", records, short="pad"), *places)
    for values, wrapped, filled in zip(records, repeated, padded, strict=True):
        assert np.array_equal(wrapped, np.concatenate([values] * 20)[:20].T)
        assert np.array_equal(filled[:, : len(values)], values.T)
        assert np.all(filled[:, len(values) :] == np.float32(-6))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"log": "ln", "floor": 1e-8},
        {"floor": 3e-5, "floor_kind": "max"},
        {"log": "none"},
        {"features": "mfcc"},
        {"features": "mfcc", "log": "ln"},
    ],
)
def test_silence_is_what_silent_frames_are_stored_as(changes: dict[str, Any]):
    recipe = RECIPE.replace(**changes)
    frames = FeatureKernel(recipe)(np.zeros(16000, dtype=np.float32))
    assert np.allclose(silence(recipe), frames, rtol=1e-6, atol=1e-6)


def test_silence_of_raw_samples_is_zero():
    assert silence(RECIPE.replace(features="raw")).tolist() == [0]


def test_raw_samples_are_exact_and_in_one_unit(tmp_path: Path):
    samples = [np.arange(-32768, 32767, 13, dtype=np.int16)[:, None], np.array([[5], [-7]], dtype=np.int16)]
    crops = read(make(tmp_path, samples, RECIPE.replace(features="raw"), crop_frames=300), (0, 17), (1, 0))
    assert crops.shape == (2, 1, 300)
    assert np.array_equal(crops[0, 0] * 32768, samples[0][17:317, 0])
    assert np.array_equal(crops[1, 0] * 32768, [5, -7] * 150)


def test_dataset_normalisation_is_by_the_train_statistics(tmp_path: Path):
    records = [noise(rows) for rows in (40, 70)]
    everything = np.concatenate(records).astype(np.float64)
    crops = read(make(tmp_path, records, normalize="dataset"), (0, 3), (1, 50))
    for crop, values in zip(crops, (records[0][3:23], records[1][50:70]), strict=True):
        expected = (values - everything.mean(axis=0)) / everything.std(axis=0)
        assert np.allclose(crop, expected.T, atol=1e-5)


def test_dataset_normalisation_needs_train_frames(tmp_path: Path):
    with pytest.raises(DatasetError, match="no train frames"):
        make(tmp_path, [noise(30)], split="test", normalize="dataset")


def test_utterance_normalisation_is_by_the_whole_record(tmp_path: Path):
    records = [noise(rows) for rows in (25, 30, 60, 21, 90)]
    crops = read(make(tmp_path, records, normalize="utterance"), (4, 60), (1, 0), (3, 1))
    for crop, values, start in zip(crops, (records[4], records[1], records[3]), (60, 0, 1), strict=True):
        expected = (values[start : start + 20] - values.mean(axis=0)) / values.std(axis=0)
        assert np.allclose(crop, expected.T, atol=1e-4)


def test_utterance_normalisation_of_a_single_record(tmp_path: Path):
    values = noise(20)
    (crop,) = read(make(tmp_path, [values], normalize="utterance"), (0, 0))
    assert np.allclose(crop.mean(axis=1), 0, atol=1e-5)


def test_crop_normalisation_and_constant_bins(tmp_path: Path):
    values = noise(50)
    values[:, 2] = -5.9999995
    (crop,) = read(make(tmp_path, [values], normalize="crop"), (0, 9))
    assert np.allclose(crop.mean(axis=1), 0, atol=1e-6)
    assert np.allclose(crop.std(axis=1), [1, 1, 0, 1, 1], atol=1e-5)
    assert np.all(crop[2] == 0)


def test_unknown_normalisation_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="normalize='cmvn' cannot be used: expected one of"):
        make(tmp_path, [noise(30)], normalize="cmvn")


def test_windows_cannot_be_cut_longer_than_stored(tmp_path: Path):
    recipe = RECIPE.replace(segments="windows")
    reader = make(tmp_path, [noise(121)], recipe, crop_frames=121)
    assert read(reader, (0, 0)).shape == (1, 5, 121)
    with pytest.raises(ConfigError, match=r"crop_frames=122 cannot be used.*windows of 121 rows"):
        make(tmp_path, [noise(121)], recipe, crop_frames=122)


def test_a_file_that_was_cut_off_is_told_with_its_offset(tmp_path: Path):
    reader = make(tmp_path, [noise(60)])
    (path,) = tmp_path.glob("train/*.tfrecord")
    content = path.read_bytes()
    path.write_bytes(content[:-300])
    assert read(reader, (0, 0)).shape == (1, 5, 20)
    offset = len(content) - 4 - 20 * 20  # a crop of 20 x 5 floats before the checksum
    with pytest.raises(CorruptRecordError, match=rf"{path.name} at offset {offset}: expected 400 bytes, got 104"):
        read(reader, (0, 40))


def test_a_file_that_was_removed_is_told(tmp_path: Path):
    reader = make(tmp_path, [noise(60), noise(70)])
    first, second = sorted(tmp_path.glob("train/*.tfrecord"))
    read(reader, (0, 0))
    first.unlink()
    second.unlink()
    assert read(reader, (0, 5)).shape == (1, 5, 20)  # still open
    with pytest.raises(DatasetError, match=rf"{second.name} cannot be read"):
        read(reader, (1, 0))


def test_a_missing_shard_is_told_when_opening(tmp_path: Path):
    make(tmp_path, [noise(60)])
    next(tmp_path.glob("train/*.tfrecord")).unlink()
    with pytest.raises(DatasetError, match="is missing, although metadata"):
        CropReader(Dataset.open(tmp_path), "train", 20, "repeat", "none")


def open_files(folder: Path) -> int:
    """Descriptors of this process that point into a folder."""
    count = 0
    for entry in Path("/dev/fd").iterdir():
        try:
            count += str(folder.resolve()) in str(entry.resolve())
        except OSError:
            continue
    return count


def test_files_stay_open_up_to_a_limit_and_are_closed_with_the_reader(tmp_path: Path):
    paths = []
    for number in range(6):
        paths.append(tmp_path / f"{number}")
        paths[-1].write_bytes(bytes([number] * 10))
    files = ShardFiles(paths)
    files._most = 4
    target = bytearray(3)
    for _ in range(2):
        for number in range(6):
            files.read(number, 7, memoryview(target))
            assert target == bytes([number] * 3)
    if open_files(tmp_path) == 0:
        pytest.skip("this system does not show which files are open")
    assert open_files(tmp_path) == 4
    del files
    assert open_files(tmp_path) == 0
