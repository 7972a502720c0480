"""Numbered files for positional reads: descriptors of local ones, concurrent range reads of those on a store.

Safe to call from several threads at once. What is pickled opens its files again where it is used; what is forked shares
the descriptors of local files, which is harmless as no read moves a position. Offsets and lengths are bytes. It must
not know what the files hold.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from ge2e_transforms.checks import check, check_integer
from ge2e_transforms.errors import CorruptRecordError, DatasetError
from ge2e_transforms.files import Folder, StoreFolder
from ge2e_transforms.stores import MOST_READERS, OpenObject

# Files kept open where the system sets no limit, and files of a store.
_MOST_OPEN = 4096
_MOST_OPEN_STORE = 512
# Reads of a store in flight, unless asked for otherwise: of a store that waits 50 ms each time, 640 a second.
READERS = 32
# A pipe in place of a file must not be waited for.
_READ_ONLY = os.O_RDONLY | os.O_NONBLOCK
# The most that Linux hands over in one read is 2 GiB.
_READ_BYTES = 1 << 30


class LocalShards:
    """Files on a local disk.

    They are opened on first use and stay open, up to half of what the process may have open, all `LocalShards` of it
    together; any beyond are opened for each read.

    Args:
        paths: in the order of their numbers.
    """

    _lock = threading.Lock()
    _kept_open = 0

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._open = [-1] * len(self.paths)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = _MOST_OPEN if limit == resource.RLIM_INFINITY else limit // 2
        weakref.finalize(self, _close_all, self._open)

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalShards, (self.paths,)

    def read_into(self, places: Sequence[tuple[int, int]], targets: Sequence[memoryview]) -> None:
        """Fills each target from (file number, offset in bytes).

        Raises:
            CorruptRecordError: a file ends before.
            DatasetError: a file cannot be opened or read.
        """
        number, offset = 0, 0
        # The one loop of the loader that runs once a crop: nothing is called in it but the system.
        preadv, descriptors = os.preadv, self._open
        try:
            for (number, offset), target in zip(places, targets, strict=True):
                descriptor = descriptors[number]
                if descriptor >= 0:
                    got = preadv(descriptor, (target,), offset)
                else:
                    with self._opened(number) as descriptor:
                        got = preadv(descriptor, (target,), offset)
                if got != target.nbytes:
                    raise self._short(number, offset, target.nbytes, got)
        except OSError as error:
            raise self._unreadable(number, offset, error) from error

    def read(self, places: Sequence[tuple[int, int, int]]) -> Iterator[bytes]:
        """The bytes at each (file number, offset, length), read as they are taken; raises as `read_into`.

        One after the other: many at once would be given back to the system together, and their pages asked for anew.
        """
        number, offset = 0, 0
        pread, descriptors = os.pread, self._open
        try:
            for number, offset, length in places:
                descriptor = descriptors[number]
                if descriptor >= 0:
                    part = pread(descriptor, length, offset)
                else:
                    with self._opened(number) as descriptor:
                        part = pread(descriptor, length, offset)
                if len(part) != length:
                    raise self._short(number, offset, length, len(part))
                yield part
        except OSError as error:
            raise self._unreadable(number, offset, error) from error

    def read_whole(self, number: int, target: memoryview) -> None:
        """Fills a target, as long as the file, from a whole file; raises as `read_into`."""
        # Doubles what the system reads ahead; not on macOS. A file that cannot be opened is told below.
        with contextlib.suppress(OSError, AttributeError), self._opened(number) as descriptor:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        starts = range(0, target.nbytes, _READ_BYTES)
        self.read_into([(number, start) for start in starts], [target[i : i + _READ_BYTES] for i in starts])

    @contextlib.contextmanager
    def _opened(self, number: int) -> Iterator[int]:
        """The descriptor of a file."""
        if self._open[number] < 0:
            with LocalShards._lock:
                if self._open[number] < 0 and LocalShards._kept_open < self._most:
                    self._open[number] = os.open(self.paths[number], _READ_ONLY)
                    LocalShards._kept_open += 1
        descriptor = self._open[number]
        if descriptor >= 0:
            yield descriptor
            return
        descriptor = os.open(self.paths[number], _READ_ONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _short(self, number: int, offset: int, expected: int, got: int) -> CorruptRecordError:
        return _short(str(self.paths[number]), offset, expected, got)

    def _unreadable(self, number: int, offset: int, error: OSError) -> DatasetError:
        return DatasetError(
            f"{self.paths[number]} cannot be read at offset {offset}: {error}. "
            "Was the dataset moved or removed while it was in use?"
        )


class StoreShards:
    """Files on a store, `readers` range reads in flight at once, or their copies in the folder's cache.

    Args:
        folder: where they lie.
        names: relative to it, in the order of their numbers.
        sizes: bytes of each.
        readers: range reads in flight, from 1 to `stores.MOST_READERS`.

    Raises:
        ConfigError: `readers` out of that range.
    """

    def __init__(self, folder: StoreFolder, names: Sequence[str], sizes: Sequence[int], readers: int) -> None:
        check_integer("readers", readers, 1, MOST_READERS + 1)
        self._folder, self._names, self._sizes, self._readers = folder, list(names), list(sizes), readers
        self._copies = LocalShards([Path()] * len(names))
        self._copied: set[int] = set()
        self._seen: set[int] = set()  # what is not in the cache, or did not fit, is not asked for again
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._files: dict[int, OpenObject] = {}
        self._opening = [threading.Lock() for _ in range(self._readers)]
        # Its threads start when they are needed.
        self._pool = ThreadPoolExecutor(self._readers, "ge2e-read")
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return StoreShards, (self._folder, self._names, self._sizes, self._readers)

    def read_into(self, places: Sequence[tuple[int, int]], targets: Sequence[memoryview]) -> None:
        """Fills each target from (file number, offset in bytes).

        Raises:
            CorruptRecordError: a file is not as long as it should be, or ends before.
            DatasetError: a file is missing, or cannot be read even after some tries.
            StorageError: the cache cannot be written.
        """
        numbers = {number for number, _ in places}
        self._look_for_copies(numbers)
        if numbers <= self._copied:
            self._copies.read_into(places, targets)
            return
        both = list(zip(places, targets, strict=True))
        futures = [
            self._pool.submit(self._fill, *place, target) for place, target in both if place[0] not in self._copied
        ]
        try:
            local = [(place, target) for place, target in both if place[0] in self._copied]
            self._copies.read_into([place for place, _ in local], [target for _, target in local])
            for future in futures:
                future.result()
        finally:
            # After an error, too, nobody writes to a target any more.
            for future in futures:
                future.cancel()
            wait(futures)

    def read(self, places: Sequence[tuple[int, int, int]]) -> Iterator[bytes]:
        """The bytes at each (file number, offset, length), all read at once; raises as `read_into`."""
        numbers = {number for number, _, _ in places}
        self._look_for_copies(numbers)
        if numbers <= self._copied:
            return self._copies.read(places)
        parts = [bytearray(length) for _, _, length in places]
        self.read_into([place[:2] for place in places], [memoryview(part) for part in parts])
        return map(bytes, parts)

    def read_whole(self, number: int, target: memoryview) -> None:
        """Fills a target, as long as the file, from a whole file; raises as `read_into`."""
        self._look_for_copies([number])
        if number in self._copied:
            self._copies.read_whole(number, target)
            return
        name, expected, size = self._names[number], target.nbytes, self._sizes[number]
        if size != expected:
            raise _short(self._folder.where(name), 0, expected, size)

        def take(offset: int, part: bytes) -> None:
            target[offset : offset + len(part)] = part

        self._folder.fetch(name, self._file(number), take)

    def _look_for_copies(self, numbers: Iterable[int]) -> None:
        """Decides on first touch of a file whether it is read from the cache or from the store."""
        if self._process != os.getpid():
            self._start()  # threads, connections and whoever held a lock stay behind in a fork
        for number in numbers:
            if number in self._seen:
                continue
            path = self._folder.cached(self._names[number], self._sizes[number])
            if path is not None:
                self._copies.paths[number] = path
                self._copied.add(number)
            self._seen.add(number)

    def _fill(self, number: int, offset: int, target: memoryview) -> None:
        name, length = self._names[number], target.nbytes
        file = self._file(number)
        there = max(0, self._sizes[number] - offset)
        if there < length:
            raise _short(self._folder.where(name), offset, length, there)
        target[:] = self._folder.read_at(name, file, offset, length)

    def _file(self, number: int) -> OpenObject:
        file = self._files.get(number)
        if file is not None:
            return file
        with self._opening[number % self._readers]:
            if (file := self._files.get(number)) is None:
                file = self._folder.open(self._names[number], self._sizes[number])
                with self._lock:
                    while len(self._files) >= _MOST_OPEN_STORE:
                        del self._files[next(iter(self._files))]  # closed when its last reader lets go of it
                    self._files[number] = file
        return file


def open_shards(
    folder: Folder, names: Sequence[str], sizes: Sequence[int], readers: int = READERS
) -> LocalShards | StoreShards:
    """Files of a folder by number. None is opened yet.

    Args:
        folder: local or on a store.
        names: relative to it, in the order of their numbers.
        sizes: bytes of each.
        readers: range reads of a store in flight at once.
    """
    check(len(names) == len(sizes), "sizes", len(sizes), f"one for each of {len(names)} names")
    if isinstance(folder, StoreFolder):
        return StoreShards(folder, names, sizes, readers)
    return LocalShards([folder.local(name, size) for name, size in zip(names, sizes, strict=True)])


def _short(where: str, offset: int, expected: int, got: int) -> CorruptRecordError:
    return CorruptRecordError(
        f"{where} at offset {offset}: expected {expected} bytes, got {got}: the file is cut off, or is not the one "
        "that its index was made for. `ge2e verify` finds what else is damaged"
    )


def _close_all(descriptors: list[int]) -> None:
    # No lock: a finalizer may run in a thread that holds it. A count that is off by one does no harm.
    for number, descriptor in enumerate(descriptors):
        if descriptor >= 0:
            LocalShards._kept_open -= 1
            descriptors[number] = -1
            os.close(descriptor)


def _renew_lock() -> None:
    LocalShards._lock = threading.Lock()


# Another thread may hold the lock at the moment of a fork; in the copy nobody would ever let go of it.
os.register_at_fork(after_in_child=_renew_lock)
