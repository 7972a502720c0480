"""Augmentation of crops of log-mels while they are read: noise at a drawn ratio, gain, tilt and equaliser.

All that is drawn for a crop follows from its key. It must not know where crops come from, nor how power is mixed
(`mel_mixing`), which is compiled and is not loaded before it is asked for. Crops are float32, `[n, bands, frames]` or
`[n, frames, bands]`; what is drawn is in decibels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ge2e_transforms.checks import check, check_integer, check_number
from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.noise_crops import NoiseCrops
from ge2e_transforms.reading import Values
from ge2e_transforms.rng import Bits, derive, fraction

# Streams of random bits of a crop's key. A change of their order changes every draw.
_CHANCE, _NOISE, _SNR, _GAIN, _TILT, _EQUALIZER = range(6)
# Beyond this many decibels nothing is heard of one of the two, or values leave what float32 holds.
_MOST_DB = 60.0
_MOST_POINTS = 1 << 10
_NOTHING = (0.0, 0.0)
_DECIBELS = ("snr_db", "gain_db", "tilt_db", "equalizer_db")


@dataclass(frozen=True)
class MelAugment:
    """What is done to crops of a dataset of log-mels, in this order: noise, then gain, tilt and equaliser.

    Each is drawn for each crop alone, uniform between the two values of its range, which may be equal; in decibels, in
    [-60, 60].

    Power is mixed, not waveforms: the term of both phases, which is 0 on average, is left out.

    Attributes:
        noise: folder or URL of a dataset of noise, made with the same sample rate and feature options; None for none.
            Its crops come from all records of its train split alike.
        noise_share: which part of the crops gets noise, in [0, 1].
        snr_db: power of the crop to that of the noise, both of the whole crop, as of their waveforms. 0 to 15 dB is
            what Kaldi's recipe for VoxCeleb takes for noises. Where the recipe sets a level, the mixture keeps the
            power of the speech, as if it had been mixed before that.
        gain_db: level of the whole crop. (0, 0) leaves it alone, as it does for tilt and equaliser.
        tilt_db: how much more the highest band gets than the lowest, evenly over the bands, with 0 in their middle.
        equalizer_db: gain at each of `equalizer_points` bands that lie evenly from the lowest to the highest; straight
            lines in between.
        equalizer_points: from 2 to 1024.

    Raises:
        ConfigError: a value that cannot be used, or nothing that is asked for.
    """

    noise: str | Path | None = None
    noise_share: float = 0.5
    snr_db: tuple[float, float] = (0.0, 15.0)
    gain_db: tuple[float, float] = _NOTHING
    tilt_db: tuple[float, float] = _NOTHING
    equalizer_db: tuple[float, float] = _NOTHING
    equalizer_points: int = 5

    def __post_init__(self) -> None:
        check(self.noise is None or isinstance(self.noise, (str, Path)), "noise", self.noise, "a folder, a URL or None")
        check(_is_number(self.noise_share), "noise_share", self.noise_share, "a number in [0, 1]")
        check_number("noise_share", self.noise_share, 0, 1)
        for name in _DECIBELS:
            values = getattr(self, name)
            pair = isinstance(values, (tuple, list)) and len(values) == 2 and all(map(_is_number, values))
            usable = pair and -_MOST_DB <= values[0] <= values[1] <= _MOST_DB
            check(usable, name, values, f"(lowest, highest) in decibels, from {-_MOST_DB:g} to {_MOST_DB:g}")
        check_integer("equalizer_points", self.equalizer_points, 2, _MOST_POINTS + 1)
        if self.noise is None and not self.changes_bands:
            names = ", ".join(("noise", *_DECIBELS[1:]))
            raise ConfigError(f"a MelAugment that does nothing cannot be used: give one of {names}")

    @property
    def changes_bands(self) -> bool:
        """Whether gain, tilt or equaliser do anything."""
        return any(tuple(values) != _NOTHING for values in (self.gain_db, self.tilt_db, self.equalizer_db))

    def noisy(self, bits: Bits) -> npt.NDArray[np.int64]:
        """Numbers of the crops that get noise, rising; `bits` is uint64 `[n]`, one key a crop."""
        return np.flatnonzero(fraction(derive(bits, _CHANCE)) < self.noise_share)

    def snr(self, bits: Bits) -> npt.NDArray[np.float32]:
        """Of each crop, in decibels, float32 `[n]`."""
        return _between(self.snr_db, derive(bits, _SNR)).astype(np.float32)

    def decibels(self, bits: Bits, bands: int) -> npt.NDArray[np.float32]:
        """What gain, tilt and equaliser do to each band of each crop together, float32 `[n, bands]`."""
        place = np.linspace(0, 1, bands) if bands > 1 else np.full(1, 0.5)
        gain, tilt = _between(self.gain_db, derive(bits, _GAIN)), _between(self.tilt_db, derive(bits, _TILT))
        total = gain[:, None] + tilt[:, None] * (place - 0.5)
        if tuple(self.equalizer_db) != _NOTHING:
            points = np.arange(self.equalizer_points)
            control = _between(self.equalizer_db, derive(bits[:, None], _EQUALIZER, points))
            left = np.minimum((place * points[-1]).astype(np.int64), points[-1] - 1)
            part = place * points[-1] - left
            total += control[:, left] * (1 - part) + control[:, left + 1] * part
        return total.astype(np.float32)


class MelAugmenter:
    """Does what a `MelAugment` says to crops of one recipe.

    Args:
        options: what is done.
        recipe: of the crops.
        layout: 'mel_time' or 'time_mel'.

    Raises:
        ConfigError: the recipe's features are no log-mels, or the noise is of another kind.
        DatasetError: no dataset of noise is there.
    """

    def __init__(self, options: MelAugment, recipe: Recipe, layout: str) -> None:
        features = recipe.feature.features
        if features != "logmel":
            raise ConfigError(
                f"mel_augment cannot be used with a dataset of features {features!r}: it changes the power of mel "
                "bands. Make the dataset with --features logmel, or read it without mel_augment"
            )
        from ge2e_transforms.mel_mixing import MelMixing

        self._options, self._time_axis = options, 2 if layout == "mel_time" else 1
        self._mixing = MelMixing(recipe)
        self._noise = None if options.noise is None else NoiseCrops(options.noise, recipe, layout)

    def apply(self, examples: Values, bits: Bits) -> None:
        """Changes crops in place. What is done to a crop follows from its key and length, not from its batch.

        Args:
            examples: float32 `[n, bands, frames]` or `[n, frames, bands]`, as stored: not normalised.
            bits: uint64 `[n]`, one key a crop.

        Raises:
            CorruptRecordError, DatasetError: the noise could not be read.
        """
        options, axis = self._options, self._time_axis
        decibels = options.decibels(bits, examples.shape[3 - axis]) if options.changes_bands else None
        noisy, noise = np.empty(0, dtype=np.int64), examples[:0]
        if self._noise is not None and len(chosen := options.noisy(bits)):
            noisy, noise = chosen, self._noise.draw(derive(bits[chosen], _NOISE), examples.shape[axis])
        self._mixing.apply(examples, axis, decibels, noise, noisy, options.snr(bits[noisy]))


def _is_number(value: object) -> bool:
    known = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return known and math.isfinite(value)  # type: ignore[arg-type]


def _between(limits: tuple[float, float], bits: Bits) -> npt.NDArray[np.float64]:
    low, high = limits
    return low + (high - low) * fraction(bits)
