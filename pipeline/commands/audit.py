"""`ge2e audit`: leakage and doubles in a dataset, as tables, as JSON, and for a spreadsheet.

It must not know what is looked for: `ge2e_transforms.audit` finds, this shows.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ge2e_transforms.audit import CHECKS, FAIL, ROWS, AuditReport, Finding, audit
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.deny_list import DenyEntry, parse_deny_list
from ge2e_transforms.errors import DenyListError, StorageError
from ge2e_transforms.utterance import shown
from pipeline.commands.terminal import Terminal

_COMMANDS = """examples:
  ge2e audit features
  ge2e audit features --deny overlap.txt --csv found.csv

Exit status 1 for what is certainly wrong; warnings leave it 0.
"""
_EXAMPLES = 10  # rows of a finding on a terminal
_TOGETHER = 10_000  # rows that are Python objects at once
# What a spreadsheet takes for the beginning of a formula, after NFKC (so full-width and small forms too).
_FORMULA = "=+-@\u2212"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _COMMANDS
    parser.add_argument("dataset", metavar="FOLDER", help="a folder, s3:// or gs://")
    lines = "a list of what must not be in train: namespace/speaker [utterance_id] a line, with * and # (repeatable)"
    parser.add_argument("--deny", metavar="FILE", action="append", default=[], help=lines)
    parser.add_argument("--csv", metavar="FILE", help="write all rows of all findings, for a spreadsheet")
    parser.add_argument("--json", action="store_true", help="print all that was found as JSON instead of tables")
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Exit status 1 if anything that was found is a failure, else 0."""
    deny = [entry for name in dict.fromkeys(args.deny) for entry in _read_list(name)]
    dataset = Dataset.open(args.dataset)
    report = audit(dataset, deny)
    if args.csv is not None:
        _write_csv(report, Path(args.csv))
    if args.json:
        for part in json_parts(dataset, report):
            sys.stdout.write(part)
    else:
        _print(Terminal(), dataset, report)
    return 1 if report.failed else 0


def _read_list(name: str) -> list[DenyEntry]:
    try:
        return parse_deny_list(Path(name).read_bytes(), name)
    except OSError as error:
        raise DenyListError(f"{name} cannot be read ({error.strerror}): expected a local text file") from error


def _print(console: Console, dataset: Dataset, report: AuditReport) -> None:
    console.print(f"dataset  {dataset.root} (generation {dataset.metadata.get('generation')})")
    beside = ", and what was made of them" if dataset.augmented else ""
    console.print(f"holds    {report.utterances:,} utterances of {report.speakers:,} speakers{beside}")
    console.print(f"splits   {report.split_rule}")
    for count in report.deny_lists:
        told = f"{count.in_train:,} in train, {count.elsewhere:,} in other splits only, {count.nowhere:,} nowhere"
        console.print(f"denied   {count.file}: {count.entries:,} entries: {told}")
    for finding in report.findings:
        console.print(
            f"\n{finding.severity} {finding.check}: {finding.text}",
            style="red" if finding.severity == FAIL else "yellow",
        )
        console.print(f"to do: {finding.advice}")
        console.print(_example_table(finding))
    failed = {finding.check for finding in report.findings if finding.severity == FAIL}
    warned = {finding.check for finding in report.findings} - failed
    looked = [check for check in CHECKS if check != "denied" or report.deny_lists]
    in_order = len(looked) - len(failed) - len(warned)
    console.print(f"{len(looked)} checks: {len(failed)} failed, {len(warned)} to look at, {in_order} in order")


def _example_table(finding: Finding) -> Table:
    """The first rows; what is an id is escaped and never taken for markup."""
    examples = finding.rows.slice(0, _EXAMPLES).to_pylist()
    filled = [name for name in ROWS.names[1:] if any(row[name] for row in examples)]
    table = Table("group")
    for name in filled:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in examples:
        table.add_row(str(row["group"]), *(Text(shown(row[name])) for name in filled))
    if len(finding.rows) > _EXAMPLES:
        table.caption = f"{_EXAMPLES} of {len(finding.rows):,} rows: all with --json or --csv"
    return table


def json_parts(dataset: Dataset, report: AuditReport) -> Iterator[str]:
    """The report as JSON text, piece by piece: a finding may have as many rows as the dataset has utterances."""
    head = {
        "dataset": str(dataset.root),
        "generation": dataset.metadata.get("generation"),
        "utterances": report.utterances,
        "speakers": report.speakers,
        "split_rule": report.split_rule,
        "deny_lists": [count._asdict() for count in report.deny_lists],
        "failed": report.failed,
    }
    yield json.dumps(head, indent=1).removesuffix("\n}") + ',\n "findings": ['
    for number, finding in enumerate(report.findings):
        about = {name: getattr(finding, name) for name in ("check", "severity", "count", "text", "advice")}
        yield ("," if number else "") + "\n  " + json.dumps(about).removesuffix("}") + ', "rows": ['
        for place, row in enumerate(_rows(finding)):
            yield ("," if place else "") + "\n   " + json.dumps(row)
        yield "]}"
    yield "]\n}\n"


def _rows(finding: Finding) -> Iterator[dict[str, Any]]:
    for batch in finding.rows.to_batches(max_chunksize=_TOGETHER):
        yield from batch.to_pylist()


def _write_csv(report: AuditReport, path: Path) -> None:
    try:
        # With a mark of UTF-8 in front, without which spreadsheets take it for a code page.
        with path.open("w", encoding="utf-8-sig", newline="") as stream:
            _write_rows(report, stream)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror}): choose another file for --csv") from error


def _write_rows(report: AuditReport, stream: TextIO) -> None:
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
    writer.writerow(["check", "severity", *ROWS.names])
    for finding in report.findings:
        for row in _rows(finding):
            writer.writerow([finding.check, finding.severity, *map(cell, row.values())])


def cell(value: str | int) -> str:
    """A value as a spreadsheet shows it: what it would run as a formula gets a `'` in front.

    Also where such a sign comes after spaces and characters that are not seen, which some spreadsheets drop.
    """
    text = str(value)
    first = next((sign for sign in text if unicodedata.category(sign)[0] not in "CZ"), " ")
    runs = text.startswith(("\t", "\r", "\n")) or unicodedata.normalize("NFKC", first)[0] in _FORMULA
    return f"'{text}" if runs else text
