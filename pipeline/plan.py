"""PlanDataset: totals per speaker to the plan, and every row to its shard."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from ge2e_transforms import lengths
from ge2e_transforms.errors import PlanError
from ge2e_transforms.planning import ManifestSummary, Plan, generation_of, make_plan
from ge2e_transforms.row_chunks import place
from ge2e_transforms.schema import FORMAT, FORMAT_VERSION, METADATA_FILE
from pipeline import storage
from pipeline.options import JobConfig
from pipeline.verdict import recorded


def published(output: str) -> dict[str, Any]:
    """The metadata that stands in a folder; empty if there is none.

    Raises:
        PlanError: the file is not one of ours, so it may not be replaced.
    """
    path = storage.join(output, METADATA_FILE)
    try:
        content: Any = json.loads(storage.read_bytes(path)) if storage.exists(path) else {"format": FORMAT}
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise PlanError(f"{path} was not written by this program, so it is not replaced: choose another --output")
    if content and content.get("format_version") != FORMAT_VERSION:
        raise PlanError(
            f"{path} has format version {content.get('format_version')!r}, expected {FORMAT_VERSION}: choose another "
            "--output, or the version of ge2e-features that wrote it"
        )
    return content


def choose_edition(job: JobConfig, present: dict[str, Any], summaries: Iterable[ManifestSummary]) -> int:
    """Which edition of its dataset a job makes, given the metadata that stands in its output.

    The one that stands there, if it is of the same content: its shards are adopted. With `overwrite` the
    next one, made anew (a killed attempt at it goes on with the same command). A first one otherwise.

    Raises:
        PlanError: a dataset of another content stands there, and there is no `overwrite`.
    """
    edition: int = present.get("edition", 0)
    if not present:
        return 0
    generation = generation_of(summaries, job.plan, job.recipe, edition)
    if present.get("generation") == generation:
        # A job that a cluster starts again after it has published is done.
        again = job.overwrite and present.get("token") != job.token
        return edition + 1 if again else edition
    if job.overwrite:
        return 0
    raise PlanError(
        f"{job.output} already holds a complete dataset (generation {present.get('generation')}), made from other "
        f"manifests or options than these (generation {generation}): give --overwrite to replace it once the new "
        "one is complete, or another --output"
    )


class _PlanDatasetFn(beam.DoFn):
    """One element; all totals and manifest summaries come as side inputs."""

    def __init__(self, job: JobConfig) -> None:
        self._job = job

    def process(self, _: None, totals: Iterable[bytes], summaries: Iterable[ManifestSummary]) -> Iterator[Plan]:
        with recorded(self._job.output, self._job.token):
            speakers = itertools.chain.from_iterable(map(lengths.totals, totals))
            present = published(self._job.output)
            edition = choose_edition(self._job, present, summaries)
            plan = make_plan(speakers, summaries, self._job.plan, self._job.recipe, edition)
            yield dataclasses.replace(plan, standing=present.get("generation", ""))


def sum_lengths(bucket: tuple[int, Iterable[bytes]]) -> bytes:
    """All that was sent for a bucket, as one."""
    return lengths.summed(bucket[1])


class PlanDataset(beam.PTransform):
    """(lengths, summaries) -> one Plan."""

    def __init__(self, job: JobConfig) -> None:
        super().__init__()
        self._job = job

    def expand(
        self, inputs: tuple[beam.PCollection[tuple[int, bytes]], beam.PCollection[ManifestSummary]]
    ) -> beam.PCollection[Plan]:
        sent, summaries = inputs
        totals = (
            sent
            | "GroupLengths" >> beam.GroupByKey()  # (bucket, its lengths from all manifests)
            | "SumLengths" >> beam.Map(sum_lengths).with_output_types(bytes)
        )
        return (
            sent.pipeline
            | "PlanOnce" >> beam.Create([None])
            | "MakePlan"
            >> beam.ParDo(
                _PlanDatasetFn(self._job), beam.pvalue.AsList(totals), beam.pvalue.AsList(summaries)
            ).with_output_types(Plan)
        )


def assign_shards(chunk: bytes, plan: Plan) -> Iterable[tuple[int, bytes]]:
    """(number of a shard, its rows in this chunk)."""
    return place(chunk, plan).items()


def announce_shards(plan: Plan) -> list[tuple[int, bytes]]:
    """One empty parcel per shard, so that a shard whose share of a speaker is empty is written (as nothing) too."""
    return [(number, b"") for number in range(len(plan.tasks))]


class GroupByShard(beam.PTransform):
    """(chunks of rows, plan) -> (shard number, parcels of its rows)."""

    def expand(
        self, inputs: tuple[beam.PCollection[bytes], beam.PCollection[Plan]]
    ) -> beam.PCollection[tuple[int, Iterable[bytes]]]:
        rows, plan = inputs
        assigned = rows | "AssignShards" >> beam.FlatMap(
            assign_shards, beam.pvalue.AsSingleton(plan)
        ).with_output_types(tuple[int, bytes])
        announced = plan | "AnnounceShards" >> beam.FlatMap(announce_shards).with_output_types(tuple[int, bytes])
        return (assigned, announced) | beam.Flatten() | "GroupRows" >> beam.GroupByKey()
