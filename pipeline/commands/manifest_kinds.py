"""What `ge2e manifest` reads: a parser for each kind of corpus or list, and the function that gives its rows.

The kinds stand in `KINDS` of the files of `ge2e_transforms` that read them (see `corpus_kinds`). It must not know how
corpora and lists of others are laid out: these files do.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from typing import Any, BinaryIO

from ge2e_transforms import corpora, kaldi_lists, lhotse_lists, noise_corpora, tabled_corpora, toolkit_lists
from ge2e_transforms.corpus_kinds import CorpusKind
from ge2e_transforms.errors import LedgerRow, ManifestError
from ge2e_transforms.manifest import Utterance, read_rows
from ge2e_transforms.regular_files import open_regular
from ge2e_transforms.utterance import is_url

_log = logging.getLogger(__name__)

# Files of the library with kinds, in the order of help.
_HOMES = (corpora, tabled_corpora, noise_corpora, kaldi_lists, lhotse_lists, toolkit_lists)
_LIST_NOTES = """\
examples:
  ge2e manifest list vox1.csv vox2.csv --min_utterances 10 -o both.csv
  ge2e manifest list all.jsonl.gz --limit_speakers 100 --max_utterances 20 --headers -o trial.csv
"""
_FILES = {"nargs": "+", "metavar": "FILE", "help": "CSV or JSON Lines, also .gz, or Parquet"}


def kinds() -> list[CorpusKind]:
    """Every kind, the one that is of this program alone last."""
    text = "manifests that are there already: a part of them, or with durations"
    own = CorpusKind("list", text, _LIST_NOTES, _listed, {"files": _FILES})
    return [*(kind for home in _HOMES for kind in home.KINDS), own]


def add_kinds(parsers: Any, shared: argparse.ArgumentParser) -> None:
    """The parsers of all kinds; `args.rows(args)` gives the rows of the one that was chosen."""
    formatter = argparse.RawDescriptionHelpFormatter
    for kind in kinds():
        words = {"help": kind.text, "description": kind.text, "epilog": kind.notes}
        parser = parsers.add_parser(kind.name, parents=[shared], formatter_class=formatter, **words)
        for name, told in kind.options.items():
            parser.add_argument(name, **told)
        parser.set_defaults(rows=kind.rows)


def _listed(args: argparse.Namespace) -> Iterator[Utterance]:
    for path in args.files:
        faults: list[LedgerRow] = []
        usable = 0
        with _open_manifest(path) as stream:
            for row in read_rows(stream, path):
                if isinstance(row, LedgerRow):
                    faults.append(row)
                    continue
                usable += 1
                yield row
        if faults:
            unit = "row" if path.lower().endswith(".parquet") else "byte"
            first = f"first at {unit} {faults[0].position}: {faults[0].detail}"
            _log.warning(
                "%s: %d of %d rows cannot be used and are left out, %s", path, len(faults), usable + len(faults), first
            )


def _open_manifest(path: str) -> Any:
    if is_url(path):
        from pipeline.read import open_manifest  # it imports Beam

        return open_manifest(path)
    try:
        stream: BinaryIO = open_regular(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ManifestError(f"{path} cannot be read ({reason}): expected a manifest that this user may read") from error
    return stream
