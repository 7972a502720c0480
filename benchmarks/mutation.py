"""Changes every function of four files in every small way: which share of the changes do tests notice?

    python benchmarks/mutation.py [--only planning records sampling voice] [--json FILE]

mutmut makes the mutants (`+` to `-`, `<` to `<=`, a number one larger, an argument left out, a text in capitals, and
more) and runs for each the tests that reach its function, until one fails. `[tool.mutmut]` in pyproject.toml says of
which tests. One mutant is tested at a time, in the folder `mutants`, which is made anew. Prints a table; with --json
also writes its rows to a file, in place of earlier ones of their names. Afterwards `mutmut results` lists what is left,
and `mutmut show NAME` shows a mutant.

A mutant is killed where a test fails. One that runs into its limit of time has its own column and does not count as
killed; one that no test reaches has survived. Linux.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from timing import ROOT, Goal, Run, about, save, table

FILES = ("planning", "records", "sampling", "voice")
GOAL_PERCENT = 85.0
MUTMUT = Path(sys.executable).parent / "mutmut"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FILES, default=FILES)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    earlier = json.loads(args.json.read_text())["files"] if args.json and args.json.exists() else []
    shutil.rmtree(ROOT / "mutants", ignore_errors=True)
    found = {row["name"]: row for row in [*earlier, *map(tested, args.only)]}
    rows = [found[name] for name in sorted(found)]
    columns = ("mutants", "killed", "survived", "timeouts", "killed_percent", "seconds")
    print(table(["file", *columns], [[row["name"], *(row[column] for column in columns)] for row in rows]))
    goals = [Goal(f"{row['name']}: killed %", row["killed_percent"], GOAL_PERCENT) for row in rows]
    save(args.json, {"about": about(mutmut=importlib.metadata.version("mutmut")), "files": rows}, goals)


def tested(name: str) -> Run:
    """The row of one file."""
    began, load = time.monotonic(), round(os.getloadavg()[0], 1)
    mutmut("run", "--max-children", "1", f"ge2e_transforms.{name}.*", output=sys.stderr.fileno())
    lines = mutmut("results", "--all", "true").splitlines()
    fates = [line.rpartition(": ")[2] for line in lines if line.strip().startswith(f"ge2e_transforms.{name}.")]
    return {"name": f"{name}.py", **counted(fates), "seconds": round(time.monotonic() - began), "load_before": load}


def counted(fates: list[str]) -> Run:
    """What became of mutants, by what mutmut calls it."""
    counts = Counter(fates)
    killed, timeouts = counts["killed"], counts["timeout"]
    if not fates or counts["not checked"]:
        raise SystemExit(f"mutants that were not tested: {dict(counts)}")
    return {
        "mutants": len(fates),
        "killed": killed,
        "survived": len(fates) - killed - timeouts,
        "timeouts": timeouts,
        "killed_percent": round(100 * killed / len(fates), 1),
    }


def mutmut(*arguments: str, output: int = subprocess.PIPE) -> str:
    # The copy in `mutants/` must be what is imported, and what is missing on this machine is skipped by tests.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CI")}
    done = subprocess.run([MUTMUT, *arguments], cwd=ROOT, env=environment, stdout=output, text=True)
    if done.returncode:
        raise SystemExit(f"mutmut {' '.join(arguments)} ended with status {done.returncode}")
    return done.stdout or ""


if __name__ == "__main__":
    main()
