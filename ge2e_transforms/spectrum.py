"""Waveform to power in mel bands for FFTs of 512 points, compiled by Numba: what most of the recipe's time goes to.

A block of frames is worked on at once, a frame a lane, so that each step is the same for all lanes and the compiler
makes vector instructions of it. The inner loops have constant bounds and their arrays are parts of one, at constant
distances: so the compiler sees that they do not overlap.

The FFT of 512 real samples is one of 256 complex ones, of the even and the odd samples, in four passes of radix 4
(Stockham's form, which needs no reordering; Van Loan 1992, chapter 1.7), and a last step that takes the two apart.

Values do not depend on the CPU or on the width of its vectors, as lanes never meet and sums have a fixed order.
Waveforms are float32 `[n]`, power float32 `[frames, n_mels]`. It must not know of recipes, windows or mel scales.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from ge2e_transforms.compiled import compiled, part

N_FFT = 512
_HALF = N_FFT // 2
# Frames of a block: its arrays take 0.5 MiB of a core's cache, and loops of 64 are not unrolled, which would keep them
# scalar.
_LANES = 64
# Places of the arrays in one: real and imaginary parts before the FFT and from pass to pass, and power.
# They lie 80 numbers farther apart than they are long, so that not all meet in the same lines of the cache.
_SIZE = _HALF * _LANES + 80
_Z, _A, _B, _P = 0, 2 * _SIZE, 4 * _SIZE, 6 * _SIZE
_END = _P + _SIZE + _LANES
# Unsigned, so that nothing looks whether an index counts from the end.
_U = np.uintp
_L, _S, _TOP, _POWER = _U(_LANES), _U(_SIZE), _U(_HALF), _U(_P)


def _radix_4(length: int, source: int, target: int) -> Callable[..., None]:
    """One pass of radix 4 over transforms of `length`, from one place of the arrays to another."""
    quarter, stride = _U(length // 4), _U(_HALF // length * _LANES)
    one, two, three = quarter * stride, _U(2) * quarter * stride, _U(3) * quarter * stride
    real, imaginary = _U(source), _U(source + _SIZE)
    out_real, out_imaginary = _U(target), _U(target + _SIZE)
    four, second, third = _U(4) * stride, _U(2) * stride, _U(3) * stride

    def run(work: Any, twiddles: Any) -> None:
        for group in range(quarter):
            w1r, w1i, w2r, w2i, w3r, w3i = twiddles[group]
            for lane in range(stride):
                i, o = group * stride + lane, group * four + lane
                ar, ai = work[real + i], work[imaginary + i]
                br, bi = work[real + i + one], work[imaginary + i + one]
                cr, ci = work[real + i + two], work[imaginary + i + two]
                dr, di = work[real + i + three], work[imaginary + i + three]
                sr, si, tr, ti = ar + cr, ai + ci, ar - cr, ai - ci
                ur, ui, vr, vi = br + dr, bi + di, br - dr, bi - di
                work[out_real + o], work[out_imaginary + o] = sr + ur, si + ui
                xr, xi = tr + vi, ti - vr
                work[out_real + o + stride] = xr * w1r - xi * w1i
                work[out_imaginary + o + stride] = xr * w1i + xi * w1r
                xr, xi = sr - ur, si - ui
                work[out_real + o + second] = xr * w2r - xi * w2i
                work[out_imaginary + o + second] = xr * w2i + xi * w2r
                xr, xi = tr - vi, ti + vr
                work[out_real + o + third] = xr * w3r - xi * w3i
                work[out_imaginary + o + third] = xr * w3i + xi * w3r

    return part(run)


_PASSES = (256, 64, 16, 4)
_first, _second = _radix_4(256, _Z, _A), _radix_4(64, _A, _B)
_third, _fourth = _radix_4(16, _B, _A), _radix_4(4, _A, _B)


@part
def _load_block(work: Any, wave: Any, start: Any, hop: Any, window: Any, place: Any) -> None:
    """Windowed frames that lie a hop apart in a waveform to lanes: even samples to real parts, odd to imaginary."""
    for pair in range(_U(len(window) // 2)):
        even, at = start + _U(2) * pair, place + pair * _L
        weight, odd_weight = window[_U(2) * pair], window[_U(2) * pair + _U(1)]
        for lane in range(_L):
            work[at + lane] = wave[even + lane * hop] * weight
        for lane in range(_L):
            work[_S + at + lane] = wave[even + lane * hop + _U(1)] * odd_weight


@part
def _load_lane(work: Any, wave: Any, start: Any, lane: Any, window: Any, place: Any) -> None:
    for pair in range(_U(len(window) // 2)):
        even, at = start + _U(2) * pair, place + pair * _L + lane
        work[at] = wave[even] * window[_U(2) * pair]
        work[_S + at] = wave[even + _U(1)] * window[_U(2) * pair + _U(1)]


@part
def _take_apart(work: Any, low: Any, high: Any, target: Any, cosine: Any, sine: Any) -> None:
    """Power of the real transform at one frequency, from the complex one there and at its mirror image."""
    half = np.float32(0.5)
    real, mirror, power = _U(_B) + low * _L, _U(_B) + high * _L, _POWER + target * _L
    for lane in range(_L):
        ar, ai = work[real + lane], work[_S + real + lane]
        br, bi = work[mirror + lane], work[_S + mirror + lane]
        even_r, even_i = half * (ar + br), half * (ai - bi)
        odd_r, odd_i = half * (ai + bi), half * (br - ar)
        xr, xi = even_r + (cosine * odd_r - sine * odd_i), even_i + (cosine * odd_i + sine * odd_r)
        work[power + lane] = xr * xr + xi * xi


@part
def _power(work: Any, turns: Any) -> None:
    for k in range(_U(1), _TOP):
        _take_apart(work, k, _TOP - k, k, turns[k, _U(0)], turns[k, _U(1)])
    for lane in range(_L):
        real, imaginary = work[_U(_B) + lane], work[_U(_B) + _S + lane]
        work[_POWER + lane] = (real + imaginary) * (real + imaginary)
        work[_POWER + _TOP * _L + lane] = (real - imaginary) * (real - imaginary)


@part
def _bands(work: Any, sums: Any, out: Any, count: Any, first_bins: Any, starts: Any, weights: Any) -> None:
    for band in range(_U(len(first_bins))):
        for lane in range(_L):
            sums[lane] = 0
        start, term = _POWER + first_bins[band] * _L, starts[band]
        for at in range(start, start + (starts[band + _U(1)] - term) * _L, _L):
            weight = weights[term]
            for lane in range(_L):
                sums[lane] += weight * work[at + lane]
            term += _U(1)
        for lane in range(count):
            out[lane, band] = sums[lane]


@compiled
def mel_power(
    out: Any, head: Any, wave: Any, tail: Any, geometry: Any, window: Any, twiddles: Any, filters: Any
) -> None:
    """Fills `out`, float32 `[frames, n_mels]`, with the power in mel bands of frames that lie a hop apart.

    Args:
        out: C order.
        head: `[m]` float32, C order, with the frames before frame `first`; the first FFT begins at its start.
        wave: the same, with the frames from `first` to `last`; the first FFT begins at `wave_start`.
        tail: the same, with the frames from `last` on; the first FFT begins at `tail_start`.
        geometry: hop, first, wave_start, last, tail_start, and where the window begins in the FFT, an even number.
            `first` and `last` are numbers of frames, the others samples. An FFT may begin before its array: only
            samples under the window are read.
        window: float32, of even length.
        twiddles: as `twiddles` gives them.
        filters: as `bands` gives them.
    """
    hop, first, wave_start, last, tail_start, place = geometry
    first_bins, starts, weights = filters
    work, sums = np.zeros(_END, np.float32), np.zeros(_LANES, np.float32)
    at = _U(place // 2) * _L
    for block in range(0, len(out), _LANES):
        count = min(_LANES, len(out) - block)
        if block >= first and block + _LANES <= last:
            start = wave_start + (block - first) * hop + place
            _load_block(work, wave, _U(start), _U(hop), window, at)
        else:
            for lane in range(count):
                frame = block + lane
                if frame < first:
                    _load_lane(work, head, _U(frame * hop + place), _U(lane), window, at)
                elif frame < last:
                    _load_lane(work, wave, _U(wave_start + (frame - first) * hop + place), _U(lane), window, at)
                else:
                    _load_lane(work, tail, _U(tail_start + (frame - last) * hop + place), _U(lane), window, at)
        _first(work, twiddles[0])
        _second(work, twiddles[1])
        _third(work, twiddles[2])
        _fourth(work, twiddles[3])
        _power(work, twiddles[4])
        _bands(work, sums, out[block:], _U(count), first_bins, starts, weights)


@functools.cache
def twiddles() -> tuple[npt.NDArray[np.float32], ...]:
    """Factors of the four passes, `[length // 4, 6]` float32, and of the last step, `[257, 2]`."""
    found = [_turns(np.outer(np.arange(length // 4), (1, 2, 3)) / length).reshape(-1, 6) for length in _PASSES]
    return (*found, _turns(np.arange(_HALF + 1) / N_FFT))


def bands(filters: scipy.sparse.csr_array) -> tuple[npt.NDArray[Any], ...]:
    """First bin of each filter, where its weights begin, and the weights; each filter is one run of bins."""
    starts = filters.indptr.astype(_U)
    return filters.indices[filters.indptr[:-1]].astype(_U), starts, filters.data


def _turns(parts: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Cosine and sine of `-parts` of a turn, `[..., 2]`."""
    return np.stack([np.cos(2 * np.pi * parts), -np.sin(2 * np.pi * parts)], axis=-1).astype(np.float32)
