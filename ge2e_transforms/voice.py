"""Voice activity: which samples of a mono waveform are voice, as intervals in whole samples.

The rule is that of `librosa.effects.split`: a frame is voice if its power is within `top_db` of the
loudest frame. Every frame is a whole number of hops here, so the power of a hop is summed once and
added up for the frames that cover it, instead of once for each of the four that do. The result is
librosa's (held in the tests on real speech) at a fraction of the time, and the order of summation is
fixed, so that it is the same on every CPU.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ge2e_transforms.config import VoiceConfig
from ge2e_transforms.errors import SilentAudioError

Waveform: TypeAlias = npt.NDArray[np.float32]
Intervals: TypeAlias = npt.NDArray[np.int64]

# librosa.amplitude_to_db(amin=1e-5): powers below this count as this.
_POWER_FLOOR = 1e-10


def frame_power(waveform: Waveform, window: int, hop: int) -> npt.NDArray[np.float64]:
    """Mean square of centred, zero-padded frames: `[1 + n // hop]` float64.

    Args:
        waveform: `[n]` float32.
        window: frame length in samples, an even multiple of `hop`.
        hop: samples between frame centres.
    """
    half = window // hop // 2
    whole = len(waveform) // hop
    hops = np.zeros(whole + 1 + 2 * half)
    hops[half : half + whole] = np.add.reduce(np.square(waveform[: whole * hop].reshape(whole, hop)), axis=1)
    hops[half + whole] = np.add.reduce(np.square(waveform[whole * hop :]))
    frames = hops[: whole + 1].copy()
    for shift in range(1, 2 * half):
        frames += hops[shift : shift + whole + 1]
    return np.asarray(frames / window)


def voiced_intervals(waveform: Waveform, rate_hz: int, config: VoiceConfig) -> Intervals:
    """Voiced intervals `[k, 2]` (start, end) in samples, sorted, disjoint, at least one.

    Args:
        waveform: `[n]` float32 in [-1, 1], n > 0.
        rate_hz: samples a second.
        config: with `voice='none'` the whole waveform is one interval.

    Raises:
        SilentAudioError: the loudest frame is below `silence_dbfs`.
    """
    power = frame_power(waveform, config.voice_window, config.voice_hop)
    loudest = float(power.max())
    if loudest < 10 ** (config.silence_dbfs / 10):
        level = f"{10 * np.log10(loudest):.1f}" if loudest > 0 else "-inf"
        raise SilentAudioError(f"the loudest part is at {level} dBFS, below silence_dbfs={config.silence_dbfs:g}")
    if config.voice == "none":
        return np.array([[0, len(waveform)]], dtype=np.int64)
    voiced = np.maximum(power, _POWER_FLOOR) > max(loudest, _POWER_FLOOR) * 10 ** (-config.top_db / 10)
    edges = np.flatnonzero(np.diff(voiced, prepend=False, append=False))
    intervals = np.minimum(edges.reshape(-1, 2) * config.voice_hop, len(waveform)).astype(np.int64)
    return _bridge(intervals, round(config.min_silence_ms * rate_hz / 1000))


def _bridge(intervals: Intervals, gap: int) -> Intervals:
    """Join neighbours that are closer than `gap` samples; drop intervals that clipping left empty."""
    intervals = intervals[intervals[:, 1] > intervals[:, 0]]
    apart = intervals[1:, 0] - intervals[:-1, 1] >= max(gap, 1)
    starts = np.concatenate([[True], apart])
    ends = np.concatenate([apart, [True]])
    return np.stack([intervals[starts, 0], intervals[ends, 1]], axis=1)


def join(waveform: npt.NDArray[np.generic], intervals: Intervals) -> npt.NDArray[np.generic]:
    """The intervals spliced together; the waveform itself where one interval is all of it."""
    if len(intervals) == 1:
        return waveform[intervals[0, 0] : intervals[0, 1]]
    return np.concatenate([waveform[start:end] for start, end in intervals])


def source_position(intervals: Intervals, position: int) -> int:
    """Where sample `position` of the joined waveform stands in the waveform that was joined."""
    lengths = intervals[:, 1] - intervals[:, 0]
    ends = np.cumsum(lengths)
    which = min(int(np.searchsorted(ends, position, side="right")), len(intervals) - 1)
    return int(intervals[which, 0] + position - (ends[which] - lengths[which]))
