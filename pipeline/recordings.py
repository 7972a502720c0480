"""Where a shard's audio comes from: local files as they are, all else read ahead.

A failure of the disk or the network stays what it is (it may pass, and is no fault of the recording); what is missing
or may not be read is the row's fault and goes to the ledger.

It gives paths, or encoded bytes. It must not know how these are decoded.
"""

from __future__ import annotations

import functools
import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

from ge2e_transforms import headers, stores
from ge2e_transforms.archives import Archives, RandomAccess, split_member
from ge2e_transforms.decoded import AudioSource
from ge2e_transforms.errors import MissingAudioError, StorageError, UnreadableAudioError
from ge2e_transforms.read_ahead import ReadAhead, Source
from ge2e_transforms.regular_files import open_regular
from pipeline import storage

# Most headers end within it; what lies at the end of an object takes another request.
_HEADER_RANGE = 1 << 16
# What a store says of one object, unlike credentials that are wrong for all of them.
_DENIED = re.compile(r"ACCESS_DENIED|PERMISSION_DENIED|HTTP status 403")


@contextmanager
def reading(order: Sequence[str]) -> Iterator[AudioSource]:
    """A function from locations to paths or bytes, for recordings that are asked for in this order."""
    _opened.cache_clear()  # an archive may have been replaced meanwhile
    apart = [location for location in order if not _is_plain(location)]
    if not apart:
        yield lambda location: location
        return
    with ReadAhead(open_source, apart) as read:
        yield lambda location: location if _is_plain(location) else read(location)


def encoded(location: str) -> str | bytes:
    """One recording, not read ahead: a plain local file as its path, all else as its bytes.

    Raises:
        DataError, StorageError, OSError: as `open_source`.
    """
    return location if _is_plain(location) else open_source(location).read()


def _is_plain(location: str) -> bool:
    return storage.is_local(location) and split_member(location) is None


@contextmanager
def open_header(location: str) -> Iterator[BinaryIO]:
    """Any recording for `headers.read_headers`: local files and objects of stores piece by piece, all else whole.

    Raises:
        DataError, StorageError, OSError: as `open_source`, and for a plain local file as `audio.decode`.
    """
    if _is_plain(location):
        with headers.open_local(location) as file:
            yield file
        return
    source = open_source(location)
    if isinstance(source, _Object):
        with source.opened.stream(_HEADER_RANGE) as stream:
            yield stream
    else:
        yield io.BytesIO(source.read())


class _Object(NamedTuple):
    opened: stores.OpenObject

    @property
    def size(self) -> int:
        return self.opened.size

    def read(self) -> bytes:
        return self.opened.read_all()


class _File(NamedTuple):
    location: str
    size: int

    def read(self) -> bytes:
        return storage.read_bytes(self.location)


class _Member(NamedTuple):
    archive: str
    member: str
    size: int

    def read(self) -> bytes:
        return _ARCHIVES.read(self.archive, self.member)


def open_source(location: str) -> Source:
    """A recording that is not a plain local file: an object, or a member of an archive.

    Raises:
        DataError: MissingAudioError, UnreadableAudioError (the store lets nobody with these credentials read it), and
            for archives whatever `Archives.read` finds wrong with it.
        StorageError: the store refuses for a reason that concerns more than this recording.
        OSError: trouble that may pass.
    """
    try:
        inside = split_member(location)
        if inside is not None:
            return _Member(*inside, _ARCHIVES.size(*inside))
        found = stores.locate(location)
        if found is not None:
            store, path = found
            return _Object(store.open(path))
        size = storage.size(location)
        if size is None:
            raise FileNotFoundError(location)
        return _File(location, size)
    except FileNotFoundError:
        raise MissingAudioError(f"{location}: no such object: check audio_path") from None
    except stores.StoreError as error:
        if not error.final:
            raise
        if _DENIED.search(str(error)):
            raise UnreadableAudioError(f"{location}: may not be read ({error}): check its permissions") from None
        raise StorageError(str(error)) from error


class _LocalArchive:
    """A regular file, read by position; closed when nobody has it any more."""

    def __init__(self, path: str) -> None:
        self._file = open_regular(path)
        self._descriptor = self._file.fileno()
        status = os.fstat(self._descriptor)
        self.size, self.version = status.st_size, (status.st_size, status.st_mtime_ns, status.st_ino)

    def read_at(self, offset: int, length: int) -> bytes:
        parts = []
        while length > 0 and (part := os.pread(self._descriptor, length, offset)):
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)


class _StoredArchive:
    def __init__(self, url: str) -> None:
        found = stores.locate(url)
        if found is None:
            raise UnreadableAudioError(f"{url}: archives are read from local disks, s3:// and gs:// only")
        store, path = found
        self.version = store.info(path)
        self._opened = store.open(path)
        self.size, self.read_at = self._opened.size, self._opened.read_at


@functools.lru_cache(maxsize=64)
def _opened(archive: str) -> RandomAccess:
    if storage.is_local(archive):
        return _LocalArchive(archive)
    return _StoredArchive(archive)


@contextmanager
def _open_archive(archive: str) -> Iterator[RandomAccess]:
    yield _opened(archive)


# What archives hold is looked up once per process.
_ARCHIVES = Archives(_open_archive)
