"""The recipe: the stages (`stages`) together, presets of them, and the one frame count.

Inside the project lengths are whole samples and frames; `Recipe` gives them. The canonical JSON of a
`Recipe` is its fingerprint: two datasets with one fingerprint can be read, grown and compared as one. It must not know
of arrays or files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from ge2e_transforms.checks import check, refuse_unknown
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.feature_kinds import FEATURE_KINDS
from ge2e_transforms.stages import AudioConfig, FeatureConfig, LevelConfig, SegmentConfig, VoiceConfig

__all__ = [
    "PRESETS",
    "AudioConfig",
    "FeatureConfig",
    "LevelConfig",
    "Recipe",
    "SegmentConfig",
    "VoiceConfig",
    "canonical_json",
    "n_frames",
    "parse_setting",
    "samples_for",
]

# Raised when a change of the code gives other values for the same recipe.
RECIPE_VERSION = 2
# Fields that came when there were datasets already. They are written only where they differ from their default, which
# is what those were made with: so a recipe of before has the text and the fingerprint that it had.
_LATER = {"level_mode", "window_form", "snip", "scale", "frame_dc", "pre_emphasis_in"}


@dataclass(frozen=True)
class Recipe:
    """The configs of all stages together: everything that decides the values of a dataset.

    Raises:
        ConfigError: stages that do not fit each other, or a length that is no whole number of samples.
    """

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
        whole = feature.center or self.crop_samples >= self.frame_samples
        span = "window where snip is 'window'" if feature.snip == "window" else "FFT when center is false"
        check(whole, "crop_ms", crop_ms, f"at least one {span}")

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
    def frame_samples(self) -> int:
        """What one frame takes of the waveform where it is not centred: the FFT, or the window alone."""
        return self.window_samples if self.feature.snip == "window" else self.feature.n_fft

    @property
    def first_centre(self) -> int:
        """Sample at the middle of the first frame; each further one is a hop later."""
        return 0 if self.feature.center else self.frame_samples // 2

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
        return FEATURE_KINDS[self.feature.features].bins(self.feature)

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
        """Length of the speech in `frames` rows of `records` records, to a hop each.

        Frames lie a hop apart; centred, the first and the last lie on the ends, else the last frame reaches further.
        """
        rate = self.audio.sample_rate_hz
        if self.feature.features == "raw":
            return frames / rate
        ends = 0 if self.feature.center else self.frame_samples
        return ((frames - records) * self.hop_samples + records * ends) / rate

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """As metadata holds it: fields that came later only where they are not what they were before (`_LATER`)."""
        written: dict[str, dict[str, Any]] = {}
        for stage in dataclasses.fields(self):
            config = getattr(self, stage.name)
            entries = {entry.name: (getattr(config, entry.name), entry.default) for entry in dataclasses.fields(config)}
            written[stage.name] = {
                name: value for name, (value, default) in entries.items() if name not in _LATER or value != default
            }
        return written

    @classmethod
    def from_dict(cls, stages: dict[str, dict[str, Any]]) -> Recipe:
        """The recipe of a dataset's metadata; what is not given is the default.

        Raises:
            ConfigError: unknown stages or fields, or values that cannot be used.
        """
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
        """A recipe with some fields changed, whichever stage they are in.

        >>> Recipe().replace(n_mels=64, crop_ms=1600).feature_shape
        [64, 161]

        Raises:
            ConfigError: no field of this name, or a value that cannot be used.
        """
        stages = dataclasses.asdict(self)
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

    Centred: 1 + n // hop. Not centred: only whole FFTs, or whole windows where `snip` is 'window'. 1.2 s at 16 kHz:

    >>> n_frames(19200, PRESETS["ge2e"]), n_frames(19200, PRESETS["kaldi"])
    (121, 118)
    """
    if n_samples <= 0:
        return 0
    if recipe.feature.center:
        return 1 + n_samples // recipe.hop_samples
    return max(0, 1 + (n_samples - recipe.frame_samples) // recipe.hop_samples)


def samples_for(frames: int, recipe: Recipe) -> int:
    """The fewest samples that give so many frames, at least one: `n_frames` the other way round.

    >>> samples_for(121, PRESETS["ge2e"])
    19200
    """
    if recipe.feature.center:
        return max(1, (frames - 1) * recipe.hop_samples)
    return (frames - 1) * recipe.hop_samples + recipe.frame_samples


_AS_IT_IS = AudioConfig(remove_dc=False)
_ALL_OF_IT = VoiceConfig(voice="none")
_NO_LEVEL = LevelConfig(level_dbfs=None)
_KALDI = FeatureConfig(
    pre_emphasis=0.97,
    pre_emphasis_in="frame",
    frame_dc=True,
    window="povey",
    window_form="symmetric",
    center=False,
    snip="window",
    scale="pcm16",
    n_mels=80,
    f_min_hz=20.0,
    mel_scale="kaldi",
    mel_norm="none",
    log="ln",
    floor=2.0**-23,  # the epsilon of float32
    floor_kind="max",
)

# What each is like, and how near to the real thing, says docs/presets.md.
PRESETS: dict[str, Recipe] = {
    "ge2e": Recipe(),
    "seed": Recipe(
        audio=_AS_IT_IS,
        level=_NO_LEVEL,
        feature=FeatureConfig(pad_mode="reflect"),
        segment=SegmentConfig(segments="windows"),
    ),
    "librosa": Recipe(
        audio=_AS_IT_IS,
        voice=_ALL_OF_IT,
        level=_NO_LEVEL,
        feature=FeatureConfig(
            window_ms=128.0, hop_ms=32.0, n_fft=2048, n_mels=128, log="db", floor=1e-10, floor_kind="max"
        ),
    ),
    # 200 frames are the chunks that x-vectors are trained on at least.
    "kaldi": Recipe(
        audio=_AS_IT_IS, voice=_ALL_OF_IT, level=_NO_LEVEL, feature=_KALDI, segment=SegmentConfig(crop_ms=2015.0)
    ),
    # 160 frames; silences shorter than 6 windows of 30 ms stay; shorter utterances are left out.
    "rtvc": Recipe(
        audio=_AS_IT_IS,
        voice=VoiceConfig(min_silence_ms=180.0),
        level=LevelConfig(level_mode="raise"),
        feature=FeatureConfig(n_fft=400, pad_mode="reflect", log="none"),
        segment=SegmentConfig(crop_ms=1590.0, min_utterance_ms=1590.0),
    ),
    # Chunks of 200 frames; what has less than 100 frames of 10 ms is left out.
    "wespeaker": Recipe(
        audio=_AS_IT_IS,
        voice=_ALL_OF_IT,
        level=_NO_LEVEL,
        feature=dataclasses.replace(_KALDI, window="hamming"),
        segment=SegmentConfig(crop_ms=2015.0, min_utterance_ms=1000.0),
    ),
}


def parse_setting(text: str) -> tuple[str, Any]:
    """Name and value of a setting; the value is JSON where it can be, else text.

    >>> parse_setting("n_mels=64"), parse_setting("voice=none")
    (('n_mels', 64), ('voice', 'none'))

    Raises:
        ConfigError: there is no name, or no '='.
    """
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise ConfigError(f"--set {text!r} cannot be read: expected field=value, such as n_mels=64")
    try:
        return name.strip(), json.loads(value)
    except (ValueError, RecursionError):
        return name.strip(), value.strip()
