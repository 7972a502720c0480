"""Where the members of a tar or zip archive lie: found once, kept compactly, looked up by name.

A tar has no list of its members, so it is walked from start to end, some MiB at a time with several reads in flight:
over a network a read for every header would be a request for every member. A zip ends with a list: two or three reads.
The formats are parsed by the standard library, which is fast enough (`benchmarks/archives.py`). Places and lengths are
bytes. It must not know where archives lie, or what is in their members: it sees a `RandomAccess` alone.
"""

from __future__ import annotations

import bisect
import difflib
import errno
import io
import stat
import struct
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from tarfile import LNKTYPE, SYMTYPE, TarError, TarFile, TarInfo
from typing import Any, NamedTuple, Protocol, cast
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np

from ge2e_transforms.errors import (
    CorruptAudioError,
    DataError,
    EmptyAudioError,
    MissingAudioError,
    NotAudioError,
    TruncatedAudioError,
    UnreadableAudioError,
)


class RandomAccess(Protocol):
    """One open archive; threads may share it."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def version(self) -> object:
        """Another one when the archive was replaced: its size, and time of change where that is known."""

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on, fewer only at the end; OSError for trouble that may pass."""


STORED, DEFLATED = 0, 8  # as zip counts them; what is below 0 is no file that can be read
_DIRECTORY, _LINK, _SPARSE, _ENCRYPTED, _SPECIAL = -1, -2, -3, -4, -5
_REFUSED = {
    _DIRECTORY: "a directory",
    _LINK: "a link",
    _SPARSE: "a sparse file",
    _ENCRYPTED: "encrypted",
    _SPECIAL: "a device or a pipe",
}
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
ZIP_MEMBER = b"PK\x03\x04"
# A tar is walked in blocks of this size, up to so many at once, and no more tars at once than that.
_BLOCK, _IN_FLIGHT, _WALKS = 4 << 20, 4, 2
# The end record of a zip with the longest comment (64 KiB), and often the whole list of members.
_TAIL = 1 << 17
# No header is longer; a damaged or hostile one may claim to be.
_MAX_READ, _MAX_OFFSET = 1 << 30, 1 << 62
# What tarfile and zipfile raise when they meet bytes that no writer leaves.
_FAULTS = (
    TarError,
    BadZipFile,
    NotImplementedError,
    RecursionError,
    ValueError,
    LookupError,
    ArithmeticError,
    struct.error,
)
# Names to either side of one that is missing, among which likely ones are looked for, and how many are shown.
_NEIGHBOURS, _SHOWN = 100, 3

_walking = threading.BoundedSemaphore(_WALKS)


class Entry(NamedTuple):
    """Where a member lies.

    offset: of its bytes in a tar, of its header in a zip.
    packed, size: its bytes in the archive and unpacked.
    method: `STORED`, `DEFLATED`, another number of zip's, or below 0 what cannot be read.
    crc: CRC-32 of a zip's member.
    """

    offset: int
    packed: int
    size: int
    method: int
    crc: int


_COLUMNS = np.dtype([("offset", "<u8"), ("packed", "<u8"), ("size", "<u8"), ("method", "<i4"), ("crc", "<u4")])


class Fault(NamedTuple):
    """Why members may be missing from an index: the kind of error, and its words."""

    kind: type[DataError]
    words: str


class Index:
    """Members of one archive by name, sorted; about 40 bytes a member and its name."""

    def __init__(self, entries: dict[str, Entry], fault: Fault | None = None) -> None:
        ordered = sorted((_encoded(name), entry) for name, entry in entries.items())
        self._fault = fault
        self._names = b"".join(name + b"\0" for name, _ in ordered)
        self._starts = np.cumsum([0, *(len(name) + 1 for name, _ in ordered)])
        self._entries = np.array([entry for _, entry in ordered], dtype=_COLUMNS)

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, archive: str, member: str) -> Entry:
        """The entry of a member that can be read.

        Raises:
            MissingAudioError: there is no such member; or the error that says why it was not found.
            UnreadableAudioError: it is no file, or cannot be unpacked.
        """
        wanted = _encoded(plain_name(member))
        row = bisect.bisect_left(range(len(self)), wanted, key=self._name)
        if row == len(self) or self._name(row) != wanted:
            raise self._missing(archive, member, row)
        entry = Entry(*self._entries[row].item())
        if entry.method not in (STORED, DEFLATED):
            what = _REFUSED.get(entry.method, f"compressed by method {entry.method} of zip")
            raise UnreadableAudioError(f"{archive}#{member} is {what}: expected a file, stored or deflated")
        return entry

    def _name(self, row: int) -> bytes:
        return self._names[self._starts[row] : self._starts[row + 1] - 1]

    def _missing(self, archive: str, member: str, row: int) -> DataError:
        if self._fault is not None:
            kind, words = self._fault
            return kind(f"{archive} {words}; {member!r} is not among the {len(self)} members before: copy it again")
        nearby = range(max(0, row - _NEIGHBOURS), min(len(self), row + _NEIGHBOURS))
        names = [_decoded(self._name(number)) for number in nearby]
        near = difflib.get_close_matches(plain_name(member), names, _SHOWN) or names[:1]
        others = f"{len(self)} others such as {', '.join(map(repr, near))}" if near else "nothing else either"
        return MissingAudioError(
            f"{archive} has no member {member!r}, but {others}: check the part of audio_path after the '#'"
        )


def plain_name(name: str) -> str:
    """The name of a member without './', '//' and a leading '/': as archives are unpacked they mean nothing.

    >>> plain_name("./speaker//a.flac")
    'speaker/a.flac'
    """
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _encoded(name: str) -> bytes:
    return name.encode(errors="surrogatepass")  # tarfile decodes what is not UTF-8 to halves of surrogate pairs


def _decoded(name: bytes) -> str:
    return name.decode(errors="surrogatepass")


def index_tar(archive: RandomAccess, location: str) -> Index:
    """Members of a tar: ustar, GNU and pax; of doubled names the last counts, as it does when a tar is unpacked.

    What stands before damage is found; members that are not are then told as truncated or corrupt.

    Raises:
        EmptyAudioError, NotAudioError: the archive has no bytes, or does not begin as a tar.
    """
    entries: dict[str, Entry] = {}
    fault = None
    with _walking, ThreadPoolExecutor(_IN_FLIGHT, "ge2e-tar") as pool:
        stream = _Ahead(archive, pool)
        try:
            tar = TarFile(fileobj=cast(Any, stream), encoding="utf-8", errors="surrogateescape")
        except _FAULTS as error:
            raise _not_an_archive(archive, location, "tar", error) from error
        try:
            _walk(tar, entries)
            fault = _end_of(stream, tar.offset)
        except _FAULTS as error:
            fault = _fault_at(tar.offset, archive.size, str(error))
    return Index(entries, fault)


def _walk(tar: TarFile, entries: dict[str, Entry]) -> None:
    before = -1
    while (member := tar.next()) is not None:
        # A header that leads back would be walked for ever (CVE-2025-8194).
        if tar.offset <= before or not 0 <= member.size < _MAX_OFFSET:
            raise ValueError(f"the header of {member.name!r} claims {member.size} bytes")
        before = tar.offset
        cast(Any, tar).members.clear()
        entry = _tar_entry(member)
        if member.type == LNKTYPE:  # another name of a member before
            entry = entries.get(plain_name(member.linkname), entry)
        entries[plain_name(member.name)] = entry


def _tar_entry(member: TarInfo) -> Entry:
    method = STORED
    if member.isdir():
        method = _DIRECTORY
    elif member.type in (SYMTYPE, LNKTYPE):
        method = _LINK
    elif member.issparse():
        method = _SPARSE
    elif not member.isreg():
        method = _SPECIAL
    return Entry(member.offset_data, member.size, member.size, method, 0)


def _end_of(stream: _Stream, offset: int) -> Fault | None:
    """What is wrong where the walk ended: `tarfile` takes a damaged header, and a missing end, for the end."""
    stream.seek(offset)
    block = stream.read(512)
    if len(block) == 512 and not any(block):
        return None
    return _fault_at(offset, stream.size, "the header is damaged" if len(block) == 512 else "")


def _fault_at(offset: int, size: int, words: str) -> Fault:
    if offset + 512 > size:
        return Fault(TruncatedAudioError, f"ends after {size} bytes without the mark of its end")
    return Fault(CorruptAudioError, f"is damaged at byte {offset} ({words})")


def index_zip(archive: RandomAccess, location: str) -> Index:
    """Members of a zip, zip64 too; of doubled names the last counts.

    Raises:
        EmptyAudioError, NotAudioError, TruncatedAudioError, CorruptAudioError: there is no list of members.
    """
    stream = _Stream(archive)
    stream.load(max(0, archive.size - _TAIL), _TAIL)
    try:
        members = ZipFile(cast(Any, stream)).infolist()
        entries = {plain_name(member.filename): _zip_entry(member) for member in members}
    except _FAULTS as error:
        if stream.error is not None:  # zipfile takes it for the fault of the file
            raise stream.error from None
        raise _not_an_archive(archive, location, "zip", error) from error
    return Index(entries)


def _zip_entry(member: ZipInfo) -> Entry:
    method = member.compress_type
    if member.is_dir():
        method = _DIRECTORY
    elif stat.S_ISLNK(member.external_attr >> 16):
        method = _LINK
    elif member.flag_bits & 1:
        method = _ENCRYPTED
    if not 0 <= member.header_offset < _MAX_OFFSET:
        raise ValueError(f"{member.filename!r} would begin at byte {member.header_offset}")
    return Entry(member.header_offset, member.compress_size, member.file_size, method, member.CRC)


def _not_an_archive(archive: RandomAccess, location: str, kind: str, error: Exception) -> DataError:
    if not archive.size:
        return EmptyAudioError(f"{location} has no bytes: expected a {kind} archive")
    head = archive.read_at(0, 512)
    packed = next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)
    if packed:
        return NotAudioError(
            f"{location} is compressed as a whole ({packed}): such an archive cannot be read at random; unpack it to a "
            "plain .tar, or make a .zip (which compresses each member by itself)"
        )
    if kind == "zip" and head.startswith(ZIP_MEMBER):
        return TruncatedAudioError(
            f"{location} begins as a zip, but the list of members at its end is missing or damaged ({error}): copy it "
            "again"
        )
    return NotAudioError(f"{location} is no {kind} archive ({error}): expected what its name says")


class _Stream:
    """As much of a file as tarfile and zipfile use, over positional reads; one block is kept.

    Attributes:
        error: the last OSError of the archive.
    """

    def __init__(self, archive: RandomAccess) -> None:
        self._archive, self.size = archive, archive.size
        self._position = self._start = 0
        self._block = b""
        self.error: OSError | None = None

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + (0, self._position, self.size)[whence]
        if position < 0:
            raise OSError(errno.EINVAL, "seek to before the start")  # zipfile waits for it in short files
        self._position = position
        return position

    def read(self, length: int = -1) -> bytes:
        end = self.size if length < 0 else min(self._position + length, self.size)
        if end - self._position > _MAX_READ:
            raise ValueError(f"a header at byte {self._position} claims {end - self._position} bytes")
        parts = []
        while self._position < end:
            if not self._start <= self._position < self._start + len(self._block):
                self.load(self._position, end - self._position)
            part = self._block[self._position - self._start : end - self._start]
            if not part:
                break  # the archive has become shorter
            parts.append(part)
            self._position += len(part)
        return b"".join(parts)

    def load(self, start: int, length: int) -> None:
        try:
            self._start, self._block = start, self._archive.read_at(start, length)
        except OSError as error:
            self.error = error
            raise


class _Ahead(_Stream):
    """Reads blocks ahead once several followed each other; a jump over a large member starts anew with one."""

    def __init__(self, archive: RandomAccess, pool: ThreadPoolExecutor) -> None:
        super().__init__(archive)
        self._pool = pool
        self._blocks: deque[tuple[int, Future[bytes]]] = deque()
        self._next, self._depth = 0, 1

    def load(self, start: int, length: int) -> None:
        self._depth = min(2 * self._depth, _IN_FLIGHT)
        while self._blocks and not self._blocks[0][0] <= start < self._blocks[0][0] + _BLOCK:
            self._blocks.popleft()[1].cancel()
        if not self._blocks and not self._next <= start < self._next + _BLOCK:
            self._next, self._depth = start, 1
        while len(self._blocks) < self._depth and self._next < self.size:
            self._blocks.append((self._next, self._pool.submit(self._archive.read_at, self._next, _BLOCK)))
            self._next += _BLOCK
        self._start, block = self._blocks.popleft()
        self._block = block.result()
