"""Waveform to log-mel or cepstral frames: the numeric kernel, filterbank and window built once.

Values do not depend on the CPU: every sum has a fixed order (no BLAS; the mel product is a sparse one),
single-precision work is add and multiply only, the FFT is scipy's, and the logarithm is rounded
correctly (`rounded_log`). So a dataset has the same bytes whichever machines made it.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.signal
import scipy.sparse

from ge2e_transforms.config import Recipe, n_frames
from ge2e_transforms.errors import ConfigError

Frames: TypeAlias = npt.NDArray[np.float32]

# Frames handled at a time: 256 windows of 512 float32 and their spectra stay in a 2 MiB L2 cache.
_BLOCK = 256
# A float64 has 29 bits more than a float32; half a unit of the latter is bit 28 of them. A logarithm
# whose lower bits are this close to a half may be rounded either way by libraries that differ in the last bits.
_TAIL, _HALF, _DOUBT = (1 << 29) - 1, 1 << 28, 1 << 4


class FeatureKernel:
    """Frames of one waveform: windowed FFT, power, mel filterbank, logarithm and, for MFCC, DCT.

    Args:
        recipe: its `feature` stage and sample rate are used.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        config = recipe.feature
        self._hop = recipe.hop_samples
        self._n_fft = config.n_fft
        # Where the window lies in the FFT: in its middle, as librosa.util.pad_center puts it.
        self._first = (config.n_fft - recipe.window_samples) // 2
        self._window = scipy.signal.get_window(config.window, recipe.window_samples).astype(np.float32)
        self._filters = mel_filterbank(recipe)

    def __call__(self, waveform: npt.NDArray[np.float32]) -> Frames:
        """Features `[frames, bins]` float32, C order, of a mono waveform `[n]` float32 in [-1, 1].

        `frames` is `config.n_frames(n, recipe)`; `bins` is n_mels or n_mfcc.
        """
        padded = self._pad(waveform)
        total = n_frames(len(waveform), self._recipe)
        mel = np.empty((total, self._recipe.feature.n_mels), dtype=np.float32)
        # One row per frame, only the samples under the window: a view, nothing is copied.
        shape, strides = (total, len(self._window)), (padded.strides[0] * self._hop, padded.strides[0])
        frames = np.lib.stride_tricks.as_strided(padded[self._first :], shape, strides, writeable=False)
        windowed = np.zeros((min(_BLOCK, total), self._n_fft), dtype=np.float32)
        inside = slice(self._first, self._first + len(self._window))
        for start in range(0, total, _BLOCK):
            block = frames[start : start + _BLOCK]
            np.multiply(block, self._window, out=windowed[: len(block), inside])
            mel[start : start + _BLOCK] = self._mel_power(windowed[: len(block)])
        return self._compress(mel)

    def _pad(self, waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        config = self._recipe.feature
        if not config.center:
            return np.ascontiguousarray(waveform)
        half = config.n_fft // 2
        if config.pad_mode == "reflect":
            return np.pad(waveform, half, mode="reflect")
        padded = np.zeros(len(waveform) + 2 * half, dtype=np.float32)
        padded[half : half + len(waveform)] = waveform
        return padded

    def _mel_power(self, windowed: npt.NDArray[np.float32]) -> Frames:
        spectrum = scipy.fft.rfft(windowed, axis=1, workers=1)
        power = np.square(spectrum.real)
        power += np.square(spectrum.imag)
        return np.asarray((self._filters @ power.T).T)

    def _compress(self, mel: Frames) -> Frames:
        config = self._recipe.feature
        if config.log != "none":
            floor = np.float32(config.floor)
            mel = rounded_log(mel + floor if config.floor_kind == "add" else np.maximum(mel, floor), config.log)
        if config.features == "mfcc":
            cepstrum = scipy.fft.dct(mel.astype(np.float64), type=2, norm="ortho", axis=1)
            return np.ascontiguousarray(cepstrum[:, : config.n_mfcc], dtype=np.float32)
        return mel


def mel_filterbank(recipe: Recipe) -> scipy.sparse.csr_array:
    """Triangular filters as librosa has them, sparse `[n_mels, n_fft // 2 + 1]` float32.

    A dense product would go through BLAS, whose kernels add in another order on another CPU; three
    quarters of its terms would be zeros, too.

    Raises:
        ConfigError: a filter is narrower than the bins of the FFT.
    """
    from librosa.filters import mel

    config = recipe.feature
    dense = mel(
        sr=recipe.audio.sample_rate_hz,
        n_fft=config.n_fft,
        n_mels=config.n_mels,
        fmin=config.f_min_hz,
        fmax=recipe.f_max_hz,
        htk=config.mel_scale == "htk",
        norm=None if config.mel_norm == "none" else config.mel_norm,
        dtype=np.float32,
    )
    empty = np.flatnonzero(~dense.any(axis=1))
    if len(empty):
        raise ConfigError(
            f"n_mels={config.n_mels}, n_fft={config.n_fft} cannot be used together: {len(empty)} mel bands, number "
            f"{empty[0]} first, hold no FFT bin and would be constant. Expected fewer bands or a longer FFT"
        )
    return scipy.sparse.csr_array(dense)


_LOGS: dict[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {"log10": np.log10, "ln": np.log}


def rounded_log(values: Frames, base: str) -> Frames:
    """Correctly rounded float32 logarithm of positive float32 values, base 'log10' or 'ln'.

    Taken in float64, whose libraries differ between CPUs by a unit in the last place; rounding to
    float32 hides that except where the float64 lies within a hair of the middle between two float32.
    Those few (about one in 10^7) are taken again with 40 decimal digits.
    """
    exact = _LOGS[base](values.astype(np.float64))
    rounded = exact.astype(np.float32)
    tail = exact.view(np.int64) & _TAIL
    doubtful = np.flatnonzero((tail > _HALF - _DOUBT) & (tail < _HALF + _DOUBT))
    for place in doubtful:
        rounded.flat[place] = _decimal_log(float(values.flat[place]), base)
    return rounded


def _decimal_log(value: float, base: str) -> np.float32:
    with decimal.localcontext() as context:
        context.prec = 40
        number = decimal.Decimal(value)
        logarithm = number.log10() if base == "log10" else number.ln()
    # Through float64 first: 40 digits are never exactly half-way, so rounding twice is only wrong where
    # the float64 is, which the comparison with the exact digits below excludes.
    near = np.float32(float(logarithm))
    candidates = (np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf)))
    return min(candidates, key=lambda candidate: abs(decimal.Decimal(float(candidate)) - logarithm))
