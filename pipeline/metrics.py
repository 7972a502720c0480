"""Names of the counters that the stages keep, in one namespace.

They are for watching a job. A runner may count a bundle twice when it tries it twice, so nothing that is
published comes from them: sums come from the done files of the shards. It must not know the stages that count.
"""

from __future__ import annotations

from apache_beam.metrics import Metrics
from apache_beam.metrics.metricbase import Counter

NAMESPACE = "ge2e"

MANIFESTS_READ = "manifests_read"
ROWS_READ = "rows_read"
ROWS_REJECTED = "rows_rejected"  # by the manifest reader
SHARDS_WRITTEN = "shards_written"
SHARDS_ADOPTED = "shards_adopted"  # finished by an earlier attempt
UTTERANCES_WRITTEN = "utterances_written"
UTTERANCES_FILTERED = "utterances_filtered"
UTTERANCES_REJECTED = "utterances_rejected"
RECORDS_WRITTEN = "records_written"


def counter(name: str) -> Counter:
    """The counter of this name; increments on workers add up in the job's metrics."""
    return Metrics.counter(NAMESPACE, name)
