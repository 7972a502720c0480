"""A file for people that a command makes of a dataset: where it may be, and how it is written.

Content is bytes. It must not know what it means.
"""

from __future__ import annotations

from pathlib import Path

from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import ConfigError, StorageError
from ge2e_transforms.utterance import is_url
from pipeline import disk


def place_of_result(dataset: Dataset, output: str, example: str) -> Path:
    """Where `--output` is; a file that is there already is replaced.

    Args:
        dataset: of which the file is made.
        output: as it was given.
        example: a name that fits, for messages.

    Raises:
        ConfigError: that would be within the dataset, or is no file on this machine.
    """
    if not output or is_url(output):
        raise ConfigError(f"--output {output}: expected a file on this machine")
    path = Path(output)
    if path.is_dir():
        raise ConfigError(f"--output {path} is a folder: expected a file, such as {path / example}")
    if dataset.folder.is_local and path.resolve().is_relative_to(Path(dataset.root).resolve()):
        raise ConfigError(f"{path} would be written inside of the dataset: name another place by --output")
    return path


def write_result(path: Path, content: bytes) -> None:
    """Whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        disk.write_whole(path, content)
    except OSError as error:
        text = f"{path} cannot be written ({error.strerror}): choose another file with --output"
        raise StorageError(text) from error
