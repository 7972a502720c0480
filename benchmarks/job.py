"""The whole job beside the bare loop: `ge2e run` with one and two processes, and the same shards without Beam.

    python benchmarks/job.py SPEECH [--times 2 12] [--rounds 3] [--folder DIR] [--json FILE]

SPEECH is a folder in the layout of LibriSpeech, or a manifest; its rows are repeated under other speaker ids, few times
and many. What the long run takes more than the short one gives the rate, so that starting, planning and committing are
apart; `ge2e run` of 100 rows is that fixed cost. The bare loop writes the shards that a job would, in one process and
in two that start together, to disk (and waits for it, as the job does) and to /dev/null. All rows take turns.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import timing
from timing import Goal, Run

if TYPE_CHECKING:
    from ge2e_transforms.planning import ShardTask
    from ge2e_transforms.utterance import Utterance

_FIXED_ROWS = 100
_FIXED = f"ge2e run, {_FIXED_ROWS} rows"
# Row -> (processes, where records go).
BARE = {
    "bare loop, disk": (1, "disk"),
    "bare loop, /dev/null": (1, "null"),
    "two bare loops, disk": (2, "disk"),
    "two bare loops, /dev/null": (2, "null"),
}
JOBS = {"ge2e run, 1 process": 1, "ge2e run, 2 processes": 2}
_GOALS = (("ge2e run, 1 process", "bare loop, disk", 0.9), ("ge2e run, 2 processes", "two bare loops, disk", 0.9))
_FIXED_LIMIT_S = 4.0


def main() -> None:
    if "--bare" in sys.argv:
        bare(sys.argv[2:])
        return
    args = _arguments()

    rows = timing.speech(args.speech)[: args.files]
    seconds = sum(timing.lengths(rows))
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        manifests = {times: folder / f"times-{times}.csv" for times in args.times}
        for times, manifest in manifests.items():
            timing.write_rows(manifest, timing.repeated(rows, times))
        few = folder / "few.csv"
        timing.write_rows(few, timing.repeated(rows, -(-_FIXED_ROWS // len(rows)))[:_FIXED_ROWS])
        contestants = {
            f"{name} x{times}": call for times in args.times for name, call in _rows(manifests[times], folder)
        }
        contestants[_FIXED] = lambda: job(few, folder, 1)
        wanted = args.only or [*JOBS, *BARE, _FIXED]
        chosen = {
            name: call for name, call in contestants.items() if name.rpartition(" x")[0] in wanted or name in wanted
        }
        runs = timing.in_turn(chosen, args.rounds)
    report(runs, seconds, args, len(rows))


def _arguments() -> argparse.Namespace:
    parser = timing.arguments(__doc__, "job", rounds=3)
    parser.add_argument("--times", type=int, nargs=2, default=[2, 12], help="how often the speech is repeated")
    parser.add_argument("--folder", type=Path, help="where files go; by default the system's")
    return parser.parse_args()


def _rows(manifest: Path, folder: Path) -> Iterator[tuple[str, Callable[[], Run]]]:
    for name, processes in JOBS.items():
        yield name, partial(job, manifest, folder, processes)
    for name, (count, sink) in BARE.items():
        yield name, partial(bare_loops, manifest, folder, count, sink)


def report(runs: dict[str, list[Run]], seconds: float, args: argparse.Namespace, recordings: int) -> None:
    low, high = sorted(args.times)
    found = [
        {"name": name, "times": times, **_summary(runs[f"{name} x{times}"]), "rounds": runs[f"{name} x{times}"]}
        for name in (*JOBS, *BARE)
        for times in (low, high)
        if f"{name} x{times}" in runs
    ]
    if _FIXED in runs:
        found.append({"name": _FIXED, "times": 1, **_summary(runs[_FIXED]), "rounds": runs[_FIXED]})
    rates = {
        name: rate
        for name in (*JOBS, *BARE)
        if f"{name} x{high}" in runs
        and (rate := timing.rate(name, runs[f"{name} x{low}"], runs[f"{name} x{high}"], seconds * (high - low)))
    }
    print(f"\n{seconds * low / 3600:.2f} and {seconds * high / 3600:.2f} h of speech, {args.rounds} rounds\n")
    long_runs = {row["name"]: row for row in found if row["times"] == high or row["name"] == _FIXED}
    cells = [
        (
            *(name, *(f"{rates.get(name, {}).get(key, 0):,.0f}" for key in ("x_real_time", "x_real_time_cpu"))),
            *(f"{row['wall_s']:.1f}", f"{row['cpu_s']:.1f}", f"{row['peak_mib']:.0f}", f"{row['bytes'] / 1e6:.1f}"),
        )
        for name, row in long_runs.items()
    ]
    print(timing.table(["", "x real time", "x real time, CPU", "wall s", "CPU s", "peak MiB", "MB on disk"], cells))
    facts = timing.about(hours=round(seconds / 3600, 3), times=args.times, rounds=args.rounds, recordings=recordings)
    listed = [{"name": name, **{key: round(value) for key, value in rate.items()}} for name, rate in rates.items()]
    timing.save(args.json, {"about": facts, "rates": listed, "rows": found}, _goals(rates, runs))


def _goals(rates: dict[str, dict[str, float]], runs: dict[str, list[Run]]) -> list[Goal]:
    goals = [
        Goal(f"{one} / {other}{', CPU' * key.endswith('cpu')}", rates[one][key] / rates[other][key], limit)
        for one, other, limit in _GOALS
        if one in rates and other in rates
        for key in ("x_real_time", "x_real_time_cpu")
    ]
    if _FIXED in runs:
        goals.append(Goal(f"{_FIXED}, s", timing.median(runs[_FIXED], "wall_s"), _FIXED_LIMIT_S, at_most=True))
    return goals


def _summary(taken: list[Run]) -> Run:
    return {key: round(timing.median(taken, key), 3) for key in ("wall_s", "cpu_s", "peak_mib", "bytes")}


def job(manifest: Path, folder: Path, processes: int) -> Run:
    """`ge2e run`; its output is removed."""
    output = folder / "output"
    run = timing.ge2e_run(manifest, output, processes)
    shutil.rmtree(output)
    return run


# The bare loop.


def bare_loops(manifest: Path, folder: Path, count: int, sink: str) -> Run:
    """Programs that share the shards of a job: the time from their common start to the end of the last."""
    output = folder / "bare"
    output.mkdir()
    os.sync()
    with ExitStack() as stack:
        children = [stack.enter_context(_child(manifest, output, number, count, sink)) for number in range(count)]
        for _, answers in children:
            _line(answers)  # it has read and planned
        began = time.perf_counter()
        for asked, _ in children:
            print("go", file=asked, flush=True)
        ended = [json.loads(_line(answers)) for _, answers in children]
        wall = time.perf_counter() - began
    written = timing.bytes_in(output)
    shutil.rmtree(output)
    sums = {key: sum(one[key] for one in ended) for key in ("cpu_s", "peak_mib", "records_bytes")}
    return {"wall_s": wall, **sums, "bytes": written}


@contextmanager
def _child(manifest: Path, output: Path, number: int, count: int, sink: str) -> Iterator[tuple[IO[str], IO[str]]]:
    command = [sys.executable, __file__, "--bare", *map(str, (manifest, output, number, count, sink))]
    environment = {**os.environ, **timing.single_threaded()}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin and process.stdout
        yield process.stdin, process.stdout


def _line(answers: IO[str]) -> str:
    line = answers.readline()
    if not line:
        raise SystemExit("a bare loop ended without an answer")
    return line


def bare(arguments: list[str]) -> None:
    """One of `count` programs: every `count`-th shard. Says when it is ready, waits, works, says what it took."""
    from ge2e_transforms.config import PRESETS
    from ge2e_transforms.extractor import FeatureExtractor

    manifest, output, sink = Path(arguments[0]), Path(arguments[1]), arguments[4]
    number, count = int(arguments[2]), int(arguments[3])
    sources, shards = planned(manifest)
    extractor = FeatureExtractor(PRESETS["ge2e"])
    written = 0

    def write() -> None:
        nonlocal written
        for task, rows in shards[number::count]:
            written += write_shard(task, rows, extractor, sources, output if sink == "disk" else None)

    print("ready", flush=True)
    sys.stdin.readline()
    taken = timing.timed(write)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    print(json.dumps({**taken, "peak_mib": peak, "records_bytes": written}), flush=True)


def planned(manifest: Path) -> tuple[tuple[str, ...], list[tuple[ShardTask, list[Utterance]]]]:
    """Sources, and the shards of `ge2e run` for this manifest with the rows of each."""
    from ge2e_transforms.config import PRESETS
    from ge2e_transforms.planning import ManifestSummary, expected_ms, make_plan
    from ge2e_transforms.splits import PlanConfig, SpeakerTotal

    recipe, rows = PRESETS["ge2e"], timing.read_manifest(manifest)
    totals = [
        SpeakerTotal(row.speaker_key, row.split, row.source, expected_ms(row, recipe.audio.max_seconds)) for row in rows
    ]
    summary = ManifestSummary(str(manifest), hashlib.sha256(manifest.read_bytes()).hexdigest(), len(rows), 0)
    plan = make_plan(totals, [summary], PlanConfig(), recipe)
    shards: dict[int, list[Utterance]] = {number: [] for number in range(len(plan.tasks))}
    for row in rows:
        shards[plan.shard_of(row)].append(row)
    return plan.sources, [(task, shards[number]) for number, task in enumerate(plan.tasks)]


def write_shard(
    task: ShardTask, rows: list[Utterance], extractor: Any, sources: tuple[str, ...], output: Path | None
) -> int:
    """Bytes of the records of one shard, written to a folder (and on the disk when this ends) or to /dev/null."""
    from ge2e_transforms.shards import ShardWriter, in_order

    paths = [Path(os.devnull), Path(os.devnull)]
    if output is not None:
        paths = [output / f"{task.split}-{task.shard}.{kind}" for kind in ("tfrecord", "index")]
    done = ShardWriter(task, extractor, sources, open_audio=str).write(in_order(rows), paths[0], paths[1])
    if done["rejected"]:
        raise SystemExit(f"recordings were rejected: {done['ledger'][0]}")
    for path in paths if output is not None else ():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return int(done["records_bytes"])


if __name__ == "__main__":
    main()
