"""What may be chosen about the features, one frozen dataclass per stage, and the one frame count.

Units live in the names (`window_ms`, `sample_rate_hz`, `level_dbfs`). Inside the project lengths are
whole samples and frames; `Recipe` gives them. The canonical JSON of a `Recipe` is its fingerprint: two
datasets with one fingerprint can be read, grown and compared as one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from ge2e_transforms.checks import Stage, check, check_number, check_one_of, refuse_unknown
from ge2e_transforms.errors import ConfigError


@dataclass(frozen=True)
class AudioConfig(Stage):
    """Encoded audio to mono float32 samples in [-1, 1] at one rate.

    sample_rate_hz: every recording is resampled to this (16 kHz is what speaker corpora hold).
    channel: 'mean' of all channels, or the number of one channel counted from 0.
    remove_dc: subtract the mean of the utterance; a constant offset would count as voice.
    max_seconds: longest decoded recording.
    max_decoded_mib: most that all channels of a recording may take as float32 at its own rate. It bounds a worker's
        memory; 600 s of stereo at 48 kHz are 220 MiB.
    max_channels, max_input_rate_hz: wider or faster headers are damage, not recordings.
    """

    sample_rate_hz: int = 16000
    channel: str | int = "mean"
    remove_dc: bool = True
    max_seconds: float = 600.0
    max_decoded_mib: float = 1024.0
    max_channels: int = 16
    max_input_rate_hz: int = 384000

    def _check_values(self) -> None:
        check_number("sample_rate_hz", self.sample_rate_hz, 1000, 384000)
        check(
            self.channel == "mean" or (type(self.channel) is int and self.channel >= 0),
            "channel",
            self.channel,
            "'mean' or a channel number from 0",
        )
        check_number("max_seconds", self.max_seconds, 0, 86400, open_low=True)
        check_number("max_decoded_mib", self.max_decoded_mib, 1, 65536)
        check_number("max_channels", self.max_channels, 1, 1024)
        check_number("max_input_rate_hz", self.max_input_rate_hz, 1000, 10_000_000)


@dataclass(frozen=True)
class VoiceConfig(Stage):
    """Which samples are voice: frames within `top_db` of the loudest frame, as `librosa.effects.split`.

    voice: 'none' keeps everything, 'join' splices the voiced intervals, 'mask' keeps the waveform whole
        and drops the unvoiced *frames* afterwards (no spliced waveform).
    top_db: 30 dB, as the project's origin had it.
    min_silence_ms: voiced intervals that are closer than this are joined with the gap between them.
    voice_window, voice_hop: samples; librosa's defaults. The window is a whole number of hops.
    silence_dbfs: a recording whose loudest frame is below this holds no speech at all (16-bit audio
        with one active bit is at -90 dBFS).
    """

    voice: str = "join"
    top_db: float = 30.0
    min_silence_ms: float = 0.0
    voice_window: int = 2048
    voice_hop: int = 512
    silence_dbfs: float = -80.0

    def _check_values(self) -> None:
        check_one_of("voice", self.voice, ("none", "join", "mask"))
        check_number("top_db", self.top_db, 0, 200, open_low=True)
        check_number("min_silence_ms", self.min_silence_ms, 0, 60000)
        check_number("voice_hop", self.voice_hop, 1, 1 << 16)
        whole = 0 < self.voice_window <= 1 << 20 and self.voice_window % (2 * self.voice_hop) == 0
        expected = f"an even multiple of voice_hop={self.voice_hop}, at most {1 << 20}"
        check(whole, "voice_window", self.voice_window, expected)
        check_number("silence_dbfs", self.silence_dbfs, -200, 0)


@dataclass(frozen=True)
class LevelConfig(Stage):
    """Loudness: the root mean square of the voiced part is set to `level_dbfs` (None leaves it alone).

    -30 dBFS, the level of Resemblyzer's preprocessing; a fixed level lifts quiet speech off the floor of
    the logarithm. The gain is limited so that no sample leaves [-1, 1], and stands in the index as `gain_db`.
    """

    level_dbfs: float | None = -30.0

    def _check_values(self) -> None:
        if self.level_dbfs is not None:
            check_number("level_dbfs", self.level_dbfs, -100, 0)


@dataclass(frozen=True)
class FeatureConfig(Stage):
    """Waveform to features: framing, FFT, mel filterbank, logarithm.

    features: 'logmel', 'mfcc' (orthonormal DCT-II of the log-mel) or 'raw' (the PCM16 waveform).
    window_ms, hop_ms, n_fft: 25 ms Hann window every 10 ms, zero-padded in its middle to 512 points, as
        in Wan et al. 2018 (GE2E) and as librosa does with win_length < n_fft.
    center, pad_mode: frames are centred on multiples of the hop; the ends are padded with zeros
        ('constant') or mirrored ('reflect', librosa's default in 2020).
    n_mels, f_min_hz, f_max_hz, mel_scale, mel_norm: filterbank as `librosa.filters.mel`; f_max_hz None is
        half the sample rate.
    log, floor, floor_kind: 'log10' or 'ln' of max(power, floor) or power + floor; 'none' keeps power.
    pre_emphasis: y[n] = x[n] - pre_emphasis * x[n-1]; 0 is off (0.97 is usual).
    dither: amplitude, in units of one 16-bit step, of triangular noise seeded by the utterance id; 0 is off.
    n_mfcc: coefficients kept, librosa's default.
    dtype: 'float32', or 'float16' for half the bytes: then a value is off by up to 2^-9 = 0.002 for log10 (one in
        2^11 for larger values). Raw samples are PCM16 always. Power without a logarithm spans more than float16 does.
    """

    features: str = "logmel"
    pre_emphasis: float = 0.0
    dither: float = 0.0
    window: str = "hann"
    window_ms: float = 25.0
    hop_ms: float = 10.0
    n_fft: int = 512
    center: bool = True
    pad_mode: str = "constant"
    n_mels: int = 40
    f_min_hz: float = 0.0
    f_max_hz: float | None = None
    mel_scale: str = "slaney"
    mel_norm: str = "slaney"
    log: str = "log10"
    floor: float = 1e-6
    floor_kind: str = "add"
    n_mfcc: int = 20
    dtype: str = "float32"

    def _check_values(self) -> None:
        check_one_of("features", self.features, ("logmel", "mfcc", "raw"))
        check_number("pre_emphasis", self.pre_emphasis, 0, 1)
        check_number("dither", self.dither, 0, 1000)
        check_one_of("window", self.window, ("hann", "hamming", "blackman", "boxcar"))
        check_number("window_ms", self.window_ms, 0, 1000, open_low=True)
        check_number("hop_ms", self.hop_ms, 0, 1000, open_low=True)
        check_number("n_fft", self.n_fft, 2, 1 << 16)
        check(self.n_fft % 2 == 0, "n_fft", self.n_fft, "an even number")
        check_one_of("pad_mode", self.pad_mode, ("constant", "reflect"))
        check_number("n_mels", self.n_mels, 1, 1024)
        check_one_of("mel_scale", self.mel_scale, ("slaney", "htk"))
        check_one_of("mel_norm", self.mel_norm, ("slaney", "none"))
        check_one_of("log", self.log, ("log10", "ln", "none"))
        check_number("floor", self.floor, 1e-30, 1)
        check_one_of("floor_kind", self.floor_kind, ("add", "max"))
        check_number("n_mfcc", self.n_mfcc, 1, self.n_mels if self.features == "mfcc" else 1024)
        check_one_of("dtype", self.dtype, ("float32", "float16"))
        if self.dtype != "float32":
            fits = self.features != "raw" and self.log != "none"
            expected = "features 'logmel' or 'mfcc' with a logarithm; 'raw' is PCM16, and power needs float32"
            check(fits, "dtype, features, log", (self.dtype, self.features, self.log), expected)


@dataclass(frozen=True)
class SegmentConfig(Stage):
    """What of an utterance becomes a record.

    segments: 'utterance' stores the whole voiced part as one spectrogram, crops are chosen when reading;
        'windows' stores fixed windows of `crop_ms` inside each voiced interval, as the project's origin did.
    crop_ms: 1.2 s, the length that the stored `feature_shape` speaks of; 121 frames by default.
    min_utterance_ms: less voice than this in a train utterance is filtered (policy).
    max_part_s: longer utterances are cut into parts, each a record with its own checksum.
    """

    segments: str = "utterance"
    crop_ms: float = 1200.0
    min_utterance_ms: float = 300.0
    max_part_s: float = 60.0

    def _check_values(self) -> None:
        check_one_of("segments", self.segments, ("utterance", "windows"))
        check_number("crop_ms", self.crop_ms, 0, 60000, open_low=True)
        check_number("min_utterance_ms", self.min_utterance_ms, 0, 60000)
        check_number("max_part_s", self.max_part_s, 1, 3600)


# Raised when a change of the code gives other values for the same recipe.
RECIPE_VERSION = 2


@dataclass(frozen=True)
class Recipe:
    """The configs of all stages together: everything that decides the values of a dataset."""

    audio: AudioConfig = field(default_factory=AudioConfig)
    voice: VoiceConfig = field(default_factory=VoiceConfig)
    level: LevelConfig = field(default_factory=LevelConfig)
    feature: FeatureConfig = field(default_factory=FeatureConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)

    def __post_init__(self) -> None:
        feature, rate, crop_ms = self.feature, self.audio.sample_rate_hz, self.segment.crop_ms
        fits = self.window_samples <= feature.n_fft
        check(fits, "window_ms", feature.window_ms, f"at most n_fft={feature.n_fft} samples at {rate} Hz")
        band = (feature.f_min_hz, self.f_max_hz)
        ordered = 0 <= band[0] < band[1] <= rate / 2
        check(ordered, "f_min_hz, f_max_hz", band, f"0 <= f_min_hz < f_max_hz <= {rate / 2:g}")
        check(self.crop_samples >= self.hop_samples, "crop_ms", crop_ms, "at least one hop")
        part_s = self.segment.max_part_s
        check(part_s * 1000 >= crop_ms, "max_part_s", part_s, f"{crop_ms=:g} or more")
        whole = feature.center or self.crop_samples >= feature.n_fft
        check(whole, "crop_ms", crop_ms, "at least one FFT when center is false")

    def _whole_samples(self, name: str, milliseconds: float) -> int:
        samples = milliseconds * self.audio.sample_rate_hz / 1000
        check(
            abs(samples - round(samples)) < 1e-6 and samples >= 1,
            name,
            milliseconds,
            f"a whole number of samples at {self.audio.sample_rate_hz} Hz, got {samples:g}",
        )
        return round(samples)

    @property
    def window_samples(self) -> int:
        return self._whole_samples("window_ms", self.feature.window_ms)

    @property
    def hop_samples(self) -> int:
        return self._whole_samples("hop_ms", self.feature.hop_ms)

    @property
    def crop_samples(self) -> int:
        return self._whole_samples("crop_ms", self.segment.crop_ms)

    @property
    def f_max_hz(self) -> float:
        top = self.feature.f_max_hz
        return self.audio.sample_rate_hz / 2 if top is None else top

    @property
    def n_bins(self) -> int:
        """Width of a stored row: mel bands, cepstral coefficients, or 1 for raw samples."""
        return {"logmel": self.feature.n_mels, "mfcc": self.feature.n_mfcc, "raw": 1}[self.feature.features]

    @property
    def dtype(self) -> str:
        """Name of the type that values are stored as: 'float32', 'float16', or 'pcm16' for raw samples."""
        return "pcm16" if self.feature.features == "raw" else self.feature.dtype

    @property
    def row_samples(self) -> int:
        """Samples from one stored row to the next: the hop, or 1 for raw samples."""
        return 1 if self.feature.features == "raw" else self.hop_samples

    @property
    def crop_frames(self) -> int:
        """Rows of one example."""
        return self.rows(self.crop_samples)

    @property
    def feature_shape(self) -> list[int]:
        """`[bins, frames]` of one example as the loader gives it, [40, 121] by default."""
        return [self.n_bins, self.crop_frames]

    def rows(self, n_samples: int) -> int:
        """Stored rows for `n_samples` of waveform: frames, or the samples themselves for raw."""
        return n_samples if self.feature.features == "raw" else n_frames(n_samples, self)

    def seconds(self, frames: int, records: int) -> float:
        """Length of the speech in `frames` rows of `records` records: centred, a record has a frame more than hops."""
        extra = records if self.feature.center and self.feature.features != "raw" else 0
        return (frames - extra) * self.row_samples / self.audio.sample_rate_hz

    def to_dict(self) -> dict[str, dict[str, Any]]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, stages: dict[str, dict[str, Any]]) -> Recipe:
        """The recipe of a dataset's metadata; unknown stages or fields are refused."""
        known = {f.name: f.default_factory for f in dataclasses.fields(cls)}
        refuse_unknown("recipe", stages, set(known))
        made: dict[str, Any] = {}
        for name, values in stages.items():
            stage = known[name]
            fields = {f.name for f in dataclasses.fields(stage)}  # type: ignore[arg-type]
            refuse_unknown(f"recipe.{name}", values, fields)
            made[name] = stage(**values)  # type: ignore[operator]
        return cls(**made)

    def replace(self, /, **values: Any) -> Recipe:
        """A recipe with some fields changed, whichever stage they are in: `recipe.replace(n_mels=64)`."""
        stages = self.to_dict()
        for name, value in values.items():
            owner = next((stage for stage in stages.values() if name in stage), None)
            if owner is None:
                known = ", ".join(sorted(n for stage in stages.values() for n in stage))
                raise ConfigError(f"no recipe field is called {name!r}; the fields are: {known}")
            owner[name] = value
        return Recipe.from_dict(stages)

    def fingerprint(self) -> str:
        """sha256, 64 hex digits, of the canonical JSON of the recipe and `RECIPE_VERSION`."""
        return hashlib.sha256(canonical_json([RECIPE_VERSION, self.to_dict()]).encode()).hexdigest()


def canonical_json(value: object) -> str:
    """One text for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def n_frames(n_samples: int, recipe: Recipe) -> int:
    """Frames of a spectrogram of `n_samples`. The only place where samples become frames.

    Centred: 1 + n // hop (1.2 s at 16 kHz and hop 160 -> 121). Not centred: whole FFT windows only.
    """
    if n_samples <= 0:
        return 0
    if recipe.feature.center:
        return 1 + n_samples // recipe.hop_samples
    return max(0, 1 + (n_samples - recipe.feature.n_fft) // recipe.hop_samples)


PRESETS: dict[str, Recipe] = {
    "ge2e": Recipe(),
    "seed": Recipe(
        audio=AudioConfig(remove_dc=False),
        level=LevelConfig(level_dbfs=None),
        feature=FeatureConfig(pad_mode="reflect"),
        segment=SegmentConfig(segments="windows"),
    ),
}


def parse_setting(text: str) -> tuple[str, Any]:
    """'n_mels=64' -> ('n_mels', 64): the value as JSON where it is JSON, else as text; 'none' stays text."""
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise ConfigError(f"--set {text!r} cannot be read: expected field=value, such as n_mels=64")
    try:
        return name.strip(), json.loads(value)
    except (ValueError, RecursionError):
        return name.strip(), value.strip()
