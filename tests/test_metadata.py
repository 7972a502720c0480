"""metadata.json: what no writer gives is refused by name before it is used, and no name leads out of the folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_dataset import speakers, write_dataset, write_metadata

from ge2e_transforms import metadata, schema
from ge2e_transforms.config import PRESETS
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import DatasetError
from ge2e_transforms.loader import BatchLoader

FILE = schema.METADATA_FILE


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = {"train": speakers("a", 4, 0, 3), "test": speakers("b", 2, 20, 3)}
    return write_dataset(tmp_path_factory.mktemp("made") / "dataset", splits, shards=3)


def content_of(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / FILE).read_text())
    return found


def changed(root: Path, path: str, value: object) -> dict[str, Any]:
    """The metadata with another value at a path such as '/shards/train/0/records'; `...` takes it away."""
    found = content_of(root)
    *parents, last = [int(name) if name.isdigit() else name for name in path[1:].split("/")]
    holder: Any = found
    for name in parents:
        holder = holder[name]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return found


def parse(found: object) -> dict[str, Any]:
    return metadata.parse(json.dumps(found).encode(), "here")


def test_what_a_writer_gives_is_taken_as_it_is(made: Path) -> None:
    assert parse(content_of(made)) == content_of(made)


def test_unknown_keys_are_left_alone_wherever_they_are(made: Path) -> None:
    found = content_of(made)
    found["later"] = [{"at": None}]
    found["shards"]["train"][0]["labels"] = [0, 7]
    found["splits"]["train"]["new"] = float("nan")
    found["checksum"] = metadata.checksum_of(found)
    assert str(parse(found)) == str(found)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/speakers_per_batch", 5),
        ("/split_rule", {"salt": "other", "test_below": 0, "valid_below": 0}),
        ("/history", []),
        ("/later", 1),
        ("/plan/test_speakers", 7),
        ("/checksum", "0" * 64),
    ],
)
def test_values_that_a_writer_might_give_are_told_by_the_checksum(made: Path, path: str, value: object) -> None:
    """Of some of them nothing else could tell that they are damaged."""
    with pytest.raises(DatasetError, match="here: the checksum in it is of other values"):
        parse(changed(made, path, value))


def test_values_nested_as_deeply_as_json_can_be_read_are_an_error_by_name(made: Path) -> None:
    """Written for the checksum they were a RecursionError."""
    told = set()
    for depth in range(900, 1010):
        text = json.dumps(content_of(made))[:-1] + ', "later": ' + "[" * depth + "]" * depth + "}"
        with pytest.raises(DatasetError) as error:
            metadata.parse(text.encode(), "here")
        told.add(str(error.value).partition(":")[2][:20])
    assert " values are nested t" in told


def test_the_checksum_is_of_values_and_not_of_their_text(made: Path) -> None:
    found = dict(reversed(content_of(made).items()))
    assert metadata.parse(json.dumps(found, indent=3, ensure_ascii=False).encode(), "here") == content_of(made)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("/dtype", "float64", "expected one of float32, float16, pcm16 at /dtype, got 'float64'"),
        ("/dtype", ["float32"], "expected one of float32, float16, pcm16 at /dtype, got"),
        ("/feature_shape", [40], "expected [bins, frames] at /feature_shape, got [40]"),
        ("/feature_shape/0", True, "expected an integer from 1 to 2147483647 at /feature_shape/0, got True"),
        ("/feature_shape/1", 121.0, "at /feature_shape/1, got 121.0"),
        ("/feature_shape/1", 0, "at /feature_shape/1, got 0"),
        ("/speakers_per_batch", "4", "at /speakers_per_batch, got '4'"),
        ("/utterances_per_speaker", 2**31, "at /utterances_per_speaker, got 2147483648"),
        ("/utterances_per_speaker", ..., "utterances_per_speaker missing"),
        ("/shards/train/0/records", -1, "at /shards/train/0/records, got -1"),
        ("/shards/train/0/records", 10**30, "at /shards/train/0/records, got 1000"),
        ("/shards/train/0/records", [], "at /shards/train/0/records, got []"),
        ("/shards/train/0/frames", 1e3, "at /shards/train/0/frames, got 1000.0"),
        ("/shards/train/0/records_bytes", None, "at /shards/train/0/records_bytes, got None"),
        ("/shards/train/0/index_bytes", ..., "index_bytes missing at /shards/train/0"),
        ("/shards/train/0", [], "expected an object at /shards/train/0, got []"),
        ("/shards/train", {}, "expected a list at /shards/train, got {}"),
        ("/shards", [], "expected an object at /shards, got []"),
        ("/shards/test", ..., "expected the splits ['test', 'train'] at /shards, got ['train']"),
        ("/splits/test", ..., "expected the splits ['train'] at /shards, got ['test', 'train']"),
        ("/splits/train/index/crc32c", 2**32, "an integer from 0 to 4294967295 at /splits/train/index/crc32c"),
        ("/splits/train/index/sha256", ..., "sha256 missing at /splits/train/index"),
        ("/splits/train/index/sha256", "0" * 63, "expected a sha256 of 64 hex digits at /splits/train/index/sha256"),
        ("/speakers/rows", 1.5, "at /speakers/rows, got 1.5"),
        ("/speakers/sha256", "0" * 64 + "\n", "expected a sha256 of 64 hex digits at /speakers/sha256"),
        ("/statistics/frames", False, "at /statistics/frames, got False"),
        ("/statistics/mean/3", float("nan"), "expected a number at /statistics/mean/3, got nan"),
        ("/statistics/mean/3", 10**400, "expected a number at /statistics/mean/3, got 1000"),
        ("/statistics/std/3", float("inf"), "expected a number from 0 on at /statistics/std/3, got inf"),
        ("/statistics/std/3", -0.5, "expected a number from 0 on at /statistics/std/3, got -0.5"),
        ("/statistics/std/39", ..., "expected 40 numbers at /statistics/std, got ["),
        ("/recipe", [], "expected an object at /recipe, got []"),
        ("/recipe/audio", 3, "expected an object at /recipe/audio, got 3"),
        ("/datasets/0", "\ud800", "expected text at /datasets/0, got '\\ud800'"),
        ("/format_version", [[]], "expected format version"),
        ("/format", "\ud800", "expected format 'ge2e-features', got '\\ud800'"),
    ],
)
def test_a_value_of_another_type_or_range_is_named(made: Path, path: str, value: object, told: str) -> None:
    with pytest.raises(DatasetError) as error:
        parse(changed(made, path, value))
    assert str(error.value).startswith("here: ")
    assert told in str(error.value)
    str(error.value).encode()  # can be printed


def test_each_key_that_readers_need_is_missed(made: Path) -> None:
    for name in metadata.METADATA.needed:
        with pytest.raises(DatasetError, match=f"{name} missing: the file is damaged"):
            parse(changed(made, f"/{name}", ...))


def test_what_only_verify_and_inspect_need_is_missed_by_these(made: Path) -> None:
    found = parse(content_of(made))
    with pytest.raises(DatasetError, match=r"here: counts, .*, token missing: the file is damaged"):
        metadata.require_complete(found, "here")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, '"' + "x" * 99, "nul"])
def test_what_is_no_json_is_told_however_deep_or_long(made: Path, text: str) -> None:
    content = json.dumps(changed(made, "/dtype", "@")).replace('"@"', text)
    with pytest.raises(DatasetError, match="here is not JSON"):
        metadata.parse(content.encode(), "here")


def test_numbers_beyond_all_are_no_numbers(made: Path) -> None:
    content = json.dumps(changed(made, "/statistics/mean/0", "@")).replace('"@"', "1e999")
    with pytest.raises(DatasetError, match="expected a number at /statistics/mean/0, got inf"):
        metadata.parse(content.encode(), "here")


def test_a_shard_that_is_not_listed_is_missed(made: Path) -> None:
    """Whole utterances are read from the shards alone: without a word there were fewer of them."""
    with pytest.raises(DatasetError, match=r"expected 3, the records of the shards at /splits/test/index/rows, got 6"):
        parse(changed(made, "/shards/test/0", ...))


def test_a_shard_without_records_has_no_bytes(made: Path) -> None:
    found = content_of(made)
    entry = found["shards"]["test"][2]
    assert not entry["records"]
    entry["records_bytes"] = 1 << 40
    with pytest.raises(DatasetError, match=r"at /shards/test/2, got .*'records_bytes': 1099511627776"):
        parse(found)


# Names.

OUTSIDE: dict[str, Callable[[str], str]] = {
    "above": lambda name: f"../{name}",
    "above and back": lambda name: f"train/../../{name}",
    "absolute": lambda name: f"/etc/{name}",
    "URL": lambda name: f"s3://bucket/{name}",
    "NUL": lambda name: f"{name}\0",
    "newline": lambda name: f"{name}\n",
    "backslash": lambda name: f"..\\{name}",
    "double slash": lambda name: name.replace("/", "//") if "/" in name else f"/{name}",
    "here": lambda name: f"./{name}",
    "device": lambda name: "/dev/zero",
    "metadata": lambda name: FILE,
}


@pytest.mark.parametrize("where", OUTSIDE)
@pytest.mark.parametrize("path", ["/speakers/path", "/splits/train/index/path", "/shards/train/0/base"])
def test_no_name_leads_out_of_the_folder(made: Path, tmp_path: Path, path: str, where: str) -> None:
    found = content_of(made)
    named = {
        "/speakers/path": found["speakers"]["path"],
        "/splits/train/index/path": found["splits"]["train"]["index"]["path"],
        "/shards/train/0/base": found["shards"]["train"][0]["base"],
    }[path]
    with pytest.raises(DatasetError, match=f"expected .* at {path}, got "):
        parse(changed(made, path, OUTSIDE[where](named)))


def test_a_shard_beside_the_folder_is_not_read_although_it_is_right(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "a" / "dataset")
    shutil.copytree(made / "train", tmp_path / "a" / "train")
    assert len(list(BatchLoader(root, 2, 2, 20, speakers="proportional").batches())) > 1
    base = content_of(root)["shards"]["train"][0]["base"]
    write_metadata(root, changed(root, "/shards/train/0/base", f"../{base}"))
    assert (root / f"../{base}.tfrecord").exists()
    with pytest.raises(DatasetError, match="a name that `ge2e run` gives to such a file, within the folder"):
        BatchLoader(root, 2, 2, 20)


def test_a_split_name_becomes_no_path(made: Path) -> None:
    found = content_of(made)
    for part in ("splits", "shards"):
        found[part]["../x"] = found[part].pop("test")
    with pytest.raises(DatasetError, match=r"expected names as a writer gives at /shards, got '../x'"):
        parse(found)


def test_files_of_one_split_do_not_serve_another_and_none_serves_twice(made: Path) -> None:
    other = content_of(made)["shards"]["test"][0]["base"]
    with pytest.raises(
        DatasetError, match="expected a shard in train/ that stands nowhere else at /shards/train/0/base"
    ):
        parse(changed(made, "/shards/train/0/base", other))
    same = content_of(made)["shards"]["train"][1]["base"]
    with pytest.raises(DatasetError, match="stands nowhere else at /shards/train/1/base"):
        parse(changed(made, "/shards/train/0/base", same))


# Opening.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("feature_shape", [41, 121]),
        ("dtype", "pcm16"),
        ("dtype", "float16"),
        ("segments", "windows"),
        ("feature_shape", [40, 1]),
    ],
)
def test_what_contradicts_the_recipe_is_refused(made: Path, tmp_path: Path, name: str, value: object) -> None:
    """A wrong width or type would take other bytes for values."""
    root = shutil.copytree(made, tmp_path / "copy")
    found = changed(root, f"/{name}", value)
    if value == [41, 121]:
        found["statistics"] |= {key: [*found["statistics"][key], 1.0] for key in ("mean", "std")}
    write_metadata(root, found)
    with pytest.raises(DatasetError, match=f"expected {name} to be .*, as by the recipe, got "):
        Dataset.open(root)


def test_a_file_of_any_length_is_not_read(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"{}")
    os.truncate(tmp_path / FILE, 1 << 40)
    with pytest.raises(
        DatasetError, match=f"expected at most {metadata.MAX_BYTES} bytes, got {1 << 40}: not one of ours"
    ):
        Dataset.open(tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / FILE)
    with pytest.raises(DatasetError, match="no complete dataset at"):
        Dataset.open(tmp_path)


def test_a_raw_dataset_passes(tmp_path: Path) -> None:
    recipe = PRESETS["ge2e"].replace(features="raw", sample_rate_hz=1000, crop_ms=50)
    root = write_dataset(tmp_path, {"train": {"a": [[np.ones((60, 1), np.int16)]]}}, recipe, shards=1)
    assert Dataset.open(root).metadata["dtype"] == "pcm16"
