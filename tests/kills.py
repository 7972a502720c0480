"""Jobs that are killed: processes that end themselves by SIGKILL at a file operation that was chosen before.

A process is armed by an audit hook, which Python calls before each operation. Moments are drawn over the operations of
a job, so that a slow machine meets the same stages; a pause after the operation, up to the mean time between two, puts
the kill anywhere between. As a program it is the parent of drivers: `python tests/kills.py` reads a request a line,
forks a driver that has everything imported, and answers how it ended.

It imports nothing heavy, as armed workers import it before all else.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
ARM = "GE2E_TEST_KILL"
_OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.scandir")
STAGES = ("reading", "planning", "shard", "publishing a shard", "commit", "after metadata")


class Moment(NamedTuple):
    """When a process ends itself.

    Attributes:
        operation: the file operation, from 1, before which it is time; 0 for never.
        pause_s: waited from there on, while the process works on.
    """

    operation: int
    pause_s: float


NEVER = Moment(0, 0.0)


def arm(folders: Sequence[str], moment: Moment, log: str, once: str = "") -> None:
    """Appends each file operation of this process within `folders` to `log`, and ends the process at its moment.

    Args:
        folders: of the corpus and the output.
        moment: when.
        log: gets a line an operation: seconds, name of the operation, path.
        once: a file that the process makes before it ends, with its id and the stamps of the done files in the last
            of the folders; where it stands already, the process lives on.
    """
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    numbers = itertools.count(1)

    def end() -> None:
        with contextlib.suppress(FileExistsError):
            if once:
                with Path(once).open("x") as file:
                    json.dump({"process": os.getpid(), "done": stamps_of_done(Path(folders[-1]))}, file)
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _OPERATIONS or not isinstance(arguments[0], str) or not arguments[0].startswith(tuple(folders)):
            return
        os.write(stream, f"{time.monotonic():.6f}\t{event}\t{arguments[0]}\n".encode())
        if next(numbers) == moment.operation:
            threading.Timer(moment.pause_s, end).start() if moment.pause_s else end()

    sys.addaudithook(hook)


def stamps_of_done(output: Path) -> dict[str, list[int]]:
    """Inode and time of change of each done file: another pair for one that was written again."""
    return {str(path): [path.stat().st_ino, path.stat().st_mtime_ns] for path in sorted(output.glob("*/*.done.json"))}


def arm_from_environment() -> None:
    """Arms a worker process as the environment says, if it does."""
    if ARM in os.environ and "pipeline.local_worker" in sys.orig_argv:
        request = json.loads(os.environ[ARM])
        arm(request["folders"], Moment(*request["moment"]), f"{request['log']}-{os.getpid()}", request["once"])


def worker_environment(folders: Sequence[str], moment: Moment, log: str, once: str) -> dict[str, str]:
    """Variables for a program whose workers are to be armed; the first that comes to the moment ends, and no other."""
    request = {"folders": folders, "moment": moment, "log": log, "once": once}
    return {ARM: json.dumps(request), "PYTHONPATH": f"{ROOT / 'tests' / 'tools' / 'armed'}"}


class Operation(NamedTuple):
    """What a stage does to a file, and when."""

    seconds: float
    name: str
    path: str
    stage: str


def operations(log: Path) -> list[Operation]:
    """What a process did, each with the stage of the job that it is part of."""
    found, published = [], False
    for line in log.read_text().splitlines():
        seconds, name, path = line.split("\t")
        published |= bool(found and found[-1].name == "os.rename" and "/metadata.json.tmp-" in found[-1].path)
        stage = _stage(name, path) or (found[-1].stage if found else "reading")
        if found and name == "os.mkdir" and stage in ("reading", "planning"):
            stage = "shard"  # the folder of its split
        found.append(Operation(float(seconds), name, path, "after metadata" if published else stage))
    return found


def _stage(name: str, path: str) -> str:
    """Empty where the path does not say it."""
    file, final = Path(path).name, Path(path).name.partition(".tmp-")[0]
    if file == "manifest.csv":
        return "reading"
    if file == "metadata.json":
        return "planning"
    if file.endswith(".wav"):
        return "shard"
    if file != final and final.endswith((".tfrecord", ".index.parquet", ".done.json")):
        return "shard" if name == "open" and not final.endswith(".done.json") else "publishing a shard"
    if file.endswith((".done.json", ".index.parquet")) or final.startswith(("index-", "speakers-", "ledger-", "meta")):
        return "commit"
    return ""


def draw(undisturbed: Sequence[Operation], kills: int, seed: int) -> list[Moment]:
    """Moments of so many kills: stages in turn, within a stage any operation; half of them a pause later."""
    rng = random.Random(seed)
    by_stage = [
        [number for number, one in enumerate(undisturbed, 1) if one.stage == stage]
        for stage in STAGES
        if any(one.stage == stage for one in undisturbed)
    ]
    gap = (undisturbed[-1].seconds - undisturbed[0].seconds) / len(undisturbed)
    return [
        Moment(rng.choice(by_stage[kill % len(by_stage)]), rng.choice((0.0, rng.uniform(0, gap))))
        for kill in range(kills)
    ]


class Drivers:
    """A process that has imported the program and forks a driver for each run."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(
        self,
        arguments: Sequence[object],
        folders: Sequence[Path],
        log: Path,
        moment: Moment = NEVER,
        environment: dict[str, str] | None = None,
    ) -> int:
        """Exit status of `ge2e` with these arguments in a driver of its own, negative for a signal.

        What it printed is in the file beside `log` whose name ends in '.out'.
        """
        request = {
            "arguments": list(map(str, arguments)),
            "folders": list(map(str, folders)),
            "log": str(log),
            "moment": moment,
            "environment": environment or {},
        }
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def drivers() -> Iterator[Drivers]:
    with subprocess.Popen(
        [sys.executable, __file__],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Drivers(process)
        process.communicate()


def _serve() -> None:
    from ge2e_transforms.config import Recipe
    from ge2e_transforms.extractor import FeatureExtractor
    from pipeline import clean, main
    from pipeline.__main__ import main as program

    assert clean and main
    FeatureExtractor(Recipe())  # loads what is loaded when it is first needed
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    # A fork loses all threads but one, with what they hold; Arrow's allocator starts its own again.
    assert len(names) - names.count("jemalloc_bg_thd") == 1, names
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            with Path(f"{request['log']}.out").open("ab") as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
            os.environ.update(request["environment"])
            arm(request["folders"], Moment(*request["moment"]), request["log"])
            status = program(request["arguments"])
            sys.stdout.flush()
            for thread in threading.enumerate():
                if isinstance(thread, threading.Timer):  # its kill is due after the last operation
                    thread.join()
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
