"""Opening a dataset folder: what it holds, and what is refused."""

from __future__ import annotations

import gc
import hashlib
import json
import pickle
import shutil

import google_crc32c
import jobs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_dataset import write_dataset, write_metadata
from synth import small_corpus, tone, write

from ge2e_transforms import schema
from ge2e_transforms.config import Recipe
from ge2e_transforms.dataset import Dataset, speaker_id_mapping
from ge2e_transforms.errors import ConfigError, DatasetError
from ge2e_transforms.loader import BatchLoader
from ge2e_transforms.records import decode_example, read_records
from ge2e_transforms.verify import verify
from pipeline.commit import commit
from pipeline.tables import write_index

pytestmark = pytest.mark.usefixtures("unsynced")

RECIPE = Recipe().replace(n_mels=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Five speakers, two of them in test; a missing file, a short one, and a shard without records."""
    folder = tmp_path_factory.mktemp("made")
    manifest = small_corpus(folder / "corpus", speakers=5, seconds=1.2, test_speakers=2)
    write(folder / "corpus" / "short.wav", tone(300, 0.2), 16000)
    with manifest.open("a") as file:
        file.write("nowhere.wav,spk00,synth,s0,train\nshort.wav,spk02a,synth,s0,train\n")
    job = jobs.job(folder / "dataset", manifest, recipe=RECIPE, max_rejected=1.0)
    planned = jobs.write_all(job)
    commit(job, planned.plan, planned.rejected)
    return folder / "dataset"


@pytest.fixture
def damaged(made, tmp_path):
    """A copy that may be spoilt."""
    return shutil.copytree(made, tmp_path / "copy")


def edit(root, **changes):
    metadata = json.loads((root / "metadata.json").read_text()) | changes
    write_metadata(root, {name: value for name, value in metadata.items() if value is not None})


def test_a_dataset_says_what_it_holds(made):
    dataset = Dataset.open(made)
    assert dataset.splits == ["train", "test"]
    assert dataset.recipe == RECIPE
    assert dataset.metadata["generation"]
    assert dataset.root == made
    assert Dataset.open(str(made)).metadata == dataset.metadata


def test_shards_are_listed_in_order_with_the_empty_one(made):
    dataset = Dataset.open(made)
    entries, paths = dataset.shards("train"), dataset.shard_paths("train")
    assert [entry["records"] for entry in entries] == [3, 3, 3, 0]
    assert [path.name[-14:] for path in paths] == [f"{n}-of-00004.tfrecord"[-14:] for n in range(4)]
    assert [path.exists() for path in paths] == [True, True, True, False]
    assert not (made / schema.shard_files(entries[3]["base"])[1]).exists()
    held = [("train", 0), ("train", 1), ("train", 2)]
    assert [place for place in dataset.held_shards() if place[0] == "train"] == held
    assert all(dataset.shards(split)[shard]["records"] for split, shard in dataset.held_shards())
    assert {split for split, _ in dataset.held_shards()} == {"train", "test"}


def test_statistics_are_those_of_metadata_or_refused_with_the_advice(made, damaged):
    mean, deviation = Dataset.open(made).statistics("unused")
    stored = Dataset.open(made).metadata["statistics"]
    assert (mean.tolist(), deviation.tolist()) == (stored["mean"], stored["std"])
    assert mean.dtype == deviation.dtype == np.float64 and mean.shape == (RECIPE.feature.n_mels,)
    edit(damaged, statistics={**stored, "frames": 0, "mean": [], "std": []})
    with pytest.raises(DatasetError, match=r"no train frames: use another$"):
        Dataset.open(damaged).statistics("use another")


def test_the_index_leads_to_the_values(made):
    dataset = Dataset.open(made)
    for split in dataset.splits:
        index, paths = dataset.index(split), dataset.shard_paths(split)
        records = {"train": 9, "test": 6}[split]
        assert len(index) == records
        assert [len(index[name]) for name in schema.SPLIT_COLUMNS] == [records] * 7
        places = index.places(np.arange(records))
        for row, (shard, offset, length, start) in enumerate(zip(*places, strict=True)):
            content, frames = paths[shard].read_bytes(), index["frames"][row]
            values = np.frombuffer(content, "<f4", count=frames * 8, offset=start).reshape(frames, 8)
            assert offset == index["offset"][row]
            record = content[offset:][12 : length - 4]
            stored, fields = decode_example(record, "here")
            assert np.array_equal(values, stored)
            assert fields[schema.KEY_LABEL] == index["label"][row]


def test_the_index_says_what_the_indexes_of_its_shards_say(made):
    dataset = Dataset.open(made)
    for split in dataset.splits:
        index = dataset.index(split)
        tables = [dataset.shard_index(split, number) for number in range(len(dataset.shards(split)))]
        places = index.places(np.arange(len(index)))
        assert places.shard.tolist() == [number for number, table in enumerate(tables) for _ in range(len(table))]
        joined = pa.concat_tables(tables)
        assert places.length.tolist() == joined["length"].to_pylist()
        assert places.payload.tolist() == joined["payload_offset"].to_pylist()
        for name in schema.SPLIT_COLUMNS:
            assert index[name].tolist() == joined[name].to_pylist()


def test_the_index_is_mapped_into_memory_and_cannot_be_written_to(made):
    dataset = Dataset.open(made)
    gc.collect()  # what earlier tests left may else be given back meanwhile
    before = pa.total_allocated_bytes()
    index = dataset.index("train")
    assert pa.total_allocated_bytes() <= before
    for name, kind in zip(schema.SPLIT_COLUMNS, ["i8", "i4", "i4", "i4", "i4", "i4", "u1"], strict=True):
        assert index[name].dtype == np.dtype(kind)
        assert not index[name].flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            index[name][0] = 1


def test_the_index_is_a_plain_arrow_file(made):
    (path,) = made.glob("train/index-*.arrow")
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        assert reader.num_record_batches == 1
        assert reader.schema.equals(schema.split_index_schema())
        assert reader.get_batch(0)["label"].to_pylist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def check_nothing(index, shards):
    assert len(index) == 0
    assert index.first_rows.tolist() == [0] * (shards + 1)
    assert [index[name].dtype for name in schema.SPLIT_COLUMNS] == [np.int64, *[np.int32] * 5, np.uint8]
    assert [len(index[name]) for name in schema.SPLIT_COLUMNS] == [0] * 7
    assert [len(values) for values in index.places(np.zeros(0, dtype=np.int64))] == [0] * 4


def test_a_split_without_records_has_an_index_of_0_rows(tmp_path):
    root = write_dataset(tmp_path, {"train": {"a": [[np.ones((3, 40), np.float32)]]}, "test": {}}, shards=3)
    dataset = Dataset.open(root)
    assert dataset.splits == ["train", "test"]
    check_nothing(dataset.index("test"), 3)
    index = dataset.index("train")
    assert index.first_rows.tolist() == [0, 1, 1, 1]
    assert index.shard(np.arange(1)).tolist() == [0]


def test_a_split_of_which_nothing_could_be_written_is_published_and_opens(tmp_path):
    manifest = small_corpus(tmp_path / "corpus", speakers=3, utterances=1, seconds=1.2, test_speakers=1)
    for path in (tmp_path / "corpus").glob("spk02/*.wav"):
        path.unlink()
    job = jobs.job(tmp_path / "dataset", manifest, recipe=RECIPE, max_rejected=1.0)
    planned = jobs.write_all(job)
    commit(job, planned.plan, planned.rejected)
    dataset = Dataset.open(tmp_path / "dataset")
    assert dataset.splits == ["train", "test"]
    check_nothing(dataset.index("test"), 1)
    assert dataset.shard_names("test") == [f"test/features-{planned.plan.generation}-00000-of-00001.tfrecord"]
    verify(dataset)


def test_a_dataset_survives_pickling(made):
    dataset = pickle.loads(pickle.dumps(Dataset.open(made)))
    assert dataset.metadata == Dataset.open(made).metadata
    assert (dataset.root, dataset.recipe) == (made, RECIPE)
    assert dataset.index("test")["label"].tolist() == [4, 4, 4, 5, 5, 5]


def test_the_index_of_a_shard_has_the_columns_for_people(made):
    dataset = Dataset.open(made)
    table = dataset.shard_index("train", 1)
    assert table.schema.equals(schema.index_schema(8))
    assert set(table["speaker_id"].to_pylist()) == {"synth/spk01"}
    assert dataset.shard_index("train", 1, columns=["frames", "audio_path"]).column_names == ["frames", "audio_path"]
    with dataset.shard_paths("train")[1].open("rb") as stream:
        assert [offset for offset, _ in read_records(stream, "x")] == table["offset"].to_pylist()


def test_an_empty_shard_has_an_empty_index(made):
    table = Dataset.open(made).shard_index("train", 3)
    assert len(table) == 0
    assert table.schema.equals(schema.index_schema(8))


def test_speakers_ledger_and_mapping(made):
    dataset = Dataset.open(made)
    speakers = dataset.speakers
    assert speakers.schema.equals(schema.speakers_schema())
    assert speakers["speaker_id"].to_pylist() == [f"synth/spk{n:02d}" for n in (0, 1, 2, 3, 4)]
    assert speakers["split"].to_pylist() == ["train"] * 3 + ["test"] * 2
    mapping = speaker_id_mapping(dataset)
    # The label of the speaker without a record stays free.
    assert mapping == {"synth/spk00": 0, "synth/spk01": 1, "synth/spk02": 2, "synth/spk03": 4, "synth/spk04": 5}
    assert all(type(label) is int for label in mapping.values())
    ledger = dataset.ledger()
    assert sorted(zip(ledger["reason"].to_pylist(), ledger["kind"].to_pylist(), strict=True)) == [
        ("missing", "rejected"),
        ("too_short", "filtered"),
    ]


# What is refused.


def test_no_folder_and_no_metadata(tmp_path):
    with pytest.raises(DatasetError, match=r"no complete dataset at .*nowhere: the folder does not exist"):
        Dataset.open(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"it holds no metadata.json.* run the same `ge2e run` command again"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"format": "ge2e-features",}'])
def test_metadata_that_is_no_json(damaged, content):
    (damaged / "metadata.json").write_bytes(content)
    with pytest.raises(DatasetError, match=r"metadata.json is not JSON"):
        Dataset.open(damaged)


def test_metadata_that_is_no_object(damaged):
    (damaged / "metadata.json").write_text("[1, 2]")
    with pytest.raises(DatasetError, match="expected a JSON object, got list"):
        Dataset.open(damaged)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "tfds"}, "expected format 'ge2e-features', got 'tfds'"),
        ({"format": None}, "expected format 'ge2e-features', got None"),
        ({"format_version": 2}, "expected format version 3, got 2: read it with the version"),
        ({"format_version": 4}, "expected format version 3, got 4: read it with the version"),
        ({"recipe": None, "shards": None}, "recipe, shards missing"),
        ({"speakers": None}, "speakers missing"),
        ({"dtype": None}, "dtype missing"),
    ],
)
def test_metadata_of_something_else(damaged, changes, message):
    edit(damaged, **changes)
    with pytest.raises(DatasetError, match=message):
        Dataset.open(damaged)


def test_a_recipe_of_a_newer_version(damaged):
    edit(damaged, recipe=RECIPE.to_dict() | {"augment": {}})
    with pytest.raises(ConfigError, match="'augment'"):
        Dataset.open(damaged)


def test_a_split_that_is_not_there(made):
    dataset = Dataset.open(made)
    for call in (dataset.shards, dataset.index, dataset.shard_paths):
        with pytest.raises(DatasetError, match=r"has no split 'valid': it has train, test"):
            call("valid")


READERS = {
    "train/features-*-00001-of-*.tfrecord": lambda dataset: dataset.shard_paths("train"),
    "train/features-*-00001-of-*.index.parquet": lambda dataset: dataset.shard_index("train", 1),
    "train/index-*.arrow": lambda dataset: dataset.index("train"),
    "speakers-*.parquet": lambda dataset: dataset.speakers,
    "ledger-*.parquet": lambda dataset: dataset.ledger(),
}


@pytest.mark.parametrize("pattern", READERS)
def test_a_file_that_is_missing_or_of_another_length_is_named(damaged, pattern):
    (path,) = damaged.glob(pattern)
    content = path.read_bytes()
    for spoilt in (content[:-1], content + b"x", b""):
        path.write_bytes(spoilt)
        with pytest.raises(DatasetError) as error:
            READERS[pattern](Dataset.open(damaged))
        assert str(error.value).startswith(f"{path}: expected {len(content)} bytes, got {len(spoilt)}")
    path.unlink()
    with pytest.raises(DatasetError) as error:
        READERS[pattern](Dataset.open(damaged))
    assert str(error.value).startswith(f"{path} is missing, although metadata.json lists it")


@pytest.mark.parametrize("pattern", [pattern for pattern in READERS if pattern.endswith(".parquet")])
def test_a_table_that_cannot_be_read_is_named(damaged, pattern):
    (path,) = damaged.glob(pattern)
    content = b"x" * path.stat().st_size
    path.write_bytes(content)
    with pytest.raises(DatasetError) as error:
        READERS[pattern](Dataset.open(damaged))
    assert str(error.value).startswith(f"{path}: expected sha256 ")
    agree_table(damaged, path)
    with pytest.raises(DatasetError) as error:
        READERS[pattern](Dataset.open(damaged))
    assert str(error.value).startswith(f"{path} cannot be read as Parquet")


def agree_table(root, path, **changes):
    """Makes metadata agree with a Parquet file that was changed, but for what is given."""
    metadata = json.loads((root / "metadata.json").read_text())
    content = path.read_bytes()
    size, sha256 = len(content), hashlib.sha256(content).hexdigest()
    for entry in (metadata["speakers"], metadata["ledger"]):
        if root / entry["path"] == path:
            entry |= {"bytes": size, "sha256": sha256, **changes}
    for entry in (entry for entries in metadata["shards"].values() for entry in entries):
        if root / schema.shard_files(entry["base"])[1] == path:
            entry |= {"index_bytes": size, "index_sha256": sha256, **changes}
    write_metadata(root, metadata)


def refused(root, split="train"):
    """What is said of the index of a split, without the path that it must begin with."""
    (path,) = root.glob(f"{split}/index-*.arrow")
    with pytest.raises(DatasetError) as error:
        Dataset.open(root).index(split)
    assert str(error.value).startswith(str(path))
    return str(error.value).removeprefix(str(path))


def agree(root, split="train", **changes):
    """Makes metadata agree with an index that was changed, but for what is given."""
    metadata = json.loads((root / "metadata.json").read_text())
    entry = metadata["splits"][split]["index"]
    content = (root / entry["path"]).read_bytes()
    entry |= {"bytes": len(content), "crc32c": google_crc32c.value(content), **changes}
    edit(root, splits=metadata["splits"])


def test_a_flipped_byte_of_the_index_is_found_by_its_checksum(damaged):
    (path,) = damaged.glob("train/index-*.arrow")
    content = path.read_bytes()
    expected = google_crc32c.value(content)
    for place in range(0, len(content), 29):
        spoilt = bytearray(content)
        spoilt[place] ^= 0x10
        path.write_bytes(spoilt)
        message = f": expected crc32c {expected}, got {google_crc32c.value(bytes(spoilt))}: the file was changed"
        assert refused(damaged).startswith(message)
    path.write_bytes(content)
    assert len(Dataset.open(damaged).index("train")) == 9
    agree(damaged, crc32c=expected ^ 1)
    assert refused(damaged).startswith(f": expected crc32c {expected ^ 1}, got {expected}: the file was changed")


@pytest.mark.parametrize("spoilt", [b"", b"x", b"ARROW1\0\0", b"x" * 1000])
def test_an_index_that_is_no_arrow_file_is_named(damaged, spoilt):
    """With a checksum that is right."""
    (path,) = damaged.glob("train/index-*.arrow")
    path.write_bytes(spoilt)
    agree(damaged)
    assert refused(damaged).startswith(" cannot be read as an Arrow file (")


def test_an_index_cut_anywhere_is_refused_though_its_checksum_is_right(damaged):
    (path,) = damaged.glob("train/index-*.arrow")
    content = path.read_bytes()
    for length in range(0, len(content), 61):
        path.write_bytes(content[:length])
        agree(damaged)
        assert refused(damaged)


def of_schema(table, **fields):
    """The same columns, some with another type."""
    fields = [pa.field(f.name, fields.get(f.name, f.type), nullable=False) for f in table.schema]
    return table.cast(pa.schema(fields))


NULLABLE = pa.schema(
    [pa.field(name, kind.type) for name, kind in zip(schema.SPLIT_COLUMNS, schema.split_index_schema(), strict=True)]
)
CHANGES = {
    "one row less": lambda table: table.slice(0, 8),
    "one row more": lambda table: pa.concat_tables([table, table.slice(0, 1)]).combine_chunks(),
    "no row": lambda table: table.slice(0, 0),
    "one column less": lambda table: table.drop_columns("flags"),
    "one column more": lambda table: table.append_column("shard", table["label"]),
    "no column": lambda table: table.select([]),
    "another order": lambda table: table.select(schema.SPLIT_COLUMNS[::-1]),
    "another name": lambda table: table.rename_columns([*schema.SPLIT_COLUMNS[:-1], "flag"]),
    "narrower offsets": lambda table: of_schema(table, offset=pa.int32()),
    "wider flags": lambda table: of_schema(table, flags=pa.int32()),
    "floats": lambda table: of_schema(table, frames=pa.float32()),
    "values may be missing": lambda table: table.cast(NULLABLE),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_index_of_other_rows_or_columns_is_refused(damaged, name):
    (path,) = damaged.glob("train/index-*.arrow")
    table = CHANGES[name](pa.ipc.open_file(path).read_all())
    write_index(table, path)
    agree(damaged)
    columns = "offset, frames, label, utterance_index, session_index, source_index, flags"
    assert refused(damaged).startswith(
        f": expected 9 rows of {columns}, as the shards in metadata.json hold, got {len(table)} of "
        + ", ".join(table.column_names)
    )


def test_rows_that_metadata_gives_otherwise_are_refused(damaged):
    agree(damaged, rows=10)
    with pytest.raises(DatasetError, match="expected 9, the records of the shards at /splits/train/index/rows, got 10"):
        Dataset.open(damaged)
    shards = json.loads((damaged / "metadata.json").read_text())["shards"]
    shards["train"][3]["records"] = 1
    edit(damaged, shards=shards)
    assert ": expected 10 rows of offset, " in refused(damaged)


def test_the_index_of_another_split_is_refused(damaged):
    metadata = json.loads((damaged / "metadata.json").read_text())
    train, test = (metadata["splits"][split]["index"] for split in ("train", "test"))
    shutil.copy(damaged / test["path"], damaged / train["path"])
    metadata["splits"]["train"]["index"] = test | {"path": train["path"], "rows": 9}
    edit(damaged, splits=metadata["splits"])
    with pytest.raises(DatasetError, match=r"train/index-.*: expected 9 rows of .*, got 6 of .*different datasets"):
        Dataset.open(damaged).index("train")
    metadata["splits"]["train"]["index"] = test
    edit(damaged, splits=metadata["splits"])
    with pytest.raises(DatasetError, match=r"expected a file in train/ at /splits/train/index/path, got 'test/index-"):
        Dataset.open(damaged)


def test_an_index_of_several_batches_is_read_all_the_same(damaged):
    (path,) = damaged.glob("train/index-*.arrow")
    table = pa.ipc.open_file(path).read_all()
    values = {name: table[name].to_pylist() for name in schema.SPLIT_COLUMNS}
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    agree(damaged)
    index = Dataset.open(damaged).index("train")
    assert {name: index[name].tolist() for name in schema.SPLIT_COLUMNS} == values


# What fuzzing found: checksums that are right over content that is not.


@pytest.mark.parametrize("pattern", [pattern for pattern in READERS if pattern.endswith(".parquet")])
def test_a_flipped_byte_of_a_table_is_found_by_its_checksum(damaged, pattern):
    """Parquet has no checksums of its own here: another speaker's label came out without a word."""
    (path,) = damaged.glob(pattern)
    content = path.read_bytes()
    for place in range(0, len(content), 211):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        with pytest.raises(DatasetError) as error:
            READERS[pattern](Dataset.open(damaged))
        assert str(error.value).startswith(f"{path}: expected sha256 ")


TABLES = {
    "a column less": (lambda table: table.drop_columns(table.column_names[0]), "expected a column "),
    "another name": (lambda table: table.rename_columns(["x", *table.column_names[1:]]), "expected a column "),
    "a column twice": (lambda table: table.append_column(table.column_names[0], table[0]), "expected a column "),
    "another type": (
        lambda table: table.set_column(0, table.column_names[0], pa.array([1.5] * len(table))),
        "expected a column ",
    ),
    "no value": (
        lambda table: table.set_column(0, table.column_names[0], pa.nulls(len(table), table.schema.types[0])),
        "expected a value in each row of ",
    ),
    "a row less": (lambda table: table.slice(1), "expected "),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("pattern", [pattern for pattern in READERS if pattern.endswith(".parquet")])
def test_a_table_of_other_columns_is_refused_though_its_checksum_is_right(damaged, pattern, name):
    (path,) = damaged.glob(pattern)
    change, told = TABLES[name]
    pq.write_table(change(pq.read_table(path)), path)
    agree_table(damaged, path)
    with pytest.raises(DatasetError) as error:
        READERS[pattern](Dataset.open(damaged))
    assert str(error.value).startswith(f"{path}: {told}")


def test_text_that_is_none_is_refused(damaged):
    (path,) = damaged.glob("speakers-*.parquet")
    table = pq.read_table(path)
    offsets, data = pa.array([0, 2, 3, 4, 5, 6], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfeabcd")
    broken = pa.StringArray.from_buffers(5, offsets, data)
    pq.write_table(table.set_column(0, table.schema.field(0), broken), path)
    agree_table(damaged, path)
    with pytest.raises(DatasetError, match=r"cannot be read as Parquet \(.*UTF8"):
        Dataset.open(damaged).speakers  # noqa: B018


def test_names_of_columns_that_are_no_text_are_refused(damaged):
    (path,) = damaged.glob("train/index-*.arrow")
    path.write_bytes(path.read_bytes().replace(b"flags", b"fl\xffgs"))
    agree(damaged)
    assert refused(damaged).startswith(" cannot be read as an Arrow file (")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("frames", {0: 2**31 - 1}),  # slots for as many crops were laid out in memory
        ("frames", {0: -5}),
        ("label", {8: -1}),
        ("utterance_index", {3: -1}),
        ("session_index", {3: -(2**31)}),
    ],
)
def test_numbers_that_no_writer_gives_are_refused_when_the_index_is_opened(damaged, name, values):
    (path,) = damaged.glob("train/index-*.arrow")
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    column = table[name].to_pylist()
    for row, value in values.items():
        column[row] = value
    place, field = table.column_names.index(name), table.schema.field(name)
    write_index(table.set_column(place, field, pa.array(column, field.type)), path)
    agree(damaged)
    assert refused(damaged).startswith(": expected frames that add up to those of the shards in metadata.json")


def test_a_speakers_table_without_a_label_of_the_index_is_told(damaged):
    (path,) = damaged.glob("speakers-*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, table.schema.field(1), pa.array([7, 1, 2, 4, 5], pa.int32())), path)
    agree_table(damaged, path)
    loader = BatchLoader(damaged, 2, 2, 20)
    with pytest.raises(DatasetError, match="expected a speaker of label 0, which the index has, got none"):
        loader.speaker_ids()
    with pytest.raises(DatasetError, match="expected a speaker of label 0, which the index has, got none"):
        BatchLoader(damaged, 2, 2, 20, labels="original").batches()


def test_a_table_of_another_length_is_refused(damaged):
    metadata = json.loads((damaged / "metadata.json").read_text())
    edit(damaged, speakers=metadata["speakers"] | {"rows": 6})
    with pytest.raises(DatasetError, match="expected 6 rows, got 5"):
        Dataset.open(damaged).speakers  # noqa: B018
    assert isinstance(Dataset.open(damaged).ledger(), pa.Table)
