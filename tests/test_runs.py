"""Runs of equal values: where they begin, sums over them, and where they lie end to end; also of no rows at all."""

from __future__ import annotations

import numpy as np

from ge2e_transforms.runs import changes, offsets, run_sums


def test_a_run_begins_where_any_column_changes():
    first, second = np.array([1, 1, 2, 2, 2]), np.array([5, 6, 6, 6, 5], np.int32)
    assert changes(first).tolist() == [True, False, True, False, False]
    assert changes(first, second).tolist() == [True, True, True, False, True]


def test_a_value_that_comes_again_begins_another_run():
    assert changes(np.array([3, 4, 3])).tolist() == [True, True, True]


def test_nothing_begins_where_there_are_no_rows():
    nothing = np.zeros(0, np.int64)
    assert changes(nothing, nothing).tolist() == []
    assert run_sums(nothing, nothing).tolist() == []
    assert offsets(nothing).tolist() == [0]


def test_sums_of_runs_add_up_to_the_sum_of_all():
    values, head = np.arange(10), np.flatnonzero(changes(np.arange(10) // 3))
    assert run_sums(values, head).tolist() == [0 + 1 + 2, 3 + 4 + 5, 6 + 7 + 8, 9]


def test_runs_end_to_end_in_64_bits():
    found = offsets(np.array([1 << 30, 1 << 30, 1 << 30, 1], np.int32))
    assert found.tolist() == [0, 1 << 30, 2 << 30, 3 << 30, (3 << 30) + 1]
    assert found.dtype == np.int64
