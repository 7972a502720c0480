"""Time and memory to index a tar and a zip of many members, and to read members at random.

    python benchmarks/archives.py [--members 100000] [--bytes 3000] [--folder DIR] [--json FILE]

A local file in the page cache: what is measured is parsing, not the disk. Reads are counted as a store would see them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import tarfile
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ge2e_transforms.archives import Archives

_READS = 2000


class File:
    """A local archive that counts its reads."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = self.version = os.fstat(self._descriptor).st_size
        self.reads = self.bytes = 0

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads += 1
        self.bytes += length
        return os.pread(self._descriptor, length, offset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--bytes", type=int, default=3000, help="of a member")
    parser.add_argument("--folder", type=Path, help="keeps the archives; default: a temporary one")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = [f"train/{n // 100:05d}/{n % 7}/{n:08d}.flac" for n in range(args.members)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        rows = [
            measure(make(folder / f"m{args.members}-{args.bytes}.{kind}", names, args.bytes), names)
            for kind in ("tar", "zip")
        ]
    print("| archive | MB | index s | reads | MiB read | index MiB | peak MiB | reading at random, members/s |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")
    if args.json:
        args.json.write_text(json.dumps({"members": args.members, "bytes": args.bytes, "rows": rows}, indent=1))


def make(path: Path, names: list[str], size: int) -> Path:
    if path.exists():
        return path
    content = random.Random(0).randbytes(size)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w") as archive:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = size
                archive.addfile(member, io.BytesIO(content))
    return path


def measure(path: Path, names: list[str]) -> dict[str, Any]:
    file = File(str(path))

    @contextmanager
    def opened(_: str) -> Iterator[File]:
        yield file

    archives = Archives(opened)
    began = time.perf_counter()
    archives.size(str(path), names[-1])
    seconds = time.perf_counter() - began
    row = {
        "archive": path.suffix,
        "mb": round(file.size / 1e6),
        "index_s": round(seconds, 2),
        "reads": file.reads,
        "mib_read": round(file.bytes / 2**20, 1),
    }
    chosen = random.Random(1).choices(names, k=_READS)
    began = time.perf_counter()
    for name in chosen:
        archives.read(str(path), name)
    rate = _READS / (time.perf_counter() - began)
    tracemalloc.start()  # slows all down, so memory is taken from a second index
    held = Archives(opened)
    held.size(str(path), names[-1])
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {**row, "index_mib": round(now / 2**20, 1), "peak_mib": round(peak / 2**20, 1), "members_per_s": round(rate)}


if __name__ == "__main__":
    main()
