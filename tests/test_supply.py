"""Options are checked, slots and groups are counted right, and errors name an N and an M that do work."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_arrays import index_of

from ge2e_transforms.errors import ConfigError, SamplingError
from ge2e_transforms.population import Population
from ge2e_transforms.supply import SamplingOptions, Supply

OPTIONS = SamplingOptions(speakers_per_batch=2, utterances_per_speaker=3, crop_frames=10, seed=1)


def options(**values: Any) -> SamplingOptions:
    return dataclasses.replace(OPTIONS, **values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("speakers_per_batch", 0),
        ("speakers_per_batch", 2.0),
        ("utterances_per_speaker", -1),
        ("utterances_per_speaker", True),
        ("crop_frames", 0),
        ("crop_frames", None),
        ("seed", None),
        ("seed", -1),
        ("seed", 1 << 64),
        ("seed", 1.5),
        ("distinct", "maybe"),
        ("short", "drop "),
        ("under_m", "pad"),
        ("crops", ""),
        ("speakers", "rich"),
        ("speakers", -0.1),
        ("speakers", 1.1),
        ("speakers", True),
        ("speakers", None),
        ("speakers", float("nan")),
    ],
)
def test_values_that_cannot_be_used_are_named(name: str, value: object):
    with pytest.raises(ConfigError, match=rf"{name}=.*expected"):
        options(**{name: value})


def test_strict_and_repeat_contradict():
    with pytest.raises(ConfigError, match="strict"):
        options(distinct="strict", under_m="repeat")


def test_numpy_integers_and_extreme_seeds_are_taken():
    assert options(seed=(1 << 64) - 1, speakers_per_batch=np.int32(4)).speakers_per_batch == 4
    assert options(speakers=0.5).exponent == 0.5
    assert options(speakers="proportional").exponent == 1


def test_slots_of_records_and_of_parts_of_an_utterance():
    """Records of 9, 10, 29 rows; one utterance of two parts, 25 and 10 rows; one empty record."""
    supply = Supply(index_of([[[9], [10], [29], [25, 10]], [[0], [5]]]), OPTIONS)
    assert supply.label.tolist() == [10, 13]
    assert supply.slots.tolist() == [1, 1, 2, 3, 1]
    assert supply.number.tolist() == [0, 1, 2, 3, 1]
    assert supply.speaker_slots.tolist() == [7, 1]
    assert supply.record.tolist() == [0, 1, 2, 3, 4, 6]
    assert supply.short_dropped == 1
    assert supply.held.tolist() == [2, 0]


def test_short_records_can_be_dropped():
    supply = Supply(index_of([[[9], [10], [29], [25, 10]], [[0], [5]]]), options(short="drop"))
    assert supply.label.tolist() == [10]
    assert supply.slots.tolist() == [1, 2, 3]
    assert supply.short_dropped == 3


@pytest.mark.parametrize(
    ("distinct", "held"),
    [("strict", [2, 0, 4]), ("prefer", [4, 3, 4]), ("any", [4, 3, 4])],
)
def test_groups_held(distinct: str, held: list[int]):
    """M = 3. Slots (1, 1, 1, 1, 1... 10), (10, 1): one utterance outweighs the others; (4, 4, 4): none does."""
    speakers = [[[10], [10], [10], [10], [100]], [[100], [10]], [[40], [40], [40]]]
    assert Supply(index_of(speakers), options(distinct=distinct)).held.tolist() == held


def test_under_m_repeat_gives_one_group():
    supply = Supply(index_of([[[10]], [[20]], [[10], [10], [10]], [[70]]]), options(under_m="repeat"))
    assert supply.held.tolist() == [1, 1, 1, 2]
    assert supply.copies.tolist() == [3, 2, 1, 1, 1, 1]


def test_an_empty_split_has_no_speaker():
    population = Population(index_of([]), OPTIONS)
    assert population.eligible == 0
    with pytest.raises(SamplingError, match="of 0 speakers"):
        population.require(1)


def test_too_few_speakers_is_told_with_numbers():
    speakers = [[[10]] * 5, [[10]] * 4, [[10]] * 2]
    with pytest.raises(SamplingError) as caught:
        Population(index_of(speakers), options(utterances_per_speaker=4)).require(3)
    message = str(caught.value)
    assert "3 speakers x 4 utterances" in message
    assert "of 3 speakers with crops of 10 rows, 2 can give 4." in message
    assert "Largest N for M=4: 2; largest M for N=3: 2" in message


@given(
    speakers=st.lists(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=2), max_size=6), max_size=6),
    n=st.integers(1, 7),
    m=st.integers(1, 9),
    distinct=st.sampled_from(["strict", "prefer", "any"]),
    short=st.sampled_from(["repeat", "drop"]),
)
@settings(max_examples=200, deadline=None)
def test_advice_of_the_error_is_true(speakers: Any, n: int, m: int, distinct: str, short: str):
    def supply(m: int) -> Population:
        return Population(index_of(speakers), options(utterances_per_speaker=m, distinct=distinct, short=short))

    try:
        supply(m).require(n)
        return
    except SamplingError as error:
        found = re.search(rf"Largest N for M={m}: (\w+); largest M for N={n}: (\w+)\.", str(error))
        assert found
        largest_n, largest_m = (0 if word == "none" else int(word) for word in found.groups())
    assert largest_n < n
    assert largest_m < m
    for good_n, good_m in ((largest_n, m), (n, largest_m)):
        if good_n and good_m:
            supply(good_m).require(good_n)
    with pytest.raises(SamplingError):
        supply(m).require(largest_n + 1)
    with pytest.raises(SamplingError):
        supply(largest_m + 1).require(n)
