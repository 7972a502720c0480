"""ReadManifest: manifest patterns to rows, ledger rows, and a summary of each file.

Rows travel as bytes (`Utterance.to_bytes`), some 200 each: that is all that ever crosses a shuffle.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from ge2e_transforms.errors import LedgerRow, ManifestError
from ge2e_transforms.manifest import read_rows
from ge2e_transforms.planning import ManifestSummary
from pipeline import metrics, storage
from pipeline.options import JobConfig
from pipeline.verdict import recorded

ROWS, REJECTED, SUMMARIES = "rows", "rejected", "summaries"


def expand_manifests(patterns: tuple[str, ...]) -> list[str]:
    """Files behind all patterns, sorted, each once; ManifestError for a pattern without any."""
    found: set[str] = set()
    for pattern in patterns:
        files = storage.expand(pattern)
        if not files:
            raise ManifestError(
                f"no manifest at {pattern}: expected a file or a glob that matches some; check the path"
            )
        found.update(files)
    return sorted(found)


@contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    try:
        with storage.reading(path) as stream:
            yield stream
    except (IsADirectoryError, PermissionError) as error:
        raise ManifestError(f"{path} cannot be read ({error.strerror}): expected a file that you may read") from error


class _ReadManifestFn(beam.DoFn):
    """One manifest file to its rows; a bad row becomes a ledger row."""

    def __init__(self, job: JobConfig) -> None:
        self._job = job

    def process(self, path: str) -> Iterator[bytes | TaggedOutput]:
        with recorded(self._job.output, self._job.token):
            rows = rejected = 0
            with _open(path) as stream:
                for row in read_rows(stream, path):
                    rows += 1
                    if isinstance(row, LedgerRow):
                        rejected += 1
                        yield TaggedOutput(REJECTED, row)
                    else:
                        yield row.to_bytes()
            metrics.counter(metrics.MANIFESTS_READ).inc()
            metrics.counter(metrics.ROWS_READ).inc(rows)
            metrics.counter(metrics.ROWS_REJECTED).inc(rejected)
            yield TaggedOutput(SUMMARIES, ManifestSummary(path, storage.sha256(path), rows, rejected))


class _ExpandManifestsFn(beam.DoFn):
    def __init__(self, job: JobConfig) -> None:
        self._job = job

    def process(self, patterns: tuple[str, ...]) -> list[str]:
        with recorded(self._job.output, self._job.token):
            return expand_manifests(patterns)


class ReadManifest(beam.PTransform):
    """Begin -> (`rows`: bytes, `rejected`: LedgerRow, `summaries`: ManifestSummary)."""

    def __init__(self, job: JobConfig) -> None:
        super().__init__()
        self._job = job

    def expand(self, begin: beam.pvalue.PBegin) -> beam.pvalue.DoOutputsTuple:
        return (
            begin
            | "Patterns" >> beam.Create([self._job.manifests])
            | "ExpandManifests" >> beam.ParDo(_ExpandManifestsFn(self._job)).with_output_types(str)
            | "SpreadManifests" >> beam.Reshuffle()
            | "ReadRows"
            >> beam.ParDo(_ReadManifestFn(self._job))
            .with_output_types(bytes, **{REJECTED: LedgerRow, SUMMARIES: ManifestSummary})
            .with_outputs(REJECTED, SUMMARIES, main=ROWS)
        )
