"""Shards held in memory while batches are made from them alone: for cold disks and stores, read from end to end.

It must not know which shards belong together, or how batches are made. What is held are the bytes as stored.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from ge2e_transforms.shard_files import LocalShards, StoreShards

# Batches of the window before may still be in the making when the next one is begun.
_HELD = 3
# Shards that are read at once, so that the disk always has the next request.
_READERS = 4


class Window:
    """Some shards of a split in memory, with the reading methods of `shard_files`.

    Args:
        files: shards of a split.
        sizes: bytes of each shard.
        shards: which ones; they are read some at a time, each from end to end.
        spare: buffers to use again, since fresh pages cost time; its own are put there when the window is gone.
    """

    def __init__(
        self,
        files: LocalShards | StoreShards,
        sizes: Sequence[int],
        shards: Sequence[int],
        spare: list[npt.NDArray[np.uint8]],
    ) -> None:
        self._spare = spare
        self._buffers = [_buffer(sizes[shard], self._spare) for shard in shards]
        views = [memoryview(buffer)[: sizes[shard]] for buffer, shard in zip(self._buffers, shards, strict=True)]  # type: ignore[arg-type]
        with ThreadPoolExecutor(_READERS, "ge2e-shard") as pool:
            for _ in pool.map(files.read_whole, shards, views):
                pass
        self._content = dict(zip(shards, views, strict=True))

    def __del__(self) -> None:
        self._spare += getattr(self, "_buffers", [])

    def read_into(self, places: Sequence[tuple[int, int]], targets: Sequence[memoryview]) -> None:
        """Fills targets from (shard, offset)."""
        content = self._content
        for (shard, offset), target in zip(places, targets, strict=True):
            target[:] = content[shard][offset : offset + len(target)]

    def read(self, places: Sequence[tuple[int, int, int]]) -> Iterator[bytes]:
        """Bytes of (shard, offset, length), one after the other."""
        return (bytes(self._content[shard][offset : offset + length]) for shard, offset, length in places)


def _buffer(size: int, spare: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """A buffer of at least some bytes, one that was used before if it is large enough."""
    with contextlib.suppress(IndexError):  # another thread may have taken the last
        while spare:
            buffer = spare.pop()
            if len(buffer) >= size:
                return buffer
    # Shards are of nearly the same size: a little more fits most others.
    return np.empty(size + size // 16, dtype=np.uint8)


class Windows:
    """The windows in use: that of the batches being made, the one before, and the next, read in the background.

    Args:
        files: shards of a split.
        sizes: bytes of each shard.
    """

    def __init__(self, files: LocalShards | StoreShards, sizes: Sequence[int]) -> None:
        self._files, self._sizes = files, sizes
        self._held: dict[tuple[int, ...], Future[Window]] = {}
        self._spare: list[npt.NDArray[np.uint8]] = []
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
            self._held[key] = self._reader.submit(Window, self._files, self._sizes, key, self._spare)
        return self._held[key]
