"""The whole job, from recordings to features in files on disk: ours, and what others do with the same speech.

    python benchmarks/peers.py SPEECH [--times 2 12] [--rounds 3] [--peers PEERS/bin/python] [--json FILE]

SPEECH is a folder in the layout of LibriSpeech, or a manifest; its rows are repeated under other speaker ids, few times
and many: what the long run takes more than the short one gives the rate, what is left of the short one the fixed cost.
Each job is a program of its own with all cores; all take turns. `--peers` names an interpreter with lhotse, torch and
webrtcvad (`requirements-recipe.txt`): without it their rows are left out. `peer_jobs.py` holds the others.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import timing
from timing import Goal, Run

_SPEED_GOAL = 2.0


class Peer(NamedTuple):
    """A row of the table."""

    title: str
    own: bool  # runs in the interpreter of this project
    leaves_out: str


_COMMON = "splits, index, ledger, statistics, checksums of files, resume"
_UNCHECKED = f"checks of the audio, {_COMMON}"
OURS = "ours"
PEERS = {
    OURS: Peer("ours, `ge2e run`", True, ""),
    "predecessor": Peer(
        "the predecessor: librosa per window, a record a batch",
        True,
        f"more than one core, level, what no whole window holds (41 % of the audio), {_UNCHECKED}",
    ),
    "ddsp": Peer("DDSP-style Beam graph, our features", True, f"order by speaker, {_COMMON}"),
    "lhotse": Peer("lhotse `compute_and_store_features`", False, f"voice detection, level, {_UNCHECKED}"),
    "rtvc": Peer("RTVC-style pool, a file an utterance", False, f"logarithm, {_UNCHECKED}"),
}


def main() -> None:
    args = _arguments()

    rows = timing.speech(args.speech)[: args.files]
    seconds = sum(timing.lengths(rows))
    names = [name for name, peer in PEERS.items() if name in (args.only or PEERS) and (peer.own or args.peers)]
    contestants: dict[str, Callable[[], Run]] = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        for times in sorted(args.times):
            many = timing.repeated(rows, times)
            manifest = folder / f"rows-{times}.csv"
            timing.write_rows(manifest, many)
            listed = [(row.location, row.speaker_id, row.utterance_id) for row in many]
            manifest.with_suffix(".json").write_text(json.dumps(listed))
            for name in names:
                contestants[f"{name} x{times}"] = partial(job, name, manifest, folder, len(many), args.peers)
        runs = timing.in_turn(contestants, args.rounds)
    report(names, runs, seconds, args)


def _arguments() -> argparse.Namespace:
    parser = timing.arguments(__doc__, "peers", rounds=3)
    parser.add_argument("--times", type=int, nargs=2, default=[2, 12], help="how often the speech is repeated")
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter with lhotse, torch and webrtcvad")
    parser.add_argument("--folder", type=Path, help="where files go; by default the system's")
    return parser.parse_args()


def job(name: str, manifest: Path, folder: Path, utterances: int, python: str) -> Run:
    """One job as a program; its output is removed."""
    output, cores = folder / "output", len(os.sched_getaffinity(0))
    output.mkdir()
    try:
        if name == OURS:
            return timing.ge2e_run(manifest, output, cores)
        here = Path(__file__).parent
        program = [sys.executable if PEERS[name].own else python, str(here / "peer_jobs.py"), name]
        # Workers of Beam import what they run by its name.
        path = {"PYTHONPATH": os.pathsep.join((str(timing.ROOT), str(here)))}
        ended = timing.watched([*program, str(manifest.with_suffix(".json")), str(output), str(cores)], path)
        written = json.loads(ended.output.splitlines()[-1])["utterances"]
        if written != utterances:
            raise SystemExit(f"{name} wrote {written} of {utterances} utterances")
        return ended.run | {"bytes": timing.bytes_in(output)}
    finally:
        shutil.rmtree(output)


def report(names: list[str], runs: dict[str, list[Run]], seconds: float, args: argparse.Namespace) -> None:
    low, high = sorted(args.times)
    found: list[dict[str, Any]] = []
    for name in names:
        short, long = runs[f"{name} x{low}"], runs[f"{name} x{high}"]
        medians = {key: timing.median(long, key) for key in ("wall_s", "cpu_s", "peak_mib", "bytes")}
        rate = timing.rate(name, short, long, seconds * (high - low))
        row = {"name": name, **{key: round(value, 3) for key, value in medians.items()}}
        row |= {key: round(value) for key, value in rate.items()}
        if rate:
            row["fixed_s"] = round(max(0.0, timing.median(short, "wall_s") - seconds * low / rate["x_real_time"]), 2)
        found.append({**row, "rounds_short": short, "rounds": long})
    print(f"\n{seconds * high / 3600:.2f} h of speech, {len(os.sched_getaffinity(0))} cores, {args.rounds} rounds\n")
    head = ["", "wall s", "CPU s", "fixed, s", "x real time, rate", "peak MiB", "MB on disk", "what it leaves out"]
    print(timing.table(head, [_cells(row) for row in found]))
    facts = timing.about(args.peers, hours=round(seconds * high / 3600, 3), times=args.times, rounds=args.rounds)
    timing.save(args.json, {"about": facts, "rows": found}, _goals(found))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    peer = PEERS[row["name"]]
    rate = (f"{row['fixed_s']:.1f}", f"{row['x_real_time']:,}") if "fixed_s" in row else ("", "")
    figures = (f"{row['peak_mib']:.0f}", f"{row['bytes'] / 1e6:.0f}", peer.leaves_out)
    return (peer.title, f"{row['wall_s']:.1f}", f"{row['cpu_s']:.1f}", *rate, *figures)


def _goals(found: list[dict[str, Any]]) -> list[Goal]:
    """Ours against the best of the others, whichever that is for each figure."""
    ours = next((row for row in found if row["name"] == OURS), None)
    others = [row for row in found if row["name"] != OURS]
    if not ours or not others:
        return []
    goals = [
        Goal(f"the fastest of the others / ours, {key}", min(row[key] for row in others) / ours[key], _SPEED_GOAL)
        for key in ("wall_s", "cpu_s")
    ]
    rates = [row["x_real_time"] for row in others if "x_real_time" in row]
    if rates and "x_real_time" in ours:
        goals.append(Goal("ours / the fastest of the others, rate", ours["x_real_time"] / max(rates), _SPEED_GOAL))
    least = min(row["peak_mib"] for row in others)
    goals.append(Goal("ours / the smallest of the others, peak MiB", ours["peak_mib"] / least, 1.0, at_most=True))
    return goals


if __name__ == "__main__":
    main()
