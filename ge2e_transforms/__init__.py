"""Log-mel features of speech and exact batches of N speakers x M utterances, for the GE2E loss.

The public names are loaded on first use, so that reading a dataset imports NumPy and pyarrow only, and
TensorFlow only where a `tf.data.Dataset` is asked for.
It must not import a file of the package before a name of it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ge2e_transforms.augment import SpecAugment
    from ge2e_transforms.config import PRESETS, Recipe
    from ge2e_transforms.extractor import FeatureExtractor
    from ge2e_transforms.inference import features_of_file
    from ge2e_transforms.loader import BatchLoader
    from ge2e_transforms.mel_augment import MelAugment
    from ge2e_transforms.tf_reader import GE2EDatasetLoader
    from ge2e_transforms.waveform_augment import WaveformAugment
    from ge2e_transforms.waveform_transform import EachWaveform

_HOMES = {
    "BatchLoader": "loader",
    "EachWaveform": "waveform_transform",
    "FeatureExtractor": "extractor",
    "GE2EDatasetLoader": "tf_reader",
    "MelAugment": "mel_augment",
    "PRESETS": "config",
    "Recipe": "config",
    "SpecAugment": "augment",
    "WaveformAugment": "waveform_augment",
    "features_of_file": "inference",
}
__all__ = [
    "PRESETS",
    "BatchLoader",
    "EachWaveform",
    "FeatureExtractor",
    "GE2EDatasetLoader",
    "MelAugment",
    "Recipe",
    "SpecAugment",
    "WaveformAugment",
    "features_of_file",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
