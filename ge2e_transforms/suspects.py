"""Speakers to listen to: a mean spectrum far from those of the rest, or utterances that differ much. Pure NumPy.

Both are compared by robust z-scores, (x - median) / (1.4826 x MAD), where MAD is the median distance from the median:
for normal values that is the usual z-score, and those who are looked for hardly move it. Above 3.5 is told (Iglewicz
and Hoaglin, "How to Detect and Handle Outliers", 1993, advise that limit). Spectra are float64 `[speakers, bins]`. It
must not know of datasets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LIMIT = 3.5
# Of fewer speakers nobody can be told from the rest, and of fewer records a spread says nothing.
LEAST_SPEAKERS, LEAST_RECORDS = 10, 3
_NORMAL = 1.4826  # deviation of normal values by their MAD


class Spectra(NamedTuple):
    """Sums over the records of each speaker, weighted by their frames.

    label: int64 `[speakers]`.
    records: int64 `[speakers]`.
    frames: float64 `[speakers]`.
    total, square: float64 `[speakers, bins]`, of the mean of each record, and of its square.
    """

    label: npt.NDArray[np.int64]
    records: npt.NDArray[np.int64]
    frames: Floats
    total: Floats
    square: Floats


class Suspect(NamedTuple):
    """One speaker above the limit in either score; `spread_z` is NaN of fewer than `LEAST_RECORDS` records."""

    label: int
    records: int
    distance: float
    distance_z: float
    spread: float
    spread_z: float


def robust_z(values: Floats) -> Floats:
    """Robust z-scores along the first axis; NaN stays out of it and NaN. Where all are alike every score is 0."""
    middle = np.nanmedian(values, axis=0)
    scale = _NORMAL * np.nanmedian(np.abs(values - middle), axis=0)
    # Beside rounding: values that are equal but for it must not stand out by it.
    alike = scale <= 1e-6 * (1 + np.abs(middle))
    return np.where(np.isnan(values), np.nan, np.where(alike, 0.0, (values - middle) / np.where(alike, 1.0, scale)))


def distances(spectra: Spectra) -> Floats:
    """How far the mean spectrum of each speaker lies from the middle of all, `[speakers]`.

    The root mean square over the bins of their robust z-scores: about 1 for one like the others.
    """
    means = spectra.total / spectra.frames[:, None]
    return np.asarray(np.sqrt(np.mean(robust_z(means) ** 2, axis=1)))


def spreads(spectra: Spectra) -> Floats:
    """How much the mean spectra of the records of a speaker differ, `[speakers]`, in the unit of the values.

    The root mean square over the bins of their deviation; NaN of fewer than `LEAST_RECORDS` records.
    """
    means = spectra.total / spectra.frames[:, None]
    variance = np.maximum(0.0, spectra.square / spectra.frames[:, None] - means**2)
    return np.where(spectra.records >= LEAST_RECORDS, np.sqrt(variance.mean(axis=1)), np.nan)


def suspects(spectra: Spectra, most: int = 20) -> list[Suspect]:
    """Speakers above the limit, the farthest first; none of fewer than `LEAST_SPEAKERS`."""
    if len(spectra.label) < LEAST_SPEAKERS:
        return []
    distance, spread = distances(spectra), spreads(spectra)
    distance_z = robust_z(distance)
    known = np.count_nonzero(~np.isnan(spread)) >= LEAST_SPEAKERS
    spread_z = robust_z(spread) if known else np.full(len(spread), np.nan)
    worst = np.fmax(distance_z, spread_z)
    order = np.argsort(-worst, kind="stable")[: int(np.count_nonzero(worst > LIMIT))]
    columns = (spectra.label, spectra.records, distance, distance_z, spread, spread_z)
    return [Suspect(*(column[row].item() for column in columns)) for row in order[:most]]


def limit_of(values: Floats) -> float:
    """The value whose robust z-score is `LIMIT`."""
    middle = np.nanmedian(values)
    return float(middle + LIMIT * _NORMAL * np.nanmedian(np.abs(values - middle)))
