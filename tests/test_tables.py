"""What commit publishes beside the shards, from small tables written out here."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ge2e_transforms import schema
from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import LedgerRow
from pipeline import tables

RECIPE = Recipe()
Row = tuple[int, str, int, int, str, int]


def shard(*rows: Row) -> pa.Table:
    """Index of a shard: (label, speaker, utterance_index, session_index, session, frames) per record."""
    names = ("label", "speaker_id", "utterance_index", "session_index", "session_id", "frames")
    columns: dict[str, Any] = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    count = len(rows)
    columns["source"] = ["corpus"] * count
    for name in schema.SAMPLER_COLUMNS:
        columns.setdefault(name, [0] * count)
    columns["offset"] = list(range(0, 100 * count, 100))
    wide = ("offset", "length", "payload_offset")
    kinds = {name: pa.int64() if name in wide else pa.int32() for name in schema.SAMPLER_COLUMNS}
    return pa.table({name: pa.array(columns[name], kinds.get(name, pa.string())) for name in tables.SHARD_COLUMNS})


def index_of(*shards: pa.Table | None) -> dict[str, list[int]]:
    index, _ = tables.split_tables(shards, "train", RECIPE)
    return {name: index[name].to_pylist() for name in index.column_names}


def test_index_of_a_split_holds_the_records_of_its_shards_in_order() -> None:
    first = shard((0, "a", 0, 0, "x", 130), (0, "a", 1, 1, "y", 140))
    second = shard((1, "b", 0, 0, "x", 150))
    index, speakers = tables.split_tables([first, None, second], "train", RECIPE)
    assert index.schema == schema.split_index_schema()
    assert index.to_pydict() == {
        **{"offset": [0, 100, 0], "frames": [130, 140, 150], "label": [0, 0, 1], "utterance_index": [0, 1, 0]},
        **{"session_index": [0, 1, 0], "source_index": [0, 0, 0], "flags": [0, 0, 0]},
    }
    assert speakers.schema == schema.speakers_schema()
    assert speakers.to_pylist() == [
        {
            **{"speaker_id": "a", "label": 0, "split": "train", "source": "corpus"},
            **{"utterances": 2, "sessions": 2, "frames": 270, "seconds": 2.68},
        },
        {
            **{"speaker_id": "b", "label": 1, "split": "train", "source": "corpus"},
            **{"utterances": 1, "sessions": 1, "frames": 150, "seconds": 1.49},
        },
    ]


@pytest.mark.parametrize("shards", [[], [None], [None, None]])
def test_a_split_without_records_has_empty_tables(shards: list[None]) -> None:
    index, speakers = tables.split_tables(shards, "test", RECIPE)
    assert (len(index), len(speakers)) == (0, 0)
    assert (index.schema, speakers.schema) == (schema.split_index_schema(), schema.speakers_schema())


@pytest.mark.parametrize("records", [0, 1, 3, 70_000])
def test_the_index_is_written_as_one_plain_batch(records: int, tmp_path: Path) -> None:
    """Readers map it into memory as it is: nothing to uncompress, and each column in one piece."""
    rows = [(number, "a", number % 7, 0, "x", 130 + number) for number in range(records)]
    parts = [shard(*part) if part else None for part in (rows[: records // 2], [], rows[records // 2 :])]
    index, _ = tables.split_tables(parts, "train", RECIPE)
    tables.write_index(index, tmp_path / "x.arrow")
    with pa.memory_map(str(tmp_path / "x.arrow")) as source:
        gc.collect()  # what earlier tests left may else be given back meanwhile
        before = pa.total_allocated_bytes()
        reader = pa.ipc.open_file(source)
        read = reader.read_all()
        assert pa.total_allocated_bytes() <= before
        assert reader.num_record_batches == min(records, 1)
        assert read.schema == schema.split_index_schema()
        assert read.equals(index)
        assert len(read) == records
        assert source.size() >= records * (8 + 5 * 4 + 1)


def test_the_same_index_gives_the_same_file(tmp_path: Path) -> None:
    """Also when its shards were cut otherwise in memory."""
    one, two = shard((0, "a", 0, 0, "x", 130), (1, "b", 0, 0, "y", 140)), shard((2, "c", 0, 0, "x", 150))
    cut = pa.concat_tables([one.slice(0, 1), one.slice(1)])
    for name, parts in (("whole", [one, two]), ("cut", [cut, two])):
        tables.write_index(tables.split_tables(parts, "train", RECIPE)[0], tmp_path / name)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "cut").read_bytes()


def test_flags_that_do_not_fit_are_refused_rather_than_cut() -> None:
    table = shard((0, "a", 0, 0, "x", 130))
    wrong = table.set_column(table.column_names.index("flags"), "flags", pa.array([256], pa.int32()))
    with pytest.raises(pa.ArrowInvalid, match="256"):
        tables.split_tables([wrong], "train", RECIPE)


def test_shards_are_taken_one_after_the_other_and_their_text_is_let_go() -> None:
    """Text of all shards at once is most of what Commit held in memory, and grew with the data."""
    text = "x" * 10_000

    def shards() -> Iterator[pa.Table]:
        for label in range(50):
            taken.append(pa.total_allocated_bytes())
            yield shard(*((label, f"{label}{text}", number, 0, "s", 130) for number in range(20)))

    taken: list[int] = []
    index, speakers = tables.split_tables(shards(), "train", RECIPE)
    assert (len(index), len(speakers)) == (1000, 50)
    assert max(taken) - taken[0] < 10 * 20 * len(text)  # of 50 shards


def test_numbers_of_a_speaker_in_one_shard_stay() -> None:
    found = index_of(shard((0, "a", 0, 0, "x", 130), (0, "a", 0, 0, "x", 130), (0, "a", 1, 1, "y", 130)))
    assert found["utterance_index"] == [0, 0, 1]  # two records of one utterance
    assert found["session_index"] == [0, 0, 1]


def test_a_speaker_in_several_shards_is_numbered_through() -> None:
    first = shard((4, "z", 0, 0, "x", 130), (5, "a", 0, 0, "s2", 130), (5, "a", 1, 1, "s1", 130))
    second = shard((5, "a", 0, 0, "s3", 130), (5, "a", 0, 0, "s3", 130), (5, "a", 1, 1, "s2", 130))
    third = shard((5, "a", 0, 0, "s1", 130), (6, "b", 0, 0, "s1", 130))
    found = index_of(first, second, None, third)
    assert found["label"] == [4, 5, 5, 5, 5, 5, 5, 6]
    assert found["utterance_index"] == [0, 0, 1, 2, 2, 3, 4, 0]
    assert found["session_index"] == [0, 0, 1, 2, 2, 0, 1, 0]
    _, speakers = tables.split_tables([first, second, None, third], "train", RECIPE)
    assert [(row["label"], row["utterances"], row["sessions"]) for row in speakers.to_pylist()] == [
        (4, 1, 1),
        (5, 5, 3),
        (6, 1, 1),
    ]


def test_speakers_are_sorted_by_label() -> None:
    index = pa.concat_tables([shard((2, "c", 0, 0, "x", 1)), shard((0, "a", 0, 0, "x", 1), (1, "b", 0, 0, "x", 1))])
    assert tables.speaker_table(index, "valid", RECIPE)["label"].to_pylist() == [0, 1, 2]
    assert tables.speaker_table(index, "valid", RECIPE)["split"].to_pylist() == ["valid"] * 3


def test_seconds_of_raw_samples_are_samples() -> None:
    raw = RECIPE.replace(features="raw")
    people = tables.speaker_table(shard((0, "a", 0, 0, "x", 16000), (0, "a", 1, 0, "x", 8000)), "train", raw)
    assert people["seconds"].to_pylist() == [1.5]


def test_ledger_in_the_order_of_the_manifests() -> None:
    rows = [
        LedgerRow("rejected", "decode", "missing", "why", "/b.csv", 5, "s", "u", "a.wav"),
        LedgerRow("filtered", "segment", "too_short", "why", "/a.csv", 90, "s", "u", "b.wav"),
        LedgerRow("rejected", "manifest", "bad_row", "why", "/a.csv", 100, "", "", ""),
    ]
    table = tables.ledger_table(rows)
    assert table.column_names == list(LedgerRow._fields)
    assert [(row["manifest"], row["position"]) for row in table.to_pylist()] == [
        ("/a.csv", 90),
        ("/a.csv", 100),
        ("/b.csv", 5),
    ]
    assert LedgerRow(**table.to_pylist()[2]) == rows[0]


def test_an_empty_ledger_has_the_same_columns() -> None:
    table = tables.ledger_table([])
    assert len(table) == 0
    assert table.schema == tables.ledger_table([LedgerRow(*"abcde", 1, *"fgh")]).schema


def statistics_of(values: np.ndarray) -> dict[str, Any]:
    return {
        "frames": len(values),
        "statistics": {
            "frames": len(values),
            "sums": values.sum(axis=0).tolist(),
            "squares": np.square(values).sum(axis=0).tolist(),
        },
    }


def test_statistics_over_all_frames_of_all_shards() -> None:
    values = np.array([[1.0, -2.0], [3.0, 0.5], [8.0, 0.0], [-4.0, 7.25]])
    nothing = {"frames": 0, "statistics": {"frames": 0, "sums": [], "squares": []}}
    found = tables.feature_statistics([statistics_of(values[:1]), nothing, statistics_of(values[1:])])
    assert found["frames"] == 4
    assert found["mean"] == [2.0, 1.4375]
    np.testing.assert_allclose(found["std"], values.std(axis=0), rtol=1e-12)
    assert tables.feature_statistics([nothing]) == {"frames": 0, "mean": [], "std": []}


def test_a_constant_has_no_deviation_rather_than_nan() -> None:
    values = np.full((3, 1), 0.1)
    assert tables.feature_statistics([statistics_of(values)])["std"][0] < 1e-8


def test_counts_by_reason_add_up_in_order() -> None:
    assert tables.add_counts([{"silent": 1}, {}, {"corrupt": 2, "silent": 3}]) == {"corrupt": 2, "silent": 4}
    assert list(tables.add_counts([{"silent": 1}, {"corrupt": 2}])) == ["corrupt", "silent"]
    assert tables.add_counts([]) == {}


def test_counts_of_a_split() -> None:
    _, people = tables.split_tables([shard((0, "a", 0, 0, "x", 121), (1, "b", 0, 0, "x", 121))], "train", RECIPE)
    done = [
        {"utterances": 1, "records": 1, "frames": 121},
        {"utterances": 1, "records": 1, "frames": 121},
    ]
    expected = {"speakers": 2, "utterances": 2, "records": 2, "frames": 242, "seconds": 2.4, "shards": 2}
    assert tables.split_counts(done, people, RECIPE) == expected
