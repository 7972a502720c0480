"""Parts of a split that several jobs wrote, numbered through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ge2e_transforms import schema
from ge2e_transforms.config import PRESETS
from pipeline.layers import session_names
from pipeline.tables import SHARD_COLUMNS, split_tables

RECIPE = PRESETS["ge2e"]


class Record(NamedTuple):
    """A record of a shard, in the order of the shard."""

    label: int
    utterance: int
    session: str


def shard(*records: Record) -> pa.Table:
    """The index of a shard in which each speaker's utterances and sessions are counted from 0."""
    sessions: dict[int, list[str]] = {}
    rows: list[dict[str, Any]] = []
    for record in records:
        own = sessions.setdefault(record.label, [])
        if record.session not in own:
            own.append(record.session)
        numbers = {"label": record.label, "utterance_index": record.utterance, "frames": 130 + record.utterance}
        numbers["session_index"] = own.index(record.session)
        names = {"speaker_id": f"ns/{record.label}", "session_id": record.session, "source": "x"}
        rows.append({**dict.fromkeys(SHARD_COLUMNS, 0), **numbers, **names})
    fields = schema.index_schema(RECIPE.n_bins)
    return pa.Table.from_pylist(rows, schema=pa.schema([fields.field(name) for name in SHARD_COLUMNS]))


def numbers(index: pa.Table, label: int) -> Sequence[tuple[int, int]]:
    rows = index.filter(pa.compute.equal(index["label"], label))
    return list(zip(rows["utterance_index"].to_pylist(), rows["session_index"].to_pylist(), strict=True))


FIRST = shard(Record(0, 0, "a"), Record(0, 1, "b"), Record(1, 0, "a"))
CUT = [shard(Record(2, 0, "a"), Record(2, 1, "b")), shard(Record(2, 0, "b"), Record(2, 0, "b"), Record(2, 1, "c"))]
LATER = shard(Record(0, 0, "b"), Record(0, 1, "c"), Record(3, 0, "z"), Record(2, 0, "c"))
LAST = shard(Record(0, 0, "c"), Record(0, 0, "c"), Record(0, 1, "a"))


def test_utterances_and_sessions_of_a_speaker_that_returns_are_numbered_through() -> None:
    index, speakers = split_tables([FIRST, *CUT, None, LATER, LAST], "train", RECIPE, layered=True)
    assert numbers(index, 0) == [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (4, 2), (5, 0)]
    assert numbers(index, 1) == [(0, 0)]
    # Cut in parts by one job (two records of one utterance among them), and added to by another.
    assert numbers(index, 2) == [(0, 0), (1, 1), (2, 1), (2, 1), (3, 2), (4, 2)]
    assert numbers(index, 3) == [(0, 0)]
    assert speakers.schema == schema.speakers_schema()
    assert speakers["label"].to_pylist() == [0, 1, 2, 3]
    assert speakers["utterances"].to_pylist() == [6, 1, 5, 1]
    assert speakers["sessions"].to_pylist() == [3, 1, 3, 1]
    assert sum(speakers["frames"].to_pylist()) == sum(index["frames"].to_pylist())


def test_records_stay_where_they_are() -> None:
    index, _ = split_tables([FIRST, *CUT, LATER, LAST], "train", RECIPE, layered=True)
    plain = pa.concat_tables([FIRST, *CUT, LATER, LAST])
    assert index["label"].to_pylist() == plain["label"].to_pylist()
    assert index.schema == schema.split_index_schema()
    assert all(column.num_chunks == 1 for column in index.columns)  # as readers map it into memory


def test_parts_without_a_returning_speaker_are_as_those_of_one_job() -> None:
    shards = [FIRST, *CUT]
    for layered, plain in zip(
        *(split_tables(shards, "train", RECIPE, layered=way) for way in (True, False)), strict=True
    ):
        assert layered.equals(plain)


def test_a_split_of_empty_parts() -> None:
    index, speakers = split_tables([None, None], "train", RECIPE, layered=True)
    assert (len(index), len(speakers)) == (0, 0)


def test_random_parts_are_numbered_as_a_plain_loop_numbers_them() -> None:
    rng = np.random.Generator(np.random.PCG64(5))
    for _ in range(20):
        parts = []
        for _ in range(int(rng.integers(1, 6))):
            labels = sorted(rng.choice(6, int(rng.integers(1, 5)), replace=False).tolist())
            parts.append(
                shard(*(Record(label, n, f"s{rng.integers(3)}") for label in labels for n in range(rng.integers(1, 4))))
            )
        index, speakers = split_tables(parts, "train", RECIPE, layered=True)
        told: dict[int, tuple[dict[Any, int], dict[str, int]]] = {}
        expected = []
        for number, part in enumerate(parts):
            for row in part.to_pylist():
                utterances, sessions = told.setdefault(row["label"], ({}, {}))
                utterance = utterances.setdefault((number, row["utterance_index"]), len(utterances))
                expected.append((utterance, sessions.setdefault(row["session_id"], len(sessions))))
        found = zip(index["utterance_index"].to_pylist(), index["session_index"].to_pylist(), strict=True)
        assert list(found) == expected
        assert speakers["sessions"].to_pylist() == [len(told[label][1]) for label in sorted(told)]


def test_the_names_of_sessions() -> None:
    assert session_names(FIRST)["session_id_min"].to_pylist() == ["a", "b", "a"]
