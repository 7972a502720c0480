"""What got slower from one result to another.

    python benchmarks/compare.py OLD.json NEW.json [--percent 10]
    python benchmarks/compare.py OLD_FOLDER NEW_FOLDER       # all files that both have

Prints what got worse by more than so many percent, and what stands on one side only; ends with status 1 if anything got
worse. The names of a result's keys say what its numbers are:

- less is better: `seconds` and names that begin or end with it, names that end with `_s`, `_ms` or `_mib`,
  `us_per_row`, `ms_an_hour`, `times_decode`, `mean_error`, `spectral_convergence`, names that end with `eer_percent`;
- more is better: names that begin or end with `x_real_time`, or end with `_per_s`, `_per_core_s` or `_a_second`,
  `first_epoch`, `first_epoch_whole` and `later_epochs` (slots a second), `to_decode`, `to_library`, `killed_percent`;
- nothing else is compared: no bytes, counts, facts about the speech (`audio_s`, `voiced_s`), or what was noted beside
  (`about`, `goals`, `load_before`).

A number without such a name of its own takes the nearest one around it. Rows of a list are matched by their texts and
by `rows`, `records`, `members`, `speakers`, `utterances`, `manifests`, `workers`, `times` and `cores`; rows that are
alike in these are rounds, and so are the numbers of a list, or the lists of a list, column by column: the median
counts. `rounds` beside medians are left out. A difference of less than 0.02, whatever the unit, is the rounding of the
results.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_MORE = re.compile(
    r"x_real_time(_.*)?|.*_x_real_time|.*_per_(core_)?s|.*_a_second"
    r"|first_epoch(_whole)?|later_epochs|to_decode|to_library|killed_percent"
)
_LESS = re.compile(
    r"seconds\b.*|seconds_.*|.*_seconds|.*_(s|ms|mib)|us_per_row|ms_an_hour|times_decode"
    r"|largest_difference|all_but_one_in_\d+|mean_error|spectral_convergence|(.*_)?eer_percent"
)
_SKIPPED = re.compile(r"about|goals|load_before|rounds(_.*)?|audio_s|voiced_s|.*bytes.*")
_IDENTIFYING = ("rows", "records", "members", "speakers", "utterances", "manifests", "workers", "times", "cores")
_LEAST = 0.02


class Figure(NamedTuple):
    """A number of a result, and whether more of it is better."""

    value: float
    more_is_better: bool


class Change(NamedTuple):
    """A figure of both results; `factor` is above 1 where the new one is worse."""

    name: str
    old: float
    new: float
    factor: float


def figures(result: Any) -> dict[str, Figure]:
    """All numbers of a result that can be better or worse, by where they stand."""
    found: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for path, value, better in _numbers(result, (), None):
        found[" / ".join(path), better].append(value)
    return {name: Figure(float(statistics.median(values)), better) for (name, better), values in found.items()}


def _numbers(part: Any, path: tuple[str, ...], better: bool | None) -> Iterator[tuple[tuple[str, ...], float, bool]]:
    if isinstance(part, dict):
        for key, value in part.items():
            if not _SKIPPED.fullmatch(key):
                yield from _numbers(value, (*path, key), _direction(key, better))
    elif isinstance(part, list):
        for place, value in _items(part):
            yield from _numbers(value, (*path, *place), better)
    elif isinstance(part, int | float) and not isinstance(part, bool) and better is not None:
        yield path, float(part), better


def _direction(key: str, around: bool | None) -> bool | None:
    if _MORE.fullmatch(key):
        return True
    return False if _LESS.fullmatch(key) else around


def _items(items: list[Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What each item of a list is called: a row by what identifies it, a column by its number, a round by nothing."""
    for item in items:
        if isinstance(item, list):
            yield from (((f"column {number}",), value) for number, value in enumerate(item))
        else:
            name = _identity(item) if isinstance(item, dict) else ""
            yield (name,) if name else (), item


def _identity(row: dict[str, Any]) -> str:
    texts = [value for value in row.values() if isinstance(value, str)]
    numbers = [f"{key}={row[key]}" for key in _IDENTIFYING if isinstance(row.get(key), int)]
    return ", ".join((*texts, *numbers))


def changes(old: dict[str, Figure], new: dict[str, Figure]) -> list[Change]:
    """Of what both have, the worst first."""
    found = []
    for name in old.keys() & new.keys():
        before, after = old[name].value, new[name].value
        worse, better = (before, after) if old[name].more_is_better else (after, before)
        factor = worse / better if better > 0 else float("inf")
        if abs(before - after) < _LEAST:
            factor = 1.0
        found.append(Change(name, before, after, factor))
    return sorted(found, key=lambda change: (-change.factor, change.name))


def compare(old: Any, new: Any, percent: float) -> tuple[list[Change], str]:
    """What got worse, and a report of it."""
    before, after = figures(old), figures(new)
    found = changes(before, after)
    limit = 1 + percent / 100
    slower = [change for change in found if change.factor > limit]
    faster = sum(change.factor < 1 / limit for change in found)
    lines = [f"{len(found)} figures compared, {len(slower)} worse and {faster} better by more than {percent:g} %"]
    if slower:
        lines += ["", "| worse | old | new | times |", "| --- | ---: | ---: | ---: |"]
        lines += [f"| {one.name} | {one.old:g} | {one.new:g} | {one.factor:.2f} |" for one in slower]
    for side, names in (("old", before.keys() - after.keys()), ("new", after.keys() - before.keys())):
        lines += [f"only in the {side} result: {name}" for name in sorted(names)]
    return slower, "\n".join(lines)


def pairs(old: Path, new: Path) -> list[tuple[Path, Path]]:
    """The files to compare: the two given, or those of one name in two folders."""
    if not old.is_dir():
        return [(old, new)]
    return [(path, new / path.name) for path in sorted(old.glob("*.json")) if (new / path.name).exists()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--percent", type=float, default=10.0)
    args = parser.parse_args(arguments)
    worse = 0
    for old, new in pairs(args.old, args.new):
        slower, text = compare(json.loads(old.read_text()), json.loads(new.read_text()), args.percent)
        print(f"{new.name}: {text}")
        worse += len(slower)
    return int(worse > 0)


if __name__ == "__main__":
    sys.exit(main())
