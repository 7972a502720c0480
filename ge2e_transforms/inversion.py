"""Stored features to a waveform that one can listen to: mel bands to a spectrum, and a phase by Griffin-Lim.

What features do not hold is guessed: phases, harmonics that share a band, power below the floor. So nothing that is
stored is ever made of this. It must not know of datasets, records or files.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse

from ge2e_transforms.checks import check_integer, check_one_of
from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import CorruptRecordError
from ge2e_transforms.feature_kinds import FEATURE_KINDS
from ge2e_transforms.features import SCALES, mel_filterbank
from ge2e_transforms.filterbank import window

Values = npt.NDArray[np.floating[Any]]
Powers = npt.NDArray[np.float64]

# Of Griffin-Lim: four times as many take a sixth off the error of 60 (benchmarks/listen.py).
ITERATIONS = 60
# Steps from mel bands to a spectrum, after which bands of real speech are off by less than 0.001 in log10 on average.
_STEPS = 30
# Frames that are worked on together: what stays in the cache of a core.
_BLOCK = 512
# No waveform has this much: full scale gives at most n_fft^2 = 2^32 a bin, in no more than 2^15 bins.
_MOST_POWER = 1e30
# Keeps divisors above 0.
_TINY = 1e-300
_INVERSE = {name: kind.to_bands for name, kind in FEATURE_KINDS.items() if kind.to_bands}


def waveform(values: Values, recipe: Recipe, iterations: int = ITERATIONS, seed: int = 0) -> npt.NDArray[np.float32]:
    """A waveform whose features are near to the ones given.

    From MFCC it is coarse: the coefficients that are not kept count as 0, which smooths the bands.

    Args:
        values: `[rows, bins]`, frames that follow one another, as the recipe's extractor gives them.
        recipe: its `feature` stage and sample rate are used. Pre-emphasis is undone; mean and level stay as trained on.
        iterations: of Griffin-Lim, from 1 on.
        seed: of the phases that it begins with.

    Returns:
        `[n]` float32, of as many frames: a hop between two of them, and where they are not centred a whole last one.
        Mostly within [-1, 1], which nothing guarantees.

    Raises:
        ConfigError: raw features, which are a waveform; `iterations` or `seed` out of range.
        CorruptRecordError: NaN, infinity, or more power than a waveform in [-1, 1] can have.
        ModuleNotFoundError: librosa, of the extra `listen`, is not installed.
    """
    import librosa

    check_one_of("features", recipe.feature.features, tuple(_INVERSE))
    check_integer("iterations", iterations, 1, 1 << 16)
    check_integer("seed", seed, 0, 1 << 64)
    feature, ends = recipe.feature, _ends(recipe, len(values))
    magnitude = np.sqrt(spectrum_of(mel_power(values, recipe), recipe)).astype(np.float32)
    sound = librosa.griffinlim(
        np.pad(magnitude, ((0, 0), (ends.before, ends.after)), mode="edge"),
        n_iter=iterations,
        hop_length=recipe.hop_samples,
        win_length=recipe.window_samples,
        n_fft=feature.n_fft,
        window=window(feature.window, recipe.window_samples, feature.window_form),
        center=True,
        pad_mode=feature.pad_mode,
        random_state=np.random.Generator(np.random.PCG64(seed)),
    )
    return np.asarray(sound[ends.start : ends.start + ends.length], dtype=np.float32)


class _Ends(NamedTuple):
    """Copies of the first and of the last frame that are added, and what of the sound is then taken."""

    before: int
    after: int
    start: int
    length: int


def _ends(recipe: Recipe, rows: int) -> _Ends:
    """For frames that are always centred while phases are sought, and no fewer than an FFT is long.

    Not centred, the first and the last window would lie alone at the ends, where what is added up is divided by next to
    nothing.
    """
    hop, first_centre = recipe.hop_samples, recipe.first_centre
    before = -(-first_centre // hop)
    start = before * hop - first_centre
    # One centred frame stands for less than a hop.
    length = max(rows - 1, 1) * hop if recipe.feature.center else (rows - 1) * hop + recipe.frame_samples
    frames = 1 + -(-max(start + length, recipe.feature.n_fft) // hop)
    return _Ends(before, max(0, frames - before - rows), start, length)


def mel_power(values: Values, recipe: Recipe) -> Powers:
    """Power in mel bands, `[rows, n_mels]` float64, of samples in [-1, 1] before DCT, logarithm and floor.

    A floor that was added is subtracted; of what a floor replaced, the floor is left.

    Raises:
        CorruptRecordError: NaN, infinity, or more power than a waveform in [-1, 1] can have.
    """
    config = recipe.feature
    bands = np.asarray(values, dtype=np.float64)
    bands = _INVERSE[config.features](bands, config)
    if config.log != "none":
        with np.errstate(over="ignore"):
            power = np.exp(bands * {"ln": 1.0, "log10": math.log(10), "db": math.log(10) / 10}[config.log])
        power -= config.floor if config.floor_kind == "add" else 0.0
    else:
        power = bands
    power = np.maximum(power, 0) / float(SCALES[config.scale]) ** 2
    if not power.max(initial=0) < _MOST_POWER:  # NaN is no less
        raise CorruptRecordError(
            f"expected features of a waveform in [-1, 1], got a power of {power.max():g} in a mel band: the record is "
            "damaged, or of another recipe"
        )
    return power


def spectrum_of(mel: Powers, recipe: Recipe) -> Powers:
    """A power spectrum `[n_fft // 2 + 1, rows]` with the given power in its mel bands, before pre-emphasis.

    Of the many that there are, a smooth one: from the even one, steps that lessen the Kullback-Leibler divergence of
    the bands (Lee and Seung 2001, equation 5) keep what no band can tell as it was. It weighs bands by ratio, where
    least squares hardly see the weak ones, and nothing becomes negative.
    """
    filters = _filters(recipe)
    turned, heights = filters.T.tocsr(), np.asarray(filters.sum(axis=1))[:, None]
    weights = np.maximum(np.asarray(filters.sum(axis=0)), _TINY)[:, None]
    found = np.empty((filters.shape[1], len(mel)))
    for first in range(0, len(mel), _BLOCK):
        bands = mel[first : first + _BLOCK].T
        power = turned @ (bands / heights) / weights
        for _ in range(_STEPS):
            power *= turned @ (bands / np.maximum(filters @ power, _TINY)) / weights
        found[:, first : first + _BLOCK] = power
    return found


def _filters(recipe: Recipe) -> scipy.sparse.csr_array:
    """Mel filters of the spectrum before pre-emphasis: y[n] = x[n] - a x[n-1] takes |1 - a e^-iw|^2 of its power.

    So it is at frequency w within an utterance; within frames, their first sample aside.
    """
    filters = mel_filterbank(recipe).astype(np.float64)
    if (emphasis := recipe.feature.pre_emphasis) == 0:
        return filters
    bins = filters.shape[1]
    taken = np.abs(1 - emphasis * np.exp(-1j * np.pi * np.arange(bins) / (bins - 1))) ** 2
    return scipy.sparse.csr_array(filters.multiply(taken))
