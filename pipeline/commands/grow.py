"""`ge2e add` and `ge2e retry`: more utterances into a dataset that is there, without computing the rest again."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import MissingExtraError
from ge2e_transforms.metadata import require_complete
from ge2e_transforms.schema import METADATA_FILE
from ge2e_transforms.splits import PlanConfig
from pipeline.commands.terminal import Terminal

_ADD = """examples:
  ge2e add --manifest new.csv features
  ge2e add --manifest gs://bucket/new.csv gs://bucket/features -- --runner=DataflowRunner ...

Shards that are there stay byte for byte; speakers that are there keep their label and split; utterances that are there
are left as they are. All after -- goes to Beam as it is.
"""
_RETRY = """Rows that were rejected for their audio (missing, corrupt, ...) are read again where their manifest has
them. What can be written now is added; the others stay in the ledger. Rows whose manifest was changed meanwhile stay
there too: `ge2e add` takes the changed manifest. All after -- goes to Beam as it is.
"""


def add_arguments(subparsers: Any) -> None:
    """The parsers of `ge2e add` and `ge2e retry`; Beam is imported only when they run."""
    for name, command, about in (
        ("add", add, "more manifests into a dataset"),
        ("retry", retry, "rejected rows again, after their files were mended"),
    ):
        parser = subparsers.add_parser(name, help=about, add_help=False)
        parser.add_argument("rest", nargs=argparse.REMAINDER)
        parser.set_defaults(command=command)


def add(args: argparse.Namespace) -> int:
    """Exit status 0 also if the manifests hold nothing new."""
    return _run("add", _ADD, args.rest)


def retry(args: argparse.Namespace) -> int:
    """Exit status 0 also if nothing could be read this time either."""
    return _run("retry", _RETRY, args.rest)


def _run(kind: str, epilog: str, arguments: Sequence[str]) -> int:
    try:
        import apache_beam  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"Apache Beam, which `ge2e {kind}` needs,", "beam") from error
    from pipeline import growth, main, options, publishing

    own, beam_arguments = main.split_arguments(arguments)
    args = _parser(kind, epilog).parse_args(own)
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
    result = main.run_job(job, options.beam_options(args, beam_arguments))
    _print(console, before, result.metadata)
    return 0


def _parser(kind: str, epilog: str) -> argparse.ArgumentParser:
    from pipeline import options

    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=f"ge2e {kind}", allow_abbrev=False, formatter_class=raw, epilog=epilog)
    parser.add_argument("output", metavar="FOLDER", help="of the dataset; local, gs:// or s3://")
    if kind == "add":
        parser.add_argument("--manifest", action="append", required=True, metavar="FILE", help="as for `ge2e run`")
        options.add_max_rejected(parser)
        recipe = parser.add_argument_group("recipe", "by default the dataset's; another one is refused")
        options.add_recipe(recipe)
        options.add_shard_size(parser.add_argument_group("shards"))
        parser.set_defaults(preset=None, shard_mib=None)
    options.add_pseudonymize(parser)
    options.add_isolation(parser)
    options.add_places(parser.add_argument_group("places"))
    options.add_local(parser.add_argument_group("where it runs"))
    return parser


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
        isolate_decoder=args.isolate_decoder,
        pseudonym_key=key,
        allow_outside=args.allow_outside,
        allow_schemes=tuple(args.allow_schemes),
        token=uuid.uuid4().hex[:16],
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
    for name in ("rows", "written"):
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
