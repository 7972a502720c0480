"""GroupByShard: every row to its shard, as the plan says. Of what a job moves between workers this is the most.

Rows stay packed, as bytes (`row_chunks`); neither audio nor anything that is computed comes here. It must not
look into a row.
"""

from __future__ import annotations

from collections.abc import Iterable

import apache_beam as beam

from ge2e_transforms.planning import Plan
from ge2e_transforms.row_chunks import place


def assign_shards(chunk: bytes, plan: Plan) -> Iterable[tuple[int, bytes]]:
    """(number of a shard, its rows in this chunk)."""
    return place(chunk, plan).items() if plan.ranges else ()


def announce_shards(plan: Plan) -> list[tuple[int, bytes]]:
    """One empty parcel per shard, so that a shard whose share of a speaker is empty is written (as nothing) too.

    The largest come first: Beam's local runner deals shards out to its workers in the order in which it meets them.
    """
    return [(number, b"") for number in plan.largest_first()]


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
