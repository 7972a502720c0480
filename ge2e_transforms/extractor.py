"""`FeatureExtractor`: the one way from a waveform to what is stored, on workers and at inference.

Order of the stages: remove DC -> voice -> level -> dither -> pre-emphasis -> segments -> features.
Waveforms are float32 `[n]` in [-1, 1], lengths samples at the recipe's rate. It must not know of files, manifests or
records.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ge2e_transforms import audio, sums, voice
from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import ConfigError, EmptyAudioError, NonFiniteAudioError, TooShortError
from ge2e_transforms.features import FeatureKernel, rounded_log
from ge2e_transforms.levels import Level, gain_of, level_gain
from ge2e_transforms.rng import random_bits
from ge2e_transforms.schema import FLAG_PART, FLAG_SHORT, FLAG_UNVOICED, PCM16_SCALE


@dataclass(frozen=True)
class Segment:
    """What becomes one record.

    Attributes:
        values: `[rows, bins]` float32 or float16, by the recipe's dtype, or `[samples, 1]` int16 for raw.
        start: first sample of the source that it comes from.
        samples: from there to the last one (gaps between joined intervals included).
        flags: bits of `schema.FLAG_*`.
    """

    values: npt.NDArray[Any]
    start: int
    samples: int
    flags: int


@dataclass(frozen=True)
class Voiced:
    """What of a waveform is voice.

    Attributes:
        intervals: samples, or all of them where nothing can be told apart.
        flags: bits of `schema.FLAG_*`.
        voice: samples of voice that were found, 0 or more than the intervals hold where all was kept.
    """

    intervals: voice.Intervals
    flags: int
    voice: int

    @property
    def length(self) -> int:
        return _length(self.intervals)


@dataclass(frozen=True)
class Extraction:
    """All that is made of one utterance.

    Attributes:
        segments: in the order of their starts.
        voiced_fraction: share of the utterance that is voice, in [0, 1].
        gain_db: of the level stage. Raw segments are the source's own samples: it is what would be applied to them.
        voiced: what was taken for voice.
    """

    segments: list[Segment]
    voiced_fraction: float
    gain_db: float
    voiced: Voiced


class FeatureExtractor:
    """Turns waveforms into features by a recipe; built once, used for many utterances.

    Args:
        recipe: a `Recipe`, for instance `PRESETS['ge2e']`.

    Raises:
        ConfigError: a mel filter is narrower than the bins of the FFT.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._kernel = FeatureKernel(recipe)

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> FeatureExtractor:
        """The extractor that made a dataset, from its `get_metadata()`."""
        return cls(Recipe.from_dict(metadata["recipe"]))

    def __call__(
        self, waveform: npt.ArrayLike, rate_hz: int, utterance_id: str = "", *, keep_all: bool = False
    ) -> npt.NDArray[Any]:
        """Features of a waveform, equal to what readers give of what is stored for the same samples.

        Args:
            waveform: `[n]` or `[n, channels]` floats in [-1, 1].
            rate_hz: its sample rate; it is resampled to the recipe's.
            utterance_id: only used where the recipe dithers.
            keep_all: as `extract`; what a held-out split stores of an utterance that is too short.

        Returns:
            `[rows, bins]` float32, with the values that float16 holds where the recipe stores that. In windows form
            `[windows, rows, bins]`; of raw samples int16.

        Raises:
            DataError: silent, empty, too short for the recipe, or not finite.
            ConfigError: the waveform does not hold floats, or has another shape.
        """
        if not np.issubdtype(np.asarray(waveform).dtype, np.floating):
            kind = np.asarray(waveform).dtype
            raise ConfigError(f"a waveform of {kind} cannot be used: expected floats in [-1, 1]; divide PCM16 by 32768")
        samples = np.ascontiguousarray(waveform, dtype=np.float32)
        if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > self.recipe.audio.max_channels):
            raise ConfigError(f"a waveform of shape {samples.shape} cannot be used: expected [n] or [n, channels]")
        if not np.isfinite(samples).all():
            raise NonFiniteAudioError("the waveform holds NaN or infinity")
        mono = audio.to_mono(audio.Recording(samples, rate_hz), self.recipe.audio.channel)
        mono = audio.resample(mono, rate_hz, self.recipe.audio.sample_rate_hz)
        return self.joined(self.extract(mono, utterance_id=utterance_id, keep_all=keep_all))

    def joined(self, extraction: Extraction) -> npt.NDArray[Any]:
        """All segments of an utterance as one array, with the values that readers give; as `__call__` returns it."""
        values = [segment.values for segment in extraction.segments]
        windows = self.recipe.segment.segments == "windows"
        joined = np.stack(values) if windows else np.concatenate(values)
        return joined.astype(np.float32) if joined.dtype == np.float16 else joined

    def extract(
        self,
        samples: npt.NDArray[np.float32],
        *,
        utterance_id: str = "",
        keep_all: bool = False,
        voiced: Voiced | None = None,
    ) -> Extraction:
        """Segments of one utterance.

        Args:
            samples: `[n]` float32 mono at the recipe's rate.
            utterance_id: seeds the dither.
            keep_all: never leave out for shortness or voice (held-out splits): what would be left out is
                kept whole and flagged.
            voiced: of a waveform of the same length, which is not looked for in this one: that of an utterance whose
                copy this is, in which noise would count as voice.

        Raises:
            EmptyAudioError: no samples, or less than one frame.
            SilentAudioError: nothing above `silence_dbfs`.
            TooShortError: less voice than the recipe asks for, and not `keep_all`.
        """
        if self.recipe.rows(len(samples)) == 0:
            raise EmptyAudioError(f"{len(samples)} samples hold no frame")
        mean = sums.mean(samples) if self.recipe.audio.remove_dc else np.float32(0)
        hop = self.recipe.voice.voice_hop
        energies = sums.hop_energies(samples, mean, hop)
        found = voiced or self._voiced(energies, len(samples), keep_all)
        intervals, flags = found.intervals, found.flags
        power = voice.energy_of(energies, hop, intervals) / found.length
        loudness = self.recipe.level
        level = Level(mean, level_gain(samples, mean, power, loudness.level_dbfs, loudness.level_mode))
        seed = dither_seed(utterance_id)
        segments = self._windows(samples, intervals, level, seed) if self.recipe.segment.segments == "windows" else []
        if not segments:
            if self.recipe.segment.segments == "windows":
                if not keep_all:
                    raise self._too_short(found.voice, f"window of crop_ms={self.recipe.segment.crop_ms:g}")
                flags |= FLAG_SHORT
            segments = self._parts(samples, intervals, level, seed)
        crop = self.recipe.crop_frames
        flagged = [
            Segment(s.values, s.start, s.samples, s.flags | flags | (FLAG_SHORT if len(s.values) < crop else 0))
            for s in map(self._stored, segments)
        ]
        gain_db = 20.0 * float(rounded_log(np.array([level.gain], dtype=np.float32), "log10")[0])
        return Extraction(flagged, found.voice / len(samples), gain_db, found)

    def _voiced(self, energies: voice.Energies, n_samples: int, keep_all: bool) -> Voiced:
        """The voice of an utterance, or all of it, flagged, where there is too little and it must be kept."""
        rate = self.recipe.audio.sample_rate_hz
        intervals = voice.voiced_intervals(energies, n_samples, rate, self.recipe.voice)
        length = _length(intervals)
        least_ms = self.recipe.segment.min_utterance_ms
        short = length * 1000 < least_ms * rate
        if short or not self._holds_rows(n_samples, intervals):
            if not keep_all:
                raise self._too_short(length, f"segment of min_utterance_ms={least_ms:g}" if short else "frame")
            return Voiced(np.array([[0, n_samples]], dtype=np.int64), FLAG_UNVOICED, length)
        return Voiced(intervals, 0, length)

    def of_crops(self, crops: npt.NDArray[np.float32], seeds: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
        """Features of crops that were cut out of the voice already, each by itself.

        They are those that `extract` gives of each crop with `voice` 'none' and nothing left out for shortness: mean
        and level are of the crop. A silent crop is no error: digital silence gives the floor of the logarithm.

        Args:
            crops: float32 `[n, samples]` at the recipe's rate, of at least one frame.
            seeds: uint64 `[n]`, of the dither; `dither_seed` makes that of an utterance.

        Returns:
            float32 `[n, frames, bins]`, before it is narrowed to what the recipe stores.
        """
        hop, samples, config = self.recipe.voice.voice_hop, crops.shape[1], self.recipe.level
        means, energies, peaks = sums.of_crops(crops, self.recipe.audio.remove_dc, hop)
        squares = np.add.reduce(energies[:, : -(-samples // hop)], axis=1) / samples
        gains = np.ones(len(crops), dtype=np.float32)
        if config.level_dbfs is not None:
            for number, (peak, square) in enumerate(zip(peaks.tolist(), squares.tolist(), strict=True)):
                gains[number] = gain_of(peak, square, config.level_dbfs, config.level_mode)
        return self._kernel(self._shaped(sums.levelled(crops, means, gains), seeds.tolist()))

    def _too_short(self, voiced: int, wanted: str) -> TooShortError:
        found_ms = voiced * 1000 / self.recipe.audio.sample_rate_hz
        return TooShortError(f"{found_ms:.0f} ms of voice hold no {wanted}")

    def _conditioned(
        self, samples: npt.NDArray[np.float32], spans: list[list[int]], level: Level, seed: int
    ) -> npt.NDArray[np.float32]:
        """The spans one after the other: mean, level, dither, pre-emphasis (unless it is of frames), in this order.

        Raw ones stay as they are.

        Dither counts from the start of the utterance, and pre-emphasis sees the sample before; before the first one it
        sees a copy of it, so that an offset makes no click.
        """
        config = self.recipe.feature
        if config.features == "raw":
            return voice.join(samples, spans)
        if config.dither == 0 and self._emphasis == 0:
            return level.apply(samples, spans)
        return voice.join(self._shaped(level.apply(samples, [[0, len(samples)]])[None], [seed])[0], spans)

    @property
    def _emphasis(self) -> float:
        """Of the utterance: that of frames is part of the kernel."""
        config = self.recipe.feature
        return config.pre_emphasis if config.pre_emphasis_in == "utterance" else 0.0

    def _shaped(self, ready: npt.NDArray[np.float32], seeds: list[int]) -> npt.NDArray[np.float32]:
        """Waveforms `[n, samples]` with dither, a seed each, and pre-emphasis."""
        dither = self.recipe.feature.dither
        if dither > 0:
            noise = np.stack([triangular_noise(seed, ready.shape[1]) for seed in seeds])
            ready = ready + noise * np.float32(dither / PCM16_SCALE)
        if self._emphasis > 0:
            before = np.concatenate([ready[:, :1], ready[:, :-1]], axis=1)
            ready = np.asarray(ready - np.float32(self._emphasis) * before, dtype=np.float32)
        return ready

    def _values(self, waveform: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        if self.recipe.feature.features == "raw":
            return to_pcm16(waveform)[..., None]
        return self._kernel(waveform)

    def _stored(self, segment: Segment) -> Segment:
        """A segment with values of the type that they are stored as; float16 is the nearest, of two the even one."""
        half = self.recipe.dtype == "float16"
        return replace(segment, values=segment.values.astype(np.float16)) if half else segment

    def _windows(
        self, samples: npt.NDArray[np.float32], intervals: voice.Intervals, level: Level, seed: int
    ) -> list[Segment]:
        """Windows of `crop_ms` side by side in each interval; what is left at its end is not stored."""
        crop = self.recipe.crop_samples
        starts = [start for first, end in intervals.tolist() for start in range(first, end - crop + 1, crop)]
        if not starts:
            return []
        waveform = self._conditioned(samples, [[start, start + crop] for start in starts], level, seed)
        values = self._values(waveform.reshape(len(starts), crop))
        return [Segment(window, start, crop, 0) for window, start in zip(values, starts, strict=True)]

    def _parts(
        self, samples: npt.NDArray[np.float32], intervals: voice.Intervals, level: Level, seed: int
    ) -> list[Segment]:
        """The voiced part as one segment, or as equal parts where it is longer than `max_part_s`."""
        voiced = _length(intervals)
        if self._masks:
            rows, places = self._voiced_rows(len(samples), intervals)
            values = self._values(self._conditioned(samples, [[0, len(samples)]], level, seed))[rows]
        else:
            values = self._values(self._conditioned(samples, intervals.tolist(), level, seed))
            places = np.arange(len(values)) * self.recipe.row_samples
        limit = max(1, self.recipe.rows(int(self.recipe.segment.max_part_s * self.recipe.audio.sample_rate_hz)))
        parts = -(-len(values) // limit)
        bounds = [len(values) * part // parts for part in range(parts + 1)]
        # The same in samples of the joined voice; the first and the last part reach to its ends.
        edges = [0, *(int(places[bound]) for bound in bounds[1:-1]), voiced]
        segments = []
        for (first, end), (begin, stop) in zip(itertools.pairwise(bounds), itertools.pairwise(edges), strict=True):
            start = voice.source_position(intervals, min(begin, voiced - 1))
            last = voice.source_position(intervals, stop - 1)
            flags = FLAG_PART if parts > 1 else 0
            segments.append(Segment(values[first:end], start, last + 1 - start, flags))
        return segments

    @property
    def _masks(self) -> bool:
        return self.recipe.voice.voice == "mask" and self.recipe.feature.features != "raw"

    def _holds_rows(self, n_samples: int, intervals: voice.Intervals) -> bool:
        if self._masks:
            return len(self._voiced_rows(n_samples, intervals)[0]) > 0
        return self.recipe.rows(_length(intervals)) > 0

    def _voiced_rows(self, n_samples: int, intervals: voice.Intervals) -> tuple[npt.NDArray[np.int64], ...]:
        """Frames whose centre lies in a voiced interval: their numbers, and their centres in the joined voice."""
        centres = np.arange(self.recipe.rows(n_samples)) * self.recipe.hop_samples + self.recipe.first_centre
        before = np.searchsorted(intervals[:, 0], centres, side="right") - 1
        rows = np.flatnonzero((before >= 0) & (centres < intervals[np.maximum(before, 0), 1]))
        ends = np.cumsum(intervals[:, 1] - intervals[:, 0])
        return rows, centres[rows] - (intervals[:, 1] - ends)[before[rows]]


def _length(intervals: voice.Intervals) -> int:
    return int(np.sum(intervals[:, 1] - intervals[:, 0]))


def to_pcm16(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """16-bit samples; exact for audio that was 16-bit before."""
    steps = np.clip(np.rint(waveform * np.float32(PCM16_SCALE)), -PCM16_SCALE, PCM16_SCALE - 1)
    return np.asarray(steps, dtype=np.int16)


def dither_seed(utterance_id: str) -> int:
    """64 bits that the dither of an utterance is drawn by."""
    return int.from_bytes(hashlib.blake2b(utterance_id.encode(), digest_size=8).digest(), "little")


def triangular_noise(seed: int, count: int) -> npt.NDArray[np.float32]:
    """`[count]` float32 in (-1, 1), triangular density (the difference of two uniform draws), fixed by 64 bits."""
    bits = random_bits(seed, 2 * count)
    uniform = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return uniform[:count] - uniform[count:]
