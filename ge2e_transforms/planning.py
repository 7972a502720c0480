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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from ge2e_transforms import schema
from ge2e_transforms.config import Recipe, canonical_json
from ge2e_transforms.errors import ConfigError, PlanError
from ge2e_transforms.identity import Tombstones
from ge2e_transforms.layout import PlannedSpeaker, SpeakerRange, lay_out
from ge2e_transforms.standing import Growth, KnownSpeaker, SplitRule, Standing, stable_hash
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
    """The layout of what a job writes; shards are numbered through all splits.

    Attributes:
        generation: names the files, and the state of the dataset once they are published.
        content: what is asked for, whatever stood in the output before.
        rule, ranges, shards: where rows go; no ranges where nothing is left to do.
        speakers: those that the rows name, by split.
        sources: in the order of their numbers.
        manifests: what was read.
        next_label: lowest label that no speaker has.
        elsewhere: split of speakers that stand in another one than the rule says.
        grows: the dataset that is added to.
        erased: speakers whose rows are left out.
        pseudonyms: check of the key, where ids are pseudonyms.
        standing: generation of the dataset that stood in the output when this was planned.
    """

    generation: str
    edition: int
    rule: SplitRule
    ranges: dict[str, tuple[SpeakerRange, ...]]
    shards: dict[str, int]
    speakers: dict[str, int]
    sources: tuple[str, ...]
    manifests: tuple[ManifestSummary, ...]
    content: str = ""
    next_label: int = 0
    elsewhere: dict[str, str] = field(default_factory=dict)
    kind: str = "run"
    grows: Standing | None = None
    erased: Tombstones | None = None
    pseudonyms: str = ""
    standing: str = ""

    @property
    def nothing_to_do(self) -> bool:
        """Whether the dataset that stands has been given these rows already."""
        return not self.ranges

    def range_of(self, speaker: str, split: str) -> SpeakerRange:
        """Where a speaker's rows lie that name this split, or none (then it is drawn)."""
        ranges = self.ranges[split or self.elsewhere.get(speaker) or self.rule.split_of(speaker)]
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
    *,
    growth: Growth | None = None,
    erased: Tombstones | None = None,
    pseudonyms: str = "",
) -> Plan:
    """Lays out a dataset, or what is added to one.

    Args:
        totals: one or more per speaker (one for each split and source its rows name), in any order.
        manifests: one per manifest file, in any order.
        config: who goes where.
        recipe: gives the size of a second of features, and is part of the generation.
        edition: part of the generation, too.
        growth: what is added to; splits and labels of its speakers stay.
        erased: part of the generation, as their rows are left out.
        pseudonyms: check of their key, part of the content.

    Raises:
        PlanError: no usable row, a speaker in two splits, too few speakers to draw from.
    """
    totals, read = sorted(totals), tuple(sorted(manifests))
    if not totals:
        raise PlanError(_no_rows(read))
    standing, known = (growth.standing, growth.speakers) if growth else (None, {})
    rule = standing.rule if standing else _split_rule(totals, config)
    by_split, elsewhere = _by_split(totals, rule, known)
    limit_ms = max(1, int(config.shard_mib * 1024 * 1024 / _bytes_per_ms(recipe)))
    ranges: dict[str, tuple[SpeakerRange, ...]] = {}
    label, shard = standing.next_label if standing else 0, 0
    for split in sorted(by_split, key=schema.split_key):
        ranges[split] = tuple(lay_out(by_split[split], limit_ms, config.min_shards, label, shard))
        label += sum(speaker.known is None for speaker in by_split[split])
        shard = ranges[split][-1].shard + ranges[split][-1].parts
    stood = standing.sources if standing else ()
    content = content_of(read, config, recipe, kind=growth.kind if growth else "run", pseudonyms=pseudonyms)
    return Plan(
        generation=generation_of(content, edition, erased, standing.generation if standing else ""),
        edition=edition,
        rule=rule,
        ranges=ranges,
        shards={split: sum(entry.parts for entry in entries) for split, entries in ranges.items()},
        speakers={split: len(by_split[split]) for split in ranges},
        sources=(*stood, *sorted({total.source for total in totals} - set(stood))),
        manifests=read,
        content=content,
        next_label=label,
        elsewhere=elsewhere,
        kind=growth.kind if growth else "run",
        grows=standing,
        erased=erased,
        pseudonyms=pseudonyms,
    )


def nothing_to_do(present: Mapping[str, Any], manifests: Iterable[ManifestSummary]) -> Plan:
    """The plan of a job whose rows the dataset that stands has been given already."""
    rule, sources = SplitRule(**present["split_rule"]), tuple(present["datasets"])
    generation, edition = present["generation"], present["edition"]
    return Plan(generation, edition, rule, {}, {}, {}, sources, tuple(sorted(manifests)), standing=generation)


def _by_split(
    totals: Sequence[SpeakerTotal], rule: SplitRule, known: Mapping[str, KnownSpeaker]
) -> tuple[dict[str, list[PlannedSpeaker]], dict[str, str]]:
    """Speakers of each split, sorted; and those that stand in another one than the rule and their rows say."""
    by_split: dict[str, list[PlannedSpeaker]] = {}
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
        by_split.setdefault(split, []).append(
            PlannedSpeaker(speaker, sum(entry.milliseconds for entry in entries), label)
        )
    return by_split, elsewhere


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


def content_of(
    manifests: Iterable[ManifestSummary], config: PlanConfig, recipe: Recipe, kind: str = "run", pseudonyms: str = ""
) -> str:
    """First 8 hex digits of the fingerprint of what is asked for: rows, recipe, who goes where."""
    return _short_hash(
        {
            "format": schema.FORMAT_VERSION,
            "manifests": [list(entry) for entry in sorted(manifests)],
            "plan": asdict(config),
            "recipe": recipe.fingerprint(),
            "kind": kind,
            "pseudonyms": pseudonyms,
        }
    )


def generation_of(content: str, edition: int, erased: Tombstones | None = None, standing: str = "") -> str:
    """First 8 hex digits of the fingerprint of all that decides the bytes of the shards.

    Audio files are not looked at: `edition` tells datasets apart that were made again from the same manifests.
    """
    gone = erased.to_json() if erased and erased.hashes else None
    return _short_hash({"content": content, "edition": edition, "erased": gone, "standing": standing})


def _short_hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:8]
