"""The ledger as the report shows it: how many rows by stage and reason, with the first of each.

A table by `schema.ledger_schema()` comes in. It must not know files, nor the page.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_EXAMPLES = 3


class Reason(NamedTuple):
    """Rows of one kind, stage and reason, and the first of them as objects of the ledger's columns."""

    kind: str
    stage: str
    reason: str
    rows: int
    examples: list[dict[str, Any]]


def reasons(ledger: pa.Table) -> list[Reason]:
    """The most frequent first, faults before policies."""
    keys = ["kind", "stage", "reason"]
    groups = ledger.group_by(keys, use_threads=False).aggregate([([], "count_all")]).to_pylist()
    found = []
    for group in groups:
        mask = np.logical_and.reduce([pc.equal(ledger[key], group[key]).to_numpy() for key in keys])
        first = ledger.take(pa.array(np.flatnonzero(mask)[:_EXAMPLES]))
        kind, stage, reason = (group[key] for key in keys)
        found.append(Reason(kind, stage, reason, group["count_all"], first.to_pylist()))
    return sorted(found, key=lambda reason: (reason.kind != "rejected", -reason.rows, reason.stage, reason.reason))
