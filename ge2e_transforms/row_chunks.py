"""Rows of manifests as they cross a shuffle: packed by the thousand.

What a runner does for every element is then done for every thousandth row, and rows, which are much alike, take a
tenth of their bytes (`benchmarks/planning.py`).

A chunk is what a reader packs: a line that says whose rows follow, then the rows, those of a speaker together. So rows
find their shard without being decoded. A parcel is what a shard gets: some rows. Both are JSON, compressed; an empty
parcel has no rows.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator

from ge2e_transforms import lengths
from ge2e_transforms.lengths import Lengths
from ge2e_transforms.planning import Plan, expected_ms
from ge2e_transforms.utterance import Utterance

# Rows of a chunk: enough that chunks of a manifest in random order still have some for each of a thousand shards.
CHUNK_ROWS = 4096
# Bytes of manifest in a chunk, which bound its memory where rows are long.
CHUNK_BYTES = 4 << 20
# The fastest: rows of one manifest are so alike that slower levels gain little.
_LEVEL = 1
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
# Rows are encoded in one call and then told apart by line ends, which JSON escapes within text.
_encode_rows = json.JSONEncoder(ensure_ascii=False, separators=(",\n", ":"), allow_nan=False).encode
_FIRST, _BETWEEN, _LAST = "[[", "],\n[", "]]"


def pack(rows: Iterable[Utterance], max_seconds: float, sums: Lengths) -> bytes:
    """A chunk.

    Args:
        rows: as many as one chunk should hold; at least one.
        max_seconds: a row counts as no longer.
        sums: the expected milliseconds of the rows are added to it.
    """
    runs: dict[tuple[str, str, str, str], list[Utterance]] = {}
    for row in rows:
        runs.setdefault((row.namespace, row.speaker_id, row.split, row.source), []).append(row)
    header = []
    for run in runs.values():
        speaker, split = run[0].speaker_key, run[0].split
        header.append((speaker, split, len(run)))
        lengths.add(sums, split, run[0].source, [(speaker, sum(expected_ms(row, max_seconds) for row in run))])
    text = _encode_rows([row for run in runs.values() for row in run])
    return _compressed(f"{_encode(header)}\n{text}")


def place(chunk: bytes, plan: Plan) -> dict[int, bytes]:
    """Parcels of a chunk by the number of their shard."""
    header, _, text = zlib.decompress(chunk).decode().partition("\n")
    rows = text.removeprefix(_FIRST).removesuffix(_LAST).split(_BETWEEN)
    shards: dict[int, list[str]] = {}
    start = 0
    for speaker, split, count in json.loads(header):
        run = rows[start : start + count]
        start += count
        found = plan.range_of(speaker, split)
        if found.parts == 1:
            shards.setdefault(found.shard, []).extend(run)
        else:
            for row in run:
                shards.setdefault(plan.shard_of(Utterance(*json.loads(f"[{row}]"))), []).append(row)
    return {shard: _compressed(f"{_FIRST}{_BETWEEN.join(kept)}{_LAST}") for shard, kept in shards.items()}


def unpack(parcel: bytes) -> Iterator[Utterance]:
    """The rows of a parcel."""
    return map(Utterance._make, json.loads(zlib.decompress(parcel))) if parcel else iter(())


def _compressed(text: str) -> bytes:
    return zlib.compress(text.encode(), _LEVEL)
