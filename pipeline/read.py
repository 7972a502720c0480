"""ReadManifest: manifest patterns to rows, lengths of speakers, ledger rows, and a summary of each file.

Rows travel in chunks (`row_chunks`): that is all that ever crosses a shuffle.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from ge2e_transforms import lengths
from ge2e_transforms.errors import LedgerRow, ManifestError
from ge2e_transforms.manifest import read_rows
from ge2e_transforms.planning import ManifestSummary
from ge2e_transforms.row_chunks import CHUNK_BYTES, CHUNK_ROWS, pack
from ge2e_transforms.utterance import Utterance
from pipeline import metrics, storage
from pipeline.options import JobConfig
from pipeline.verdict import recorded

ROWS, LENGTHS, REJECTED, SUMMARIES = "rows", "lengths", "rejected", "summaries"


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
            held: list[Utterance] = []
            sums: lengths.Lengths = {}
            with _open(path) as stream:
                for row in read_rows(stream, path):
                    rows += 1
                    if isinstance(row, LedgerRow):
                        rejected += 1
                        yield TaggedOutput(REJECTED, row)
                        continue
                    held.append(row)
                    if len(held) == CHUNK_ROWS or row.position - held[0].position >= CHUNK_BYTES:
                        yield from self._packed(held, sums)
                        held = []
            yield from self._packed(held, sums, last=True)
            metrics.counter(metrics.MANIFESTS_READ).inc()
            metrics.counter(metrics.ROWS_READ).inc(rows)
            metrics.counter(metrics.ROWS_REJECTED).inc(rejected)
            yield TaggedOutput(SUMMARIES, ManifestSummary(path, storage.sha256(path), rows, rejected))

    def _packed(
        self, rows: list[Utterance], sums: lengths.Lengths, last: bool = False
    ) -> Iterator[bytes | TaggedOutput]:
        """A chunk of the rows; the lengths of speakers once they are many, and at last."""
        if rows:
            yield pack(rows, self._job.recipe.audio.max_seconds, sums)
        if last or lengths.speakers(sums) >= lengths.HELD_SPEAKERS:
            for bucket in lengths.pack(sums):
                yield TaggedOutput(LENGTHS, bucket)
            sums.clear()


class _ExpandManifestsFn(beam.DoFn):
    def __init__(self, job: JobConfig) -> None:
        self._job = job

    def process(self, patterns: tuple[str, ...]) -> list[str]:
        with recorded(self._job.output, self._job.token):
            return expand_manifests(patterns)


class ReadManifest(beam.PTransform):
    """Begin -> chunks of `rows`, `lengths`: (bucket, packed), `rejected`: LedgerRow, `summaries`: ManifestSummary."""

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
            .with_output_types(bytes, **{LENGTHS: tuple[int, bytes], REJECTED: LedgerRow, SUMMARIES: ManifestSummary})
            .with_outputs(LENGTHS, REJECTED, SUMMARIES, main=ROWS)
        )
