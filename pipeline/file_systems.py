"""Where files may lie: on a local disk, on `s3://` and `gs://`, and wherever else Beam knows how to read and write.

Stores have a client of their own (`ge2e_transforms.stores`): it takes credentials from the environment on every
worker, whatever started it, has many requests in flight, and costs little for each. Beam's file systems serve the rest.

Content is bytes. It must not know what a file is for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from apache_beam.io.filesystem import CompressionTypes, FileSystem
from apache_beam.io.filesystems import FileSystems

from ge2e_transforms import stores
from ge2e_transforms.errors import MissingExtraError, StorageError
from ge2e_transforms.utterance import is_url
from pipeline import conditional, disk
from pipeline.disk import patiently

# Files up to this are sent from memory: a local read that fails half-way cannot cut an object off.
_PART_BYTES = 64 << 20
_WILD = re.compile(r"[*?\[]")
_READ_BYTES = 1 << 18
# What a file system without locks, or without links, says.
_NO_LOCKS = (errno.ENOLCK, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)


class Files(Protocol):
    """What can be done with the files of one kind of place."""

    def prepare(self, folder: str) -> None:
        """Makes a folder, or at least looks whether it could be written to; OSError or ValueError if not."""

    def size(self, path: str) -> int | None:
        """Bytes of a file, None if there is none."""

    def state(self, path: str) -> list[int] | None:
        """What changes when the file does; None if there is none."""

    def match(self, pattern: str) -> list[str]:
        """Files that match a glob."""

    def listing(self, folder: str) -> dict[str, int]:
        """Bytes of the files in a folder and in its folders, by name relative to it, with '/'; empty if there is none.

        What lies deeper may be among them.
        """

    def reading(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A file's bytes as they are stored; FileNotFoundError if there is none."""

    def publish(self, path: Path, final: str) -> None:
        """A local file under its final name, whole or not at all, in place of what was there."""

    def publish_if(self, path: Path, final: str, version: str | None) -> bool:
        """As `publish`, if what stands there still has this version (see `version_of`) when it is replaced.

        Returns whether the file's content stands there now.
        """

    def remove(self, paths: list[str]) -> None:
        """Deletes files; those that are gone already do not matter."""


def version_of(content: bytes | None) -> str | None:
    """Names what was read, 64 hex digits; None for no file."""
    return None if content is None else hashlib.sha256(content).hexdigest()


class _LocalFiles:
    def prepare(self, folder: str) -> None:
        disk.retried(lambda: Path(folder).mkdir(parents=True, exist_ok=True))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "permission denied")

    def size(self, path: str) -> int | None:
        found = status(path)
        return found.st_size if found and stat.S_ISREG(found.st_mode) else None

    def state(self, path: str) -> list[int] | None:
        try:
            found = status(path)
        except StorageError:  # a folder that may not be entered: a state like any other
            return None
        return [found.st_size, found.st_ctime_ns] if found else None

    def match(self, pattern: str) -> list[str]:
        (result,) = FileSystems.match([pattern])
        return [found.path for found in result.metadata_list]

    def listing(self, folder: str) -> dict[str, int]:
        root = Path(folder)
        found = ((path, status(path)) for path in (*root.glob("*"), *root.glob("*/*")))
        return {
            path.relative_to(root).as_posix(): status.st_size
            for path, status in found
            if status and stat.S_ISREG(status.st_mode)
        }

    @contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO]:
        with io.BufferedReader(disk.PatientFile(path), _READ_BYTES) as stream:
            yield cast(BinaryIO, stream)

    def publish(self, path: Path, final: str) -> None:
        sync(path)
        patiently(lambda: path.replace(final), final, "written")
        sync(path.parent)

    def publish_if(self, path: Path, final: str, version: str | None) -> bool:
        """Under a lock of the folder, which ends with its process; no file is made for it.

        Where a file system has no locks (NFS without its lock service), a first file is linked into its place, which
        fails if there is one. All else is compared and then replaced there, and a warning says so.
        """
        sync(path)
        with _locked(path.parent) as locked:
            standing, content = _content(self, final), path.read_bytes()
            replaced = version_of(standing) == version and self._put(path, final, locked, standing is None)
            stands = replaced or _content(self, final) == content
        sync(path.parent)
        return stands

    def _put(self, path: Path, final: str, locked: bool, first: bool) -> bool:
        if first and not locked:
            try:
                os.link(path, final)
                return True
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
        if not locked:
            _warn_of_race(final, "the file system has no locks")
        patiently(lambda: path.replace(final), final, "written")
        return True

    def remove(self, paths: list[str]) -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                patiently(Path(path).unlink, path, "removed")


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """The block alone in this folder, among all processes that ask for it; False where there are no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked = True
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            locked = False
        try:
            yield locked
        finally:
            if locked:
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough after a fork
    finally:
        os.close(descriptor)


def _content(files: Files, path: str) -> bytes | None:
    try:
        with files.reading(path) as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def _compare_and_publish(files: Files, path: Path, final: str, version: str | None) -> bool:
    """Two steps: what another job writes between them is lost."""
    standing = _content(files, final)
    if standing != path.read_bytes():
        if version_of(standing) != version:
            return False
        files.publish(path, final)
    return True


def _warn_of_race(final: str, why: str) -> None:
    logging.getLogger(__name__).warning("%s: another job that publishes at this moment is not noticed: %s", final, why)


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def status(path: str | Path) -> os.stat_result | None:
    """Of a local file or folder; None if there is none. What cannot be looked up is not taken for that."""
    try:
        return patiently(lambda: _stat(path), str(path), "looked up")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _stat(path: str | Path) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except ValueError:  # a name with a NUL byte is no file either
        return None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return None
        raise


class _StoreFiles:
    def prepare(self, folder: str) -> None:
        store, path = _located(folder)
        found = store.try_to("looked up", store.bucket, lambda client: client.get_file_info(store.bucket))
        if not store.bucket or not path.partition("/")[2] or not found.type:
            raise ValueError(f"there is no bucket {store.bucket!r}, or no folder in it is named")

    def size(self, path: str) -> int | None:
        with _named():
            store, where = _located(path)
            return store.size(where)

    def state(self, path: str) -> list[int] | None:
        with _named():
            store, where = _located(path)
            found = store.info(where)
            return found and list(found)

    def match(self, pattern: str) -> list[str]:
        with _named():
            store, where = _located(pattern)
            wild = _WILD.search(where)
            if wild is None:
                return []
            fits = re.compile(FileSystem.translate_pattern(where))
            names = store.sizes(where[: wild.start()].rpartition("/")[0], deep=True)
            return [f"{store.scheme}://{name}" for name in names if fits.match(name)]

    def listing(self, folder: str) -> dict[str, int]:
        with _named():
            store, where = _located(folder.rstrip("/"))
            return {name[len(where) + 1 :]: size for name, size in store.sizes(where, deep=True).items()}

    @contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO]:
        with _named():
            store, where = _located(path)
            with store.open(where).stream() as stream:
                yield stream

    def publish(self, path: Path, final: str) -> None:
        with _named():
            store, where = _located(final)
            store.write(where, lambda: _parts(path))

    def publish_if(self, path: Path, final: str, version: str | None) -> bool:
        """By a conditional write where the store and its client can; else compared, then written, with a warning."""
        try:
            with _named():
                return conditional.replace(final, path.read_bytes(), lambda standing: version_of(standing) == version)
        except (MissingExtraError, conditional.NotConditionalError) as error:
            _warn_of_race(final, str(error))
            return _compare_and_publish(self, path, final, version)

    def remove(self, paths: list[str]) -> None:
        with _named():
            for path in paths:
                store, where = _located(path)
                store.remove(where)


def _located(url: str) -> tuple[stores.Store, str]:
    found = stores.locate(url)
    assert found is not None  # `files_of` chose by the same rule
    return found


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while part := stream.read(_PART_BYTES):
            yield part


@contextmanager
def _named() -> Iterator[None]:
    """What no second try would mend is told at once; all else a runner may try again, elsewhere and later."""
    try:
        yield
    except stores.StoreError as error:
        if error.final:
            raise StorageError(str(error)) from error
        raise


class _BeamFiles:
    def prepare(self, folder: str) -> None:
        FileSystems.get_filesystem(folder)

    def size(self, path: str) -> int | None:
        (result,) = FileSystems.match([path])
        return result.metadata_list[0].size_in_bytes if result.metadata_list else None

    def state(self, path: str) -> list[int] | None:
        found = self.size(path)
        return None if found is None else [found]

    def match(self, pattern: str) -> list[str]:
        (result,) = FileSystems.match([pattern])
        return [found.path for found in result.metadata_list]

    def listing(self, folder: str) -> dict[str, int]:
        root = folder.rstrip("/") + "/"
        (result,) = FileSystems.match([f"{root}**"])
        return {found.path.removeprefix(root): found.size_in_bytes for found in result.metadata_list}

    @contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO]:
        try:
            stream = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
        except Exception as error:  # each of them has errors of its own
            if FileSystems.exists(path):
                raise
            raise FileNotFoundError(errno.ENOENT, "no such file", path) from error
        try:
            yield cast(BinaryIO, stream)
        finally:
            stream.close()

    def publish(self, path: Path, final: str) -> None:
        target = FileSystems.create(final, compression_type=CompressionTypes.UNCOMPRESSED)
        for part in _parts(path):
            target.write(part)
        target.close()

    def publish_if(self, path: Path, final: str, version: str | None) -> bool:
        """Compared, then written: Beam's file systems have no conditional write."""
        return _compare_and_publish(self, path, final, version)

    def remove(self, paths: list[str]) -> None:
        objects = [path for path in paths if FileSystems.exists(path)]
        if objects:
            FileSystems.delete(objects)


_LOCAL, _STORE, _BEAM = _LocalFiles(), _StoreFiles(), _BeamFiles()


def is_local(path: str) -> bool:
    return not is_url(path)


def files_of(path: str) -> Files:
    """The place that a path or URL is of."""
    if is_local(path):
        return _LOCAL
    return _STORE if stores.locate(path) else _BEAM
