"""A reader of datasets, written from docs/format.md alone, as one in another language would be: without our code.

What could not be written from the page would be missing on it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

TYPES = {"float32": "f", "float16": "e", "pcm16": "h"}  # of a value, little-endian


class DamageError(Exception):
    """Bytes that are not what the page says."""


class Record(NamedTuple):
    """`row` is that of the shard's index, `fields` are those of the Example but for the values."""

    row: dict[str, Any]
    fields: dict[str, bytes | int]
    shape: tuple[int, int]
    values: tuple[float, ...]


def read(folder: Path) -> dict[str, list[Record]]:
    """Every record of a dataset by split, in the order of shards and of their records."""
    metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    require((metadata["format"], metadata["format_version"]) == ("ge2e-features", 3), "another format")
    return {split: list(records(folder, shards)) for split, shards in metadata["shards"].items()}


def records(folder: Path, shards: list[dict[str, Any]]) -> Iterator[Record]:
    for shard in filter(lambda shard: shard["records"], shards):
        content = (folder / f"{shard['base']}.tfrecord").read_bytes()
        rows = pyarrow.parquet.read_table(folder / f"{shard['base']}.index.parquet").to_pylist()
        require(len(rows) == shard["records"], f"rows of {shard['base']}")
        yield from (record(content[row["offset"] : row["offset"] + row["length"]], row) for row in rows)


def record(framed: bytes, row: dict[str, Any]) -> Record:
    """One framed record and its row of the index."""
    length, crc = struct.unpack("<QI", framed[:12])
    require(masked(crc32c(framed[:8])) == crc and len(framed) == length + 16, "length of a record")
    data = framed[12:-4]
    require(masked(crc32c(data)) == struct.unpack("<I", framed[-4:])[0], "data of a record")
    ((_, features),) = message(data)
    fields = dict(feature(entry) for _, entry in message(features))
    kind = TYPES[fields["spectrogram/dtype"].decode()]
    packed = fields.pop("spectrogram/values" if kind == "f" else "spectrogram/encoded")
    shape = (fields.pop("spectrogram/height"), fields.pop("spectrogram/width"))
    require(packed == framed[row["payload_offset"] - row["offset"] : -4], "place of the values")
    return Record(row, fields, shape, struct.unpack(f"<{shape[0] * shape[1]}{kind}", packed))


def feature(entry: bytes) -> tuple[str, Any]:
    """A map entry: name, and a Feature with one value or with the packed floats."""
    parts = dict(message(entry))
    ((kind, values),) = message(parts[2])
    ((_, value),) = message(values)
    return parts[1].decode(), varint(value, 0)[0] if kind == 3 else value


def message(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Fields of a protobuf message, all length-delimited: number and content."""
    place = 0
    while place < len(data):
        key, place = varint(data, place)
        length, place = varint(data, place)
        require(key & 7 == 2 and place + length <= len(data), "a field")
        yield key >> 3, data[place : place + length]
        place += length


def varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while data[place] & 0x80:
        value |= (data[place] & 0x7F) << shift
        shift, place = shift + 7, place + 1
    return value | data[place] << shift, place + 1


def table_entry(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


TABLE = [table_entry(byte) for byte in range(256)]


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def require(right: bool, what: str) -> None:
    if not right:
        raise DamageError(what)
