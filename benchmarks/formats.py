"""Formats: how fast a core decodes, resamples and does the rest, and what long recordings in many segments take.

    python benchmarks/formats.py SPEECH [--rounds 3] [--folder DIR] [--segments 400] [--json FILE]

The speech is first encoded anew, in every format, into a temporary folder. Of each format the stages of ours take turns
with the library's own decoder, file by file. Resampling is held against `soxr.resample` alone, on the same samples.
Recordings of one hour (the speech, one utterance after the other) are written as a shard by rows of `offset_s` and
`duration_s`: how often each is decoded, and the time beside that of decoding them once. All figures are of processor
time on one core.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import timing
from timing import Goal, Run

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ge2e_transforms.utterance import Utterance

    Waveform = npt.NDArray[np.float32]

_RATE = timing.RATE_HZ
_RESAMPLE_GOAL = 0.8
_LONG_SECONDS = 3600


class Format(NamedTuple):
    """How speech is encoded: by libsndfile, or by PyAV where there is no format of its."""

    ending: str
    rate_hz: int
    sndfile: tuple[str, str] | None


FORMATS = {
    "FLAC": Format("flac", _RATE, ("FLAC", "PCM_16")),
    "WAV": Format("wav", _RATE, ("WAV", "PCM_16")),
    "MP3": Format("mp3", _RATE, ("MP3", "MPEG_LAYER_III")),
    "Opus": Format("opus", _RATE, ("OGG", "OPUS")),
    "FLAC, 48 kHz": Format("48k.flac", 48_000, ("FLAC", "PCM_16")),
    "M4A": Format("m4a", _RATE, None),
}
_STAGES = ("decode", "resample", "rest", "library")


def main() -> None:
    args = _arguments()
    timing.one_core()
    rows = timing.speech(args.speech)[: args.files]
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        chosen = {name: form for name, form in FORMATS.items() if name in (args.only or FORMATS)}
        paths = {name: encoded(rows, form, folder) for name, form in chosen.items()}
        contestants: dict[str, Callable[[], Run]] = {name: partial(stages, paths[name]) for name in paths}
        if "FLAC, 48 kHz" in paths:
            contestants["resampling"] = partial(resampling, paths["FLAC, 48 kHz"])
        if args.segments:
            recordings = long_recordings(rows, folder, args.recordings)
            for shared in (False, True):
                cut = segments(recordings, args.segments, shared)
                contestants[_long_name(shared)] = partial(long_shard, cut, folder)
        runs = timing.in_turn(contestants, args.rounds, warm_up=1)
        sizes = {name: sum(Path(path).stat().st_size for path in paths[name]) for name in paths}
    report(runs, sum(timing.lengths(rows)), sizes, args)


def _long_name(shared: bool) -> str:
    return f"long recordings, {'the same speakers in each' if shared else 'speakers of its own in each'}"


def _arguments() -> argparse.Namespace:
    parser = timing.arguments(__doc__, "formats", rounds=3)
    parser.add_argument("--folder", type=Path, help="where the encoded speech goes; by default the system's")
    parser.add_argument("--recordings", type=int, default=3, help="long recordings")
    parser.add_argument("--segments", type=int, default=400, help="of each long recording; 0 leaves them out")
    return parser.parse_args()


def report(runs: dict[str, list[Run]], seconds: float, sizes: dict[str, int], args: argparse.Namespace) -> None:
    formats: list[dict[str, Any]] = []
    cells: list[tuple[str, ...]] = []
    for name, size in sizes.items():
        row: dict[str, Any] = {
            "name": name,
            "bytes": size,
            "cpu_s": timing.median(runs[name], "cpu_s"),
            "rounds": runs[name],
        }
        # A stage that does nothing has no rate.
        taken = {stage: timing.median(runs[name], f"{stage}_s") for stage in _STAGES}
        row |= {f"{stage}_x_real_time": round(seconds / spent) for stage, spent in taken.items() if spent > 1e-3}
        row["x_real_time"] = round(seconds / (taken["decode"] + taken["resample"] + taken["rest"]))
        row["to_library"] = round(taken["library"] / taken["decode"], 3)
        formats.append(row)
        rates = (row.get(f"{stage}_x_real_time") for stage in ("decode", "resample", "rest", "library"))
        cells.append(
            (name, f"{size / 1e6:.1f}", f"{row['x_real_time']:,}", *(f"{rate:,}" if rate else "" for rate in rates))
        )
    print(f"\n{seconds / 3600:.2f} h of speech, one core, {args.rounds} rounds, times real time\n")
    print(timing.table(["", "MB", "all", "decode", "resample", "rest", "the library's decoder alone"], cells))
    goals = []
    if "resampling" in runs:
        speed = timing.median([{"ratio": run["soxr_s"] / run["ours_s"]} for run in runs["resampling"]], "ratio")
        goals.append(Goal("resampling / soxr alone", speed, _RESAMPLE_GOAL))
    found = list(_long_rows(runs))
    for row in found:
        goals.append(Goal(f"{row['name']}: decodes of each", row["decodes"] / row["recordings"], 1, at_most=True))
    if found:
        print("\n" + _long_table(found))
    facts = timing.about(hours=round(seconds / 3600, 3), rounds=args.rounds, segments=args.segments)
    resampled = [{"name": "resampling", "rounds": runs.get("resampling", [])}]
    timing.save(args.json, {"about": facts, "formats": formats, "resampling": resampled, "long": found}, goals)


# Formats.


def encoded(rows: Sequence[Utterance], form: Format, folder: Path) -> list[str]:
    """The speech in a format: a file for each recording."""
    import soundfile
    import soxr

    paths = []
    for number, row in enumerate(rows):
        path = folder / f"{number}.{form.ending}"
        samples, rate_hz = soundfile.read(row.location, dtype="float32")
        samples = soxr.resample(samples, rate_hz, form.rate_hz)
        if form.sndfile:
            kind, subtype = form.sndfile
            soundfile.write(path, samples, form.rate_hz, format=kind, subtype=subtype)
        else:
            _write_m4a(path, samples, form.rate_hz)
        paths.append(str(path))
    return paths


def _write_m4a(path: Path, samples: Waveform, rate_hz: int) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w", format="mp4") as container:
        track = container.add_stream("aac", rate=rate_hz, layout="mono")
        # A frame is what the encoder takes at once; the last one is filled with silence.
        size = 1024
        padded = np.pad(samples, (0, -len(samples) % size))
        for start in range(0, len(padded), size):
            frame = av.AudioFrame.from_ndarray(padded[None, start : start + size], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate_hz, start
            container.mux(track.encode(frame))
        container.mux(track.encode(None))


def stages(paths: Sequence[str]) -> Run:
    """Processor seconds of the stages of ours, and of the library's own decoder for the same file."""
    from ge2e_transforms import audio
    from ge2e_transforms.config import PRESETS
    from ge2e_transforms.extractor import FeatureExtractor

    extractor = FeatureExtractor(PRESETS["ge2e"])
    config = extractor.recipe.audio
    spent = dict.fromkeys(_STAGES, 0.0)
    alone = _by_pyav if paths[0].endswith("m4a") else _by_libsndfile
    began = time.perf_counter()
    for number, path in enumerate(paths):
        if number % 2:  # who comes second finds the file in the cache
            spent["library"] += timing.timed(partial(alone, path))["cpu_s"]
        marks = [time.process_time()]
        recording = audio.decode(path, config)
        marks.append(time.process_time())
        samples = audio.resample(audio.to_mono(recording, config.channel), recording.rate_hz, config.sample_rate_hz)
        marks.append(time.process_time())
        extractor.extract(samples, utterance_id=path)
        marks.append(time.process_time())
        for stage, (start, end) in zip(_STAGES, itertools.pairwise(marks), strict=False):
            spent[stage] += end - start
        if not number % 2:
            spent["library"] += timing.timed(partial(alone, path))["cpu_s"]
    wall = time.perf_counter() - began
    return {"wall_s": wall, "cpu_s": sum(spent.values()), **{f"{stage}_s": spent[stage] for stage in _STAGES}}


def _by_libsndfile(path: str) -> object:
    import soundfile

    return soundfile.read(path, dtype="float32")


def _by_pyav(path: str) -> object:
    import av
    import numpy as np

    with av.open(path) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


def resampling(paths: Sequence[str]) -> Run:
    """Processor seconds of the recipe's resampling and of soxr's, on the same samples in turn."""
    import soundfile
    import soxr

    from ge2e_transforms import audio

    spent = {"ours_s": 0.0, "soxr_s": 0.0}
    began = time.perf_counter()
    for number, path in enumerate(paths):
        samples, rate_hz = soundfile.read(path, dtype="float32")
        calls: list[tuple[str, Callable[[], object]]] = [
            ("ours_s", partial(audio.resample, samples, rate_hz, _RATE)),
            ("soxr_s", partial(soxr.resample, samples, rate_hz, _RATE, quality="HQ")),
        ]
        for name, call in calls if number % 2 else reversed(calls):
            spent[name] += timing.timed(call)["cpu_s"]
    return {"wall_s": time.perf_counter() - began, "cpu_s": sum(spent.values()), **spent}


# Long recordings.


def long_recordings(rows: Sequence[Utterance], folder: Path, count: int) -> list[str]:
    """FLAC files of one hour: the speech, one recording after the other, each file from another one on."""
    import soundfile

    paths = []
    for number in range(count):
        path = folder / f"long-{number}.flac"
        left = _LONG_SECONDS * _RATE
        with soundfile.SoundFile(path, "w", _RATE, 1, "PCM_16", format="FLAC") as file:
            for row in itertools.islice(itertools.cycle(rows), number * len(rows) // count, None):
                samples, _ = soundfile.read(row.location, dtype="float32")
                file.write(samples[:left])
                left -= len(samples)
                if left <= 0:
                    break
        paths.append(str(path))
    return paths


def segments(paths: Sequence[str], count: int, shared: bool) -> list[Utterance]:
    """Rows that cut each recording side by side, in turn between four speakers: its own, or the same in all."""
    from ge2e_transforms.utterance import Utterance

    length = _LONG_SECONDS / count
    return [
        Utterance(
            audio_path=path,
            speaker_id=f"{number % 4}" if shared else f"{recording}-{number % 4}",
            namespace="long",
            utterance_id=f"{recording}-{number:05}",
            source="long",
            offset_s=number * length,
            duration_s=length,
            position=number,
        )
        for recording, path in enumerate(paths)
        for number in range(count)
    ]


def long_shard(rows: Sequence[Utterance], folder: Path) -> Run:
    """One shard of all segments, and decoding each recording once, alone; how often the shard decoded."""
    import soundfile

    from ge2e_transforms import audio
    from ge2e_transforms.config import PRESETS
    from ge2e_transforms.extractor import FeatureExtractor
    from ge2e_transforms.planning import ShardTask
    from ge2e_transforms.shards import ShardWriter, in_order

    decodes: list[str] = []

    def load(source: Any, config: Any, channel: Any, name: str) -> Any:
        decodes.append(name)
        return audio.load(source, config, channel, name)

    paths = sorted({row.location for row in rows})
    recipe = PRESETS["ge2e"].replace(max_seconds=2 * _LONG_SECONDS)
    # Held-out splits leave nothing out: each segment counts.
    task = ShardTask("test", 0, 1, 0, "00000000")
    writer = ShardWriter(task, FeatureExtractor(recipe), ("long",), open_audio=str, load=load)
    done: list[dict[str, Any]] = []
    records, index = folder / "records", folder / "index"
    taken = timing.timed(lambda: done.append(writer.write(in_order(rows), records, index)))
    alone = timing.timed(lambda: [soundfile.read(path, dtype="float32") for path in paths])
    if done[0]["utterances"] != len(rows):
        raise SystemExit(f"{done[0]['utterances']} of {len(rows)} segments were written: {done[0]['ledger'][:1]}")
    return {
        **taken,
        "decode_alone_s": alone["cpu_s"],
        "times_decode": taken["cpu_s"] / alone["cpu_s"],
        "decodes": len(decodes),
        "recordings": len(paths),
        "segments": len(rows),
    }


def _long_rows(runs: dict[str, list[Run]]) -> Iterator[dict[str, Any]]:
    for shared in (False, True):
        taken = runs.get(_long_name(shared))
        if taken:
            medians = {key: round(timing.median(taken, key), 3) for key in ("cpu_s", "decode_alone_s", "times_decode")}
            counts = {key: taken[0][key] for key in ("decodes", "recordings", "segments")}
            yield {"name": _long_name(shared), **medians, **counts, "rounds": taken}


def _long_table(found: Sequence[dict[str, Any]]) -> str:
    cells = [
        (
            *(row["name"], row["recordings"], row["segments"], row["decodes"]),
            *(f"{row['cpu_s']:.2f}", f"{row['decode_alone_s']:.2f}", f"{row['times_decode']:.2f}"),
        )
        for row in found
    ]
    return timing.table(
        ["one shard of", "recordings", "segments", "decodes", "CPU s", "decoding alone, CPU s", "ratio"], cells
    )


if __name__ == "__main__":
    main()
