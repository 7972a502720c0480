"""The `ge2e` program: finds the command, sets up what is logged, and makes an exit status of how it ended.

It must not know what a command does, nor import Beam: only the module of the command that is asked for is imported.

0    all is well
1    a named error, or a check that failed (verify, audit, doctor, extract)
2    wrong usage
70   an error without a name: a bug, of this program or of a library
130  interrupted
"""

from __future__ import annotations

import argparse
import ast
import importlib
import logging
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ge2e_transforms import __version__
from ge2e_transforms.errors import DiskError, Ge2eError, visible
from ge2e_transforms.stores import StoreError
from pipeline.flags import split_arguments

# What each command is for; its module is the one of its name in `pipeline.commands`.
COMMANDS = {
    "download": "fetch a corpus: LibriSpeech",
    "manifest": "a folder of speech, or the lists of another toolkit, to a manifest",
    "plan": "what a job would make, need and take, before it is run",
    "doctor": "try what a job needs on the workers of a runner",
    "run": "manifests of speech to a dataset of features",
    "add": "more manifests into a dataset",
    "retry": "rejected rows again, after their files were mended",
    "erase": "take speakers out of a dataset, for good",
    "inspect": "what is in a dataset, per split",
    "report": "one HTML page about a dataset, with figures",
    "verify": "re-read a dataset and check all of it",
    "verify-batches": "check the batches of a dataset, and what an epoch uses",
    "presets": "the recipes of --preset, and in what they differ",
    "extract": "features of recordings, by the recipe of a dataset or a preset",
    "listen": "hear a stored utterance: its features as a WAV",
    "audit": "look for speakers across splits, doubled audio and denied speakers",
    "clean": "remove what killed jobs left beside a dataset",
    "completion": "print a script that completes commands and flags in your shell",
}
# Those that take Beam's options after `--`.
_BEAM = ("run", "plan", "doctor", "add", "retry")
# Those that go on where they stopped, and what is said of that.
_RESUMED = dict.fromkeys(("run", "add", "retry"), "finished shards are kept, and ") | {"download": ""}
FAILED, BUG, INTERRUPTED = 1, 70, 130  # 70: EX_SOFTWARE of sysexits.h; 130: 128 + SIGINT

# Beam passes on here what its worker processes log, as the text of a protocol message.
_WORKER_LOG = "apache_beam.runners.portability.local_job_service"
_WORKER_MESSAGE = re.compile(r'message: "((?:[^"\\]|\\.)*)"')


def plain_worker_message(record: logging.LogRecord) -> bool:
    """Leaves of a worker's log entry what it says; drops its warning of a folder that only containers have."""
    found = _WORKER_MESSAGE.search(record.getMessage())
    if found:
        record.msg, record.args = str(ast.literal_eval(f'"{found[1]}"')), ()
    return "semi_persistent_directory" not in record.getMessage()


class Visible(logging.Formatter):
    """Escapes what would act on a terminal; lines stay lines. Tracebacks only where they are asked for."""

    def __init__(self, *, tracebacks: bool = False) -> None:
        super().__init__("%(levelname)s: %(message)s")
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._tracebacks:  # they stand in the message, too, where a runner passes on what a worker met
            text = text.partition("\nTraceback (most recent call last)")[0].rstrip()
        return "\n".join(map(visible, text.split("\n")))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; errors are printed without a traceback, but for `--debug`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = next(iter(arguments), "")
    # argparse would take the `--` in front of Beam's options for its own.
    own, beam_arguments = split_arguments(arguments) if name in _BEAM else (arguments, [])
    args, unknown = make_parser(name).parse_known_args(own)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    args.words, args.beam_arguments = arguments[1:], beam_arguments
    try:
        with _logging(args):
            return int(args.command(args))
    except (Ge2eError, DiskError, StoreError) as error:
        if args.debug:
            traceback.print_exc()
        _say(f"{type(error).__name__}: {error}")
        return FAILED
    except KeyboardInterrupt:
        again = f"the same command goes on where it stopped: ge2e {shlex.join(arguments)}"
        _say(f"interrupted; {_RESUMED[name]}{again}" if name in _RESUMED else "interrupted")
        return INTERRUPTED
    except Exception as error:
        if args.debug:
            raise
        _say(_unnamed(error))
        return BUG


def make_parser(*names: str) -> argparse.ArgumentParser:
    """The parser of all commands, with the flags of those that are named: importing what a command needs takes time."""
    parser = argparse.ArgumentParser(prog="ge2e", description="Speech corpora to speaker-sharded features.")
    parser.add_argument("--version", action="version", version=f"ge2e {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, about in COMMANDS.items():
        own = subparsers.add_parser(
            name, help=about, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        own.description = f"{about[0].upper()}{about[1:]}."
        if name in names:
            importlib.import_module(f"pipeline.commands.{name.replace('-', '_')}").add_arguments(own)
            for leaf in leaves(own):
                _add_messages(leaf)
    return parser


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers that have no commands of their own, from this one down."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser
    for group in groups:
        for inner in group.choices.values():
            yield from leaves(inner)


def _add_messages(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("messages").add_mutually_exclusive_group()
    group.add_argument("-v", "--verbose", action="store_true", help="say more: what libraries report, too")
    group.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong: no progress, no warnings")
    parser.add_argument("--debug", action="store_true", help="show where an error came from (a traceback)")
    parser.set_defaults(parser=parser)


@contextmanager
def _logging(args: argparse.Namespace) -> Iterator[None]:
    """Warnings and worse on the standard error, or as `-v` and `-q` ask, while the block runs."""
    logs = logging.StreamHandler()
    logs.setFormatter(Visible(tracebacks=args.debug))
    root, before = logging.getLogger(), logging.getLogger().level
    logging.basicConfig(level=logging.WARNING, handlers=[logs])
    if args.verbose or args.quiet:
        root.setLevel(logging.INFO if args.verbose else logging.ERROR)
    logging.getLogger(_WORKER_LOG).addFilter(plain_worker_message)
    try:
        yield
    finally:
        root.setLevel(before)


def _say(text: str) -> None:
    print(f"ge2e: {visible(text)}", file=sys.stderr)


def _unnamed(error: Exception) -> str:
    """What is said of an error that has no name here; runners put a whole traceback into their message."""
    with tempfile.NamedTemporaryFile("w", prefix="ge2e-error-", suffix=".log", delete=False, encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    last = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no message")
    return (
        f"{type(error).__name__}: {last}. This error has no name here, so it is a bug of this program or of a library; "
        f"where it came from is in {file.name} (or run again with --debug)"
    )


if __name__ == "__main__":
    sys.exit(main())
