"""Rooms and noise for waveforms, drawn by the key of each crop: what a `waveform_transform` is mostly wanted for.

Responses of rooms and noise are raw datasets of their own. It must not know where the crops come from. Waveforms are
float32 `[n, samples]`; ratios are in decibels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ge2e_transforms import sums
from ge2e_transforms.checks import check, check_number
from ge2e_transforms.compiled import compiled
from ge2e_transforms.config import Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.noise_crops import NoiseCrops
from ge2e_transforms.reading import CropReader, ReadingOptions
from ge2e_transforms.rng import Bits, below, derive, fraction
from ge2e_transforms.schema import TRAIN_SPLIT
from ge2e_transforms.waveform_transform import Waveforms

# Streams of random bits of a crop's key. A change of their order changes every draw.
_NOISE_SHARE, _SNR, _NOISE, _ROOM_SHARE, _ROOM = range(5)
# Crops whose FFTs are taken in one call, which takes less than half the time of single ones. Always as many, so that
# what becomes of a crop does not depend on how many there are.
_TOGETHER = 4
_MOST_DB = 200.0


@dataclass(frozen=True)
class WaveformAugment:
    """Puts crops into rooms, then mixes noise into them; a `waveform_transform`.

    All draws follow from the key of a crop: whether, which response and which noise, from where on and how loud.

    noise: root of a dataset of noise, `ge2e run --features raw` at the sample rate of the speech; None for no noise.
        Each record of its train split is as likely as any other.
    snr_db: lowest and highest ratio of speech to noise, uniform in dB, by the power of the crop and of the noise that
        is mixed into it. 0 to 15 dB is what Kaldi's recipe for VoxCeleb takes of noises.
    noise_share: share of the crops that get noise, in [0, 1].
    rooms: root of a dataset of room responses, one a recording, `ge2e run --features raw --set voice=none`; None for no
        rooms. A response counts from its direct path on, its largest absolute value, so speech does not move; what
        comes after a crop's length does not count. A crop keeps its power.
    room_share: share of the crops that are put into a room, in [0, 1].

    Raises:
        ConfigError: on construction: a value that cannot be used, or neither noise nor rooms.
    """

    noise: str | Path | None = None
    snr_db: tuple[float, float] = (0.0, 15.0)
    noise_share: float = 0.5
    rooms: str | Path | None = None
    room_share: float = 0.5

    def __post_init__(self) -> None:
        pair = isinstance(self.snr_db, (tuple, list)) and len(self.snr_db) == 2
        check(pair, "snr_db", self.snr_db, "(lowest, highest) in dB")
        for value in self.snr_db:
            check_number("snr_db", value, -_MOST_DB, _MOST_DB)
        check(self.snr_db[0] <= self.snr_db[1], "snr_db", self.snr_db, "lowest <= highest")
        for name in ("noise_share", "room_share"):
            check_number(name, getattr(self, name), 0, 1)
        given = self.noise is not None or self.rooms is not None
        check(given, "noise, rooms", (self.noise, self.rooms), "the folder of a dataset for at least one of them")

    def bind(self, recipe: Recipe) -> AugmentedWaveforms:
        """The transform for speech of a recipe; it opens the datasets.

        Raises:
            ConfigError: noise or responses are not of the kind or the sample rate of the speech.
            DatasetError: no complete dataset there.
        """
        return AugmentedWaveforms(self, recipe)


class AugmentedWaveforms:
    """`WaveformAugment` with its datasets open. Safe to call from several threads at once.

    Args:
        options: what is done.
        recipe: of the speech.
    """

    def __init__(self, options: WaveformAugment, recipe: Recipe) -> None:
        self._options = options
        self._noise = None if options.noise is None else NoiseCrops(options.noise, recipe)
        self._rooms = None if options.rooms is None else Rooms(options.rooms, recipe)

    def __call__(self, waveforms: Waveforms, keys: Bits) -> Waveforms:
        """Changes waveforms in place.

        Args:
            waveforms: float32 `[n, samples]`, C-contiguous.
            keys: uint64 `[n]`, one a waveform.

        Returns:
            The same array, whose values may now go beyond [-1, 1].

        Raises:
            CorruptRecordError, DatasetError: noise or responses cannot be read.
        """
        if self._rooms is not None:
            crops = _chosen(keys, _ROOM_SHARE, self._options.room_share)
            if len(crops):
                self._rooms.put_in(waveforms, crops, derive(keys[crops], _ROOM))
        if self._noise is not None:
            crops = _chosen(keys, _NOISE_SHARE, self._options.noise_share)
            if len(crops):
                self._mix(self._noise, waveforms, crops, keys[crops])
        return waveforms

    def _mix(self, crops_of: NoiseCrops, waveforms: Waveforms, crops: npt.NDArray[np.int64], keys: Bits) -> None:
        noise = crops_of.draw(derive(keys, _NOISE), waveforms.shape[1]).reshape(len(crops), -1)
        low, high = self._options.snr_db
        snr_db = low + (high - low) * fraction(derive(keys, _SNR))
        ratio = _over(_powers(waveforms)[crops], _powers(noise))
        gains = np.sqrt(ratio * 10 ** (-snr_db / 10)).astype(np.float32)
        _add(waveforms, crops, noise, gains)


class Rooms:
    """Responses of rooms, by key.

    Args:
        root_dir: folder of a raw dataset, or its URL.
        recipe: of the speech.

    Raises:
        ConfigError: no responses that can be used with this speech.
        DatasetError: no complete dataset there.
    """

    def __init__(self, root_dir: str | Path, recipe: Recipe) -> None:
        dataset = Dataset.open(root_dir)
        _refuse_other_rooms(str(root_dir), dataset.recipe, recipe)
        self._index = dataset.index(TRAIN_SPLIT)
        self._longest = int(self._index["frames"].max())
        self._reader = CropReader(dataset, TRAIN_SPLIT, self._index, ReadingOptions(), 1, "pad")

    def put_in(self, waveforms: Waveforms, crops: npt.NDArray[np.int64], keys: Bits) -> None:
        """Convolves some of the waveforms `[n, samples]` with a response each, in place; each keeps its power.

        Every record is as likely as any other.
        """
        samples = waveforms.shape[1]
        length = _fft_length(2 * samples - 1 if self._longest >= samples else samples + self._longest - 1)
        for first in range(0, len(crops), _TOGETHER):
            some = crops[first : first + _TOGETHER]
            speech = np.zeros((_TOGETHER, samples), dtype=np.float32)
            speech[: len(some)] = waveforms[some]
            responses = np.zeros((_TOGETHER, samples), dtype=np.float32)
            self._read(keys[first : first + _TOGETHER], responses)
            wet = _convolved(speech, responses, length)
            wet *= np.sqrt(_over(_powers(speech), _powers(wet))).astype(np.float32)[:, None]
            waveforms[some] = wet[: len(some)]

    def _read(self, keys: Bits, responses: Waveforms) -> None:
        """Fills the first rows of `[_TOGETHER, samples]` with the responses of keys, from their direct path on."""
        records = below(derive(keys, 0), len(self._index))
        rows = int(self._index["frames"][records].max())
        stored = self._reader.read(records, np.zeros_like(records), rows)[:, 0]
        for response, target in zip(stored, responses, strict=False):
            direct = response[int(np.abs(response).argmax()) :][: len(target)]
            target[: len(direct)] = direct


def _fft_length(least: int) -> int:
    import scipy.fft

    return int(scipy.fft.next_fast_len(least, real=True))


def _convolved(waveforms: Waveforms, responses: Waveforms, length: int) -> Waveforms:
    """Row by row, cut to the length of the waveforms; `length` is that of the FFTs."""
    import scipy.fft

    spectra = scipy.fft.rfft(waveforms, length, axis=1)
    spectra *= scipy.fft.rfft(responses, length, axis=1)
    return np.ascontiguousarray(scipy.fft.irfft(spectra, length, axis=1)[:, : waveforms.shape[1]])


def _chosen(keys: Bits, stream: int, share: float) -> npt.NDArray[np.int64]:
    return np.flatnonzero(fraction(derive(keys, stream)) < share)


def _powers(waveforms: Waveforms) -> npt.NDArray[np.float64]:
    """Sum of squares of each waveform."""
    n, samples = waveforms.shape
    return sums.hop_energies(waveforms.reshape(-1), np.float32(0), samples)[:n]


def _over(powers: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ratio of powers; 0 where there is no power to divide by."""
    return np.divide(powers, others, out=np.zeros_like(powers), where=others > 0)


@compiled
def _add(waveforms: Any, places: Any, others: Any, gains: Any) -> None:
    """Adds `[k, samples]`, each times its gain, to the waveforms at some places."""
    for number in range(len(places)):
        target, other, gain = waveforms[places[number]], others[number], gains[number]
        for sample in range(len(target)):
            target[sample] += gain * other[sample]


def _refuse_other_rooms(root: str, rooms: Recipe, speech: Recipe) -> None:
    wanted = {
        "features": "raw",
        "sample_rate_hz": speech.audio.sample_rate_hz,
        "voice": "none",
        "segments": "utterance",
    }
    found = {
        "features": rooms.feature.features,
        "sample_rate_hz": rooms.audio.sample_rate_hz,
        "voice": rooms.voice.voice,
        "segments": rooms.segment.segments,
    }
    differ = [f"{name} ({found[name]!r}, not {wanted[name]!r})" for name in wanted if found[name] != wanted[name]]
    if differ:
        raise ConfigError(
            f"{root} holds no responses of rooms for this speech: it differs in {', '.join(differ)}. Make it by `ge2e "
            f"run --features raw --set voice=none --set min_utterance_ms=0`, at the sample rate of the speech"
        )
