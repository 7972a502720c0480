"""A Beam worker process on this machine, as `python -m pipeline.local_worker`.

Ctrl-C reaches all processes of a terminal at once. It is the program's to handle; a worker ends when the program
closes its connection.
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Serves the program that started it, until that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


if __name__ == "__main__":
    main()
