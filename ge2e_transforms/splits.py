"""Who goes where: the split of each speaker, named by the manifests, drawn, or the one where the speaker stands.

Splits are speaker-disjoint. It sees totals per speaker, in whole milliseconds, and must not know of rows.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ge2e_transforms import schema
from ge2e_transforms.errors import ConfigError, PlanError
from ge2e_transforms.layout import PlannedSpeaker
from ge2e_transforms.standing import KnownSpeaker, SplitRule, stable_hash

_HASH_RANGE = 1 << 64


@dataclass(frozen=True)
class PlanConfig:
    """Who goes where.

    Attributes:
        test_fraction, valid_fraction: share of the speakers whose split no manifest names.
        test_speakers, valid_speakers: exactly so many of them instead (those with the lowest hashes).
        shard_mib: size that a shard should have.
        min_shards: at least so many shards a split (or one a speaker), so that small jobs use all cores.
        split_salt: another salt draws another split; at most 64 bytes.

    Raises:
        ConfigError: on construction; it names the value.
    """

    test_fraction: float = 0.0
    valid_fraction: float = 0.0
    test_speakers: int = 0
    valid_speakers: int = 0
    shard_mib: float = 128.0
    min_shards: int = 16
    split_salt: str = "ge2e"

    def __post_init__(self) -> None:
        for split in ("test", "valid"):
            share, count = getattr(self, f"{split}_fraction"), getattr(self, f"{split}_speakers")
            if not 0 <= share < 1:
                raise ConfigError(f"{split}_fraction={share!r} cannot be used: expected a number in [0, 1)")
            if count < 0:
                raise ConfigError(f"{split}_speakers={count!r} cannot be used: expected 0 or more")
            if share and count:
                raise ConfigError(f"{split}_fraction={share!r} and {split}_speakers={count!r}: give one of the two")
        if self.test_fraction + self.valid_fraction >= 1:
            raise ConfigError("test_fraction and valid_fraction leave nothing to train on: their sum must be below 1")
        if not 0 < self.shard_mib <= 2048:
            raise ConfigError(f"shard_mib={self.shard_mib!r} cannot be used: expected a number in (0, 2048]")
        if len(self.split_salt.encode()) > 64:  # the longest key of BLAKE2b
            raise ConfigError(f"split_salt={self.split_salt!r} cannot be used: expected at most 64 bytes")
        for name in ("test_fraction", "valid_fraction", "shard_mib"):  # 128 and 128.0 are one generation
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.min_shards < 1:
            raise ConfigError(f"min_shards={self.min_shards!r} cannot be used: expected 1 or more")

    @property
    def draws(self) -> bool:
        """Whether any speaker is drawn for test or valid."""
        return bool(self.test_fraction or self.valid_fraction or self.test_speakers or self.valid_speakers)


class SpeakerTotal(NamedTuple):
    """Rows of one speaker that name one split and one source, summed up."""

    speaker: str
    split: str
    source: str
    milliseconds: int


def by_split(
    totals: Sequence[SpeakerTotal], rule: SplitRule, known: Mapping[str, KnownSpeaker]
) -> tuple[dict[str, list[PlannedSpeaker]], dict[str, str]]:
    """Speakers of each split, sorted; and those that stand in another one than the rule and their rows say.

    Args:
        totals: sorted by speaker.
        rule: for speakers whose rows name no split.
        known: speakers of the dataset that stands.

    Returns:
        Speakers by split, and the split of those that stand elsewhere, by speaker.

    Raises:
        PlanError: a speaker in two splits, by the rows or by the dataset that stands.
    """
    members: dict[str, list[PlannedSpeaker]] = {}
    elsewhere: dict[str, str] = {}
    for speaker, rows in itertools.groupby(totals, key=lambda total: total.speaker):
        entries = list(rows)
        named = _one_split(speaker, {entry.split for entry in entries})
        split, stands = named or rule.split_of(speaker), known.get(speaker)
        if stands and stands.split != split:
            if named:
                raise PlanError(
                    f"speaker {speaker!r} is in split {stands.split!r} of the dataset, but the manifests name split "
                    f"{named!r}: splits are speaker-disjoint, so name {stands.split!r} in these rows, or none"
                )
            split = elsewhere[speaker] = stands.split
        label = stands.label if stands else None
        members.setdefault(split, []).append(
            PlannedSpeaker(speaker, sum(entry.milliseconds for entry in entries), label)
        )
    return members, elsewhere


def _one_split(speaker: str, splits: set[str]) -> str:
    if len(splits) > 1:
        named = " and ".join(repr(split) if split else "none" for split in sorted(splits))
        raise PlanError(
            f"speaker {speaker!r} is in more than one split: its rows name {named}. Splits are speaker-disjoint: "
            "name one split in all rows of a speaker, or in none of them"
        )
    return splits.pop()


def split_rule(totals: Sequence[SpeakerTotal], config: PlanConfig) -> SplitRule:
    """The rule that draws what a config asks for from the speakers whose rows name no split.

    Raises:
        PlanError: there are none to draw from, or none would remain to train on.
    """
    if not config.draws:
        return SplitRule(config.split_salt, 0, 0)
    free = sorted({stable_hash(total.speaker, config.split_salt) for total in totals if not total.split})
    if not free:
        raise PlanError(
            "the manifests name the split of every speaker, so there is nothing to draw a test or valid split "
            "from: leave out --test_speakers, --test_fraction, --valid_speakers and --valid_fraction, or make the "
            "manifest without splits (`ge2e manifest librispeech --no_splits`)"
        )
    test_below = _bound(0, free, config.test_speakers, config.test_fraction)
    valid_below = _bound(test_below, free, config.valid_speakers, config.valid_fraction)
    train_named = any(total.split == schema.TRAIN_SPLIT for total in totals)
    if not train_named and valid_below > free[-1]:
        raise PlanError(
            f"the test and valid splits would take all of the {len(free)} speakers whose split no manifest names, "
            "but one must remain to train on: ask for fewer test and valid speakers"
        )
    return SplitRule(config.split_salt, test_below, valid_below)


def _bound(start: int, hashes: list[int], count: int, fraction: float) -> int:
    """Upper end of the hashes of a split that begins at `start`; beyond all hashes if they are too few."""
    if not count:
        return start + int(fraction * _HASH_RANGE)
    last = bisect.bisect_left(hashes, start) + count - 1
    return hashes[last] + 1 if last < len(hashes) else _HASH_RANGE
