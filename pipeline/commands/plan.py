"""`ge2e plan`: what a job would make, need and take, before it is run.

Lengths come in seconds and sizes in bytes, but for shards, which are in MiB. It must not know how a figure is found:
`survey`, `calibrate` and `forecast` do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.table import Table
from tqdm import tqdm

from pipeline import flags
from pipeline.commands.extras import require_beam
from pipeline.commands.terminal import Terminal

if TYPE_CHECKING:
    from ge2e_transforms.planning import Augmented
    from pipeline.calibrate import Speed
    from pipeline.forecast import Forecast
    from pipeline.options import JobConfig
    from pipeline.survey import Survey

_EXAMPLES = """examples:
  ge2e plan --manifest manifest.csv --output features
  ge2e plan --manifest manifest.csv --output features --test_speakers 40 --set n_mels=64 --json

Takes the flags of `ge2e run`, and ends with that command. The headers of recordings are read, nothing is written, and
some rows are computed for two seconds, to see how fast this machine is; with --augment copies of them for four.
"""
_OURS = ("--json", "-v", "--verbose", "-q", "--quiet", "--debug")
_GIB, _MIB = 1 << 30, 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_run(parser)
    parser.epilog = _EXAMPLES
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Exit status 0 also where something looks wrong; that is said."""
    require_beam("`ge2e plan` needs")
    from pipeline import options
    from pipeline.forecast import forecast
    from pipeline.sound_lists import augmented_of
    from pipeline.survey import survey

    job = options.job_config(args)
    augmented = augmented_of(job)
    processes = options.local_processes(options.beam_options(args, args.beam_arguments))
    with tqdm(desc="reading headers", unit=" rows", leave=False, disable=args.quiet or None) as bar:
        found = survey(job, bar.update)
    speed, trouble = _speed(job, found, processes or 1, augmented)
    expected = forecast(job, found, speed, here=processes is not None, augmented=augmented)
    expected.warnings.extend(trouble)
    words = ["ge2e", "run", *(word for word in args.words if word not in _OURS)]
    if args.json:
        content = {**dataclasses.asdict(expected), "processes": processes, "command": words}
        print(json.dumps(content, indent=1))
    else:
        facts = [*_facts(found, expected, processes), *_copies(expected, augmented)]
        _print(Terminal(), facts, expected, shlex.join(words))
    return 0


def _speed(
    job: JobConfig, found: Survey, processes: int, augmented: Augmented | None
) -> tuple[Speed | None, list[str]]:
    from ge2e_transforms.errors import WorkerError
    from pipeline.calibrate import calibrate

    if not found.sample:
        return None, ["no recording can be read, so nothing was computed"]
    try:
        return calibrate(job, found.sample, processes, augmented), []
    except WorkerError as error:
        return None, [str(error)]


def _print(console: Terminal, facts: Iterable[tuple[str, str]], expected: Forecast, words: str) -> None:
    for name, value in facts:
        console.print(f"{name:<10} {value}")
    console.print(_split_table(expected))
    console.print(_eligible_table(expected))
    for warning in expected.warnings:
        console.print(f"warning: {warning}", style="yellow")
    console.print("to run it:")
    console.print(f"  {words}")


def _facts(found: Survey, expected: Forecast, processes: int | None) -> Iterator[tuple[str, str]]:
    hours = sum(split.seconds for split in expected.splits.values()) / 3600
    speakers = sum(split.speakers for split in expected.splits.values())
    yield "rows", f"{expected.rows:,}, of which {expected.refused + expected.unreadable:,} cannot be used"
    yield "speech", f"{hours:,.1f} hours of {speakers:,} speakers, silence included"
    where = {"manifest": "from the manifest", "header": "from headers", "bytes": "estimated by their bytes"}
    yield "lengths", ", ".join(f"{count:,} {where[name]}" for name, count in found.lengths.most_common())
    formats = ", ".join(f"{name} {count:,}" for name, count in found.formats.most_common(4))
    rates = ", ".join(f"{rate:,} Hz {count:,}" for rate, count in found.rates.most_common(4))
    yield "audio", f"{formats or 'none was looked at'}; {rates}"
    if expected.voiced is not None:
        yield "voice", f"{expected.voiced:.0%} of what was computed is kept"
    yield "disk", _disk(expected)
    if expected.memory is not None:
        yield "memory", f"{expected.memory / _MIB:,.0f} MiB for a worker process"
    if expected.core_hours is not None:
        yield "work", f"{_duration(expected.core_hours * 3600)} of one core such as these"
    if expected.wall_s is not None:
        yield "wall time", f"{_duration(expected.wall_s)} by {processes} process{'es' * (processes != 1)} here"


def _copies(expected: Forecast, augmented: Augmented | None) -> Iterator[tuple[str, str]]:
    """What is written beside clean speech, and from how many recordings."""
    if augmented is None:
        return
    copies = ", ".join(copy.name for copy in augmented.config.copies)
    speeds = ", ".join(f"{factor:g}" for factor in augmented.config.speed)
    each = " and ".join(filter(None, (f"copies {copies}" * bool(copies), f"speeds {speeds}" * bool(speeds))))
    grown = [f"{split.growth:.1f} times {name}" for name, split in expected.splits.items() if split.growth != 1]
    yield "beside it", f"{each}: {', '.join(grown) or 'in no split of these'}"
    if counts := ", ".join(f"{entry.kind} {entry.rows:,}" for entry in augmented.sounds):
        yield "sounds", counts


def _disk(expected: Forecast) -> str:
    most = f"{expected.disk_most / _GIB:,.2f} GiB at most"
    likely = f"about {expected.disk_likely / _GIB:,.2f} GiB, " if expected.disk_likely is not None else ""
    free = "" if expected.disk_free is None else f"; {expected.disk_free / _GIB:,.1f} GiB are free"
    return f"{likely}{most}{free}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else tqdm.format_interval(round(seconds))


def _split_table(expected: Forecast) -> Table:
    table = Table("split", title="splits and shards (MiB if all is voice)", title_justify="left")
    for name in ("speakers", "utterances", "hours", "shards", "smallest", "median", "largest"):
        table.add_column(name, justify="right")
    for name, split in expected.splits.items():
        sizes = (f"{size:,.1f}" for size in (split.smallest, split.median, split.largest))
        hours = f"{split.seconds / 3600:,.2f}"
        table.add_row(name, f"{split.speakers:,}", f"{split.rows:,}", hours, f"{split.shards:,}", *sizes)
    return table


def _eligible_table(expected: Forecast) -> Table:
    """As far as any speaker has so many, and one further."""
    table = Table("speakers with at least M utterances: M", title_justify="left")
    sizes = next(iter(expected.splits.values())).eligible
    met = [m for m in sizes if any(split.eligible[m] for split in expected.splits.values())]
    for name in expected.splits:
        table.add_column(name, justify="right")
    for m in list(sizes)[: len(met) + 1]:
        table.add_row(str(m), *(f"{split.eligible[m]:,}" for split in expected.splits.values()))
    return table
