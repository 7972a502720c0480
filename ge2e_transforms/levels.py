"""The level stage: how loud speech is made, by its mean square and its peak. Pure functions of float32 samples `[n]`.

It must not know of recipes, or how voice is found.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ge2e_transforms import voice


class Level(NamedTuple):
    """What is done to each sample alike: the mean is taken off, then the gain, a factor, applied."""

    mean: np.float32
    gain: np.float32

    def apply(self, samples: npt.NDArray[np.float32], spans: list[list[int]]) -> npt.NDArray[np.float32]:
        """The spans of a waveform one after the other, each sample as it is to be."""
        if self.mean == 0 and self.gain == 1:
            return voice.join(samples, spans)
        ready = np.empty(sum(end - start for start, end in spans), dtype=np.float32)
        place = 0
        for start, end in spans:
            np.subtract(samples[start:end], self.mean, out=ready[place : place + end - start])
            place += end - start
        ready *= self.gain
        return ready


def level_gain(
    samples: npt.NDArray[np.float32],
    mean: np.float32,
    mean_square: float,
    level_dbfs: float | None,
    mode: str,
) -> np.float32:
    """Gain that sets the root mean square of the voice to `level_dbfs`, with no sample less the mean beyond +-1.

    Args:
        samples: `[n]` of the whole utterance.
        mean: taken off each sample.
        mean_square: of the voice, less the mean.
        level_dbfs: None sets no level: the gain is 1.
        mode: 'set'; or 'raise', where it is never less than 1.
    """
    if level_dbfs is None:
        return np.float32(1)
    return gain_of(max(float(samples.max() - mean), float(mean - samples.min())), mean_square, level_dbfs, mode)


def gain_of(peak: float, mean_square: float, level_dbfs: float, mode: str) -> np.float32:
    """`level_gain` by the largest distance of a sample from the mean.

    >>> float(gain_of(peak=0.4, mean_square=0.05**2, level_dbfs=-20.0, mode="set"))
    2.0
    """
    if mean_square == 0:
        return np.float32(1)
    gain = min(10 ** (level_dbfs / 20) / math.sqrt(mean_square), 1 / peak)
    return np.float32(max(gain, 1.0) if mode == "raise" else gain)
