"""Voice activity: which samples of a mono waveform are voice, as intervals in whole samples.

The rule is that of `librosa.effects.split`: a frame is voice if its power is within `top_db` of the
loudest frame. Every frame is a whole number of hops here, so the power of a hop is summed once and
added up for the frames that cover it, instead of once for each of the four that do. The result is
librosa's (held in the tests on real speech) at a fraction of the time, and the order of summation is
fixed, so that it is the same on every CPU. It must not know what becomes of the voice.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ge2e_transforms.config import VoiceConfig
from ge2e_transforms.errors import SilentAudioError

Energies: TypeAlias = npt.NDArray[np.float64]
Intervals: TypeAlias = npt.NDArray[np.int64]

# librosa.amplitude_to_db(amin=1e-5): powers below this count as this.
_POWER_FLOOR = 1e-10


def frame_power(energies: Energies, window: int, hop: int) -> Energies:
    """Mean square of centred, zero-padded frames: `[hops]` float64.

    Args:
        energies: of the hops of a waveform, from `sums.hop_energies`.
        window: frame length in samples, an even multiple of `hop`.
        hop: samples between frame centres.
    """
    half = window // hop // 2
    hops = np.zeros(len(energies) + 2 * half)
    hops[half : half + len(energies)] = energies
    frames = hops[: len(energies)].copy()
    for shift in range(1, 2 * half):
        frames += hops[shift : shift + len(energies)]
    return np.asarray(frames / window)


def voiced_intervals(energies: Energies, length: int, rate_hz: int, config: VoiceConfig) -> Intervals:
    """Voiced intervals `[k, 2]` (start, end) in samples, sorted, disjoint, at least one.

    Args:
        energies: of the waveform's hops of `config.voice_hop` samples, from `sums.hop_energies`.
        length: of the waveform in samples, more than 0.
        rate_hz: samples a second.
        config: with `voice='none'` the whole waveform is one interval.

    Raises:
        SilentAudioError: the loudest frame is below `silence_dbfs`.
    """
    power = frame_power(energies, config.voice_window, config.voice_hop)
    loudest = float(power.max())
    if loudest < 10 ** (config.silence_dbfs / 10):
        level = f"{10 * np.log10(loudest):.1f}" if loudest > 0 else "-inf"
        raise SilentAudioError(f"the loudest part is at {level} dBFS, below silence_dbfs={config.silence_dbfs:g}")
    if config.voice == "none":
        return np.array([[0, length]], dtype=np.int64)
    voiced = np.zeros(len(power) + 2, dtype=bool)
    voiced[1:-1] = np.maximum(power, _POWER_FLOOR) > max(loudest, _POWER_FLOOR) * 10 ** (-config.top_db / 10)
    # None begins where the waveform ends: a frame there adds no hop to the one before it, so it is not the louder.
    edges = np.flatnonzero(voiced[1:] != voiced[:-1]) * config.voice_hop
    return _bridge(np.minimum(edges, length).reshape(-1, 2), round(config.min_silence_ms * rate_hz / 1000))


def _bridge(intervals: Intervals, gap: int) -> Intervals:
    """Join neighbours that are closer than `gap` samples."""
    apart = np.ones(len(intervals) + 1, dtype=bool)
    apart[1:-1] = intervals[1:, 0] - intervals[:-1, 1] >= max(gap, 1)
    bridged = np.empty((np.count_nonzero(apart) - 1, 2), dtype=np.int64)
    bridged[:, 0], bridged[:, 1] = intervals[apart[:-1], 0], intervals[apart[1:], 1]
    return bridged


def energy_of(energies: Energies, hop: int, intervals: Intervals) -> float:
    """Sum of squares of the samples in intervals that start on a hop and end on one, or with the waveform."""
    first, end = intervals[:, 0] // hop, -(-intervals[:, 1] // hop)
    return sum(float(np.add.reduce(energies[a:b])) for a, b in zip(first.tolist(), end.tolist(), strict=True))


def join(waveform: npt.NDArray[Any], spans: list[list[int]]) -> npt.NDArray[Any]:
    """The spans (start, end) of a waveform one after the other; the waveform's own memory where there is only one."""
    if len(spans) == 1:
        return waveform[spans[0][0] : spans[0][1]]
    return np.concatenate([waveform[start:end] for start, end in spans] or [waveform[:0]])


def source_position(intervals: Intervals, position: int) -> int:
    """Where sample `position` of the joined waveform stands in the waveform that was joined.

    >>> source_position(np.array([[100, 200], [500, 600]]), 150)
    550
    """
    lengths = intervals[:, 1] - intervals[:, 0]
    ends = np.cumsum(lengths)
    which = min(int(np.searchsorted(ends, position, side="right")), len(intervals) - 1)
    return int(intervals[which, 0] + position - (ends[which] - lengths[which]))
