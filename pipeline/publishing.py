"""`metadata.json`, by which a folder is a dataset: what stands there, and its replacement if that still stands.

Of jobs that publish into one folder at once the first wins. Equal ones make the same dataset, so it is theirs too; any
other fails, and nothing of the dataset that stands is touched.

It must not know shards and tables: metadata is a dict of JSON.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ge2e_transforms.errors import CommitError, PlanError
from ge2e_transforms.schema import FORMAT, FORMAT_VERSION, METADATA_FILE
from pipeline import storage
from pipeline.file_systems import version_of

# What two equal jobs may say differently of the same dataset: who they were and where they ran.
_OF_THE_RUN = ("token", "versions", "cpus", "checksum")


class Published(NamedTuple):
    """The metadata that stands in a folder, and a name for exactly these bytes; `{}` and None if there is none."""

    metadata: dict[str, Any]
    version: str | None


def read(output: str) -> Published:
    """What is published in a folder.

    Raises:
        PlanError: the file is not one of ours, so it may not be replaced.
    """
    path = storage.join(output, METADATA_FILE)
    try:
        found = storage.read_bytes(path)
    except FileNotFoundError:
        return Published({}, None)
    try:
        content: Any = json.loads(found)
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise PlanError(f"{path} was not written by this program, so it is not replaced: choose another --output")
    if content.get("format_version") != FORMAT_VERSION:
        raise PlanError(
            f"{path} has format version {content.get('format_version')!r}, expected {FORMAT_VERSION}: choose another "
            "--output, or the version of ge2e-features that wrote it"
        )
    return Published(content, version_of(found))


def write(output: str, metadata: dict[str, Any], version: str | None) -> None:
    """Publishes, if what stands is still what `read` gave with `version`; what an equal job has done is done, too.

    Comparison and replacement are one step on local disks, `s3://` and `gs://` (`file_systems` says where that cannot
    be, and a warning then does), and two where only Beam reaches.

    Raises:
        CommitError: another job has published since.
        StorageError, DiskError, StoreError: metadata.json cannot be written; what stood there stands.
    """
    content = json.dumps(metadata, indent=1, allow_nan=False).encode()
    if storage.write_bytes_if(storage.join(output, METADATA_FILE), content, version):
        return
    standing = read(output).metadata
    if _of_the_data(standing) != _of_the_data(json.loads(content)):
        raise CommitError(
            f"another job has published generation {standing.get('generation')} in {output} while this one (generation "
            f"{metadata['generation']}) was about to, and that dataset stands: run the same command again with "
            "--overwrite to replace it, or with another --output"
        )


def _of_the_data(metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if name not in _OF_THE_RUN}
