"""Features of the crops of a raw dataset, computed while they are read: its own recipe with other features.

It must not know of batches. What computes is imported where features are asked for, and not before. Waveforms float32
`[n, samples]` become float32 `[n, frames, bins]`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ge2e_transforms.checks import check
from ge2e_transforms.config import Recipe, samples_for
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.feature_kinds import FEATURE_KINDS
from ge2e_transforms.rng import Bits
from ge2e_transforms.supply import SamplingOptions
from ge2e_transforms.waveform_transform import Bindable, Waveforms, WaveformTransform

FEATURES = (None, *(name for name, kind in FEATURE_KINDS.items() if kind.of_bands))


@dataclass(frozen=True)
class WaveformOptions:
    """What is done to the crops of a dataset of `--features raw` before they are delivered.

    Attributes:
        features: 'logmel' or 'mfcc': these are computed from each crop, by the dataset's recipe in all else; DC and
            level are of the crop. Then `crop_frames` counts frames of features. None delivers waveforms.
        waveform_transform: changes waveforms before features are computed: `transform(waveforms, keys)` gets float32
            `[n, samples]`, some crops of a batch at a time, which it may change, and uint64 `[n]`, a key for each; it
            returns float32 `[n, samples]`. All that it draws has to come from the keys, such as by `rng.derive(keys,
            0)`: then a batch is the same whenever and wherever it is made. Where it has a method `bind(recipe)`, what
            that gives is called instead; it is asked once in each process. See `WaveformAugment` and `EachWaveform`.
    """

    features: str | None = None
    waveform_transform: WaveformTransform | Bindable | None = None

    def __post_init__(self) -> None:
        expected = f"{', '.join(map(repr, FEATURES[:-1]))} or {FEATURES[-1]!r}"
        check(self.features in FEATURES, "features", self.features, expected)
        given = self.waveform_transform
        usable = given is None or callable(given) or hasattr(given, "bind")
        check(
            usable, "waveform_transform", given, "transform(waveforms, keys), what has a method bind(recipe), or None"
        )

    @property
    def in_use(self) -> bool:
        """Whether crops are changed or turned into features at all."""
        return self.features is not None or self.waveform_transform is not None

    def delivered(self, stored: Recipe) -> Recipe:
        """The recipe of what is delivered from a dataset of a recipe.

        Raises:
            ConfigError: there are no waveforms in the dataset, or its recipe is none for these features.
        """
        if self.in_use and stored.feature.features != "raw":
            name = "waveform_transform" if self.features is None else f"features={self.features!r}"
            raise ConfigError(
                f"{name} cannot be used with a dataset of {stored.feature.features}: it needs waveforms, which "
                "`ge2e run --features raw --segments utterance` stores"
            )
        return stored if self.features is None else stored.replace(features=self.features)

    def sampled(self, options: SamplingOptions, delivered: Recipe) -> SamplingOptions:
        """The options with `crop_frames` in stored rows: frames become the fewest samples that give them."""
        if self.features is None:
            return options
        frames = options.crop_frames
        if isinstance(frames, int):
            return dataclasses.replace(options, crop_frames=samples_for(frames, delivered))
        shortest, longest = (samples_for(count, delivered) for count in frames[:2])
        return dataclasses.replace(options, crop_frames=(shortest, longest, frames[2] * delivered.hop_samples))


class CropFeatures:
    """Features of crops by a recipe. Safe to call from several threads at once.

    Args:
        recipe: of what is delivered; see `WaveformOptions.delivered`.
    """

    def __init__(self, recipe: Recipe) -> None:
        from ge2e_transforms.extractor import FeatureExtractor

        self._extractor = FeatureExtractor(recipe)

    def __call__(self, waveforms: Waveforms, seeds: Bits) -> Waveforms:
        """Waveforms float32 `[n, samples]` to features float32 `[n, frames, bins]`; `seeds` `[n]` are of the dither."""
        return self._extractor.of_crops(waveforms, seeds)
