"""Sums over samples and frames in a fixed order, compiled.

Samples are summed in 64 lanes, sample n in lane n mod 64, so that the compiler makes vector instructions of it without
changing the order; the lanes are added up in turn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ge2e_transforms.compiled import compiled

_LANES = 64


def mean(samples: npt.NDArray[np.float32]) -> np.float32:
    """Mean of `[n]` float32, n > 0, summed in float64."""
    return np.float32(_sum(np.require(samples, np.float32, ("C", "W"))) / len(samples))


def hop_energies(samples: npt.NDArray[np.float32], mean: np.float32, hop: int) -> npt.NDArray[np.float64]:
    """Sum of squares of each hop of `samples - mean`: `[1 + n // hop]` float64, the last of what is left at the end.

    Args:
        samples: `[n]` float32.
        mean: is taken off each sample.
        hop: samples of a hop.
    """
    energies = np.empty(1 + len(samples) // hop)
    _energies(np.require(samples, np.float32, ("C", "W")), mean, hop, energies)
    return energies


def frame_sums(frames: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sums of each bin and of its squares over `[frames, bins]`, `[bins]` float64 each, row by row."""
    found = np.zeros((2, frames.shape[1]))
    _frame_sums(np.require(frames, np.float32, ("C", "W")), found[0], found[1])
    return found[0], found[1]


@compiled
def _sum(samples: Any) -> Any:
    lanes = np.zeros(_LANES)
    whole = len(samples) - len(samples) % _LANES
    for start in range(0, whole, _LANES):
        part = samples[start : start + _LANES]
        for lane in range(_LANES):
            lanes[lane] += part[lane]
    for place in range(whole, len(samples)):
        lanes[place - whole] += samples[place]
    total = 0.0
    for lane in range(_LANES):
        total += lanes[lane]
    return total


@compiled
def _energies(samples: Any, mean: Any, hop: Any, energies: Any) -> None:
    lanes = np.empty(_LANES, np.float32)
    for number in range(len(energies)):
        hop_samples = samples[number * hop : (number + 1) * hop]
        lanes[:] = 0
        whole = len(hop_samples) - len(hop_samples) % _LANES
        for start in range(0, whole, _LANES):
            part = hop_samples[start : start + _LANES]
            for lane in range(_LANES):
                centred = part[lane] - mean
                lanes[lane] += centred * centred
        for place in range(whole, len(hop_samples)):
            centred = hop_samples[place] - mean
            lanes[place - whole] += centred * centred
        total = 0.0
        for lane in range(_LANES):
            total += lanes[lane]
        energies[number] = total


@compiled
def _frame_sums(frames: Any, sums: Any, squares: Any) -> None:
    for row in range(len(frames)):
        frame = frames[row]
        for bin_ in range(len(frame)):
            value = np.float64(frame[bin_])
            sums[bin_] += value
            squares[bin_] += value * value
