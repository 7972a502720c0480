"""Runs of equal values side by side in integer columns: where they begin, and sums over them. Pure NumPy.

Columns are one-dimensional arrays of integers, one entry a row. It must not know what the rows are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def changes(*columns: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """True where a run of rows begins that are equal in all of some columns of one length.

    >>> changes(np.array([7, 7, 9, 9]), np.array([0, 0, 0, 1])).tolist()
    [True, False, True, True]
    """
    begins = np.zeros(len(columns[0]), dtype=np.bool_)
    begins[:1] = True
    for column in columns:
        begins[1:] |= column[1:] != column[:-1]
    return begins


def run_sums(values: Ints, head: Ints) -> Ints:
    """Sums of the runs that begin at `head`, the last of which goes to the end.

    >>> run_sums(np.array([1, 2, 3, 4]), np.array([0, 3])).tolist()
    [6, 4]
    """
    return np.add.reduceat(values, head) if len(head) else np.zeros(0, dtype=np.int64)


def offsets(counts: Ints) -> Ints:
    """Where runs of these lengths begin when they lie end to end, and last where all end.

    >>> offsets(np.array([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)])
