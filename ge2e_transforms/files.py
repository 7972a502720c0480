"""A dataset's folder, local or on a store: whole files by name, and copies of them on the local disk.

Safe to call from several threads at once; a folder that is pickled opens again where it is used. It must not know what
the files hold.
"""

from __future__ import annotations

import abc
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ge2e_transforms.checks import check, check_integer
from ge2e_transforms.errors import ConfigError, CorruptRecordError, DatasetError, StorageError
from ge2e_transforms.stores import SCHEMES, OpenObject, Store, StoreError

# Half copies of processes that were killed are removed after this time without a write.
_STALE_S = 3600
_PART = ".part"


@dataclass(frozen=True)
class Cache:
    """Where copies of files of a store are kept, across runs and for any number of processes and datasets.

    A file is copied when it is first asked for, if it still fits; nothing is ever removed. Reads of training are
    random over all files, so whatever would be removed to make room is as likely to be needed next as what comes in:
    a cache that replaces would copy without end, while one that is full still saves its share of all reads.

    Attributes:
        folder: a folder of its own on a local disk; it is made when needed.
        max_bytes: of all files in it.
    """

    folder: Path
    max_bytes: int

    def __post_init__(self) -> None:
        text = str(self.folder)
        check(isinstance(self.folder, str | Path) and bool(text) and "://" not in text, "folder", text, "a local path")
        check_integer("max_bytes", self.max_bytes, 1, 1 << 63)
        object.__setattr__(self, "folder", Path(self.folder))

    def add(self, path: Path, size: int, write: Callable[[Path], None]) -> bool:
        """Lets `write` make a file, unless it does not fit; a file of that name is replaced.

        StorageError if the folder cannot be written, or its disk is full.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._alone():
                if self._used_bytes(without=path) + size > self.max_bytes:
                    return False
                descriptor, name = tempfile.mkstemp(_PART, f"{path.name}.", path.parent)
                os.close(descriptor)
                os.truncate(name, size)  # takes the room, for others who count
            try:
                write(Path(name))
                with self._alone():
                    Path(name).replace(path)
            finally:
                Path(name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"no copy can be written to {path}: {error}. Free space on that disk, or give a cache on another one"
            ) from error
        return True

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """No other thread or process counts, takes room or renames meanwhile."""
        return locked(self.folder / ".lock")

    def _used_bytes(self, without: Path) -> int:
        used, oldest = 0, time.time() - _STALE_S
        for parent, _, names in os.walk(self.folder):
            for path in (Path(parent, name) for name in names):
                # Half copies that failed are removed at any time.
                with contextlib.suppress(FileNotFoundError):
                    if path.suffix == _PART and path.stat().st_mtime < oldest:
                        path.unlink()
                    elif path != without:
                        used += path.stat().st_size
        return used


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file, which is made if it is not there: others who take it, threads too, wait until then."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough after a fork


class Folder(abc.ABC):
    """Files of a dataset by their names, relative and with `/`.

    All methods raise DatasetError for what is missing or cannot be read; `local` also StorageError: no room for a copy.

    Attributes:
        root: path or URL, as messages show it.
        is_local: whether the files themselves lie on a local disk.
    """

    root: str
    is_local: bool

    def where(self, name: str) -> str:
        """Full path or URL of a file."""
        return f"{self.root.rstrip('/')}/{name}"

    @abc.abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is no such file."""

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """`size` of many files; on a store by one request for each thousand."""
        return [self.size(name) for name in names]

    @abc.abstractmethod
    def read(self, name: str) -> bytes:
        """A whole file."""

    @abc.abstractmethod
    def local(self, name: str, size: int) -> Path:
        """Where on the local disk a file of `size` bytes can be read, as long as this object lives."""


class LocalFolder(Folder):
    """A folder on a local disk."""

    is_local = True

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)

    def size(self, name: str) -> int | None:
        try:
            return _size(Path(self.root, name))
        except OSError as error:
            raise _unreadable(self.where(name), error) from error

    def read(self, name: str) -> bytes:
        try:
            return Path(self.root, name).read_bytes()
        except OSError as error:
            raise _unreadable(self.where(name), error) from error

    def local(self, name: str, size: int) -> Path:
        return Path(self.root, name)


class StoreFolder(Folder):
    """A folder on an object store. Without a cache, copies that must be local live as long as this object."""

    is_local = False

    def __init__(self, url: str, cache: Cache | None = None) -> None:
        self.root = url.rstrip("/")
        scheme, _, self._base = self.root.partition("://")
        self.store = Store(scheme, self._base.partition("/")[0])
        self._cache = cache
        self._private: Cache | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return StoreFolder, (self.root, self._cache)

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise _unreadable(self.where(name), "no such file") from None
        except StoreError as error:
            raise DatasetError(str(error)) from None

    def size(self, name: str) -> int | None:
        with self._told(name):
            return self.store.size(f"{self._base}/{name}")

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        found: dict[str, int] = {}
        for folder in sorted({name.rpartition("/")[0] for name in names}):
            with self._told(folder):
                found |= self.store.sizes(f"{self._base}/{folder}")
        return [found.get(f"{self._base}/{name}") for name in names]

    def read(self, name: str) -> bytes:
        with self._told(name):
            return self.store.read(f"{self._base}/{name}")

    def open(self, name: str, size: int) -> OpenObject:
        """CorruptRecordError if the file has not `size` bytes."""
        with self._told(name):
            opened = self.store.open(f"{self._base}/{name}")
        # Asked here, because Arrow fills what a store leaves out of a range with whatever was in memory.
        if opened.size != size:
            raise CorruptRecordError(
                f"{self.where(name)}: expected {size} bytes, got {opened.size}: the file is cut off, or is not the one "
                "that its index was made for. Copy it to the store again"
            )
        return opened

    def read_at(self, name: str, opened: OpenObject, offset: int, length: int) -> bytes:
        """Bytes of an open file from `offset` on: `length` of them, or less at its end."""
        with self._told(name):
            return opened.read_at(offset, length)

    def fetch(self, name: str, opened: OpenObject, take: Callable[[int, bytes], object]) -> None:
        """Hands all parts of an open file, with their offsets and in any order, to `take`, from several threads."""
        with self._told(name):
            opened.fetch(take)

    def cached(self, name: str, size: int) -> Path | None:
        """The file's copy in the cache, made now if there is room; None if there is none or no cache."""
        return None if self._cache is None else self._copied(self._cache, name, size)

    def local(self, name: str, size: int) -> Path:
        path = self.cached(name, size)
        if path is None:
            with self._lock:
                if self._private is None:
                    self._private = Cache(Path(tempfile.gettempdir(), f"ge2e-{os.urandom(8).hex()}"), 1 << 62)
                    weakref.finalize(self, _remove, self._private.folder, os.getpid())
            path = self._copied(self._private, name, size)
        if path is None:
            raise StorageError(f"no room for a copy of {self.where(name)}: {size} bytes are beyond any disk")
        return path

    def _copied(self, cache: Cache, name: str, size: int) -> Path | None:
        # Datasets that share a cache have their own folders in it.
        path = cache.folder / hashlib.sha256(self.root.encode()).hexdigest()[:32] / name
        if _size(path) == size:
            return path
        with self._told(name):
            self.store.client()  # a fork is refused before it waits for a lock that nobody in it holds
        with self._lock:  # one file at a time, in parallel ranges: bounded memory
            there = _size(path) == size or cache.add(path, size, lambda part: self._download(name, size, part))
        return path if there else None

    def _download(self, name: str, size: int, path: Path) -> None:
        def write(offset: int, part: bytes) -> None:
            while part:  # a disk that is nearly full takes less than all, and says so the next time
                written = os.pwrite(target.fileno(), part, offset)
                offset, part = offset + written, part[written:]

        with path.open("r+b") as target:  # its room is taken: it must not be cut to nothing first
            self.fetch(name, self.open(name, size), write)


def open_folder(root: str | Path, cache: Cache | None = None) -> Folder:
    """The folder at a local path, `s3://bucket/folder` or `gs://bucket/folder`. Nothing is read yet.

    A cache is for the files of a store only.

    Raises:
        ConfigError: another scheme, no bucket, or credentials in the URL.
    """
    # A Path has lost one of the slashes.
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/(/?)(([^/]*).*)", str(root), re.DOTALL)
    if found is None or (found[1] not in SCHEMES and not found[2]):
        return LocalFolder(root)
    allowed = "expected a local folder, " + " or ".join(f"{scheme}://bucket/folder" for scheme in SCHEMES)
    # The URL itself is not shown: it may hold a password.
    if found[1] not in SCHEMES:
        raise ConfigError(f"a dataset cannot be read from {found[1]}://: {allowed}")
    if not found[4] or "@" in found[4]:
        what = "credentials" if found[4] else "no bucket"
        raise ConfigError(f"a URL with {what} cannot be used: {allowed}, and credentials in the environment")
    return StoreFolder(f"{found[1]}://{found[3]}", cache)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _unreadable(where: str, error: object) -> DatasetError:
    return DatasetError(f"{where} cannot be read: {error}. Was the dataset moved or removed while it was in use?")


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a fork that ends leaves its parent's files alone
        shutil.rmtree(folder, ignore_errors=True)
