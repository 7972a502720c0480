"""Opening a dataset folder: what it holds, and what is refused."""

from __future__ import annotations

import json
import shutil

import jobs
import numpy as np
import pyarrow as pa
import pytest
from synth import small_corpus, tone, write

from ge2e_transforms import schema
from ge2e_transforms.config import Recipe
from ge2e_transforms.dataset import Dataset, speaker_id_mapping
from ge2e_transforms.errors import ConfigError, DatasetError
from ge2e_transforms.records import decode_example, read_records
from pipeline.commit import commit

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
    path = root / "metadata.json"
    metadata = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in metadata.items() if value is not None}))


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


def test_the_index_leads_to_the_values(made):
    dataset = Dataset.open(made)
    for split in dataset.splits:
        index, paths = dataset.index(split), dataset.shard_paths(split)
        assert list(index) == ["shard", *schema.SAMPLER_COLUMNS]
        for row in range(len(index["shard"])):
            content = paths[index["shard"][row]].read_bytes()
            start, frames = index["payload_offset"][row], index["frames"][row]
            values = np.frombuffer(content, "<f4", count=frames * 8, offset=start).reshape(frames, 8)
            record = content[index["offset"][row] :][12 : index["length"][row] - 4]
            stored, fields = decode_example(record, "here")
            assert np.array_equal(values, stored)
            assert fields[schema.KEY_LABEL] == index["label"][row]


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
        ({"format_version": 2}, "expected format version 1, got 2: read it with the version"),
        ({"recipe": None, "shards": None}, "recipe, shards missing"),
        ({"speakers": None}, "speakers missing"),
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
    "train/index-*.parquet": lambda dataset: dataset.index("train"),
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
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(DatasetError) as error:
        READERS[pattern](Dataset.open(damaged))
    assert str(error.value).startswith(f"{path} cannot be read as Parquet")


def test_a_table_of_another_length_is_refused(damaged):
    metadata = json.loads((damaged / "metadata.json").read_text())
    edit(damaged, speakers=metadata["speakers"] | {"rows": 6})
    with pytest.raises(DatasetError, match="expected 6 rows, got 5"):
        Dataset.open(damaged).speakers  # noqa: B018
    assert isinstance(Dataset.open(damaged).ledger(), pa.Table)
