"""Copies when writing: what an utterance with copies costs beside as many plain records of it.

    python benchmarks/augmentation.py SPEECH [--rounds 3] [--folder DIR] [--json FILE]

Shards are written in this process, on one core. An utterance with one noisy and one reverberated copy stands against
three plain records of the same recording, which is decoded once in both. Then each kind of copy alone, against two
plain records. Noises (60 of 4 to 30 s), music (40 pieces of 4 minutes, which is more than the memory for sounds holds),
voices (the speech) and rooms (200 of 0.3 to 1.2 s) are made here, from fixed seeds, and lie on the disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timing
from timing import Goal, Run

if TYPE_CHECKING:
    from ge2e_transforms.utterance import Utterance

_RATE = timing.RATE_HZ
_GOAL = 0.5
_NOISES, _PIECES, _ROOMS = 60, 40, 200
# Configs by name; the number of plain records that each is held against is that of its records.
CONFIGS: dict[str, dict[str, Any]] = {
    "noise and room": {"noise": {}, "room": {}},
    "noise": {"noise": {}},
    "music, beyond the memory": {"music": {}},
    "babble of 3 to 7": {"babble": {}},
    "room": {"room": {}},
    "mp3": {"codec": {"codecs": "mp3"}},
    "telephone": {"codec": {"codecs": "telephone"}},
    "speed 0.9": {"speed": [0.9]},
}


def main() -> None:
    parser = timing.arguments(__doc__, "augmentation", rounds=3)
    parser.add_argument("--folder", type=Path, help="where shards and sounds go; by default the system's")
    args = parser.parse_args()
    timing.one_core()
    rows = timing.speech(args.speech)[: args.files]
    seconds = sum(timing.lengths(rows))
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        sounds = {**made_sounds(folder), "babble": rows}
        contestants: dict[str, Callable[[], Run]] = {
            "two plain": partial(written, plain(rows, 2), None, {}, folder),
            "three plain": partial(written, plain(rows, 3), None, {}, folder),
        }
        contestants |= {name: partial(written, rows, config, sounds, folder) for name, config in CONFIGS.items()}
        runs = timing.in_turn(contestants, args.rounds, warm_up=1)
    report(runs, seconds, args)


def report(runs: Mapping[str, list[Run]], seconds: float, args: Any) -> None:
    found: list[dict[str, Any]] = []
    for name in CONFIGS:
        against = "three plain" if name == "noise and room" else "two plain"
        spent = timing.median(runs[name], "cpu_s")
        found.append(
            {
                "name": name,
                "x_real_time": round(seconds / spent),
                "of_plain": round(timing.ratio(runs[against], runs[name], "cpu_s"), 3),
                "against": against,
                "rounds": runs[name],
            }
        )
    cells = [(row["name"], f"{row['x_real_time']:,}", f"{row['of_plain']:.2f} of {row['against']}") for row in found]
    print(
        f"\n{seconds / 3600:.2f} h of speech, one core, processor time, {args.rounds} rounds; x real time of speech\n"
    )
    print(timing.table(["utterances with copies", "x real time", "speed"], cells))
    goals = [Goal("noise and room / three plain records", found[0]["of_plain"], _GOAL)]
    plain_rows = [
        {"name": name, "x_real_time": round(seconds / timing.median(runs[name], "cpu_s")), "rounds": runs[name]}
        for name in ("two plain", "three plain")
    ]
    facts = timing.about(hours=round(seconds / 3600, 3), rounds=args.rounds)
    timing.save(args.json, {"about": facts, "copies": found, "plain": plain_rows}, goals)


def plain(rows: Sequence[Utterance], times: int) -> list[Utterance]:
    """Each row so many times, as utterances of their own of one recording."""
    return [row._replace(utterance_id=f"{row.utterance_id}-{number}") for row in rows for number in range(times)]


def made_sounds(folder: Path) -> dict[str, list[Utterance]]:
    """Noise, music and rooms, as the rows of their lists."""
    import numpy as np

    rng = np.random.default_rng(0)

    def pink(seconds: float) -> Any:
        spectrum = np.fft.rfft(rng.standard_normal(int(_RATE * seconds)))
        return np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), int(_RATE * seconds))

    def music(seconds: float) -> Any:
        time = np.arange(int(_RATE * seconds)) / _RATE
        return sum(np.sin(2 * np.pi * freq * time) for freq in rng.uniform(80, 3000, 5)) + 0.3 * pink(seconds)

    def room(seconds: float) -> Any:
        time = np.arange(int(_RATE * seconds)) / _RATE
        response = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)  # 60 dB over its length
        response[:32], response[32] = 0, 8
        return response

    makers = {"noise": (pink, _NOISES, 4, 30), "music": (music, _PIECES, 240, 240), "room": (room, _ROOMS, 0.3, 1.2)}
    made = {}
    for kind, (make, count, least, most) in makers.items():
        sounds = (make(rng.uniform(least, most)) for _ in range(count))
        made[kind] = [_row(folder, f"{kind}{number}.wav", sound) for number, sound in enumerate(sounds)]
    return made


def _row(folder: Path, name: str, samples: Any) -> Utterance:
    import numpy as np
    import soundfile

    from ge2e_transforms.utterance import Utterance

    soundfile.write(folder / name, 0.5 * samples / np.abs(samples).max(), _RATE, subtype="PCM_16")
    return Utterance(str(folder / name), name, "sounds", name, "sounds")


def written(
    rows: Sequence[Utterance],
    config: Mapping[str, Any] | None,
    sounds: Mapping[str, Sequence[Utterance]],
    folder: Path,
) -> Run:
    """One shard; sounds are decoded anew, as by a worker that begins."""
    from ge2e_transforms.augmentation import Augmentation
    from ge2e_transforms.config import PRESETS
    from ge2e_transforms.copies import Copies
    from ge2e_transforms.extractor import FeatureExtractor
    from ge2e_transforms.planning import ShardTask
    from ge2e_transforms.shards import ShardWriter, in_order
    from ge2e_transforms.sounds import Sounds

    recipe = PRESETS["ge2e"]
    copies = None
    if config is not None:
        listed = {kind: {"manifest": "list", **entry} if kind in sounds else entry for kind, entry in config.items()}
        asked = Augmentation.from_dict(listed)
        copies = Copies(asked, Sounds(sounds, recipe.audio, str, asked.cache_mib << 20), recipe)
    sources = tuple(sorted({row.source for row in rows}))
    task = ShardTask("train", 0, 1, 0, "00000000")
    writer = ShardWriter(task, FeatureExtractor(recipe), sources, str, copies=copies)
    paths = (folder / "shard.tfrecord", folder / "shard.index.parquet")
    done: dict[str, Any] = {}
    run = timing.timed(lambda: done.update(writer.write(in_order(rows), *paths)))
    if done["ledger"]:
        raise SystemExit(f"{len(done['ledger'])} rows could not be written: {done['ledger'][0]}")
    return {**run, "records": done["records"]}


if __name__ == "__main__":
    main()
