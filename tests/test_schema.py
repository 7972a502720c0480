"""The contract of writer and loader: names, flags and columns are pinned, since datasets outlive programs."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ge2e_transforms import schema


def test_format_is_pinned():
    assert (schema.FORMAT, schema.FORMAT_VERSION, schema.METADATA_FILE) == ("ge2e-features", 3, "metadata.json")


def test_record_keys_are_pinned():
    keys = {name: value for name, value in vars(schema).items() if name.startswith("KEY_")}
    assert keys == {
        "KEY_DTYPE": "spectrogram/dtype",
        "KEY_VALUES": "spectrogram/values",
        "KEY_ENCODED": "spectrogram/encoded",
        "KEY_HEIGHT": "spectrogram/height",
        "KEY_WIDTH": "spectrogram/width",
        "KEY_SPEAKER": "speaker/original_id",
        "KEY_LABEL": "speaker/mapped_id",
        "KEY_SOURCE": "data/source",
        "KEY_SUBSET": "data/subset",
        "KEY_UTTERANCE": "utterance/id",
        "KEY_SESSION": "utterance/session",
        "KEY_START": "utterance/start",
        "KEY_LENGTH": "utterance/length",
        "KEY_AUGMENTATION": "utterance/augmentation",
        "KEY_PARENT": "utterance/parent",
    }


def test_flags_are_bits_of_their_own():
    flags = {name: value for name, value in vars(schema).items() if name.startswith("FLAG_")}
    assert flags == {"FLAG_SHORT": 1, "FLAG_UNVOICED": 2, "FLAG_PART": 4}


def test_file_names_are_pinned():
    base = schema.shard_base("train", "0a1b2c3d", 7, 32)
    assert base == "train/features-0a1b2c3d-00007-of-00032"
    assert schema.shard_files(base) == (f"{base}.tfrecord", f"{base}.index.parquet", f"{base}.done.json")
    assert schema.split_index_file("valid", "0a1b2c3d") == "valid/index-0a1b2c3d.arrow"
    assert schema.speakers_file("0a1b2c3d") == "speakers-0a1b2c3d.parquet"
    assert schema.ledger_file("0a1b2c3d") == "ledger-0a1b2c3d.parquet"


def test_shard_names_sort_like_their_numbers():
    names = [schema.shard_base("train", "0a1b2c3d", number, 99999) for number in (0, 9, 10, 100, 99998)]
    assert names == sorted(names)


def test_splits_have_one_order():
    assert sorted(["zeta", "test", "dev", "valid", "train"], key=schema.split_key) == [
        "train",
        "valid",
        "test",
        "dev",
        "zeta",
    ]


@pytest.mark.parametrize("name", ["train", "dev-clean", "a", "0", "A_b-9", "x" * 64])
def test_split_names_that_may_be_folders(name):
    assert schema.SPLIT_NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "-x", "_x", "a b", "a\n", "é", "a.b", "x" * 65, "~"])
def test_split_names_that_may_not(name):
    assert not schema.SPLIT_NAME.fullmatch(name)


def _columns(table_schema: pa.Schema) -> list[tuple[str, str]]:
    assert not any(field.nullable for field in table_schema)
    return [(field.name, str(field.type)) for field in table_schema]


INTEGERS = [
    ("offset", "int64"),
    ("length", "int64"),
    ("payload_offset", "int64"),
    ("frames", "int32"),
    ("label", "int32"),
    ("utterance_index", "int32"),
    ("session_index", "int32"),
    ("source_index", "int32"),
    ("flags", "int32"),
]


def test_index_of_a_shard_is_pinned():
    assert _columns(schema.index_schema(3)) == [
        *INTEGERS,
        ("speaker_id", "string"),
        ("utterance_id", "string"),
        ("session_id", "string"),
        ("source", "string"),
        ("subset", "string"),
        ("audio_path", "string"),
        ("start", "int64"),
        ("samples", "int64"),
        ("voiced_fraction", "float"),
        ("gain_db", "float"),
        ("audio_hash", "int64"),
        ("mean", "fixed_size_list<item: float>[3]"),
        ("deviation", "fixed_size_list<item: float>[3]"),
    ]


def test_index_of_a_split_is_pinned():
    assert _columns(schema.split_index_schema()) == [
        ("offset", "int64"),
        ("frames", "int32"),
        ("label", "int32"),
        ("utterance_index", "int32"),
        ("session_index", "int32"),
        ("source_index", "int32"),
        ("flags", "uint8"),
    ]
    assert tuple(schema.split_index_schema().names) == schema.SPLIT_COLUMNS
    assert tuple(name for name, _ in INTEGERS) == schema.SAMPLER_COLUMNS
    # The others follow from the shards in metadata.json and from the offset of the next record.
    assert set(schema.SAMPLER_COLUMNS) - set(schema.SPLIT_COLUMNS) == {"length", "payload_offset"}


def test_speakers_table_is_pinned():
    assert _columns(schema.speakers_schema()) == [
        ("speaker_id", "string"),
        ("label", "int32"),
        ("split", "string"),
        ("source", "string"),
        ("utterances", "int64"),
        ("sessions", "int64"),
        ("frames", "int64"),
        ("seconds", "double"),
    ]


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("/o/train/features-0a1b2c3d-00007-of-00032.index.parquet", "shard 7 of 32 of split train"),
        ("gs://b/o/test/features-0a1b2c3d-00000-of-00001.done.json", "shard 0 of 1 of split test"),
        ("/o/train/index-0a1b2c3d.arrow", "index of split train"),
        ("/o/speakers-0a1b2c3d.parquet", "table of speakers"),
        ("/o/ledger-0a1b2c3d.parquet", "ledger"),
        ("/o/metadata.json", "metadata"),
        ("metadata.json", "metadata"),
        ("/o/metadata-0a1b2c3d.json", ""),
        ("/speech/a.wav", ""),
    ],
)
def test_what_a_file_is_for(path: str, role: str):
    assert schema.role(path) == role
