"""ReadManifest: manifest patterns to rows, lengths of speakers, ledger rows, and a summary of each file.

Rows travel in chunks (`row_chunks`), and lengths, milliseconds of speech, in buckets of speakers (`lengths`): beside
names of manifests that is all that ever crosses a shuffle. It must not open a recording.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from ge2e_transforms import lengths
from ge2e_transforms.augmentation import reserved
from ge2e_transforms.errors import BadRowError, ConfigError, LedgerRow, ManifestError, StorageError
from ge2e_transforms.identity import Pseudonyms, nameless
from ge2e_transforms.manifest import read_rows
from ge2e_transforms.places import permitted
from ge2e_transforms.planning import ManifestSummary
from ge2e_transforms.regular_files import NEVER_READABLE
from ge2e_transforms.row_chunks import CHUNK_BYTES, CHUNK_ROWS, pack
from ge2e_transforms.utterance import Utterance, ledger_row, shown
from pipeline import growth, metrics, publishing, storage
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
def open_manifest(path: str) -> Iterator[BinaryIO]:
    """A manifest's bytes; ManifestError if it is no file, may not be read or is gone."""
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(storage.reading(path))
        except OSError as error:
            cause = error.__cause__ if isinstance(error, StorageError) else error
            if not isinstance(cause, OSError) or cause.errno not in NEVER_READABLE:
                raise
            raise ManifestError(
                f"{path} cannot be read ({cause.strerror}): expected a file that you may read and that stays, as it "
                "is read twice"
            ) from error
        yield stream


def _is_of(entry: LedgerRow, row: Utterance) -> bool:
    """Whether a row is the one that the ledger speaks of: the manifest may have changed since."""
    return (entry.speaker_id, entry.utterance_id) == (row.speaker_key, row.utterance_id)


def read_key(path: str) -> Pseudonyms:
    """The key of `--pseudonymize`, from a file that is read where it is needed and never part of a job.

    Raises:
        ConfigError: no such file, or no key in it.
    """
    try:
        return Pseudonyms(storage.read_bytes(path))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise ConfigError(
            f"--pseudonymize={path} cannot be read ({error.strerror}): expected a file of random bytes "
            "(head -c 32 /dev/urandom > KEYFILE), kept apart from the dataset"
        ) from error


def _unreserved(item: Utterance | LedgerRow) -> Utterance | LedgerRow:
    """A row whose ids cannot be taken for those of a copy."""
    for name in ("speaker_id", "utterance_id"):
        if isinstance(item, Utterance) and reserved(getattr(item, name)):
            what = f"{name}={shown(getattr(item, name))} ends as the ids of copies do: expected another with --augment"
            return ledger_row(item, BadRowError(what))
    return item


def wanted_rows(job: JobConfig, stream: BinaryIO, path: str) -> Iterator[Utterance | LedgerRow]:
    """What a job takes of a manifest: all of it; of one that is read for a retry, the rows that were rejected.

    Where other rows stand in their places now, what the ledger said of them is given again.
    """
    items = permitted(read_rows(stream, path), job.allow_outside, job.allow_schemes)
    if job.augmentation:
        items = map(_unreserved, items)
    if job.pseudonym_key:
        pseudonyms = read_key(job.pseudonym_key)
        items = (nameless(item) if isinstance(item, LedgerRow) else pseudonyms.row(item) for item in items)
    if job.kind != "retry":
        yield from items
        return
    ledger = growth.ledger_of(job.output, publishing.read(job.output).metadata)
    left = {row.position: row for row in growth.retryable(ledger) if row.manifest == path}
    for item in items:
        asked = left.get(item.position)
        if isinstance(item, Utterance) and asked and _is_of(asked, item):
            del left[item.position]
            yield item
    yield from left.values()


class _ReadManifestFn(beam.DoFn):
    """One manifest file to its rows; a bad row becomes a ledger row."""

    def __init__(self, job: JobConfig) -> None:
        self._job = job

    def process(self, path: str) -> Iterator[bytes | TaggedOutput]:
        with recorded(self._job.output, self._job.token):
            rows = rejected = 0
            held: list[Utterance] = []
            sums: lengths.Lengths = {}
            with open_manifest(path) as stream:
                for row in wanted_rows(self._job, stream, path):
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
