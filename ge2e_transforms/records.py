"""One record <-> the bytes of a `tf.train.Example`, and TFRecord framing with checksums.

The wire bytes are built by hand, in one order: the protobuf library's map order differs between
processes, and building a float list through it costs fifteen times as much. A packed FloatList *is*
little-endian float32 on the wire, so a loader reads the values in place, without parsing.

Framing (TensorFlow's `lib/io/record_writer.h`): uint64 length, masked crc32c of the length, data, masked crc32c of the
data, all little-endian. Values are `[rows, bins]`, float32, float16 or int16; offsets are bytes. It must not know what
the values mean, or where files lie.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import numpy.typing as npt

from ge2e_transforms import schema
from ge2e_transforms.errors import CorruptRecordError, DatasetError

# TensorFlow's lib/hash/crc32c.h: a rotated checksum plus this, so that a checksum of data that holds
# checksums is still a good one.
_MASK_DELTA = 0xA282EAD8
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
# A varint has no more: without an end, each byte would cost as much as all before it.
_VARINT_BITS = 63
# No writer makes a longer record: protocol buffers end there.
_MAX_RECORD = 1 << 31
HEADER_BYTES, FOOTER_BYTES = _HEADER.size, _FOOTER.size
# Most that is read at once; few records are longer.
_BLOCK = 1 << 26
DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "pcm16": np.dtype("<i2")}
# The one type that an Example has a list for; values of the others are bytes.
_LISTED = DTYPES["float32"]
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def crc_implementation() -> str:
    """'c', or 'python' where google-crc32c fell back."""
    return str(google_crc32c.implementation)


def require_fast_crc() -> None:
    """Refuse to run on google-crc32c's pure-Python fallback, which is some hundred times slower."""
    if crc_implementation() != "c":
        raise DatasetError(
            f"google-crc32c runs as {crc_implementation()!r}, expected its native 'c' implementation: "
            "reinstall the package google-crc32c from a wheel for this platform"
        )


def masked_crc(data: bytes) -> int:
    """The 32-bit masked crc32c that TFRecord files hold."""
    return _masked(google_crc32c.value(data))


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def crc32c_of(stream: BinaryIO) -> int:
    """The plain crc32c of what is left in a stream."""
    crc = 0
    while block := stream.read(1 << 20):
        crc = google_crc32c.extend(crc, block)
    return crc


def frame(data: bytes) -> bytes:
    """`data` as one TFRecord."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _FOOTER.pack(masked_crc(length)), data, _FOOTER.pack(masked_crc(data))))


def body_is_whole(body: bytes) -> bool:
    """Whether the data of a framed record matches the checksum behind it; `body` is the record without its header.

    The checksum of data and footer together is that of the data, as the footer says, gone on over the footer: so
    nothing is copied to tell them apart.
    """
    footer = body[-FOOTER_BYTES:]
    rotated = (int.from_bytes(footer, "little") - _MASK_DELTA) & 0xFFFFFFFF
    crc = (rotated >> 17) | (rotated << 15) & 0xFFFFFFFF
    return bool(google_crc32c.value(body) == google_crc32c.extend(crc, footer))


@functools.lru_cache(maxsize=1 << 16)
def payload_head(dtype: np.dtype[Any], payload_bytes: int) -> bytes:
    """The bytes of a record right before its values: key and lengths."""
    key, kind = (schema.KEY_VALUES, 2) if dtype == _LISTED else (schema.KEY_ENCODED, 1)
    # The payload itself is left out, so lengths are added up from inside out.
    inner = b"\n" + _varint(payload_bytes)
    feature = bytes((kind << 3 | 2,)) + _varint(len(inner) + payload_bytes) + inner
    value = b"\x12" + _varint(len(feature) + payload_bytes) + feature
    name = _field(1, key.encode())
    return b"\n" + _varint(len(name) + len(value) + payload_bytes) + name + value


@functools.lru_cache(maxsize=1 << 16)
def label_entry(label: int) -> bytes:
    """The bytes that say in a record that its speaker has this label."""
    return _entry(schema.KEY_LABEL, _scalar(label))


def encode_record(values: npt.NDArray[Any], fields: Mapping[str, str | int]) -> tuple[bytes, int]:
    """One framed record.

    Args:
        values: `[rows, bins]` float32 (stored as a FloatList), or float16 or int16 (stored as bytes, C order).
        fields: the other keys of `schema`, text as bytes features and integers as int64 features.

    Returns:
        The framed record and the offset of the first value within it, in bytes.
    """
    name = _NAMES[values.dtype.newbyteorder("<")]
    payload = np.ascontiguousarray(values, dtype=DTYPES[name]).tobytes()
    head = {
        **fields,
        schema.KEY_DTYPE: name,
        schema.KEY_HEIGHT: values.shape[0],
        schema.KEY_WIDTH: values.shape[1],
    }
    entries = b"".join(_entry(key, _scalar(head[key])) for key in sorted(head))
    # The values come last, so that their offset is the length of all before them; they are copied once more, here.
    entries += payload_head(DTYPES[name], len(payload))
    before = b"\n" + _varint(len(entries) + len(payload)) + entries
    length = struct.pack("<Q", len(before) + len(payload))
    crc = _masked(google_crc32c.extend(google_crc32c.value(before), payload))
    framed = b"".join((length, _FOOTER.pack(masked_crc(length)), before, payload, _FOOTER.pack(crc)))
    return framed, HEADER_BYTES + len(before)


def _varint(value: int) -> bytes:
    """Base-128 varint of a value >= 0."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes((number << 3 | 2,)) + _varint(len(payload)) + payload


def _entry(key: str, feature: bytes) -> bytes:
    """One entry of the map `Features.feature`."""
    return _field(1, _field(1, key.encode()) + _field(2, feature))


def _scalar(value: str | int) -> bytes:
    """A Feature that holds one text (BytesList, field 1) or one integer (Int64List, field 3)."""
    if isinstance(value, str):
        return _field(1, _field(1, value.encode()))
    return _field(3, _field(1, _varint(value)))


def read_records(stream: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Every record of a TFRecord file as (offset, data), both checksums verified.

    Raises:
        CorruptRecordError: a checksum does not match, or the file ends inside a record.
    """
    offset = 0
    while header := stream.read(HEADER_BYTES):
        data = check_frame(header, stream, f"{name} at offset {offset}")
        yield offset, data
        offset += HEADER_BYTES + len(data) + FOOTER_BYTES


def check_frame(header: bytes, stream: BinaryIO, where: str) -> bytes:
    """The data behind a record's header, read from `stream`; both checksums are compared.

    Raises:
        CorruptRecordError: as `read_records`, or a longer record than any writer makes.
    """
    if len(header) < HEADER_BYTES:
        raise CorruptRecordError(f"{where}: the file ends inside a record's header")
    length, crc = _HEADER.unpack(header)
    if masked_crc(header[:8]) != crc:
        raise CorruptRecordError(f"{where}: the checksum of the record's length does not match: the file is damaged")
    if length > _MAX_RECORD:
        raise CorruptRecordError(f"{where}: a record of {length} bytes: expected at most {_MAX_RECORD}")
    body = _read(stream, length + FOOTER_BYTES)
    if len(body) < length + FOOTER_BYTES:
        raise CorruptRecordError(f"{where}: expected {length + FOOTER_BYTES} more bytes, got {len(body)}")
    data = body[:length]
    if masked_crc(data) != _FOOTER.unpack(body[length:])[0]:
        raise CorruptRecordError(f"{where}: the checksum of the record does not match: the file is damaged")
    return data


def _read(stream: BinaryIO, length: int) -> bytes:
    """Up to `length` bytes, in blocks: a damaged length must not ask for more memory than there are bytes."""
    blocks: list[bytes] = []
    while length > 0 and (block := stream.read(min(length, _BLOCK))):
        blocks.append(block)
        length -= len(block)
    return b"".join(blocks)


def decode_example(data: bytes, where: str) -> tuple[npt.NDArray[Any], dict[str, str | int]]:
    """Values `[rows, bins]` and the other fields of a record's Example.

    Raises:
        CorruptRecordError: the bytes are not an Example as `encode_record` writes them.
    """
    try:
        fields = dict(_features(data))
        dtype = DTYPES[str(fields.pop(schema.KEY_DTYPE))]
        payload = fields.pop(schema.KEY_VALUES if dtype == _LISTED else schema.KEY_ENCODED)
        shape = (fields.pop(schema.KEY_HEIGHT), fields.pop(schema.KEY_WIDTH))
        return np.frombuffer(payload, dtype=dtype).reshape(shape), fields
    except (KeyError, IndexError, ValueError, TypeError, OverflowError) as error:
        raise CorruptRecordError(f"{where}: the record is no Example of this format ({error!r})") from error


def _features(data: bytes) -> Iterator[tuple[str, Any]]:
    (_, features), *rest = _split(data)
    if rest:
        raise ValueError("more than one Features message")
    for _, entry in _split(features):
        (_, key), (_, feature) = _split(entry)
        ((kind, values),) = _split(feature)
        ((_, value),) = _split(values)
        name = key.decode()
        if kind == 3:
            yield name, _read_varint(value, 0)[0]
        else:
            yield name, value if name in (schema.KEY_VALUES, schema.KEY_ENCODED) else value.decode()


def _split(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a message: (number, payload)."""
    place = 0
    while place < len(message):
        if message[place] & 7 != 2:
            raise ValueError(f"field with wire type {message[place] & 7}")
        number = message[place] >> 3
        length, place = _read_varint(message, place + 1)
        if place + length > len(message):
            raise ValueError("field longer than its message")
        yield number, message[place : place + length]
        place += length


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while data[place] & 0x80:
        if shift == _VARINT_BITS:
            raise ValueError("a varint of more than 10 bytes")
        value |= (data[place] & 0x7F) << shift
        shift, place = shift + 7, place + 1
    return value | data[place] << shift, place + 1
