"""Processes that make the arrays of batches ahead of time, and hand them over in shared memory.

Each process is asked by a thread of its own, which copies what it made into memory of this process; threads take what
is to be made from one queue. A process that dies is a named error of the batch that it was making; a new one takes its
place for the next. All of them end with the object that has them, and with this process, however it ends. Arrays are
float32. It must not know which crops make a batch, or how the array of one is made.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import traceback
import weakref
from concurrent.futures import Future
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ge2e_transforms.errors import ConfigError, StorageError, WorkerError
from ge2e_transforms.examples import Crops, Examples, Source
from ge2e_transforms.reading import Buffers, Values

# A fork would copy locks that other threads hold, and whatever else the program has in memory.
_SPAWN = multiprocessing.get_context("spawn")
_SHARED = Path("/dev/shm")
_MIB = 1 << 20
# What a process that has closed its connection has left to end by itself.
_LAST_SECONDS = 10.0
_GUARD = (
    "Each process first runs the script of the program again, up to `if __name__ == '__main__':`. So what reads "
    "batches has to stand below such a line, and what a waveform_transform is made of above it, or in a module"
)
_Job: TypeAlias = "tuple[Crops, weakref.ref[Future[Values]]]"


class BatchWorkers:
    """Makes examples of crops in processes, which are started when they are first needed.

    Args:
        source: what decides what is made of crops.
        count: processes.
        most_values: float32 numbers of the largest batch.

    Raises:
        ConfigError: the source, which is to say its `waveform_transform`, cannot be sent to a process.
    """

    def __init__(self, source: Source, count: int, most_values: int) -> None:
        self._source, self._count, self._most_bytes = _sent(source), count, 4 * most_values
        self._lock = threading.Lock()
        self._crew: _Crew | None = None

    def submit(self, crops: Crops) -> Future[Values]:
        """Begins to make the examples of crops. What nobody waits for any more is not begun.

        Raises:
            StorageError: no room in shared memory.
        """
        coming: Future[Values] = Future()
        self._crew_of_this_process().jobs.put((crops, weakref.ref(coming)))
        return coming

    def _crew_of_this_process(self) -> _Crew:
        with self._lock:
            if self._crew is None or self._crew.owner != os.getpid():  # a fork has none of the threads
                _check_room(self._count, self._most_bytes)
                self._crew = _Crew(self._source, self._count, self._most_bytes)
                weakref.finalize(self, self._crew.end)
            return self._crew


class _Crew:
    """The threads, each with its process, and what they share. It must not refer to a `BatchWorkers`, which ends it."""

    def __init__(self, source: bytes, count: int, most_bytes: int) -> None:
        self.owner = os.getpid()
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._source, self._most_bytes = source, most_bytes
        # Again by the thread that has it, where the collector finds a `BatchWorkers` that is gone.
        self._lock, self._ended = threading.RLock(), False
        self._processes: set[Any] = set()
        self._buffers = Buffers()
        self._threads = [threading.Thread(target=self._serve, name="ge2e-batch", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Ends the processes, whatever they are doing; then their memory is free."""
        if os.getpid() != self.owner:
            return
        with self._lock:
            self._ended = True
            for process in self._processes:
                process.kill()
        for _ in self._threads:
            self.jobs.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():  # the collector may be at work in one of them
                thread.join()

    def start(self, process: Any) -> None:
        with self._lock:
            if self._ended:
                raise WorkerError("the loader was closed")
            # Ctrl-C is for this program, which ends its processes: they inherit from this thread that it is not for
            # them. Not any earlier, as the keeper of shared memory, where it is started, sets it back.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process.start()
            except RuntimeError as error:  # this is such a process, which runs the script
                raise ConfigError(f"workers cannot start processes from within one of them. {_GUARD}") from error
            self._processes.add(process)

    def forget(self, process: Any) -> None:
        with self._lock:
            self._processes.discard(process)

    def _serve(self) -> None:
        worker: _Worker | None = None
        while (job := self.jobs.get()) is not None and not self._ended:
            crops, reference = job
            coming = reference()
            if coming is None:
                continue
            try:
                worker = worker or _Worker(self, self._source, self._most_bytes)
                coming.set_result(worker.make(crops, self._buffers))
            except BaseException as error:
                coming.set_exception(error)
                worker = worker if worker and worker.is_alive else None
            del coming  # which may hold a batch
        if worker is not None:
            worker.close()


class _Worker:
    """One process, and memory that it shares with this one.

    Raises:
        ConfigError: a waveform_transform does not fit the dataset, or cannot be made again in a process.
        WorkerError: the process died.
    """

    def __init__(self, crew: _Crew, source: bytes, most_bytes: int) -> None:
        self._crew, self._is_ready = crew, False
        self._memory = SharedMemory(create=True, size=most_bytes)
        self._connection, far_end = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_work, args=(far_end, self._memory.name), name="ge2e-batch", daemon=True)
        try:
            crew.start(self._process)
            far_end.close()
            self._ask(source)
            self._is_ready = True
        except BaseException:
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        return not self._connection.closed

    def make(self, crops: Crops, buffers: Buffers) -> Values:
        """Examples of crops, in memory of this process."""
        shape = self._ask(bytes(ForkingPickler.dumps(crops)))
        made = buffers.take(shape)
        made[...] = np.ndarray(shape, np.float32, self._memory.buf)
        return made

    def close(self) -> None:
        """Ends the process and frees the memory; may be called again."""
        if self.is_alive:
            self._connection.close()
            if self._process.pid is not None:
                self._process.kill()
                self._process.join()
            self._crew.forget(self._process)
            self._memory.close()
            self._memory.unlink()

    def _ask(self, message: bytes) -> Any:
        """Sends a message, and waits for the answer or for the end of the process."""
        try:
            self._connection.send_bytes(message)
            wait([self._connection, self._process.sentinel])
            answer, error, told = self._connection.recv() if self._connection.poll() else (None, EOFError(), "")
        except (EOFError, OSError) as closed:
            answer, error, told = None, closed, ""
        if error is None:
            return answer
        if told:
            raise error from _InWorker(told)
        self._process.join(_LAST_SECONDS)
        status = self._process.exitcode
        self.close()
        raise WorkerError(_death(status, self._is_ready)) from error


class _InWorker(Exception):
    """Where in the other process an error was raised, as its traceback says."""

    def __str__(self) -> str:
        return f"in a worker process of the loader:\n{self.args[0]}"


def _death(status: int | None, was_ready: bool) -> str:
    ended = f"ended with status {status}"
    if status is not None and status < 0:
        ended = f"was ended by signal {-status} ({signal.strsignal(-status)})"
    where = "out of memory, or killed by somebody" if was_ready else f"before its first batch. {_GUARD}"
    return f"a worker process of the loader {ended}: {where}"


def _sent(source: Source) -> bytes:
    """A source as it is sent to a process."""
    try:
        return bytes(ForkingPickler.dumps(source))
    except Exception as error:  # pickle raises what it likes
        raise ConfigError(
            f"workers cannot be used with this waveform_transform, which cannot be sent to a process ({error}): make "
            "it of functions and classes of a module, not of lambdas or of functions within functions; or workers=0"
        ) from error


def _check_room(count: int, most_bytes: int) -> None:
    """A process that writes where no memory is left is ended by a signal that says nothing."""
    if _SHARED.is_dir():
        found = os.statvfs(_SHARED)
        free, needed = found.f_bavail * found.f_frsize, count * most_bytes
        if free < needed:
            raise StorageError(
                f"{count} workers need {needed / _MIB:.0f} MiB of shared memory, and {_SHARED} has room for "
                f"{free / _MIB:.0f}: fewer workers, smaller batches, or more room (`docker run --shm-size`)"
            )


# In the other process.


def _work(requests: Connection, name: str) -> None:
    """Answers each request by (answer, error, traceback); the first is a source, all others are crops."""
    memory, examples = SharedMemory(name), None
    while True:
        try:
            message = requests.recv_bytes()
        except EOFError:  # nobody is there any more
            return
        try:
            if examples is None:
                examples = _opened(message)
                answer: Any = None
            else:
                made = examples.make(ForkingPickler.loads(message))
                np.ndarray(made.shape, np.float32, memory.buf)[...] = made
                answer = made.shape
            told: tuple[Any, Exception | None, str] = (answer, None, "")
        except Exception as error:
            told = (None, _sendable(error), traceback.format_exc())
        with contextlib.suppress(BrokenPipeError):
            requests.send(told)


def _opened(message: bytes) -> Examples:
    try:
        source = ForkingPickler.loads(message)
    except Exception as error:
        raise ConfigError(
            f"workers cannot be used with this waveform_transform, which cannot be made again in a process ({error}): "
            "define it in a module that is imported, not in a notebook or at a prompt; or workers=0"
        ) from error
    return Examples(source, source.dataset.index(source.split))


def _sendable(error: Exception) -> Exception:
    """The error, or one that says what it was if it cannot be sent."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
