"""PlanDataset: totals per speaker to the plan, and every row to its shard."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from ge2e_transforms.errors import PlanError
from ge2e_transforms.planning import ManifestSummary, Plan, SpeakerTotal, expected_ms, generation_of, make_plan
from ge2e_transforms.schema import FORMAT, FORMAT_VERSION, METADATA_FILE
from ge2e_transforms.utterance import Utterance
from pipeline import storage
from pipeline.options import JobConfig
from pipeline.verdict import recorded

SpeakerKey = tuple[str, str, str]


def speaker_length(encoded: bytes, max_seconds: float) -> tuple[SpeakerKey, int]:
    """((speaker, split, source), expected milliseconds) of one row."""
    row = Utterance.from_bytes(encoded)
    return (row.speaker_key, row.split, row.source), expected_ms(row, max_seconds)


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

    def process(
        self, _: None, totals: Iterable[tuple[SpeakerKey, int]], summaries: Iterable[ManifestSummary]
    ) -> Iterator[Plan]:
        with recorded(self._job.output, self._job.token):
            speakers = (SpeakerTotal(*key, milliseconds) for key, milliseconds in totals)
            present = published(self._job.output)
            edition = choose_edition(self._job, present, summaries)
            plan = make_plan(speakers, summaries, self._job.plan, self._job.recipe, edition)
            yield dataclasses.replace(plan, standing=present.get("generation", ""))


class PlanDataset(beam.PTransform):
    """(rows, summaries) -> one Plan."""

    def __init__(self, job: JobConfig) -> None:
        super().__init__()
        self._job = job

    def expand(
        self, inputs: tuple[beam.PCollection[bytes], beam.PCollection[ManifestSummary]]
    ) -> beam.PCollection[Plan]:
        rows, summaries = inputs
        totals = (
            rows
            | "SpeakerLength"
            >> beam.Map(speaker_length, self._job.recipe.audio.max_seconds).with_output_types(tuple[SpeakerKey, int])
            | "SumBySpeaker" >> beam.CombinePerKey(sum)  # ((speaker, split, source), ms)
        )
        return (
            rows.pipeline
            | "PlanOnce" >> beam.Create([None])
            | "MakePlan"
            >> beam.ParDo(
                _PlanDatasetFn(self._job), beam.pvalue.AsList(totals), beam.pvalue.AsList(summaries)
            ).with_output_types(Plan)
        )


def assign_shard(encoded: bytes, plan: Plan) -> tuple[int, bytes]:
    """(number of the row's shard, row)."""
    return plan.shard_of(Utterance.from_bytes(encoded)), encoded


def announce_shards(plan: Plan) -> list[tuple[int, bytes]]:
    """One empty row per shard, so that a shard whose share of a speaker is empty is written (as nothing) too."""
    return [(number, b"") for number in range(len(plan.tasks))]


class GroupByShard(beam.PTransform):
    """(rows, plan) -> (shard number, rows of the shard as bytes)."""

    def expand(
        self, inputs: tuple[beam.PCollection[bytes], beam.PCollection[Plan]]
    ) -> beam.PCollection[tuple[int, Iterable[bytes]]]:
        rows, plan = inputs
        assigned = rows | "AssignShards" >> beam.Map(assign_shard, beam.pvalue.AsSingleton(plan)).with_output_types(
            tuple[int, bytes]
        )
        announced = plan | "AnnounceShards" >> beam.FlatMap(announce_shards).with_output_types(tuple[int, bytes])
        return (assigned, announced) | beam.Flatten() | "GroupRows" >> beam.GroupByKey()
