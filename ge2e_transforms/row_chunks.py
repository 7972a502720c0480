"""Rows of manifests as they cross a shuffle: packed by the thousand, so that what a runner does for every element
is done for every thousandth row, and a row takes some 30 bytes instead of 230.

A chunk is what a reader packs: a line that says whose rows follow, then a line for the rows of each speaker. So a row
finds its shard without being decoded. A parcel is what a shard gets: such lines of rows. Both are compressed; an empty
parcel has no rows.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from ge2e_transforms.planning import Plan, expected_ms
from ge2e_transforms.utterance import Utterance

# (speaker, split, source), and the expected milliseconds of its rows.
SpeakerKey: TypeAlias = tuple[str, str, str]

# Rows of a chunk: enough that chunks of a manifest in random order still have some for each of a thousand shards.
CHUNK_ROWS = 4096
# Bytes of manifest in a chunk, which bound its memory where rows are long.
CHUNK_BYTES = 4 << 20
# The fastest: rows of one manifest are so alike that the slower levels gain little.
_LEVEL = 1
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def pack(rows: Iterable[Utterance], max_seconds: float) -> tuple[bytes, dict[SpeakerKey, int]]:
    """A chunk, and the expected milliseconds of its rows by speaker, split and source.

    Args:
        rows: as many as one chunk should hold.
        max_seconds: a row counts as no longer.
    """
    runs: dict[tuple[str, str, str, str], list[Utterance]] = {}
    for row in rows:
        runs.setdefault((row.namespace, row.speaker_id, row.split, row.source), []).append(row)
    header, lines, lengths = [], [], {}
    for run in runs.values():
        first = run[0]
        header.append((first.speaker_key, first.split))
        lines.append(_encode(run))
        lengths[first.speaker_key, first.split, first.source] = sum(expected_ms(row, max_seconds) for row in run)
    return _packed([_encode(header), *lines]), lengths


def place(chunk: bytes, plan: Plan) -> dict[int, bytes]:
    """Parcels of a chunk by the number of their shard."""
    header, *lines = zlib.decompress(chunk).decode().split("\n")
    shards: dict[int, list[str]] = {}
    for (speaker, split), line in zip(json.loads(header), lines, strict=True):
        place = plan.range_of(speaker, split)
        if place.parts == 1:
            shards.setdefault(place.shard, []).append(line)
        else:
            for row in _rows(line):
                shards.setdefault(plan.shard_of(row), []).append(_encode([row]))
    return {shard: _packed(rows) for shard, rows in shards.items()}


def unpack(parcel: bytes) -> Iterator[Utterance]:
    """The rows of a parcel."""
    if parcel:
        for line in zlib.decompress(parcel).decode().split("\n"):
            yield from _rows(line)


def _packed(lines: Sequence[str]) -> bytes:
    return zlib.compress("\n".join(lines).encode(), _LEVEL)  # JSON escapes line ends within text


def _rows(line: str) -> Iterator[Utterance]:
    return map(Utterance._make, json.loads(line))
