"""What a loader costs before its first batch, and in memory, as the index and the dataset grow.

    python benchmarks/loader_scale.py [--data DIR] [--rows 10000000 100000000] [--workers 2] [--json scale.json]

Index: a dataset folder with that many rows, speakers of 100, whose shards are holes (no bytes on the disk, zeros when
read), since only the index counts here. Bytes: a dataset of 40,000 windows and one of ten times as many, with real
records and checksums. Each is opened by a program of its own that prints the seconds and the memory of each step.
Memory of a step is that of the process (`VmHWM`, and of what is resident `RssAnon` and `RssFile`); that of the host is
the largest sum over all processes of `Pss`, which counts shared pages once.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from loader_data import SHAPE, M, N, drop, import_small_dataset

_PER_SPEAKER = 100
_ROWS_A_SHARD = 6_900  # about 128 MiB, as `ge2e run` cuts them
_SECONDS_BETWEEN_LOOKS = 0.1
_MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data; default a temporary one")
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000_000, 100_000_000])
    parser.add_argument("--windows", type=int, nargs="*", default=[40_000, 400_000], help="of the datasets with bytes")
    parser.add_argument("--workers", type=int, default=0, help="worker processes of a DataLoader; 0: none, by NumPy")
    parser.add_argument("--locality", type=int)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=Path, metavar="FOLDER", help="open one dataset here and print JSON")
    parser.add_argument("--check_crc", default="first", help="of --one")
    parser.add_argument("--make", type=int, metavar="ROWS", help="only write a dataset of this many rows to --one")
    parser.add_argument("--fill", action="store_true", help="of --make: with records, not with holes")
    args = parser.parse_args()
    if args.make:
        write_dataset(args.one, args.make, args.fill)
    elif args.one:
        print(json.dumps(open_one(args.one, args.check_crc, args.locality, args.workers)))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            results = compare(args.data or Path(scratch), args)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(table(results))


def compare(data: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each size of index (opened warm) and for each size of dataset (opened warm and cold)."""
    results = []
    options = ["--workers", str(args.workers)] + (["--locality", str(args.locality)] if args.locality else [])
    for rows in args.rows:
        folder = make(data / f"index-{rows}", rows, fill=False)
        run = start_one(folder, [*options, "--check_crc", "never"])
        results.append({"kind": "index", "rows": rows, "cache": "warm", **run})
    for rows in args.windows:
        folder = make(data / f"bytes-{rows}", rows, fill=True)
        for cache in ("cold", "warm"):
            if cache == "cold":
                drop(folder)
            results.append({"kind": "bytes", "rows": rows, "cache": cache, **start_one(folder, options)})
    return results


def make(folder: Path, rows: int, fill: bool) -> Path:
    """The folder, written by a program of its own if it is not there yet: its memory must not be ours."""
    if not (folder / "metadata.json").exists():
        command = [sys.executable, __file__, "--one", str(folder), "--make", str(rows)] + ["--fill"] * fill
        subprocess.run(command, check=True)
    return folder


def start_one(folder: Path, options: list[str]) -> dict[str, Any]:
    """Its JSON, and the peak memory of all its processes."""
    child = subprocess.Popen([sys.executable, __file__, "--one", str(folder), *options], stdout=subprocess.PIPE)
    peak = [0]
    stop = threading.Event()
    watcher = threading.Thread(target=_watch_shares, args=(child.pid, peak, stop))
    watcher.start()
    out, _ = child.communicate()
    stop.set()
    watcher.join()
    if child.returncode:
        raise SystemExit(f"opening {folder} failed with status {child.returncode}")
    return {**json.loads(out), "host_peak_mib": peak[0] / _MIB}


def _watch_shares(root: int, peak: list[int], stop: threading.Event) -> None:
    from memory import family

    while not stop.wait(_SECONDS_BETWEEN_LOOKS):
        peak[0] = max(peak[0], sum(_share(pid) for pid in family(root)))


def _share(pid: int) -> int:
    """Bytes of a process, shared pages divided among those that share them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def open_one(folder: Path, check_crc: str, locality: int | None, workers: int) -> dict[str, Any]:
    """Seconds and memory of each step up to the second batch, in this process."""
    steps: dict[str, dict[str, float]] = {}
    step = functools.partial(_step, steps)
    began = time.perf_counter()
    from ge2e_transforms import BatchLoader

    if workers:
        importlib.import_module("torch.utils.data")
    began = step("import", began)
    loader = BatchLoader(
        folder,
        N,
        M,
        SHAPE[0],
        speakers="proportional",
        check_crc=check_crc,
        locality=locality or None,
    )
    began = step("open", began)
    in_epoch = loader.batches_per_epoch("train")
    began = step("first_access", began)
    batches = _batches(loader, workers)
    next(batches)
    began = step("plan_and_first_batch", began)
    next(batches)
    began = step("second_batch", began)
    for _ in range(min(50, in_epoch - 2)):
        next(batches)
    step("next_50_batches", began)
    return {"batches_per_epoch": in_epoch, "steps": steps}


def _batches(loader: Any, workers: int) -> Any:
    if not workers:
        return loader.batches("train")
    from torch.utils.data import DataLoader

    return iter(DataLoader(loader.torch_dataset("train"), batch_size=None, num_workers=workers))


def _step(steps: dict[str, dict[str, float]], name: str, began: float) -> float:
    """Notes a step that is over, and begins the next one."""
    seconds = time.perf_counter() - began
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    kib = {words[0].rstrip(":"): int(words[1]) for words in lines if words[0] in ("VmHWM:", "RssAnon:", "RssFile:")}
    steps[name] = {
        "seconds": seconds,
        "peak_mib": kib["VmHWM"] / 1024,
        "anon_mib": kib["RssAnon"] / 1024,
        "file_mib": kib["RssFile"] / 1024,
    }
    return time.perf_counter()


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, one line a run."""
    lines = [
        "| data | records | cache | open s | first access s | plan and first batch s | second batch s "
        "| peak MiB of the process | anonymous, files MiB at the end | peak MiB of the host |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in results:
        steps = run["steps"]
        names = ("open", "first_access", "plan_and_first_batch", "second_batch")
        seconds = " | ".join(f"{steps[name]['seconds']:.3f}" for name in names)
        last = steps["next_50_batches"]
        memory = f"{last['peak_mib']:.0f} | {last['anon_mib']:.0f}, {last['file_mib']:.0f} | {run['host_peak_mib']:.0f}"
        lines.append(f"| {run['kind']} | {run['rows']:,} | {run['cache']} | {seconds} | {memory} |")
    return "\n".join(lines)


def write_dataset(root: Path, rows: int, fill: bool) -> None:
    """A dataset of `rows` windows of silence, a speaker every 100 rows.

    Metadata is that of a small dataset, with shards, index and speakers put in its place. The shards' own indexes,
    which a loader does not read, are left out.
    """
    from ge2e_transforms import schema
    from ge2e_transforms.config import PRESETS
    from ge2e_transforms.metadata import checksum_of

    small = import_small_dataset()
    with tempfile.TemporaryDirectory() as scratch:
        window = np.zeros(SHAPE, dtype=np.float32)
        small.write_dataset(Path(scratch), {"train": {"a": [[window]]}}, PRESETS["seed"], 1, N, M)
        metadata = json.loads((Path(scratch) / schema.METADATA_FILE).read_text())
    (root / "train").mkdir(parents=True)
    parts = np.array_split(np.arange(rows, dtype=np.int64), max(16, rows // _ROWS_A_SHARD))
    entries, offsets = [], []
    for number, part in enumerate(parts):
        base = schema.shard_base("train", small.GENERATION, number, len(parts))
        entry, places = _write_shard(root, base, part // _PER_SPEAKER, fill)
        entries.append(entry)
        offsets.append(places)
    metadata["shards"]["train"] = entries
    metadata["splits"]["train"]["index"] = write_index(root, np.concatenate(offsets))
    metadata["speakers"] = write_speakers(root, rows)
    metadata["checksum"] = checksum_of(metadata)
    (root / schema.METADATA_FILE).write_text(json.dumps(metadata))


def _write_shard(root: Path, base: str, labels: Any, fill: bool) -> tuple[dict[str, Any], Any]:
    """A shard's records, or a hole as large; its entry in the metadata, and the offset of each record."""
    if fill:
        lengths = np.array([len(_record(label)) for label in labels.tolist()])
    else:
        lengths = np.full(len(labels), len(_record(0)))
    ends = np.cumsum(lengths)
    with (root / f"{base}.tfrecord").open("wb") as stream:
        if fill:
            stream.writelines(map(_record, labels.tolist()))
            stream.flush()
            os.fsync(stream.fileno())
        else:
            stream.truncate(int(ends[-1]))
    entry = {"base": base, "records": len(labels), "frames": len(labels) * SHAPE[0], "records_bytes": int(ends[-1])}
    return entry | {"index_bytes": 0}, ends - lengths


@functools.lru_cache(maxsize=256)
def _record(label: int) -> bytes:
    """A record of silence of a speaker: readers check that its label is the one of the index."""
    from ge2e_transforms import schema
    from ge2e_transforms.records import encode_record

    fields: dict[str, str | int] = {schema.KEY_SPEAKER: "a", schema.KEY_LABEL: label, schema.KEY_UTTERANCE: "u"}
    return encode_record(np.zeros(SHAPE, dtype=np.float32), fields)[0]


def write_index(root: Path, offsets: Any) -> dict[str, Any]:
    """The split's index, in one batch as the format wants it, and its entry in the metadata."""
    import pyarrow as pa

    from ge2e_transforms import schema
    from pipeline.tables import write_index as write_table

    rows = len(offsets)
    number = np.arange(rows, dtype=np.int32)
    within = number % _PER_SPEAKER
    columns = {
        "offset": offsets,
        "frames": np.full(rows, SHAPE[0], dtype=np.int32),
        "label": number // _PER_SPEAKER,
        "utterance_index": within,
        "session_index": within // 2,
        "source_index": np.zeros(rows, dtype=np.int32),
        "flags": np.zeros(rows, dtype=np.uint8),
    }
    table = pa.table([columns[name] for name in schema.SPLIT_COLUMNS], schema=schema.split_index_schema())
    name = schema.split_index_file("train", import_small_dataset().GENERATION)
    write_table(table, root / name)
    return _describe(root, name, rows)


def write_speakers(root: Path, rows: int) -> dict[str, Any]:
    """The speakers table and its entry in the metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ge2e_transforms import schema

    count = -(-rows // _PER_SPEAKER)
    utterances = np.full(count, _PER_SPEAKER, dtype=np.int64)
    columns = {
        "speaker_id": [f"test/{number:08d}" for number in range(count)],
        "label": np.arange(count, dtype=np.int32),
        "split": ["train"] * count,
        "source": ["test"] * count,
        "utterances": utterances,
        "sessions": utterances // 2,
        "frames": utterances * SHAPE[0],
        "seconds": utterances * 1.2,
    }
    name = schema.speakers_file(import_small_dataset().GENERATION)
    pq.write_table(pa.table(columns, schema=schema.speakers_schema()), root / name)
    return _describe(root, name, count)


def _describe(root: Path, name: str, rows: int) -> dict[str, Any]:
    from ge2e_transforms.dataset import sha256_of
    from ge2e_transforms.records import crc32c_of

    path = root / name
    with path.open("rb") as stream:
        digest = sha256_of(stream)
        stream.seek(0)
        crc = crc32c_of(stream)
    return {"path": name, "rows": rows, "bytes": path.stat().st_size, "sha256": digest, "crc32c": crc}


if __name__ == "__main__":
    main()
