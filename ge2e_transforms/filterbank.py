"""Analysis windows and mel filters, as librosa 0.11 and SciPy make them, to the last bit of float32; and Kaldi's.

They are worked out here, once for each process, since importing those two for it takes a worker more than a second.
It must not know of recipes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

# Weights of cos(0), cos(x), cos(2 x): sums of cosines, Harris 1978, equations 27, 30 and 32.
_COSINES = {"boxcar": (1.0,), "hann": (0.5, 0.5), "hamming": (0.54, 0.46), "blackman": (0.42, 0.5, 0.08)}
# Slaney's Auditory Toolbox (1998): 200/3 Hz a mel below 1 kHz; above, 27 mels for each factor of 6.4.
_LINEAR_HZ, _BREAK_HZ, _LOG_STEP = 200.0 / 3, 1000.0, math.log(6.4) / 27
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ
# HTK's: 2595 log10(1 + f / 700), O'Shaughnessy 1987.
_HTK_FACTOR, _HTK_HZ = 2595.0, 700.0
# The same with the natural logarithm and a rounded factor, as Kaldi has it (MelBanks).
_KALDI_FACTOR = 1127.0
# Kaldi's window 'povey': a Hann window to this power.
_POVEY_POWER = 0.85

Array = npt.NDArray[np.float64]


def window(name: str, length: int, form: str = "periodic") -> npt.NDArray[np.float32]:
    """A window `[length]` float32 in [0, 1].

    Args:
        name: 'hann', 'hamming', 'blackman', 'boxcar' or 'povey'.
        length: samples.
        form: 'periodic', which leaves the last sample of a period out, or 'symmetric'.
    """
    if length == 1:
        return np.ones(1, dtype=np.float32)
    angle = np.linspace(-math.pi, math.pi, length + 1 if form == "periodic" else length)[:length]
    terms = (
        weight * np.cos(order * angle) for order, weight in enumerate(_COSINES["hann" if name == "povey" else name])
    )
    weights = sum(terms, np.zeros(length))
    if name == "povey":
        # Rounding may leave less than 0 at the ends.
        weights = np.maximum(weights, 0) ** _POVEY_POWER
    return np.asarray(weights, dtype=np.float32)


def mel_filters(
    rate_hz: int, n_fft: int, n_mels: int, f_min_hz: float, f_max_hz: float, *, scale: str, norm: str
) -> npt.NDArray[np.float32]:
    """Triangles whose corners lie evenly on a mel scale, `[n_mels, n_fft // 2 + 1]` float32.

    Args:
        rate_hz: samples a second.
        n_fft: length of the FFT.
        n_mels: filters.
        f_min_hz: where the first begins.
        f_max_hz: where the last ends.
        scale: 'slaney' or 'htk', with triangles that are straight in Hz; or 'kaldi', HTK's with ones straight in mels.
        norm: 'slaney' gives each triangle the area 1 (over Hz), 'none' the height 1; Kaldi's have that always.
    """
    if scale == "kaldi":
        return _kaldi_filters(rate_hz, n_fft, n_mels, f_min_hz, f_max_hz)
    bins = np.arange(n_fft // 2 + 1) * (rate_hz / n_fft)
    corners = to_hz(np.linspace(to_mel(f_min_hz, scale), to_mel(f_max_hz, scale), n_mels + 2), scale)
    widths = np.diff(corners)
    distances = np.subtract.outer(corners, bins)
    rising = -distances[:n_mels] / widths[:n_mels, None]
    falling = distances[2:] / widths[1:, None]
    filters = np.asarray(np.maximum(0, np.minimum(rising, falling)), dtype=np.float32)
    if norm == "slaney":
        filters *= (2.0 / (corners[2:] - corners[:n_mels]))[:, None]
    return filters


def _kaldi_filters(rate_hz: int, n_fft: int, n_mels: int, f_min_hz: float, f_max_hz: float) -> npt.NDArray[np.float32]:
    """Kaldi works in float32 all through, and narrow triangles have small weights, so the roundings are part of it."""
    mels = _kaldi_mels(np.arange(n_fft // 2 + 1) * (rate_hz / n_fft))
    low, high = _kaldi_mels(np.array([f_min_hz, f_max_hz]))
    corners = low + np.arange(n_mels + 2, dtype=np.float32) * ((high - low) / np.float32(n_mels + 1))
    left, centre, right = (corners[first : first + n_mels, None] for first in range(3))
    weights = np.where(mels <= centre, (mels - left) / (centre - left), (right - mels) / (right - centre))
    # The last bin, half the rate, is none of Kaldi's.
    inside = (mels > left) & (mels < right) & (np.arange(len(mels)) < n_fft // 2)
    return np.where(inside, weights, np.float32(0))


def _kaldi_mels(hz: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    ratio = np.float32(1) + hz.astype(np.float32) / np.float32(_HTK_HZ)
    # Logarithms of float64 differ between CPUs in their last bit, which rounding hides.
    return np.float32(_KALDI_FACTOR) * np.log(ratio.astype(np.float64)).astype(np.float32)


def to_mel(hz: float, scale: str) -> float:
    """Mel of a frequency by the scale 'slaney' or 'htk'; `to_hz` is the way back.

    >>> round(to_mel(1000.0, "slaney"), 3), round(to_mel(1000.0, "htk"), 3)
    (15.0, 999.986)
    """
    if scale == "htk":
        return float(_HTK_FACTOR * np.log10(1.0 + hz / _HTK_HZ))
    return _BREAK_MEL + float(np.log(hz / _BREAK_HZ)) / _LOG_STEP if hz >= _BREAK_HZ else hz / _LINEAR_HZ


def to_hz(mels: Array, scale: str) -> Array:
    """Frequencies in Hz, float64, of mels."""
    if scale == "htk":
        return np.asarray(_HTK_HZ * (10.0 ** (mels / _HTK_FACTOR) - 1.0))
    hz = _LINEAR_HZ * mels
    above = mels >= _BREAK_MEL
    hz[above] = _BREAK_HZ * np.exp(_LOG_STEP * (mels[above] - _BREAK_MEL))
    return np.asarray(hz)
