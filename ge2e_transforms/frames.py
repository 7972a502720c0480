"""Frames that are conditioned one by one, as Kaldi does: each less its own mean, then pre-emphasised. Compiled.

Sums go from the first sample to the last in float32, the order of Kaldi's own; so even what rounding leaves of a
constant is the same. Frames are float32 `[frames, width]`. It must not know of recipes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ge2e_transforms.compiled import compiled

# Frames whose sums are taken side by side: each waits for its last sum, so one alone would leave a core idle.
_ABREAST = 8


def condition(
    out: npt.NDArray[np.float32],
    inside: tuple[int, int],
    wave: npt.NDArray[np.float32],
    place: tuple[int, int],
    remove_dc: bool,
    emphasis: float,
) -> None:
    """Fills columns of `out`, `[frames, width]` float32, with frames of a waveform.

    Args:
        out: C order; its other columns stay as they are.
        inside: first column, and samples of a frame.
        wave: `[m]` float32, C order.
        place: start of the first frame, and samples from frame to frame.
        remove_dc: take its mean off each frame.
        emphasis: a, in y[i] = x[i] - a x[i-1], with a copy of x[0] before it; 0 is none.
    """
    _condition(out, inside, wave, place, remove_dc, np.float32(emphasis))


@compiled
def _condition(out: Any, inside: Any, wave: Any, place: Any, remove_dc: Any, emphasis: Any) -> None:
    (column, length), (start, hop), count = inside, place, len(out)
    means = np.zeros(_ABREAST, np.float32)
    for block in range(0, count, _ABREAST):
        some = min(_ABREAST, count - block)
        first = start + block * hop
        means[:] = 0
        if remove_dc:
            for i in range(length):
                for frame in range(some):
                    means[frame] += wave[first + frame * hop + i]
            for frame in range(some):
                means[frame] /= np.float32(length)
        for frame in range(some):
            samples, row, mean = wave[first + frame * hop :], out[block + frame, column:], means[frame]
            row[0] = (samples[0] - mean) - emphasis * (samples[0] - mean)
            for i in range(1, length):
                row[i] = (samples[i] - mean) - emphasis * (samples[i - 1] - mean)
