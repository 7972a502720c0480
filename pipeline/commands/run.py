"""`ge2e run`: the pipeline, and a summary of what it made.

Lengths are seconds. It must not know the stages: `main` runs the graph.
"""

from __future__ import annotations

import argparse
from typing import Any

from ge2e_transforms.facts import facts
from pipeline import flags
from pipeline.commands.dataset_summary import augmentation_lines, doubts, splits_table
from pipeline.commands.extras import require_beam
from pipeline.commands.terminal import Terminal


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
    told = facts(metadata)
    counts, seconds = told["counts"], told["totals"]["seconds"]
    console.print(f"dataset    {output} (generation {metadata['generation']})")
    console.print(f"rows in    {counts['rows']}")
    for name, value in augmentation_lines(told):
        console.print(f"{name:<10} {value}")
    included = " with copies" if counts.get("copies") else ""
    console.print(f"written    {counts['written']} utterances, {seconds:.1f} s of speech in features{included}")
    for kind in ("filtered", "rejected"):
        reasons = ", ".join(f"{reason} {number}" for reason, number in counts[kind].items())
        console.print(f"{kind:<10} {sum(counts[kind].values())}{f' ({reasons})' if reasons else ''}")
    if counts["filtered"] or counts["rejected"]:
        console.print(f"ledger     {output}/{metadata['ledger']['path']}")
    console.print(splits_table(told))
    console.print(f"wall time  {wall_seconds:.1f} s, {seconds / wall_seconds:.0f} x real time")
    for warning in doubts(metadata):
        console.print(f"warning: {warning}", style="yellow")
