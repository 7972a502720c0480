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
import scipy.sparse

from ge2e_transforms import filterbank
from ge2e_transforms.config import Recipe, n_frames
from ge2e_transforms.errors import ConfigError

Frames: TypeAlias = npt.NDArray[np.float32]

# Frames handled at a time: 128 windows of 512 float32, their spectra and power are 0.8 MiB, which stays in an L2 cache.
_BLOCK = 128
# A float64 has 29 bits more than a float32; half a unit of the latter is bit 28 of them. A logarithm
# whose lower bits are this close to a half may be rounded either way by libraries that differ in the last bits.
_TAIL, _HALF, _DOUBT = np.uint64((1 << 29) - 1), 1 << 28, 1 << 4
_LOWEST, _DOUBTFUL = np.uint64(_HALF - _DOUBT + 1), np.uint64(2 * _DOUBT - 1)


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
        # Where the window lies in the FFT: in its middle, as `librosa.util.pad_center` puts it.
        self._first = (config.n_fft - recipe.window_samples) // 2
        self._window = filterbank.window(config.window, recipe.window_samples)
        self._filters = mel_filterbank(recipe)

    def __call__(self, waveform: npt.NDArray[np.float32]) -> Frames:
        """Features `[frames, bins]` float32, C order, of a mono waveform `[n]` float32 in [-1, 1].

        `frames` is `config.n_frames(n, recipe)`; `bins` is n_mels or n_mfcc. Several waveforms of one length,
        `[k, n]`, give `[k, frames, bins]`.
        """
        pieces = waveform[None] if waveform.ndim == 1 else waveform
        total = n_frames(pieces.shape[1], self._recipe)
        features = np.empty((len(pieces), total, self._recipe.n_bins), dtype=np.float32)
        runs = self._runs(pieces, total) if total else []
        at_once, rows = max(1, _BLOCK // max(total, 1)), min(_BLOCK, total)
        windowed = np.zeros((min(at_once, len(pieces)) * rows, self._n_fft), dtype=np.float32)
        for first in range(0, len(pieces), at_once):
            chosen = slice(first, first + at_once)
            for start in range(0, total, _BLOCK):
                part = features[chosen, start : start + _BLOCK]
                block = windowed[: part.shape[0] * part.shape[1]]
                self._window_frames(runs, chosen, start, block.reshape(*part.shape[:2], self._n_fft))
                part[:] = self._compress(self._mel_power(block)).reshape(part.shape)
        return features.reshape(*waveform.shape[:-1], total, self._recipe.n_bins)

    def _runs(self, pieces: Frames, total: int) -> list[tuple[int, Frames]]:
        """Frames as views `[k, frames, window]` of the pieces, where nothing is copied, with their first numbers.

        Only the few frames at the ends that reach over them are those of a padded copy.
        """
        n = pieces.shape[1]
        before = self._n_fft // 2 if self._recipe.feature.center else 0
        first, last = -(-before // self._hop), (n + before - self._n_fft) // self._hop + 1
        if first >= last:
            return [(0, self._view(self._pad(pieces, before, before), 0, total))]
        # Samples enough for the frames at either end, and for what reflection takes from there.
        some = min(n, 2 * self._n_fft + self._hop)
        head = self._view(self._pad(pieces[:, :some], before, 0), 0, first)
        inner = self._view(pieces, first * self._hop - before, last - first)
        tail_pieces = self._pad(pieces[:, n - some :], 0, before)
        tail = self._view(tail_pieces, last * self._hop - before - (n - some), total - last)
        return [(0, head), (first, inner), (last, tail)]

    def _view(self, padded: Frames, start: int, count: int) -> Frames:
        """`count` frames, a hop apart, of which the first FFT begins at `start`: only the samples under the window."""
        row, sample = padded.strides
        return np.lib.stride_tricks.as_strided(
            padded[:, start + self._first :],
            (len(padded), count, len(self._window)),
            (row, sample * self._hop, sample),
            writeable=False,
        )

    def _pad(self, pieces: Frames, before: int, after: int) -> Frames:
        length = pieces.shape[1]
        reflect = self._recipe.feature.pad_mode == "reflect"
        if reflect and length <= max(before, after):  # reflected more than once
            return np.pad(pieces, ((0, 0), (before, after)), mode="reflect")
        padded = np.zeros((len(pieces), before + length + after), dtype=np.float32)
        padded[:, before : before + length] = pieces
        if reflect:
            padded[:, :before] = pieces[:, 1 : 1 + before][:, ::-1]
            padded[:, before + length :] = pieces[:, length - 1 - after : length - 1][:, ::-1]
        return padded

    def _window_frames(self, runs: list[tuple[int, Frames]], pieces: slice, start: int, block: Frames) -> None:
        """Fills a block `[pieces, frames, n_fft]` with the windowed frames from number `start` on."""
        inside = block[:, :, self._first : self._first + len(self._window)]
        for number, frames in runs:
            low, high = max(number, start), min(number + frames.shape[1], start + block.shape[1])
            if low < high:
                chosen = frames[pieces, low - number : high - number]
                np.multiply(chosen, self._window, out=inside[:, low - start : high - start])

    def _mel_power(self, windowed: Frames) -> Frames:
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
    config = recipe.feature
    dense = filterbank.mel_filters(
        recipe.audio.sample_rate_hz,
        config.n_fft,
        config.n_mels,
        config.f_min_hz,
        recipe.f_max_hz,
        scale=config.mel_scale,
        norm=config.mel_norm,
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
    tail = exact.view(np.uint64) - _LOWEST
    tail &= _TAIL
    for place in np.flatnonzero(tail < _DOUBTFUL):
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
