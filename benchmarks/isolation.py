"""What decoding in a child process costs: real speech decoded, and a shard made of it, here and with a child.

    python benchmarks/isolation.py MANIFEST [--rounds 5] [--json FILE]

Both ways take turns, on one core and then on two, so that the child has one of its own. The start of the child is part
of its time. CPU seconds are of both processes; where other programs run, only they say something. Medians count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ge2e_transforms import audio
from ge2e_transforms.config import PRESETS
from ge2e_transforms.errors import DataError
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.isolated import IsolatedDecoder
from ge2e_transforms.manifest import read_rows
from ge2e_transforms.planning import ShardTask
from ge2e_transforms.utterance import Utterance
from pipeline.write import write_shard

RECIPE = PRESETS["ge2e"]


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def decode_all(rows: list[Utterance], load: Callable[..., object]) -> None:
    for row in rows:
        load(row.location, RECIPE.audio, None, row.location)


def make_shard(rows: list[Utterance], extractor: FeatureExtractor, decoder: IsolatedDecoder | None) -> None:
    with tempfile.TemporaryDirectory() as output:
        done = write_shard(
            output, ShardTask("train", 0, 1, 0, "00000000"), rows, extractor, ("speech",), decoder=decoder
        )
    if done["rejected"]:
        raise SystemExit(f"recordings were rejected: {done['ledger'][0]}")


def isolated(call: Callable[[IsolatedDecoder], None]) -> None:
    with IsolatedDecoder() as decoder:
        call(decoder)


def start(decoder: IsolatedDecoder) -> None:
    with contextlib.suppress(DataError):
        decoder.load(b"", RECIPE.audio)


def measure(rows: list[Utterance], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of each round, by contestant."""
    extractor = FeatureExtractor(RECIPE)
    contestants: dict[str, Callable[[], None]] = {
        "decode, in process": lambda: decode_all(rows, audio.load),
        "decode, isolated": lambda: isolated(lambda decoder: decode_all(rows, decoder.load)),
        "shard, in process": lambda: make_shard(rows, extractor, None),
        "shard, isolated": lambda: isolated(lambda decoder: make_shard(rows, extractor, decoder)),
        "start of a child": lambda: isolated(start),
    }
    times: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds + 1):
        for name, call in contestants.items():
            began, used = time.monotonic(), cpu_seconds()
            call()
            if number:  # the first loads what is loaded at first use
                times.setdefault(name, []).append((time.monotonic() - began, cpu_seconds() - used))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    path = str(args.manifest.absolute())
    with args.manifest.open("rb") as stream:
        rows = [
            row._replace(source="speech", utterance_id=str(number))
            for number, row in enumerate(read_rows(stream, path))
            if isinstance(row, Utterance)
        ]
    cores = sorted(os.sched_getaffinity(0))
    found: dict[str, object] = {"recordings": len(rows), "load_before": os.getloadavg()}
    for count in (1, 2):
        os.sched_setaffinity(0, cores[:count])  # a child has the cores of its parent
        times = measure(rows, args.rounds)
        found[f"seconds, {count} core(s)"] = times
        medians = {
            name: [statistics.median(taken) for taken in zip(*pairs, strict=True)] for name, pairs in times.items()
        }
        print(f"\n{len(rows)} recordings, {count} core(s)\n\n| | s | CPU s | isolated / in process, wall | CPU |")
        print("|---|---|---|---|---|")
        for name, (wall, cpu) in medians.items():
            base = medians.get(name.replace("isolated", "in process"), (wall, cpu))
            ratios = f"{wall / base[0]:.2f} | {cpu / base[1]:.2f}" if name.endswith("isolated") else " | "
            print(f"| {name} | {wall:.2f} | {cpu:.2f} | {ratios} |")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
