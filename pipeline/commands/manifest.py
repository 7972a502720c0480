"""`ge2e manifest`: a folder of speech to a manifest."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import Any

from ge2e_transforms import corpora
from ge2e_transforms.manifest import Utterance, write_manifest

_STANDARD_OUTPUT = "-"
_LIBRISPEECH_EXAMPLES = """\
examples:
  ge2e manifest librispeech /corpora/LibriSpeech -o librispeech.csv
  ge2e manifest librispeech /corpora/LibriSpeech/train-clean-100 --no-splits -o part.csv.gz
"""
_PATTERN_EXAMPLES = """\
fields: {speaker} (needed), {session}, {utterance}, {subset}, {split}, {source}, and {any} for what does not
matter; * stands for any characters within a name. A field takes as few characters as will do.

examples:
  ge2e manifest pattern /corpora/vox1/wav --pattern '{speaker}/{session}/{utterance}.wav' -o vox1.csv
  ge2e manifest pattern /corpora/vctk --source vctk --pattern '*/{speaker}/{speaker}_{utterance}_mic1.flac' -o vctk.csv
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The parsers of the kinds of corpora."""
    kinds = parser.add_subparsers(title="corpora", required=True, metavar="CORPUS")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("root", metavar="ROOT", help="folder that holds the corpus")
    output_help = "manifest to write: .csv, .csv.gz, or - for standard output"
    shared.add_argument("-o", "--output", required=True, metavar="FILE", help=output_help)
    _add_librispeech(kinds, shared)
    _add_pattern(kinds, shared)


def _add_kind(kinds: Any, shared: argparse.ArgumentParser, name: str, text: str, examples: str) -> Any:
    formatter = argparse.RawDescriptionHelpFormatter
    return kinds.add_parser(
        name, parents=[shared], help=text, description=text, epilog=examples, formatter_class=formatter
    )


def _add_librispeech(kinds: Any, shared: argparse.ArgumentParser) -> None:
    parser = _add_kind(kinds, shared, "librispeech", "LibriSpeech as it is unpacked", _LIBRISPEECH_EXAMPLES)
    no_splits = "leave the splits to the pipeline (else train-*, dev-* and test-* become train, valid and test)"
    parser.add_argument("--no-splits", action="store_true", help=no_splits)
    parser.set_defaults(command=librispeech)


def _add_pattern(kinds: Any, shared: argparse.ArgumentParser) -> None:
    parser = _add_kind(kinds, shared, "pattern", "any tree of files, by a pattern of their paths", _PATTERN_EXAMPLES)
    parser.add_argument("--pattern", required=True, help="paths below ROOT, such as '{speaker}/{utterance}.wav'")
    parser.add_argument("--source", default="", metavar="NAME", help="name of the corpus (default: ROOT's name)")
    namespace = "what speaker ids count in; one for all corpora that share their speakers (default: the source)"
    parser.add_argument("--namespace", default="", metavar="NS", help=namespace)
    parser.set_defaults(command=pattern)


def librispeech(args: argparse.Namespace) -> int:
    return _write(args.output, corpora.librispeech(args.root, splits={} if args.no_splits else None))


def pattern(args: argparse.Namespace) -> int:
    return _write(args.output, corpora.pattern(args.root, args.pattern, args.source, args.namespace))


def _write(output: str, rows: Iterator[Utterance]) -> int:
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
        self.rows = 0
        self.bytes = 0
        self.speakers: set[str] = set()
        self.sessions: set[tuple[str, str]] = set()

    def counted(self, rows: Iterator[Utterance]) -> Iterator[Utterance]:
        for row in rows:
            self.rows += 1
            self.bytes += row.bytes or 0
            self.speakers.add(row.speaker_key)
            if row.session_id:
                self.sessions.add((row.speaker_key, row.session_id))
            yield row

    def __str__(self) -> str:
        counts = f"{self.rows} rows, {len(self.speakers)} speakers, {len(self.sessions)} sessions"
        return f"{counts}, {self.bytes / 1e6:.1f} MB of audio"
