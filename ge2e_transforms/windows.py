"""Shards held in memory while batches are made from them alone: for cold disks and stores, read from end to end.

It must not know which shards belong together, or how batches are made.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ge2e_transforms.shard_files import LocalShards, StoreShards

# Batches of the window before may still be in the making when the next one is begun.
_HELD = 3


class Window:
    """Some shards of a split in memory, with the reading methods of `shard_files`."""

    def __init__(self, files: LocalShards | StoreShards, sizes: Sequence[int], shards: Iterable[int]) -> None:
        self._content: dict[int, memoryview] = {}
        for shard in shards:
            buffer = np.empty(sizes[shard], dtype=np.uint8)
            self._content[shard] = memoryview(buffer)  # type: ignore[arg-type]
            files.read_whole(shard, self._content[shard])

    def read_into(self, places: Sequence[tuple[int, int]], targets: Sequence[memoryview]) -> None:
        """Fills targets from (shard, offset)."""
        content = self._content
        for (shard, offset), target in zip(places, targets, strict=True):
            target[:] = content[shard][offset : offset + len(target)]

    def read(self, places: Sequence[tuple[int, int, int]]) -> Iterator[bytes]:
        """Bytes of (shard, offset, length), one after the other."""
        return (bytes(self._content[shard][offset : offset + length]) for shard, offset, length in places)


class Windows:
    """The windows in use: that of the batches being made, the one before, and the next, read in the background.

    Args:
        files: shards of a split.
        sizes: bytes of each shard.
    """

    def __init__(self, files: LocalShards | StoreShards, sizes: Sequence[int]) -> None:
        self._files, self._sizes = files, sizes
        self._held: dict[tuple[int, ...], Future[Window]] = {}
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, "ge2e-window")

    def get(self, shards: Sequence[int], following: Sequence[int]) -> Window:
        """The window of some shards, read whole; then the following one is begun."""
        with self._lock:
            window = self._begin(tuple(shards))
            self._begin(tuple(following))
        return window.result()

    def _begin(self, key: tuple[int, ...]) -> Future[Window]:
        if key not in self._held:
            while len(self._held) >= _HELD:
                self._held.pop(next(iter(self._held))).cancel()
            self._held[key] = self._reader.submit(Window, self._files, self._sizes, key)
        return self._held[key]
