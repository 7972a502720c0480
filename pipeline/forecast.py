"""What a job will make, need and take, from a survey of its manifests and two seconds of work. Nothing is written.

Lengths are seconds, sizes bytes, those of shards MiB. It must not know recordings: none is opened.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ge2e_transforms.eligibility import eligible
from ge2e_transforms.planning import Augmented, Plan, bytes_per_ms, make_plan
from ge2e_transforms.schema import TRAIN_SPLIT
from ge2e_transforms.splits import SpeakerTotal
from ge2e_transforms.utterance import shown
from pipeline import storage
from pipeline.calibrate import Speed
from pipeline.options import JobConfig
from pipeline.resources import free_disk
from pipeline.survey import Finding, Survey

MIB = 1 << 20
_ELIGIBLE = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 32, 64, 128)
# Reading and planning a row, on one core, by `benchmarks/planning.py`.
_PLANNING_S = 1.3e-5
# A speaker who has more than this share of a split's speech, and more than so many times the median, stands out.
_GIANT_SHARE, _GIANT_TIMES = 0.2, 10
_SKEWED = 2.0


@dataclass(frozen=True)
class SplitForecast:
    """One split.

    Attributes:
        speakers, rows, seconds: what the manifests name for it.
        shards: how many it gets.
        smallest, median, largest: MiB of a shard, if all of the recordings is voice.
        eligible: speakers with at least M rows, by M; at each speed they are speakers of their own.
        growth: times as much is written as of clean speech alone.
    """

    speakers: int
    rows: int
    seconds: float
    shards: int
    smallest: float
    median: float
    largest: float
    eligible: dict[int, int]
    growth: float = 1.0


@dataclass(frozen=True)
class Forecast:
    """What is expected of a job.

    Attributes:
        splits: by name.
        rows, refused, unreadable: of the manifests, by the reader, by the headers.
        disk_most, disk_likely: bytes of the dataset: if all is voice, and by what was computed.
        disk_free: bytes that are left for the output; None on a store.
        voiced: share of the recordings that was found to be voice.
        memory: bytes of the largest worker.
        wall_s: of the job on this machine; None for another runner.
        core_hours: of a core as those of this machine.
        warnings: what looks wrong, with what to do about it.
    """

    splits: dict[str, SplitForecast]
    rows: int
    refused: int
    unreadable: int
    disk_most: int
    disk_likely: int | None
    disk_free: int | None
    voiced: float | None
    memory: int | None
    wall_s: float | None
    core_hours: float | None
    warnings: list[str] = field(default_factory=list)


def forecast(
    job: JobConfig, survey: Survey, speed: Speed | None, *, here: bool, augmented: Augmented | None = None
) -> Forecast:
    """Puts a survey and a calibration together.

    Args:
        job: what is to be run.
        survey: of its manifests.
        speed: None where nothing could be computed.
        here: whether the job runs on this machine, in as many processes as were calibrated.
        augmented: what is written beside the utterances.

    Raises:
        PlanError: the rows cannot be laid out: none is usable, a speaker in two splits, too few to draw from.
    """
    plan = _plan(job, survey, augmented)
    splits = _splits(job, survey, plan)
    work_s = _work(splits.values(), speed) if speed else 0.0
    stored_s = sum(split.seconds * split.growth for split in splits.values())
    found = Forecast(
        splits=splits,
        rows=survey.rows,
        refused=sum(survey.refused.values()),
        unreadable=survey.unreadable,
        disk_most=round(stored_s * 1000 * bytes_per_ms(job.recipe)),
        disk_likely=round(stored_s * speed.bytes_per_s) if speed else None,
        disk_free=free_disk(job.output) if storage.is_local(job.output) else None,
        voiced=speed.voiced if speed else None,
        memory=speed.peak_bytes if speed else None,
        wall_s=_wall(survey, speed, work_s) if speed and here else None,
        core_hours=work_s * speed.processes / 3600 if speed else None,
    )
    found.warnings.extend(_warnings(job, survey, found))
    return found


def _work(splits: Iterable[SplitForecast], speed: Speed) -> float:
    """Seconds in which all processes write the shards."""
    return sum(split.seconds / speed.pace(augmented=split.growth != 1) for split in splits)


def _wall(survey: Survey, speed: Speed, work_s: float) -> float:
    """The program loads what a worker loads; workers that are processes of their own do so after it."""
    start = speed.start_s * (1 if speed.processes == 1 else 2)
    return start + survey.rows * _PLANNING_S + work_s


def _plan(job: JobConfig, survey: Survey, augmented: Augmented | None) -> Plan:
    totals = [
        SpeakerTotal(speaker, split, source, tally.planned_ms)
        for (speaker, split, source), tally in survey.tallies.items()
    ]
    return make_plan(totals, (), job.plan, job.recipe, augmented=augmented)


def _splits(job: JobConfig, survey: Survey, plan: Plan) -> dict[str, SplitForecast]:
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for (speaker, named, _), tally in survey.tallies.items():
        split = plan.split_of(speaker, named)
        rows[split][speaker] += tally.rows
        seconds[split][speaker] += tally.seconds
    made = {}
    asked = sorted({*_ELIGIBLE, job.utterances_per_speaker})
    for split in plan.ranges:
        config = plan.augmented.config if plan.augmented else None
        growth, labels = (config.growth(split), config.labels(split)) if config else (1.0, 1)
        sizes = sorted(growth * size for size in _shard_mib(job, plan, split, seconds[split]))
        counts = np.array(list(rows[split].values()), dtype=np.int64)
        made[split] = SplitForecast(
            speakers=len(counts),
            rows=int(counts.sum()),
            seconds=sum(seconds[split].values()),
            shards=plan.shards[split],
            smallest=sizes[0],
            median=statistics.median(sizes),
            largest=sizes[-1],
            eligible=dict(zip(asked, (labels * eligible(counts, asked)).tolist(), strict=True)),
            growth=growth,
        )
    return made


def _shard_mib(job: JobConfig, plan: Plan, split: str, seconds: Mapping[str, float]) -> Iterator[float]:
    """Size of each shard, by the lengths of the headers: a job plans by those of the manifest."""
    mib_per_s = 1000 * bytes_per_ms(job.recipe) / MIB
    ranges, speakers = plan.ranges[split], sorted(seconds)
    starts = [bisect.bisect_left(speakers, entry.first_speaker) for entry in ranges]
    for entry, (start, end) in zip(ranges, itertools.pairwise([*starts, len(speakers)]), strict=True):
        size = sum(seconds[speaker] for speaker in speakers[start:end]) * mib_per_s
        yield from [size / entry.parts] * entry.parts


def _warnings(job: JobConfig, survey: Survey, found: Forecast) -> Iterator[str]:
    yield from _of_rows(job, survey)
    yield from _of_audio(job, survey)
    yield from _of_speakers(job, survey, found)
    need = found.disk_likely or found.disk_most
    if found.disk_free is not None and need > found.disk_free:
        yield (
            f"the dataset needs about {need / MIB:,.0f} MiB, but {found.disk_free / MIB:,.0f} MiB are free in "
            f"{job.output}: make room, take --dtype float16, or write elsewhere"
        )
    for name, split in found.splits.items():
        mean = split.growth * split.seconds * 1000 * bytes_per_ms(job.recipe) / MIB / split.shards
        if split.largest > _SKEWED * mean and split.largest > job.plan.shard_mib:
            yield (
                f"the largest shard of split {name} has {split.largest:,.0f} MiB, {split.largest / mean:.1f} times the "
                "mean: give the manifest lengths (`ge2e manifest ... --headers`), so that the job cuts shards by them"
            )


def _of_rows(job: JobConfig, survey: Survey) -> Iterator[str]:
    lost = sum(survey.refused.values()) + survey.unreadable
    if lost:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in _by_reason(survey))
        limit = job.max_rejected * survey.rows
        fate = (
            "more than --max_rejected allows: nothing would be published" if lost > limit else "they go to the ledger"
        )
        examples = [path for finding in survey.faults.values() for path in finding.examples][:3]
        yield f"{lost:,} of {survey.rows:,} rows cannot be used ({reasons}): {fate}{_such_as(examples)}"
    if survey.doubled.count:
        yield (
            f"{survey.doubled.count:,} rows name audio that another row names, too{_such_as(survey.doubled.examples)}: "
            "one recording must not count as two utterances"
        )
    if survey.spaced.count:
        yield (
            f"{survey.spaced.count:,} ids have spaces in them{_such_as(survey.spaced.examples)}: lists of trials are "
            "cut at spaces, and 'a' and 'a ' are two speakers"
        )


def _by_reason(survey: Survey) -> list[tuple[str, int]]:
    faults = {reason: finding.count for reason, finding in survey.faults.items()}
    return (Counter(survey.refused) + Counter(faults)).most_common()


def _of_audio(job: JobConfig, survey: Survey) -> Iterator[str]:
    if len(survey.rates) > 1:
        rates = ", ".join(f"{rate} Hz {count:,}" for rate, count in survey.rates.most_common(5))
        yield (
            f"recordings have {len(survey.rates)} sample rates ({rates}): all become {job.recipe.audio.sample_rate_hz} "
            "Hz; what was recorded at less keeps empty bands, which tell corpora apart"
        )
    low = min(survey.rates, default=job.recipe.audio.sample_rate_hz)
    if low < job.recipe.audio.sample_rate_hz and len(survey.rates) == 1:
        yield f"all recordings are below {job.recipe.audio.sample_rate_hz} Hz: take --set sample_rate_hz={low}"
    if len(survey.channels) > 1 or max(survey.channels, default=1) > 1:
        counts = ", ".join(f"{number} channels {count:,}" for number, count in survey.channels.most_common(5))
        channel = job.recipe.audio.channel
        yield f"some recordings have several channels ({counts}): rows without a channel take {channel!r} of them"
    if survey.short:
        least = job.recipe.segment.min_utterance_ms
        yield f"{survey.short:,} rows are shorter than min_utterance_ms={least:g}: filtered in train"
    if survey.long:
        most = job.recipe.audio.max_seconds
        yield f"{survey.long:,} rows are longer than max_seconds={most:g} and would be rejected: cut them, or raise it"


def _of_speakers(job: JobConfig, survey: Survey, found: Forecast) -> Iterator[str]:
    by_speaker: dict[str, float] = defaultdict(float)
    sources: dict[str, set[str]] = defaultdict(set)
    for (speaker, _, source), tally in survey.tallies.items():
        by_speaker[speaker] += tally.seconds
        sources[speaker].add(source)
    giant, most = max(by_speaker.items(), key=lambda item: item[1])
    median = statistics.median(by_speaker.values())
    if most > _GIANT_SHARE * survey.seconds and most > _GIANT_TIMES * median:
        share = f"{most / survey.seconds:.0%} of all speech, {most / median:,.0f} times the median"
        yield f"speaker {shown(giant)} has {share}: is it one person (an 'unknown', a whole channel)?"
    shared = Finding()
    for speaker, names in sources.items():
        if len(names) > 1:
            shared.add(f"{speaker} in {' and '.join(sorted(names))}")
    if shared.count:
        yield (
            f"{shared.count:,} ids stand in more than one source of a namespace{_such_as(shared.examples)}: if these "
            "are different people, give each source a namespace of its own"
        )
    n, m = job.speakers_per_batch, job.utterances_per_speaker
    train = found.splits.get(TRAIN_SPLIT)
    if train and train.eligible[m] < n:
        yield (
            f"{train.eligible[m]:,} speakers of {TRAIN_SPLIT} have {m} utterances, fewer than the {n} of a batch; "
            "others give several crops of one (distinct='prefer'), or none"
        )


def _such_as(examples: Sequence[str]) -> str:
    return f", such as {', '.join(map(shown, examples))}" if examples else ""
