"""Time and memory of `ge2e report` as a dataset grows.

    python benchmarks/report.py SPEECH [--times 1 20] [--rounds 3] [--json FILE]

SPEECH is a folder in LibriSpeech's layout or a manifest, repeated under other speaker ids. Each report is a program of
its own; its libraries are part of its memory.
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
from pathlib import Path

import timing


def main() -> None:
    parser = timing.arguments(__doc__, "report", rounds=3)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 20])
    args = parser.parse_args()
    rows = timing.speech(args.speech)[: args.files]
    with tempfile.TemporaryDirectory() as folder:
        timing.write_copies(folder, rows, args.times)
        for times in args.times:
            timing.ge2e_run(Path(f"{folder}/{times}.csv"), Path(f"{folder}/{times}"), 2)
        contestants = {str(times): functools.partial(report, Path(folder), times) for times in args.times}
        runs = timing.in_turn(contestants, args.rounds)
    found = []
    for times, taken in runs.items():
        figures = {key: statistics.median(run[key] for run in taken) for key in ("wall_s", "program_mib", "page_mb")}
        found.append({"utterances": len(rows) * int(times), **figures})
    table = [(f"{row['utterances']:,}", *(f"{row[key]:,.1f}" for key in row if key != "utterances")) for row in found]
    print(timing.table(["utterances", "wall s", "MiB", "MB of the page"], table))
    timing.save(args.json, {**timing.about(), "rows": found, "rounds": runs}, [])


def report(folder: Path, times: int) -> timing.Run:
    page = folder / f"{times}.html"
    command = [sys.executable, "-m", "pipeline", "report", str(folder / str(times)), "-o", str(page)]
    return timing.watched(command).run | {"page_mb": page.stat().st_size / 1e6}


if __name__ == "__main__":
    main()
