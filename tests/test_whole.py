"""Whole utterances come back as they were stored, by id or in order; what cannot be given is told."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_dataset import Speaker, write_dataset, write_metadata, write_twins

from ge2e_transforms import BatchLoader, schema
from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import ConfigError, CorruptRecordError, DatasetError
from ge2e_transforms.reading import CropReader, ReadingOptions, silence
from ge2e_transforms.shard_files import LocalShards
from ge2e_transforms.whole import RecordRow, WholeUtterances, parse_record

RECIPE = PRESETS["ge2e"].replace(n_mels=5, n_mfcc=3)
Values = npt.NDArray[Any]


def noise(rows: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng([rows, seed]).normal(-3, 2, (rows, 5)).astype(np.float32)


def utterances(*lengths: int, seed: int = 0) -> list[list[Values]]:
    return [[noise(rows, seed + number)] for number, rows in enumerate(lengths)]


def small(root: Path, recipe: Recipe = RECIPE, shards: int = 2) -> tuple[Dataset, dict[str, dict[str, Speaker]]]:
    """Three train and two test speakers; utterance u1 of `ns/b` has two records, u2 three."""
    cut = [noise(7, 31), noise(4, 32)], [noise(3, 33), noise(9, 34), noise(1, 35)]
    splits: dict[str, dict[str, Speaker]] = {
        "train": {"ns/a": utterances(30, 12), "ns/b": [[noise(25, 30)], *cut], "ns/c": utterances(12, 40, 8, seed=9)},
        "test": {"ns/d": utterances(21, 5, seed=50), "ns/e": utterances(6, seed=60)},
    }
    return Dataset.open(write_dataset(root, splits, recipe, shards=shards)), splits


def stored(splits: dict[str, dict[str, Speaker]], split: str) -> list[tuple[str, str, Values]]:
    """What a split holds, in order: speaker, utterance, rows."""
    return [
        (speaker, f"u{number}", np.concatenate(parts))
        for speaker, spoken in sorted(splits[split].items())
        for number, parts in enumerate(spoken)
    ]


def rewrite(dataset: Dataset, split: str, shard: int, **columns: list[Any]) -> Dataset:
    """Gives the index of a shard other columns."""
    entry = dataset.shards(split)[shard]
    path = dataset.root / schema.shard_files(entry["base"])[1]
    table = pq.read_table(path)
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    pq.write_table(table, path)
    metadata = json.loads((dataset.root / schema.METADATA_FILE).read_text())
    content = path.read_bytes()
    metadata["shards"][split][shard] |= {
        "index_bytes": len(content),
        "index_sha256": hashlib.sha256(content).hexdigest(),
    }
    write_metadata(dataset.root, metadata)
    return Dataset.open(dataset.root)


# All of a split.


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("split", ["train", "test"])
def test_all_utterances_as_stored_and_joined_from_their_parts(tmp_path: Path, split: str, shards: int):
    dataset, splits = small(tmp_path, shards=shards)
    expected = stored(splits, split)
    found = list(WholeUtterances(dataset).all(split))
    assert [(whole.speaker_id, whole.utterance_id) for whole in found] == [entry[:2] for entry in expected]
    labels = {"ns/a": 0, "ns/b": 1, "ns/c": 2, "ns/d": 3, "ns/e": 4}
    assert [whole.label for whole in found] == [labels[entry[0]] for entry in expected]
    for whole, (*_, values) in zip(found, expected, strict=True):
        assert whole.frames == len(values)
        assert whole.values.dtype == np.float32
        assert whole.values.flags.c_contiguous
        assert np.array_equal(whole.values, values.T)


def test_the_other_layout(tmp_path: Path):
    dataset, _ = small(tmp_path)
    pairs = zip(*(WholeUtterances(dataset, layout).all("train") for layout in ("mel_time", "time_mel")), strict=True)
    for one, other in pairs:
        assert other.values.flags.c_contiguous
        assert np.array_equal(one.values.T, other.values)


@pytest.mark.parametrize("normalize", ["none", "dataset", "utterance"])
def test_utterances_of_halves_are_those_of_floats_with_the_same_values(tmp_path: Path, normalize: str):
    halves, floats = (WholeUtterances(Dataset.open(root), normalize=normalize) for root in write_twins(tmp_path))
    for one, other in zip(halves.all("train", pad_to=64), floats.all("train", pad_to=64), strict=True):
        assert one.values.dtype == np.float32
        assert np.array_equal(one.values, other.values)
        assert one._replace(values=other.values) == other
    assert np.array_equal(halves.one("u2", "test/test1").values, floats.one("u2", "test/test1").values)


@pytest.mark.parametrize("shards", [1, 3])
def test_shortest_first_and_those_of_one_length_as_stored(tmp_path: Path, shards: int):
    dataset, splits = small(tmp_path, shards=shards)
    found = [(w.speaker_id, w.utterance_id, w.frames) for w in WholeUtterances(dataset).all("train", order="length")]
    assert found == [
        ("ns/c", "u2", 8),
        ("ns/b", "u1", 11),
        ("ns/a", "u1", 12),
        ("ns/c", "u0", 12),
        ("ns/b", "u2", 13),
        ("ns/b", "u0", 25),
        ("ns/a", "u0", 30),
        ("ns/c", "u1", 40),
    ]
    values = {entry[:2]: entry[2] for entry in stored(splits, "train")}
    for whole in WholeUtterances(dataset, "time_mel").all("train", order="length"):
        assert np.array_equal(whole.values, values[whole.speaker_id, whole.utterance_id])


def test_parts_are_joined_in_the_order_of_their_starts(tmp_path: Path):
    dataset, splits = small(tmp_path, shards=1)
    dataset = rewrite(dataset, "train", 0, start=[0, 0, 0, 700, 0, 900, 100, 500, 0, 0, 0])
    u1, u2 = splits["train"]["ns/b"][1:]
    reader = WholeUtterances(dataset, "time_mel")
    assert np.array_equal(reader.one("u1", "ns/b").values, np.concatenate([u1[1], u1[0]]))
    assert np.array_equal(reader.one("u2", "ns/b").values, np.concatenate([u2[1], u2[2], u2[0]]))
    for order in ("index", "length"):
        found = {(w.speaker_id, w.utterance_id): w.values for w in reader.all("train", order)}
        assert np.array_equal(found["ns/b", "u2"], np.concatenate([u2[1], u2[2], u2[0]]))
        assert np.array_equal(found["ns/c", "u0"], splits["train"]["ns/c"][0][0])


@settings(deadline=None)
@given(pad_to=st.integers(1, 50))
def test_values_are_filled_up_with_silence_to_a_multiple(tmp_path_factory: pytest.TempPathFactory, pad_to: int):
    root = tmp_path_factory.getbasetemp() / "padded"
    dataset = Dataset.open(root) if root.exists() else small(root)[0]
    plain, padded = (list(WholeUtterances(dataset, "time_mel").all("train", pad_to=k)) for k in (None, pad_to))
    for one, other in zip(plain, padded, strict=True):
        assert other.frames == one.frames == len(one.values)
        assert len(other.values) % pad_to == 0
        assert 0 <= len(other.values) - other.frames < pad_to
        assert np.array_equal(other.values[: other.frames], one.values)
        assert np.all(other.values[other.frames :] == silence(RECIPE))
    assert len({len(whole.values) for whole in padded}) <= 40 // pad_to + 1


def test_few_shapes_in_order_of_length(tmp_path: Path):
    dataset, _ = small(tmp_path)
    shapes = [w.values.shape for w in WholeUtterances(dataset).all("train", order="length", pad_to=16)]
    assert shapes == [(5, 16)] * 5 + [(5, 32)] * 2 + [(5, 48)]


def test_a_split_without_records_gives_nothing(tmp_path: Path):
    root = write_dataset(tmp_path, {"train": {"ns/a": utterances(9)}, "valid": {}}, RECIPE)
    reader = WholeUtterances(Dataset.open(root))
    assert list(reader.all("valid")) == list(reader.all("valid", "length")) == []


def test_a_few_utterances_are_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dataset, splits = small(tmp_path)
    read: list[int] = []
    monkeypatch.setattr("ge2e_transforms.whole._TOGETHER", 2)
    original = LocalShards.read
    monkeypatch.setattr(LocalShards, "read", lambda self, places: read.append(len(places)) or original(self, places))
    for order in ("index", "length"):
        read.clear()
        found = WholeUtterances(dataset).all("train", order)
        assert read == []
        next(found)
        assert len(read) == 1
        assert len(list(found)) == len(list(stored(splits, "train"))) - 1
        assert len(read) > 2


# Normalisation.


def test_dataset_normalisation_is_that_of_crops(tmp_path: Path):
    dataset, _ = small(tmp_path)
    crops = CropReader(dataset, "test", dataset.index("test"), ReadingOptions("dataset"), 5, "repeat")
    whole = list(WholeUtterances(dataset, normalize="dataset").all("test"))
    for number, start in ((0, 16), (1, 0), (2, 1)):
        (crop,) = crops.read(np.array([number]), np.array([start]), 5)
        assert np.array_equal(crop, whole[number].values[:, start : start + 5])


def test_utterance_normalisation_is_over_all_parts(tmp_path: Path):
    dataset, splits = small(tmp_path)
    for whole, (*_, values) in zip(
        WholeUtterances(dataset, normalize="utterance").all("train"), stored(splits, "train"), strict=True
    ):
        exact = values.astype(np.float64)
        expected = (exact - exact.mean(axis=0)) / exact.std(axis=0)
        assert np.allclose(whole.values, expected.T, atol=1e-5)


def test_a_constant_bin_becomes_zero(tmp_path: Path):
    values = noise(30)
    values[:, 2] = -5.9999995
    dataset = Dataset.open(write_dataset(tmp_path, {"train": {"ns/a": [[values]]}}, RECIPE))
    whole = WholeUtterances(dataset, normalize="utterance").one("u0")
    assert np.all(whole.values[2] == 0)
    assert np.allclose(whole.values.std(axis=1), [1, 1, 0, 1, 1], atol=1e-5)


@pytest.mark.parametrize("normalize", ["dataset", "utterance"])
def test_padding_is_normalised_as_the_values_are(tmp_path: Path, normalize: str):
    dataset, splits = small(tmp_path)
    everything = np.concatenate([entry[2] for entry in stored(splits, "train")]).astype(np.float64)
    plain, padded = (
        list(WholeUtterances(dataset, "time_mel", normalize).all("test", pad_to=pad_to)) for pad_to in (None, 32)
    )
    for one, other, (*_, values) in zip(plain, padded, stored(splits, "test"), strict=True):
        base = everything if normalize == "dataset" else values.astype(np.float64)
        assert other.values.shape == (32, 5)
        assert np.array_equal(other.values[: other.frames], one.values)
        expected = (silence(RECIPE) - base.mean(axis=0)) / base.std(axis=0)
        assert np.allclose(other.values[other.frames :], expected, atol=1e-5)


def test_dataset_normalisation_needs_train_frames(tmp_path: Path):
    root = write_dataset(tmp_path, {"test": {"ns/a": utterances(9)}}, RECIPE)
    with pytest.raises(DatasetError, match="no train frames: use normalize='utterance'"):
        WholeUtterances(Dataset.open(root), normalize="dataset").one("u0")


# Raw samples.


def test_raw_samples_are_exact_and_padded_with_zero(tmp_path: Path):
    parts = [np.arange(-32768, 32767, 13, dtype=np.int16)[:, None], np.array([[32767], [-7]], dtype=np.int16)]
    recipe = RECIPE.replace(features="raw")
    dataset = Dataset.open(write_dataset(tmp_path, {"train": {"ns/a": [parts]}}, recipe))
    whole = WholeUtterances(dataset).one("u0")
    samples = np.concatenate(parts)[:, 0]
    assert whole.values.dtype == np.float32
    assert whole.values.shape == (1, len(samples))
    assert np.array_equal(whole.values[0] * 32768, samples)
    assert whole.values.min() == -1
    assert whole.values.max() < 1
    (padded,) = WholeUtterances(dataset).all("train", pad_to=6000)
    assert padded.values.shape == (1, 6000)
    assert padded.frames == len(samples)
    assert not padded.values[0, len(samples) :].any()


# One utterance.


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_every_utterance_by_speaker_and_id(tmp_path: Path, shards: int):
    dataset, splits = small(tmp_path, shards=shards)
    reader = WholeUtterances(dataset, "time_mel")
    for split in splits:
        for speaker, name, values in stored(splits, split):
            whole = reader.one(name, speaker)
            assert (whole.speaker_id, whole.utterance_id, whole.frames) == (speaker, name, len(values))
            assert np.array_equal(whole.values, values)


def test_an_id_that_is_unique_needs_no_speaker(tmp_path: Path):
    dataset, _ = small(tmp_path, shards=1)
    names = ["x/1", "x/2", *["y"] * 3, *["z"] * 4, "x/3", "x/4"]
    dataset = Dataset.open(renamed(dataset, names))
    reader = WholeUtterances(dataset, "time_mel")
    assert reader.one("x/4").speaker_id == "ns/c"
    assert reader.one("x/1").frames == 30


def renamed(dataset: Dataset, names: list[str]) -> Path:
    """Writes the only train shard again with other utterance ids, one a record."""
    from ge2e_transforms.records import decode_example, encode_record, read_records

    base = dataset.shards("train")[0]["base"]
    path = dataset.root / schema.shard_files(base)[0]
    with path.open("rb") as stream:
        parts = [decode_example(data, "") for _, data in read_records(stream, "")]
    content, places = b"", []
    for (values, fields), name in zip(parts, names, strict=True):
        framed, _ = encode_record(values, {**fields, schema.KEY_UTTERANCE: name})
        places.append((len(content), len(framed)))
        content += framed
    path.write_bytes(content)
    offset, length = map(list, zip(*places, strict=True))
    numbers = [0, 1, 0, 0, 0, 1, 1, 1, 1, 0, 1]
    rewrite(dataset, "train", 0, utterance_id=names, offset=offset, length=length, utterance_index=numbers)
    return dataset.root


def test_an_id_of_several_speakers_is_told_with_them(tmp_path: Path):
    dataset, _ = small(tmp_path)
    message = r"5 speakers have an utterance 'u0': 'ns/a', 'ns/b', 'ns/c', 'ns/d', 'ns/e'\. Give speaker_id"
    with pytest.raises(DatasetError, match=message):
        WholeUtterances(dataset).one("u0")
    with pytest.raises(DatasetError, match=r"2 speakers have an utterance 'u2': 'ns/b', 'ns/c'\."):
        WholeUtterances(dataset).one("u2")


def test_at_most_ten_speakers_are_listed(tmp_path: Path):
    speakers = {f"ns/{number:02d}": utterances(9) for number in range(12)}
    reader = WholeUtterances(Dataset.open(write_dataset(tmp_path, {"train": speakers}, RECIPE)))
    with pytest.raises(DatasetError, match=r"12 speakers .*'ns/09', \.\.\.\. Give"):
        reader.one("u0")


def test_an_unknown_id_is_told_with_those_near_it(tmp_path: Path):
    dataset, _ = small(tmp_path)
    with pytest.raises(DatasetError, match=r"has no utterance 'u11': expected an utterance_id .*Near it: 'u1'"):
        WholeUtterances(dataset).one("u11")
    with pytest.raises(DatasetError, match=r"speaker 'ns/e' in .* has no utterance 'u01': .*Near it: 'u0'$"):
        WholeUtterances(dataset).one("u01", "ns/e")
    with pytest.raises(DatasetError, match=r"has no utterance 'something else': expected [^.]*$"):
        WholeUtterances(dataset).one("something else")


def test_an_unknown_speaker_is_told_with_those_near_it(tmp_path: Path):
    dataset, _ = small(tmp_path)
    message = r"has no speaker 'ns/f' among its 5: expected namespace/speaker_id.*Near it: 'ns/[a-e]', 'ns/[a-e]', 'ns"
    with pytest.raises(DatasetError, match=message):
        WholeUtterances(dataset).one("u0", "ns/f")


def test_only_the_shards_of_a_speaker_are_opened(tmp_path: Path):
    dataset, _ = small(tmp_path, shards=5)
    for number, entry in enumerate(dataset.shards("train")):
        if entry["records"] and number != 1:
            for name in schema.shard_files(entry["base"])[:2]:
                (dataset.root / name).unlink()
    assert WholeUtterances(dataset).one("u2", "ns/b").frames == 13
    with pytest.raises(DatasetError, match="is missing"):
        WholeUtterances(dataset).one("u1", "ns/a")


def test_tables_are_kept_within_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dataset, _ = small(tmp_path, shards=3)
    reads: list[int] = []
    original = Dataset.shard_index
    monkeypatch.setattr(Dataset, "shard_index", lambda self, *args: reads.append(args[1]) or original(self, *args))
    reader = WholeUtterances(dataset)
    for _ in range(3):
        reader.one("u1", "ns/a")
    assert reads == [0]
    monkeypatch.setattr("ge2e_transforms.whole._KEPT_BYTES", 0)
    reader.one("u1", "ns/b")
    reader.one("u1", "ns/c")
    (kept,) = reader._tables.values()
    assert reader._kept_bytes == kept.nbytes


# Damage.


def flip(dataset: Dataset, split: str, place: int) -> None:
    path = dataset.root / schema.shard_files(dataset.shards(split)[0]["base"])[0]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, 9, 40, 300, -1])
def test_a_flipped_bit_is_found(tmp_path: Path, place: int):
    dataset, _ = small(tmp_path, shards=1)
    flip(dataset, "train", place)
    reader = WholeUtterances(dataset)
    with pytest.raises(CorruptRecordError, match=r"\.tfrecord at offset \d+: the checksum"):
        list(reader.all("train"))
    with pytest.raises(CorruptRecordError, match="the checksum"):
        reader.one(*(("u2", "ns/c") if place < 0 else ("u0", "ns/a")))
    assert reader.one("u0", "ns/b").frames == 25  # what is not damaged can be read


def test_a_file_that_was_cut_off_or_removed_is_told(tmp_path: Path):
    dataset, _ = small(tmp_path, shards=1)
    path = dataset.root / schema.shard_files(dataset.shards("test")[0]["base"])[0]
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(CorruptRecordError, match=rf"{path.name} at offset \d+: expected \d+ bytes, got"):
        list(WholeUtterances(dataset).all("test"))
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{path.name} cannot be read.* moved or removed"):
        list(WholeUtterances(dataset).all("test"))


def test_a_record_that_is_not_the_one_of_its_index_is_told(tmp_path: Path):
    dataset, _ = small(tmp_path, shards=1)
    table = dataset.shard_index("test", 0)
    offset, length = table["offset"].to_pylist(), table["length"].to_pylist()
    first = dataset.shard_paths("test")[0].read_bytes()[: length[0]]
    with pytest.raises(CorruptRecordError, match=rf"expected a record of {length[0] + 1} bytes.* got {length[0]}"):
        parse_record(first, RecordRow(0, 0, length[0] + 1), "shard")
    swapped = rewrite(dataset, "test", 0, offset=[offset[2], *offset[1:]], length=[length[2], *length[1:]])
    with pytest.raises(CorruptRecordError, match=r"one utterance of label 3 with 21 rows.* got 6 rows of .*'ns/e'"):
        list(WholeUtterances(swapped).all("test"))
    other = rewrite(dataset, "test", 0, offset=offset, length=length, utterance_id=["u0", "other", "u0"])
    with pytest.raises(CorruptRecordError, match=r"expected utterance 'other' of 'ns/d' by the index, got 'u1' of"):
        WholeUtterances(other).one("other")


def test_an_id_that_one_speaker_has_twice_is_told(tmp_path: Path):
    dataset, _ = small(tmp_path, shards=1)
    doubled = rewrite(dataset, "test", 0, utterance_id=["u0", "u0", "u0"])
    with pytest.raises(DatasetError, match="speaker 'ns/d' has 2 utterances 'u0': the index is damaged"):
        WholeUtterances(doubled).one("u0", "ns/d")


# Refusals.


def test_windows_are_no_utterances(tmp_path: Path):
    dataset, _ = small(tmp_path, RECIPE.replace(segments="windows"))
    reader = WholeUtterances(dataset)
    message = "holds windows, which are fixed cuts and not utterances.*--segments utterance"
    with pytest.raises(DatasetError, match=message):
        reader.one("u0", "ns/a")
    with pytest.raises(DatasetError, match=message):
        reader.all("train")


@pytest.mark.parametrize("segments", ["utterance", "windows"])
def test_any_form_is_given_with_the_rows_of_its_records(tmp_path: Path, segments: str):
    dataset, splits = small(tmp_path, RECIPE.replace(segments=segments))
    whole, rows = WholeUtterances(dataset, "time_mel").with_records("u2", "ns/b")
    assert rows == [3, 9, 1]
    assert np.array_equal(whole.values, np.concatenate(splits["train"]["ns/b"][2]))


def test_options_are_checked_when_they_are_given(tmp_path: Path):
    dataset, _ = small(tmp_path)
    with pytest.raises(ConfigError, match="layout='bins' cannot be used: expected one of mel_time, time_mel"):
        WholeUtterances(dataset, "bins")
    with pytest.raises(ConfigError, match="normalize='crop' cannot be used: expected one of none, dataset, utterance"):
        WholeUtterances(dataset, normalize="crop")
    reader = WholeUtterances(dataset)
    with pytest.raises(ConfigError, match="order='random' cannot be used: expected one of index, length"):
        reader.all("train", "random")
    for pad_to in (0, -4, 2.0, True):
        with pytest.raises(ConfigError, match=r"pad_to=.* cannot be used: expected an integer from 1"):
            reader.all("train", pad_to=pad_to)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="has no split 'valid': it has train, test"):
        reader.all("valid")
    with pytest.raises(ConfigError, match="utterance_id=7 cannot be used: expected text"):
        reader.one(7)  # type: ignore[arg-type]


def test_a_loader_reads_the_index_of_a_shard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dataset, splits = small(tmp_path, shards=1)
    loader, read, shard_index = BatchLoader(dataset.root), [], Dataset.shard_index
    monkeypatch.setattr(Dataset, "shard_index", lambda self, *args: read.append(args) or shard_index(self, *args))
    for speaker, utterance, values in stored(splits, "train"):
        np.testing.assert_array_equal(loader.utterance(utterance, speaker).values, values.T)
    assert len(read) == 1
    elsewhere = pickle.loads(pickle.dumps(loader))
    np.testing.assert_array_equal(elsewhere.utterance("u0", "ns/a").values, loader.utterance("u0", "ns/a").values)
