"""Counts of values between fixed edges, added to batch by batch. Pure NumPy.

It must not know what is counted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.floating]


class Histogram:
    """How many values lie between edges; what lies outside is counted in the first or last bin.

    Args:
        edges: float64 `[bins + 1]`, rising.

    Attributes:
        counts: int64 `[bins]`.
        total: sum of all values, as they were given.
        lowest, highest: of all values; infinite as long as there are none.
    """

    def __init__(self, edges: npt.ArrayLike) -> None:
        self.edges = np.asarray(edges, dtype=np.float64)
        self.counts = np.zeros(len(self.edges) - 1, dtype=np.int64)
        self.total, self.lowest, self.highest = 0.0, np.inf, -np.inf

    def add(self, values: Values) -> None:
        """Counts some values, all of them finite."""
        if not len(values):
            return
        place = np.searchsorted(self.edges, values, side="right") - 1
        self.counts += np.bincount(np.clip(place, 0, len(self.counts) - 1), minlength=len(self.counts))
        self.total += float(np.sum(values, dtype=np.float64))
        self.lowest = min(self.lowest, float(values.min()))
        self.highest = max(self.highest, float(values.max()))

    @property
    def count(self) -> int:
        """How many values were added."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Exact, NaN of no values."""
        return self.total / self.count if self.count else float("nan")

    def quantile(self, share: float) -> float:
        """The value below which a share of all values, from 0 to 1, lies, right to a bin; NaN of no values."""
        if not self.count:
            return float("nan")
        wanted, ends = share * self.count, np.cumsum(self.counts)
        number = min(int(np.searchsorted(ends, wanted)), len(ends) - 1)
        before = float(ends[number - 1]) if number else 0.0
        part = (wanted - before) / max(1, int(self.counts[number]))
        value = self.edges[number] + part * (self.edges[number + 1] - self.edges[number])
        return float(np.clip(value, self.lowest, self.highest))
