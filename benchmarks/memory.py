"""Peak memory of `ge2e run` on the same speech once and repeated: does it grow with the data?

    python benchmarks/memory.py MANIFEST [--times 1 10] [--workers 1 2] [--rounds 3]

Each job runs as a program of its own. Its peak is the sum over its processes (the program and its workers)
of the high-water mark of resident memory that Linux keeps for each (`VmHWM`). The rows of the manifest are
repeated under new utterance ids, so speakers and shards' order stay as they are, and under paths of their own, so that
each is decoded.
Prints a table for the README and writes JSON beside it with --json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from ge2e_transforms.manifest import read_rows, write_manifest
from ge2e_transforms.utterance import Utterance

_SECONDS_BETWEEN_LOOKS = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cases = [(workers, times) for workers in args.workers for times in args.times]
    peaks: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    seconds: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for case in cases:  # in turn, so that a drift of the machine hits all alike
                peak, wall = measure(Path(args.manifest), case[1], case[0], Path(folder))
                peaks[case].append(peak)
                seconds[case].append(wall)
    report(cases, peaks, seconds)
    if args.json:
        rows = [{"workers": w, "times": t, "peak_mib": peaks[w, t], "seconds": seconds[w, t]} for w, t in cases]
        args.json.write_text(json.dumps(rows, indent=1))


def report(
    cases: list[tuple[int, int]],
    peaks: dict[tuple[int, int], list[float]],
    seconds: dict[tuple[int, int], list[float]],
) -> None:
    print("| processes | speech | peak MiB, all processes | against the first | wall s |")
    print("|---|---|---|---|---|")
    for workers, times in cases:
        base = statistics.median(peaks[workers, cases[0][1]])
        peak = statistics.median(peaks[workers, times])
        wall = statistics.median(seconds[workers, times])
        print(f"| {workers} | x {times} | {peak:.0f} | {peak / base:.3f} | {wall:.1f} |")


def measure(manifest: Path, times: int, workers: int, folder: Path) -> tuple[float, float]:
    """(peak MiB of all processes of the job, wall seconds)."""
    repeated = folder / f"repeated-{times}.csv"
    if not repeated.exists():
        write_manifest(str(repeated), repeat(manifest, times))
    with tempfile.TemporaryDirectory(dir=folder) as output:
        command = [sys.executable, "-m", "pipeline", "run", "--manifest", str(repeated), "--output", output]
        began = time.monotonic()
        process = subprocess.Popen([*command, f"--direct_num_workers={workers}"], stdout=subprocess.DEVNULL)
        marks: dict[int, int] = {}
        stop = threading.Event()
        watcher = threading.Thread(target=watch, args=(process.pid, marks, stop))
        watcher.start()
        status = process.wait()
        stop.set()
        watcher.join()
        if status:
            raise SystemExit(f"the job failed with status {status}")
        return sum(marks.values()) / 1024, time.monotonic() - began


def repeat(manifest: Path, times: int) -> list[Utterance]:
    with manifest.open("rb") as stream:
        rows = [row for row in read_rows(stream, str(manifest.absolute())) if isinstance(row, Utterance)]
    return [
        row._replace(utterance_id=f"{row.utterance_id}-{copy}", audio_path="/." * copy + row.location)
        for copy in range(times)
        for row in rows
    ]


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
