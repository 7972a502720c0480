"""Waveform to log-mel or cepstral frames: the numeric kernel, filterbank and window built once.

Values do not depend on the CPU: every sum has a fixed order (no BLAS; the mel product is a sparse one),
single-precision work is add and multiply only, and the logarithm is rounded correctly (`rounded_log`). So a
dataset has the same bytes whichever machines made it. Waveforms are float32 `[n]` in [-1, 1], features float32
`[frames, bins]`. It must not know of voice, levels or segments.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse

from ge2e_transforms import filterbank, frames, spectrum
from ge2e_transforms.config import Recipe, n_frames
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.feature_kinds import FEATURE_KINDS
from ge2e_transforms.schema import PCM16_SCALE

Frames: TypeAlias = npt.NDArray[np.float32]

# Frames that SciPy's FFT is given at a time, that are conditioned at a time, and rows whose logarithm is taken: what
# stays in the cache of a core.
_BLOCK, _CONDITIONED, _LOG_ROWS = 128, 256, 512
# What samples are multiplied by, at no cost: the weights of the window are. It is a power of two, so no bit is lost.
SCALES = {"unit": np.float32(1), "pcm16": np.float32(PCM16_SCALE)}
# A float64 has 29 bits more than a float32; half a unit of the latter is bit 28 of them. A logarithm
# whose lower bits are this close to a half may be rounded either way by libraries that differ in the last bits.
_TAIL, _HALF, _DOUBT = np.uint64((1 << 29) - 1), 1 << 28, 1 << 4
_LOWEST, _DOUBTFUL = np.uint64(_HALF - _DOUBT + 1), np.uint64(2 * _DOUBT - 1)


class _Runs(NamedTuple):
    """Where the frames of waveforms `[k, n]` lie: those at the ends in padded copies, the others in place.

    Frames before `first` are a hop apart in `head` from 0 on, those from `last` on in `tail` from `tail_start` on, and
    those between them in the waveforms from `inner_start` on. Each position is that of the FFT's first sample.
    """

    head: Frames
    first: int
    inner_start: int
    last: int
    tail: Frames
    tail_start: int


class FeatureKernel:
    """Frames of one waveform: windowed FFT, power, mel filterbank, logarithm and, for MFCC, DCT.

    FFTs of 512 points go through `spectrum`, which is compiled; others through SciPy's FFT.

    Args:
        recipe: its `feature` stage and sample rate are used.

    Raises:
        ConfigError: as `mel_filterbank`.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        config = recipe.feature
        self._hop = recipe.hop_samples
        self._n_fft = config.n_fft
        self._inside = recipe.window_samples
        window = filterbank.window(config.window, self._inside, config.window_form) * SCALES[config.scale]
        # Where the window lies in the FFT: in its middle, as `librosa.util.pad_center` puts it, or at its start. Zeros
        # make its place and its length even.
        first = 0 if config.snip == "window" else (config.n_fft - self._inside) // 2
        before = first % 2
        self._first, self._before = first - before, before
        self._window = np.pad(window, (before, (before + len(window)) % 2))
        # What of the waveform a frame reads from its first sample on; a zero behind an odd window is read as well.
        self._span = len(self._window) if config.snip == "window" else config.n_fft
        self._conditions = config.frame_dc or (config.pre_emphasis > 0 and config.pre_emphasis_in == "frame")
        self._filters = mel_filterbank(recipe)
        self._bands = spectrum.bands(self._filters)

    def __call__(self, waveform: npt.NDArray[np.float32]) -> Frames:
        """Features `[frames, bins]` float32, C order, of a mono waveform `[n]` float32 in [-1, 1].

        `frames` is `config.n_frames(n, recipe)`; `bins` is n_mels or n_mfcc. Several waveforms of one length,
        `[k, n]`, give `[k, frames, bins]`.
        """
        # Compiled code is made for one kind of array.
        waveform = np.require(waveform, np.float32, ("C", "W"))
        pieces = waveform[None] if waveform.ndim == 1 else waveform
        total = n_frames(pieces.shape[1], self._recipe)
        mel = np.empty((len(pieces), total, self._recipe.feature.n_mels), dtype=np.float32)
        if total:
            self._fill(mel, pieces, self._runs(pieces, total))
        rows = mel.reshape(-1, mel.shape[2])
        features = np.empty((len(rows), self._recipe.n_bins), dtype=np.float32)
        for start in range(0, len(rows), _LOG_ROWS):
            features[start : start + _LOG_ROWS] = self._compress(rows[start : start + _LOG_ROWS])
        return features.reshape(*waveform.shape[:-1], total, self._recipe.n_bins)

    def _runs(self, pieces: Frames, total: int) -> _Runs:
        n = pieces.shape[1]
        before = self._n_fft // 2 if self._recipe.feature.center else 0
        after = before + self._span - self._recipe.frame_samples
        first, last = -(-before // self._hop), (n + before - self._span) // self._hop + 1
        if first >= last:
            padded = self._pad(pieces, before, after)
            return _Runs(padded, total, 0, total, padded, 0)
        # Samples enough for the frames at either end, and for what reflection takes from there.
        some = min(n, 2 * self._n_fft + self._hop)
        head, tail = self._pad(pieces[:, :some], before, 0), self._pad(pieces[:, n - some :], 0, after)
        return _Runs(head, first, first * self._hop - before, last, tail, last * self._hop - before - (n - some))

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

    def _fill(self, mel: Frames, pieces: Frames, runs: _Runs) -> None:
        compiled = self._n_fft == spectrum.N_FFT
        if compiled and not self._conditions:
            place = (self._hop, runs.first, runs.inner_start, runs.last, runs.tail_start, self._first)
            for out, head, piece, tail in zip(mel, runs.head, pieces, runs.tail, strict=True):
                spectrum.mel_power(out, head, piece, tail, place, self._window, spectrum.twiddles(), self._bands)
            return
        for out, head, piece, tail in zip(mel, runs.head, pieces, runs.tail, strict=True):
            for source, start, first, last in (
                (head, 0, 0, runs.first),
                (piece, runs.inner_start, runs.first, runs.last),
                (tail, runs.tail_start, runs.last, len(out)),
            ):
                if self._conditions:
                    self._fill_conditioned(out[first:last], source, start)
                else:
                    self._fill_by_scipy(out[first:last], self._view(source, start, last - first))

    def _fill_conditioned(self, out: Frames, source: Frames, start: int) -> None:
        """Frames of a source from `start` on: each conditioned, and laid beside the one before it."""
        width = len(self._window)
        laid = np.zeros((min(_CONDITIONED, len(out)), width), dtype=np.float32)
        inside = (self._before, self._inside)
        config = self._recipe.feature
        emphasis = config.pre_emphasis if config.pre_emphasis_in == "frame" else 0.0
        for row in range(0, len(out), _CONDITIONED):
            block = laid[: len(out) - row]
            place = start + row * self._hop + self._first + self._before
            frames.condition(block, inside, source, (place, self._hop), config.frame_dc, emphasis)
            rows = out[row : row + len(block)]
            if self._n_fft == spectrum.N_FFT:
                flat, geometry = block.reshape(-1), (width, 0, -self._first, len(block), 0, self._first)
                spectrum.mel_power(rows, flat, flat, flat, geometry, self._window, spectrum.twiddles(), self._bands)
            else:
                self._fill_by_scipy(rows, block)

    def _fill_by_scipy(self, out: Frames, frames: Frames) -> None:
        windowed = np.zeros((min(_BLOCK, len(out)), self._n_fft), dtype=np.float32)
        inside = slice(self._first, self._first + len(self._window))
        for row in range(0, len(out), _BLOCK):
            block = windowed[: min(_BLOCK, len(out) - row)]
            np.multiply(frames[row : row + _BLOCK], self._window, out=block[:, inside])
            out[row : row + len(block)] = self._mel_power(block)

    def _view(self, source: Frames, start: int, count: int) -> Frames:
        """`count` frames, a hop apart, of which the first FFT begins at `start`: only the samples under the window."""
        return np.lib.stride_tricks.as_strided(
            source[start + self._first :],
            (count, len(self._window)),
            (source.strides[0] * self._hop, source.strides[0]),
            writeable=False,
        )

    def _mel_power(self, windowed: Frames) -> Frames:
        import scipy.fft  # takes as long to import as all other modules of a worker beside Beam

        power = scipy.fft.rfft(windowed, axis=1, workers=1)
        square = np.square(power.real)
        square += np.square(power.imag)
        return np.asarray((self._filters @ square.T).T)

    def _compress(self, mel: Frames) -> Frames:
        config = self._recipe.feature
        if config.log != "none":
            floor = np.float32(config.floor)
            mel = rounded_log(mel + floor if config.floor_kind == "add" else np.maximum(mel, floor), config.log)
        of_bands = FEATURE_KINDS[config.features].of_bands
        return mel if of_bands is None else of_bands(mel, config)


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


_LOGS: dict[str, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "log10": np.log10,
    "ln": np.log,
    "db": lambda values: np.log10(values) * 10.0,
}


def rounded_log(values: Frames, base: str) -> Frames:
    """Correctly rounded float32 logarithm of positive float32 values: 'log10', 'ln', or 'db' for 10 log10.

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
        logarithm = number.ln() if base == "ln" else number.log10() * (10 if base == "db" else 1)
    # Through float64 first: 40 digits are never exactly half-way, so rounding twice is only wrong where
    # the float64 is, which the comparison with the exact digits below excludes.
    near = np.float32(float(logarithm))
    candidates = (np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf)))
    return min(candidates, key=lambda candidate: abs(decimal.Decimal(float(candidate)) - logarithm))
