"""What features cost as float32, as float16, in 8 bits, and compressed: bytes, errors, writing and reading.

    python benchmarks/storage.py SPEECH [--rounds 25] [--seconds 0.5] [--json FILE]

SPEECH is a folder as LibriSpeech is unpacked. `ge2e run` writes its dataset once as float32, once as float16. Readers
of both take turns, round by round, in this process; medians count, and seconds are of the processor, so that other
programs disturb less. Errors are of the values that the float32 dataset holds. Writing is what comes after the
features: rounding, record, checksums, statistics, file. What is compressed is the record files as they are (`shard`:
TFRecord's own GZIP, or another stream) and each record for itself (`record`). A reader of crops would have to unpack a
shard in sequence, or the whole record for each crop that it takes; its `slots/s at most` are of unpacking alone.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import os
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.fft

from ge2e_transforms import BatchLoader, corpora
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.manifest import write_manifest
from ge2e_transforms.records import decode_example, encode_record, frame, read_records
from ge2e_transforms.shard_sums import FrameSums
from pipeline.main import run

DTYPES = ("float32", "float16")
LAYOUTS = ("mel_time", "time_mel")
Values = npt.NDArray[np.float32]
Record = tuple[Values, dict[str, str | int]]
Pack = Callable[[bytes], bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=0.5, help="of reading in each round (default: %(default)g)")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "storage.json")
    args = parser.parse_args()
    found: dict[str, Any] = {"load_before": os.getloadavg()}
    with tempfile.TemporaryDirectory() as name:
        folders = make(args.speech, Path(name))
        kept = list(stored(folders["float32"]))
        found |= about(folders, kept)
        found["errors"] = errors([values for values, _ in kept])
        found["writing_x_real_time"] = writing(kept, found["seconds"], max(3, args.rounds // 3))
        found["reading_slots_a_second"] = reading(folders, args.rounds, args.seconds)
        found["compression"] = compression(folders)
    args.json.write_text(json.dumps(found, indent=1) + "\n")
    report(found)


def make(speech: Path, folder: Path) -> dict[str, Path]:
    """The folder of the dataset of each dtype."""
    manifest = folder / "speech.csv"
    write_manifest(str(manifest), corpora.librispeech(speech, splits={}))
    for dtype in DTYPES:
        flags = ["--dtype", dtype, "--direct_num_workers=1"]
        run(["--manifest", str(manifest), "--output", str(folder / dtype), "--allow_outside", *flags])
    return {dtype: folder / dtype for dtype in DTYPES}


def stored(folder: Path) -> Iterator[Record]:
    """Values and fields of each record of the train split."""
    for path in Dataset.open(folder).shard_paths("train"):
        with path.open("rb") as stream:
            for _, data in read_records(stream, str(path)):
                yield decode_example(data, str(path))


def about(folders: dict[str, Path], kept: list[Record]) -> dict[str, Any]:
    split = Dataset.open(folders["float32"]).metadata["splits"]["train"]
    sizes = {dtype: sum(path.stat().st_size for path in shards(folder)) for dtype, folder in folders.items()}
    return {"records": len(kept), "frames": split["frames"], "seconds": split["seconds"], "bytes": sizes}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("train/*.tfrecord"))


# Errors.


def steps(values: Values, axes: int | tuple[int, ...], offset: Values | float = 0.0) -> Values:
    """`values` in 255 equal steps from the lowest to the highest along some axes, float32 scales; then as they read."""
    left = values - offset
    low, high = left.min(axis=axes, keepdims=True), left.max(axis=axes, keepdims=True)
    scale = np.where(high > low, (high - low) / 255, 1).astype(np.float32)
    return np.asarray(np.rint((left - low) / scale) * scale + low + offset)


def middle(values: Values) -> Values:
    """Half-way between the lowest and the highest bin of each frame."""
    return np.asarray((values.max(axis=1, keepdims=True) + values.min(axis=1, keepdims=True)) / 2)


def blocks(values: Values, axis: int, length: int) -> Values:
    """As `steps` along an axis, block by block of it."""
    cuts = np.split(values, range(length, values.shape[axis], length), axis=axis)
    return np.concatenate([steps(cut, axis) for cut in cuts], axis=axis)


# What is read back; bytes of scales for a record of 1,000 frames and 40 bins beside its 40,000 of values.
EIGHT_BITS: dict[str, tuple[Callable[[Values], Values], int]] = {
    "8 bits, scale per bin and record": (lambda v: steps(v, 0), 320),
    "8 bits, scale per frame": (lambda v: steps(v, 1), 8_000),
    "8 bits, offset per frame, scale per bin and record": (lambda v: steps(v, 0, middle(v)), 4_320),
    "8 bits, scale per bin and 100 frames": (lambda v: blocks(v, 0, 100), 3_200),
    "8 bits, scale per bin and 10 frames": (lambda v: blocks(v, 0, 10), 32_000),
    "8 bits, scale per frame and 8 bins": (lambda v: blocks(v, 1, 8), 40_000),
}


def half(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.astype(np.float16)


def errors(kept: list[Values]) -> dict[str, dict[str, float]]:
    """Largest and mean error of a value, and the share of records with one of 0.01 or more."""
    forms = {"float16": half, **{name: form for name, (form, _) in EIGHT_BITS.items()}}
    found = {name: errors_of(kept, form) for name, form in forms.items()}
    cepstra = [scipy.fft.dct(values.astype(np.float64), norm="ortho", axis=1).astype(np.float32) for values in kept]
    found["float16, MFCC"] = errors_of([values[:, :20] for values in cepstra], half)
    return found


def errors_of(kept: list[Values], form: Callable[[Values], npt.NDArray[Any]]) -> dict[str, float]:
    off = [np.abs(form(values).astype(np.float64) - values) for values in kept]
    return {
        "max": float(max(map(np.max, off))),
        "mean": float(sum(map(np.sum, off)) / sum(map(np.size, off))),
        "records_at_0.01": sum(bool(part.max() >= 0.01) for part in off) / len(off),
    }


# Speed.


def writing(kept: list[Record], seconds: float, rounds: int) -> dict[str, float]:
    """Seconds of speech that are written in a second, beyond their features."""

    def write(dtype: str) -> None:
        sums, digest = FrameSums(), hashlib.sha256()
        with tempfile.TemporaryFile() as stream:
            for values, fields in kept:
                narrow = values if dtype == "float32" else half(values)
                framed, _ = encode_record(narrow, fields)
                stream.write(framed)
                digest.update(framed)
                sums.add(narrow)

    spent = in_turn({dtype: functools.partial(write, dtype) for dtype in DTYPES}, rounds)
    return {dtype: seconds / statistics.median(times) for dtype, times in spent.items()}


def in_turn(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of the processor for each call in each round, after one that is not counted."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            began = time.process_time()
            call()
            if number:
                spent[name].append(time.process_time() - began)
    return spent


def reading(folders: dict[str, Path], rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    """Crops of 121 frames in a second, in batches of 64 x 4 of records that were checked before.

    Medians, those of the ratio to float32 in the same round, and all rounds.
    """
    streams = {}
    for layout in LAYOUTS:
        for dtype, folder in folders.items():
            loader = BatchLoader(folder, 64, 4, layout=layout)
            streams[f"{dtype}, {layout}"] = loader.batches(epochs=None)
    for batches in streams.values():
        rate_of(batches, seconds)  # records are checked, and the files are in memory
    rates: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(rounds):
        for name, batches in streams.items():
            rates[name].append(rate_of(batches, seconds))
    found = {}
    for name, own in rates.items():
        base = rates[name.replace("float16", "float32")]
        ratio = statistics.median(rate / other for rate, other in zip(own, base, strict=True))
        found[name] = {"median": statistics.median(own), "ratio": ratio, "rounds": own}
    return found


def rate_of(batches: Iterator[Any], seconds: float) -> float:
    slots, began = 0, time.process_time()
    while (spent := time.process_time() - began) < seconds:
        slots += len(next(batches)[1])
    return slots / spent


# Compression.


def gzip(level: int) -> tuple[Pack, Pack]:
    """TFRecord's GZIP: one gzip stream."""

    def pack(data: bytes) -> bytes:
        packer = zlib.compressobj(level, wbits=31)
        return packer.compress(data) + packer.flush()

    return pack, lambda data: zlib.decompress(data, wbits=31)


def arrow(name: str, level: int | None = None) -> tuple[Pack, Pack]:
    """A codec of pyarrow behind the length of what was packed."""
    codec = pa.Codec(name, compression_level=level)

    def unpack(data: bytes) -> bytes:
        return bytes(codec.decompress(data[8:], int.from_bytes(data[:8], "little"), asbytes=True))

    return lambda data: len(data).to_bytes(8, "little") + codec.compress(data, asbytes=True), unpack


CODECS = {
    "gzip 1": gzip(1),
    "gzip 6": gzip(6),
    "zstd 1": arrow("zstd", 1),
    "zstd 3": arrow("zstd", 3),
    "lz4": arrow("lz4"),
}


def compression(folders: dict[str, Path]) -> list[dict[str, Any]]:
    """Size against uncompressed, and MB of records that are packed and unpacked in a second."""
    rows = []
    for dtype, folder in folders.items():
        files = [path.read_bytes() for path in shards(folder)]
        framed = [frame(data) for file in files for _, data in read_records(io.BytesIO(file), "")]
        whole = sum(map(len, files))
        for form, pieces in (("shard", files), ("record", framed)):
            for name, (pack, unpack) in CODECS.items():
                packed = [pack(piece) for piece in pieces]
                if [unpack(piece) for piece in packed] != pieces:
                    raise SystemExit(f"{name} does not give back what it was given")
                calls = {
                    "pack": functools.partial(each, pack, pieces),
                    "unpack": functools.partial(each, unpack, packed),
                }
                spent = {call: statistics.median(times) for call, times in in_turn(calls, 3).items()}
                row: dict[str, Any] = {"dtype": dtype, "of_each": form, "codec": name}
                row["size"] = sum(map(len, packed)) / whole
                row |= {f"{call}_mb_a_second": whole / 1e6 / taken for call, taken in spent.items()}
                # A crop is 121 of the frames that had to be unpacked: all of its record, or once all of the epoch.
                frames = sum(len(values) for values, _ in stored(folder))
                slots = len(framed) if form == "record" else frames / 121
                row["slots_a_second_at_most"] = slots / spent["unpack"]
                rows.append(row)
    return rows


def each(call: Pack, pieces: list[bytes]) -> None:
    for piece in pieces:
        call(piece)


def report(found: dict[str, Any]) -> None:
    base, writing_, read = found["bytes"]["float32"], found["writing_x_real_time"], found["reading_slots_a_second"]
    print(f"{found['records']} records, {found['frames']} frames, {found['seconds'] / 3600:.2f} h of speech\n")
    print(
        "| stored as | size | largest error | mean error | writing, x real time | mel_time slots/s | time_mel slots/s |"
    )
    print("|---|---|---|---|---|---|---|")
    for dtype in DTYPES:
        off = found["errors"].get(dtype, {"max": 0, "mean": 0})
        rates = [read[f"{dtype}, {layout}"] for layout in LAYOUTS]
        cells = [f"{rate['median']:,.0f} ({rate['ratio']:.2f})" for rate in rates]
        print(
            f"| {dtype} | {found['bytes'][dtype] / base:.3f} | {off['max']:.5f} | {off['mean']:.5f} | "
            f"{writing_[dtype]:,.0f} | {' | '.join(cells)} |"
        )
    print("\n| form | size of values and scales | largest error | mean error | records with 0.01 or more |")
    print("|---|---|---|---|---|")
    for name, off in found["errors"].items():
        size = 0.5 if name not in EIGHT_BITS else (40_000 + EIGHT_BITS[name][1]) / 160_000
        print(f"| {name} | {size:.2f} | {off['max']:.4f} | {off['mean']:.4f} | {100 * off['records_at_0.01']:.0f} % |")
    print(
        "\n| dtype | packed | codec | size | pack MB/s | unpack MB/s | slots/s at most |\n|---|---|---|---|---|---|---|"
    )
    for row in found["compression"]:
        print(
            f"| {row['dtype']} | each {row['of_each']} | {row['codec']} | {row['size']:.3f} | "
            f"{row['pack_mb_a_second']:.0f} | {row['unpack_mb_a_second']:.0f} | {row['slots_a_second_at_most']:,.0f} |"
        )


if __name__ == "__main__":
    main()
