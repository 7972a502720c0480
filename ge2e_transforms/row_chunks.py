"""Rows of manifests as they cross a shuffle: packed by the thousand.

What a runner does for every element is then done for every thousandth row, and rows, which are much alike, take a
tenth of their bytes (`benchmarks/planning.py`).

A chunk is what a reader packs, a parcel what a shard gets of it. Both are text, compressed: whose rows follow, those of
a speaker together, and then what else each row says. So rows find their shard without being decoded. An empty parcel
has no rows. It must not know what moves them, or of the audio that they name.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, TypeAlias

import pyarrow as pa

from ge2e_transforms import lengths
from ge2e_transforms.layout import SpeakerRange
from ge2e_transforms.lengths import Lengths
from ge2e_transforms.planning import Plan, expected_ms
from ge2e_transforms.utterance import Utterance, row_of

# Rows of a chunk: enough that chunks of a manifest in random order still have some for each of a thousand shards.
CHUNK_ROWS = 4096
# Bytes of manifest in a chunk, which bound its memory where rows are long.
CHUNK_BYTES = 4 << 20
# What the rows of a run share: manifest, namespace, speaker, split, source.
_Shared: TypeAlias = tuple[str, str, str, str, str]
_shared: Callable[[Utterance], _Shared] = itemgetter(12, 2, 1, 6, 4)
# And how many they are, as text.
_Run: TypeAlias = tuple[str, str, str, str, str, str]
_RUN_FIELDS = 6
# The other columns: path, utterance id, subset, session; channel, offset, duration, bytes, position.
_COLUMNS = (0, 3, 5, 7, 8, 9, 10, 11, 13)
_TEXTS, _FIELDS = 4, len(_COLUMNS)
_SIZE_BYTES = 8  # of the text, before it
_END = "\0"  # of a field: no text of a row holds one


def pack(rows: Iterable[Utterance], max_seconds: float, sums: Lengths) -> bytes:
    """A chunk.

    Args:
        rows: as many as one chunk should hold; at least one.
        max_seconds: a row counts as no longer.
        sums: the expected milliseconds of the rows are added to it.

    Raises:
        ValueError: a text holds NUL: such a row must have been refused before.
    """
    runs: dict[_Shared, list[Utterance]] = {}
    for shared, run in itertools.groupby(rows, key=_shared):
        runs.setdefault(shared, []).extend(run)
    for (_, namespace, speaker, split, source), members in runs.items():
        length = sum([expected_ms(row, max_seconds) for row in members])
        lengths.add(sums, split, source, [(f"{namespace}/{speaker}", length)])
    fields = _fields([row for members in runs.values() for row in members])
    return _packed([(*shared, str(len(members))) for shared, members in runs.items()], fields)


def place(chunk: bytes, plan: Plan) -> dict[int, bytes]:
    """Parcels of a chunk by the number of their shard."""
    runs, fields = _unpacked(chunk)
    shards: dict[int, tuple[list[_Run], list[str]]] = {}
    start = 0
    for manifest, namespace, speaker, split, source, count in runs:
        end = start + int(count) * _FIELDS
        for shard, part in _parts(fields[start:end], plan.range_of(f"{namespace}/{speaker}", split)).items():
            kept_runs, kept_fields = shards.setdefault(shard, ([], []))
            kept_runs.append((manifest, namespace, speaker, split, source, str(len(part) // _FIELDS)))
            kept_fields += part
        start = end
    return {shard: _packed(*kept) for shard, kept in shards.items()}


def _parts(run: list[str], found: SpeakerRange) -> dict[int, list[str]]:
    """The fields of a run by shard."""
    if found.parts == 1:
        return {found.shard: run}
    parts: dict[int, list[str]] = {}
    for start in range(0, len(run), _FIELDS):
        _, utterance_id, *_ = row = run[start : start + _FIELDS]
        parts.setdefault(found.shard_of(utterance_id), []).extend(row)
    return parts


def unpack(parcel: bytes) -> Iterator[Utterance]:
    """The rows of a parcel."""
    if not parcel:
        return iter(())
    runs, fields = _unpacked(parcel)
    *shared, counts = zip(*runs, strict=True)
    manifest, namespace, speaker, split, source = (
        itertools.chain.from_iterable(map(itertools.repeat, column, map(int, counts))) for column in shared
    )
    path, name, subset, session, *numbers = (fields[column::_FIELDS] for column in range(_FIELDS))
    channel, offset_s, duration_s, size, position = map(_numbers, numbers, (int, float, float, int, int))
    texts = (path, speaker, namespace, name, source, subset, split, session)
    return map(row_of, zip(*texts, channel, offset_s, duration_s, size, manifest, position, strict=True))


def _fields(rows: Sequence[Utterance]) -> list[str]:
    """What rows do not share, as text, row by row."""
    values: list[Any] = [*itertools.chain.from_iterable(rows)]
    fields = [""] * (len(rows) * _FIELDS)
    for field, column in enumerate(_COLUMNS):
        kept = values[column :: len(Utterance._fields)]
        fields[field::_FIELDS] = kept if field < _TEXTS else ["" if number is None else repr(number) for number in kept]
    return fields


def _numbers(column: Sequence[str], kind: type[int] | type[float]) -> list[float | int | None]:
    return [kind(text) if text else None for text in column]


def _packed(runs: Sequence[_Run], fields: Sequence[str]) -> bytes:
    texts = [str(len(runs)), *itertools.chain.from_iterable(runs), *fields]
    text = _END.join(texts).encode()
    if text.count(_END.encode()) != len(texts) - 1:
        raise ValueError("a row of this chunk holds NUL in a text")
    packed: bytes = _codec().compress(text, asbytes=True)
    return len(text).to_bytes(_SIZE_BYTES, "little") + packed


def _unpacked(packed: bytes) -> tuple[list[_Run], list[str]]:
    size = int.from_bytes(packed[:_SIZE_BYTES], "little")
    text: bytes = _codec().decompress(memoryview(packed)[_SIZE_BYTES:], size, asbytes=True)
    number, *texts = text.decode().split(_END)
    end = int(number) * _RUN_FIELDS
    manifest, namespace, speaker, split, source, count = (
        texts[column:end:_RUN_FIELDS] for column in range(_RUN_FIELDS)
    )
    return list(zip(manifest, namespace, speaker, split, source, count, strict=True)), texts[end:]


@functools.cache
def _codec() -> pa.Codec:
    # The fastest: rows of one manifest are so alike that slower levels gain little. Fewer bytes than zlib's, in a
    # third of its time.
    return pa.Codec("zstd", compression_level=1)
