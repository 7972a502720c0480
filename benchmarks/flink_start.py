"""Where the time goes when `ge2e run` runs on Flink: the parts of the start, from the logs of the cluster.

    python benchmarks/flink_start.py MANIFEST [--jobs 2] [--json benchmarks/results/flink_start.json]

Starts the cluster of deploy/flink on this machine once for each way to send a job to it, and runs the same job on it
some times: the first one meets programs that have just started. Needs what deploy/flink needs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from deploy.flink.cluster import Cluster, find_parts  # noqa: E402


class Way(NamedTuple):
    """One way to run jobs."""

    stage_all: bool
    flags: tuple[str, ...]


WAYS = {
    "all jars sent with the job (Beam's default)": Way(True, ()),
    "all jars sent, stage by stage": Way(True, ("--execution_mode_for_batch=BATCH_FORCED",)),
    "jars in the cluster, stage by stage": Way(False, ()),
}
# Each part ends with the first (or last) line of a log that says so, after the start of the command.
PARTS = (
    ("program starts, builds the graph", "job-server", r"Staging artifacts for", min),
    ("job server translates it", "job-server", r"Submitting job", min),
    ("job and jars sent to Flink", "job-manager", r"Received JobGraph submission", min),
    ("tasks deployed, workers asked for", "task-manager-1", r"Logging client connected", min),
    ("boot gets workers ready, Python imports", "task-manager-1", r"Python sdk harness starting", min),
    ("manifest, plan, shuffle", "job-manager", r"WriteShards.*INITIALIZING to RUNNING", max),
)
_TIME = re.compile(r"^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d),(\d{3})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--jobs", type=int, default=2, help="on each cluster, one after the other")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    parts = find_parts()
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, way) in enumerate(WAYS.items()):
            with Cluster(Path(scratch) / f"cluster-{number}", parts, stage_all=way.stage_all) as cluster:
                jobs = [run(args.manifest, cluster, way, Path(scratch) / f"{number}-{job}") for job in range(args.jobs)]
                found[name] = jobs
    print(table(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


def run(manifest: Path, cluster: Cluster, way: Way, out: Path) -> dict[str, Any]:
    """Runs one job; seconds of each part, in order."""
    workers, load = cluster.folder / "workers", os.getloadavg()[0]
    before = len(list(workers.iterdir())) if workers.exists() else 0
    command = [sys.executable, "-m", "pipeline", "run", "--manifest", str(manifest.absolute()), "--output", str(out)]
    began = time.time()
    subprocess.run([*command, "--shard_mib", "1", "--", *cluster.flags, *way.flags], cwd=ROOT, check=True)
    ended = time.time()
    ends = [(part, pick(moments(cluster.folder / f"{log}.log", text, began))) for part, log, text, pick in PARTS]
    done = sorted(path.stat().st_mtime for path in out.glob("*/*.done.json"))
    ends += [("first shard", done[0]), ("other shards", done[-1]), ("commit, and the end is noticed", ended)]
    starts = [began, *(moment for _, moment in ends)]
    seconds = {part: round(end - start, 2) for (part, end), start in zip(ends, starts, strict=False)}
    started = len(list(workers.iterdir())) - before
    return {"seconds": seconds, "total": round(ended - began, 2), "workers_started": started, "load_before": load}


def moments(log: Path, text: str, since: float) -> Iterator[float]:
    """Times of the lines that say something."""
    for line in log.read_text(errors="replace").splitlines():
        if (stamp := _TIME.match(line)) and re.search(text, line):
            moment = datetime.fromisoformat(f"{stamp[1]}T{stamp[2]}.{stamp[3]}").timestamp()
            if moment >= since:
                yield moment


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A column for each job."""
    jobs = [(f"{name}, job {number}", job) for name, row in found.items() for number, job in enumerate(row, 1)]
    lines = ["| seconds | " + " | ".join(name for name, _ in jobs) + " |", "|---" * (len(jobs) + 1) + "|"]
    for part in jobs[0][1]["seconds"]:
        lines.append(f"| {part} | " + " | ".join(f"{job['seconds'][part]:.1f}" for _, job in jobs) + " |")
    for name, field in (("**in all**", "total"), ("workers started", "workers_started")):
        lines.append(f"| {name} | " + " | ".join(f"{job[field]:g}" for _, job in jobs) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
