"""Time and memory of `ge2e audit` as utterances grow.

    python benchmarks/audit.py [--utterances 1000000 4000000] [--speakers 7000] [--doubled 1000] [--json FILE]

Indexes of shards with all their columns, 2,000 utterances each, are written to a temporary folder (400 MB a million);
there are no records, as none are read. Text has the lengths that LibriSpeech has, and `doubled` utterances have the
audio of another speaker. A deny-list names a tenth of the speakers, and by a glob utterances of another tenth. Each
size is a program of its own; `mib` is its high-water mark less that before (`mib_before`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from planning import status_mib

from ge2e_transforms import schema
from ge2e_transforms.audit import audit
from ge2e_transforms.config import PRESETS
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.deny_list import DenyEntry
from ge2e_transforms.metadata import checksum_of

_SHARD = 2000
_RECIPE = PRESETS["ge2e"]
_STATISTICS = {"frames": 1, "mean": [0.0] * _RECIPE.n_bins, "std": [1.0] * _RECIPE.n_bins}
_SPLIT = schema.TRAIN_SPLIT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, nargs="+", default=[1_000_000, 4_000_000])
    parser.add_argument("--speakers", type=int, default=7000)
    parser.add_argument("--doubled", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child, args.speakers)))
        return
    rows = []
    for utterances in args.utterances:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), utterances, args.speakers, args.doubled)
            command = [sys.executable, __file__, "--speakers", str(args.speakers), "--child", folder]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(run.stdout))
        print("  ".join(f"{name} {value:,}" for name, value in rows[-1].items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(root: Path, speakers: int) -> dict[str, float]:
    dataset = Dataset.open(root)
    dataset.shard_index(_SPLIT, 0, ("label",)), dataset.speakers  # loads what is loaded on first use
    before, processor = status_mib("VmHWM"), time.process_time()
    began = time.monotonic()
    report = audit(dataset)
    row: dict[str, float] = {
        "utterances": report.utterances,
        "speakers": report.speakers,
        "shards": len(dataset.shards(_SPLIT)),
    }
    row |= {"seconds": round(time.monotonic() - began, 1), "cpu_seconds": round(time.process_time() - processor, 1)}
    row |= {"mib": status_mib("VmHWM") - before, "mib_before": before}
    row["doubles"] = sum(finding.count for finding in report.findings)
    began = time.monotonic()
    denied = audit(dataset, deny_list(speakers))
    row["seconds_with_deny_list"] = round(time.monotonic() - began, 1)
    row["denied"] = sum(finding.count for finding in denied.findings if finding.check == "denied")
    return row


def speaker_id(number: int) -> str:
    return f"libri/{number + 10_000:07d}"


def deny_list(speakers: int) -> list[DenyEntry]:
    whole = [DenyEntry("list", number + 1, speaker_id(number), "") for number in range(0, speakers, 10)]
    return whole + [DenyEntry("list", 1, speaker_id(number), f"{number}-*-7") for number in range(1, speakers, 10)]


def write(root: Path, utterances: int, speakers: int, doubled: int) -> None:
    hashes = np.random.default_rng(0).integers(-(2**63), 2**63, utterances)
    hashes[-doubled:] = hashes[:doubled]
    shards = -(-utterances // _SHARD)
    entries = []
    for shard in range(shards):
        numbers = np.arange(shard * _SHARD, min(utterances, (shard + 1) * _SHARD))
        base = schema.shard_base(_SPLIT, "0a1b2c3d", shard, shards)
        path = root / schema.shard_files(base)[1]
        path.parent.mkdir(exist_ok=True)
        pq.write_table(index_of(numbers, numbers * speakers // utterances, hashes[numbers]), path, compression="zstd")
        sizes = {
            "records": len(numbers),
            "frames": len(numbers),
            "records_bytes": 0,
            "index_bytes": path.stat().st_size,
        }
        entries.append({"base": base, **sizes, "index_sha256": _sha256(path)})
    people = pa.table(
        {
            **{field.name: np.zeros(speakers) for field in schema.speakers_schema()},
            "speaker_id": list(map(speaker_id, range(speakers))),
            "label": np.arange(speakers),
            "split": [_SPLIT] * speakers,
            "source": ["librispeech"] * speakers,
        }
    )
    path = root / schema.speakers_file("0a1b2c3d")
    pq.write_table(people.cast(schema.speakers_schema()), path)
    # An audit reads the indexes of the shards alone.
    index_path = schema.split_index_file(_SPLIT, "0a1b2c3d")
    no_index = {"path": index_path, "rows": utterances, "bytes": 1, "sha256": "0" * 64, "crc32c": 0}
    metadata = {
        **{
            "format": schema.FORMAT,
            "format_version": schema.FORMAT_VERSION,
            "dtype": "float32",
            "statistics": _STATISTICS,
        },
        **{
            "feature_shape": _RECIPE.feature_shape,
            "recipe": _RECIPE.to_dict(),
            "splits": {_SPLIT: {"index": no_index}},
        },
        **{"features": "logmel", "segments": "utterance", "speakers_per_batch": 8, "utterances_per_speaker": 4},
        "plan": {"test_fraction": 0, "test_speakers": 0, "valid_fraction": 0, "valid_speakers": 0},
        "shards": {_SPLIT: entries},
        "speakers": {"path": path.name, "rows": speakers, "bytes": path.stat().st_size, "sha256": _sha256(path)},
    }
    content = metadata | {"checksum": checksum_of(metadata)}
    (root / schema.METADATA_FILE).write_text(json.dumps(content))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def index_of(numbers: np.ndarray, label: np.ndarray, hashes: np.ndarray) -> pa.Table:
    """The index of a shard; an utterance is one record."""
    count = len(numbers)
    rng = np.random.default_rng(int(numbers[0]))
    figures = rng.normal(size=(2, count * _RECIPE.n_bins)).astype(np.float32)
    wide = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(row), _RECIPE.n_bins)
        for name, row in zip(("mean", "deviation"), figures, strict=True)
    }
    columns = {
        **{name: np.zeros(count) for name in ("payload_offset", "session_index", "source_index", "flags", "gain_db")},
        **wide,
        "offset": np.arange(count) * 131_072,
        "length": np.full(count, 131_072),
        "frames": 800 + numbers % 300,
        "label": label,
        "utterance_index": numbers,
        "speaker_id": [speaker_id(number) for number in label.tolist()],
        "utterance_id": [
            f"{of}-{100_000 + number // 40}-{number % 40}"
            for of, number in zip(label.tolist(), numbers.tolist(), strict=True)
        ],
        "session_id": [f"{100_000 + number // 40}" for number in numbers.tolist()],
        "source": ["librispeech"] * count,
        "subset": ["train-clean-100"] * count,
        "audio_path": [
            f"train-clean-100/{of}/{number // 40}/{number}.flac"
            for of, number in zip(label.tolist(), numbers.tolist(), strict=True)
        ],
        "start": np.zeros(count),
        "samples": 128_000 + hashes % 1000 * 160,
        "voiced_fraction": np.ones(count),
        "audio_hash": hashes,
    }
    wanted = schema.index_schema(_RECIPE.n_bins)
    return pa.table({name: columns[name] for name in wanted.names}).cast(wanted)


if __name__ == "__main__":
    main()
