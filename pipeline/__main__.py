"""The `ge2e` program: exit status 0 when all is well, 1 for a named error, 2 for wrong usage."""

from __future__ import annotations

import argparse
import ast
import logging
import re
import sys
from collections.abc import Sequence

from ge2e_transforms import __version__
from ge2e_transforms.errors import DiskError, Ge2eError, visible
from ge2e_transforms.stores import StoreError
from pipeline.commands import (
    audit,
    clean,
    doctor,
    download,
    erase,
    grow,
    inspect,
    manifest,
    run,
    verify,
    verify_batches,
)

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
    """Escapes what would act on a terminal; lines stay lines."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(visible, super().format(record).split("\n")))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; errors of ours are printed without a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logs = logging.StreamHandler()
    logs.setFormatter(Visible("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[logs])
    logging.getLogger(_WORKER_LOG).addFilter(plain_worker_message)
    parser = argparse.ArgumentParser(prog="ge2e", description="Speech corpora to speaker-sharded features.")
    parser.add_argument("--version", action="version", version=f"ge2e {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (download, manifest, doctor, run, grow, erase, inspect, verify, verify_batches, audit, clean):
        command.add_arguments(subparsers)
    # argparse would take the `--` in front of Beam's options for its own.
    beam_commands = {"run": run.command, "doctor": doctor.command, "add": grow.add, "retry": grow.retry}
    raw = beam_commands.get(arguments[0] if arguments else "")
    args = argparse.Namespace(command=raw, rest=arguments[1:]) if raw else parser.parse_args(arguments)
    try:
        return int(args.command(args))
    except (Ge2eError, DiskError, StoreError) as error:
        print(f"ge2e: {type(error).__name__}: {visible(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ge2e: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
