"""PlanDataset: expected milliseconds of speech per speaker to the one plan, which the other stages follow.

No row of a manifest comes here. What stands in the output decides with: a dataset is adopted, replaced or added to.
It must not open a recording.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam

from ge2e_transforms import lengths
from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import PlanError
from ge2e_transforms.identity import Tombstones
from ge2e_transforms.metadata import require_complete
from ge2e_transforms.planning import ManifestSummary, Plan, content_of, make_plan, nothing_to_do
from ge2e_transforms.schema import METADATA_FILE
from ge2e_transforms.splits import SpeakerTotal
from pipeline import growth, progress, publishing, storage
from pipeline.options import JobConfig
from pipeline.read import read_key
from pipeline.sound_lists import augmented_of
from pipeline.verdict import recorded


def choose_edition(job: JobConfig, present: Mapping[str, Any], content: str) -> int | None:
    """Which edition of its dataset a job makes, given the metadata that stands in its output.

    The one that stands there, if it is of the same content: its shards are adopted; None if it has been added to or
    erased from since. With `overwrite` the next one, made anew (a killed attempt at it goes on with the same
    command, also when what it replaced is being removed). A first one otherwise.

    Raises:
        PlanError: a dataset of another content stands there, and there is no `overwrite`.
    """
    if not present:
        return 0
    edition: int = present["edition"]
    if present["history"][0]["content"] == content:
        # A job that a cluster starts again after it has published is done, and so is one that died over the removal of
        # what it replaced.
        if job.overwrite and present["token"] != job.token and not _removing(job.output, present):
            return edition + 1
        return edition if len(present["history"]) == 1 else None
    if job.overwrite:
        return 0
    raise PlanError(
        f"{job.output} already holds a complete dataset (generation {present['generation']}), made from other "
        f"manifests or options than these (content {content}): give --overwrite to replace it once the new one is "
        "complete, or another --output; `ge2e add` adds other manifests to it"
    )


def plan_job(job: JobConfig, totals: Iterable[SpeakerTotal], summaries: Iterable[ManifestSummary]) -> Plan:
    """The plan of a job, given what stands in its output.

    Raises:
        PlanError: what stands there and the job do not go together, or the rows cannot be laid out.
    """
    present, summaries = publishing.read(job.output).metadata, list(summaries)
    erased = Tombstones.of(present) if present.get("erased") else None
    pseudonyms = "" if job.pseudonym_key == "" else read_key(job.pseudonym_key).check
    augmented = augmented_of(job)
    content = content_of(summaries, job.plan, job.recipe, job.kind, pseudonyms, job.allow_schemes, augmented)
    growing, edition = None, None
    if job.kind == "run":
        edition = choose_edition(job, present, content)
        done = edition is None
    else:
        check_growth(job.output, present, job.recipe, pseudonyms)
        growth.refuse_other_copies(job.output, present, augmented.fingerprint if augmented else "")
        done = present["token"] == job.token or any(
            (step["kind"], step["content"]) == ("add", content) for step in present["history"]
        )
        growing = None if done else growth.growth_of(job.output, job.kind, present)
    if done:
        return nothing_to_do(present, summaries)
    plan = make_plan(
        totals,
        summaries,
        job.plan,
        job.recipe,
        edition or 0,
        growth=growing,
        erased=erased,
        pseudonyms=pseudonyms,
        allow_schemes=job.allow_schemes,
        augmented=augmented,
    )
    return dataclasses.replace(plan, standing=present.get("generation", ""))


def check_growth(output: str, present: dict[str, Any], recipe: Recipe, pseudonyms: str) -> None:
    """Refuses to add to what is not there, or was made otherwise.

    Raises:
        PlanError: no dataset, another recipe, another key of pseudonyms.
        DatasetError: its metadata is damaged.
    """
    if not present:
        raise PlanError(f"{output} holds no complete dataset to add to: `ge2e run` makes one")
    require_complete(present, storage.join(output, METADATA_FILE))
    growth.refuse_other_recipe(output, present, recipe)
    if present["pseudonyms"] != pseudonyms:
        given = "another key" if pseudonyms and present["pseudonyms"] else "none" if not pseudonyms else "one"
        wanted = "by the key it was made with" if present["pseudonyms"] else "none"
        raise PlanError(f"{output} needs --pseudonymize to be {wanted}, got {given}: one dataset has one key")


def _removing(output: str, present: Mapping[str, Any]) -> bool:
    """Whether files that a dataset replaced are still there: they are removed in order, the last one last."""
    replaced: list[str] = present.get("replaced", [])
    return bool(replaced) and storage.exists(storage.join(output, replaced[-1]))


class _PlanDatasetFn(beam.DoFn):
    """One element; all totals and manifest summaries come as side inputs."""

    def __init__(self, job: JobConfig) -> None:
        self._job = job

    def process(self, _: None, totals: Iterable[bytes], summaries: Iterable[ManifestSummary]) -> Iterator[Plan]:
        with recorded(self._job.output, self._job.token):
            plan = plan_job(self._job, itertools.chain.from_iterable(map(lengths.totals, totals)), summaries)
            progress.announce(self._job, plan)
            yield plan


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
