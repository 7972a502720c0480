"""metadata.json of an output: what stands, and what takes its place."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ge2e_transforms.errors import PlanError
from ge2e_transforms.schema import FORMAT, FORMAT_VERSION, METADATA_FILE
from pipeline import storage


class Published(NamedTuple):
    """The metadata that stands in a folder (empty if there is none), and the version of its file."""

    metadata: dict[str, Any]
    version: str | None


def read(output: str) -> Published:
    """The metadata that stands in a folder; empty if there is none.

    Raises:
        PlanError: the file is not one of ours, so it may not be replaced.
    """
    path = storage.join(output, METADATA_FILE)
    try:
        content: Any = json.loads(storage.read_bytes(path)) if storage.exists(path) else {"format": FORMAT}
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise PlanError(f"{path} was not written by this program, so it is not replaced: choose another --output")
    if content == {"format": FORMAT}:
        return Published({}, None)
    if content.get("format_version") != FORMAT_VERSION:
        raise PlanError(
            f"{path} has format version {content.get('format_version')!r}, expected {FORMAT_VERSION}: choose another "
            "--output, or the version of ge2e-features that wrote it"
        )
    return Published(content, "")


def write(output: str, metadata: dict[str, Any], version: str | None) -> None:
    content = json.dumps(metadata, indent=1, allow_nan=False).encode()
    storage.write_bytes(storage.join(output, METADATA_FILE), content)
