"""Crops come back value for value, filled up and normalised as asked; damage is told by name and place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from small_dataset import write_dataset

from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import ConfigError, CorruptRecordError, DatasetError
from ge2e_transforms.features import FeatureKernel
from ge2e_transforms.reading import CropReader, ReadingOptions, silence
from ge2e_transforms.windows import Window
from pipeline.tables import write_index

RECIPE = PRESETS["ge2e"].replace(n_mels=5, n_mfcc=3)


def noise(rows: int, bins: int = 5, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng([rows, seed]).normal(-3, 2, (rows, bins)).astype(np.float32)


def make(
    root: Path,
    records: Sequence[npt.NDArray[Any]],
    recipe: Recipe = RECIPE,
    split: str = "train",
    crop_frames: int = 20,
    short: str = "repeat",
    **kind: Any,
) -> CropReader:
    """A reader of one split with one speaker a record, in four shards (some of them without records)."""
    speakers = {f"s{number:02d}": [[values]] for number, values in enumerate(records)}
    dataset = Dataset.open(write_dataset(root, {split: speakers}, recipe, shards=4))
    return open_reader(dataset, split, crop_frames, short, **kind)


def open_reader(
    dataset: Dataset, split: str = "train", crop_frames: int = 20, short: str = "repeat", **kind: Any
) -> CropReader:
    options = ReadingOptions(**{"check_crc": "never", **kind})
    return CropReader(dataset, split, dataset.index(split), options, crop_frames, short)


def read(reader: CropReader, *places: tuple[int, int], rows: int = 20) -> npt.NDArray[np.float32]:
    records, starts = np.array(places, dtype=np.int32).T
    return reader.read(records, starts, rows)


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
    crops = read(make(tmp_path, [values], PRESETS["ge2e"], crop_frames=200), *starts, rows=200)
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
        {"dtype": "float16", "log": "ln"},
        {"dtype": "float16", "features": "mfcc"},
    ],
)
def test_silence_is_what_silent_frames_are_stored_as(changes: dict[str, Any]):
    recipe = RECIPE.replace(**changes)
    frames = FeatureKernel(recipe)(np.zeros(16000, dtype=np.float32)).astype(recipe.dtype)
    assert np.allclose(silence(recipe), frames, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layout", ["mel_time", "time_mel"])
@pytest.mark.parametrize("check", ["never", "first", "always"])
def test_halves_are_given_as_floats_wherever_a_crop_begins(tmp_path: Path, layout: str, check: str):
    records = [noise(rows).astype(np.float16) for rows in (9, 20, 33, 700)]
    recipe = RECIPE.replace(dtype="float16")
    draws = np.random.default_rng(7)
    reader = make(tmp_path, records, recipe, layout=layout, check_crc=check)
    for rows in (20, 7, 1):
        numbers = draws.integers(0, 4, 300)
        starts = np.array([draws.integers(0, max(1, len(records[number]) - rows + 1)) for number in numbers.tolist()])
        crops = reader.read(numbers, starts, rows)
        assert crops.dtype == np.float32
        assert crops.flags.c_contiguous
        for crop, number, start in zip(crops, numbers.tolist(), starts.tolist(), strict=True):
            values = np.concatenate([records[number]] * 3) if number == 0 else records[number]  # repeated
            expected = values[start : start + rows].astype(np.float32)
            assert np.array_equal(crop, expected.T if layout == "mel_time" else expected)


def test_halves_are_padded_with_silence_as_it_is_stored(tmp_path: Path):
    recipe = RECIPE.replace(dtype="float16", log="ln")
    (crop,) = read(make(tmp_path, [noise(8).astype(np.float16)], recipe, short="pad"), (0, 0))
    assert np.all(crop[:, 8:] == np.float32(np.float16(np.log(1e-6))))


def test_damage_of_halves_is_told(tmp_path: Path):
    make(tmp_path, [noise(60).astype(np.float16)], RECIPE.replace(dtype="float16"))
    dataset = Dataset.open(tmp_path)
    path = dataset.shard_paths("train")[next(n for n, entry in enumerate(dataset.shards("train")) if entry["records"])]
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptRecordError, match="the checksum of the record does not match"):
        read(open_reader(dataset, check_crc="first"), (0, 0))


def test_silence_of_raw_samples_is_zero():
    assert silence(RECIPE.replace(features="raw")).tolist() == [0]


def test_raw_samples_are_exact_and_in_one_unit(tmp_path: Path):
    samples = [np.arange(-32768, 32767, 13, dtype=np.int16)[:, None], np.array([[5], [-7]], dtype=np.int16)]
    crops = read(make(tmp_path, samples, RECIPE.replace(features="raw"), crop_frames=300), (0, 17), (1, 0), rows=300)
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


@pytest.mark.parametrize("normalize", ["none", "dataset", "crop", "utterance"])
@pytest.mark.parametrize("layout", ["mel_time", "time_mel"])
def test_crops_are_normalised_alike_when_it_is_done_afterwards(tmp_path: Path, normalize: str, layout: str):
    """Of 800 crops, which are many blocks."""
    records = [noise(rows) for rows in (20, 33, 200)]
    reader = make(tmp_path, records, normalize=normalize, layout=layout)
    numbers, starts = np.arange(800) % 3, np.zeros(800, dtype=np.int64)
    at_once = reader.read(numbers, starts, 20)
    later = reader.read(numbers, starts, 20, normalize=False)
    plain = np.stack([records[number][:20] for number in range(3)])[numbers]
    assert np.array_equal(later, plain if layout == "time_mel" else plain.swapaxes(1, 2))
    assert np.array_equal(later, at_once) == (normalize == "none")
    reader.normalize(later, numbers)
    assert np.array_equal(later, at_once)


def test_unknown_normalisation_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="normalize='cmvn' cannot be used: expected one of"):
        make(tmp_path, [noise(30)], normalize="cmvn")


def test_windows_cannot_be_cut_longer_than_stored(tmp_path: Path):
    recipe = RECIPE.replace(segments="windows")
    reader = make(tmp_path, [noise(121)], recipe, crop_frames=121)
    assert read(reader, (0, 0), rows=121).shape == (1, 5, 121)
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
        open_reader(Dataset.open(tmp_path))


def swap_labels(dataset: Dataset) -> None:
    """Writes the split's index anew, with its checksum, so that only the records can tell that it lies."""
    table = pa.ipc.open_file(dataset.root / dataset.metadata["splits"]["train"]["index"]["path"]).read_all()
    labels = pa.array(table["label"].to_pylist()[::-1], pa.int32())
    rewrite_index(dataset, table.set_column(table.column_names.index("label"), table.schema.field("label"), labels))


def rewrite_index(dataset: Dataset, table: pa.Table) -> None:
    entry = dataset.metadata["splits"]["train"]["index"]
    write_index(table, dataset.root / entry["path"])
    content = (dataset.root / entry["path"]).read_bytes()
    entry["crc32c"], entry["bytes"] = google_crc32c.value(content), len(content)


def flip(dataset: Dataset, shard: int, offset: int) -> None:
    path = dataset.root / dataset.shard_names("train")[shard]
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("check", ["first", "always"])
def test_a_flipped_byte_anywhere_in_a_record_is_told_by_shard_offset_and_utterance(tmp_path: Path, check: str):
    make(tmp_path, [noise(60), noise(70)])
    dataset = Dataset.open(tmp_path)
    places = dataset.index("train").places(np.array([1]))
    shard, offset, length = int(places.shard[0]), int(places.offset[0]), int(places.length[0])
    for inside in (13, length // 2, length - 5, length - 1):  # a key, a value outside of the crop, the last value, crc
        flip(dataset, shard, offset + inside)
        reader = open_reader(dataset, check_crc=check)
        assert read(reader, (0, 3)).shape == (1, 5, 20)
        with pytest.raises(
            CorruptRecordError,
            match=rf"{dataset.shard_names('train')[shard]} at offset {offset}, utterance 'u0' of speaker 's01': the",
        ):
            read(reader, (0, 3), (1, 0))
        flip(dataset, shard, offset + inside)
    assert np.array_equal(read(open_reader(dataset), (1, 0)), read(open_reader(dataset, check_crc=check), (1, 0)))


def test_a_record_is_checked_the_first_time_only_if_asked_so(tmp_path: Path):
    values = noise(60)
    make(tmp_path, [values])
    dataset = Dataset.open(tmp_path)
    readers = {check: open_reader(dataset, check_crc=check) for check in ("first", "always", "never")}
    for reader in readers.values():
        assert np.array_equal(read(reader, (0, 2), (0, 30)), np.stack([values[2:22].T, values[30:50].T]))
    (place,) = dataset.index("train").places(np.array([0])).payload
    shard = int(dataset.index("train").shard(np.array([0]))[0])
    flip(dataset, shard, int(place))
    for check in ("first", "never"):
        assert read(readers[check], (0, 1)).shape == (1, 5, 20)
    with pytest.raises(CorruptRecordError, match="checksum of the record does not match"):
        read(readers["always"], (0, 1))


def test_records_that_share_a_byte_of_the_bitmap_are_checked_each_by_itself(tmp_path: Path):
    make(tmp_path, [noise(30 + number) for number in range(19)])
    dataset = Dataset.open(tmp_path)
    reader = open_reader(dataset, check_crc="first")
    for number in range(0, 19, 2):
        read(reader, (number, 0))
    for number in range(19):
        assert bool(reader._checked[number >> 3] & (1 << (number & 7))) == (number % 2 == 0)


def test_an_index_that_lies_is_told_and_no_wrong_batch_given(tmp_path: Path):
    make(tmp_path, [noise(60), noise(60, seed=1)])
    dataset = Dataset.open(tmp_path)
    swap_labels(dataset)
    with pytest.raises(CorruptRecordError, match=r"holds other than the 60 rows of label 1 that the index says"):
        read(open_reader(dataset, check_crc="first"), (0, 0))


def test_an_index_that_gives_other_lengths_is_told(tmp_path: Path):
    speaker = [[noise(60)], [noise(60, seed=1)]]
    dataset = Dataset.open(write_dataset(tmp_path, {"train": {"s": speaker}}, RECIPE, shards=1))
    path = dataset.root / dataset.metadata["splits"]["train"]["index"]["path"]
    table = pa.ipc.open_file(path).read_all()
    field = table.schema.field("frames")
    # Other lengths of the same sum, which metadata tells.
    rewrite_index(dataset, table.set_column(1, field, pa.array([59, 61], pa.int32())))
    with pytest.raises(CorruptRecordError, match=r"other than the 59 rows"):
        read(open_reader(dataset, check_crc="first"), (0, 0))


def test_time_first_is_the_same_turned_over(tmp_path: Path):
    records = [noise(20), noise(40), noise(9)]
    places = [(1, 13), (0, 0), (2, 0)]
    for normalize in ("none", "dataset", "crop", "utterance"):
        one = read(make(tmp_path / "a", records, normalize=normalize), *places)
        other = read(make(tmp_path / "b", records, normalize=normalize, layout="time_mel"), *places)
        assert other.shape == (3, 20, 5)
        assert np.allclose(one, other.transpose(0, 2, 1), atol=1e-6)
        assert other.flags.c_contiguous


def test_memory_is_used_again_only_when_nobody_has_the_batch(tmp_path: Path):
    records = [noise(30, seed=number) for number in range(8)]
    reader = make(tmp_path, records)
    kept = [read(reader, (number, 0)) for number in range(8)]
    part = read(reader, (0, 1))[0, 2:4]  # a part keeps all of it
    for _ in range(20):
        read(reader, (7, 3))
    for number, crop in enumerate(kept):
        assert np.array_equal(crop[0], records[number][:20].T)
    assert np.array_equal(part, records[0][1:21, 2:4].T)
    assert all(crop.ctypes.data % 64 == 0 for crop in kept)


def test_crops_from_a_window_in_memory_are_those_of_the_files(tmp_path: Path):
    records = [noise(30 + number) for number in range(8)]
    for check in ("never", "first", "always"):
        reader = make(tmp_path / check, records, check_crc=check)
        dataset = Dataset.open(tmp_path / check)
        sizes = [entry["records_bytes"] for entry in dataset.shards("train")]
        window = Window(reader.files, sizes, range(4), [])
        numbers, starts = np.array([5, 0, 7, 5]), np.array([3, 10, 0, 4])
        assert np.array_equal(reader.read(numbers, starts, 20, window), reader.read(numbers, starts, 20))
