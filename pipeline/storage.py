"""Files of a dataset, wherever they lie, whole or not at all.

Locally a file is written beside its final place, synced and renamed. On an object store it is built on
local scratch disk and uploaded under its final name: objects appear whole, and renaming there is a copy.

Content is bytes. It must not know what a file holds.
"""

from __future__ import annotations

import functools
import itertools
import os
import platform
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from ge2e_transforms.dataset import sha256_of
from ge2e_transforms.errors import ConfigError, DiskError
from pipeline import disk, file_systems
from pipeline.file_systems import files_of
from pipeline.file_systems import is_local as is_local

_TEMPORARY = ".tmp-"
_TEMPORARY_NAME = re.compile(rf"(?P<final>.+){re.escape(_TEMPORARY)}(?P<host>.+)-(?P<process>\d+)-[0-9a-f]{{32}}")
_HOST = platform.node()
# No attempt at one file takes this long.
_ABANDONED_S = 86400
_PAUSE_S = 5.0
_Given = ParamSpec("_Given")
_T = TypeVar("_T")


def join(root: str, relative: str) -> str:
    """A path below `root`; `relative` uses '/'."""
    return str(Path(root, relative)) if is_local(root) else f"{root.rstrip('/')}/{relative}"


def expand(pattern: str) -> list[str]:
    """Files that match a glob, sorted; empty if there is none. A name that is there is no glob."""
    return [pattern] if exists(pattern) else sorted(files_of(pattern).match(pattern))


def exists(path: str) -> bool:
    return size(path) is not None or (is_local(path) and file_systems.status(path) is not None)


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

    Raises:
        StorageError, DiskError: a file cannot be written; the message names it. So becomes any OSError of the system.
    """
    with _temporaries(finals) as paths:
        yield paths
        for path, final in zip(paths, finals, strict=True):
            if path.stat().st_size:
                files_of(final).publish(path, final)
            else:
                remove([final])


@contextmanager
def _temporaries(finals: tuple[str, ...]) -> Iterator[tuple[Path, ...]]:
    local = is_local(finals[0])
    # Host and process, so that what a killed attempt left can be told from what another one still writes.
    token = f"{_HOST}-{os.getpid()}-{uuid.uuid4().hex}"
    paths: tuple[Path, ...] = ()
    try:
        folder = Path(finals[0]).parent if local else Path(tempfile.mkdtemp(prefix="ge2e-"))
        folder.mkdir(parents=True, exist_ok=True)
        paths = tuple(folder / f"{Path(final).name}{_TEMPORARY}{token}" for final in finals)
        yield paths
    except OSError as error:
        if error.errno is None:  # ours, or of a store: it has a name
            raise
        known = dict(zip(map(str, paths), finals, strict=False))
        raise disk.named(error, known.get(str(error.filename), " and ".join(finals)), "written") from error
    finally:
        with suppress(OSError):  # what stays is removed with what killed attempts leave
            for path in paths:
                path.unlink(missing_ok=True)
            if paths and not local:
                folder.rmdir()


def tried_again(function: Callable[_Given, _T]) -> Callable[_Given, _T]:
    """The function, begun anew once when a disk failed: then nothing that was written before may be relied on.

    After an fsync that failed, the system may have dropped what it could not write, and a second one succeeds.
    """

    @functools.wraps(function)
    def trying(*args: _Given.args, **named: _Given.kwargs) -> _T:
        try:
            return function(*args, **named)
        except DiskError:
            time.sleep(_PAUSE_S)
        return function(*args, **named)

    return trying


@tried_again
def write_bytes(path: str, content: bytes) -> None:
    """One file, whole or not at all, in place of what was there."""
    with building(path) as (temporary,):
        temporary.write_bytes(content)


@tried_again
def write_bytes_if(path: str, content: bytes, version: str | None) -> bool:
    """As `write_bytes`, if what stands there still has the version that `file_systems.version_of` gave of it.

    Returns whether `content` stands there now.
    """
    with _temporaries((path,)) as (temporary,):
        temporary.write_bytes(content)
        return files_of(path).publish_if(temporary, path, version)


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
    if not is_local(folder):
        return []
    try:
        paths = disk.patiently(lambda: list(Path(folder).iterdir()), folder, "looked up")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(str(path) for path in paths if _TEMPORARY in path.name and _abandoned(path))


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
    except OSError:
        return False
