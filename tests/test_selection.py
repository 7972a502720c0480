"""Selections: what stays is pinned, draws are nested and the same in any order."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ge2e_transforms.errors import ConfigError, ManifestError
from ge2e_transforms.manifest import Utterance
from ge2e_transforms.selection import Selection, select


def rows_of(counts: dict[str, int], subset: str = "") -> list[Utterance]:
    return [
        Utterance(f"{speaker}/{number}.wav", speaker, "n", f"{number:03d}", "n", subset)
        for speaker, count in counts.items()
        for number in range(count)
    ]


FIVE = rows_of({"a": 4, "b": 2, "c": 3, "d": 1, "e": 4})


def kept(rows: list[Utterance], **selection: int) -> list[str]:
    return [f"{row.speaker_id}{int(row.utterance_id)}" for row in select(rows, Selection(**selection))]


def test_everything_stays_by_default() -> None:
    assert select(iter(FIVE), Selection()) == FIVE


def test_what_stays_is_pinned() -> None:
    """Literals: another version that draws others would make another dataset of the same command."""
    assert kept(FIVE, limit_speakers=2) == ["c0", "c1", "c2", "d0"]
    assert kept(FIVE, max_utterances=2) == ["a0", "a2", "b0", "b1", "c0", "c2", "d0", "e1", "e3"]
    assert kept(FIVE, min_utterances=3) == [f"a{n}" for n in range(4)] + [f"c{n}" for n in range(3)] + [
        f"e{n}" for n in range(4)
    ]
    assert kept(FIVE, min_utterances=3, max_utterances=1, limit_speakers=2) == ["a0", "c2"]


def test_utterances_are_counted_before_they_are_limited() -> None:
    assert kept(FIVE, min_utterances=4, max_utterances=2) == ["a0", "a2", "e1", "e3"]


def test_subsets() -> None:
    rows = rows_of({"a": 2}, "x") + rows_of({"b": 2}, "y") + rows_of({"c": 1}, "z")
    assert [row.speaker_id for row in select(rows, Selection(subsets=("z", "x")))] == ["a", "a", "c"]
    with pytest.raises(ManifestError, match=r"no row is of the subset 'w': expected one of 'x' \(2 rows\), 'y' \(2 r"):
        select(rows, Selection(subsets=("x", "w")))
    with pytest.raises(ManifestError, match="expected one of no rows at all"):
        select([], Selection(subsets=("x",)))


def test_one_id_in_two_namespaces_is_two_speakers() -> None:
    rows = [*rows_of({"a": 2}), *(row._replace(namespace="m") for row in rows_of({"a": 1}))]
    assert select(rows, Selection(min_utterances=2)) == rows[:2]
    assert {row.namespace for row in select(rows, Selection(limit_speakers=1))} in ({"n"}, {"m"})


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(ManifestError, match="no speaker has min_utterances=5: of 5 speakers the one with most has 4"):
        select(FIVE, Selection(min_utterances=5))


@pytest.mark.parametrize("name", ["min_utterances", "max_utterances", "limit_speakers"])
def test_numbers_below_0_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=-1 cannot be used"):
        Selection(**{name: -1})


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=30), seed=st.integers(0, 99), few=st.integers(1, 12))
def test_draws_are_nested_and_know_no_order(counts: list[int], seed: int, few: int) -> None:
    rows = rows_of({f"s{number}": count for number, count in enumerate(counts)})
    mixed = random.Random(seed).sample(rows, len(rows))
    for name in ("limit_speakers", "max_utterances"):
        small = select(rows, Selection(**{name: few}))
        assert set(small) <= set(select(rows, Selection(**{name: few + 1})))
        assert set(select(mixed, Selection(**{name: few}))) == set(small)
        assert [row for row in rows if row in set(small)] == small
    drawn = Counter(row.speaker_id for row in select(rows, Selection(limit_speakers=few)))
    assert len(drawn) == min(few, len(counts))
    assert all(count == counts[int(speaker[1:])] for speaker, count in drawn.items())
    limited = Counter(row.speaker_id for row in select(rows, Selection(max_utterances=few)))
    assert limited == {f"s{number}": min(few, count) for number, count in enumerate(counts)}


def test_speakers_that_are_added_do_not_change_who_of_the_others_was_drawn() -> None:
    many = rows_of({f"s{number}": 1 for number in range(200)})
    more = rows_of({f"t{number}": 1 for number in range(200)})
    before = {row.speaker_id for row in select(many, Selection(limit_speakers=50))}
    after = {row.speaker_id for row in select(many + more, Selection(limit_speakers=50))}
    old = {speaker for speaker in after if speaker.startswith("s")}
    assert old <= before
    assert 10 < len(old) < 40
