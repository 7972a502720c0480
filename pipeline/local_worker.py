"""A Beam worker process on this machine, as `python -m pipeline.local_worker [--lifeline]`.

Ctrl-C reaches all processes of a terminal at once. It is the program's to handle; a worker ends when the program
closes its connection. With `--lifeline` it is started ahead: it imports what a job needs, then waits for its variables,
a line of JSON on its standard input. When that ends, the worker does, at once and whatever it does: a program that is
killed closes nothing properly, but the system closes what it held.

It must not know the job, which Beam sends to it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

LIFELINE = "--lifeline"


def main() -> None:
    """Serves the program that started it, until that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Beam imports it where it is installed, to ask whether it runs in a notebook: half a second of each worker's start.
    sys.modules["IPython"] = None  # type: ignore[assignment]
    from apache_beam.runners.worker import sdk_worker_main

    if LIFELINE in sys.argv[1:]:
        import pipeline.graph  # noqa: F401

        os.environ.update(json.loads(_line()))
        threading.Thread(target=_end_with_input, daemon=True).start()
    sdk_worker_main.main(sys.argv)


def _line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += _input()
    return line


def _end_with_input() -> None:
    while True:
        _input()


def _input() -> bytes:
    # Not by sys.stdin, whose lock a thread that waits would still hold when the process ends.
    data = os.read(0, 1 << 16)
    if not data:
        os._exit(1)
    return data


if __name__ == "__main__":
    main()
