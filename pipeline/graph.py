"""The whole flow, in one place."""

from __future__ import annotations

from typing import Any

import apache_beam as beam

from pipeline.commit import CommitDataset
from pipeline.options import JobConfig
from pipeline.plan import GroupByShard, PlanDataset
from pipeline.read import LENGTHS, REJECTED, ROWS, SUMMARIES, ReadManifest
from pipeline.write import DONE, WriteShards


def build(pipeline: beam.Pipeline, job: JobConfig) -> beam.PCollection[dict[str, Any]]:
    """Manifests to a published dataset; what crosses a shuffle is manifest rows, never audio or features."""
    read = pipeline | "ReadManifest" >> ReadManifest(job)
    # rows: chunks, lengths: (bucket, packed lengths), rejected: LedgerRow, summaries: ManifestSummary

    plan = (read[LENGTHS], read[SUMMARIES]) | "PlanDataset" >> PlanDataset(job)
    # one Plan

    shards = (read[ROWS], plan) | "GroupByShard" >> GroupByShard()
    # (shard number, parcels of rows)

    written = (shards, plan) | "WriteShards" >> WriteShards(job)
    # done: path of a done file

    return (written[DONE], plan, read[REJECTED]) | "CommitDataset" >> CommitDataset(job)
    # one metadata dict, published
