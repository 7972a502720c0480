"""Speakers of a split to shards of nearly equal size, with large speakers cut in parts. Pure functions of sizes.

Sizes are whole milliseconds of expected speech. It must not know how splits are made.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ge2e_transforms.standing import stable_hash


class PlannedSpeaker(NamedTuple):
    """One speaker of a split, by `namespace/speaker_id`; those of a split are laid out in sorted order."""

    name: str
    milliseconds: int
    known: int | None  # label, of a speaker that stands already


class SpeakerRange(NamedTuple):
    """Consecutive speakers of one split in one shard, or one large speaker in `parts` shards.

    `milliseconds` is what a shard of it is expected to hold.
    """

    first_speaker: str
    label: int
    shard: int
    parts: int
    milliseconds: int

    def shard_of(self, utterance_id: str) -> int:
        """Number of the shard of an utterance of these speakers."""
        return self.shard if self.parts == 1 else self.shard + stable_hash(utterance_id, "part") % self.parts


def lay_out(
    speakers: Sequence[PlannedSpeaker], limit_ms: int, min_shards: int, label: int, shard: int, labels: int = 1
) -> Iterator[SpeakerRange]:
    """Ranges of one split: large speakers cut in parts, the others in shards of nearly equal size.

    Args:
        speakers: all of the split, sorted by name.
        limit_ms: about what a shard should hold at most; a speaker with more than twice as much is cut in parts.
        min_shards: at least so many, or one a speaker.
        label: of the first new speaker.
        shard: number of the first shard.
        labels: that each new speaker takes, one for each of its speeds.
    """
    for large, group in itertools.groupby(speakers, key=lambda speaker: speaker.milliseconds > 2 * limit_ms):
        members = list(group)
        # How many labels of new speakers come before each.
        before = [0, *itertools.accumulate(labels * (member.known is None) for member in members)]
        if large:
            for offset, member in zip(before, members, strict=False):
                parts = -(-member.milliseconds // limit_ms)
                yield SpeakerRange(member.name, label + offset, shard, parts, member.milliseconds // parts)
                shard += parts
        else:
            # Between large speakers lie several runs of others: each has its share of `min_shards`.
            share = -(-min_shards * len(members) // len(speakers))
            sizes = [member.milliseconds for member in members]
            starts = _cut(sizes, limit_ms, share)
            for number, (start, end) in enumerate(itertools.pairwise([*starts, len(sizes)])):
                size = sum(sizes[start:end])
                yield SpeakerRange(members[start].name, label + before[start], shard + number, 1, size)
            shard += len(starts)
        label += before[-1]


def _cut(sizes: list[int], limit: int, min_shards: int) -> list[int]:
    """First speaker of each shard: equal shares of the total, and no shard without a speaker."""
    ends = list(itertools.accumulate(sizes))
    count = min(len(sizes), max(-(-ends[-1] // limit), min_shards))
    starts = [0]
    for number in range(1, count):
        # The speaker whose middle passes this share of the total begins the next shard.
        ideal = bisect.bisect_left(
            range(len(sizes)), 2 * ends[-1] * number // count, key=lambda i: 2 * ends[i] - sizes[i]
        )
        starts.append(min(max(ideal, starts[-1] + 1), len(sizes) - (count - number)))
    return starts
