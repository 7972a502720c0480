"""WriteShards: the rows of a shard to its published files, or the adoption of those that stand already.

A shard is finished when its done file is there, which is written last. A retry, a restart and a second
run look for it first, so one code path serves all three.

It must not know what a recording becomes: `ShardWriter` makes records of rows.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import apache_beam as beam

from ge2e_transforms.copies import Copies
from ge2e_transforms.decoded import AudioLoader
from ge2e_transforms.errors import ErasedSpeakerError, LedgerRow
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.isolated import IsolatedDecoder
from ge2e_transforms.planning import Plan, ShardTask
from ge2e_transforms.records import require_fast_crc
from ge2e_transforms.row_chunks import unpack
from ge2e_transforms.schema import shard_files, start_mark
from ge2e_transforms.shards import Known, ShardWriter, in_order, recordings_of
from ge2e_transforms.utterance import Utterance, audio_location, file_of
from pipeline import growth, hygiene, metrics, recordings, storage, watchdog
from pipeline.interrupt import raise_if_interrupted
from pipeline.options import JobConfig
from pipeline.resources import cpu_name
from pipeline.sound_lists import copies_of
from pipeline.verdict import recorded

UNKNOWN = "pseudonymous"  # instead of the paths of recordings
_NEVER = [-1]


def finished(output: str, base: str) -> dict[str, Any] | None:
    """Content of a shard's done file, if it is there and the files it speaks of are as long as it says."""
    records_path, index_path, done_path = (storage.join(output, name) for name in shard_files(base))
    if not storage.exists(done_path):
        return None
    try:
        done: dict[str, Any] = json.loads(storage.read_bytes(done_path))
        expected, _ = (done["records_bytes"], done["index_bytes"]), done["faults"].keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # not one of ours, or of another version: the shard is written again
    present = (storage.size(records_path) or 0, storage.size(index_path) or 0)
    return done if present == expected else None


def adoptable(output: str, task: ShardTask, *, published: bool) -> dict[str, Any] | None:
    """As `finished`, if the files are also what was written to the byte, and no rejected file has changed since.

    Reading the shard again costs a fraction of making it, and damage on the disk would be published otherwise. A
    recording that was away or broken for a while must not stay rejected; but what is published stays as it is.
    """
    done = finished(output, task.base)
    if done is None or (not published and done["faults"] != _states(done["faults"])):
        return None
    for name, kind in zip(shard_files(task.base), ("records", "index"), strict=False):
        path = storage.join(output, name)
        if done[f"{kind}_bytes"] and storage.sha256(path) != done[f"{kind}_sha256"]:
            return None
    return done


def adopted(output: str, task: ShardTask, *, published: bool) -> dict[str, Any] | None:
    """As `adoptable`; removes the start mark of an attempt that died just after the done file stood."""
    done = adoptable(output, task, published=published)
    if done is not None:
        storage.remove([storage.join(output, start_mark(task.base))])
    return done


def write_shard(
    output: str,
    task: ShardTask,
    rows: Iterable[Utterance],
    extractor: FeatureExtractor,
    sources: tuple[str, ...],
    known: Known | None = None,
    decoder: IsolatedDecoder | None = None,
    copies: Copies | None = None,
) -> dict[str, Any]:
    """Builds and publishes one shard: records, then index, then its done file.

    Decoding is left to `decoder`; without one it is done here, unless an attempt died over this shard before.
    """
    records_path, index_path, done_path = (storage.join(output, name) for name in shard_files(task.base))
    known = known or Known()
    ordered = in_order(rows)

    @storage.tried_again
    def build(load: AudioLoader) -> dict[str, Any]:
        with (
            recordings.reading(recordings_of(row for row in ordered if not known.refusal(row))) as open_audio,
            storage.building(records_path, index_path) as (records_file, index_file),
        ):
            writer = ShardWriter(task, extractor, sources, open_audio, known, load, copies)
            made = writer.write(ordered, records_file, index_file)
            raise_if_interrupted()
        return made

    with _started(storage.join(output, start_mark(task.base))) as died, _loader(decoder, died) as load:
        done = build(load)
        if copies is not None:
            done["unusable_sounds"] = copies.nameless_faults if known.pseudonymous else copies.faults
        done["faults"] = _faults(done, known)
        # For questions about one machine or process later; the digest of a dataset leaves them out.
        done["written_by"] = f"{platform.node()}:{os.getpid()}"
        done["cpu"] = cpu_name()
        storage.write_bytes(done_path, json.dumps(done).encode())
    return done


@contextmanager
def _started(mark: str) -> Iterator[bool]:
    """The start mark stands while the block runs, and stays if the process dies; gives whether one stood already.

    An error of an attempt that needed it leaves it to the next one.
    """
    died = storage.exists(mark)
    content = {"host": platform.node(), "pid": os.getpid(), "time": time.time()}
    storage.write_bytes(mark, json.dumps(content).encode())
    try:
        yield died
    except BaseException:
        if not died:
            with suppress(OSError):  # a mark too many only costs a process
                storage.remove([mark])
        raise
    storage.remove([mark])


@contextmanager
def _loader(decoder: IsolatedDecoder | None, died: bool) -> Iterator[AudioLoader]:
    if decoder is not None:
        yield decoder.load
    elif died:
        with IsolatedDecoder() as own:
            yield own.load
    else:
        yield watchdog.load


def _faults(done: dict[str, Any], known: Known) -> dict[str, list[int] | None]:
    """State of each recording whose mending would change the shard."""
    lost = faulty(done)
    if known.pseudonymous:  # paths would tell who speaks; what is in no file's state is looked at again by each attempt
        return {UNKNOWN: _NEVER} if lost else {}
    return _states([*lost, *map(file_of, done.get("unusable_sounds", ()))])


def faulty(done: dict[str, Any]) -> list[str]:
    """Recordings that were rejected, and those that were filtered from a shard that holds nothing else."""
    rows = [LedgerRow(*entry) for entry in done["ledger"]]
    other = ("manifest", ErasedSpeakerError.stage)
    lost = [row for row in rows if row.stage not in other and (row.kind == "rejected" or not done["utterances"])]
    return sorted({file_of(audio_location(row.manifest, row.audio_path)) for row in lost})


def _states(locations: Iterable[str]) -> dict[str, list[int] | None]:
    return {location: storage.state(location) for location in locations}


def known_people(output: str, plan: Plan, task: ShardTask, rows: Iterable[Utterance]) -> Known:
    """What a shard must know of the people in its rows."""
    labels, present = growth.known_of(output, plan, task.split, rows)
    return Known(labels, present, plan.erased, pseudonymous=bool(plan.pseudonyms))


class _WriteShardsFn(beam.DoFn):
    """One element is one shard: (number, parcels of rows) -> path of its done file."""

    def __init__(self, job: JobConfig) -> None:
        self._job = job
        self._extractor: FeatureExtractor | None = None
        self._decoder: IsolatedDecoder | None = None

    def setup(self) -> None:
        hygiene.limit_threads()  # before the extractor loads what would start more
        hygiene.keep_memory()
        with recorded(self._job.output, self._job.token):
            require_fast_crc()
            self._extractor = FeatureExtractor(self._job.recipe)
        self._decoder = IsolatedDecoder() if self._job.isolate_decoder else None

    def teardown(self) -> None:
        if self._decoder is not None:
            self._decoder.close()

    def process(self, element: tuple[int, Iterable[bytes]], plan: Plan) -> Iterator[str]:
        number, parcels = element
        task = plan.tasks[number]
        with recorded(self._job.output, self._job.token):
            done = adopted(self._job.output, task, published=plan.standing == plan.generation)
            if done is None:
                assert self._extractor is not None  # set up by Beam before any element
                rows = list(itertools.chain.from_iterable(map(unpack, parcels)))
                known = known_people(self._job.output, plan, task, rows)
                copies = copies_of(self._job, plan)
                done = write_shard(
                    self._job.output, task, rows, self._extractor, plan.sources, known, self._decoder, copies
                )
                _count(done)
            else:
                metrics.counter(metrics.SHARDS_ADOPTED).inc()
        yield shard_files(task.base)[2]


def _count(done: dict[str, Any]) -> None:
    metrics.counter(metrics.SHARDS_WRITTEN).inc()
    metrics.counter(metrics.UTTERANCES_WRITTEN).inc(done["utterances"])
    metrics.counter(metrics.UTTERANCES_FILTERED).inc(sum(done["filtered"].values()))
    metrics.counter(metrics.UTTERANCES_REJECTED).inc(sum(done["rejected"].values()))
    metrics.counter(metrics.RECORDS_WRITTEN).inc(done["records"])


class WriteShards(beam.PTransform):
    """(rows by shard, plan) -> path of each shard's done file, which holds its counts and its rows of the ledger."""

    def __init__(self, job: JobConfig) -> None:
        super().__init__()
        self._job = job

    def expand(
        self, inputs: tuple[beam.PCollection[tuple[int, Iterable[bytes]]], beam.PCollection[Plan]]
    ) -> beam.PCollection[str]:
        shards, plan = inputs
        return shards | "WriteShard" >> beam.ParDo(
            _WriteShardsFn(self._job), beam.pvalue.AsSingleton(plan)
        ).with_output_types(str)
