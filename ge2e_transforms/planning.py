"""From totals per speaker to a plan: which split, label and shard every row belongs to.

The plan is small whatever the number of speakers: per shard its first speaker and label, plus the few
speakers that are cut in parts. It travels to the workers, where a row finds its shard by bisection. It
depends on the manifests and the options alone, so every runner lays a dataset out the same way.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from ge2e_transforms import schema
from ge2e_transforms.config import Recipe, canonical_json
from ge2e_transforms.errors import ConfigError, PlanError
from ge2e_transforms.utterance import Utterance

_HASH_RANGE = 1 << 64
# Length of a row that gives none: from its file's bytes at 20 bytes a millisecond (between FLAC's 17 and
# WAV's 32 at 16 kHz), else 8 s, about the mean of LibriSpeech and VoxCeleb. Only the balance of shards
# depends on it.
_BYTES_PER_MS = 20
_DEFAULT_MS = 8000


@dataclass(frozen=True)
class PlanConfig:
    """Who goes where.

    Attributes:
        test_fraction, valid_fraction: share of the speakers whose split no manifest names.
        test_speakers, valid_speakers: exactly so many of them instead (those with the lowest hashes).
        shard_mib: size that a shard should have.
        min_shards: at least so many shards a split (or one a speaker), so that small jobs use all cores.
        split_salt: another salt draws another split.
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
        return bool(self.test_fraction or self.valid_fraction or self.test_speakers or self.valid_speakers)


class SpeakerTotal(NamedTuple):
    """Rows of one speaker that name one split and one source, summed up."""

    speaker: str
    split: str
    source: str
    milliseconds: int


class ManifestSummary(NamedTuple):
    """What a manifest held; the checksum makes it part of the generation."""

    path: str
    sha256: str
    rows: int
    rejected: int


class SplitRule(NamedTuple):
    """Split of a speaker for whom no manifest names one, by its salted hash."""

    salt: str
    test_below: int
    valid_below: int

    def split_of(self, speaker: str) -> str:
        if not self.valid_below:  # nothing is drawn
            return schema.TRAIN_SPLIT
        value = stable_hash(speaker, self.salt)
        return "test" if value < self.test_below else "valid" if value < self.valid_below else schema.TRAIN_SPLIT


class SpeakerRange(NamedTuple):
    """Consecutive speakers of one split in one shard, or one large speaker in `parts` shards."""

    first_speaker: str
    label: int
    shard: int
    parts: int


class ShardTask(NamedTuple):
    """What a worker must know to write one shard."""

    split: str
    shard: int
    shards: int
    label: int
    generation: str

    @property
    def base(self) -> str:
        return schema.shard_base(self.split, self.generation, self.shard, self.shards)

    @property
    def keep_all(self) -> bool:
        """Nothing is left out of held-out splits for shortness or voice."""
        return self.split != schema.TRAIN_SPLIT


@dataclass(frozen=True)
class Plan:
    """The layout of a dataset; shards are numbered through all splits."""

    generation: str
    edition: int
    rule: SplitRule
    ranges: dict[str, tuple[SpeakerRange, ...]]
    shards: dict[str, int]
    speakers: dict[str, int]
    sources: tuple[str, ...]
    manifests: tuple[ManifestSummary, ...]
    standing: str = ""  # generation of the dataset that stood in the output when this was planned

    def range_of(self, speaker: str, split: str) -> SpeakerRange:
        """Where a speaker's rows lie that name this split, or none (then it is drawn)."""
        ranges = self.ranges[split or self.rule.split_of(speaker)]
        return ranges[bisect.bisect_right(ranges, speaker, key=lambda entry: entry.first_speaker) - 1]

    def shard_of(self, row: Utterance) -> int:
        """Number of a row's shard, counted through all splits."""
        found = self.range_of(row.speaker_key, row.split)
        if found.parts == 1:
            return found.shard
        return found.shard + stable_hash(row.utterance_id, "part") % found.parts

    @functools.cached_property
    def tasks(self) -> list[ShardTask]:
        """What every shard is, by its number through all splits."""
        tasks = []
        for split, ranges in self.ranges.items():
            labels = [entry.label for entry in ranges for _ in range(entry.parts)]
            shards = self.shards[split]
            tasks += [ShardTask(split, number, shards, label, self.generation) for number, label in enumerate(labels)]
        return tasks


def stable_hash(text: str, salt: str) -> int:
    """64 bits that are the same in every process and version (Python's own `hash` is salted per process)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=salt.encode()).digest(), "little")


def expected_ms(row: Utterance, max_seconds: float) -> int:
    """Length of a row for planning, in whole milliseconds: integers add up the same in every order.

    A row that claims more than `max_seconds` counts as that: nothing longer can be written, and one absurd
    duration must not plan shards by the million.
    """
    milliseconds = _DEFAULT_MS
    if row.duration_s is not None:
        milliseconds = round(row.duration_s * 1000)
    elif row.bytes is not None and row.offset_s is None:
        milliseconds = row.bytes // _BYTES_PER_MS
    return max(1, min(milliseconds, int(max_seconds * 1000)))


def make_plan(
    totals: Iterable[SpeakerTotal],
    manifests: Iterable[ManifestSummary],
    config: PlanConfig,
    recipe: Recipe,
    edition: int = 0,
) -> Plan:
    """Lays out a dataset.

    Args:
        totals: one or more per speaker (one for each split and source its rows name), in any order.
        manifests: one per manifest file, in any order.
        config: who goes where.
        recipe: gives the size of a second of features, and is part of the generation.
        edition: part of the generation, too.

    Raises:
        PlanError: no usable row, a speaker in two splits, too few speakers to draw from.
    """
    totals, read = sorted(totals), tuple(sorted(manifests))
    if not totals:
        raise PlanError(_no_rows(read))
    rule = _split_rule(totals, config)
    by_split: dict[str, list[tuple[str, int]]] = {}
    for speaker, rows in itertools.groupby(totals, key=lambda total: total.speaker):
        entries = list(rows)
        split = _one_split(speaker, {entry.split for entry in entries}) or rule.split_of(speaker)
        by_split.setdefault(split, []).append((speaker, sum(entry.milliseconds for entry in entries)))
    limit_ms = max(1, int(config.shard_mib * 1024 * 1024 / _bytes_per_ms(recipe)))
    ranges: dict[str, tuple[SpeakerRange, ...]] = {}
    label = shard = 0
    for split in sorted(by_split, key=schema.split_key):
        ranges[split] = tuple(_layout(by_split[split], limit_ms, config.min_shards, label, shard))
        label += len(by_split[split])
        shard = ranges[split][-1].shard + ranges[split][-1].parts
    shards = {split: sum(entry.parts for entry in entries) for split, entries in ranges.items()}
    speakers = {split: len(by_split[split]) for split in ranges}
    sources = tuple(sorted({total.source for total in totals}))
    generation = generation_of(read, config, recipe, edition)
    return Plan(generation, edition, rule, ranges, shards, speakers, sources, read)


def _bytes_per_ms(recipe: Recipe) -> float:
    rows_per_ms = recipe.audio.sample_rate_hz / recipe.row_samples / 1000
    return rows_per_ms * recipe.n_bins * (2 if recipe.feature.features == "raw" else 4)


def _no_rows(manifests: Sequence[ManifestSummary]) -> str:
    rows, rejected = sum(entry.rows for entry in manifests), sum(entry.rejected for entry in manifests)
    names = ", ".join(entry.path for entry in manifests[:3])
    return (
        f"no usable row in {len(manifests)} manifest(s) ({names}): {rows} rows read, {rejected} rejected. "
        "Every row needs an audio_path and a speaker_id; `ge2e manifest` writes such a file from a folder of speech"
    )


def _one_split(speaker: str, splits: set[str]) -> str:
    if len(splits) > 1:
        named = " and ".join(repr(split) if split else "none" for split in sorted(splits))
        raise PlanError(
            f"speaker {speaker!r} is in more than one split: its rows name {named}. Splits are speaker-disjoint: "
            "name one split in all rows of a speaker, or in none of them"
        )
    return splits.pop()


def _split_rule(totals: Sequence[SpeakerTotal], config: PlanConfig) -> SplitRule:
    if not config.draws:
        return SplitRule(config.split_salt, 0, 0)
    free = sorted({stable_hash(total.speaker, config.split_salt) for total in totals if not total.split})
    if not free:
        raise PlanError(
            "the manifests name the split of every speaker, so there is nothing to draw a test or valid split "
            "from: leave out --test_speakers, --test_fraction, --valid_speakers and --valid_fraction, or make the "
            "manifest without splits (`ge2e manifest librispeech --no-splits`)"
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


def generation_of(manifests: Iterable[ManifestSummary], config: PlanConfig, recipe: Recipe, edition: int) -> str:
    """First 8 hex digits of the fingerprint of all that decides the bytes of the shards.

    Audio files are not looked at: `edition` tells datasets apart that were made again from the same manifests.
    """
    content = {
        "format": schema.FORMAT_VERSION,
        "manifests": [list(entry) for entry in sorted(manifests)],
        "plan": asdict(config),
        "recipe": recipe.fingerprint(),
        "edition": edition,
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:8]


def _layout(
    speakers: list[tuple[str, int]], limit_ms: int, min_shards: int, label: int, shard: int
) -> Iterable[SpeakerRange]:
    """Ranges of one split: large speakers cut in parts, the others in shards of nearly equal size."""
    for large, group in itertools.groupby(speakers, key=lambda speaker: speaker[1] > 2 * limit_ms):
        members = list(group)
        if large:
            for offset, (name, size) in enumerate(members):
                parts = -(-size // limit_ms)
                yield SpeakerRange(name, label + offset, shard, parts)
                shard += parts
        else:
            # Between large speakers lie several runs of others: each has its share of `min_shards`.
            share = -(-min_shards * len(members) // len(speakers))
            starts = _cut([size for _, size in members], limit_ms, share)
            for number, start in enumerate(starts):
                yield SpeakerRange(members[start][0], label + start, shard + number, 1)
            shard += len(starts)
        label += len(members)


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
