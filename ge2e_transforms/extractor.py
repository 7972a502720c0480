"""`FeatureExtractor`: the one way from a waveform to what is stored, on workers and at inference.

Order of the stages: remove DC -> voice -> level -> dither -> pre-emphasis -> segments -> features.
Lengths are samples at the recipe's rate. It must not know of files, manifests or records.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ge2e_transforms import audio, voice
from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import ConfigError, EmptyAudioError, NonFiniteAudioError, TooShortError
from ge2e_transforms.features import FeatureKernel, rounded_log
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
class Extraction:
    """All segments of one utterance, the share of it that is voice, and the gain of the level stage.

    Raw segments are the source's own samples: the gain is what the level stage would apply to them.
    """

    segments: list[Segment]
    voiced_fraction: float
    gain_db: float


class FeatureExtractor:
    """Turns waveforms into features by a recipe; built once, used for many utterances.

    Args:
        recipe: a `Recipe`, for instance `PRESETS['ge2e']`.
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
            Utterance form: `[rows, bins]` float32, with the values that float16 holds where the recipe stores that.
            Windows form: `[windows, rows, bins]`. Raw: int16.

        Raises:
            DataError: silent, empty, too short for the recipe, or not finite.
            ConfigError: the waveform does not hold floats.
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
        values = [
            segment.values for segment in self.extract(mono, utterance_id=utterance_id, keep_all=keep_all).segments
        ]
        windows = self.recipe.segment.segments == "windows"
        joined = np.stack(values) if windows else np.concatenate(values)
        return joined.astype(np.float32) if joined.dtype == np.float16 else joined

    def extract(
        self, samples: npt.NDArray[np.float32], *, utterance_id: str = "", keep_all: bool = False
    ) -> Extraction:
        """Segments of one utterance.

        Args:
            samples: `[n]` float32 mono at the recipe's rate.
            utterance_id: seeds the dither.
            keep_all: never leave out for shortness or voice (held-out splits): what would be left out is
                kept whole and flagged.

        Raises:
            EmptyAudioError: no samples, or less than one frame.
            SilentAudioError: nothing above `silence_dbfs`.
            TooShortError: less voice than the recipe asks for, and not `keep_all`.
        """
        if self.recipe.rows(len(samples)) == 0:
            raise EmptyAudioError(f"{len(samples)} samples hold no frame")
        centred = remove_dc(samples) if self.recipe.audio.remove_dc else samples
        intervals = voice.voiced_intervals(centred, self.recipe.audio.sample_rate_hz, self.recipe.voice)
        voiced = int(np.sum(intervals[:, 1] - intervals[:, 0]))
        flags = 0
        least_ms = self.recipe.segment.min_utterance_ms
        short = voiced * 1000 < least_ms * self.recipe.audio.sample_rate_hz
        if short or not self._holds_rows(len(samples), intervals):
            self._refuse_short(voiced, f"segment of min_utterance_ms={least_ms:g}" if short else "frame", keep_all)
            intervals, flags = np.array([[0, len(samples)]], dtype=np.int64), FLAG_UNVOICED
        gain = level_gain(centred, intervals, self.recipe.level.level_dbfs)
        ready = samples if self.recipe.feature.features == "raw" else self._condition(centred, gain, utterance_id)
        segments = self._windows(ready, intervals) if self.recipe.segment.segments == "windows" else []
        if not segments:
            if self.recipe.segment.segments == "windows":
                self._refuse_short(voiced, f"window of crop_ms={self.recipe.segment.crop_ms:g}", keep_all)
                flags |= FLAG_SHORT
            segments = self._parts(ready, intervals)
        crop = self.recipe.crop_frames
        flagged = [
            Segment(s.values, s.start, s.samples, s.flags | flags | (FLAG_SHORT if len(s.values) < crop else 0))
            for s in map(self._stored, segments)
        ]
        gain_db = 20.0 * float(rounded_log(np.array([gain], dtype=np.float32), "log10")[0])
        return Extraction(flagged, voiced / len(samples), gain_db)

    def _refuse_short(self, voiced: int, wanted: str, keep_all: bool) -> None:
        if not keep_all:
            found = voiced * 1000 / self.recipe.audio.sample_rate_hz
            raise TooShortError(f"{found:.0f} ms of voice hold no {wanted}")

    def _condition(self, waveform: npt.NDArray[np.float32], gain: np.float32, key: str) -> npt.NDArray[np.float32]:
        """Level, dither and pre-emphasis, in this order, on the whole utterance.

        Before the first sample pre-emphasis sees a copy of it, so that an offset makes no click.
        """
        config = self.recipe.feature
        ready = waveform * gain if gain != 1 else waveform
        if config.dither > 0:
            ready = ready + triangular_noise(key, len(ready)) * np.float32(config.dither / PCM16_SCALE)
        if config.pre_emphasis > 0:
            before = np.concatenate([ready[:1], ready[:-1]])
            ready = ready - np.float32(config.pre_emphasis) * before
        return ready

    def _values(self, waveform: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        if self.recipe.feature.features == "raw":
            return to_pcm16(waveform)[:, None]
        return self._kernel(waveform)

    def _stored(self, segment: Segment) -> Segment:
        """A segment with values of the type that they are stored as; float16 is the nearest, of two the even one."""
        half = self.recipe.dtype == "float16"
        return replace(segment, values=segment.values.astype(np.float16)) if half else segment

    def _windows(self, waveform: npt.NDArray[np.float32], intervals: voice.Intervals) -> list[Segment]:
        """Windows of `crop_ms` side by side in each interval; what is left at its end is not stored."""
        crop = self.recipe.crop_samples
        starts = [start for first, end in intervals.tolist() for start in range(first, end - crop + 1, crop)]
        return [Segment(self._values(waveform[start : start + crop]), start, crop, 0) for start in starts]

    def _parts(self, waveform: npt.NDArray[np.float32], intervals: voice.Intervals) -> list[Segment]:
        """The voiced part as one segment, or as equal parts where it is longer than `max_part_s`."""
        voiced = int(np.sum(intervals[:, 1] - intervals[:, 0]))
        if self._masks:
            rows, places = self._voiced_rows(len(waveform), intervals)
            values = self._kernel(waveform)[rows]
        else:
            values = self._values(voice.join(waveform, intervals))  # type: ignore[arg-type]
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
        return self.recipe.rows(int(np.sum(intervals[:, 1] - intervals[:, 0]))) > 0

    def _voiced_rows(self, n_samples: int, intervals: voice.Intervals) -> tuple[npt.NDArray[np.int64], ...]:
        """Frames whose centre lies in a voiced interval: their numbers, and their centres in the joined voice."""
        offset = 0 if self.recipe.feature.center else self.recipe.feature.n_fft // 2
        centres = np.arange(self.recipe.rows(n_samples)) * self.recipe.hop_samples + offset
        before = np.searchsorted(intervals[:, 0], centres, side="right") - 1
        rows = np.flatnonzero((before >= 0) & (centres < intervals[np.maximum(before, 0), 1]))
        ends = np.cumsum(intervals[:, 1] - intervals[:, 0])
        return rows, centres[rows] - (intervals[:, 1] - ends)[before[rows]]


def remove_dc(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The waveform less its mean (summed in float64, in a fixed order)."""
    return samples - np.float32(np.add.reduce(samples, dtype=np.float64) / len(samples))


def level_gain(samples: npt.NDArray[np.float32], intervals: voice.Intervals, level_dbfs: float | None) -> np.float32:
    """Gain that sets the root mean square of the intervals to `level_dbfs`, with no sample beyond +-1."""
    if level_dbfs is None:
        return np.float32(1)
    energy = sum(float(np.add.reduce(np.square(samples[start:end]), dtype=np.float64)) for start, end in intervals)
    if energy == 0:
        return np.float32(1)
    rms = math.sqrt(energy / float(np.sum(intervals[:, 1] - intervals[:, 0])))
    peak = max(float(samples.max()), -float(samples.min()))
    return np.float32(min(10 ** (level_dbfs / 20) / rms, 1 / peak))


def to_pcm16(waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """16-bit samples; exact for audio that was 16-bit before."""
    steps = np.clip(np.rint(waveform * np.float32(PCM16_SCALE)), -PCM16_SCALE, PCM16_SCALE - 1)
    return np.asarray(steps, dtype=np.int16)


def triangular_noise(key: str, count: int) -> npt.NDArray[np.float32]:
    """`[count]` float32 in (-1, 1), triangular density (the difference of two uniform draws), fixed by `key`."""
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
    bits = random_bits(seed, 2 * count)
    uniform = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return uniform[:count] - uniform[count:]
