"""Files of a dataset, on a local disk or through Beam's file systems, whole or not at all.

Locally a file is written beside its final place, synced and renamed. On an object store it is built on
local scratch disk and uploaded under its final name: objects appear whole, and renaming there is a copy.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from ge2e_transforms.dataset import sha256_of
from ge2e_transforms.errors import ConfigError, MissingAudioError, StorageError

_TEMPORARY = ".tmp-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_HOST = platform.node()
# No attempt at one file takes this long.
_ABANDONED_S = 86400


def is_local(path: str) -> bool:
    return "://" not in path


def join(root: str, relative: str) -> str:
    """A path below `root`; `relative` uses '/'."""
    return str(FileSystems.join(root, *relative.split("/")))


def expand(pattern: str) -> list[str]:
    """Files that match a glob, sorted; empty if there is none. A name that is there is no glob."""
    if exists(pattern):
        return [pattern]
    (result,) = FileSystems.match([pattern])
    return sorted(metadata.path for metadata in result.metadata_list)


def exists(path: str) -> bool:
    return bool(FileSystems.exists(path))


def size(path: str) -> int | None:
    """Bytes of a file, None if there is none."""
    if is_local(path):  # Beam would take brackets in a folder's name for a glob
        return Path(path).stat().st_size if Path(path).is_file() else None
    (result,) = FileSystems.match([path])
    return result.metadata_list[0].size_in_bytes if result.metadata_list else None


@contextmanager
def reading(path: str) -> Iterator[BinaryIO]:
    """A file's bytes as they are stored (compression is left to the reader of the format)."""
    stream = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    try:
        yield cast(BinaryIO, stream)
    finally:
        stream.close()


def read_bytes(path: str) -> bytes:
    with reading(path) as stream:
        return stream.read()


def state(path: str) -> list[int] | None:
    """What changes when a file does (size and time of change; on a store its size), None if there is none."""
    if not is_local(path):
        found = size(path)
        return None if found is None else [found]
    try:
        status = Path(path).stat()
    except (OSError, ValueError):  # a name with a NUL byte is no file either
        return None
    return [status.st_size, status.st_ctime_ns]


def sha256(path: str) -> str:
    """Checksum of a file as it is stored, 64 hex digits."""
    with reading(path) as stream:
        return sha256_of(stream)


def audio_source(location: str) -> str | bytes:
    """What `audio.load` takes: the path of a local file, else the bytes of an object.

    Raises:
        MissingAudioError: there is no such object.
    """
    if is_local(location):
        return location
    try:
        return read_bytes(location)
    except Exception as error:  # each store has errors of its own
        if exists(location):
            raise
        raise MissingAudioError(f"{location}: no such object: check audio_path") from error


def prepare(output: str) -> None:
    """Makes the folder of a dataset, so that one that cannot be is told before the work.

    Raises:
        ConfigError: no dataset can be written there.
    """
    try:
        if is_local(output):
            Path(output).mkdir(parents=True, exist_ok=True)
            if not os.access(output, os.W_OK | os.X_OK):
                raise PermissionError("permission denied")
        else:
            FileSystems.get_filesystem(output)
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
                _publish(path, final)
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


def _publish(path: Path, final: str) -> None:
    if is_local(final):
        _sync(path)
        path.replace(final)
        _sync(path.parent)
        return
    with path.open("rb") as source:
        target = FileSystems.create(final, compression_type=CompressionTypes.UNCOMPRESSED)
        shutil.copyfileobj(source, target, 1 << 20)
        target.close()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(paths: Iterable[str]) -> None:
    """Deletes files; those that are gone already do not matter."""
    objects = []
    for path in paths:
        if is_local(path):  # Beam would take brackets in a folder's name for a glob, and delete what matches
            Path(path).unlink(missing_ok=True)
        elif exists(path):
            objects.append(path)
    if objects:
        FileSystems.delete(objects)


def leftovers(folder: str) -> list[str]:
    """Temporary files in a local folder that a killed attempt left: its process is gone, or a day has passed."""
    if not is_local(folder) or not Path(folder).is_dir():
        return []
    return sorted(str(path) for path in Path(folder).glob(f"*{_TEMPORARY}*") if _abandoned(path))


def _abandoned(path: Path) -> bool:
    host, _, rest = path.name.rpartition(_TEMPORARY)[2].rpartition("-")[0].rpartition("-")
    try:
        if host == _HOST and rest.isdigit():
            os.kill(int(rest), 0)  # asks whether the process is there
        return time.time() - path.stat().st_mtime > _ABANDONED_S
    except (ProcessLookupError, FileNotFoundError):
        return True
    except PermissionError:
        return False
