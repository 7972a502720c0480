"""The recipe per core: ours, the library calls it is made of, and what others make of the same speech.

    python benchmarks/recipe.py SPEECH [--hours 20] [--rounds 5] [--peers PEERS/bin/python] [--json FILE]
    python benchmarks/recipe.py SPEECH --profile

SPEECH is a folder in the layout of LibriSpeech, or a manifest. All rows take turns, every 50 recordings, on one core,
no threads: ours and librosa's in this process, lhotse's and RTVC's in a child of the interpreter that `--peers`
names (`requirements-recipe.txt`). Before anything is timed, ours and librosa's values are compared. `--profile` prints
the share of each stage instead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timing
from timing import Goal, Run

if TYPE_CHECKING:
    from ge2e_transforms.utterance import Utterance

_BLOCK = 256  # frames that one FFT takes: they stay in the cache
_N_FFT, _HOP = 512, 160
_PART = 50  # recordings of a turn: some ten minutes of speech, a few seconds at most
_TOLERANCE = 1e-3
TITLES = {
    "decode": "libsndfile alone",
    "decode_fft": "libsndfile, and an FFT of all frames",
    "ours ge2e": "ours, preset `ge2e`",
    "ours seed": "ours, preset `seed`",
    "ours records null": "ours `ge2e`, records to /dev/null",
    "ours records disk": "ours `ge2e`, records to disk",
    "librosa ge2e": "`ge2e` by librosa calls",
    "librosa seed": "`seed` by librosa calls",
    "lhotse": "lhotse Fbank, 40 bins (no voice detection, no level)",
    "rtvc": "RTVC's preprocessing (no logarithm)",
    "rtvc array": "the same, its samples not packed one by one",
}
# (row, the row it is held against, at least so many times as fast).
_GOALS = (
    *(("ours ge2e", "decode", 0.55), ("ours ge2e", "librosa ge2e", 1.6), ("ours seed", "librosa seed", 1.6)),
    *(("ours ge2e", "lhotse", 2.3), ("ours ge2e", "rtvc", 4.0)),
)


def main() -> None:
    args = _arguments()
    timing.one_core()
    rows = timing.hours_of(timing.speech(args.speech)[: args.files], args.hours)
    if args.profile:
        from recipe_profile import profile

        profile(rows)
        return
    seconds = sum(timing.lengths(rows))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder, ExitStack() as stack:
        contestants = own_rows(rows, Path(folder))
        if args.peers:
            contestants |= stack.enter_context(peer_rows(args.peers, [row.location for row in rows]))
        chosen = {name: call for name, call in contestants.items() if name in (args.only or contestants)}
        compared = compare({os.path.normpath(row.location) for row in rows})
        parts = [slice(start, min(start + _PART, len(rows))) for start in range(0, len(rows), _PART)]
        runs = timing.in_turn_by_part(chosen, parts, args.rounds)
    report(runs, seconds, args, {"recordings": len(rows), "largest_difference": compared})


def _arguments() -> argparse.Namespace:
    parser = timing.arguments(__doc__, "recipe", rounds=5)
    parser.add_argument("--hours", type=float, help="repeat the speech up to so many hours")
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter with lhotse, torch and webrtcvad")
    parser.add_argument("--folder", type=Path, help="where records go to disk; by default the system's")
    # Processor time is the question here, and other programs on the core stretch the wall's.
    parser.add_argument("--clock", choices=("cpu_s", "wall_s"), default="cpu_s", help="what ratios are taken of")
    parser.add_argument("--profile", action="store_true", help="the share of each stage of ours instead")
    return parser.parse_args()


def report(runs: dict[str, list[Run]], seconds: float, args: argparse.Namespace, more: dict[str, Any]) -> None:
    found: list[dict[str, Any]] = []
    for name, taken in runs.items():
        wall, cpu = timing.median(taken, "wall_s"), timing.median(taken, "cpu_s")
        row = {"name": name, "x_real_time": round(seconds / wall), "x_real_time_cpu": round(seconds / cpu)}
        if "decode" in runs:
            row["to_decode"] = round(timing.ratio(runs["decode"], taken, args.clock), 3)
        found.append({**row, "wall_s": round(wall, 3), "cpu_s": round(cpu, 3), "rounds": taken})
    print(f"\n{seconds / 3600:.2f} h of speech, one core, {args.rounds} rounds, ratios of {args.clock}\n")
    cells = [
        (
            TITLES[row["name"]],
            f"{row['x_real_time']:,}",
            f"{row['x_real_time_cpu']:,}",
            f"{row.get('to_decode', 0):.2f}",
        )
        for row in found
    ]
    print(timing.table(["", "x real time", "x real time, CPU", "to libsndfile"], cells))
    goals = [
        Goal(f"{one} / {other}", timing.ratio(runs[other], runs[one], args.clock), limit)
        for one, other, limit in _GOALS
        if one in runs and other in runs
    ]
    facts = timing.about(args.peers, hours=round(seconds / 3600, 3), rounds=args.rounds, clock=args.clock, **more)
    timing.save(args.json, {"about": facts, "rows": found}, goals)


# Rows of this process.


def own_rows(rows: Sequence[Utterance], folder: Path) -> dict[str, Callable[[slice], Run]]:
    import recipe_peers

    paths = [row.location for row in rows]
    null = Path(os.devnull)
    every: dict[str, Callable[[slice], object]] = {
        "decode": lambda part: [decode(path) for path in paths[part]],
        "decode_fft": lambda part: [decode_fft(path) for path in paths[part]],
        "ours ge2e": lambda part: features(paths[part], "ge2e"),
        "ours seed": lambda part: features(paths[part], "seed"),
        "ours records null": lambda part: write(rows[part], null, null),
        "ours records disk": lambda part: write(rows[part], folder / "records", folder / "index"),
        "librosa ge2e": lambda part: [len(recipe_peers.librosa_ge2e(path)) for path in paths[part]],
        "librosa seed": lambda part: [len(recipe_peers.librosa_seed(path)) for path in paths[part]],
    }

    def timed(call: Callable[[slice], object], part: slice) -> Run:
        return timing.timed(lambda: call(part))

    return {name: partial(timed, call) for name, call in every.items()}


def decode(path: str) -> Any:
    import soundfile

    samples, _ = soundfile.read(path, dtype="float32")
    return len(samples)


def decode_fft(path: str) -> int:
    """A real FFT of every frame, unwindowed and unpadded: what no recipe of such frames can do without."""
    import numpy as np
    import scipy.fft
    import soundfile

    samples, _ = soundfile.read(path, dtype="float32")
    frames = np.lib.stride_tricks.sliding_window_view(samples, _N_FFT)[::_HOP]
    for start in range(0, len(frames), _BLOCK):
        scipy.fft.rfft(frames[start : start + _BLOCK], axis=1, workers=1)
    return len(frames)


def features(paths: Sequence[str], preset: str) -> int:
    """Records of all recordings, nothing written."""
    from ge2e_transforms import audio
    from ge2e_transforms.config import PRESETS
    from ge2e_transforms.errors import DataError
    from ge2e_transforms.extractor import FeatureExtractor

    extractor = FeatureExtractor(PRESETS[preset])
    made = 0
    for path in paths:
        samples = audio.load(path, extractor.recipe.audio)
        try:
            made += len(extractor.extract(samples, utterance_id=path).segments)
        except DataError:  # too short for a window, which librosa's rows leave out as well
            continue
    return made


def write(rows: Sequence[Utterance], records_path: Path, index_path: Path) -> None:
    """One shard of all rows: records, checksums, statistics and index; on the disk when this ends."""
    from ge2e_transforms.config import PRESETS
    from ge2e_transforms.extractor import FeatureExtractor
    from ge2e_transforms.planning import ShardTask
    from ge2e_transforms.shards import ShardWriter, in_order

    sources = tuple(sorted({row.source for row in rows}))
    task = ShardTask("train", 0, 1, 0, "00000000")
    writer = ShardWriter(task, FeatureExtractor(PRESETS["ge2e"]), sources, open_audio=str)
    done = writer.write(in_order(rows), records_path, index_path)
    if done["rejected"]:
        raise SystemExit(f"recordings were rejected: {done['ledger'][0]}")
    for path in (records_path, index_path):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def compare(paths: set[str]) -> dict[str, float]:
    """Largest difference of ours from librosa's values, by preset; ends the program above 1e-3."""
    import numpy as np
    import recipe_peers

    from ge2e_transforms import audio
    from ge2e_transforms.config import PRESETS
    from ge2e_transforms.errors import TooShortError
    from ge2e_transforms.extractor import FeatureExtractor

    largest = {}
    for preset, theirs in (("ge2e", recipe_peers.librosa_ge2e), ("seed", recipe_peers.librosa_seed)):
        extractor = FeatureExtractor(PRESETS[preset])
        largest[preset] = 0.0
        for path in sorted(paths):
            try:
                ours = extractor(audio.load(path, extractor.recipe.audio), timing.RATE_HZ)
            except TooShortError:
                ours = np.empty((0, 121, 40), np.float32)
            values = theirs(path)
            if ours.shape != values.shape:
                raise SystemExit(f"{path}, {preset}: ours gives {ours.shape}, librosa {values.shape}")
            largest[preset] = max(largest[preset], float(np.abs(ours - values).max(initial=0)))
        if largest[preset] > _TOLERANCE:
            raise SystemExit(f"{preset}: ours and librosa differ by {largest[preset]:.1e}")
    return largest


# Rows of another interpreter.


@contextmanager
def peer_rows(python: str, paths: Sequence[str]) -> Iterator[dict[str, Callable[[slice], Run]]]:
    """A child that waits until a row's turn comes; it has the core and the environment of this process."""
    from recipe_peers import ROWS

    program = Path(__file__).parent / "recipe_peers.py"
    with subprocess.Popen([python, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout

        def ask(name: str, part: slice) -> Run:
            assert child.stdin and child.stdout
            print(json.dumps([name, part.start, part.stop]), file=child.stdin, flush=True)
            answer = child.stdout.readline()
            if not answer:
                raise SystemExit(f"{name} of {python} ended without an answer")
            run: Run = json.loads(answer)
            return run

        print(json.dumps(list(paths)), file=child.stdin, flush=True)
        yield {name: partial(ask, name) for name in ROWS}
        child.stdin.close()


if __name__ == "__main__":
    main()
