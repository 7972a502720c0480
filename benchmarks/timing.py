"""What the timed programs share: speech, rounds in turn, watched programs, medians, tables and results.

Only the standard library is imported with it, so that a program can choose its cores and threads before anything
heavy is loaded, and so that other interpreters can import it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ge2e_transforms.utterance import Utterance

Run = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
RATE_HZ = 16000
_THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "VECLIB_MAXIMUM")
_PACKAGES = (
    *("numpy", "scipy", "librosa", "soundfile", "soxr", "av", "pyarrow", "apache-beam", "tensorflow"),
    *("lhotse", "lilcom", "torch", "webrtcvad-wheels", "kaldi-native-fbank", "kaldi_native_fbank", "torchaudio"),
)


def one_core() -> None:
    """This process and its children: one core, and no threads of numeric libraries. Before importing any of them."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ.update(single_threaded())


def single_threaded() -> dict[str, str]:
    """Environment that keeps numeric libraries from starting threads of their own."""
    return {f"{name}_NUM_THREADS": "1" for name in _THREADS} | {"TF_CPP_MIN_LOG_LEVEL": "3"}


# Speech.


def speech(place: Path) -> list[Utterance]:
    """Rows of a manifest, or of a folder in the layout of LibriSpeech; paths are absolute."""
    from ge2e_transforms.corpora import librispeech

    rows = list(librispeech(place.resolve())) if place.is_dir() else read_manifest(place)
    if not rows:
        raise SystemExit(f"{place} names no recordings")
    return [row._replace(audio_path=str(Path(row.location).resolve())) for row in rows]


def read_manifest(path: Path) -> list[Utterance]:
    from ge2e_transforms.manifest import read_rows
    from ge2e_transforms.utterance import Utterance

    with path.open("rb") as stream:
        return [row for row in read_rows(stream, str(path.resolve())) if isinstance(row, Utterance)]


def repeated(rows: Sequence[Utterance], times: int) -> list[Utterance]:
    """The same speech under other speaker ids, and under paths of its own.

    A shard keeps a decoded recording that later rows of it ask for again: by the same path, a copy would cost nothing.
    """
    return [
        row._replace(speaker_id=f"{row.speaker_id}-{copy}", audio_path="/." * copy + row.audio_path)
        for copy in range(times)
        for row in rows
    ]


def write_rows(path: str | Path, rows: Iterable[Utterance]) -> None:
    """A manifest with the paths as they are: `write_manifest` would make one of all that name the same file."""
    from ge2e_transforms.utterance import COLUMNS

    with Path(path).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(["" if value is None else value for value in row[: len(COLUMNS)]] for row in rows)


def write_copies(folder: str | Path, rows: Sequence[Utterance], times: Iterable[int]) -> None:
    """Manifests `folder/<times>.csv` of the same speech so many times."""
    for many in times:
        write_rows(Path(folder, f"{many}.csv"), repeated(rows, many))


def hours_of(rows: Sequence[Utterance], hours: float | None) -> list[Utterance]:
    """The rows, or so many of them, repeated if need be, that they are about so long."""
    if hours is None:
        return list(rows)
    whole = sum(lengths(rows))
    many = repeated(rows, max(1, -(-int(hours * 3600) // max(1, int(whole)))))
    total, kept = 0.0, []
    for row, seconds in zip(many, lengths(many), strict=True):
        if total >= hours * 3600:
            break
        total += seconds
        kept.append(row)
    return kept


def lengths(rows: Iterable[Utterance]) -> list[float]:
    """Seconds of each recording, by its header."""
    import soundfile

    known: dict[str, float] = {}
    found = []
    for row in rows:
        path = os.path.normpath(row.audio_path)
        if path not in known:
            info = soundfile.info(path)
            known[path] = info.frames / info.samplerate
        found.append(known[path])
    return found


# Rounds.


def timed(call: Callable[[], object]) -> Run:
    """Wall and processor seconds of a call in this process."""
    began, used = time.perf_counter(), time.process_time()
    call()
    return {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - used}


def in_turn(contestants: Mapping[str, Callable[[], Run]], rounds: int, warm_up: int = 0) -> dict[str, list[Run]]:
    """Each contestant once a round, so that a drift of the machine hits all alike; warm-up rounds do not count."""
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    for number in range(-warm_up, rounds):
        for name, contestant in contestants.items():
            load = round(os.getloadavg()[0], 2)
            run = contestant() | {"load_before": load}
            said = ", ".join(f"{key} {run[key]:.2f}" for key in ("wall_s", "cpu_s") if key in run)
            print(f"{'warm-up' if number < 0 else f'round {number + 1}'}: {name}: {said}", file=sys.stderr)
            if number >= 0:
                runs[name].append(run)
    return runs


def in_turn_by_part(
    contestants: Mapping[str, Callable[[slice], Run]], parts: Sequence[slice], rounds: int
) -> dict[str, list[Run]]:
    """As `in_turn`, at one part of the speech after the other: what the machine does for seconds hits all alike.

    A first turn at the first part does not count. A round's run is the sum of its parts.
    """
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    for contestant in contestants.values():
        contestant(parts[0])
    for number in range(rounds):
        sums: dict[str, Counter[str]] = {name: Counter() for name in contestants}
        load = round(os.getloadavg()[0], 2)
        for part in parts:
            for name, contestant in contestants.items():
                sums[name].update(contestant(part))
        for name, total in sums.items():
            print(f"round {number + 1}: {name}: CPU {total['cpu_s']:.2f} s", file=sys.stderr)
            runs[name].append({**total, "load_before": load})
    return runs


def median(runs: Sequence[Run], key: str) -> float:
    return float(statistics.median(run[key] for run in runs))


def ratio(ones: Sequence[Run], others: Sequence[Run], key: str) -> float:
    """Median over rounds of one contestant's figure by the other's of the same round."""
    return float(statistics.median(one[key] / other[key] for one, other in zip(ones, others, strict=True)))


def rate(name: str, short: list[Run], long: list[Run], seconds: float) -> dict[str, float]:
    """Times real time, by what the long runs took more than the short ones."""
    more = {key: median(long, key) - median(short, key) for key in ("wall_s", "cpu_s")}
    if min(more.values()) <= 0:
        print(f"{name}: the long run took no longer: give --times that differ more", file=sys.stderr)
        return {}
    return {"x_real_time": seconds / more["wall_s"], "x_real_time_cpu": seconds / more["cpu_s"]}


# Programs.


class Ended(NamedTuple):
    """What a program took and said."""

    run: Run
    output: str


def watched(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Ended:
    """Runs a program to its end: wall and processor seconds, and the sum of the peaks of all its processes.

    What earlier contestants wrote is on the disk before it starts.
    """
    from memory import watch

    os.sync()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    with subprocess.Popen(
        list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=_environment(environment),
    ) as process:
        marks: dict[int, int] = {}
        stop = threading.Event()
        watcher = threading.Thread(target=watch, args=(process.pid, marks, stop))
        watcher.start()
        output, complaint = process.communicate()
        wall = time.perf_counter() - began
        stop.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}:\n{complaint[-3000:]}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    peak, program = sum(marks.values()) / 1024, marks.get(process.pid, 0) / 1024
    # A program without workers does their work.
    worker = max((mark / 1024 for pid, mark in marks.items() if pid != process.pid), default=program)
    run = {"wall_s": wall, "cpu_s": cpu, "peak_mib": peak, "program_mib": program, "worker_mib": worker}
    return Ended(run | {"processes": len(marks)}, output)


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, **single_threaded(), "PYTHONPATH": path, **(more or {})}


def ge2e_run(manifest: Path, output: Path, processes: int, *flags: str) -> Run:
    """One job of ours as a program, with what it wrote; the output is left there."""
    command = [sys.executable, "-m", "pipeline", "run", "--manifest", str(manifest), "--output", str(output)]
    run = watched([*command, f"--direct_num_workers={processes}", *flags]).run
    counts = json.loads((output / "metadata.json").read_text())["counts"]
    if counts["rejected"]:
        raise SystemExit(f"recordings were rejected: {counts}")
    return run | {"bytes": bytes_in(output)}


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# Reports.


class Goal(NamedTuple):
    """A figure and what it should be at least, or at most."""

    name: str
    value: float
    limit: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def goals_table(goals: Sequence[Goal]) -> str:
    rows = [
        (
            goal.name,
            f"{'<=' if goal.at_most else '>='} {goal.limit:g}",
            f"{goal.value:.2f}",
            "yes" if goal.met else "no",
        )
        for goal in goals
    ]
    return table(["goal", "limit", "measured", "met"], rows)


def about(peers: str | None = None, **more: Any) -> dict[str, Any]:
    """What figures were taken with; `peers` is another interpreter that took part."""
    found = {"python": platform.python_version(), "versions": versions(), "cores": len(os.sched_getaffinity(0)), **more}
    if peers:
        command = [peers, "-c", "import json, timing; print(json.dumps(timing.versions()))"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found["versions_of_peers"] = json.loads(said.stdout)
    return found


def versions() -> dict[str, str]:
    """Of the packages whose speed counts, those that there are."""
    import importlib.metadata

    names = {distribution.metadata["Name"]: distribution.version for distribution in importlib.metadata.distributions()}
    return {name: names[name] for name in _PACKAGES if name in names}


def save(path: Path | None, found: Mapping[str, Any], goals: Sequence[Goal]) -> None:
    """Prints the goals; writes the result, with them, where it is asked for."""
    print("\n" + goals_table(goals))
    if path is None:
        return
    listed = [
        {"name": goal.name, "limit": goal.limit, "value": round(goal.value, 3), "met": goal.met} for goal in goals
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**found, "goals": listed}, indent=1) + "\n", encoding="utf-8")


def arguments(document: str | None, name: str, rounds: int) -> argparse.ArgumentParser:
    """The arguments that all timed programs take."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, help="folder of real speech in LibriSpeech's layout, or a manifest")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these rows")
    parser.add_argument("--files", type=int, help="only so many recordings of the folder: to try the program")
    path = RESULTS / f"{name}.json"
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"write the result, usually to results/{path.name}")
    return parser
