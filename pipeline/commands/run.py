"""`ge2e run`: the pipeline, and a summary of what it made."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from ge2e_transforms.errors import visible
from ge2e_transforms.facts import facts
from pipeline import flags
from pipeline.commands.extras import require_beam
from pipeline.commands.terminal import Terminal

_NAMED = 3  # recordings that a warning names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_run(parser)
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Exit status 0 when the dataset stands."""
    require_beam("`ge2e run` needs")
    from pipeline import main, options

    job = options.job_config(args)
    result = main.run_job(job, options.beam_options(args, args.beam_arguments), quiet=args.quiet)
    if result.template:
        print(f"template   {result.template}")
    elif not args.quiet:
        print_summary(result.output, result.metadata, result.wall_seconds)
    return 0


def print_summary(output: str, metadata: dict[str, Any], wall_seconds: float) -> None:
    """Rows in and out, and what each split holds."""
    console = Terminal()
    counts = metadata["counts"]
    seconds = sum(split["seconds"] for split in metadata["splits"].values())
    console.print(f"dataset    {output} (generation {metadata['generation']})")
    console.print(f"rows in    {counts['rows']}")
    for name, value in augmentation_lines(facts(metadata)):
        console.print(f"{name:<10} {value}")
    included = " with copies" if counts.get("copies") else ""
    console.print(f"written    {counts['written']} utterances, {seconds:.1f} s of speech in features{included}")
    for kind in ("filtered", "rejected"):
        reasons = ", ".join(f"{reason} {number}" for reason, number in counts[kind].items())
        console.print(f"{kind:<10} {sum(counts[kind].values())}{f' ({reasons})' if reasons else ''}")
    if counts["filtered"] or counts["rejected"]:
        console.print(f"ledger     {output}/{metadata['ledger']['path']}")
    console.print(split_table(metadata))
    console.print(f"wall time  {wall_seconds:.1f} s, {seconds / wall_seconds:.0f} x real time")
    for warning in doubts(metadata):
        console.print(f"warning: {warning}", style="yellow")


def split_table(metadata: dict[str, Any]) -> Table:
    """Speakers, utterances, records, seconds and shards of each split."""
    table = Table()
    table.add_column("split")
    columns = ("speakers", "utterances", "records", "seconds", "shards")
    for name in columns:
        table.add_column(name, justify="right")
    for split, counts in metadata["splits"].items():
        table.add_row(split, *(f"{counts[name]:.1f}" if name == "seconds" else str(counts[name]) for name in columns))
    return table


def augmentation_lines(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What `facts` say of copies and speeds, name and value; nothing for a dataset without augmentation."""
    if "augmentation" not in told:
        return
    made = told["augmentation"]
    splits = f"of split {', '.join(made['splits'])}"
    if made["copies"]:
        kinds = ", ".join(f"{kind} {number}" for kind, number in made["copies"].items())
        yield "copies", f"{sum(made['copies'].values())} ({kinds}) {splits}, seed {made['seed']}"
    if made["speed"]:
        factors = ", ".join(f"{factor:g}" for factor in made["speed"])
        yield "speeds", f"{factors} {splits}: {told['counts']['sped']} rows more; each speed is a speaker of its own"


def doubts(metadata: Mapping[str, Any]) -> list[str]:
    """What somebody should know of a dataset before training on it."""
    unusable = metadata["augmentation"]["unusable"] if "augmentation" in metadata else {}
    named = [f"{visible(place)} ({visible(why.partition(':')[0])})" for place, why in list(unusable.items())[:_NAMED]]
    told = [
        f"{len(unusable)} recording(s) of noise or rooms could not be used, and others were drawn in their place: "
        f"{', '.join(named)}{', ...' if len(unusable) > _NAMED else ''}"
    ]
    return small_splits(metadata) + told * bool(unusable)


def small_splits(metadata: Mapping[str, Any]) -> list[str]:
    """Splits that hold fewer speakers than a batch of the size that the metadata proposes, or none at all."""
    wanted, plan = metadata["speakers_per_batch"], metadata["plan"]
    drawn = [split for split in ("test", "valid") if plan[f"{split}_fraction"] or plan[f"{split}_speakers"]]
    return [
        f"no speaker was drawn for split {split!r}: ask for a larger --{split}_fraction"
        for split in drawn
        if split not in metadata["splits"]
    ] + [
        f"split {split!r} has {counts['speakers']} speakers, fewer than the {wanted} of a batch: "
        f"the loader will use {counts['speakers']} there"
        for split, counts in metadata["splits"].items()
        if counts["speakers"] < wanted
    ]
