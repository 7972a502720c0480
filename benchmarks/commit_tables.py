"""Memory and time of what Commit makes of the indexes of all shards: a split's index and its speakers.

    python benchmarks/commit_tables.py [--records 1000000 10000000] [--speakers 7000] [--json FILE]

Shards of 1,000 records, with text of the lengths that LibriSpeech has, are made as they are asked for, so that what is
measured is Commit's own. Each size is a program of its own; memory is its high-water mark less that before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from planning import status_mib

from ge2e_transforms import schema
from ge2e_transforms.config import Recipe
from pipeline import tables

_RECORDS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--speakers", type=int, default=7000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.records[0], args.speakers)))
        return
    command = [sys.executable, __file__, "--child", "--speakers", str(args.speakers), "--records"]
    runs = [subprocess.run([*command, str(n)], capture_output=True, text=True, check=True) for n in args.records]
    rows = [json.loads(run.stdout) for run in runs]
    print("| " + " | ".join(name.replace("_", " ") for name in rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(f"{value:,}" for value in row.values()) + " |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(records: int, speakers: int) -> dict[str, float]:
    for table in shards(2 * _RECORDS, 2):  # loads what is loaded on first use
        tables.split_tables([table], "train", Recipe())
    before = status_mib("VmHWM")
    began = time.monotonic()
    index, people = tables.split_tables(shards(records, speakers), "train", Recipe())
    tables_mib = status_mib("VmHWM") - before
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.arrow"
        tables.write_index(index, path)
        size = path.stat().st_size
    seconds = time.monotonic() - began
    assert len(index) == records
    return {
        "records": records,
        "speakers": len(people),
        "seconds": round(seconds, 1),
        "tables_mib": tables_mib,
        "with_writing_mib": status_mib("VmHWM") - before,
        "index_mib": round(size / 2**20),
        "bytes_per_record": round((status_mib("VmHWM") - before) * 2**20 / records),
    }


def shards(records: int, speakers: int) -> Iterator[pa.Table]:
    """Indexes of shards in label order, as they are read from their files; speakers run over the ends of shards."""
    wide = ("offset", "length", "payload_offset")
    row = np.arange(_RECORDS)
    for start in range(0, records, _RECORDS):
        label = (start + row) * speakers // records
        first = -(-label * records // speakers)  # of the speaker
        numbers = dict.fromkeys(schema.SAMPLER_COLUMNS, np.zeros(_RECORDS, dtype=np.int64))
        numbers.update(label=label, offset=row * 131_072, frames=800 + row % 300)
        numbers["utterance_index"] = start + row - np.maximum(first, start)
        columns = {
            name: pa.array(values, pa.int64() if name in wide else pa.int32()) for name, values in numbers.items()
        }
        columns["speaker_id"] = pa.array([f"libri/{number + 10_000:07d}" for number in label.tolist()])
        columns["session_id"] = pa.array([f"{100_000 + number}" for number in (label * 3).tolist()])
        columns["source"] = pa.array(["librispeech"] * _RECORDS)
        yield pa.table({name: columns[name] for name in tables.SHARD_COLUMNS})


if __name__ == "__main__":
    main()
