"""One thread for the libraries of a worker process, whatever started it.

The recipe calls no BLAS and nothing parallel, and there is a worker for every core: pools of threads only crowd the
other workers. A library reads its variable once, when it is loaded, so both are set: the variables for what is loaded
later and for child processes, and the pools that are there already.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from threadpoolctl import threadpool_info, threadpool_limits

_NUMBA = "NUMBA_NUM_THREADS"
VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    _NUMBA,
)


def limit_threads() -> None:
    """One thread from now on. For the `setup` of a DoFn: Flink, Spark and Dataflow start workers by programs of theirs.

    A process that holds a worker beside other things, as one worker in memory does, wraps it in `one_thread`.
    """
    for name in _variables():
        os.environ[name] = "1"
    threadpool_limits(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread in the block, for this process and those that it starts; afterwards all is as it was."""
    before = {name: os.environ.get(name) for name in _variables()}
    with threadpool_limits(1):
        limit_threads()
        try:
            yield
        finally:
            for name in before.keys() & set(_variables()):
                value = before[name]
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _variables() -> tuple[str, ...]:
    # Numba reads its own again with each compilation, and refuses another value than its pool of threads has.
    return tuple(name for name in VARIABLES if name != _NUMBA or "numba" not in sys.modules)


def threads_in_force() -> dict[str, int]:
    """Threads of each pool in this process, by library and place; Numba's, if it has been started."""
    found: dict[str, int] = {}
    for pool in threadpool_info():
        name = f"{pool['internal_api']} of {Path(pool['filepath']).parent.name}"
        found[name] = max(pool["num_threads"], found.get(name, 0))
    numba = sys.modules.get("numba")
    try:
        if numba is not None and numba.threading_layer():
            found["numba"] = numba.get_num_threads()
    except ValueError:  # its way to say that no thread was started
        pass
    return found
