"""`ge2e doctor`: a table for each worker process, then what would go wrong.

Sizes are GiB. It must not know what a fault means: `diagnosis` says it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from pipeline import flags
from pipeline.commands.extras import require_beam
from pipeline.commands.terminal import Terminal

if TYPE_CHECKING:
    from pipeline.doctor import Diagnosis
    from pipeline.examine import Report

_VERDICTS = {"fails": "would fail", "crawls": "would crawl", "mixes": "would mix bytes", "note": "note"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_doctor(parser)
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Exit status 0 when a job would do well, else 1."""
    require_beam("`ge2e doctor` needs")
    from pipeline.doctor import examine

    found = examine(args, args.beam_arguments)
    print_diagnosis(found)
    return 0 if found.healthy else 1


def print_diagnosis(found: Diagnosis) -> None:
    console = Terminal()
    for report in found.reports:
        console.print(report_table(report, is_program=report.key == found.program.key))
    for finding in found.findings:
        style = "yellow" if finding.kind == "note" else "red"
        console.print(f"{_VERDICTS[finding.kind]}: {finding.text}", style=style)
    hosts = len({report.host for report in found.reports})
    answered = f"{len(found.reports)} worker process(es) on {hosts} host(s) answered"
    console.print(f"{answered}: {'a job would do well' if found.healthy else 'mend what is said above first'}")


def report_table(report: Report, *, is_program: bool) -> Table:
    """One process: what was looked at, and what was found."""
    title = f"worker {report.name}{' (this program)' if is_program else ''}"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(report):
        table.add_row(name, value)
    return table


def _rows(report: Report) -> Iterator[tuple[str, str]]:
    yield "processor", report.cpu
    yield "versions", ", ".join(f"{name} {version or 'none'}" for name, version in report.versions.items())
    yield "codecs", ", ".join(f"{name} {'ok' if digest else 'NO'}" for name, digest in report.codecs.items())
    yield "crc32c", report.faults.get("crc32c") or f"{report.crc32c}, {report.crc32c_mb_s:,.0f} MB/s"
    yield "threads", ", ".join(f"{name} {number}" for name, number in report.threads.items()) or "no pools"
    yield (
        "environment",
        ", ".join(f"{name}={value}" for name, value in report.variables.items()) or "nothing set",
    )
    yield "memory left", _gib(report.memory)
    yield (
        "disk left",
        f"{_gib(report.temp_disk)} in {report.temp}"
        + ("" if report.output_disk is None else f", {_gib(report.output_disk)} in the output"),
    )
    yield "output", report.faults.get("output") or ("written, read and removed" if report.output else "not asked")
    yield "first recording", report.faults.get("recording") or report.recording or "not asked"
    yield "recipe digest", report.faults.get("recipe") or report.recipe
    if report.heavy:
        yield "needless imports", ", ".join(report.heavy)


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / (1 << 30):.1f} GiB"
