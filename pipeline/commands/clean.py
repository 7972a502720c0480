"""`ge2e clean`: removes what killed jobs and replaced datasets left in a folder.

Sizes are bytes. It must not know which files are ours: `pipeline.clean` does.
"""

from __future__ import annotations

import argparse

from pipeline.commands.extras import require_beam

_EXAMPLES = """examples:
  ge2e clean features --dry_run
  ge2e clean s3://bucket/features
"""
_TEXT = """\
Removes from FOLDER the files that `ge2e run` wrote and that metadata.json does not list: shards of killed jobs and
replaced datasets, verdicts, temporary files of processes that are gone (or a day old). Files of other names stay.

Files of a job that is running are not listed either: clean only when none is.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = _TEXT
    parser.epilog = _EXAMPLES
    parser.add_argument("dataset", metavar="FOLDER", help="local, gs:// or s3://")
    parser.add_argument("--dry_run", action="store_true", help="name the files, remove nothing")
    unfinished = "remove the finished shards of a stopped job too, where no metadata.json is"
    parser.add_argument("--unfinished", action="store_true", help=unfinished)
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Prints how many files and bytes were removed; with `--dry_run` the name of each."""
    require_beam("`ge2e clean` needs")
    from pipeline.clean import clean
    from pipeline.options import absolute

    cleaned = clean(absolute("FOLDER", args.dataset), dry_run=args.dry_run, unfinished=args.unfinished)
    if args.dry_run:
        print(*cleaned.names, sep="\n", end="\n" if cleaned.names else "")
    print(f"{'would remove' if args.dry_run else 'removed'} {len(cleaned.names)} files, {cleaned.bytes:,} bytes")
    return 0
