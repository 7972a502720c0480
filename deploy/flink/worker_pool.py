"""Starts Python workers on this machine whenever Flink asks for one, each by Beam's `boot` as a container would.

    python deploy/flink/worker_pool.py --port 50000 --boot BOOT --folder FOLDER

It runs in the environment of the workers: they get its variables and its Python. Beam's own pool
(`apache_beam.runners.worker.worker_pool_main`) listens on all addresses, leaves its workers behind when it is ended by
SIGTERM, and stops reading what they print.
"""

# It must not know this project: its workers import that, the pool does not.

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from apache_beam.portability.api import beam_fn_api_pb2 as messages
from apache_beam.portability.api import beam_fn_api_pb2_grpc as services
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance

# What `boot` gives its workers to end by themselves is 5 s.
_SECONDS_TO_END = 10.0
_SECONDS_BETWEEN_LOOKS = 0.5
_ENDPOINTS = ("logging", "artifact", "provision", "control")


class _Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    control: str  # host:port of the task manager that it works for


class WorkerPool(services.BeamFnExternalWorkerPoolServicer):
    """Serves StartWorker and StopWorker.

    Args:
        boot: Beam's program that gets a worker ready and starts it.
        folder: each worker works in a folder of its own in it, with what it prints in `log`.
    """

    def __init__(self, boot: Path, folder: Path) -> None:
        self._boot, self._folder = boot, folder
        self._started = 0
        self._workers: dict[str, _Worker] = {}
        # Task managers count their workers each for itself: an id stands for the last that was started under it.
        self._names: dict[str, str] = {}
        self._lock = threading.Lock()

    def StartWorker(self, request: Any, context: Any) -> Any:
        """Starts one worker; the answer holds the reason if it cannot be."""
        try:
            with self._lock:
                self._started += 1
                name = f"{self._started:03d}-{re.sub('[^A-Za-z0-9_-]', '_', request.worker_id)}"
                process = self._start(self._folder / name, request)
                self._names[request.worker_id] = name
                self._workers[name] = _Worker(process, request.control_endpoint.url)
        except OSError as error:
            return messages.StartWorkerResponse(error=f"{self._boot} cannot be started: {error}")
        return messages.StartWorkerResponse()

    def _start(self, folder: Path, request: Any) -> subprocess.Popen[bytes]:
        folder.mkdir(parents=True)
        command = [str(self._boot), f"--semi_persist_dir={folder}", f"--id={request.worker_id}"]
        command += [f"--{name}_endpoint={getattr(request, f'{name}_endpoint').url}" for name in _ENDPOINTS]
        with (folder / "log").open("wb") as log:
            return subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def StopWorker(self, request: Any, context: Any) -> Any:
        """Ends one worker, and waits for it."""
        with self._lock:
            name = self._names.pop(request.worker_id, "")
        self._end([name])
        return messages.StopWorkerResponse()

    def stop(self) -> None:
        """Ends all workers, and waits for them."""
        self._end(list(self._workers))

    def end_orphans(self) -> None:
        """Ends workers whose task manager is gone: `boot` would start them again and again."""
        with self._lock:
            workers = dict(self._workers)
        self._end([name for name, worker in workers.items() if not _listens(worker.control)])

    def _end(self, names: list[str]) -> None:
        with self._lock:
            processes = [self._workers.pop(name).process for name in names if name in self._workers]
        for process in processes:
            process.terminate()  # boot passes it on to its Python
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_END)
            if process.poll() is None:
                process.kill()
                process.wait()


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=5):
        return True
    return False


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--boot", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    # boot starts `python` by its name, and would make an environment of its own without the second variable.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    os.environ["RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT"] = "1"
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    pool = WorkerPool(args.boot.absolute(), args.folder.absolute())
    server = grpc.server(shared_unbounded_instance())
    services.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.add_insecure_port(f"127.0.0.1:{args.port}")
    server.start()
    while not ended.wait(_SECONDS_BETWEEN_LOOKS):
        pool.end_orphans()
    server.stop(0)
    pool.stop()


if __name__ == "__main__":
    main()
