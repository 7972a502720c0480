"""Kills `ge2e run` by SIGKILL at random moments, and a worker process apart: is the dataset always that of a quiet run?

    python benchmarks/kills.py [--kills 20] [--seed 0] [--only first replaced worker] [--json FILE]

Moments are drawn by seed over the file operations of an undisturbed job, stages in turn: `--kills` of the program in an
empty folder (`first`), as many with an older dataset to replace there (`replaced`), and as many of one of two worker
processes (`worker`). After each the same command is given again, then `ge2e clean`. The first dataset that differs from
that of an undisturbed run, finished shard that was written again, file that metadata.json does not list, or worker
process that stayed ends this program with an error. Prints a table; with --json also writes its rows to a file, in
place of earlier ones of their names. Linux.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from killed_jobs import Bench, Outcome

kills = importlib.import_module("kills")  # of tests; mypy would take this file for it

KINDS = ("first", "replaced", "worker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    with kills.drivers() as drivers, tempfile.TemporaryDirectory() as folder:
        bench = Bench(drivers, Path(folder).resolve())
        for kind in args.only:
            began, load = time.monotonic(), round(os.getloadavg()[0], 1)
            outcomes = killed(bench, kind, args.kills, args.seed)
            rows[kind] = summary(outcomes) | {
                "seed": args.seed,
                "seconds": round(time.monotonic() - began),
                "load_before": load,
            }
    report({kind: row for kind, row in rows.items() if kind in args.only})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def killed(bench: Bench, kind: str, count: int, seed: int) -> list[Outcome]:
    if kind == "worker":
        return killed_workers(bench, count, seed)
    return killed_programs(bench, count, seed, older=kind == "replaced")


def killed_programs(bench: Bench, count: int, seed: int, *, older: bool) -> list[Outcome]:
    moments = kills.draw(bench.operations(older=older), count, seed)
    return [
        told(bench.kill_program(f"program-{older}-{number}", moment, older=older))
        for number, moment in enumerate(moments)
    ]


def killed_workers(bench: Bench, count: int, seed: int) -> list[Outcome]:
    """The shares of the workers differ from run to run: a moment that neither comes to is drawn again."""
    moments = kills.draw(bench.worker_operations(), 3 * count, seed)
    outcomes: list[Outcome] = []
    for number, moment in enumerate(moments):
        outcome = bench.kill_worker(f"worker-{number}", moment) if len(outcomes) < count else None
        outcomes += [told(outcome)] if outcome else []
    return outcomes


def told(outcome: Outcome) -> Outcome:
    print(f"killed in stage {outcome.stage!r}, {outcome.kept} shards kept: equal", file=sys.stderr)
    return outcome


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    stages = Counter(outcome.stage for outcome in outcomes)
    return {
        "kills": len(outcomes),
        "equal": len(outcomes),  # `Bench` ends the program otherwise
        "stages": {stage: stages[stage] for stage in kills.STAGES if stages[stage]},
        "finished_shards_kept": sum(outcome.kept for outcome in outcomes),
        "files_cleaned": sum(outcome.cleaned for outcome in outcomes),
    }


def report(result: dict[str, dict[str, Any]]) -> None:
    print(f"| killed | kills | datasets equal | finished shards kept | {' | '.join(kills.STAGES)} | files cleaned |")
    print("|---|" + "---:|" * (4 + len(kills.STAGES)))
    for name, row in result.items():
        stages = " | ".join(str(row["stages"].get(stage, 0)) for stage in kills.STAGES)
        print(
            f"| {name} | {row['kills']} | {row['equal']} | {row['finished_shards_kept']} | {stages} "
            f"| {row['files_cleaned']} |"
        )


if __name__ == "__main__":
    main()
