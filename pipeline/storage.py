"""Files of a dataset, wherever they lie, whole or not at all.

Locally a file is written beside its final place, synced and renamed. On an object store it is built on
local scratch disk and uploaded under its final name: objects appear whole, and renaming there is a copy.
"""

from __future__ import annotations

import errno
import itertools
import os
import platform
import re
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ge2e_transforms.dataset import sha256_of
from ge2e_transforms.errors import ConfigError, StorageError
from pipeline.file_systems import files_of
from pipeline.file_systems import is_local as is_local

_TEMPORARY = ".tmp-"
_TEMPORARY_NAME = re.compile(rf"(?P<final>.+){re.escape(_TEMPORARY)}(?P<host>.+)-(?P<process>\d+)-[0-9a-f]{{32}}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_HOST = platform.node()
# No attempt at one file takes this long.
_ABANDONED_S = 86400


def join(root: str, relative: str) -> str:
    """A path below `root`; `relative` uses '/'."""
    return str(Path(root, relative)) if is_local(root) else f"{root.rstrip('/')}/{relative}"


def expand(pattern: str) -> list[str]:
    """Files that match a glob, sorted; empty if there is none. A name that is there is no glob."""
    return [pattern] if exists(pattern) else sorted(files_of(pattern).match(pattern))


def exists(path: str) -> bool:
    return size(path) is not None or (is_local(path) and Path(path).exists())


def size(path: str) -> int | None:
    """Bytes of a file, None if there is none."""
    return files_of(path).size(path)


@contextmanager
def reading(path: str) -> Iterator[BinaryIO]:
    """A file's bytes as they are stored (compression is left to the reader of the format)."""
    with files_of(path).reading(path) as stream:
        yield stream


def read_bytes(path: str) -> bytes:
    with reading(path) as stream:
        return stream.read()


def state(path: str) -> list[int] | None:
    """What changes when a file does (size, and where it is told, time of change), None if there is none."""
    return files_of(path).state(path)


def sha256(path: str) -> str:
    """Checksum of a file as it is stored, 64 hex digits."""
    with reading(path) as stream:
        return sha256_of(stream)


def prepare(output: str) -> None:
    """Makes the folder of a dataset, so that one that cannot be is told before the work.

    Raises:
        ConfigError: no dataset can be written there.
    """
    try:
        files_of(output).prepare(output)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no dataset can be written to {output} ({error}): expected a folder that you may write to"
        ) from error


@contextmanager
def building(*finals: str) -> Iterator[tuple[Path, ...]]:
    """Local paths to write to; when the block ends well, each non-empty file is published as its final.

    An empty file is not published, as S3 refuses empty objects, and what stood in its place is removed.
    When the block fails, nothing happens.
    """
    local = is_local(finals[0])
    folder = Path(finals[0]).parent if local else Path(tempfile.mkdtemp(prefix="ge2e-"))
    folder.mkdir(parents=True, exist_ok=True)
    # Host and process, so that what a killed attempt left can be told from what another one still writes.
    token = f"{_HOST}-{os.getpid()}-{uuid.uuid4().hex}"
    paths = tuple(folder / f"{Path(final).name}{_TEMPORARY}{token}" for final in finals)
    try:
        yield paths
        for path, final in zip(paths, finals, strict=True):
            if path.stat().st_size:
                files_of(final).publish(path, final)
            else:
                remove([final])
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StorageError(
            f"{finals[0]} cannot be written ({error.strerror}): make room for it in {folder}, or mend its permissions, "
            "and run the same command again; finished shards are kept"
        ) from error
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
        if not local:
            folder.rmdir()


def write_bytes(path: str, content: bytes) -> None:
    """One file, whole or not at all, in place of what was there."""
    with building(path) as (temporary,):
        temporary.write_bytes(content)


def remove(paths: Iterable[str]) -> None:
    """Deletes files; those that are gone already do not matter."""
    for place, group in itertools.groupby(paths, key=files_of):
        place.remove(list(group))


def listing(folder: str) -> dict[str, int]:
    """Bytes of the files in a folder and in its folders, by name relative to it, with '/'; empty if there is none."""
    return files_of(folder).listing(folder)


def remove_empty(folder: str) -> None:
    """Removes a local folder if nothing is in it; elsewhere a folder is but the beginning of names."""
    if is_local(folder):
        with suppress(OSError):  # it is not empty, or no folder
            Path(folder).rmdir()


def final_of(name: str) -> str:
    """The name under which a temporary file is to be published; empty for a name that `building` does not give."""
    match = _TEMPORARY_NAME.fullmatch(name)
    return match["final"] if match else ""


def leftovers(folder: str) -> list[str]:
    """Temporary files in a local folder that a killed attempt left: its process is gone, or a day has passed."""
    if not is_local(folder) or not Path(folder).is_dir():
        return []
    return sorted(str(path) for path in Path(folder).glob(f"*{_TEMPORARY}*") if _abandoned(path))


def _abandoned(path: Path) -> bool:
    match = _TEMPORARY_NAME.fullmatch(path.name)
    if match is None:
        return False
    try:
        if match["host"] == _HOST:
            os.kill(int(match["process"]), 0)  # asks whether the process is there
        return time.time() - path.stat().st_mtime > _ABANDONED_S
    except (ProcessLookupError, FileNotFoundError):
        return True
    except PermissionError:
        return False
