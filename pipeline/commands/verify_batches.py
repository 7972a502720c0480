"""`ge2e verify-batches`: what every batch promises, checked on a dataset, and what its epochs use and leave.

It must not know what is promised: `ge2e_transforms.verify_batches` does.
"""

from __future__ import annotations

import argparse
import warnings

from rich.progress import track
from rich.table import Table

from ge2e_transforms.config import parse_setting
from ge2e_transforms.loader import BatchLoader
from ge2e_transforms.verify_batches import BatchReport, verify_epoch
from pipeline.commands.terminal import Terminal

_EXAMPLES = """examples:
  ge2e verify-batches features -n 8 -m 4 --epochs 3
  ge2e verify-batches features -n 64 -m 10 --set distinct=strict --set speakers=proportional
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    parser.add_argument("dataset", metavar="FOLDER")
    default = "(default: as the dataset proposes)"
    parser.add_argument("-n", "--speakers_per_batch", type=int, metavar="N", help=f"speakers in a batch {default}")
    parser.add_argument("-m", "--utterances_per_speaker", type=int, metavar="M", help=f"crops of each {default}")
    parser.add_argument("--split", default="train", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=1, metavar="E", help="checked from epoch 0 on (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    read = "batches of each epoch that are read, not only planned (default: %(default)s)"
    parser.add_argument("--read", type=int, default=50, metavar="K", help=read)
    option = "any option of the loader, such as distinct=strict or speakers=proportional"
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", dest="settings", help=option)
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Exit status 0 if every batch keeps its promise; the first that does not is an error."""
    console = Terminal()
    options = dict(map(parse_setting, args.settings))
    crop_frames = options.pop("crop_frames", None)
    sizes = (args.speakers_per_batch, args.utterances_per_speaker, crop_frames)
    loader = BatchLoader(args.dataset, *sizes, args.seed, **options)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        stream = loader.stream(args.split)
    for note in notes:
        console.print(f"warning: {note.message}", style="yellow")
    epochs = track(range(args.epochs), "epochs", console=console, transient=True, disable=not console.is_terminal)
    reports = [verify_epoch(stream, epoch, args.read) for epoch in epochs]
    n, m = stream.sampler.speakers_per_batch, stream.sampler.options.utterances_per_speaker
    console.print(f"split {args.split!r}: every batch has {n} different speakers x {m} crops of their own")
    console.print(_epoch_table(reports))
    console.print(_coverage_table(loader.coverage(args.split)))
    return 0


def _epoch_table(reports: list[BatchReport]) -> Table:
    table = Table("epoch")
    columns = ("batches", "crops", "speakers", "repeated_utterances", "read")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for epoch, report in enumerate(reports):
        table.add_row(str(epoch), *(f"{getattr(report, name):,}" for name in columns))
    return table


def _coverage_table(coverage: dict[str, int | float]) -> Table:
    table = Table("of an epoch")
    table.add_column("", justify="right")
    table.add_column("of all crops", justify="right")
    slots = coverage["slots"]
    for name, value in coverage.items():
        share = f"{value / slots:.1%}" if name == "used" or name.startswith("left_") else ""
        table.add_row(name.replace("_", " "), f"{value:,}", share)
    return table
