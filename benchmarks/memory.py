"""Peak memory of `ge2e run` as the speech grows: of the program, and of its largest worker.

    python benchmarks/memory.py SPEECH [--times 1 105] [--workers 1 2] [--rounds 1] [--json FILE]

SPEECH is a folder in LibriSpeech's layout or a manifest; 105 times the hour of the shared speech is a hundred hours.
Each job runs as a program of its own, the jobs in turn. The peak of a process is the high-water mark of resident memory
that Linux keeps for it (`VmHWM`), libraries included. The speech is repeated under other speaker ids and paths, so that
each row is decoded. With one process the program is the worker, too.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
from pathlib import Path
from typing import Any

import timing

_SECONDS_BETWEEN_LOOKS = 0.05


def main() -> None:
    parser = timing.arguments(__doc__, "memory", rounds=1)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 105])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()

    rows = timing.speech(args.speech)[: args.files]
    hours = sum(timing.lengths(rows)) / 3600
    with tempfile.TemporaryDirectory() as folder:
        timing.write_copies(folder, rows, args.times)
        contestants = {
            f"{workers} x {times}": lambda workers=workers, times=times: job(Path(folder), workers, times)
            for workers in args.workers
            for times in args.times
        }
        runs = timing.in_turn(contestants, args.rounds)
    report(args, runs, hours, len(rows))


def job(folder: Path, workers: int, times: int) -> timing.Run:
    with tempfile.TemporaryDirectory(dir=folder) as output:
        return timing.ge2e_run(folder / f"{times}.csv", Path(output), workers)


def report(args: Any, runs: dict[str, list[timing.Run]], hours: float, rows: int) -> None:
    """The table, and how far workers and the program are from what they should need."""
    found: list[dict[str, Any]] = []
    goals = []
    for workers in args.workers:
        for times in args.times:
            taken = runs[f"{workers} x {times}"]
            row = {key: statistics.median(run[key] for run in taken) for key in ("program_mib", "worker_mib", "wall_s")}
            found.append({"workers": workers, "hours": round(hours * times, 2), "rows": rows * times, **row})
        first, last = found[-len(args.times)], found[-1]
        name = f"worker of {workers}, {last['hours']:g} h / {first['hours']:g} h"
        goals.append(timing.Goal(name, last["worker_mib"] / first["worker_mib"], 1.1, at_most=True))
        if workers > 1:
            more = (last["program_mib"] - first["program_mib"]) * 2**20 / max(1, last["rows"] - first["rows"])
            goals.append(timing.Goal(f"bytes a row of the program, {workers} workers", more, 600, at_most=True))
    table = [
        (row["workers"], f"{row['hours']:,g}", f"{row['rows']:,}", *(f"{row[key]:,.0f}" for key in row if "_" in key))
        for row in found
    ]
    print(timing.table(["processes", "hours", "rows", "program MiB", "largest worker MiB", "wall s"], table))
    timing.save(args.json, {**timing.about(), "rows": found, "rounds": runs}, goals)


def watch(root: int, marks: dict[int, int], stop: threading.Event) -> None:
    """Keeps the high-water mark, KiB, of a process and all below it."""
    while not stop.wait(_SECONDS_BETWEEN_LOOKS):
        for pid in family(root):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            mark = next((line for line in status.splitlines() if line.startswith("VmHWM")), None)
            if mark:
                marks[pid] = max(marks.get(pid, 0), int(mark.split()[1]))


def family(root: int) -> list[int]:
    found = [root]
    for pid in found:
        try:
            children = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
        except OSError:
            continue
        found += map(int, children.split())
    return found


if __name__ == "__main__":
    main()
