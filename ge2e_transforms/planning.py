"""From totals per speaker to a plan: which split, label and shard every row belongs to.

The plan is small whatever the number of speakers: per shard its first speaker and label, plus the few speakers that are
cut in parts. It travels to the workers, where a row finds its shard by bisection. It depends on the manifests and the
options alone, so every runner lays a dataset out the same way. Lengths are whole milliseconds. It opens nothing, and
must not know what audio holds.
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
from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.config import Recipe, canonical_json
from ge2e_transforms.errors import PlanError
from ge2e_transforms.identity import Tombstones
from ge2e_transforms.layout import PlannedSpeaker, SpeakerRange, lay_out
from ge2e_transforms.records import DTYPES
from ge2e_transforms.splits import PlanConfig, SpeakerTotal, by_split, split_rule
from ge2e_transforms.standing import Growth, SplitRule, Standing
from ge2e_transforms.utterance import Utterance

# Length of a row that gives none: from its file's bytes at 20 bytes a millisecond (between FLAC's 17 and
# WAV's 32 at 16 kHz), else 8 s, about the mean of LibriSpeech and VoxCeleb. Only the balance of shards
# depends on it.
_BYTES_PER_MS = 20
_DEFAULT_MS = 8000


class ManifestSummary(NamedTuple):
    """What a manifest held; the checksum makes it part of the generation."""

    path: str
    sha256: str
    rows: int
    rejected: int


class SoundList(NamedTuple):
    """A manifest of noise or rooms; the checksum makes it part of the generation."""

    kind: str
    sha256: str
    rows: int


class Augmented(NamedTuple):
    """An augmentation, and the lists that it draws from."""

    config: Augmentation
    sounds: tuple[SoundList, ...]

    @property
    def fingerprint(self) -> str:
        """sha256, 64 hex digits, of the config and of what its lists hold."""
        return self.config.fingerprint({entry.kind: entry.sha256 for entry in self.sounds})


class ShardTask(NamedTuple):
    """What a worker must know to write one shard."""

    split: str
    shard: int
    shards: int
    label: int
    generation: str

    @property
    def base(self) -> str:
        """Path of its files within the dataset, without their endings."""
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
        augmented: what is written beside the utterances.
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
    augmented: Augmented | None = None

    @property
    def nothing_to_do(self) -> bool:
        """Whether the dataset that stands has been given these rows already."""
        return not self.ranges

    def split_of(self, speaker: str, named: str) -> str:
        """Split of a speaker whose rows name this one, or none."""
        return named or self.elsewhere.get(speaker) or self.rule.split_of(speaker)

    def range_of(self, speaker: str, split: str) -> SpeakerRange:
        """Where a speaker's rows lie that name this split, or none (then it is drawn)."""
        split = self.split_of(speaker, split)
        return self.ranges[split][bisect.bisect_right(self._first_speakers[split], speaker) - 1]

    def shard_of(self, row: Utterance) -> int:
        """Number of a row's shard, counted through all splits."""
        return self.range_of(row.speaker_key, row.split).shard_of(row.utterance_id)

    @functools.cached_property
    def _first_speakers(self) -> dict[str, list[str]]:
        return {split: [entry.first_speaker for entry in ranges] for split, ranges in self.ranges.items()}

    @functools.cached_property
    def tasks(self) -> list[ShardTask]:
        """What every shard is, by its number through all splits."""
        tasks = []
        for split, ranges in self.ranges.items():
            labels = [entry.label for entry in ranges for _ in range(entry.parts)]
            shards = self.shards[split]
            tasks += [ShardTask(split, number, shards, label, self.generation) for number, label in enumerate(labels)]
        return tasks

    def largest_first(self) -> list[int]:
        """Numbers of all shards. Dealt out in turn in this order, or taken as workers are free, they end together."""
        entries = itertools.chain.from_iterable(self.ranges.values())
        sizes = [entry.milliseconds for entry in entries for _ in range(entry.parts)]
        return sorted(range(len(sizes)), key=lambda number: -sizes[number])


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
    limit = int(max_seconds * 1000)
    if milliseconds > limit:
        milliseconds = limit
    return milliseconds if milliseconds > 0 else 1


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
    allow_schemes: Sequence[str] = (),
    augmented: Augmented | None = None,
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
        allow_schemes: part of the content, too; see `content_of`.
        augmented: makes splits larger, and each speed a new speaker of each speaker; part of the content.

    Raises:
        PlanError: no usable row, a speaker in two splits, too few speakers to draw from.
    """
    totals, read = sorted(totals), tuple(sorted(manifests))
    if not totals:
        raise PlanError(_no_rows(read, retry=bool(growth and growth.kind == "retry")))
    standing, known, kind = (growth.standing, growth.speakers, growth.kind) if growth else (None, {}, "run")
    rule = standing.rule if standing else split_rule(totals, config)
    members, elsewhere = by_split(totals, rule, known)
    ranges, next_label = _ranges(members, config, recipe, standing.next_label if standing else 0, augmented)
    stood = standing.sources if standing else ()
    content = content_of(read, config, recipe, kind, pseudonyms, allow_schemes, augmented)
    return Plan(
        generation=generation_of(content, edition, erased, standing.generation if standing else ""),
        edition=edition,
        rule=rule,
        ranges=ranges,
        shards={split: sum(entry.parts for entry in entries) for split, entries in ranges.items()},
        speakers={split: len(members[split]) for split in ranges},
        sources=(*stood, *sorted({total.source for total in totals} - set(stood))),
        manifests=read,
        content=content,
        next_label=next_label,
        elsewhere=elsewhere,
        kind=kind,
        grows=standing,
        erased=erased,
        pseudonyms=pseudonyms,
        augmented=augmented,
    )


def _ranges(
    members: Mapping[str, Sequence[PlannedSpeaker]],
    config: PlanConfig,
    recipe: Recipe,
    label: int,
    augmented: Augmented | None,
) -> tuple[dict[str, tuple[SpeakerRange, ...]], int]:
    """The ranges of all splits, whose new speakers get labels from `label` on, and the label after the last."""
    limit_ms = max(1, int(config.shard_mib * 1024 * 1024 / bytes_per_ms(recipe)))
    ranges: dict[str, tuple[SpeakerRange, ...]] = {}
    shard = 0
    for split in sorted(members, key=schema.split_key):
        growth, labels = (augmented.config.growth(split), augmented.config.labels(split)) if augmented else (1, 1)
        speakers = [entry._replace(milliseconds=round(entry.milliseconds * growth)) for entry in members[split]]
        ranges[split] = tuple(lay_out(speakers, limit_ms, config.min_shards, label, shard, labels))
        label += labels * sum(speaker.known is None for speaker in speakers)
        shard = ranges[split][-1].shard + ranges[split][-1].parts
    return ranges, label


def nothing_to_do(present: Mapping[str, Any], manifests: Iterable[ManifestSummary]) -> Plan:
    """The plan of a job whose rows the dataset that stands has been given already."""
    rule, sources = SplitRule(**present["split_rule"]), tuple(present["datasets"])
    generation, edition = present["generation"], present["edition"]
    return Plan(generation, edition, rule, {}, {}, {}, sources, tuple(sorted(manifests)), standing=generation)


def bytes_per_ms(recipe: Recipe) -> float:
    """Bytes of features that a millisecond of voice becomes."""
    rows_per_ms = recipe.audio.sample_rate_hz / recipe.row_samples / 1000
    return rows_per_ms * recipe.n_bins * DTYPES[recipe.dtype].itemsize


def _no_rows(manifests: Sequence[ManifestSummary], retry: bool) -> str:
    if retry:
        return (
            f"no row that the ledger rejects stands in its place any more (of {len(manifests)} manifests, first "
            f"{manifests[0].path}): were they changed? `ge2e add` takes a changed manifest"
        )
    rows, rejected = sum(entry.rows for entry in manifests), sum(entry.rejected for entry in manifests)
    names = ", ".join(entry.path for entry in manifests[:3])
    return (
        f"no usable row in {len(manifests)} manifest(s) ({names}): {rows} rows read, {rejected} rejected. "
        "Every row needs an audio_path and a speaker_id; `ge2e manifest` writes such a file from a folder of speech"
    )


def content_of(
    manifests: Iterable[ManifestSummary],
    config: PlanConfig,
    recipe: Recipe,
    kind: str = "run",
    pseudonyms: str = "",
    allow_schemes: Sequence[str] = (),
    augmented: Augmented | None = None,
) -> str:
    """First 8 hex digits of the fingerprint of what is asked for: rows, recipe, who goes where.

    Which rows are used follows from the manifests, how many rows were rejected, and `allow_schemes`: letting rows lead
    out of the folder only ever adds some, but as many may be of one scheme as of another.
    """
    content: dict[str, Any] = {
        "format": schema.FORMAT_VERSION,
        "manifests": [list(entry) for entry in sorted(manifests)],
        "plan": asdict(config),
        "recipe": recipe.fingerprint(),
        "kind": kind,
        "pseudonyms": pseudonyms,
    }
    if allow_schemes:
        content["allow_schemes"] = sorted(set(allow_schemes))
    if augmented:
        content["augmentation"] = augmented.fingerprint
    return _short_hash(content)


def generation_of(content: str, edition: int, erased: Tombstones | None = None, standing: str = "") -> str:
    """First 8 hex digits of the fingerprint of all that decides the bytes of the shards.

    Audio files are not looked at: `edition` tells datasets apart that were made again from the same manifests.
    """
    gone = erased.to_json() if erased and erased.hashes else None
    return _short_hash({"content": content, "edition": edition, "erased": gone, "standing": standing})


def _short_hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:8]
