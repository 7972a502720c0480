"""The kinds of features: what is made of the mel bands of each frame, and how a kind is called. One entry each.

All that depends on the kind alone is asked here: choices of flags and options, widths, the row of silence, inversion,
cards and reports. A kind makes each frame from its own bands: what looks at the frames beside it would see others in a
crop that is computed when reading. It must not know how bands are computed, or where rows go.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[Any]


class Sizes(Protocol):
    """What a kind may ask of `stages.FeatureConfig`."""

    @property
    def n_mels(self) -> int:
        """Bands of a frame."""

    @property
    def n_mfcc(self) -> int:
        """Coefficients that are kept."""


class FeatureKind(NamedTuple):
    """How features of a kind are made and called.

    title: what they are, in the plural, as in 'a dataset of ...'.
    tag: of a data card.
    axis: what one value of a row is.
    bins: width of a row.
    of_bands: float32 `[n, bins]` of float32 `[n, n_mels]`, the logarithm taken where the recipe takes one; each row
        by itself, the same on every CPU. None for waveforms, which have no frames.
    to_bands: the way back, in float64, for inversion; None where there is none.
    silence: the row of a frame whose bands all have this value; None where that is `of_bands` of such a row.
    """

    title: str
    tag: str
    axis: str
    bins: Callable[[Sizes], int]
    of_bands: Callable[[Rows, Sizes], Rows] | None
    to_bands: Callable[[Rows, Sizes], Rows] | None = None
    silence: Callable[[float, Sizes], Rows] | None = None

    def silent_row(self, level: float, sizes: Sizes) -> Rows:
        """The row, float32 `[bins]`, that is stored for a frame whose bands all have the value `level`."""
        if self.of_bands is None:
            return np.zeros(self.bins(sizes), dtype=np.float32)
        if self.silence is not None:
            return self.silence(level, sizes).astype(np.float32)
        return np.asarray(self.of_bands(np.full((1, sizes.n_mels), level, dtype=np.float32), sizes)[0])


def _cepstrum(bands: Rows, sizes: Sizes) -> Rows:
    """Orthonormal DCT-II of each row."""
    import scipy.fft  # takes as long to import as all other modules of a worker beside Beam

    cepstrum = scipy.fft.dct(bands.astype(np.float64), type=2, norm="ortho", axis=1)
    return np.ascontiguousarray(cepstrum[:, : sizes.n_mfcc], dtype=np.float32)


def _bands_of_cepstrum(rows: Rows, sizes: Sizes) -> Rows:
    import scipy.fft

    return np.asarray(scipy.fft.idct(rows, type=2, norm="ortho", n=sizes.n_mels, axis=1))


def _silent_cepstrum(level: float, sizes: Sizes) -> Rows:
    """An orthonormal DCT of a constant is in its first coefficient. Without SciPy, which readers do without."""
    row = np.zeros(sizes.n_mfcc)
    row[0] = level * math.sqrt(sizes.n_mels)
    return row


FEATURE_KINDS = {
    "logmel": FeatureKind(
        *("log-mel spectrograms", "log-mel", "mel band"),
        bins=lambda sizes: sizes.n_mels,
        of_bands=lambda bands, sizes: bands,
        to_bands=lambda rows, sizes: rows,
    ),
    "mfcc": FeatureKind(
        *("MFCC", "mfcc", "coefficient"),
        bins=lambda sizes: sizes.n_mfcc,
        of_bands=_cepstrum,
        to_bands=_bands_of_cepstrum,
        silence=_silent_cepstrum,
    ),
    "raw": FeatureKind(
        *("waveforms (16-bit samples)", "waveform", "amplitude"),
        bins=lambda sizes: 1,
        of_bands=None,
    ),
}
