"""SpecAugment: hides bands of bins and stretches of frames of crops, by draws that belong to each crop alone.

Park et al.: "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition", Interspeech 2019.
Crops are float32 `[n, bins, frames]`, or with the last two axes exchanged. It must not know where they come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ge2e_transforms.checks import Stage, check, check_integer, check_number, check_one_of
from ge2e_transforms.rng import Bits, below, derive

# Streams of random bits of a crop's key. A change of their order changes every mask.
_FREQ_WIDTH, _FREQ_START, _TIME_WIDTH, _TIME_START = range(4)

# Table 1 of the paper: m_F, F, m_T, T, p (and W, which is left out); for 80 mel bands, frames every 10 ms.
_POLICIES: dict[str, tuple[int, int, int, int, float]] = {
    "LB": (1, 27, 1, 100, 1.0),  # LibriSpeech basic
    "LD": (2, 27, 2, 100, 1.0),  # LibriSpeech double
    "SM": (2, 15, 2, 70, 0.2),  # Switchboard mild
    "SS": (2, 27, 2, 70, 0.2),  # Switchboard strong
}
# More than any crop has room for; they bound the arrays that are made.
_MOST_MASKS = 1 << 10
_MOST_WIDTH = 1 << 20


@dataclass(frozen=True)
class SpecAugment(Stage):
    """How many masks, and how wide they may be.

    Each mask has a width uniform in [0, its most] and a start uniform in [0, axis - width), both ends as the paper
    writes them: so only a mask over the whole axis reaches its last bin or frame. Masks may overlap.

    The paper's third operation, time warping, is left out. It moves the timing of formants, which is part of how a
    speaker speaks; it costs far more than masks; and the paper itself (section 5) found it the least influential and
    most expensive of the three, the first to drop.

    The defaults are for crops of 1.2 s (121 frames) of 40 mels, where they hide a quarter of the values on average.

    freq_masks, time_masks: masks along bins and along frames, 0 to turn them off; 2 as in all policies but LB.
    freq_width: widest mask in bins (the paper's F); more than the bins count as all of them. 7 is the 15 of 80 bands
        of policy SM at 40 bands.
    time_width: widest mask in frames (the paper's T). 12 frames of 10 ms are about half a syllable, and a tenth of the
        crop; the paper's 70 to 100 are for utterances of ten seconds.
    time_fraction: widest mask as a part of the frames, in [0, 1] (the paper's p); the smaller of the two limits holds.
        0.2 as in SM and SS: it keeps crops that are far shorter from being hidden as a whole.
    """

    freq_masks: int = 2
    freq_width: int = 7
    time_masks: int = 2
    time_width: int = 12
    time_fraction: float = 0.2

    def _check_values(self) -> None:
        for name in ("freq_masks", "time_masks"):
            check_integer(name, getattr(self, name), 0, _MOST_MASKS + 1)
        for name in ("freq_width", "time_width"):
            check_integer(name, getattr(self, name), 0, _MOST_WIDTH + 1)
        check_number("time_fraction", self.time_fraction, 0, 1)

    @classmethod
    def policy(cls, name: str) -> SpecAugment:
        """One of the paper's policies, without its time warping: LB, LD, SM or SS.

        They are for 80 mel bands and whole utterances: LB and LD may hide 100 frames of a crop of 121.

        Raises:
            ConfigError: no policy of this name.
        """
        check_one_of("policy", name, tuple(_POLICIES))
        return cls(*_POLICIES[name])

    def apply(
        self, examples: npt.NDArray[np.float32], bits: Bits, fill: npt.NDArray[np.float32], time_axis: int
    ) -> None:
        """Masks crops in place.

        The masks of a crop follow from its key and the shape of a crop, not from its place in the batch.

        Args:
            examples: float32 `[n, bins, frames]`, or `[n, frames, bins]` with `time_axis=1`. Views are fine.
            bits: uint64 `[n]`, one key a crop, such as `rng.derive(seed, stream, epoch, crop)`.
            fill: float32 `[bins]`, what masked values become: the mean of each bin, or 0 after normalisation.
            time_axis: 2 or 1, the axis of frames.

        Raises:
            ConfigError: arrays whose shapes or types do not fit.
        """
        _check_arrays(examples, bits, fill, time_axis)
        by_bin = examples if time_axis == 2 else examples.swapaxes(1, 2)
        _, bins, frames = by_bin.shape
        # Rounded, as 0.29 * 100 is 28.999999999999996 in floats.
        longest = min(self.time_width, int(round(self.time_fraction * frames, 6)))
        hidden_bins = _hidden(bits, self.freq_masks, min(self.freq_width, bins), bins, (_FREQ_WIDTH, _FREQ_START))
        hidden_frames = _hidden(bits, self.time_masks, longest, frames, (_TIME_WIDTH, _TIME_START))
        crop, place = np.nonzero(hidden_bins)
        by_bin[crop, place] = fill[place, None]
        crop, place = np.nonzero(hidden_frames)
        by_bin[crop, :, place] = fill


def _hidden(bits: Bits, masks: int, widest: int, size: int, streams: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Which places along an axis of `size` are masked, bool `[n, size]`."""
    number = np.arange(masks)
    width = below(derive(bits[:, None], streams[0], number), widest + 1)
    # A mask over the whole axis leaves no choice, where [0, 0) would hold none.
    start = below(derive(bits[:, None], streams[1], number), np.maximum(1, size - width))
    place = np.arange(size)
    inside = (place >= start[:, :, None]) & (place < (start + width)[:, :, None])
    return np.asarray(inside.any(axis=1))


def _check_arrays(examples: npt.NDArray[np.float32], bits: Bits, fill: npt.NDArray[np.float32], time_axis: int) -> None:
    check(time_axis in (1, 2), "time_axis", time_axis, "2 for [n, bins, frames] or 1 for [n, frames, bins]")
    usable = examples.dtype == np.float32 and examples.ndim == 3 and examples.flags.writeable
    check(usable, "examples", _kind(examples), "writeable float32 of 3 axes, as masks are set in place")
    n, bins = examples.shape[0], examples.shape[3 - time_axis]
    check(bits.dtype == np.uint64 and bits.shape == (n,), "bits", _kind(bits), f"one uint64 key a crop, [{n}]")
    check(fill.dtype == np.float32 and fill.shape == (bins,), "fill", _kind(fill), f"one float32 a bin, [{bins}]")


def _kind(array: npt.NDArray[np.generic]) -> str:
    return f"{array.dtype} {list(array.shape)}{'' if array.flags.writeable else ' read-only'}"
