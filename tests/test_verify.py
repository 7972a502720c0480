"""`verify` finds every kind of damage and names its place; `digest` and `compare` know equal datasets."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from pathlib import Path

import augmented
import google_crc32c
import jobs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_dataset import write_metadata
from synth import small_corpus, tone, write

from ge2e_transforms import schema
from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import compare, digest
from ge2e_transforms.errors import CorruptRecordError, DatasetError
from ge2e_transforms.planning import PlanConfig
from ge2e_transforms.records import decode_example, encode_record, read_records
from ge2e_transforms.verify import verify
from pipeline.commit import commit
from pipeline.tables import write_index

pytestmark = pytest.mark.usefixtures("unsynced")

RECIPE = Recipe().replace(n_mels=8)


def corpus(folder):
    """Five speakers, two of them in test; a missing file, a short one, a row without a speaker, an empty shard."""
    manifest = small_corpus(folder, speakers=5, seconds=1.2, test_speakers=2)
    write(folder / "short.wav", tone(300, 0.2), 16000)
    with manifest.open("a") as file:
        file.write("nowhere.wav,spk00,synth,s0,train\nshort.wav,spk02a,synth,s0,train\nx.wav,,synth,s0,train\n")
    return manifest


def make(manifest, output, recipe=RECIPE, **plan):
    job = jobs.job(output, manifest, recipe=recipe, max_rejected=1.0, plan=PlanConfig(**plan))
    planned = jobs.write_all(job)
    commit(job, planned.plan, planned.rejected)
    return output


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def made(manifest, tmp_path_factory):
    return make(manifest, tmp_path_factory.mktemp("made") / "dataset")


@pytest.fixture
def root(made, tmp_path):
    """A copy that may be spoilt."""
    return shutil.copytree(made, tmp_path / "copy")


def metadata_of(root):
    return json.loads((root / "metadata.json").read_text())


def fault(root, kind=DatasetError):
    with pytest.raises(kind) as error:
        verify(Dataset.open(root))
    return str(error.value)


def test_what_was_made_is_in_order(made):
    report = verify(Dataset.open(made))
    assert dict(report.shards) == {"train": 4, "test": 2}
    assert dict(report.records) == {"train": 9, "test": 6}
    sizes = {split: sum(path.stat().st_size for path in (made / split).glob("*.tfrecord")) for split in report.bytes}
    assert dict(report.bytes) == sizes
    assert metadata_of(made)["counts"] == {
        "rows": 18,
        "written": 15,
        "filtered": {"too_short": 1},
        "rejected": {"empty_speaker": 1, "missing": 1},
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"features": "raw", "crop_ms": 100},
        {"features": "mfcc", "n_mfcc": 5},
        {"dtype": "float16"},
        {"dtype": "float16", "segments": "windows", "crop_ms": 200},
        {"segments": "windows", "crop_ms": 200},
        {"max_part_s": 1, "crop_ms": 1000},
    ],
)
def test_every_form_is_in_order(manifest, tmp_path, changes):
    verify(Dataset.open(make(manifest, tmp_path / "dataset", RECIPE.replace(**changes))))


def test_speakers_in_parts_are_in_order(manifest, tmp_path):
    root = make(manifest, tmp_path / "dataset", shard_mib=8e-3)
    assert len(metadata_of(root)["shards"]["train"]) > 6
    verify(Dataset.open(root))


def test_without_a_train_split_there_are_no_statistics(tmp_path):
    manifest = small_corpus(tmp_path / "corpus", speakers=2, utterances=2, seconds=0.6, test_speakers=2)
    root = make(manifest, tmp_path / "dataset")
    assert metadata_of(root)["statistics"]["frames"] == 0
    verify(Dataset.open(root))


# Damage to files.

FILES = [
    "train/features-*-00001-of-*.tfrecord",
    "test/features-*-00000-of-*.index.parquet",
    "train/index-*.arrow",
    "speakers-*.parquet",
    "ledger-*.parquet",
]


@pytest.mark.parametrize("pattern", FILES)
def test_a_flipped_byte_is_found_and_its_file_named(root, pattern):
    (path,) = root.glob(pattern)
    content = path.read_bytes()
    for place in {0, 3, 5, 13, *range(0, len(content), len(content) // 23), len(content) - 9, len(content) - 1}:
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        assert fault(root).startswith(str(path)), place


def test_a_flipped_byte_in_a_record_is_found_with_its_offset(root):
    (path,) = root.glob("train/features-*-00001-of-*.tfrecord")
    content = path.read_bytes()
    with path.open("rb") as stream:
        offsets = [offset for offset, _ in read_records(stream, "x")]
    assert len(offsets) == 3
    for offset in offsets:
        damaged = bytearray(content)
        damaged[offset + 500] ^= 1
        path.write_bytes(damaged)
        assert fault(root, CorruptRecordError).startswith(f"{path} at offset {offset}: the checksum of the record")


@pytest.mark.parametrize("pattern", FILES)
def test_a_cut_a_longer_and_an_empty_file_are_found(root, pattern):
    (path,) = root.glob(pattern)
    content = path.read_bytes()
    for spoilt in (content[:-1], content[: len(content) // 2], content + b"\0", b""):
        path.write_bytes(spoilt)
        assert fault(root).startswith(str(path))


@pytest.mark.parametrize("pattern", FILES)
def test_a_missing_file_is_found(root, pattern):
    (path,) = root.glob(pattern)
    path.unlink()
    assert fault(root).startswith(f"{path} is missing")


def test_shards_that_changed_places_are_found(root):
    first, second = sorted(root.glob("train/*.tfrecord"))[:2]
    first.rename(root / "x")
    second.rename(first)
    (root / "x").rename(second)
    assert fault(root).startswith(f"{first}: sha256 is")


# Damage that carries good checksums: files that agree with metadata, but not with each other.


def checked(root, path):
    """Makes metadata agree with a file that was changed."""
    name, content = str(path.relative_to(root)), path.read_bytes()
    metadata, sha256 = metadata_of(root), hashlib.sha256(content).hexdigest()
    for entry in (*metadata["splits"].values(), {"index": metadata["speakers"]}, {"index": metadata["ledger"]}):
        if entry["index"]["path"] == name:
            entry["index"].update(bytes=len(content), sha256=sha256)
            if "crc32c" in entry["index"]:
                entry["index"]["crc32c"] = google_crc32c.value(content)
    for entry in (entry for entries in metadata["shards"].values() for entry in entries):
        for kind, file in zip(("records", "index"), schema.shard_files(entry["base"]), strict=False):
            if file == name:
                entry.update({f"{kind}_bytes": len(content), f"{kind}_sha256": sha256})
    write_metadata(root, metadata)


def change_table(root, pattern, change):
    """Rewrites a table, its rows as dicts, with good checksums; gives its path."""
    (path,) = root.glob(pattern)
    is_arrow = path.suffix == ".arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all() if is_arrow else pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    (write_index if is_arrow else pq.write_table)(pa.Table.from_pylist(rows, schema=table.schema), path)
    checked(root, path)
    return path


def change_records(root, pattern, change):
    """Rewrites the records of a shard, `change(number, values, fields)`, with good checksums; gives its path."""
    (path,) = root.glob(pattern)
    with path.open("rb") as stream:
        found = [decode_example(data, "x") for _, data in read_records(stream, "x")]
    made = [change(number, values.copy(), dict(fields)) for number, (values, fields) in enumerate(found)]
    path.write_bytes(b"".join(encode_record(values, fields)[0] for values, fields in made))
    checked(root, path)
    return path


def swap(name, first=0, second=-1):
    def change(rows):
        rows[first][name], rows[second][name] = rows[second][name], rows[first][name]

    return change


def put(name, value, row=0):
    def change(rows):
        rows[row][name] = value

    return change


def test_the_forgeries_below_start_from_something_good(root):
    for pattern in FILES[1:]:
        change_table(root, pattern, lambda rows: None)
    change_records(root, FILES[0], lambda number, values, fields: (values, fields))
    verify(Dataset.open(root))


@pytest.mark.parametrize(
    "name",
    [
        "label",
        "speaker_id",
        "utterance_id",
        "session_id",
        "source",
        "subset",
        "start",
        "samples",
        "offset",
        "length",
        "payload_offset",
        "frames",
    ],
)
def test_an_index_that_contradicts_its_records_is_found(root, name):
    (path,) = root.glob("train/features-*-00001-of-*.tfrecord")

    def change(rows):
        rows[1][name] = rows[1][name] + (1 if isinstance(rows[1][name], int) else "x")
        assert rows[1]["offset"]

    offset = pq.read_table(path.with_suffix(".index.parquet"))["offset"].to_pylist()[1]
    change_table(root, "train/features-*-00001-of-*.index.parquet", change)
    message = fault(root, CorruptRecordError)
    assert message.startswith(f"{path} at offset {offset}: the index says {name}=")


def test_two_hashes_of_one_utterance_are_found(manifest, tmp_path):
    root = make(manifest, tmp_path / "dataset", RECIPE.replace(segments="windows", crop_ms=300))
    verify(Dataset.open(root))
    pattern = "train/features-*-00001-of-*.index.parquet"

    def change(rows):
        assert rows[0]["utterance_id"] == rows[1]["utterance_id"]
        rows[1]["audio_hash"] += 1

    path = change_table(root, pattern, change)
    found = pq.read_table(path)["audio_hash"][0].as_py()
    assert f"{path}: audio_hash of row 1 is {found + 1}, of another record of the same utterance" in fault(root)


def test_two_swapped_labels_are_found(root):
    change_table(root, "speakers-*.parquet", swap("label"))
    message = fault(root)
    assert "at offset 0: speaker 'synth/spk00' has label 0 in split 'train' here, but (5, 'train')" in message


def test_a_speaker_in_two_splits_is_found(root):
    def double(rows):
        rows.append(rows[0] | {"label": 9, "split": "test"})

    path = change_table(root, "speakers-*.parquet", double)
    metadata = metadata_of(root)
    metadata["speakers"]["rows"] += 1
    write_metadata(root, metadata)
    assert fault(root) == f"{path}: speaker_id 'synth/spk00' stands more than once: splits are not disjoint"


def test_a_label_that_stands_twice_is_found(root):
    path = change_table(root, "speakers-*.parquet", put("label", 1))
    assert fault(root) == f"{path}: label 1 stands more than once: splits are not disjoint"


def test_a_speaker_of_another_split_is_found(root):
    change_table(root, "speakers-*.parquet", put("split", "test"))
    assert "speaker 'synth/spk00' has label 0 in split 'train' here, but (0, 'test')" in fault(root)


def test_a_speaker_who_is_not_listed_is_found(root):
    change_table(root, "speakers-*.parquet", put("speaker_id", "synth/someone"))
    assert "speaker 'synth/spk00' has label 0 in split 'train' here, but None" in fault(root)


def joined(root, split="train"):
    """The rows of the indexes of all shards of a split."""
    dataset = Dataset.open(root)
    return [
        row for number in range(len(dataset.shards(split))) for row in dataset.shard_index(split, number).to_pylist()
    ]


@pytest.mark.parametrize("row", [0, 4, 8])
@pytest.mark.parametrize("name", schema.SPLIT_COLUMNS)
def test_a_splits_index_that_contradicts_its_shards_is_found(root, name, row):
    value = joined(root)[row][name]
    path = change_table(root, "train/index-*.arrow", put(name, value + 1, row))
    expected = f"{path}: {name} of row {row} is {value + 1}, by the shards it is {value}"
    if name == "frames":  # they are added up when the index is opened
        expected = f"{path}: expected frames that add up to those of the shards in metadata.json"
    if (name, row) == ("offset", 0):  # a shard begins there: found when the index is opened
        expected = f"{path}: expected offset 0 in the first row of every shard, as metadata.json counts them"
    assert fault(root).startswith(expected)


@pytest.mark.parametrize("name", ["offset", "frames", "label", "utterance_index", "session_index"])
def test_two_swapped_values_of_a_splits_index_are_found(root, name):
    """Whose sums and counts stay as they are."""
    rows = joined(root)
    # Not in the first row of a shard, whose offset is looked at before.
    first = {0, *(place for place in range(1, 9) if rows[place]["offset"] < rows[place - 1]["offset"])}
    inner = [place for place in range(9) if place not in first]
    row, other = next((a, b) for a in inner for b in inner if b < a and rows[a][name] != rows[b][name])
    path = change_table(root, "train/index-*.arrow", swap(name, row, other))
    assert fault(root).startswith(f"{path}: {name} of row {other} is {rows[row][name]}, by the shards it is ")


@pytest.mark.parametrize(("first", "second"), [(0, 1), (2, 3), (0, -1)])
def test_two_swapped_rows_of_a_splits_index_are_found(root, first, second):
    """Of one shard, of two shards, of the first and the last."""

    def change(rows):
        rows[first], rows[second] = rows[second], rows[first]

    path = change_table(root, "train/index-*.arrow", change)
    assert fault(root).startswith(f"{path}: ")


@pytest.mark.parametrize("change", [list.pop, lambda rows: rows.append(rows[-1])])
def test_a_splits_index_with_a_row_less_or_more_is_found(root, change):
    path = change_table(root, "train/index-*.arrow", change)
    assert fault(root).startswith(f"{path}: expected 9 rows of offset, ")


@pytest.mark.parametrize(
    ("split", "losing", "gaining"),
    [("train", 0, 1), ("train", 1, 0), ("train", 0, 2), ("train", 2, 3), ("test", 0, 1), ("test", 1, 0)],
)
def test_records_that_metadata_counts_to_another_shard_are_found(root, split, losing, gaining):
    """The shard of a record and the places of its values follow from these counts."""
    metadata = metadata_of(root)
    entries = metadata["shards"][split]
    entries[losing]["records"] -= 1
    entries[gaining]["records"] += 1
    metadata["files"] = [
        schema.shard_files(entry["base"])[0]
        for entries in metadata["shards"].values()
        for entry in entries
        if entry["records"]
    ]
    metadata["files_created"] = len(metadata["files"])
    write_metadata(root, metadata)
    with pytest.raises(DatasetError, match="expected offset 0 in the first row of every shard"):
        Dataset.open(root).index(split)  # so that no loader reads other records than it thinks
    first = min(losing, gaining)
    base = entries[first]["base"]
    counted = entries[first]["records"]
    expected = f"{root / schema.shard_files(base)[1]}: expected {counted} rows, got 3: the file is damaged"
    assert fault(root) == expected


@pytest.mark.parametrize("name", ["utterance_index", "session_index"])
def test_numbers_that_begin_anew_in_each_shard_are_found(manifest, tmp_path, name):
    """Where a speaker lies in several shards, these numbers are those of the split."""
    root = make(manifest, tmp_path / "dataset", shard_mib=8e-3)
    rows, numbers = joined(root), Dataset.open(root).index("train")[name].tolist()  # the file is mapped
    place = next(row for row in range(len(rows)) if rows[row][name] != numbers[row])
    expected = f"index-.*: {name} of row {place} is {rows[place][name]}, by the shards it is {numbers[place]}"
    change_table(root, "train/index-*.arrow", put(name, rows[place][name], place))
    with pytest.raises(DatasetError, match=expected):
        verify(Dataset.open(root))

    def begin_anew(own):
        for row, shards in zip(own, rows, strict=True):
            row[name] = shards[name]

    change_table(root, "train/index-*.arrow", begin_anew)
    with pytest.raises(DatasetError, match=expected):
        verify(Dataset.open(root))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_found(root, value):
    def spoil(number, values, fields):
        if number == 2:
            values[7, 3] = value
        return values, fields

    path = change_records(root, FILES[0], spoil)
    message = fault(root, CorruptRecordError)
    assert message.startswith(f"{path} at offset ")
    assert message.endswith(f"value {value} at [frame, bin] [7, 3] is not finite")


def test_other_values_are_found_by_the_statistics(root):
    change_records(root, FILES[0], lambda number, values, fields: (values + np.float32(1e-3), fields))
    assert "the index says mean " in fault(root, CorruptRecordError)

    def agreeing(rows):
        for row in rows:
            row["mean"] = [value + 1e-3 for value in row["mean"]]

    change_table(root, FILES[0].replace("tfrecord", "index.parquet"), agreeing)
    assert "mean of the statistics does not agree with the records of the train split" in fault(root)


def test_rows_of_another_width_are_found(root):
    path = change_records(root, FILES[0], lambda number, values, fields: (values.reshape(-1, 4), fields))
    assert f"{path} at offset 0: the index says " in fault(root, CorruptRecordError)
    with path.open("rb") as stream:
        found = [(offset, len(data), len(decode_example(data, "x")[0])) for offset, data in read_records(stream, "x")]

    def follow(rows):
        for row, (offset, length, frames) in zip(rows, found, strict=True):
            row |= {"offset": offset, "length": length + 16, "frames": frames}
            row["payload_offset"] = offset + 12 + length - 16 * frames

    change_table(root, "train/features-*-00001-of-*.index.parquet", follow)
    assert fault(root, CorruptRecordError) == f"{path} at offset 0: expected 8 bins of float32, got 4 bins of float32"


@pytest.fixture(scope="module")
def made_of_halves(manifest, tmp_path_factory):
    return make(manifest, tmp_path_factory.mktemp("halves") / "dataset", RECIPE.replace(dtype="float16"))


@pytest.fixture
def halves(made_of_halves, tmp_path):
    return shutil.copytree(made_of_halves, tmp_path / "copy")


def test_records_of_another_type_are_found(halves):
    """As long, and with the same key."""
    path = change_records(halves, FILES[0], lambda number, values, fields: (values.view(np.int16), fields))
    # One letter less in the name of the type; the index is made to follow.
    with path.open("rb") as stream:
        found = [(offset, len(data)) for offset, data in read_records(stream, "x")]

    def follow(rows):
        for row, (offset, length) in zip(rows, found, strict=True):
            row |= {"offset": offset, "length": length + 16}
            row["payload_offset"] = offset + 12 + length - 16 * row["frames"]

    change_table(halves, "train/features-*-00001-of-*.index.parquet", follow)
    assert fault(halves, CorruptRecordError) == f"{path} at offset 0: expected 8 bins of float16, got 8 bins of int16"


def test_what_is_wrong_with_halves_is_found(halves):
    pattern = FILES[0]
    (path,) = halves.glob(pattern)
    content = path.read_bytes()
    path.write_bytes(content[:-30] + bytes([content[-30] ^ 1]) + content[-29:])
    assert "the checksum of the record does not match" in fault(halves, CorruptRecordError)
    path.write_bytes(content)

    def spoil(number, values, fields):
        values[3, 2] = np.inf
        return values, fields

    change_records(halves, pattern, spoil)
    assert "at offset 0: value inf at [frame, bin] [3, 2] is not finite" in fault(halves, CorruptRecordError)


def test_a_ledger_of_other_reasons_is_found(root):
    change_table(root, "ledger-*.parquet", put("reason", "corrupt"))
    assert "metadata counts rejected" in fault(root)


# Damage to metadata.

# What only tells where the data came from; nothing in the folder could contradict it.
TOLD = {"versions", "cpus", "edition", "token", "replaced", "manifests", "plan", "generation", "datasets"}
TOLD |= {"split_rule", "next_label"}


def numbers(value, path=()):
    """Places of all numbers of a JSON value, lists after their third entry left out."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from numbers(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value[:3]):
            yield from numbers(inner, (*path, number))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path


def changed(metadata, path, change):
    made = copy.deepcopy(metadata)
    inner = made
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = change(inner[path[-1]])
    return made


def test_every_changed_number_of_metadata_is_found(root):
    metadata = metadata_of(root)
    places = [path for path in numbers(metadata) if path[0] not in TOLD and path[-1] != "seconds"]
    assert len(places) > 80
    for path in [*places, ("manifests", 0, "rows")]:
        made = changed(metadata, path, lambda value: value + 1)
        write_metadata(root, made)
        with pytest.raises(Exception) as error:
            verify(Dataset.open(root))
        assert isinstance(error.value, (DatasetError, ValueError)), path
        assert type(error.value).__module__ == "ge2e_transforms.errors", path


@pytest.mark.parametrize(
    "path",
    [
        ("fingerprint",),
        ("features",),
        ("segments",),
        ("dtype",),
        ("files", 0),
        ("splits", "train", "index", "path"),
        ("speakers", "path"),
        ("ledger", "sha256"),
        ("shards", "test", 0, "base"),
        ("shards", "test", 0, "records_sha256"),
    ],
)
def test_every_changed_text_of_metadata_is_found(root, path):
    made = changed(metadata_of(root), path, lambda text: text[:-1] + ("1" if text[-1] == "0" else "0"))
    write_metadata(root, made)
    assert fault(root)


def test_metadata_without_what_verify_needs_is_refused(root):
    metadata = metadata_of(root)
    for name in set(metadata) - TOLD - {"format", "format_version", "checksum"} | {"manifests"}:
        write_metadata(root, {key: value for key, value in metadata.items() if key != name})
        assert name in fault(root)


@pytest.mark.parametrize("history", [[], [{"kind": "run", "generation": "00000000", "content": ""}]])
def test_a_history_that_does_not_lead_to_the_generation_is_found(root, history):
    """Without any step it was an IndexError."""
    write_metadata(root, metadata_of(root) | {"history": history})
    assert "metadata.json: expected generation to be [" in fault(root)


def test_a_shard_that_metadata_leaves_out_is_found(root):
    metadata = metadata_of(root)
    del metadata["shards"]["train"][1]
    write_metadata(root, metadata)
    assert "metadata.json: expected 6, the records of the shards at /splits/train/index/rows, got 9" in fault(root)
    metadata["splits"]["train"]["index"]["rows"] = 6
    write_metadata(root, metadata)
    assert "metadata.json: expected files to be " in fault(root)


# Digest and comparison.


def test_the_digest_does_not_know_the_run(manifest, made, tmp_path):
    """Another folder, another place of the corpus, the rows in another order: another generation, one digest."""
    moved = shutil.copytree(manifest.parent, tmp_path / "elsewhere") / "manifest.csv"
    header, *rows = moved.read_text().splitlines(keepends=True)
    moved.write_text(header + "".join(reversed(rows)))
    other = make(moved, tmp_path / "other")
    assert metadata_of(other)["generation"] != metadata_of(made)["generation"]
    assert digest(Dataset.open(other)) == digest(Dataset.open(made))
    assert len(digest(Dataset.open(made))) == 64
    assert compare(Dataset.open(other), Dataset.open(made)) == 0.0


def test_the_digest_does_not_know_versions_or_proposals(root, made):
    metadata = metadata_of(root)
    metadata |= {"versions": {}, "generation": "00000000", "manifests": []}
    write_metadata(root, metadata)
    assert digest(Dataset.open(root)) == digest(Dataset.open(made))


def test_the_digest_knows_the_content(root, made, manifest, tmp_path):
    before = digest(Dataset.open(made))
    assert digest(Dataset.open(make(manifest, tmp_path / "1", RECIPE.replace(top_db=31)))) != before
    assert digest(Dataset.open(make(manifest, tmp_path / "2", min_shards=1))) != before
    change_records(root, FILES[0], lambda number, values, fields: (np.nextafter(values, np.float32(0)), fields))
    assert digest(Dataset.open(root)) != before


def test_comparison_gives_the_largest_difference(root, made):
    def nudge(number, values, fields):
        if number == 1:
            values[5, 2] += np.float32(0.25)
        return values, fields

    assert compare(Dataset.open(root), Dataset.open(made)) == 0.0
    change_records(root, FILES[0], nudge)
    found = compare(Dataset.open(root), Dataset.open(made))
    assert found == pytest.approx(0.25, abs=1e-6)
    assert compare(Dataset.open(made), Dataset.open(root)) == found


def test_comparison_of_halves_allows_for_one_step_of_rounding(halves, made_of_halves):
    def nudge(number, values, fields):
        if number == 1:
            values[5, 2] = np.nextafter(values[5, 2], np.float16(9))
            values[6, 3] = np.nextafter(np.nextafter(values[6, 3], np.float16(-9)), np.float16(-9))
        return values, fields

    assert compare(Dataset.open(halves), Dataset.open(made_of_halves)) == 0.0
    change_records(halves, FILES[0], nudge)
    found = compare(Dataset.open(halves), Dataset.open(made_of_halves))
    assert found == compare(Dataset.open(made_of_halves), Dataset.open(halves))
    assert 2**-10 <= found <= 2**-8  # one of the two steps of the other value, which is in [2, 8)


def test_comparison_does_not_lose_what_is_no_number(root, made):
    change_records(root, FILES[0], lambda number, values, fields: (values * np.float32(np.nan), fields))
    assert np.isnan(compare(Dataset.open(root), Dataset.open(made)))


def test_comparison_looks_past_the_cuts_between_shards(manifest, made, tmp_path):
    other = make(manifest, tmp_path / "other", min_shards=1)
    assert len(metadata_of(other)["files"]) < len(metadata_of(made)["files"])
    assert compare(Dataset.open(other), Dataset.open(made)) == 0.0


def test_comparison_refuses_what_cannot_be_compared(root, made, manifest, tmp_path):
    original = Dataset.open(made)
    other = make(manifest, tmp_path / "1", PRESETS["seed"])
    with pytest.raises(DatasetError, match="were made by different recipes"):
        compare(original, Dataset.open(other))
    fewer = manifest.parent / "fewer.csv"
    rows = manifest.read_text().splitlines(keepends=True)
    fewer.write_text("".join(rows[:3] + rows[4:]))
    with pytest.raises(DatasetError, match=r"holds \('synth/spk00', .*utt02.wav.* holds .*utt01|holds .*spk00"):
        compare(original, Dataset.open(make(fewer, tmp_path / "2")))
    fewer.write_text("".join(row for row in rows if not row.rstrip().endswith("test")))
    with pytest.raises(DatasetError, match=r"has splits \['train', 'test'\], .* \['train'\]"):
        compare(original, Dataset.open(make(fewer, tmp_path / "3")))
    fewer.write_text("".join(row for row in rows if "spk04/utt02" not in row))
    with pytest.raises(DatasetError, match=r"split 'test': 6 records in .*, 5 in"):
        compare(original, Dataset.open(make(fewer, tmp_path / "4")))


# What fuzzing found.


@pytest.mark.parametrize("pattern", FILES)
def test_a_hole_of_any_length_is_not_read(root, pattern):
    """A file that had grown to 1 TiB was read to its end before it was found to be another one."""
    (path,) = root.glob(pattern)
    size = path.stat().st_size
    os.truncate(path, 1 << 40)
    assert fault(root).startswith(f"{path}: expected {size} bytes, got {1 << 40}")


def test_a_recipe_that_leaves_a_default_out_is_found(root):
    metadata = metadata_of(root)
    del metadata["recipe"]["feature"]["pad_mode"]
    write_metadata(root, metadata)
    assert "metadata.json: expected recipe to be " in fault(root)


@pytest.mark.parametrize("name", ["mean", "deviation"])
@pytest.mark.parametrize("change", [0.01, float("nan")])
def test_figures_that_are_not_those_of_the_record_are_found(root, name, change):
    """Readers normalise by them: an index with good checksums and other figures passed."""

    def other(rows):
        rows[1][name][3] += change

    change_table(root, "train/features-*-00001-of-*.index.parquet", other)
    assert f"the index says {name} " in fault(root, CorruptRecordError)


@pytest.mark.parametrize("datasets", [["other"], [], ["synth", "synth"]])
def test_sources_that_are_not_those_of_the_rows_are_found(root, datasets):
    """The index holds their numbers; `sources=` of a loader chose other recordings than were asked for."""
    metadata = metadata_of(root)
    assert metadata["datasets"] == ["synth"]
    metadata["datasets"] = datasets
    write_metadata(root, metadata)
    assert "atasets" in fault(root)


@pytest.mark.parametrize("name", ["records_sha256", "index_sha256"])
def test_an_empty_shard_has_the_checksum_of_nothing(root, name):
    metadata = metadata_of(root)
    assert not metadata["shards"]["train"][3]["records"]
    metadata["shards"]["train"][3][name] = "0" * 64
    write_metadata(root, metadata)
    assert "to have the sha256 of no bytes" in fault(root)


def test_seconds_that_are_not_those_of_the_frames_are_found(root):
    metadata = metadata_of(root)
    metadata["splits"]["train"]["seconds"] += 0.01
    write_metadata(root, metadata)
    assert "metadata.json: expected seconds of train to be " in fault(root)


def test_statistics_of_another_split_are_found(root):
    metadata = metadata_of(root)
    metadata["statistics"]["split"] = "test"
    write_metadata(root, metadata)
    assert "expected split of the statistics to be 'train', got 'test'" in fault(root)


def test_a_record_without_one_of_its_fields_is_found(root):
    """It was a KeyError."""

    def change(number, values, fields):
        fields.pop(schema.KEY_SPEAKER)
        return values, fields

    assert "speaker_id='synth/spk01', the record 'missing'" in fault_of_records(root, change)


def fault_of_records(root, change):
    """The first fault of a shard whose records have other fields, in places that its index knows."""
    (path,) = root.glob("train/features-*-00001-of-*.tfrecord")
    (index,) = root.glob("train/features-*-00001-of-*.index.parquet")
    change_records(root, "train/features-*-00001-of-*.tfrecord", change)
    offsets, lengths = [], []
    with path.open("rb") as stream:
        for offset, data in read_records(stream, "x"):
            offsets.append(offset)
            lengths.append(len(data) + 16)
    rows = pq.read_table(index).to_pylist()
    frames = [row["frames"] * 8 * 4 for row in rows]
    ends = [offset + length for offset, length in zip(offsets, lengths, strict=True)]

    def place(rows):
        for row, offset, length, end, size in zip(rows, offsets, lengths, ends, frames, strict=True):
            row.update(offset=offset, length=length, payload_offset=end - 4 - size)

    change_table(root, "train/features-*-00001-of-*.index.parquet", place)
    return fault(root)


def test_datasets_that_were_augmented_otherwise_are_not_compared(augmented_dataset: Dataset, tmp_path: Path) -> None:
    manifest = augmented_dataset.metadata["manifests"][0]["path"]
    sounds = Path(augmented_dataset.metadata["augmentation"]["config"]["noise"]["manifest"]).parent
    same = augmented.write(tmp_path / "same", Path(manifest), sounds / "augment.yaml")
    assert digest(same) == digest(augmented_dataset) and compare(same, augmented_dataset) == 0.0
    (tmp_path / "augment.yaml").write_text("codec: {codecs: [telephone]}")
    other = augmented.write(tmp_path / "other", Path(manifest), tmp_path / "augment.yaml")
    with pytest.raises(DatasetError, match=r"were augmented otherwise \(fingerprints [0-9a-f]{8} and [0-9a-f]{8}\)"):
        compare(same, other)
