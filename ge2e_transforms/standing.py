"""The dataset that stands in an output, as far as a job that adds to it must know. Pure functions of its metadata.

Labels are integers from 0, hashes have 64 bits. It must not know of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ge2e_transforms import schema


class SplitRule(NamedTuple):
    """Split of a speaker for whom no manifest names one, by its salted hash.

    salt: of the hash.
    test_below, valid_below: from 0 to 2^64. Hashes below the first are test, those from there to below the second are
        valid, all others train. Where `valid_below` is 0 nothing is drawn.
    """

    salt: str
    test_below: int
    valid_below: int

    def split_of(self, speaker: str) -> str:
        """'test', 'valid' or 'train' for a speaker, given as `namespace/speaker_id`."""
        if not self.valid_below:  # nothing is drawn
            return schema.TRAIN_SPLIT
        value = stable_hash(speaker, self.salt)
        return "test" if value < self.test_below else "valid" if value < self.valid_below else schema.TRAIN_SPLIT


def stable_hash(text: str, salt: str) -> int:
    """64 bits that are the same in every process and version (Python's own `hash` is salted per process).

    BLAKE2b (RFC 7693) with the salt for its key, which has at most 64 bytes.

    >>> stable_hash("voxceleb/id10001", "ge2e") == stable_hash("voxceleb/id10001", "another salt")
    False
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=salt.encode()).digest(), "little")


class KnownSpeaker(NamedTuple):
    """A speaker of the dataset that stands."""

    split: str
    label: int


class StandingShard(NamedTuple):
    """A shard with records, and the lowest and highest label in it."""

    base: str
    lowest: int
    highest: int


@dataclass(frozen=True)
class Standing:
    """What workers must know of the dataset that they add to; small whatever its size.

    Attributes:
        generation: names its state.
        rule: draws the split of new speakers as it drew those that are there.
        speakers_file: the table of its speakers, relative to its folder.
        sources: in the order of their numbers.
        next_label: lowest label that no speaker ever had.
        shards: by split, in order.
    """

    generation: str
    rule: SplitRule
    speakers_file: str
    sources: tuple[str, ...]
    next_label: int
    shards: Mapping[str, tuple[StandingShard, ...]]

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Standing:
        """By the metadata of a dataset, after `metadata.require_complete`."""
        shards = {
            split: tuple(StandingShard(entry["base"], *entry["labels"]) for entry in entries if entry["records"])
            for split, entries in metadata["shards"].items()
        }
        return cls(
            metadata["generation"],
            SplitRule(**metadata["split_rule"]),
            metadata["speakers"]["path"],
            tuple(metadata["datasets"]),
            metadata["next_label"],
            shards,
        )

    def shards_of(self, split: str, labels: Collection[int]) -> list[str]:
        """Shards that may hold records of these labels."""
        return [
            shard.base
            for shard in self.shards.get(split, ())
            if any(shard.lowest <= label <= shard.highest for label in labels)
        ]


class Growth(NamedTuple):
    """What a job adds to.

    Attributes:
        kind: 'add' for other manifests, 'retry' for rows that were rejected.
        standing: the dataset that is there.
        speakers: all of its speakers.
    """

    kind: str
    standing: Standing
    speakers: Mapping[str, KnownSpeaker]
