"""Checks what every batch promises, on any dataset: made from the index anew, not from what the sampler believes.

It must not know how a plan is made (`supply`, `dealing`, `placing`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ge2e_transforms.errors import SamplingError
from ge2e_transforms.sampling import Plan
from ge2e_transforms.stream import Position, Stream


@dataclass
class BatchReport:
    """What was found in one epoch.

    Attributes:
        batches, crops: planned, and checked against the index.
        speakers: that come in some batch.
        repeated_utterances: crops whose utterance (with `distinct_sessions` session) their M holds already.
        read: batches that were read, values and all.
    """

    batches: int = 0
    crops: int = 0
    speakers: int = 0
    repeated_utterances: int = 0
    read: int = 0


def verify_epoch(stream: Stream, epoch: int, read: int) -> BatchReport:
    """Checks all batches of an epoch, and reads some of them.

    Args:
        stream: of the split, with the choices that batches are to be checked for.
        epoch: its number.
        read: batches to read, at equal distances.

    Raises:
        SamplingError: a batch breaks the contract; the message says which and how.
        CorruptRecordError, DatasetError: a batch that was read is not as stored.
    """
    report, seen = BatchReport(), []
    for part, plan, numbers in _parts(stream, epoch):
        where = f"epoch {epoch}, part {part}"
        _check_plan(stream, plan, where)
        report.repeated_utterances += _repeated(stream, plan, where)
        seen.append(np.unique(plan.labels))
        report.batches += len(numbers)
    sampler = stream.sampler
    _refuse(report.batches != sampler.batches_per_epoch, f"epoch {epoch}", f"it has {report.batches} batches", sampler)
    report.crops = report.batches * sampler.speakers_per_batch * sampler.options.utterances_per_speaker
    report.speakers = len(np.unique(np.concatenate(seen)))
    steps = stream.steps_per_epoch
    for step in np.unique(np.linspace(0, steps - 1, min(read, steps)).astype(np.int64)).tolist():
        _check_batch(stream, stream.after(Position(epoch), step))
        report.read += 1
    return report


def _parts(stream: Stream, epoch: int) -> Iterator[tuple[int, Plan, range]]:
    """Part, plan cut to the batches that the epoch has of it, and their numbers."""
    first = 0
    for part in range(stream.sampler.parts):
        plan = stream.plans.get(epoch, part)
        count = 0
        while count < len(plan.table) and first + count < stream.sampler.batches_per_epoch:
            if stream.sampler.locate(epoch, first + count) != (part, count):
                break
            count += 1
        yield part, Plan(plan.table[:count], stream.sampler.speakers_per_batch), range(first, first + count)
        first += count


def _check_plan(stream: Stream, plan: Plan, where: str) -> None:
    """N different speakers with M crops of their own each, within their records, and none twice."""
    sampler, index = stream.sampler, stream.index
    n, options = sampler.speakers_per_batch, sampler.options
    labels = np.sort(plan.labels, axis=1)
    _refuse(np.any(labels[:, 1:] == labels[:, :-1]), where, "a speaker is twice in a batch", sampler)
    owners = index["label"][plan.records].reshape(len(plan.table), n, -1)
    _refuse(np.any(owners != plan.labels[:, :, None]), where, "a crop is of another speaker than its label", sampler)
    frames = index["frames"][plan.records].astype(np.int64)
    ends = plan.starts + np.minimum(frames, plan.frames[:, None])
    _refuse(np.any((plan.starts < 0) | (ends > frames)), where, "a crop lies outside of its record", sampler)
    if options.under_m == "drop" and len(options.lengths) == 1:
        crops = plan.records.astype(np.int64) << 32 | plan.starts
        _refuse(len(np.unique(crops)) != crops.size, where, "a crop comes twice", sampler)
    if options.batch_sources == "single":
        sources = index["source_index"][plan.records]
        _refuse(np.any(sources != sources[:, :1]), where, "a batch is of two sources", sampler)


def _repeated(stream: Stream, plan: Plan, where: str) -> int:
    options = stream.sampler.options
    column = "session_index" if options.distinct_sessions else "utterance_index"
    m = options.utterances_per_speaker
    groups = np.sort(stream.index[column][plan.records].reshape(-1, m), axis=1)
    repeated = int(np.count_nonzero(groups[:, 1:] == groups[:, :-1]))
    _refuse(options.distinct == "strict" and repeated, where, f"{repeated} crops repeat an utterance", stream.sampler)
    return repeated


def _check_batch(stream: Stream, place: Position) -> None:
    """A batch as readers get it: shapes, runs of M, finite values."""
    examples, labels = stream.batch(place)
    sampler, where = stream.sampler, f"epoch {place.epoch}, batch {place.step}"
    m = sampler.options.utterances_per_speaker
    known = all(size in (None, got) for size, got in zip(stream.shape, examples.shape, strict=True))
    _refuse(not known, where, f"examples have shape {examples.shape}, expected {stream.shape}", sampler)
    runs = labels.reshape(-1, m)
    different = len(set(runs[:, 0].tolist()))
    _refuse(np.any(runs != runs[:, :1]) or different != len(runs), where, f"labels are {labels.tolist()}", sampler)
    _refuse(not np.isfinite(examples).all(), where, "a value is not finite", sampler)


def _refuse(broken: object, where: str, what: str, sampler: object) -> None:
    if broken:
        options = getattr(sampler, "options", sampler)
        raise SamplingError(f"{where}: {what}. This is a fault of ge2e-features; please report it with {options}")
