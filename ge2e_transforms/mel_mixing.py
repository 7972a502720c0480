"""Noise and changes of level on crops of stored log-mels: in linear power, crop by crop, compiled.

The logarithm is undone, power is mixed and multiplied, and the logarithm is taken again, in arrays that stay in a
core's first cache. Exponential and logarithm are polynomials of sums and products in a fixed order: so the compiler
makes vector instructions of them, and values do not depend on the CPU. It must not know what was drawn. Crops are
float32, `[n, bands, frames]` or `[n, frames, bands]`; changes are in decibels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ge2e_transforms import filterbank
from ge2e_transforms.checks import check
from ge2e_transforms.compiled import compiled, part
from ge2e_transforms.config import Recipe
from ge2e_transforms.reading import Values, silence

Floats = npt.NDArray[np.float32]

# Units of the logarithm to base 2 in one of the stored logarithm.
_UNITS = {"log10": math.log2(10), "ln": math.log2(math.e), "db": math.log2(10) / 10, "none": 0.0}
_DECIBEL = np.float32(_UNITS["db"])
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
# Logarithms to base 2 beyond these are of no power that a recipe gives, and would leave what float32 holds.
_LIMIT = np.float32(100)
_MOST = float(np.finfo(np.float32).max)
# 2^x for x in [-0.5, 0.5] and ln(1 + x) for 1 + x in [sqrt(0.5), sqrt(2)], to a unit in the last place: the polynomials
# of exp2f and logf of Moshier's Cephes library, the highest power first.
_EXP = tuple(map(np.float32, (1.535336188319500e-4, 1.339887440266574e-3, 9.618437357674640e-3)))
_EXP += tuple(map(np.float32, (5.550332471162809e-2, 2.402264791363012e-1, 6.931472028550421e-1)))
_LOG = tuple(map(np.float32, (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1)))
_LOG += tuple(map(np.float32, (-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)))
_LOG2_E = np.float32(math.log2(math.e))
# A float32 is 2^(exponent - 127), in bits 23 to 30, times its fraction. The bits of sqrt(0.5) as an integer.
_BIAS, _FRACTION, _ROOT = np.int32(127), np.int32(23), np.int32(0x3F3504F3)


class MelMixing:
    """What is done to crops of the log-mels of one recipe.

    Args:
        recipe: with features 'logmel'.
    """

    def __init__(self, recipe: Recipe) -> None:
        config = recipe.feature
        unit = _UNITS[config.log]
        added = config.floor if config.floor_kind == "add" else 0.0
        back = 1 / unit if unit else 0.0
        # What is stored of silence, by the type that it is stored as, and what is below, hold no power.
        form = (unit, back, float(silence(recipe)[0]), added, config.floor)
        self._form = tuple(map(np.float32, form))
        self._weights = band_weights(recipe)
        # A recipe that only raises leaves what is loud as it is, and noise makes louder: there is nothing to undo.
        self._levels = recipe.level.level_dbfs is not None and recipe.level.level_mode == "set"

    def apply(
        self,
        examples: Values,
        time_axis: int,
        decibels: Floats | None,
        noise: Values,
        noisy: npt.NDArray[np.int64],
        snr_db: Floats,
    ) -> None:
        """Changes crops in place: noise first, then the level of each band.

        Power of speech and noise is that of their spectra (`band_weights`), summed over the crop. Noise is added so
        that their ratio is as asked for; where the recipe sets a level, the mixture then gets the power that the speech
        had. A crop stays without noise where it, or its noise, is silent. A crop that nothing is done to keeps its
        bits.

        Args:
            examples: float32 `[n, bands, frames]`, or `[n, frames, bands]` with `time_axis=1`; in C order.
            time_axis: 2 or 1, the axis of frames.
            decibels: float32 `[n, bands]`, what the power of each band is multiplied by; None leaves it alone.
            noise: float32 `[k, ...]`, crops as those of the examples.
            noisy: int64 `[k]`, the number of the crop that each is mixed into, none twice.
            snr_db: float32 `[k]`, speech to noise.

        Raises:
            ConfigError: examples in another order than C's.
        """
        check(examples.flags.c_contiguous, "examples", f"of strides {examples.strides}", "an array in C order")
        n, outer, inner = examples.shape
        which = np.full(n, -1)
        which[noisy] = np.arange(len(noisy))
        bands_first = time_axis == 2
        weights = self._weights, np.ones(inner if bands_first else outer, dtype=np.float32)
        outer_weights, inner_weights = weights if bands_first else weights[::-1]
        changes = np.empty((0, 0), dtype=np.float32) if decibels is None else decibels
        _mix_crops(
            examples.reshape(n, outer * inner),
            noise.reshape(len(noise), outer * inner),
            which,
            snr_db,
            (outer_weights, inner_weights),
            changes,
            bands_first,
            self._levels,
            self._form,
        )


def band_weights(recipe: Recipe) -> Floats:
    """What makes the sum over bands the power of the spectrum of the waveform: float32 `[bands]`.

    Triangles of height 1 add up to 1 at each frequency between the middles of the first and the last; 'slaney' gives
    them other heights, and pre-emphasis weakens what they take. The weight of a band undoes both, for a spectrum that
    is flat within the band.
    """
    config, rate_hz = recipe.feature, recipe.audio.sample_rate_hz

    def triangles(norm: str) -> npt.NDArray[np.float32]:
        return filterbank.mel_filters(
            rate_hz, config.n_fft, config.n_mels, config.f_min_hz, recipe.f_max_hz, scale=config.mel_scale, norm=norm
        )

    turns = np.arange(config.n_fft // 2 + 1) / config.n_fft
    emphasis = config.pre_emphasis
    response = 1 + emphasis * emphasis - 2 * emphasis * np.cos(2 * np.pi * turns)
    taken = (triangles(config.mel_norm) * response).sum(axis=1)
    return np.asarray(triangles("none").sum(axis=1, dtype=np.float64) / taken, dtype=np.float32)


@part
def _exp2(x: Any) -> Any:
    """2^x of float32 x, limited to what fits."""
    x = min(max(x, -_LIMIT), _LIMIT)
    whole = np.floor(x + _HALF)
    x = x - whole
    sum_ = _EXP[0]
    sum_ = sum_ * x + _EXP[1]
    sum_ = sum_ * x + _EXP[2]
    sum_ = sum_ * x + _EXP[3]
    sum_ = sum_ * x + _EXP[4]
    sum_ = sum_ * x + _EXP[5]
    sum_ = sum_ * x + _ONE
    return sum_ * np.int32((np.int32(whole) + _BIAS) << _FRACTION).view(np.float32)


@part
def _log2(y: Any) -> Any:
    """Of float32 y > 0 that is no less than a normal number."""
    bits = np.float32(y).view(np.int32)
    exponent = np.int32(np.int32(bits - _ROOT) >> _FRACTION)
    x = np.int32(bits - np.int32(exponent << _FRACTION)).view(np.float32) - _ONE
    sum_ = _LOG[0]
    sum_ = sum_ * x + _LOG[1]
    sum_ = sum_ * x + _LOG[2]
    sum_ = sum_ * x + _LOG[3]
    sum_ = sum_ * x + _LOG[4]
    sum_ = sum_ * x + _LOG[5]
    sum_ = sum_ * x + _LOG[6]
    sum_ = sum_ * x + _LOG[7]
    sum_ = sum_ * x + _LOG[8]
    square = x * x
    return (x + (x * sum_ * square - _HALF * square)) * _LOG2_E + np.float32(exponent)


@part
def _to_power(stored: Any, power: Any, form: Any) -> None:
    unit, _, lowest, added, _ = form
    if unit == _ZERO:
        for at in range(len(power)):
            power[at] = max(stored[at], _ZERO)
    else:
        for at in range(len(power)):
            found = max(_exp2(stored[at] * unit) - added, _ZERO)
            power[at] = found if stored[at] > lowest else _ZERO


@part
def _to_stored(power: Any, stored: Any, form: Any) -> None:
    unit, back, _, added, floor = form
    if unit == _ZERO:
        for at in range(len(power)):
            stored[at] = power[at]
    else:
        for at in range(len(power)):
            stored[at] = _log2(max(power[at] + added, floor)) * back


@part
def _power_of(crop: Any, weights: Any, lanes: Any) -> Any:
    outer_weights, inner_weights = weights
    lanes[:] = 0
    for row in range(len(crop)):
        weight = outer_weights[row]
        for at in range(len(lanes)):
            lanes[at] += weight * crop[row, at]
    total = 0.0
    for at in range(len(lanes)):
        total += lanes[at] * inner_weights[at]
    return total


@part
def _multiply(crop: Any, decibels: Any, bands_first: Any, factors: Any) -> None:
    for band in range(len(decibels)):
        factors[band] = _exp2(decibels[band] * _DECIBEL)
    for row in range(len(crop)):
        if bands_first:
            factor = factors[row]
            for at in range(crop.shape[1]):
                crop[row, at] *= factor
        else:
            for at in range(crop.shape[1]):
                crop[row, at] *= factors[at]


@compiled
def _mix_crops(
    examples: Any,
    noise: Any,
    which: Any,
    snr_db: Any,
    weights: Any,
    changes: Any,
    bands_first: Any,
    levels: Any,
    form: Any,
) -> None:
    shape = len(weights[0]), len(weights[1])
    speech, other = np.empty(examples.shape[1], np.float32), np.empty(examples.shape[1], np.float32)
    lanes, factors = np.empty(shape[1], np.float32), np.empty(changes.shape[1], np.float32)
    for crop in range(len(examples)):
        number, touched = which[crop], len(changes) > 0
        if number < 0 and not touched:
            continue
        _to_power(examples[crop], speech, form)
        if number >= 0:
            _to_power(noise[number], other, form)
            spoken = _power_of(speech.reshape(shape), weights, lanes)
            noisy = _power_of(other.reshape(shape), weights, lanes)
            if spoken > 0 and noisy > 0:
                ratio = _exp2(-snr_db[number] * _DECIBEL)
                scale = _ONE / (_ONE + ratio) if levels else _ONE
                gain = np.float32(min(scale * ratio * (spoken / noisy), _MOST))
                for at in range(len(speech)):
                    speech[at] = speech[at] * scale + other[at] * gain
                touched = True
        if touched:
            if len(changes) > 0:
                _multiply(speech.reshape(shape), changes[crop], bands_first, factors)
            _to_stored(speech, examples[crop], form)
