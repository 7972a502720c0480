"""`ge2e completion`: a script that completes commands, flags and files in a shell.

It must not know any command: the program's own parser is asked.
"""

from __future__ import annotations

import argparse

import shtab

_EXAMPLES = """examples:
  ge2e completion bash > ~/.local/share/bash-completion/completions/ge2e
  ge2e completion zsh > ~/.zsh/completions/_ge2e   # a folder of $fpath
"""
# What is completed as the name of a file or a folder.
_PATHS = {"FILE": shtab.FILE, "KEYFILE": shtab.FILE, "FOLDER": shtab.DIRECTORY, "ROOT": shtab.DIRECTORY}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Prints the script for all commands, as they are now."""
    from pipeline import __main__ as program

    parser = program.make_parser(*program.COMMANDS)
    for leaf in program.leaves(parser):
        for action in leaf._actions:
            if action.metavar in _PATHS:
                action.complete = _PATHS[action.metavar]  # type: ignore[attr-defined]
    print(shtab.complete(parser, args.shell))
    return 0
