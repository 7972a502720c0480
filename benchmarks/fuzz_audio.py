"""Damaged audio files against the decoders: a named error or samples, and nothing else.

    python benchmarks/fuzz_audio.py [--mutants 20000] [--seed 1] [--workers 2] [--only FORMAT ...] [--keep FOLDER]
    python benchmarks/fuzz_audio.py --number 1234        makes one mutant again and decodes it in this process

Two short recordings are encoded in every format that a job takes, and damaged by chance (`fuzzing.py`): by bytes, or
put together from two files. Half of the damaged Ogg files get their pages' checksums made anew, so that the damage
reaches the decoder. Each mutant goes through `audio.load` in a child process.

Allowed are a `DataError`, or samples: float32, one channel, finite, no longer than `max_seconds`. A finding is any
other exception, the end of the process, more than --seconds, or more than --mib of memory beyond what was held before;
it is printed, written to --keep, and makes the exit status 1. The table tells samples as before the damage from others,
so that what is accepted without a word can be seen. Writes `benchmarks/results/fuzz_audio.json` (or --json).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import soundfile  # noqa: E402
import synth  # noqa: E402
from fuzzing import Check, Limits, Tally, damaged, draw_of, run  # noqa: E402

from ge2e_transforms import audio, containers, decoders  # noqa: E402
from ge2e_transforms.config import AudioConfig  # noqa: E402
from ge2e_transforms.errors import DataError  # noqa: E402

CONFIG = AudioConfig()
# Format and subtype for libsndfile, of both recordings.
BY_LIBSNDFILE = {
    "WAV 8 bit": ("WAV", "PCM_U8"),
    "WAV 16 bit": ("WAV", "PCM_16"),
    "WAV 24 bit": ("WAV", "PCM_24"),
    "WAV 32 bit": ("WAV", "PCM_32"),
    "WAV float": ("WAV", "FLOAT"),
    "WAV double": ("WAV", "DOUBLE"),
    "WAV mu-law": ("WAV", "ULAW"),
    "WAV A-law": ("WAV", "ALAW"),
    "WAV IMA ADPCM": ("WAV", "IMA_ADPCM"),
    "WAV MS ADPCM": ("WAV", "MS_ADPCM"),
    "WAV GSM 6.10": ("WAV", "GSM610"),
    "WAV extensible": ("WAVEX", "PCM_24"),
    "RF64": ("RF64", "PCM_16"),
    "W64": ("W64", "PCM_16"),
    "FLAC 16 bit": ("FLAC", "PCM_16"),
    "FLAC 24 bit": ("FLAC", "PCM_24"),
    "Ogg Vorbis": ("OGG", "VORBIS"),
    "Ogg Opus": ("OGG", "OPUS"),
    "MP3 CBR": ("MP3", "MPEG_LAYER_III"),
    "MP3 VBR": ("MP3", "MPEG_LAYER_III"),
    "MP3 with ID3": ("MP3", "MPEG_LAYER_III"),
    "AIFF": ("AIFF", "PCM_16"),
    "AIFF float": ("AIFF", "FLOAT"),
    "AU": ("AU", "PCM_16"),
    "NIST SPHERE": ("NIST", "PCM_16"),
    "CAF": ("CAF", "PCM_16"),
    "CAF ALAC": ("CAF", "ALAC_16"),
}
# Ending, codec and rate for PyAV.
BY_PYAV = {
    "M4A AAC": (".m4a", "aac", 22050),
    "ADTS AAC": (".aac", "aac", 16000),
    "WebM Opus": (".webm", "libopus", 48000),
    "MPEG layer II": (".mp2", "mp2", 16000),
    "MOV PCM": (".mov", "pcm_s16le", 16000),
}
_ONE_CHANNEL_ONLY = {"WAV GSM 6.10"}
# Encoders give other bytes in another version; this one serial number makes them the same in each run.
_OGG_SERIAL = b"fuzz"


def make_seeds(only: list[str] | None = None) -> dict[str, list[bytes]]:
    """Two encoded recordings of each format, the same bytes in each run."""
    mono, stereo = synth.speechlike(1, 0.5), np.stack([synth.speechlike(n, 0.3, 24000) for n in (2, 3)], axis=1)
    seeds: dict[str, list[bytes]] = {}
    for name, (kind, subtype) in BY_LIBSNDFILE.items():
        second = stereo[:, 0] if name in _ONE_CHANNEL_ONLY else stereo
        mode = {"MP3 CBR": "CONSTANT", "MP3 VBR": "VARIABLE"}.get(name)
        recordings = ((mono, 16000), (second, 24000))
        seeds[name] = [_encoded(samples, rate, kind, subtype, mode) for samples, rate in recordings]
    tag = b"ID3\x04\0\0\0\0\x02\0TIT2\0\0\0\x06\0\0\x03seed\0".ljust(10 + 256, b"\0")
    seeds["MP3 with ID3"] = [tag + data for data in seeds["MP3 with ID3"]]
    seeds |= _by_pyav(mono)
    return {name: data for name, data in seeds.items() if only is None or name in only}


def _encoded(samples: npt.NDArray[Any], rate: int, kind: str, subtype: str, mode: str | None) -> bytes:
    with tempfile.TemporaryFile() as file:
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        options = {} if mode is None else {"bitrate_mode": mode, "compression_level": 0.5}
        with soundfile.SoundFile(file, "w", rate, channels, subtype, format=kind, **options) as sound:
            sound.write(samples)
        file.seek(0)
        data = file.read()
    if kind == "OGG":
        return _paged(data, _OGG_SERIAL)
    # The time of writing stands in the chunk of peaks.
    return re.sub(rb"(PEAK.{8}).{4}", rb"\1\0\0\0\0", data, flags=re.DOTALL)


def _by_pyav(mono: npt.NDArray[Any]) -> dict[str, list[bytes]]:
    try:
        import av
    except ImportError:
        return {}
    seeds = {}
    for name, (ending, codec, rate) in BY_PYAV.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"seed{ending}"
            with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
                stream = container.add_stream(codec, rate=rate, layout="mono")
                stream.codec_context.flags |= av.codec.context.Flags.bitexact
                frame = av.AudioFrame.from_ndarray(mono[None], format="fltp", layout="mono")
                frame.sample_rate = 16000
                fitted = av.AudioResampler(format=stream.format, layout="mono", rate=rate).resample(frame)
                for piece in (*fitted, None):
                    container.mux(stream.encode(piece))
            seeds[name] = [path.read_bytes()]
    return seeds


def _paged(data: bytes, serial: bytes | None = None) -> bytes:
    """Ogg pages with right checksums, as far as pages can be told apart."""
    starts = [found.start() for found in re.finditer(b"OggS", data)]
    pages = [data[: starts[0]] if starts else data]
    for start, end in itertools.pairwise([*starts, len(data)]):
        page = data[start:end]
        if len(page) >= 27:
            page = page[:14] + (serial or page[14:18]) + page[18:]
            page = page[:22] + containers._ogg_checksum(page).to_bytes(4, "little") + page[26:]
        pages.append(page)
    return b"".join(pages)


class Mutants:
    """Damaged files by number, in turn through the formats."""

    def __init__(self, seed: int, only: list[str] | None = None) -> None:
        self.seed, self.seeds = seed, make_seeds(only)
        self.formats = list(self.seeds)
        self._all = [data for some in self.seeds.values() for data in some]

    def format(self, number: int) -> str:
        return self.formats[number % len(self.formats)]

    def make(self, number: int) -> tuple[bytes, int, str]:
        """The file, the number of its seed within the format, and what was done to it."""
        draw = draw_of(self.seed, number)
        some = self.seeds[self.format(number)]
        which = draw.randrange(len(some))
        other = draw.choice(some if draw.random() < 0.5 else self._all)
        data, what = damaged(some[which], other, draw)
        if self.format(number).startswith("Ogg") and draw.random() < 0.5:
            data, what = _paged(data), f"{what}; checksums made anew"
        return data, which, what

    def check(self) -> Check:
        """Decodes a mutant by number; what the seeds decode to is worked out once."""
        expected = {name: [audio.load(data, CONFIG) for data in some] for name, some in self.seeds.items()}
        return functools.partial(self._check, expected)

    def _check(self, expected: dict[str, list[npt.NDArray[Any]]], number: int) -> tuple[str, str]:
        data, which, _ = self.make(number)
        try:
            samples = audio.load(data, CONFIG, name="mutant")
        except DataError as error:
            told = str(error).startswith("mutant: ") and error.stage == "decode"
            return type(error).__name__, "" if told else f"the message does not say of which file: {error}"
        as_before = np.array_equal(samples, expected[self.format(number)][which])
        return "same samples" if as_before else "other samples", wrong(samples)


def wrong(samples: npt.NDArray[Any]) -> str:
    """What is wrong with samples that were accepted; '' if nothing."""
    if samples.dtype != np.float32 or samples.ndim != 1 or not samples.flags.c_contiguous:
        return f"expected float32 [n], got {samples.dtype} {samples.shape}"
    if not samples.size:
        return "no samples, and no error"
    if not np.isfinite(samples).all():
        return "samples that are not finite"
    most = CONFIG.max_seconds * CONFIG.sample_rate_hz + 1
    return "" if len(samples) <= most else f"{len(samples)} samples, beyond max_seconds"


def is_error(outcome: str) -> bool:
    return outcome.endswith("Error") and ":" not in outcome


COLUMNS: list[tuple[str, Callable[[str], bool]]] = [
    ("named error", is_error),
    ("same samples", lambda outcome: outcome == "same samples"),
    ("other samples", lambda outcome: outcome == "other samples"),
    ("anything else", lambda outcome: not is_error(outcome) and not outcome.endswith(" samples")),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="+", metavar="FORMAT", help="as in the table")
    parser.add_argument("--seconds", type=float, default=20.0, help="for one mutant")
    parser.add_argument("--mib", type=float, default=256.0, help="for one mutant, beyond what is held before")
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    parser.add_argument("--number", type=int, help="of one mutant to decode in this process")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "fuzz_audio.json")
    args = parser.parse_args()
    mutants = Mutants(args.seed, args.only)
    if args.number is not None:
        print(mutants.format(args.number), mutants.make(args.number)[2], *mutants.check()(args.number), sep="\n")
        return 0
    tally, began = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        limits = Limits(args.seconds, args.mib)
        for result in run(range(args.mutants), mutants.check, limits, args.workers, Path(folder)):
            data, _, what = mutants.make(result.number) if result.finding else (b"", 0, "")
            tally.add(mutants.format(result.number), result, what)
            if result.finding:
                print(
                    f"{mutants.format(result.number)}, number {result.number}: {what}\n{result.finding}\n", flush=True
                )
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / f"{args.seed}-{result.number}").write_bytes(data)
    print(tally.table(COLUMNS, "format"))
    print(f"\n{len(tally.findings)} findings; at most {tally.peak_mib:.0f} MiB for one mutant")
    digest = hashlib.sha256(b"".join(mutants._all)).hexdigest()
    about = {"seed": args.seed, "mutants": args.mutants, "seconds": round(time.monotonic() - began, 1)}
    about |= {"libsndfile": decoders.libsndfile_version(), "seeds_sha256": digest}
    tally.save(args.json, about)
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
