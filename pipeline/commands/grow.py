"""What `ge2e add` and `ge2e retry` share: more utterances into a dataset that is there, the rest not computed again.

It must not know the stages: `main` runs the job that it makes of the flags and of what the dataset says of itself.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import replace
from typing import Any

from rich.console import Console

from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.config import Recipe
from ge2e_transforms.metadata import require_complete
from ge2e_transforms.schema import METADATA_FILE
from ge2e_transforms.splits import PlanConfig
from pipeline import flags
from pipeline.commands.extras import require_beam
from pipeline.commands.terminal import Terminal


def add_arguments(parser: argparse.ArgumentParser, kind: str, examples: str) -> None:
    """Flags of `ge2e add` or `ge2e retry`."""
    parser.epilog = examples
    parser.add_argument("output", metavar="FOLDER", help="of the dataset; local, gs:// or s3://")
    if kind == "add":
        parser.add_argument("--manifest", action="append", required=True, metavar="FILE", help="as for `ge2e run`")
        flags.add_max_rejected(parser)
        recipe = parser.add_argument_group("recipe", "by default the dataset's; another one is refused")
        flags.add_recipe(recipe, preset=None)
        flags.add_shard_size(parser.add_argument_group("shards"), default=None)
    flags.add_pseudonymize(parser)
    flags.add_isolation(parser)
    flags.add_places(parser.add_argument_group("places"))
    flags.add_local(parser.add_argument_group("where it runs"))
    parser.set_defaults(command=functools.partial(_run, kind))


def _run(kind: str, args: argparse.Namespace) -> int:
    require_beam(f"`ge2e {kind}` needs")
    from pipeline import growth, main, options, publishing

    output = options.absolute("FOLDER", args.output)
    before = publishing.read(output).metadata
    job = _job(kind, args, output, before)
    console = Terminal()
    if kind == "retry":
        places = growth.retryable(growth.ledger_of(output, before))
        if not places:
            console.print(f"nothing to retry: no row in the ledger of {output} was rejected for its audio")
            return 0
        job = replace(job, manifests=tuple(sorted({row.manifest for row in places})))
    result = main.run_job(job, options.beam_options(args, args.beam_arguments), quiet=args.quiet)
    if not args.quiet:
        _print(console, before, result.metadata)
    return 0


def _job(kind: str, args: argparse.Namespace, output: str, present: dict[str, Any]) -> Any:
    """The job, with what the dataset says of itself; refused at once where the two do not go together."""
    from pipeline import options, plan, storage
    from pipeline.read import read_key

    key = options.key_file(args)
    check = read_key(key).check if key else ""
    if present:
        require_complete(present, storage.join(output, METADATA_FILE))  # before its recipe is taken
    recipe = _recipe(kind, args, present)
    plan.check_growth(output, present, recipe, check)
    layout = PlanConfig(**present["plan"])
    if kind == "add" and args.shard_mib is not None:
        layout = replace(layout, shard_mib=args.shard_mib)
    return options.JobConfig(
        manifests=tuple(options.absolute("--manifest", path) for path in args.manifest) if kind == "add" else (),
        output=output,
        recipe=recipe,
        plan=layout,
        max_rejected=args.max_rejected if kind == "add" else 1.0,
        speakers_per_batch=present["speakers_per_batch"],
        utterances_per_speaker=present["utterances_per_speaker"],
        kind=kind,
        augmentation=Augmentation.of(present),
        isolate_decoder=args.isolate_decoder,
        pseudonym_key=key,
        allow_outside=args.allow_outside,
        allow_schemes=tuple(args.allow_schemes),
        token=options.new_token(),
    )


def _recipe(kind: str, args: argparse.Namespace, present: dict[str, Any]) -> Recipe:
    from pipeline import options

    if kind == "add" and (args.preset or args.segments or args.features or args.dtype or args.settings):
        args.preset = args.preset or "ge2e"
        return options.chosen_recipe(args)
    return Recipe.from_dict(present["recipe"]) if present else Recipe()


def _print(console: Console, before: dict[str, Any], after: dict[str, Any]) -> None:
    if before["generation"] == after["generation"]:
        console.print(f"nothing new: the dataset stays as it was (generation {after['generation']})")
        return
    console.print(f"generation {before['generation']} -> {after['generation']}")
    made = [name for name in ("sped", "copies") if name in after["counts"]]
    for name in ("rows", *made, "written"):
        console.print(f"{name:<10} {before['counts'][name]} -> {after['counts'][name]}")
    for kind in ("filtered", "rejected"):
        then, now = (sum(metadata["counts"][kind].values()) for metadata in (before, after))
        console.print(f"{kind:<10} {then} -> {now}")
    for split, counts in after["splits"].items():
        then = before["splits"].get(split, {"speakers": 0, "utterances": 0})
        console.print(
            f"{split:<10} {then['speakers']} -> {counts['speakers']} speakers, "
            f"{then['utterances']} -> {counts['utterances']} utterances"
        )
