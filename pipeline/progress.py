"""Progress of a running job, from the done files that appear in its output folder.

Beam tells nothing while a local runner works, and the done files are there whatever the runner.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from pipeline import storage

_DONE = re.compile(r"features-[0-9a-f]{8}-\d+-of-(\d+)\.done\.json")
_SECONDS_BETWEEN_LOOKS = 0.5


def count_done(output: Path, since: float) -> tuple[int, int]:
    """(shards finished since a time, shards in the splits that have any)."""
    finished, totals = 0, {}
    for path in output.glob("*/features-*.done.json"):
        match = _DONE.fullmatch(path.name)
        try:
            new = path.stat().st_mtime >= since
        except FileNotFoundError:  # removed since it was listed
            continue
        if match and new:
            finished += 1
            totals[path.parent.name] = int(match.group(1))
    return finished, sum(totals.values())


@contextmanager
def shown(output: str, since: float) -> Iterator[None]:
    """Shows a bar of finished shards on a terminal while the block runs; local outputs only."""
    if not storage.is_local(output) or not sys.stderr.isatty():
        yield
        return
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(Path(output), since, stop), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _watch(output: Path, since: float, stop: threading.Event) -> None:
    with tqdm(desc="shards", unit="shard", leave=False) as bar:
        while not stop.wait(_SECONDS_BETWEEN_LOOKS):
            bar.n, bar.total = count_done(output, since)
            bar.refresh()
