"""`ge2e manifest`: folders of speech and lists of other toolkits to manifests, or a part of manifests to another.

What may be read stands in `manifest_kinds`; here is what all kinds share: selection, durations in seconds, output. It
must not know one kind from another.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from ge2e_transforms.archives import split_member
from ge2e_transforms.errors import DataError, ManifestError
from ge2e_transforms.manifest import Utterance, write_manifest
from ge2e_transforms.selection import Selection, select
from ge2e_transforms.utterance import is_url
from pipeline.commands import manifest_kinds

_log = logging.getLogger(__name__)

_STANDARD_OUTPUT = "-"
_SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The parsers of the kinds of corpora and lists."""
    kinds = parser.add_subparsers(title="corpora and lists", required=True, metavar="KIND")
    shared = argparse.ArgumentParser(add_help=False)
    output_help = "manifest to write: .csv, .csv.gz, or - for standard output"
    shared.add_argument("-o", "--output", required=True, metavar="FILE", help=output_help)
    headers_help = "fill in durations by reading the headers of the audio, which makes shards of equal size"
    shared.add_argument("--headers", action="store_true", help=headers_help)
    part = shared.add_argument_group("a part of it (draws follow from names: a larger one holds every smaller one)")
    part.add_argument("--subset", action="append", default=[], metavar="NAME", help="this subset; may be repeated")
    least = "leave out speakers with fewer utterances"
    part.add_argument("--min_utterances", type=int, default=0, metavar="K", help=least)
    most = "at most K utterances of each speaker, drawn, as the first files are mostly of one session"
    part.add_argument("--max_utterances", type=int, default=0, metavar="K", help=most)
    few = "at most K speakers, drawn: for a quick trial"
    part.add_argument("--limit_speakers", type=int, default=0, metavar="K", help=few)
    manifest_kinds.add_kinds(kinds, shared)
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Writes the manifest that the arguments describe."""
    selection = Selection(tuple(args.subset), args.min_utterances, args.max_utterances, args.limit_speakers)
    rows: Iterable[Utterance] = args.rows(args)
    if selection != Selection():
        rows = select(rows, selection)
    if args.headers:
        rows = _with_durations(list(rows))
    return _write(args.output, rows)


def _with_durations(rows: Sequence[Utterance]) -> Iterator[Utterance]:
    """The rows, those of whole recordings with the duration that the header states, where none is there yet."""
    from tqdm import tqdm

    from ge2e_transforms import headers

    wanted = [row.location for row in rows if _lacks_duration(row)]
    open_header = headers.open_local
    if any(is_url(location) or split_member(location) for location in wanted):
        from pipeline import recordings  # it imports Beam

        open_header = recordings.open_header
    found = headers.read_headers(wanted, open_header=open_header)
    shown = tqdm(found, "headers", len(wanted), unit="file", leave=False, disable=not sys.stderr.isatty())
    stated = iter(shown)
    faults: list[DataError] = []
    for row in rows:
        header = next(stated) if _lacks_duration(row) else None
        if isinstance(header, DataError):
            faults.append(header)
        yield row._replace(duration_s=round(header.seconds, 6)) if isinstance(header, headers.Header) else row
    shown.close()
    if faults:
        _log.warning(
            "%d of %d recordings cannot be used; they stay in the manifest, without a duration: %s%s",
            *(len(faults), len(wanted), "; ".join(map(str, faults[:_SHOWN])), "; ..." if faults[_SHOWN:] else ""),
        )


def _lacks_duration(row: Utterance) -> bool:
    return row.duration_s is None and row.offset_s is None


def _write(output: str, rows: Iterable[Utterance]) -> int:
    totals = _Totals()
    if output != _STANDARD_OUTPUT:
        write_manifest(output, totals.counted(rows))
        print(f"{output}: {totals}")
        return 0
    try:
        write_manifest(sys.stdout.buffer, totals.counted(rows))
        sys.stdout.flush()
        print(f"standard output: {totals}", file=sys.stderr)
    except BrokenPipeError:  # `| head` has seen enough; what is still in the buffer must not raise again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


class _Totals:
    """What passes by on its way into a manifest."""

    def __init__(self) -> None:
        self.rows = self.bytes = self.timed = 0
        self.seconds = 0.0
        self.speakers: set[str] = set()
        self.sessions: set[tuple[str, str]] = set()
        self.cut: set[str] = set()  # recordings of which rows are pieces

    def counted(self, rows: Iterable[Utterance]) -> Iterator[Utterance]:
        for row in rows:
            self.rows += 1
            if row.offset_s is None or row.location not in self.cut:
                self.bytes += row.bytes or 0
            if row.offset_s is not None:
                self.cut.add(row.location)
            self.timed += row.duration_s is not None
            self.seconds += row.duration_s or 0.0
            self.speakers.add(row.speaker_key)
            if row.session_id:
                self.sessions.add((row.speaker_key, row.session_id))
            yield row
        if not self.rows:
            raise ManifestError("there is no row to write: expected a corpus, list or manifest that holds some")

    def __str__(self) -> str:
        counts = f"{self.rows} rows, {len(self.speakers)} speakers, {len(self.sessions)} sessions"
        sizes = f"{counts}, {self.bytes / 1e6:.1f} MB of audio"
        of = f" in the {self.timed} rows with a duration" if self.timed < self.rows else ""
        return f"{sizes}, {self.seconds / 3600:.2f} h{of}" if self.timed else sizes
