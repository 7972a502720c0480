"""What a container says about its own length, and whether all of its bytes are there.

libsndfile shortens a WAV whose end is missing, leaves out Ogg pages that fail their checksum, and estimates
the length of an MP3 that does not state it, all without a word. This file reads just enough of each
container to say so first. FLAC needs nothing: each of its frames has a checksum that libsndfile does check.

Not looked into, so that a missing end is not seen: containers other than those of `KINDS`, MPEG layers I and II, an
MP3 with something other than ID3 tags before its first frame, and a WAV whose header gives its size as unknown.

Positions and lengths are bytes. It must not know how samples are decoded.
"""

from __future__ import annotations

import functools
import re
import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from ge2e_transforms.errors import CorruptAudioError, TruncatedAudioError

KINDS = ("wav", "w64", "caf", "aiff", "au", "nist", "flac", "ogg", "mp3", "mp4", "matroska")

_MAGIC = {
    b"fLaC": "flac",
    b"OggS": "ogg",
    b"NIST_1A\n": "nist",
    b".snd": "au",
    b"caff": "caf",
    b"ID3": "mp3",
    b"\x1a\x45\xdf\xa3": "matroska",
    b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0": "w64",
}
# Tools that write to a pipe cannot go back to fill in a size. They leave 0, or the most they can: sox and
# mplayer 0x7ffff000 rounded down to whole samples, arecord 0x7fffffff or 0x80000000, ffmpeg 0xffffffff.
_UNKNOWN_SIZES = (range(0x7FFF0000, 0x80000001), range(0xFFFF0000, 0x100000000))
_UNKNOWN_LONG_SIZE = 1 << 62
# No header that is worth repairing is longer than this.
_MAX_HEADER = 1 << 20
# Chunks or boxes looked at before giving up: more are not found in recordings.
_MAX_CHUNKS = 100_000
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
# Bits of an MPEG frame header that are the same in all frames of a stream: version, layer, sample rate.
_MPEG_FIXED = 0xFFFE0C00
_MPEG_KBITS = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATES = (44100, 48000, 32000)


@dataclass(frozen=True)
class Container:
    """What was found, and what a decoder should be given in place of the first bytes.

    kind: one of `KINDS`, or '' for anything else.
    head, skip: the first `skip` bytes are to be read as `head`, which states the length that they do not.
    """

    kind: str
    head: bytes = b""
    skip: int = 0


def inspect(stream: BinaryIO, size: int) -> Container:
    """Name the container and check that it is complete, as far as it says.

    Args:
        stream: the encoded bytes, seekable.
        size: how many they are.

    Raises:
        TruncatedAudioError: bytes are missing at the end.
        CorruptAudioError: an Ogg page fails its checksum or is missing; MP3 frames do not follow each other.
    """
    kind = sniff(_at(stream, 0, 16))
    if kind in ("wav", "aiff"):
        return _check_chunks(stream, size, kind)
    if kind == "mp3":
        return _check_mp3(stream, size)
    if kind in ("w64", "caf"):
        _check_long_chunks(stream, size, kind)
    checks = {"au": _check_au, "nist": _check_nist, "ogg": _check_ogg, "mp4": _check_mp4, "matroska": _check_matroska}
    if kind in checks:
        checks[kind](stream, size)
    return Container(kind)


def sniff(head: bytes) -> str:
    """The kind of container that starts with `head` (16 bytes are enough), or ''."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    if head[4:8] in (b"ftyp", b"moov", b"mdat"):
        return "mp4"
    return "mp3" if _mpeg_frame(head[:4]) else ""


def _at(stream: BinaryIO, position: int, length: int) -> bytes:
    try:
        stream.seek(position)
    except (OSError, OverflowError, ValueError):
        return b""  # no file is that long, whatever its header says; a disk that fails does so on reading
    return stream.read(length)


def _require(needed: int, size: int, what: str) -> None:
    if needed > size:
        raise TruncatedAudioError(
            f"{what} needs {needed} bytes, the file has {size}: its end is missing; copy it again from its source"
        )


def _stated(length: int) -> int:
    """A size of 32 bits; 0 if it only says that its writer did not know it."""
    return 0 if any(length in sizes for sizes in _UNKNOWN_SIZES) else length


def _check_chunks(stream: BinaryIO, size: int, kind: str) -> Container:
    """RIFF, RF64 and FORM: find the chunk of samples; a size of 0 with bytes behind it is filled in."""
    head = _at(stream, 0, 8)
    order, wanted = (">", b"SSND") if kind == "aiff" else (">" if head[:4] == b"RIFX" else "<", b"data")
    position, long_size = 12, 0
    for _ in range(_MAX_CHUNKS):
        name, length = struct.unpack(f"{order}4sI", _at(stream, position, 8).ljust(8, b"\0"))
        start = position + 8
        if name == wanted or start >= size:
            break
        if name == b"ds64":
            long_size = int.from_bytes(_at(stream, start + 8, 8), "little")
        position = start + length + length % 2
    if name != wanted:
        # The size of the whole file is often wrong, so it only counts where the samples were not found.
        _require(int.from_bytes(head[4:], "big" if order == ">" else "little") + 8, size, "the header")
        return Container(kind)
    if length == 0 and kind == "wav" and start < min(size, _MAX_HEADER) and not _is_chunk(stream, start, size, order):
        return Container(kind, _at(stream, 0, start - 4) + b"\xff" * 4, start)
    needed = long_size if length == 0xFFFFFFFF and long_size < _UNKNOWN_LONG_SIZE else _stated(length)
    _require(start + needed, size, f"the chunk of samples at byte {position}")
    return Container(kind)


def _is_chunk(stream: BinaryIO, position: int, size: int, order: str) -> bool:
    head = _at(stream, position, 8)
    return re.fullmatch(rb"[ -~]{4}", head[:4]) is not None and (
        len(head) == 8 and position + 8 + struct.unpack(f"{order}I", head[4:])[0] <= size
    )


def _check_long_chunks(stream: BinaryIO, size: int, kind: str) -> None:
    """Sony Wave64 and CAF: find the chunk of samples. Lengths of Wave64 count name and length too, and are padded."""
    layout, position, counted, step = ("<4s12xQ", 40, 24, 8) if kind == "w64" else (">4sQ", 8, 0, 1)
    head, end = struct.calcsize(layout), position
    for _ in range(_MAX_CHUNKS):
        name, length = struct.unpack(layout, _at(stream, position, head).ljust(head, b"\0"))
        end = position + head + max(0, length - counted)
        if name == b"data" or end >= size:
            end = position + head if name == b"data" and length >= _UNKNOWN_LONG_SIZE else end
            break
        position = end + -length % step
    _require(end, size, f"the chunk at byte {position}")


def _check_au(stream: BinaryIO, size: int) -> None:
    start, length = struct.unpack(">II", _at(stream, 4, 8).ljust(8, b"\0"))
    _require(start + _stated(length), size, "the header with its samples")


def _check_nist(stream: BinaryIO, size: int) -> None:
    header = _at(stream, 0, 1024)
    fields = {name: int(value) for name, value in re.findall(rb"(\w+) -i (\d{1,15})\s", header)}
    coding = re.search(rb"sample_coding -s\d+ (\S+)", header)
    if coding is None or b"," not in coding[1]:  # "pcm,embedded-shorten-v2.00" is compressed
        width = fields.get(b"channel_count", 1) * fields.get(b"sample_n_bytes", 0)
        _require(1024 + fields.get(b"sample_count", 0) * width, size, "the header with its samples")


def _check_ogg(stream: BinaryIO, size: int) -> None:
    """Every page whole, in order and equal to its checksum, and the last one marked as the last."""
    position, ended = 0, False
    pages: dict[bytes, int] = {}
    while position < size:
        head = _at(stream, position, 27 + 255)
        if head[:4] != b"OggS" and ended:
            return  # something else behind the end, such as a tag
        if not b"OggS".startswith(head[:4]):
            raise CorruptAudioError(f"no Ogg page where one should be, at byte {position}")
        segments = 27 + head[26] if len(head) > 26 else 28
        length = segments + sum(head[27:segments])
        _require(position + max(length, segments), size, f"the Ogg page at byte {position}")
        page = _at(stream, position, length)
        number = int.from_bytes(page[18:22], "little")
        if _ogg_checksum(page) != int.from_bytes(page[22:26], "little"):
            raise CorruptAudioError(f"the Ogg page at byte {position} fails its checksum")
        if number != pages.get(page[14:18], number):
            raise CorruptAudioError(f"Ogg page {pages[page[14:18]]} is missing before byte {position}")
        pages[page[14:18]] = number + 1
        ended = bool(page[5] & 4)
        position += length
    if not ended:
        raise TruncatedAudioError("no Ogg page is marked as the last: the end of the file is missing")


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 of RFC 3533: zlib's polynomial with the bits of each byte the other way round, started at 0."""
    data = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED_BITS)
    return int(f"{zlib.crc32(data, 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)


def _check_mp4(stream: BinaryIO, size: int) -> None:
    """Boxes of ISO 14496-12: all whole, and one of them the index `moov`."""
    position, names = 0, set()
    for _ in range(_MAX_CHUNKS):
        if position + 8 > size:
            break
        length, name, long_length = struct.unpack(">I4sQ", _at(stream, position, 16).ljust(16, b"\0"))
        names.add(name)
        length = long_length if length == 1 else size - position if length == 0 else length
        _require(position + length, size, f"the MP4 box at byte {position}")
        position += max(length, 8)
    if b"moov" not in names:
        raise TruncatedAudioError("there is no 'moov' box: the recording was not finished, or its end is missing")


def _check_matroska(stream: BinaryIO, size: int) -> None:
    """Matroska and WebM, RFC 8794: the element behind the header holds all others, and states its length."""
    header, start = _element(_at(stream, 4, 8), 4)
    length, start = _element(_at(stream, start + header + 4, 8), start + header + 4)
    _require(start + length, size, "the header with its content")


def _element(head: bytes, position: int) -> tuple[int, int]:
    """Length of an element's content (0 if unknown) and where it starts, from the length field at `position`."""
    width = 9 - (head[0].bit_length() if head else 0)
    mask = (1 << 7 * width) - 1
    length = int.from_bytes(head[:width], "big") & mask
    return (0 if length == mask else length), position + width


class _MpegFrame(NamedTuple):
    header: int
    length: int  # bytes
    tag: int  # where a Xing or Info tag stands, if the frame is one


# A stream has few different headers and thousands of frames.
@functools.lru_cache(maxsize=256)
def _mpeg_frame(head: bytes) -> _MpegFrame | None:
    """The MPEG layer III frame that starts with `head`, ISO 11172-3 and 13818-3; None if it is none."""
    header = int.from_bytes(head[:4], "big")
    version, layer, kbits, rate = header >> 19 & 3, header >> 17 & 3, header >> 12 & 15, header >> 10 & 3
    if header >> 21 != 0x7FF or version == 1 or layer != 1 or kbits in (0, 15) or rate == 3:
        return None
    first = version == 3
    bits = _MPEG_KBITS[1 if first else 2][kbits] * 1000
    hz = _MPEG_RATES[rate] >> (0 if first else 1 if version == 2 else 2)
    mono = header >> 6 & 3 == 3
    length = (144 if first else 72) * bits // hz + (header >> 9 & 1)
    return _MpegFrame(header, length, 4 + (9 if mono else 17) if not first else 4 + (17 if mono else 32))


def _after_id3(stream: BinaryIO, position: int) -> int:
    """Behind the ID3v2 tags that start at `position`."""
    while (head := _at(stream, position, 10))[:3] == b"ID3" and len(head) == 10:
        a, b, c, d = head[6:]
        position += 10 + (a << 21 | b << 14 | c << 7 | d)
    return position


def _check_mp3(stream: BinaryIO, size: int) -> Container:
    """Frames that follow each other up to the last; where their number is not stated rightly, it is from now on."""
    start = _after_id3(stream, 0)
    _require(start, size, "the ID3 tag")
    head = _at(stream, start, 64)
    frame = _mpeg_frame(head[:4])
    if frame is None:
        return Container("flac" if head[:4] == b"fLaC" else "")
    name, flags, frames = struct.unpack(">4sII", head[frame.tag : frame.tag + 12].ljust(12, b"\0"))
    tagged = name in (b"Xing", b"Info")
    first = start + frame.length if tagged else start
    counted = _count_frames(stream, first, size, frame.header)
    if tagged and flags & 1:
        # Some writers count the frame of the tag itself.
        if counted < frames - 1:
            raise TruncatedAudioError(f"the header says {frames} MP3 frames, the file has {counted}")
        if counted <= frames:
            return Container("mp3")
    return Container("mp3", _info_frame(frame, counted), first)


def _count_frames(stream: BinaryIO, position: int, size: int, like: int) -> int:
    count = 0
    while position < size:
        frame = _mpeg_frame(_at(stream, position, 4))
        if frame is None or (frame.header ^ like) & _MPEG_FIXED:
            behind = _after_id3(stream, position)
            if behind == position:
                _refuse_more_frames(stream, position, like)
                break
            position = behind
            continue
        _require(position + frame.length, size, f"the MP3 frame at byte {position}")
        position += frame.length
        count += 1
    return count


def _refuse_more_frames(stream: BinaryIO, position: int, like: int) -> None:
    """What follows the last frame may be tags; two frames in a row mean that something between was damaged."""
    rest = _at(stream, position, _MAX_HEADER)
    for found in re.finditer(b"\xff[\xe2-\xff]", rest):
        frame = _mpeg_frame(rest[found.start() : found.start() + 4])
        if frame is None or (frame.header ^ like) & _MPEG_FIXED:
            continue
        after = found.start() + frame.length
        second = _mpeg_frame(rest[after : after + 4])
        if second is not None and not (second.header ^ like) & _MPEG_FIXED:
            raise CorruptAudioError(f"MP3 frames stop at byte {position} and go on at byte {position + found.start()}")


def _info_frame(frame: _MpegFrame, count: int) -> bytes:
    """A silent frame that states the number of frames, as LAME writes at the start of a file."""
    # Bitrate number 5 (64 or 40 kbit/s) always leaves room for the tag; no padding, no checksum.
    header = (frame.header & ~0xF200 | 5 << 12 | 1 << 16).to_bytes(4, "big")
    length = (_mpeg_frame(header) or frame).length
    return (header.ljust(frame.tag, b"\0") + struct.pack(">4sII", b"Info", 1, count)).ljust(length, b"\0")
