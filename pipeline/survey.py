"""What the rows of the manifests name, from their headers alone: lengths, rates, speakers, and what looks wrong.

Nothing is decoded. Seconds are those of the recordings, before voice is looked for. It must not compute features.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import DataError, LedgerRow
from ge2e_transforms.headers import Header, read_headers
from ge2e_transforms.planning import expected_ms
from ge2e_transforms.standing import stable_hash
from ge2e_transforms.utterance import Utterance
from pipeline.options import JobConfig
from pipeline.read import expand_manifests, open_manifest, wanted_rows
from pipeline.recordings import open_header

# Rows without a length whose header is read; those after them count as their bytes say. Rows that have a length are
# sampled, for what only a header tells.
MAX_HEADERS, SAMPLED = 100_000, 1_000
_TOGETHER = 2_048
_MOST_PATHS = 5_000_000  # that are looked at for doubles: 8 bytes each, and as much again
_EXAMPLES = 3


@dataclass
class Tally:
    """Rows of one speaker that name one split and one source.

    Attributes:
        rows: how many.
        planned_ms: their length as a job plans with it: what the manifest says, or what the bytes of a file suggest.
        seconds: their length by the headers.
    """

    rows: int = 0
    planned_ms: int = 0
    seconds: float = 0.0


@dataclass
class Finding:
    """Something that was met more than once: how often, and the first examples."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)


@dataclass
class Survey:
    """What was found.

    Attributes:
        rows: of all manifests.
        refused: rows that the manifests' reader refuses, by reason.
        tallies: by (speaker, split that the rows name, source).
        faults: what is wrong with recordings, by reason, as far as their headers show it.
        lengths: where they come from: 'manifest', 'header', or 'bytes' (estimated).
        rates, channels, formats: of the headers that were read.
        short, long: rows with less sound than the recipe takes, and with more.
        doubled: rows that name the same part of a recording as another one.
        spaced: ids with spaces in them.
        sample: rows that can be read, drawn by a stable hash.
    """

    rows: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    tallies: dict[tuple[str, str, str], Tally] = field(default_factory=dict)
    faults: dict[str, Finding] = field(default_factory=dict)
    lengths: Counter[str] = field(default_factory=Counter)
    rates: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    short: int = 0
    long: int = 0
    doubled: Finding = field(default_factory=Finding)
    spaced: Finding = field(default_factory=Finding)
    sample: list[Utterance] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(tally.seconds for tally in self.tallies.values())

    @property
    def unreadable(self) -> int:
        return sum(finding.count for finding in self.faults.values())


def survey(job: JobConfig, told: Callable[[int], object] = lambda rows: None) -> Survey:
    """Reads the manifests of a job, and headers of their recordings.

    Args:
        job: what to read.
        told: is called with the rows that were read since it was called last.

    Raises:
        ManifestError: no manifest, or one that cannot be read at all.
    """
    found, drawn, paths = Survey(), _Draw(), set[int]()
    rows = _rows(job, found, told)
    while chunk := list(itertools.islice(rows, _TOGETHER)):
        unknown = [row for row in chunk if row.duration_s is None]
        asked = unknown[: max(0, MAX_HEADERS - found.lengths["header"])]
        headers = _headers(asked, job.recipe)
        for row in chunk:
            header = headers.get(row.location)
            if isinstance(header, DataError):
                _fault(found, row, header)
                continue
            _count(found, row, header, job.recipe)
            _look_for_doubles(found, row, paths)
            drawn.add(row, header)
    found.sample = _sampled(found, drawn, job.recipe)
    return found


def _rows(job: JobConfig, found: Survey, told: Callable[[int], object]) -> Iterator[Utterance]:
    for path in expand_manifests(job.manifests):
        with open_manifest(path) as stream:
            for item in wanted_rows(job, stream, path):
                found.rows += 1
                told(1)
                if isinstance(item, LedgerRow):
                    found.refused[item.reason] += 1
                else:
                    yield item


def _headers(rows: Iterable[Utterance], recipe: Recipe) -> dict[str, Header | DataError]:
    locations = list(dict.fromkeys(row.location for row in rows))
    return dict(zip(locations, read_headers(locations, config=recipe.audio, open_header=open_header), strict=True))


def _fault(found: Survey, row: Utterance, error: DataError) -> None:
    found.faults.setdefault(error.reason, Finding()).add(row.audio_path)


def _count(found: Survey, row: Utterance, header: Header | None, recipe: Recipe) -> None:
    seconds = _seconds(row, header, recipe)
    found.lengths["header" if header else "manifest" if row.duration_s is not None else "bytes"] += 1
    if header:
        _note(found, header)
    if seconds > recipe.audio.max_seconds:
        found.long += 1
    elif seconds * 1000 < recipe.segment.min_utterance_ms:
        found.short += 1
    tally = found.tallies.setdefault((row.speaker_key, row.split, row.source), Tally())
    tally.rows += 1
    tally.planned_ms += expected_ms(row, recipe.audio.max_seconds)
    tally.seconds += seconds
    for name in (row.speaker_id, row.utterance_id):
        if any(map(str.isspace, name)):
            found.spaced.add(name)


def _seconds(row: Utterance, header: Header | None, recipe: Recipe) -> float:
    """Length of a row: by its header, or by its manifest, or as a job would plan with it."""
    if header is None or (row.offset_s is not None and row.duration_s is not None):
        return expected_ms(row, recipe.audio.max_seconds) / 1000 if row.duration_s is None else row.duration_s
    return max(0.0, header.seconds - (row.offset_s or 0.0))


def _note(found: Survey, header: Header) -> None:
    found.rates[header.rate_hz] += 1
    found.channels[header.channels] += 1
    found.formats[header.format] += 1


def _look_for_doubles(found: Survey, row: Utterance, paths: set[int]) -> None:
    if len(paths) >= _MOST_PATHS:
        return
    part = hash((row.location, row.offset_s, row.duration_s if row.offset_s is not None else None, row.channel))
    if part in paths:
        found.doubled.add(row.audio_path)
    paths.add(part)


class _Draw:
    """The rows with the lowest hashes, `SAMPLED` at most: a draw that does not depend on the order of the rows."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Utterance, Header | None]] = []
        self._number = itertools.count()

    def add(self, row: Utterance, header: Header | None) -> None:
        entry = (-stable_hash(f"{row.speaker_key}\n{row.utterance_id}", "sample"), next(self._number), row, header)
        if len(self._heap) < SAMPLED:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def rows(self) -> list[tuple[Utterance, Header | None]]:
        """The rows, and their headers if they were read."""
        return [(row, header) for _, _, row, header in sorted(self._heap, key=lambda entry: -entry[0])]


def _sampled(found: Survey, drawn: _Draw, recipe: Recipe) -> list[Utterance]:
    """The rows of a sample that can be read, with their lengths; what only headers tell is noted of all of them."""
    rows, readable = drawn.rows(), []
    headers = _headers((row for row, header in rows if header is None), recipe)
    for row, known in rows:
        header = known or headers[row.location]
        if isinstance(header, DataError):
            _fault(found, row, header)
            continue
        if known is None:
            _note(found, header)
        readable.append(row if row.offset_s is not None else row._replace(duration_s=header.seconds))
    return readable
