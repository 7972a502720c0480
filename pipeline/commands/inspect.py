"""`ge2e inspect`: what is in a dataset, as tables or as one JSON object.

Lengths are seconds, sizes bytes. It must not open an index or a record: metadata alone is read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import visible
from ge2e_transforms.facts import facts
from ge2e_transforms.metadata import require_complete
from ge2e_transforms.schema import METADATA_FILE
from pipeline.commands.dataset_summary import augmentation_lines, doubts, splits_table
from pipeline.commands.terminal import Terminal

_EXAMPLES = """examples:
  ge2e inspect features
  ge2e inspect s3://bucket/features --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    parser.add_argument("dataset", metavar="FOLDER", help="a folder, s3:// or gs://")
    parser.add_argument(
        "--json", action="store_true", help="print all of it as one JSON object instead (docs/format.md)"
    )
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Prints what metadata says; no index and no record is read."""
    dataset = Dataset.open(args.dataset)
    metadata = dataset.metadata
    require_complete(metadata, dataset.folder.where(METADATA_FILE))
    told = {"dataset": str(dataset.root), **facts(metadata), "warnings": doubts(metadata)}
    if args.json:
        print(json.dumps(told, indent=1, allow_nan=False))
        return 0
    console = Terminal()
    for name, value in _lines(told):
        console.print(Text.assemble((f"{name:<13}", "cyan"), visible(value)))
    console.print(splits_table(told))
    for warning in told["warnings"]:
        console.print(f"warning: {warning}", style="yellow")
    return 0


def _lines(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    counts, totals = told["counts"], told["totals"]
    yield "dataset", f"{told['dataset']} (generation {told['generation']})"
    included = " with copies" if counts.get("copies") else ""
    yield "holds", f"{totals['hours']:,.2f} hours of speech{included}, {totals['bytes'] / 1e6:,.1f} MB"
    yield "sources", ", ".join(told["sources"])
    yield "licences", ", ".join(dict.fromkeys(told["licences"].values()))
    yield "features", f"{told['features']} {told['feature_shape']} {told['dtype']}, stored as {told['segments']}"
    changed = ", ".join(f"{name}={value}" for name, value in told["changed"].items())
    yield "recipe", f"preset {told['preset']}{f' with {changed}' if changed else ''}"
    yield "batches", f"{told['speakers_per_batch']} speakers x {told['utterances_per_speaker']}"
    made = f" and {counts['sped']} at other speeds" if counts.get("sped") else ""
    yield "rows", f"{counts['rows']}{made}, written {counts['written']}"
    yield from augmentation_lines(told)
    for kind in ("filtered", "rejected"):
        yield kind, str(counts[kind] or "none")
    yield "history", ", ".join(f"{step['kind']} {step['generation']}" for step in told["history"])
    if told["pseudonyms"]:
        yield "ids", "keyed pseudonyms"
    if told["erased_speakers"]:
        yield "erased", f"{told['erased_speakers']} speakers"
    yield "fingerprint", told["fingerprint"]
