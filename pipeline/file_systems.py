"""Where files may lie: on a local disk, on `s3://` and `gs://`, and wherever else Beam knows how to read and write.

Stores have a client of their own (`ge2e_transforms.stores`): it takes credentials from the environment on every
worker, whatever started it, has many requests in flight, and costs little for each. Beam's file systems serve the rest.
"""

from __future__ import annotations

import errno
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
from ge2e_transforms.errors import StorageError

# Files up to this are sent from memory: a local read that fails half-way cannot cut an object off.
_PART_BYTES = 64 << 20
_WILD = re.compile(r"[*?\[]")


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

    def remove(self, paths: list[str]) -> None:
        """Deletes files; those that are gone already do not matter."""


class _LocalFiles:
    def prepare(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "permission denied")

    def size(self, path: str) -> int | None:
        status = _status(path)
        return status.st_size if status and stat.S_ISREG(status.st_mode) else None

    def state(self, path: str) -> list[int] | None:
        status = _status(path)
        return [status.st_size, status.st_ctime_ns] if status else None

    def match(self, pattern: str) -> list[str]:
        (result,) = FileSystems.match([pattern])
        return [found.path for found in result.metadata_list]

    def listing(self, folder: str) -> dict[str, int]:
        root = Path(folder)
        found = ((path, _status(path)) for path in (*root.glob("*"), *root.glob("*/*")))
        return {
            path.relative_to(root).as_posix(): status.st_size
            for path, status in found
            if status and stat.S_ISREG(status.st_mode)
        }

    @contextmanager
    def reading(self, path: str) -> Iterator[BinaryIO]:
        with Path(path).open("rb") as stream:
            yield stream

    def publish(self, path: Path, final: str) -> None:
        sync(path)
        path.replace(final)
        sync(path.parent)

    def remove(self, paths: list[str]) -> None:
        for path in paths:
            Path(path).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _status(path: str | Path) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except (OSError, ValueError):  # a name with a NUL byte is no file either
        return None


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

    def remove(self, paths: list[str]) -> None:
        objects = [path for path in paths if FileSystems.exists(path)]
        if objects:
            FileSystems.delete(objects)


_LOCAL, _STORE, _BEAM = _LocalFiles(), _StoreFiles(), _BeamFiles()


def is_local(path: str) -> bool:
    return "://" not in path


def files_of(path: str) -> Files:
    """The place that a path or URL is of."""
    if is_local(path):
        return _LOCAL
    return _STORE if stores.locate(path) else _BEAM
