"""Expected length of the speech of each speaker, packed for the way from the readers of manifests to the plan.

A runner spends more on an element than on a hundred entries within one. So a reader sums up, and sends one element for
each bucket of speakers; buckets are summed apart from each other, and the plan gets one element of each. Lengths are
whole milliseconds. It must not know what the plan does with them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from ge2e_transforms.splits import SpeakerTotal

# Milliseconds by speaker, by (split, source): the rows of one speaker may name several of both.
Lengths: TypeAlias = dict[tuple[str, str], dict[str, int]]

BUCKETS = 16
# Speakers that a reader sums up before it sends them, some 20 MB: then a manifest in random order, too, makes few.
HELD_SPEAKERS = 100_000


def add(lengths: Lengths, split: str, source: str, more: Iterable[tuple[str, int]]) -> None:
    """Sums up the milliseconds of some speakers."""
    sums = lengths.setdefault((split, source), {})
    for speaker, milliseconds in more:
        sums[speaker] = sums.get(speaker, 0) + milliseconds


def speakers(lengths: Lengths) -> int:
    """How many entries there are."""
    return sum(map(len, lengths.values()))


def pack(lengths: Lengths) -> Iterator[tuple[int, bytes]]:
    """(bucket, packed entries) for each bucket that has any."""
    buckets: dict[int, Lengths] = {}
    for key, sums in lengths.items():
        for speaker, milliseconds in sums.items():
            bucket = buckets.setdefault(zlib.crc32(speaker.encode()) % BUCKETS, {})
            bucket.setdefault(key, {})[speaker] = milliseconds
    return ((number, _packed(bucket)) for number, bucket in buckets.items())


def summed(parts: Iterable[bytes]) -> bytes:
    """One bucket from all that was sent for it."""
    lengths: Lengths = {}
    for part in parts:
        for split, source, sums in _unpacked(part):
            add(lengths, split, source, sums.items())
    return _packed(lengths)


def totals(packed: bytes) -> Iterator[SpeakerTotal]:
    """The entries of a bucket, for the plan."""
    for split, source, sums in _unpacked(packed):
        for speaker, milliseconds in sums.items():
            yield SpeakerTotal(speaker, split, source, milliseconds)


def _packed(lengths: Lengths) -> bytes:
    entries = [(*key, sums) for key, sums in lengths.items()]
    return zlib.compress(json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode(), 1)


def _unpacked(packed: bytes) -> list[tuple[str, str, dict[str, int]]]:
    return [(split, source, sums) for split, source, sums in json.loads(zlib.decompress(packed))]
