"""Sums over samples and frames in a fixed order, compiled.

Samples are summed in 64 lanes, sample n in lane n mod 64, so that the compiler makes vector instructions of it without
changing the order; the lanes are added up in turn. Samples are float32, sums float64. It must not know of recipes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ge2e_transforms.compiled import compiled

# Four vectors of sixteen floats, or eight of eight: enough additions that none waits for the one before it.
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


def of_crops(
    crops: npt.NDArray[np.float32], centred: bool, hop: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """What the level of waveforms of one length follows from, of each as `mean` and `hop_energies` give it.

    Args:
        crops: `[n, samples]` float32, samples > 0.
        centred: whether the mean of each is taken off it; it is 0 else.
        hop: samples of a hop.

    Returns:
        Means `[n]` float32, energies `[n, 1 + samples // hop]` float64, and the largest distance of a sample from the
        mean, `[n]` float32.
    """
    means, peaks = np.zeros(len(crops), np.float32), np.empty(len(crops), np.float32)
    energies = np.empty((len(crops), 1 + crops.shape[1] // hop))
    _of_crops(np.require(crops, np.float32, ("C", "W")), centred, hop, means, energies, peaks)
    return means, energies, peaks


def levelled(
    crops: npt.NDArray[np.float32], means: npt.NDArray[np.float32], gains: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """`(crops - mean) * gain` of waveforms `[n, samples]` float32, by means and gains `[n]`."""
    ready = np.empty(crops.shape, dtype=np.float32)
    _levelled(np.require(crops, np.float32, ("C", "W")), means, gains, ready)
    return ready


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
def _of_crops(crops: Any, centred: Any, hop: Any, means: Any, energies: Any, peaks: Any) -> None:
    low, high = np.empty(_LANES, np.float32), np.empty(_LANES, np.float32)
    for number in range(len(crops)):
        crop = crops[number]
        if centred:
            means[number] = np.float32(_sum(crop) / len(crop))
        mean = means[number]
        _energies(crop, mean, hop, energies[number])
        low[:], high[:] = crop[0], crop[0]
        whole = len(crop) - len(crop) % _LANES
        for start in range(0, whole, _LANES):
            part = crop[start : start + _LANES]
            for lane in range(_LANES):
                sample = part[lane]
                low[lane] = sample if sample < low[lane] else low[lane]
                high[lane] = sample if sample > high[lane] else high[lane]
        lowest, highest = low.min(), high.max()
        for place in range(whole, len(crop)):
            lowest, highest = min(lowest, crop[place]), max(highest, crop[place])
        peaks[number] = max(highest - mean, mean - lowest)


@compiled
def _levelled(crops: Any, means: Any, gains: Any, ready: Any) -> None:
    for number in range(len(crops)):
        crop, target, mean, gain = crops[number], ready[number], means[number], gains[number]
        for place in range(len(crop)):
            target[place] = (crop[place] - mean) * gain


@compiled
def _frame_sums(frames: Any, sums: Any, squares: Any) -> None:
    for row in range(len(frames)):
        frame = frames[row]
        for bin_ in range(len(frame)):
            value = np.float64(frame[bin_])
            sums[bin_] += value
            squares[bin_] += value * value
