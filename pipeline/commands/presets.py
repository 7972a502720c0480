"""`ge2e presets`: the recipes that `--preset` begins with, and in what they differ.

Units stand in the names of fields. It must not know how a recipe is computed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from rich.table import Table

from ge2e_transforms.config import PRESETS, Recipe
from pipeline.commands.terminal import Terminal

_EXAMPLES = """examples:
  ge2e presets
  ge2e presets --json > presets.json
"""
# Of the values: logarithms of power, or power itself.
_UNITS = {"log10": "log10", "ln": "ln", "db": "dB", "none": "power"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    parser.add_argument("--json", action="store_true", help="all fields of each, as JSON")
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Prints the table, or JSON."""
    if args.json:
        print(json.dumps({name: about(recipe) for name, recipe in PRESETS.items()}, indent=1))
        return 0
    console = Terminal()
    table = Table("", *PRESETS, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.columns[0].no_wrap = True
    for name, values in [*_examples().items(), *differences().items()]:
        table.add_row(name, *map(_text, values))
    console.print(table)
    console.print("A preset is a start: --set field=value changes any field. ge2e presets --json lists all of them;")
    console.print("docs/presets.md says how near each is to what it is named after.")
    return 0


def about(recipe: Recipe) -> dict[str, Any]:
    """All fields of a recipe by stage, and what one example of it is like."""
    return {
        "form": recipe.segment.segments,
        "feature_shape": recipe.feature_shape,
        "unit": _UNITS[recipe.feature.log],
        "fingerprint": recipe.fingerprint(),
        "recipe": dataclasses.asdict(recipe),
    }


def differences() -> dict[str, list[Any]]:
    """Fields that are not the same in all presets, with the value in each."""
    stages = [dataclasses.asdict(recipe) for recipe in PRESETS.values()]
    values = {name: [each[stage][name] for each in stages] for stage in stages[0] for name in stages[0][stage]}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def _examples() -> dict[str, list[Any]]:
    every = [about(recipe) for recipe in PRESETS.values()]
    shapes = [" x ".join(map(str, each["feature_shape"])) for each in every]
    return {"bins x frames": shapes, "unit": [each["unit"] for each in every]}


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.{3 if abs(value) < 1 else 6}g}" if isinstance(value, float) else str(value)
