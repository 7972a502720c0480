"""`ge2e inspect`: what is in a dataset."""

from __future__ import annotations

import argparse

from ge2e_transforms.dataset import Dataset
from ge2e_transforms.metadata import require_complete
from ge2e_transforms.schema import METADATA_FILE
from pipeline.commands.run import small_splits, split_table
from pipeline.commands.terminal import Terminal

_EXAMPLES = """examples:
  ge2e inspect features
  ge2e inspect gs://bucket/features
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    parser.add_argument("dataset", metavar="FOLDER")
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Prints recipe, counts and splits of a dataset."""
    dataset = Dataset.open(args.dataset)
    metadata = dataset.metadata
    require_complete(metadata, dataset.folder.where(METADATA_FILE))
    console = Terminal()
    console.print(f"dataset      {dataset.root} (generation {metadata['generation']})")
    console.print(f"sources      {', '.join(metadata['datasets'])}")
    shape = f"{metadata['features']} {metadata['feature_shape']} {metadata['dtype']}"
    console.print(f"features     {shape}, stored as {metadata['segments']}")
    console.print(f"batches      {metadata['speakers_per_batch']} speakers x {metadata['utterances_per_speaker']}")
    counts = metadata["counts"]
    console.print(f"rows         {counts['rows']}, written {counts['written']}")
    console.print(f"filtered     {counts['filtered'] or 'none'}")
    console.print(f"rejected     {counts['rejected'] or 'none'}")
    console.print(split_table(metadata))
    console.print(f"fingerprint  {metadata['fingerprint']}")
    for warning in small_splits(metadata):
        console.print(f"warning: {warning}", style="yellow")
    return 0
