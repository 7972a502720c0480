"""The table of docs/scale.md: what a job of 10 thousand, 1 million and 100 million utterances takes.

    python benchmarks/scale.py --measure MANIFEST     # runs jobs on real speech, writes results/scale.json
    python benchmarks/scale.py [--vcpu_hour 0.05 ...]  # the table, from the results here and the prices given

`--measure` runs `ge2e run` on the manifest repeated (`--times`), with one process and with two, each run a program of
its own, and takes its processor time, wall time, largest process and what it writes. Processor time of the longer runs
in one process less that of the shorter ones gives the rate of a core, whatever else the machine does meanwhile.
`planning.py` and `commit_tables.py` give the other figures.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import timing
from memory import watch

_RESULTS = Path(__file__).parent / "results"
SIZES = (10_000, 1_000_000, 100_000_000)
# Speakers assumed; --shard_mib and slots chosen so that there are at least 100 shards a slot.
CHOICES = {10_000: (250, 8.0, 1), 1_000_000: (7_000, 128.0, 8), 100_000_000: (1_000_000, 512.0, 200)}
WORK_SHARE = 0.8  # of what is paid: the rest is starting, waiting and the last shards
SECONDS = 8.0  # mean length of an utterance
# A loose recording is looked up, for its size, and read. Of a shard beside its audio: it looks for its done file and a
# verdict, writes records, index and done and looks whether they arrived; Commit reads done and index and asks for
# sizes. Some of that is two requests, as what is not there may be a folder (`pipeline/write.py`, `pipeline/commit.py`).
_RECORDING_GETS, _SHARD_GETS, _SHARD_PUTS = 2, 15, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, metavar="MANIFEST")
    parser.add_argument("--times", type=int, nargs=2, default=[4, 20])
    parser.add_argument("--rounds", type=int, default=2)
    prices = {"vcpu_hour": 0.05, "gb_month": 0.023, "per_1000_gets": 0.0004, "per_1000_puts": 0.005}
    for name, price in prices.items():
        parser.add_argument(f"--{name}", type=float, default=price, help="dollars (default: %(default)g)")
    args = parser.parse_args()
    if args.measure:
        found = measure(args.measure, args.times, args.rounds)
        (_RESULTS / "scale.json").write_text(json.dumps(found, indent=1) + "\n")
    rates = json.loads((_RESULTS / "scale.json").read_text())
    print("| measured | |\n|---|---|")
    for name, value in rates.items():
        if not isinstance(value, list):
            print(f"| {name.replace('_', ' ')} | {value:,} |")
    columns = [estimate(size, rates, args) for size in SIZES]
    print("\n| | " + " | ".join(f"{size:,}" for size in SIZES) + " |")
    print("|---|" + "---:|" * len(SIZES))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(column[name] for column in columns) + " |")


def estimate(utterances: int, rates: dict[str, Any], args: argparse.Namespace) -> dict[str, str]:
    """One column of the table."""
    hours = utterances * SECONDS / 3600
    input_gb = hours * 3600 * rates["input_bytes_per_s"] / 1e9
    output_gb = hours * 3600 * rates["output_bytes_per_s"] / 1e9
    speakers, shard_mib, slots = CHOICES[utterances]
    shards = math.ceil(output_gb * 1e9 / (shard_mib * 2**20))
    few, many = planned(7_000), planned(300_000)
    speaker_bytes = (many["peak_mib"] - few["peak_mib"]) * 2**20 / (many["speakers"] - few["speakers"])
    libraries = few["imported_mib"] * 2**20
    commit = json.loads((_RESULTS / "commit_tables.json").read_text())[-1]
    core_s = hours * 3600 / rates["audio_s_per_core_s"]
    planning_s, commit_s = utterances * many["us_per_row"] / 1e6, utterances * commit["seconds"] / commit["records"]
    wall = (core_s + planning_s) / slots + commit_s + rates["fixed_core_s"]
    gets, puts = utterances * _RECORDING_GETS + shards * _SHARD_GETS, shards * _SHARD_PUTS
    compute = (core_s + planning_s + commit_s + slots * rates["fixed_core_s"]) / 3600 * args.vcpu_hour / WORK_SHARE
    requests = gets / 1000 * args.per_1000_gets + puts / 1000 * args.per_1000_puts
    return {
        "speech": f"{hours:,.0f} h",
        "audio (FLAC)": _size(input_gb),
        "dataset": _size(output_gb),
        "speakers (assumed)": f"{speakers:,}",
        "`--shard_mib`": f"{shard_mib:g}",
        "shards": f"{shards:,}",
        "slots": f"{slots}",
        "shards a slot": f"{shards / slots:,.0f}",
        "memory of a worker process": f"{rates['largest_process_mib']:,.0f} MiB",
        "memory of the worker that plans": _size((libraries + speakers * speaker_bytes) / 1e9),
        "memory of the worker that commits": _size((libraries + utterances * commit["bytes_per_record"]) / 1e9),
        "rows shuffled": _size(utterances * few["shuffle_bytes_per_row"] / 1e9),
        "requests GET, PUT": f"{_count(gets)}, {_count(puts)}",
        "read by a slot": f"{rates['audio_s_per_core_s'] * rates['input_bytes_per_s'] / 1e6:,.0f} MB/s",
        "GET of all slots": f"{slots * rates['audio_s_per_core_s'] / SECONDS * _RECORDING_GETS:,.0f}/s",
        "planning, core hours": f"{planning_s / 3600:,.2f}",
        "writing, core hours": f"{core_s / 3600:,.2f}",
        "commit": _time(commit_s),
        "wall time": _time(wall),
        "computing, price": f"${compute:,.2f}",
        "requests, price": f"${requests:,.2f}",
        "keeping the dataset, price a month": f"${output_gb * args.gb_month:,.2f}",
    }


def planned(speakers: int) -> dict[str, Any]:
    """What `planning.py` found for a million rows in one process."""
    rows = json.loads((_RESULTS / "planning.json").read_text())
    one: dict[str, Any] = next(row for row in rows if (row["rows"], row["speakers"]) == (1_000_000, speakers))
    return one


def _size(gigabytes: float) -> str:
    for unit, factor in (("TB", 1e3), ("GB", 1.0), ("MB", 1e-3)):
        if gigabytes >= factor:
            return f"{gigabytes / factor:,.1f} {unit}"
    return f"{gigabytes * 1e6:,.0f} kB"


def _count(number: float) -> str:
    return f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number:,.0f}"


def _time(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:,.1f} min" if seconds >= 90 else f"{seconds:,.0f} s"


def measure(manifest: Path, times: list[int], rounds: int) -> dict[str, Any]:
    runs = [run(manifest, count, 1) for _ in range(rounds) for count in times] + [run(manifest, times[1], 2)]

    def median(name: str, workers: int, count: int) -> float:
        return float(statistics.median(one[name] for one in runs if (one["workers"], one["times"]) == (workers, count)))

    low, high = times
    seconds, size = audio_of(manifest)
    taken = median("cpu_s", 1, high) - median("cpu_s", 1, low)
    return {
        "audio_s": round(seconds),
        "input_bytes_per_s": round(size / seconds),
        "output_bytes_per_s": round(median("output_bytes", 1, high) / seconds / high),
        "voiced_share": round(median("voiced_s", 1, high) / seconds / high, 3),
        "audio_s_per_core_s": round(seconds * (high - low) / taken),
        "fixed_core_s": round(median("cpu_s", 1, low) - taken * low / (high - low), 1),
        "largest_process_mib": round(max(one["largest_process_mib"] for one in runs if one["workers"] == 2)),
        "runs": runs,
    }


def audio_of(manifest: Path) -> tuple[float, int]:
    """(seconds, bytes) of the recordings of a manifest."""
    import soundfile

    places = [Path(row.location) for row in timing.speech(manifest)]
    found = [soundfile.info(str(place)) for place in places]
    return sum(one.frames / one.samplerate for one in found), sum(place.stat().st_size for place in places)


def run(manifest: Path, times: int, workers: int) -> dict[str, Any]:
    """One job: its wall time, largest process and what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.csv"
        timing.write_rows(rows, timing.repeated(timing.speech(manifest), times))
        output = Path(folder) / "out"
        command = [sys.executable, "-m", "pipeline", "run", "--manifest", str(rows), "--output", str(output)]
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen([*command, f"--direct_num_workers={workers}"], stdout=subprocess.DEVNULL)
        marks: dict[int, int] = {}
        stop = threading.Event()
        watcher = threading.Thread(target=watch, args=(process.pid, marks, stop))
        watcher.start()
        status = process.wait()
        wall = time.monotonic() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        stop.set()
        watcher.join()
        if status:
            raise SystemExit(f"the job failed with status {status}")
        metadata = json.loads((output / "metadata.json").read_text())
        return {
            "workers": workers,
            "times": times,
            "wall_s": round(wall, 2),
            "cpu_s": round(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime, 2),
            "largest_process_mib": round(max(marks.values()) / 1024),
            "peak_mib": round(sum(marks.values()) / 1024),
            "output_bytes": sum(path.stat().st_size for path in output.rglob("*") if path.is_file()),
            "voiced_s": sum(split["seconds"] for split in metadata["splits"].values()),
        }


if __name__ == "__main__":
    main()
