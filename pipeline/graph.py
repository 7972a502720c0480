"""The whole flow, in one place: five stages, each in the file that its verb names (`ReadManifest` in `read.py`).

It must not know what a stage does: it names the stages and joins them.
"""

from __future__ import annotations

from typing import Any

import apache_beam as beam

from pipeline.commit import CommitDataset
from pipeline.group import GroupByShard
from pipeline.options import JobConfig
from pipeline.plan import PlanDataset
from pipeline.read import LENGTHS, REJECTED, ROWS, SUMMARIES, ReadManifest
from pipeline.write import WriteShards


def build(pipeline: beam.Pipeline, job: JobConfig) -> beam.PCollection[dict[str, Any]]:
    """Manifests to a published dataset; what crosses a shuffle is rows and lengths, never audio or features."""
    read = pipeline | "ReadManifest" >> ReadManifest(job)
    # rows: chunks, lengths: (bucket, packed lengths), rejected: LedgerRow, summaries: ManifestSummary

    plan = (read[LENGTHS], read[SUMMARIES]) | "PlanDataset" >> PlanDataset(job)
    # one Plan

    shards = (read[ROWS], plan) | "GroupByShard" >> GroupByShard()
    # (shard number, parcels of rows)

    done = (shards, plan) | "WriteShards" >> WriteShards(job)
    # path of a done file

    return (done, plan, read[REJECTED]) | "CommitDataset" >> CommitDataset(job)
    # one metadata dict, published
