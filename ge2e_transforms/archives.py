"""Audio inside of tar and zip archives: `speech.tar#speaker/a.flac`, read at random without unpacking.

What is in an archive is found once per process and kept in memory; then a member is one positional read. Nothing is
written, and names of members are only ever compared. It must not know where archives lie, which is the business of
whoever opens them, or how audio is decoded: a member is bytes.

An archive is told by its name: the first `.tar#` or `.zip#` in any case of letters ends it, and the rest is the
member. In other names '#' is a letter like any other; only a loose file below a folder called `a.tar#b` cannot be
named. Compressed tars (`.tar.gz#` and so on) are taken for archives too, so that reading tells what is wrong with them.
"""

from __future__ import annotations

import re
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from ge2e_transforms.archive_index import DEFLATED, ZIP_MEMBER, Entry, Index, RandomAccess, index_tar, index_zip
from ge2e_transforms.errors import (
    CorruptAudioError,
    MissingAudioError,
    OverLimitError,
    TruncatedAudioError,
    UnreadableAudioError,
)
from ge2e_transforms.regular_files import MISSING, NEVER_READABLE

__all__ = ["Archives", "OpenArchive", "RandomAccess", "split_member"]

# Members are read whole. Ten minutes (the recipe's default limit) of 8 channels of float at 48 kHz are 0.92 GB.
_MAX_MEMBER_BYTES = 1 << 30
# Of all indexes that a process keeps: 0.3 GB at 40 letters a name, as `benchmarks/archives.py` measures it.
_MAX_INDEXED_MEMBERS = 4_000_000
_ENDING = re.compile(r"\.(?:tar|zip|(?:tar\.|t)(?:gz|bz2?|xz|lz4|zst))#", re.IGNORECASE)
# Of a zip's member, before its bytes: signature; 22 bytes that the list of members has too; lengths of name and extra.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
# Room for name and extra field, so that a member is nearly always one read.
_NAME_ROOM = 512

# Opens an archive by its location for a `with` block. It is called for every read and every size, so what opening
# costs is its own to save. FileNotFoundError and PermissionError become errors of the row; a DataError is let out.
OpenArchive = Callable[[str], AbstractContextManager[RandomAccess]]


def split_member(location: str) -> tuple[str, str] | None:
    """Archive and member of a location inside of an archive, None of any other.

    >>> split_member("corpus/speech.tar#speaker/a.flac")
    ('corpus/speech.tar', 'speaker/a.flac')
    >>> split_member("corpus/take#2.flac") is None
    True
    """
    found = _ENDING.search(location)
    return None if found is None else (location[: found.end() - 1], location[found.end() :])


class Archives:
    """Reads members of archives; one per process, for all its threads.

    Args:
        open_archive: see `OpenArchive`.
        max_member_bytes: larger members are refused.
        max_members: of all indexes kept; those used longest ago go first.
    """

    def __init__(
        self,
        open_archive: OpenArchive,
        max_member_bytes: int = _MAX_MEMBER_BYTES,
        max_members: int = _MAX_INDEXED_MEMBERS,
    ) -> None:
        self._open_archive = open_archive
        self._max_bytes, self._max_members = max_member_bytes, max_members
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._lock = threading.Lock()

    def size(self, archive: str, member: str) -> int:
        """Bytes of a member, unpacked. Raises as `read` for what is not there or cannot be read."""
        with self._found(archive, member) as (_, entry):
            return entry.size

    def read(self, archive: str, member: str) -> bytes:
        """A member, unpacked.

        Raises:
            MissingAudioError: no such archive, or no such member in it.
            UnreadableAudioError: no permission; the member is a directory, a link or a sparse file, is encrypted, or
                is packed in another way than by deflate.
            NotAudioError: the archive is none, or is compressed as a whole.
            EmptyAudioError: the archive has no bytes.
            CorruptAudioError: archive or member are damaged.
            TruncatedAudioError: the archive ends before the member does.
            OverLimitError: the member is too large.
            OSError: of the disk or the network; it may pass.
        """
        with self._found(archive, member) as (opened, entry):
            name = f"{archive}#{member}"
            if _is_zip(archive):
                return _unzipped(opened, entry, name)
            return _exactly(opened, entry.offset, entry.size, name)

    @contextmanager
    def _found(self, archive: str, member: str) -> Iterator[tuple[RandomAccess, Entry]]:
        with ExitStack() as stack:
            try:
                opened = stack.enter_context(self._open_archive(archive))
            except (FileNotFoundError, NotADirectoryError) as error:
                raise MissingAudioError(f"{archive}: no such archive: check audio_path before the '#'") from error
            except (PermissionError, IsADirectoryError) as error:
                raise UnreadableAudioError(f"{archive} ({error.strerror}): expected a file that may be read") from error
            except OSError as error:
                if error.errno not in NEVER_READABLE:
                    raise
                kind = MissingAudioError if error.errno in MISSING else UnreadableAudioError
                raise kind(f"{archive} ({error.strerror}): expected a file that may be read") from error
            entry = self._index(archive, opened).entry(archive, member)
            if max(entry.size, entry.packed) > self._max_bytes:
                raise OverLimitError(
                    f"{archive}#{member} has {entry.size} bytes ({entry.packed} in the archive): expected at most "
                    f"{self._max_bytes}, as members are read whole"
                )
            yield opened, entry

    def _index(self, archive: str, opened: RandomAccess) -> Index:
        """Made once, however many threads ask, and again when the archive is another one."""
        with self._lock:
            slot = self._slots.setdefault(archive, _Slot())
            self._slots.move_to_end(archive)
        with slot.lock:
            if slot.index is None or slot.version != opened.version:
                slot.index, slot.version = None, opened.version
                slot.index = (index_zip if _is_zip(archive) else index_tar)(opened, archive)
                self._make_room()
            return slot.index

    def _make_room(self) -> None:
        with self._lock:
            held = sum(slot.members for slot in self._slots.values())
            while held > self._max_members and len(self._slots) > 1:
                held -= self._slots.popitem(last=False)[1].members


class _Slot:
    """Place of one archive's index; its lock is held while the index is made."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.index: Index | None = None
        self.version: object = None

    @property
    def members(self) -> int:
        return 1 + (0 if self.index is None else len(self.index))  # an archive without an index is counted too


def _is_zip(archive: str) -> bool:
    return archive.lower().endswith(".zip")


def _unzipped(opened: RandomAccess, entry: Entry, name: str) -> bytes:
    wanted = _LOCAL_HEADER.size + _NAME_ROOM + entry.packed
    got = _exactly(opened, entry.offset, min(wanted, max(opened.size - entry.offset, _LOCAL_HEADER.size)), name)
    signature, name_length, extra_length = _LOCAL_HEADER.unpack_from(got)
    if signature != ZIP_MEMBER:
        raise CorruptAudioError(f"{name}: no member begins at byte {entry.offset}: the archive is damaged")
    start = _LOCAL_HEADER.size + name_length + extra_length
    packed = got[start : start + entry.packed]
    if len(packed) < entry.packed:
        packed = _exactly(opened, entry.offset + start, entry.packed, name)
    content = _inflated(packed, entry.size, name) if entry.method == DEFLATED else packed
    if len(content) != entry.size or zlib.crc32(content) != entry.crc:
        raise CorruptAudioError(
            f"{name}: got {len(content)} bytes of CRC {zlib.crc32(content):08x}, expected {entry.size} of "
            f"{entry.crc:08x}: the archive is damaged"
        )
    return content


def _inflated(packed: bytes, size: int, name: str) -> bytes:
    try:  # one byte more than the list of members says is enough to see that it says too little
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
    except zlib.error as error:
        raise CorruptAudioError(f"{name} cannot be unpacked ({error}): the archive is damaged") from error


def _exactly(opened: RandomAccess, offset: int, length: int, name: str) -> bytes:
    got = opened.read_at(offset, length) if offset + length <= opened.size else b""
    if len(got) < length:
        raise TruncatedAudioError(
            f"{name} lies at bytes {offset} to {offset + length}, but the archive ends at {opened.size}: copy it again"
        )
    return got
