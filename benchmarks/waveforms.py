"""Batches from waveforms: slots a second that one core turns into features, with noise and rooms; and two processes.

    python benchmarks/waveforms.py SPEECH [--rounds 5] [--json FILE]

SPEECH is a folder in LibriSpeech's layout, or a manifest; it is stored as PCM16 and as float32 log-mels. Noise (40
recordings of 20 s) and responses of rooms (60 of 0.2 to 0.6 s) are made up. Each row is a program of its own that reads
batches of 64 x 10 crops of 1.2 s, in turn; all but the last have one core. Checksums are compared before the clock
runs, and all files are in the page cache.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timing

_BATCH = (64, 10)
_SLOTS = _BATCH[0] * _BATCH[1]
# Batches before the clock runs, after which nearly every record was read once, and while it does.
_BEFORE, _TIMED = 20, 16
# Rows: options of the loader, and whether there are noise and rooms.
ROWS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "waveforms as stored": ({}, ()),
    "the features alone, without reading": ({}, ()),
    "features": ({"features": "logmel"}, ()),
    "features, noise": ({"features": "logmel"}, ("noise",)),
    "features, noise and rooms": ({"features": "logmel"}, ("noise", "rooms")),
    "features, noise, by 2 workers": ({"features": "logmel", "workers": 2}, ("noise",)),
}
_KERNEL, _WORKERS = "the features alone, without reading", "features, noise, by 2 workers"


def main() -> None:
    parser = timing.arguments(__doc__, "waveforms", rounds=5)
    args = parser.parse_args()
    rows = timing.speech(args.speech)[: args.files]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        sizes = prepare(data, rows)
        contestants = {name: functools.partial(start_one, name, data) for name in args.only or ROWS}
        runs = timing.in_turn(contestants, args.rounds)
    found = []
    for name, taken in runs.items():
        row: dict[str, Any] = {"name": name, "slots_per_s": timing.median(taken, "slots_per_s")}
        if name != _WORKERS:  # whose processes have times of their own
            row["slots_per_core_s"] = timing.median(taken, "slots_per_core_s")
        found.append(row)
    lines = [(row["name"], f"{row['slots_per_s']:,.0f}", f"{row.get('slots_per_core_s', 0):,.0f}") for row in found]
    print(timing.table(["", "slots/s", "slots/s of processor time"], lines))
    print(timing.table(["", "bytes a second of speech"], [(name, f"{size:,.0f}") for name, size in sizes.items()]))
    goals = []
    if not args.only:
        rate = timing.median(runs["features, noise"], "slots_per_core_s")
        goals.append(timing.Goal("slots/s of a core, with noise", rate, 3000))
        # A machine that does other things slows both: 3,000 by the 5,800 that the features alone allow.
        share = timing.ratio(runs["features, noise"], runs[_KERNEL], "slots_per_core_s")
        goals.append(timing.Goal("with noise, by the features alone", share, 0.52))
    result = {"rows": found, "bytes_a_second_of_speech": sizes, "rounds": runs}
    timing.save(args.json, {**timing.about(), **result}, goals)


def prepare(data: Path, rows: list[Any]) -> dict[str, float]:
    """Writes the datasets `speech`, `mels`, `noise` and `rooms`; bytes of the first two, a second of speech."""
    timing.write_rows(data / "speech.csv", rows)
    _write_sounds(data)
    raw, whole = ("--features", "raw"), ("--set", "voice=none", "--set", "min_utterance_ms=0")
    jobs = {"speech": ("speech", raw), "mels": ("speech", ()), "noise": ("noise", raw), "rooms": ("rooms", raw + whole)}
    sizes = {}
    frames = {}
    for name, (manifest, flags) in jobs.items():
        timing.ge2e_run(data / f"{manifest}.csv", data / name, 2, *flags)
        splits = json.loads((data / name / "metadata.json").read_text())["shards"].values()
        sizes[name], frames[name] = (
            sum(entry[key] for shards in splits for entry in shards) for key in ("records_bytes", "frames")
        )
    seconds = frames["speech"] / timing.RATE_HZ
    return {"PCM16": sizes["speech"] / seconds, "float32 log-mels": sizes["mels"] / seconds}


def _write_sounds(data: Path) -> None:
    import numpy as np
    import soundfile

    rng = np.random.default_rng(1)
    for kind, count in (("noise", 40), ("rooms", 60)):
        paths = []
        for number in range(count):
            if kind == "noise":
                samples = np.cumsum(rng.standard_normal(20 * timing.RATE_HZ)) / 500 + rng.standard_normal()
                samples = np.sin(samples) * 0.1 + 0.05 * rng.standard_normal(len(samples))
            else:
                length = int(timing.RATE_HZ * rng.uniform(0.2, 0.6))
                samples = 0.2 * rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
                samples[:40], samples[40] = 0, 0.9
            paths.append(data / f"{kind}-{number}.wav")
            soundfile.write(paths[-1], samples.clip(-1, 1), timing.RATE_HZ, subtype="PCM_16")
        lines = [f"{path},{path.stem}" for path in paths]
        (data / f"{kind}.csv").write_text("\n".join(["audio_path,speaker_id", *lines]) + "\n")


def start_one(name: str, data: Path) -> timing.Run:
    """One row as a program."""
    command = [sys.executable, __file__, "--one", name, "--data", str(data)]
    found: timing.Run = json.loads(timing.watched(command).output.splitlines()[-1])
    return found


def run_one(name: str, data: Path) -> None:
    """What one row does in this process, as JSON."""
    if name != _WORKERS:
        timing.one_core()
    warnings.simplefilter("ignore")
    step = _kernel() if name == _KERNEL else functools.partial(next, _batches(name, data))
    for _ in range(_BEFORE):
        step()
    began, used = time.perf_counter(), time.process_time()
    for _ in range(_TIMED):
        step()
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    slots = _TIMED * _SLOTS
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "slots_per_s": slots / wall, "slots_per_core_s": slots / cpu}))


def _batches(name: str, data: Path) -> Iterator[Any]:
    from ge2e_transforms import BatchLoader, WaveformAugment

    options, sounds = ROWS[name]
    if sounds:  # on every crop
        given: dict[str, Any] = {sound: data / sound for sound in sounds}
        options = options | {"waveform_transform": WaveformAugment(noise_share=1, room_share=1, **given)}
    # Most speakers of the excerpt have one utterance.
    options = options | {"under_m": "repeat", "speakers": "proportional"}
    return BatchLoader(
        data / "speech", speakers_per_batch=_BATCH[0], utterances_per_speaker=_BATCH[1], **options
    ).batches(epochs=None)


def _kernel() -> Callable[[], object]:
    import numpy as np

    from ge2e_transforms import PRESETS
    from ge2e_transforms.features import FeatureKernel

    kernel, some = FeatureKernel(PRESETS["ge2e"]), 32
    waveforms = np.random.default_rng(0).normal(0, 0.03, (some, 19200)).astype(np.float32)
    return lambda: [kernel(waveforms) for _ in range(_SLOTS // some)]


if __name__ == "__main__":
    if "--one" in sys.argv:
        inner = argparse.ArgumentParser()
        inner.add_argument("--one")
        inner.add_argument("--data", type=Path)
        one = inner.parse_args()
        run_one(one.one, one.data)
    else:
        main()
