"""One thread for the libraries of a worker process, whatever started it, and memory that it keeps.

The recipe calls no BLAS and nothing parallel, and there is a worker for every core: pools of threads only crowd the
other workers. A library reads its variable once, when it is loaded, so both are set: the variables for what is loaded
later and for child processes, and the pools that are there already. It must not know what a worker computes.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from threadpoolctl import threadpool_info, threadpool_limits

# Numbers of glibc's malloc.h. Larger arrays than 32 MiB, glibc's limit, always go back.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST_MMAP_THRESHOLD, _KEPT_BYTES = 1 << 25, 1 << 28
VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def limit_threads() -> None:
    """One thread from now on. For the `setup` of a DoFn: Flink, Spark and Dataflow start workers by programs of theirs.

    A process that holds a worker beside other things, as one worker in memory does, wraps it in `one_thread`.
    """
    for name in VARIABLES:
        os.environ[name] = "1"
    threadpool_limits(1)


def keep_memory() -> None:
    """Have the allocator keep what is freed, for the next utterance. For the `setup` of a DoFn. With glibc only.

    Else arrays of more than some hundred KiB go back to the system when they are freed, and the pages of the next ones
    are mapped and cleared anew: a fifth of the time of the recipe. What is kept is what the longest utterance needed.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread in the block, for this process and those that it starts; afterwards all is as it was."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    with threadpool_limits(1):
        limit_threads()
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def threads_in_force() -> dict[str, int]:
    """Threads of each pool in this process, by library and place."""
    found: dict[str, int] = {}
    for pool in threadpool_info():
        name = f"{pool['internal_api']} of {Path(pool['filepath']).parent.name}"
        found[name] = max(pool["num_threads"], found.get(name, 0))
    return found
