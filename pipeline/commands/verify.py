"""`ge2e verify`: re-reads a dataset; prints its digest, or compares it with another.

It must not know what is checked: `ge2e_transforms.verify` and `digest` do.
"""

from __future__ import annotations

import argparse

from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import TOLERANCE, compare, digest
from ge2e_transforms.verify import verify
from pipeline.commands.terminal import Terminal

_EXAMPLES = """examples:
  ge2e verify features
  ge2e verify features --digest
  ge2e verify features --against other-features
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    parser.add_argument("dataset", metavar="FOLDER")
    parser.add_argument("--digest", action="store_true", help="also print one digest of all that does not name the run")
    parser.add_argument(
        "--against", metavar="FOLDER", help=f"also compare with another dataset, values within {TOLERANCE:g}"
    )
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Exit status 0 if all is well; the first fault is an error that says where it is."""
    console = Terminal()
    dataset = Dataset.open(args.dataset)
    report = verify(dataset)
    for split in dataset.splits:
        console.print(
            f"{split}: {report.shards[split]} shards, {report.records[split]} records, {report.bytes[split]} bytes: ok"
        )
    if args.digest:
        console.print(f"digest {digest(dataset)}")
    if args.against is None:
        return 0
    other = Dataset.open(args.against)
    verify(other)
    if digest(dataset) == digest(other):
        console.print(f"equal to {other.root} to the byte")
        return 0
    largest = compare(dataset, other)
    console.print(f"largest difference from {other.root}: {largest:.3g} (allowed: {TOLERANCE:g})")
    return 0 if largest <= TOLERANCE else 1
