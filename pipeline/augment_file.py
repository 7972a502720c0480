"""The YAML file that `--augment` names, read where a job is submitted.

It must not know what the values mean: `Augmentation` checks them. The manifests that it names are not opened.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import yaml

from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.errors import ConfigError, StorageError
from ge2e_transforms.utterance import audio_location
from pipeline import storage


def read_augmentation(path: str) -> Augmentation:
    """The config of an `augment.yaml`; manifests that it names are relative to its folder.

    Raises:
        ConfigError: no such file, no YAML, or values that cannot be used.
    """
    try:
        values: Any = yaml.safe_load(storage.read_bytes(path))
    except (FileNotFoundError, NotADirectoryError, StorageError) as error:
        raise ConfigError(f"--augment={path} cannot be read ({error}): expected a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--augment={path} is no YAML: {' '.join(str(error).split())}") from error
    try:
        config = Augmentation.from_dict(values)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"--augment={path}: {error}") from error
    placed = {
        kind: replace(entry, manifest=audio_location(path, entry.manifest)) for kind, entry in config.lists.items()
    }
    return replace(config, **placed)  # type: ignore[arg-type]
