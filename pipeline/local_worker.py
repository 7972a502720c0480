"""A Beam worker process on this machine, as `python -m pipeline.local_worker [--lifeline]`.

Ctrl-C reaches all processes of a terminal at once. It is the program's to handle; a worker ends when the program
closes its connection. With `--lifeline` it also ends, at once and whatever it does, when its standard input ends: a
program that is killed closes nothing properly, but the system closes what it held.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

LIFELINE = "--lifeline"


def main() -> None:
    """Serves the program that started it, until that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if LIFELINE in sys.argv[1:]:
        threading.Thread(target=_end_with_input, daemon=True).start()
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
