"""What `ge2e plan` says of a job against what the job then takes: time, bytes, memory.

    python benchmarks/forecast.py SPEECH [--times 2 20] [--workers 1 2] [--augment FILE] [--rounds 1] [--json FILE]

SPEECH is a folder in LibriSpeech's layout or a manifest, repeated under other speaker ids and paths. The forecast of a
job and the job itself follow each other at once, each a program of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timing

_MIB = 1 << 20


def main() -> None:
    parser = timing.arguments(__doc__, "forecast", rounds=1)
    parser.add_argument("--times", type=int, nargs="+", default=[2, 20])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--augment", metavar="FILE", help="jobs that make copies, as this augment.yaml says")
    args = parser.parse_args()
    flags = ["--augment", str(Path(args.augment).resolve())] if args.augment else []
    rows = timing.speech(args.speech)[: args.files]
    hours = sum(timing.lengths(rows)) / 3600
    with tempfile.TemporaryDirectory() as folder:
        timing.write_copies(folder, rows, args.times)
        contestants = {
            f"{hours * times:.1f} h, {workers} processes": lambda workers=workers, times=times: both(
                Path(folder), workers, times, flags
            )
            for workers in args.workers
            for times in args.times
        }
        runs = timing.in_turn(contestants, args.rounds)
    table, found = [], []
    for name, taken in runs.items():
        row = {key: statistics.median(run[key] for run in taken) for key in taken[0] if key != "load_before"}
        found.append({"job": name, **row})
        ratios = [row[f"said_{key}"] / row[key] for key in ("wall_s", "mib", "worker_mib")]
        pairs = [f"{row[f'said_{key}']:,.0f} / {row[key]:,.0f}" for key in ("wall_s", "mib", "worker_mib")]
        table.append(
            (name, *(f"{pair} = {ratio:.2f}" for pair, ratio in zip(pairs, ratios, strict=True)), row["plan_s"])
        )
    print(timing.table(["job", "wall s, said / taken", "MiB on disk", "MiB of a worker", "plan s"], table))
    timing.save(args.json, {**timing.about(), "rows": found, "rounds": runs}, [])


def both(folder: Path, workers: int, times: int, flags: list[str]) -> timing.Run:
    """A forecast, then the job that it speaks of."""
    manifest = folder / f"{times}.csv"
    with tempfile.TemporaryDirectory(dir=folder) as output:
        began = time.perf_counter()
        words = [
            "--manifest",
            str(manifest),
            "--output",
            output,
            f"--direct_num_workers={workers}",
            "--json",
            "-q",
            *flags,
        ]
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "plan", *words],
            capture_output=True,
            text=True,
            check=True,
            cwd=timing.ROOT,
        )
        planned, said = time.perf_counter() - began, json.loads(done.stdout)
        run = timing.ge2e_run(manifest, Path(output), workers, *flags)
    return {
        **run,
        "plan_s": round(planned, 1),
        "mib": run["bytes"] / _MIB,
        "said_wall_s": said["wall_s"],
        "said_mib": said["disk_likely"] / _MIB,
        "said_worker_mib": said["memory"] / _MIB,
    }


if __name__ == "__main__":
    main()
