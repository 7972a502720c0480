"""`ge2e report`: a page about a dataset, for people: figures, spectrograms, suspects, ledger, licences.

It must not know what is on the page: `report_page` does.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from ge2e_transforms.checks import check_integer
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import MissingExtraError
from pipeline.commands.results import place_of_result, write_result
from pipeline.commands.terminal import Terminal

_EXAMPLES = """examples:
  ge2e report features
  ge2e report s3://bucket/features -o features.html
  ge2e report features --utterance 84-121123-0000 --utterance 84-121123-0001 --seed 7
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    parser.add_argument("dataset", metavar="FOLDER", help="a folder, s3:// or gs://")
    default = "default: the dataset's name with -report.html, in the current folder"
    parser.add_argument("-o", "--output", metavar="FILE.html", help=f"never inside of the dataset ({default})")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the records that are drawn (default: 0)")
    shown = "id of an utterance to show, beside those that are drawn (repeatable)"
    parser.add_argument("--utterance", metavar="ID", action="append", default=[], dest="utterances", help=shown)
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Writes the page, whole or not at all."""
    for package in ("jinja2", "matplotlib"):
        if find_spec(package) is None:
            raise MissingExtraError(f"{package}, which `ge2e report` needs,", "report")
    from pipeline.report_page import page

    check_integer("seed", args.seed, 0, 1 << 64)
    dataset = Dataset.open(args.dataset)
    path = place_of(dataset, args.output)
    content = page(dataset, args.seed, args.utterances).encode()
    write_result(path, content)
    Terminal().print(f"report   {path} ({len(content) / 1e6:.1f} MB)")
    return 0


def place_of(dataset: Dataset, output: str | None) -> Path:
    """Where the page is written.

    Raises:
        ConfigError: that would be within the dataset, or is no file on this machine.
    """
    name = PurePosixPath(str(dataset.root)).name
    if dataset.folder.is_local:
        name = Path(dataset.root).resolve().name
    default = f"{name or 'dataset'}-report.html"
    return place_of_result(dataset, str(Path.cwd() / default) if output is None else output, default)
