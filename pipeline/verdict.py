"""Why a job failed, left where both the program that waits and a restarted worker find it.

A runner reports an exception of a worker as a long text of its own. So a worker that meets one of our
errors first writes it beside the output, under the token of the job; the program prints that message,
and an attempt that a cluster starts again for the same job fails at once with it.

It must not know what the job does.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ge2e_transforms import errors, stores
from pipeline import storage
from pipeline.options import TEMPLATE

# Where Beam's workers log an exception: once in the function, once in the bundle.
_WORKER_LOGS = ("apache_beam.runners.common", "apache_beam.runners.worker.sdk_worker")


def _path(output: str, token: str) -> str:
    return storage.join(output, f"failed-{token}.json")


@contextmanager
def recorded(output: str, token: str) -> Iterator[None]:
    """Raises the verdict that stands already; records the error that the block raises.

    A template's token is that of all its launches, and its errors are the launches' own: nothing is recorded then.
    """
    for name in _WORKER_LOGS:
        logging.getLogger(name).addFilter(_is_unnamed)
    if token.startswith(TEMPLATE):
        yield
        return
    raise_if_any(output, token)
    try:
        yield
    except errors.Ge2eError as error:
        # Where the output is full, or gone, the program finds the error in what the runner tells of it.
        with contextlib.suppress(OSError):
            _write(output, token, error)
        raise


def _write(output: str, token: str, error: errors.Ge2eError) -> None:
    content = {"error": type(error).__name__, "message": str(error)}
    storage.write_bytes(_path(output, token), json.dumps(content).encode())


def stop(output: str, token: str) -> None:
    """Ends a job on a cluster with the shards that its workers have in hand.

    Beam's job server for Flink takes the request to cancel a job and lets the cluster go on with it. The verdict stays,
    for attempts that the cluster starts again.
    """
    _write(output, token, errors.StoppedError("the program that sent this job was interrupted, so nobody waits for it"))


def _is_unnamed(record: logging.LogRecord) -> bool:
    """Our errors are told by the program, in one line; the runner's tracebacks of them only hide it."""
    cause = record.exc_info[1] if record.exc_info else None
    text = record.getMessage()
    named = any(f"{module.__name__}." in text for module in (errors, stores))
    return not named and not isinstance(cause, errors.Ge2eError | errors.DiskError | stores.StoreError)


def raise_if_any(output: str, token: str) -> None:
    path = _path(output, token)
    if storage.exists(path):
        content = json.loads(storage.read_bytes(path))
        raise getattr(errors, content["error"])(content["message"])


def forget(output: str, token: str) -> None:
    storage.remove([_path(output, token)])
