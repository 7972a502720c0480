"""Encoded recordings read ahead: many at once, in the order in which they will be asked for, within a bound of bytes.

One recording at a time would wait 50 to 100 ms for each object of a store, for some 4 ms of computing. It must not know
what the bytes are, or where they come from.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition
from typing import Protocol

# Two requests of 50 ms for each recording: 48 at once give 480 recordings a second, and the fastest core takes 300.
READS = 48
# An average recording of a corpus has some 200 kB; one that is larger than this is read when nothing else is held.
BYTES = 64 << 20


class Source(Protocol):
    """One recording before it is read."""

    @property
    def size(self) -> int:
        """Bytes that `read` will give."""

    def read(self) -> bytes:
        """All of it."""


@dataclass
class _Coming:
    location: str
    content: Future[bytes]
    held: int = 0


class ReadAhead:
    """Recordings by location; a context manager, as it has threads.

    Args:
        open_source: finds a recording and its size; called, as `read` is, from several threads at once.
        order: locations in the order in which they will be asked for, each as often as it will be.
        reads: recordings that are opened or read at once. As many again may wait to be taken.
        most_bytes: of recordings that were read and not taken yet.
    """

    def __init__(
        self, open_source: Callable[[str], Source], order: Sequence[str], reads: int = READS, most_bytes: int = BYTES
    ) -> None:
        self._open, self._most_bytes, self._ahead = open_source, most_bytes, 2 * reads
        self._order = iter(enumerate(order))
        self._left = Counter(order)
        self._coming: deque[_Coming] = deque()
        self._changed = Condition()
        self._turn = self._held = 0
        self._closed = False
        self._pool = ThreadPoolExecutor(reads, "ge2e-read")

    def __enter__(self) -> ReadAhead:
        self._submit()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, location: str) -> bytes:
        """The recording, once it is there; raises what opening or reading it raised.

        What is asked for out of order is read at once; what is passed over is dropped.
        """
        if not self._left[location]:
            return self._open(location).read()
        while True:
            coming = self._coming.popleft()
            self._left[coming.location] -= 1
            try:
                if coming.location == location:
                    return coming.content.result()
                coming.content.exception()  # it holds bytes until it has come
            finally:
                with self._changed:
                    self._held -= coming.held
                    self._changed.notify_all()
                self._submit()

    def _submit(self) -> None:
        while len(self._coming) < self._ahead and (entry := next(self._order, None)) is not None:
            number, location = entry
            coming = _Coming(location, Future())
            self._coming.append(coming)
            self._pool.submit(self._fill, number, coming)

    def _fill(self, number: int, coming: _Coming) -> None:
        source, fault = None, None
        try:
            source = self._open(coming.location)
        except BaseException as error:
            fault = error
        try:
            # In turn, so that what is asked for next is never kept out by what comes later.
            if self._reserve(number, coming, 0 if source is None else source.size) and source is not None:
                coming.content.set_result(source.read())
            elif fault is not None:
                coming.content.set_exception(fault)
        except BaseException as error:
            coming.content.set_exception(error)

    def _reserve(self, number: int, coming: _Coming, size: int) -> bool:
        """Waits for its turn and for room; False if nobody wants it any more."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed or (self._turn == number and (not self._held or self._held + size <= self._most_bytes))
                )
            )
            if self._closed:
                return False
            self._turn += 1
            self._held += size
            coming.held = size
            self._changed.notify_all()
        return True
