"""Time and memory of the planning half of `ge2e run`: manifest to rows grouped by shard, with no audio behind them.

    python benchmarks/planning.py [--points 1000000x7000 1000000x300000] [--workers 1] [--folder DIR] [--rounds 1]

For each point (rows x speakers) a manifest is written that looks like one of LibriSpeech, and the stages ReadManifest,
PlanDataset and GroupByShard run as they are on Beam's local runner, in a program of their own. In place of WriteShards
stands a step that counts the rows of a shard and takes their checksum. `--workers 2` runs worker processes as
`ge2e run` does. Prints tables for docs/scale.md and writes `benchmarks/results/planning.json` (or --json).

- read: the manifest to rows, and the first sum of lengths by speaker, which Beam fuses with it.
- plan: totals by speaker to the plan.
- assign: every row to its shard; group: the runner's own sorting of rows into shards, and the step that counts them,
  of which unpack is what WriteShards would do to read its rows.
- memory: the high-water mark of each process (`VmHWM`), and the resident size of the program after each part.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import logging
import operator
import os
import pickle
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from memory import watch

_ROOT = Path(__file__).parent.parent
_HEADER = (
    "audio_path,speaker_id,namespace,utterance_id,source,subset,split,session_id,channel,offset_s,duration_s,bytes\n"
)
_PARTS = ("read", "plan", "assign", "group")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    points = ["10000x1000", "1000000x7000", "1000000x300000", "10000000x7000", "10000000x300000"]
    parser.add_argument("--points", nargs="+", default=points, help="rows x speakers")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--files", type=int, default=1, help="manifests that the rows are dealt to")
    parser.add_argument("--folder", type=Path, help="keeps the manifests; default: a temporary one")
    parser.add_argument("--json", type=Path, default=_ROOT / "benchmarks" / "results" / "planning.json")
    parser.add_argument("--child", metavar="MANIFESTS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(run_stages(args.child, args.workers, args.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        rows = [measure(point, args, folder) for point in args.points]
    report(rows)
    args.json.write_text(json.dumps(rows, indent=1) + "\n")


def report(rows: list[dict[str, Any]]) -> None:
    names = ("rows", "speakers", "workers", "shards", "wall_s", *(f"{part}_s" for part in _PARTS), "unpack_s")
    names += ("cpu_s", "peak_mib", "us_per_row", "shuffle_bytes_per_row", "plan_bytes")
    print("| " + " | ".join(name.replace("_", " ") for name in names) + " |")
    print("|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(f"{row[name]:,}" for name in names) + " |")


def measure(point: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Medians over the rounds of one point."""
    rows, speakers = map(int, point.split("x"))
    manifests = write_manifests(folder / f"{point}-{args.files}", rows, speakers, args.files)
    runs = [run_child(manifests, args.workers) for _ in range(args.rounds)]
    result: dict[str, Any] = {"rows": rows, "speakers": speakers, "workers": args.workers, "manifests": args.files}
    for name, value in runs[0].items():
        result[name] = round(statistics.median(run[name] for run in runs), 3) if not isinstance(value, dict) else value
    result["us_per_row"] = round(result["wall_s"] * 1e6 / rows, 2)
    return {**result, "rounds": runs if len(runs) > 1 else []}


def write_manifests(folder: Path, rows: int, speakers: int, files: int) -> list[str]:
    """Rows of `speakers` of unequal size in the order of a tree of files, with durations of 2 to 17 s."""
    paths = [folder / f"part-{number:03d}.csv" for number in range(files)]
    if all(path.exists() for path in paths):
        return list(map(str, paths))
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(f"{rows} {speakers}")
    weights = [draw.lognormvariate(0, 0.6) for _ in range(speakers)]
    scale = (rows - speakers) / sum(weights)
    counts = [1 + int(weight * scale) for weight in weights]
    for _ in range(rows - sum(counts)):
        counts[draw.randrange(speakers)] += 1
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(path.open("w")) for path in paths]
        for stream in streams:
            stream.write(_HEADER)
        for speaker, count in enumerate(counts):
            streams[speaker * files // speakers].writelines(_rows_of(speaker, count, draw))
    return list(map(str, paths))


def _rows_of(speaker: int, count: int, draw: random.Random) -> Iterator[str]:
    name = f"{speaker + 10_000:07d}"
    for number in range(count):
        chapter = 100_000 + speaker * 7 % 500_000 + number // 40
        utterance = f"{name}-{chapter}-{number % 40:04d}"
        seconds = draw.triangular(2, 17, 6)  # mean 8.3
        path = f"train-clean-100/{name}/{chapter}/{utterance}.flac"
        yield (
            f"{path},{name},libri,{utterance},librispeech,train-clean-100,,{chapter},,,{seconds:.3f},"
            f"{int(seconds * 20_000)}\n"
        )


def run_child(manifests: list[str], workers: int) -> dict[str, Any]:
    """One run in a program of its own; all its processes are watched."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", os.pathsep.join(manifests), "--workers", str(workers)]
        environment = {**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        process = subprocess.Popen(
            [*command, "--folder", folder], stdout=subprocess.PIPE, env=environment, text=True, cwd=_ROOT
        )
        marks: dict[int, int] = {}
        load = round(os.getloadavg()[0], 2)
        stop = threading.Event()
        watcher = threading.Thread(target=watch, args=(process.pid, marks, stop))
        watcher.start()
        output, _ = process.communicate()
        stop.set()
        watcher.join()
        if process.returncode:
            raise SystemExit(f"the run failed with status {process.returncode}")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    # A run that is over before the watcher looks has its own mark.
    result["peak_mib"] = round(max(sum(marks.values()) / 1024, result["peak_mib"]))
    result["largest_process_mib"] = round(max([result.pop("own_peak_mib"), *(mark / 1024 for mark in marks.values())]))
    return {**result, "load_before": load}


# The program that is measured.


def count_rows(element: tuple[int, Iterable[bytes]]) -> dict[str, Any]:
    """In place of WriteShards: what one shard was given, unpacked as WriteShards does, in constant memory."""
    from ge2e_transforms.row_chunks import unpack

    began = time.perf_counter()
    rows = size = parcels = check = 0
    for parcel in element[1]:
        parcels, size = parcels + 1, size + len(parcel)
        for row in unpack(parcel):
            rows, check = rows + 1, check ^ zlib.crc32(row.utterance_id.encode())
    seconds = time.perf_counter() - began
    return {"rows": rows, "bytes": size, "parcels": parcels, "check": check, "seconds": seconds}


class Clock(logging.Handler):
    """Takes time and memory when the runner begins a stage, which it logs."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[tuple[float, str, float]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("Running bundle for stage"):
            self.stages.append((time.monotonic(), str(record.args[0]), status_mib("VmRSS")))  # type: ignore[index]


def status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024)


def run_stages(manifests: str, workers: int, folder: Path) -> dict[str, Any]:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from ge2e_transforms.config import Recipe
    from ge2e_transforms.splits import PlanConfig
    from pipeline import local
    from pipeline.group import GroupByShard
    from pipeline.options import JobConfig
    from pipeline.plan import PlanDataset
    from pipeline.read import LENGTHS, ROWS, SUMMARIES, ReadManifest

    job = JobConfig(tuple(manifests.split(os.pathsep)), str(folder), Recipe(), PlanConfig(), token="benchmark")
    mode = "in_memory" if workers == 1 else "multi_processing"
    options = PipelineOptions(
        ["--runner=FnApiRunner", f"--direct_num_workers={workers}", f"--direct_running_mode={mode}"]
    )
    clock = Clock()
    logger = logging.getLogger("apache_beam.runners.portability.fn_api_runner.fn_runner.run_bundle")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(clock)
    imported = status_mib("VmRSS")
    began = time.monotonic()
    with (
        local.worker_processes(options, folder / "workers.log") as runner,
        beam.Pipeline(runner=runner, options=options) as pipeline,
    ):
        read = pipeline | "ReadManifest" >> ReadManifest(job)
        plan = (read[LENGTHS], read[SUMMARIES]) | "PlanDataset" >> PlanDataset(job)
        shards = (read[ROWS], plan) | "GroupByShard" >> GroupByShard()
        counted = shards | "CountRows" >> beam.Map(count_rows) | "Counts" >> beam.combiners.ToList()
        _ = counted | "WriteCounts" >> beam.Map(write_counts, str(folder / "counts.json"))
        _ = plan | "WritePlan" >> beam.Map(write_plan, str(folder / "plan.pickle"))
    ended = time.monotonic()
    peak = status_mib("VmHWM")
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    memory = {"imported_mib": imported, "peak_mib": peak, "own_peak_mib": peak}
    cpu = round(sum(one.ru_utime + one.ru_stime for one in usage), 1)
    return {**timed(clock.stages, began, ended), "cpu_s": cpu, **described(folder), **memory}


def write_counts(counts: list[dict[str, Any]], path: str) -> None:
    Path(path).write_text(json.dumps(counts))


def write_plan(plan: Any, path: str) -> None:
    Path(path).write_bytes(pickle.dumps(plan))


def described(folder: Path) -> dict[str, Any]:
    """What crossed the shuffles, as the coders of the two GroupByKeys write it."""
    from apache_beam import coders

    counts = json.loads((folder / "counts.json").read_text())
    content = (folder / "plan.pickle").read_bytes()
    plan = pickle.loads(content)
    rows, size, parcels = (sum(count[name] for count in counts) for name in ("rows", "bytes", "parcels"))
    pair = coders.registry.get_coder(tuple[int, bytes]).get_impl()
    framing = parcels * (len(pair.encode((len(counts), bytes(1000)))) - 1000)  # key and length of a parcel
    return {
        "shards": len(counts),
        "rows_counted": rows,
        "checksum": functools.reduce(operator.xor, (count["check"] for count in counts)),
        "unpack_s": round(sum(count["seconds"] for count in counts), 2),
        "parcels": parcels,
        "shuffle_bytes_per_row": round((size + framing) / rows, 1),
        "plan_bytes": len(content),
        "plan_speakers": sum(plan.speakers.values()),
    }


def timed(stages: list[tuple[float, str, float]], began: float, ended: float) -> dict[str, Any]:
    """Seconds of each part, by the transforms that a stage consists of."""
    marks = [*stages, (ended, "", status_mib("VmRSS"))]
    seconds = dict.fromkeys(_PARTS, 0.0)
    memory = dict.fromkeys(_PARTS, 0.0)
    for (start, name, _), (end, _, after) in itertools.pairwise(marks):
        part = _part_of(name)
        seconds[part] += end - start
        memory[part] = max(memory[part], after)
    result: dict[str, Any] = {f"{part}_s": round(taken, 2) for part, taken in seconds.items()}
    result["wall_s"] = round(ended - began, 2)
    result["rss_after_mib"] = memory
    return result


def _part_of(stage: str) -> str:
    if "CountRows" in stage or "WriteCounts" in stage:
        return "group"
    if "AssignShards" in stage:
        return "assign"
    return "plan" if "Plan" in stage and "ReadRows" not in stage else "read"


if __name__ == "__main__":
    main()
