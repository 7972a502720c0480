"""Worker processes of one job on this machine: started, watched, and ended together.

Beam's own handler of such processes leaves the job waiting without end, or ends it with an error of a channel, when one
of them dies. Here the death of one ends all of them and the job, by a named error. It must not know what the job is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import GrpcWorkerHandler, WorkerHandler
from apache_beam.runners.portability.local_job_service import BeamFnLoggingServicer
from apache_beam.runners.worker import data_plane
from apache_beam.transforms.environments import SubprocessSDKEnvironment
from apache_beam.utils import thread_pool_executor
from google.protobuf import json_format, text_format

from ge2e_transforms.errors import WorkerError
from pipeline.local_worker import LIFELINE

_URN = "ge2e:environment:local_worker:v1"
_SECONDS_BETWEEN_LOOKS = 0.1


class Crew:
    """The worker processes of one job.

    Attributes:
        name: by which Beam's handlers find it.
        lost: how the first of them died, empty while none has.
    """

    def __init__(self, log: Path) -> None:
        self.name = uuid.uuid4().hex
        self.lost = ""
        self._log = log
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ahead: list[subprocess.Popen[bytes]] = []

    def start_ahead(self, count: int) -> None:
        """Has workers import what they need while the program still builds its pipeline."""
        self._ahead += [self._process() for _ in range(count)]

    def start(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """One more worker. It ends when this process does, as nobody holds the other end of its input then."""
        process = self._ahead.pop() if self._ahead else self._process()
        assert process.stdin is not None  # a pipe
        with contextlib.suppress(BrokenPipeError):  # it has died, which its handler will see
            process.stdin.write(json.dumps(environment).encode() + b"\n")
        with self._lock:
            self._processes.append(process)
            if self.lost:
                process.kill()
        return process

    def _process(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            arguments = [sys.executable, "-m", "pipeline.local_worker", LIFELINE]
            # Nothing is left in a buffer, which could not be closed once the worker has died.
            return subprocess.Popen(arguments, bufsize=0, stdin=subprocess.PIPE, stderr=log)

    def let_go(self) -> None:
        """Ends those that were never asked for."""
        for process in self._ahead:
            assert process.stdin is not None  # a pipe
            process.stdin.close()
            process.wait()

    def end(self, status: int) -> None:
        """One has died: the others end too, as what they make cannot be used, but for the shards they have finished."""
        with self._lock:
            self.lost = self.lost or _told(status)
            for process in self._processes:
                process.kill()


def _told(status: int) -> str:
    if status >= 0:
        return f"a worker process ended with status {status}"
    return f"a worker process was ended by signal {-status} ({signal.strsignal(-status)})"


_crews: dict[str, Crew] = {}


class Workers(SubprocessSDKEnvironment):
    """Tells Beam that the processes of a crew do the work; its command is the name of the crew."""

    def to_runner_api_parameter(self, _: Any) -> tuple[str, bytes]:
        return _URN, self.command_string.encode()


@WorkerHandler.register_environment(_URN, bytes)
class _Handler(GrpcWorkerHandler):
    """One worker process."""

    def __init__(self, crew: bytes, *of_beam: Any) -> None:
        super().__init__(*of_beam)
        self._crew = _crews[crew.decode()]
        self._closing = threading.Event()
        self._logging = grpc.server(thread_pool_executor.shared_unbounded_instance())
        self._watcher = threading.Thread(target=self._watch, name="ge2e-worker", daemon=True)

    def start_worker(self) -> None:
        beam_fn_api_pb2_grpc.add_BeamFnLoggingServicer_to_server(BeamFnLoggingServicer(), self._logging)
        logging_port = self._logging.add_insecure_port("localhost:0")
        self._logging.start()
        self._process = self._crew.start(
            {
                "WORKER_ID": self.worker_id,
                "CONTROL_API_SERVICE_DESCRIPTOR": _endpoint(self.control_address),
                "LOGGING_API_SERVICE_DESCRIPTOR": _endpoint(f"localhost:{logging_port}"),
                "PIPELINE_OPTIONS": json_format.MessageToJson(self.provision_info.provision_info.pipeline_options),
            }
        )
        self._watcher.start()

    def close(self) -> None:
        self._closing.set()
        try:
            super().close()
        except grpc.RpcError:  # of its streams, which broke when it died
            self.stop_worker()

    def stop_worker(self) -> None:
        """It ends by itself when its connection is closed."""
        self._watcher.join()
        self._logging.stop(0)

    def _watch(self) -> None:
        status = self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        if self._closing.is_set():
            return
        self._crew.end(status)
        # What Beam has asked of it, and still asks, is answered in its place.
        while not self._closing.wait(_SECONDS_BETWEEN_LOOKS):
            for request in list(self.control_conn._futures_by_id.values()):
                answer = beam_fn_api_pb2.InstructionResponse(
                    instruction_id=request.instruction_id, error=self._crew.lost
                )
                request.set(answer)


def _endpoint(address: str) -> str:
    return str(text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=address)))


@contextmanager
def crew(log: Path, count: int) -> Iterator[Crew]:
    """Workers for the job that runs in the block, `count` of them started ahead; what they print is appended to `log`.

    Raises:
        WorkerError: one of them died; whatever Beam made of that is its cause.
    """
    own = Crew(log)
    _crews[own.name] = own
    hook, reader = threading.excepthook, logging.getLogger(data_plane.__name__)
    threading.excepthook = _but_broken_streams
    reader.addFilter(_is_no_broken_stream)
    try:
        own.start_ahead(count)
        yield own
    except Exception as error:
        if own.lost:
            raise WorkerError(own.lost) from error
        raise
    finally:
        own.let_go()
        threading.excepthook = hook
        reader.removeFilter(_is_no_broken_stream)
        del _crews[own.name]


def _but_broken_streams(details: threading.ExceptHookArgs) -> None:
    """Threads of Beam that read from a worker print a traceback when it dies, which is told by an error of ours."""
    if not issubclass(details.exc_type, grpc.RpcError):
        threading.__excepthook__(details)


def _is_no_broken_stream(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], grpc.RpcError))
