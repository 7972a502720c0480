"""Who takes part: filters, units, and the same holdings whatever the order of rows and the size of chunks."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from index_arrays import index_of

from ge2e_transforms import population
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.population import Filters, Population
from ge2e_transforms.supply import SamplingOptions

OPTIONS = SamplingOptions(speakers_per_batch=2, utterances_per_speaker=2, crop_frames=10, seed=1)
# Labels 10, 13, 16, 19 with 3, 1, 4 and 2 utterances; two utterances a session.
SPEAKERS = [[[30], [10], [20]], [[50]], [[10]] * 4, [[12], [25, 10]]]
SUMMED = ("label", "held", "distinct_groups", "slots", "utterances", "sessions", "copies")


def make(filters: Filters | None = None, first_rows: Any = None, index: Any = None, **values: Any) -> Population:
    index = with_sources() if index is None else index
    return Population(index, dataclasses.replace(OPTIONS, **values), filters, first_rows)


def with_sources() -> dict[str, np.ndarray]:
    """Sources 0 and 1 in turn, record by record."""
    index = index_of(SPEAKERS)
    return {**index, "source_index": np.arange(len(index["label"])) % 2}


def test_a_unit_is_a_speaker():
    found = make()
    assert found.label.tolist() == [10, 13, 16, 19]
    assert found.slots.tolist() == [6, 5, 4, 4]
    assert found.utterances.tolist() == [3, 1, 4, 2]
    assert found.sessions.tolist() == [2, 1, 2, 1]
    assert found.held.tolist() == [3, 2, 2, 2]
    assert found.distinct_groups.tolist() == [3, 0, 2, 1]
    assert found.eligible == 4


def test_rows_in_any_order_and_any_chunks_are_the_same(monkeypatch: pytest.MonkeyPatch):
    whole = make()
    order = np.random.default_rng(3).permutation(11)
    mixed = make(index={name: column[order] for name, column in with_sources().items()})
    monkeypatch.setattr(population, "CHUNK_RECORDS", 4)
    parts = make()
    assert list(parts.chunks(np.arange(4))) == [slice(0, 2), slice(2, 3), slice(3, 4)]
    for name in SUMMED:
        assert getattr(whole, name).tolist() == getattr(mixed, name).tolist() == getattr(parts, name).tolist(), name
    supply, rows = mixed.supply(np.arange(4))
    assert order[rows[supply.record]].tolist() == list(range(11))


def test_long_columns_are_compared_piece_by_piece(monkeypatch: pytest.MonkeyPatch):
    expected = make().label.tolist()
    for step in (1, 2, 3, 5):
        monkeypatch.setattr(population, "_STEP", step)
        assert make().label.tolist() == expected
        reverse = {name: column[::-1] for name, column in with_sources().items()}
        assert make(index=reverse).label.tolist() == expected


def test_speakers_are_chosen_or_left_out():
    assert make(Filters(only=(13, 19))).label.tolist() == [13, 19]
    assert make(Filters(excluded=(13, 99))).label.tolist() == [10, 16, 19]
    assert make(Filters(only=())).label.tolist() == []


def test_records_of_other_sources_take_no_part():
    found = make(Filters(sources=(0,)))
    assert found.label.tolist() == [10, 16, 19]
    assert found.slots.tolist() == [5, 2, 2]
    supply, rows = found.supply(np.arange(3))
    assert rows[supply.record].tolist() == [0, 2, 4, 6, 8, 10]


def test_small_speakers_take_no_part():
    assert make(Filters(min_utterances=3)).held.tolist() == [3, 0, 2, 0]
    assert make(Filters(min_sessions=2)).held.tolist() == [3, 0, 2, 0]
    assert make(Filters(min_utterances=3), under_m="repeat").eligible == 2


def test_one_source_to_a_batch_makes_units_of_speaker_and_source():
    found = make(batch_sources="single")
    pairs = list(zip(found.source.tolist(), found.label.tolist(), strict=True))
    assert pairs == [(0, 10), (0, 16), (0, 19), (1, 10), (1, 13), (1, 16), (1, 19)]
    assert found.slots.tolist() == [5, 2, 2, 1, 5, 2, 2]
    assert found.held.tolist() == [2, 1, 1, 0, 2, 1, 1]
    assert found.eligible == 3
    assert found.wanted(lambda held, _: held // 2).tolist() == [1, 0, 0, 0, 1, 0, 0]


def test_locality_makes_units_of_speaker_and_shard():
    found = make(locality=1, first_rows=np.array([0, 2, 2, 6, 11]))
    pairs = list(zip(found.label.tolist(), found.shard.tolist(), strict=True))
    assert pairs == [(10, 0), (10, 2), (13, 2), (16, 2), (16, 3), (19, 3)]
    assert found.eligible == 4


def test_sessions_can_be_what_must_differ():
    found = make(distinct_sessions=True, distinct="strict")
    assert found.held.tolist() == [2, 0, 2, 0]  # label 10: sessions of 4 and 2 slots
    supply, _ = found.supply(np.arange(4))
    assert supply.slots.tolist() == [4, 2, 5, 2, 2, 4]


def test_records_give_no_more_slots_than_asked_for():
    assert make(slots_per_utterance=1).slots.tolist() == [3, 1, 4, 3]  # the last is stored in two records
    assert make(slots_per_utterance=2).slots.tolist() == [5, 2, 4, 4]


@pytest.mark.parametrize("values", [{"min_utterances": -1}, {"min_sessions": 1.5}])
def test_counts_are_checked(values: dict[str, Any]):
    with pytest.raises(ConfigError, match="min_"):
        Filters(**values)
