"""Groups into batches: as many batches as there can be, nobody twice in one, and everybody meets everybody."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_arrays import met, met_by_chance, pareto

from ge2e_transforms.placing import batch_count, largest, place, place_in_order
from ge2e_transforms.rng import derive

Ints = npt.NDArray[np.int64]


def brute_batch_count(groups: list[int], n: int) -> int:
    return max(b for b in range(sum(groups) + 1) if sum(min(g, b) for g in groups) >= n * b)


def check_seats(groups: Ints, n: int, key: int) -> Ints:
    """Places, checks what must always hold, and returns the speakers `[B, N]`."""
    batches = batch_count(groups, n)
    groups = np.minimum(groups, batches)
    seats = place(groups, batches, n, derive(key, 0))
    assert seats.group.shape == (batches, n)
    assert np.array_equal(np.sort(seats.group, axis=None), np.arange(batches * n))
    speakers = np.sort(seats.speaker[seats.group], axis=1)
    assert np.all(speakers[:, 1:] != speakers[:, :-1])
    given = np.bincount(seats.speaker, minlength=len(groups))
    assert np.all(given <= groups)
    order = np.lexsort((seats.number, seats.speaker))
    assert np.array_equal(seats.number[order], np.concatenate([np.arange(count) for count in given]))
    return seats.speaker[seats.group]


@given(
    groups=st.lists(st.integers(0, 12), min_size=1, max_size=12), n=st.integers(1, 12), key=st.integers(0, 2**64 - 1)
)
@settings(max_examples=300, deadline=None)
def test_batches_are_as_many_as_can_be_and_hold_nobody_twice(groups: list[int], n: int, key: int):
    count = batch_count(np.array(groups), n)
    assert count == brute_batch_count(groups, n)
    if count:
        check_seats(np.array(groups), n, key)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_one_speaker_in_every_batch(n: int):
    speakers = check_seats(np.array([100, *[1] * (25 * (n - 1))]), n, key=3)
    assert len(speakers) == 25
    assert np.all(np.any(speakers == 0, axis=1))


def test_as_many_speakers_as_seats():
    speakers = check_seats(np.array([7, 9, 8, 30]), 4, key=1)
    assert len(speakers) == 7
    assert np.all(np.sort(speakers, axis=1) == np.arange(4))


def test_no_group_is_left_out_by_preference():
    """10 groups of each of 7 speakers, 4 to a batch: two groups too many, and every speaker is cut sometimes."""
    missing = np.zeros(7, dtype=np.int64)
    for key in range(400):
        left = 10 - np.bincount(check_seats(np.full(7, 10), 4, key).ravel(), minlength=7)
        assert left.sum() == 2
        assert left.max() == 1
        missing += left
    assert np.all(np.abs(missing - 800 / 7) < 5 * 9)  # standard deviation 9


def test_groups_are_left_out_in_proportion():
    """10, 10, 10, 11 and 20 groups, 3 to a batch, are one too many: it is the rich speaker's 20 times in 61."""
    lost = np.zeros(5, dtype=np.int64)
    groups = np.array([10, 10, 10, 11, 20])
    for key in range(1000):
        lost += groups - np.bincount(place(groups, 20, 3, derive(key, 0)).speaker, minlength=5)
    assert lost.sum() == 1000
    assert np.all(np.abs(lost - 1000 * groups / 61) < 5 * 15)  # standard deviation 15 at most


def test_a_speaker_of_every_batch_sits_anywhere():
    seats = [check_seats(np.array([50, 50, 50]), 3, key) for key in range(12)]
    counts = np.sum(np.concatenate(seats) == 0, axis=0)
    assert np.all(np.abs(counts - 200) < 5 * 12)  # standard deviation 12


def test_any_two_speakers_meet_equally_often_over_epochs():
    """Speakers 0-19 and 20-39 in pairs: 380 of 780 pairs are of one half, whatever rows they once were in."""
    epochs = np.concatenate([check_seats(np.full(40, 10), 2, key) for key in range(60)])
    same = np.count_nonzero(epochs[:, 0] // 20 == epochs[:, 1] // 20)
    assert abs(same / len(epochs) - 380 / 780) < 5 * 0.0046  # standard deviation 0.0046


def test_every_batch_and_seat_is_equally_likely_for_a_speaker():
    """12 speakers with one group each in 4 batches of 3: speaker 0 sits on each of the 12 seats 100 times in 1,200."""
    seen = sum((check_seats(np.ones(12, dtype=np.int64), 3, key) == 0).astype(int) for key in range(1200))
    assert np.all(np.abs(seen - 100) < 5 * 10)  # standard deviation 9.6


@pytest.mark.parametrize(
    ("groups", "n"),
    [
        (np.full(100, 10), 2),
        (np.full(100, 50), 2),
        (np.full(100, 200), 2),  # row permutations alone reach 0.57 of chance here
        (np.full(40, 100), 4),
        (np.full(9, 9), 3),
        (np.full(4, 40), 2),
        (np.full(250, 78), 64),
        (np.full(16, 10), 16),
        (pareto(100, 0.8, 400), 4),
        (pareto(300, 0.8, 400), 2),
        (pareto(60, 0.8, 50), 12),
    ],
)
def test_speakers_meet_as_many_others_as_by_chance(groups: Ints, n: int):
    epochs = [check_seats(groups, n, key) for key in range(6)]
    chance = [met_by_chance(speakers, seed) for seed, speakers in enumerate(epochs)]
    assert np.mean([met(speakers) for speakers in epochs]) >= 0.95 * np.mean(chance)


def test_seats_are_pinned():
    seats = place(np.array([3, 2, 1, 2]), 4, 2, derive(7, 0))
    assert seats.speaker.tolist() == [3, 3, 1, 1, 0, 0, 0, 2]
    assert seats.number.tolist() == [0, 1, 0, 1, 0, 1, 2, 0]
    assert seats.group.tolist() == [[7, 2], [3, 5], [0, 6], [4, 1]]


def test_largest_finds_each_last_value():
    limits = np.array([0, 1, 5, 9, 9])
    assert largest(lambda value: value <= limits, np.array([4, 1, 7, 9, 3])).tolist() == [0, 1, 5, 9, 3]


# Batches of neighbours.


@given(
    groups=st.lists(st.integers(0, 12), min_size=1, max_size=12),
    n=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=200, deadline=None)
def test_batches_in_order_keep_every_promise(groups: list[int], n: int, seed: int):
    held = np.array(groups, dtype=np.int64)
    batches = batch_count(held, n)
    if not batches:
        return
    held = np.minimum(held, batches)
    seats = place_in_order(held, batches, n, derive(seed, 0))
    assert seats.group.shape == (batches, n)
    assert sorted(seats.group.ravel().tolist()) == list(range(batches * n))
    speakers = np.sort(seats.speaker[seats.group], axis=1)
    assert np.all(speakers[:, 1:] != speakers[:, :-1])
    for speaker in range(len(held)):
        numbers = seats.number[seats.speaker == speaker].tolist()
        assert numbers == list(range(len(numbers)))
        assert len(numbers) <= held[speaker]


def test_neighbours_in_the_order_are_batched():
    seats = place_in_order(np.full(12, 5), 20, 3, derive(1, 0))
    together = {tuple(sorted(batch)) for batch in seats.speaker[seats.group].tolist()}
    assert together == {(0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11)}


def test_whoever_must_be_in_all_that_is_left_comes_first():
    """The first speaker has a group for each of 6 batches of 2."""
    seats = place_in_order(np.array([6, 2, 2, 2]), 6, 2, derive(1, 0))
    assert all(0 in batch for batch in seats.speaker[seats.group].tolist())
