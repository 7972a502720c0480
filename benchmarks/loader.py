"""How many training windows a second: this loader, and other ways to read the same 40,000 windows.

    python benchmarks/loader.py [--data DIR] [--rounds 3] [--only NAME ...] [--json result.json]
    python benchmarks/loader.py --one NAME --data DIR [--cores 2] [--passes 3]

The first form writes the data in every format (once: the folder is used again), lets each contestant run in turn,
round by round, as a program of its own, and prints a Markdown table. The second is one such program and prints JSON.
`benchmarks/README.md` says what each row is, and what was done to be fair.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import loader_data

_MIB = 1 << 20
_PACKAGES = (
    *("ge2e-features", "numpy", "pyarrow", "google-crc32c", "tensorflow", "torch", "grain", "array_record"),
    *("webdataset", "mosaicml-streaming"),
)
# No further epoch is begun after so long.
_ENOUGH_SECONDS = 20.0
# What a row says of a run: (key of the JSON, cores, whether the page cache is warm).
CASES = {"warm_2": (2, True), "warm_1": (1, True), "cold_2": (2, False)}


def main() -> None:
    args = _arguments()
    if args.one:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
        print(json.dumps(run_one(args.one, args.data, args.passes)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        results = compare(args.data or Path(scratch), args.only, args.cases, args.rounds, args.passes)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results["rows"], args.baseline))


def _arguments() -> argparse.Namespace:
    from loader_peers import CONTESTANTS

    names = list(CONTESTANTS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data; default a temporary one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3, help="epochs of a warm run (a cold one has one)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--baseline", choices=names, default="scan_parse", help="what ratios are against")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=names, metavar="NAME", help="run one contestant here and print JSON")
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    if args.one and not args.data:
        parser.error("--one needs --data")
    return args


def run_one(name: str, data: Path, passes: int) -> dict[str, Any]:
    """What one contestant does in this process: a list of epochs, and MiB read from the disk."""
    from loader_peers import CONTESTANTS

    contestant = CONTESTANTS[name]
    contestant.load()
    read_before = _bytes_read()
    began = time.perf_counter()
    one_pass = contestant.open_it(data / contestant.data)
    opened = time.perf_counter() - began
    epochs = [time_epoch(one_pass, 0)]
    while len(epochs) < passes and time.perf_counter() - began < _ENOUGH_SECONDS:
        epochs.append(time_epoch(one_pass, len(epochs)))
    disk = (_bytes_read() - read_before) / _MIB
    return {"name": name, "open_seconds": opened, "epochs": epochs, "disk_mib": disk}


def time_epoch(one_pass: Callable[[int], Iterator[Any]], number: int) -> dict[str, float]:
    """Slots and seconds of an epoch, and of its part after the first batch."""
    began = time.perf_counter()
    batches = one_pass(number)
    slots = touch(next(batches))
    first, first_slots = time.perf_counter() - began, slots
    for batch in batches:
        slots += touch(batch)
    seconds = time.perf_counter() - began
    return {
        "slots": slots,
        "seconds": seconds,
        "first_batch_seconds": first,
        "slots_after_first": slots - first_slots,
        "seconds_after_first": seconds - first,
    }


def touch(batch: Any) -> int:
    """Windows of a batch, after a look at its shape and at one value."""
    shape = tuple(batch.shape)
    if len(shape) == 1:  # serialized records
        whole = len(batch[0].numpy()) > loader_data.SHAPE[0] * loader_data.SHAPE[1] * 4
    else:
        value = float(batch[(0,) * len(shape)])
        whole = sorted(shape[1:]) == sorted(loader_data.SHAPE) and value == value and "float32" in str(batch.dtype)
    if not whole or not 0 < shape[0] <= loader_data.BATCH:
        raise SystemExit(f"a batch of shape {shape} and type {batch.dtype} is not what was asked for")
    return int(shape[0])


def _bytes_read() -> int:
    """Bytes that this process (with its threads, and children that have ended) had fetched from the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def compare(data: Path, names: list[str], cases: list[str], rounds: int, passes: int) -> dict[str, Any]:
    """Runs of all contestants in turn, round by round."""
    from loader_peers import CONTESTANTS

    for kind in dict.fromkeys(CONTESTANTS[name].data for name in names):
        loader_data.prepare(data, kind)
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {(name, case): [] for name in names for case in cases}
    for case in cases:
        for number in range(rounds):
            for name in names:  # in turn, so that a drift of the machine hits all alike
                run = start_one(name, data, case, passes)
                runs[name, case].append(run)
                said = run.get("error") or f"{_rate(run['epochs'][0]):,.0f} slots/s"
                print(f"{case} round {number + 1}: {name}: {said}", file=sys.stderr)
    rows = [
        {
            "name": name,
            "title": CONTESTANTS[name].title,
            "exact": CONTESTANTS[name].exact,
            "cases": {case: summary(runs[name, case]) for case in cases},
            "runs": {case: runs[name, case] for case in cases},
        }
        for name in names
    ]
    return {"about": about(rounds, passes), "rows": rows}


def start_one(name: str, data: Path, case: str, passes: int) -> dict[str, Any]:
    """One contestant as a program: its JSON and its peak memory, or the error that it ended with."""
    from loader_peers import CONTESTANTS

    cores, is_warm = CASES[case]
    folder = data / CONTESTANTS[name].data
    if not is_warm:
        loader_data.drop(folder)
    command = [sys.executable, __file__, "--one", name, "--data", str(data), "--cores", str(cores)]
    command += ["--passes", str(passes if is_warm else 1)]
    load = os.getloadavg()[0]  # what else the machine is doing: figures are only worth something where it is low
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with loader_data.held(folder) if is_warm else contextlib.nullcontext():
        return {"load_before": load, **_run(command, environment)}


def _run(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    from memory import watch

    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    marks: dict[int, int] = {}
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(child.pid, marks, stop))
    watcher.start()
    out, complaint = child.communicate()
    stop.set()
    watcher.join()
    if child.returncode:
        return {"error": (complaint.strip().splitlines() or ["no message"])[-1]}
    return {**json.loads(out.splitlines()[-1]), "peak_mib": sum(marks.values()) / 1024}


def summary(runs: list[dict[str, Any]]) -> dict[str, float] | None:
    """Medians over rounds; None where a run failed."""
    if any("error" in run for run in runs):
        return None
    first = [run["epochs"][0] for run in runs]
    later = [_rate(epoch) for run in runs for epoch in run["epochs"][1:]]
    return {
        "slots": statistics.median(epoch["slots"] for epoch in first),
        "first_epoch": statistics.median(map(_rate, first)),
        "first_epoch_whole": statistics.median(epoch["slots"] / epoch["seconds"] for epoch in first),
        "later_epochs": statistics.median(later) if later else 0.0,
        "first_batch_seconds": statistics.median(
            run["open_seconds"] + run["epochs"][0]["first_batch_seconds"] for run in runs
        ),
        "peak_mib": statistics.median(run["peak_mib"] for run in runs),
        "disk_mib": statistics.median(run["disk_mib"] for run in runs),
    }


def _rate(epoch: dict[str, float]) -> float:
    return epoch["slots_after_first"] / epoch["seconds_after_first"]


def about(rounds: int, passes: int) -> dict[str, Any]:
    """What the figures were taken with."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {"rounds": rounds, "passes": passes, "python": platform.python_version(), "versions": versions}


def table(rows: list[dict[str, Any]], baseline: str) -> str:
    """Markdown: slots/s of the first and of later epochs, and ratios of the later ones to `baseline`."""
    base: dict[str, Any] = next((row["cases"] for row in rows if row["name"] == baseline), {})
    cases = list(rows[0]["cases"])
    head = ["reader", "exact N x M"]
    for case in cases:
        cores, is_warm = CASES[case]
        place = f"{cores} core{'s' * (cores > 1)}"
        head += [f"{place}, first epoch", f"{place}, later", "ratio"] if is_warm else [f"{place}, cold", "ratio"]
    head += ["first batch s", "peak MiB"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row["title"], "yes" if row["exact"] else ""]
        for case in cases:
            cells += _cells(row["cases"][case], base.get(case), CASES[case][1])
        whole = row["cases"][cases[0]]
        cells += [f"{whole['first_batch_seconds']:.2f}", f"{whole['peak_mib']:.0f}"] if whole else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cells(figures: dict[str, float] | None, base: dict[str, float] | None, is_warm: bool) -> list[str]:
    if figures is None:
        return ["failed", "", ""] if is_warm else ["failed", ""]
    # Cold the first batch counts: a reader that begins by reading much would else look faster than it is.
    main_figure = ("later_epochs" if figures["later_epochs"] else "first_epoch") if is_warm else "first_epoch_whole"
    rates = [figures["first_epoch"], figures["later_epochs"]] if is_warm else [figures[main_figure]]
    ratio = f"{figures[main_figure] / base[main_figure]:.2f}" if base else ""
    return [f"{rate:,.0f}" if rate else "" for rate in rates] + [ratio]


if __name__ == "__main__":
    main()
