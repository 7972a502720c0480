"""Stand-ins for Google Cloud on loopback: Dataflow's REST service, and the environment that keeps clients to it.

The service keeps the jobs that were sent to it, tells the states and messages that a test gives it, and runs nothing.
"""

from __future__ import annotations

import base64
import bz2
import contextlib
import json
import re
import tarfile
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from socketserver import TCPServer
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from s3_server import BUCKET, SECRET_KEY, serving

PROJECT, REGION = "proj-one", "europe-west4"
# What may be found in no job, graph or bucket.
SECRETS = (SECRET_KEY, "fake-refresh-token", "fake-client-secret", "fake-access-token")
TIME = "2030-01-01T00:00:00Z"


class DataflowService(ThreadingHTTPServer):
    """Dataflow's REST service for one job at a time.

    Attributes:
        created: bodies of all jobs that were sent.
        states: what is told of the job, one at each look, the last one for ever; the first when it is made.
        messages: errors of the job.
        asked: method and path of every request.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], endpoint: str) -> None:
        super().__init__(address, _Handler)
        self.endpoint = endpoint.format(port=self.server_port)
        self.created: list[dict[str, Any]] = []
        self.states = ["JOB_STATE_RUNNING"]
        self.messages: list[str] = []
        self.asked: list[tuple[str, str]] = []

    @property
    def validated(self) -> bool:
        """Whether Beam takes this for the real service, and checks the options as for it."""
        return "sandbox" in self.endpoint

    def server_bind(self) -> None:
        # HTTPServer asks for the name of its address, which may wait for a name server.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def state(self) -> str:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/messages"):
            found = [{"id": str(n), "time": TIME, "messageText": text} for n, text in enumerate(self.messages)]
            return {"jobMessages": [{**entry, "messageImportance": "JOB_MESSAGE_ERROR"} for entry in found]}
        if path.endswith("/metrics"):
            return {"metricTime": TIME, "metrics": []}
        if method == "POST":
            self.created.append(body)
        if method == "PUT":
            self.states = [body["requestedState"]]
        job = self.created[-1] if self.created else {}
        known = {"id": "job-1", "projectId": PROJECT, "location": REGION, "createTime": TIME}
        return {**known, "name": job.get("name"), "type": job.get("type"), "currentState": self.state()} | (
            {"clientRequestId": job["clientRequestId"]} if job else {}
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: DataflowService

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path.removeprefix("/sandbox")
        self.server.asked.append((self.command, path))
        known = path.startswith(f"/v1b3/projects/{PROJECT}/locations/{REGION}/jobs")
        content = json.dumps(
            self.server.answer(self.command, path, json.loads(body or b"{}")) if known else {}
        ).encode()
        self.send_response_only(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@contextlib.contextmanager
def dataflow_service(real: bool) -> Iterator[DataflowService]:
    """Starts the service, if `real` where Beam takes it for the real one: on port 80 if that is free and may be had.

    Elsewhere Beam checks no options; nothing else differs.
    """
    try:
        if not real:
            raise OSError("any port will do")
        server = DataflowService(("127.0.0.2", 80), "http://127.0.0.2/sandbox")
    except OSError:
        server = DataflowService(("127.0.0.1", 0), "http://localhost:{port}")
    with serving(server):
        yield server


def environment(store: str, folder: Path) -> dict[str, str]:
    """Variables for every process that touches gs://: it finds the emulator and asks nobody else for anything.

    The credentials are of a kind that needs no server to be believed, and there are secrets to be looked for.
    """
    assert urlsplit(store).hostname == "127.0.0.1", "a test may not reach the real service"
    credentials = folder / "adc.json"
    content = {
        "type": "authorized_user",
        "client_id": "fake-client-id",
        "client_secret": "fake-client-secret",
        "refresh_token": "fake-refresh-token",
        "token": "fake-access-token",
        "expiry": "2099-01-01T00:00:00Z",
        "quota_project_id": PROJECT,
    }
    credentials.write_text(json.dumps(content))
    return {
        "STORAGE_EMULATOR_HOST": store,
        "NO_GCE_CHECK": "true",
        "GOOGLE_CLOUD_PROJECT": PROJECT,
        "GOOGLE_APPLICATION_CREDENTIALS": str(credentials),
        "AWS_ACCESS_KEY_ID": "fake-key-id",
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def objects(store: str, prefix: str = "") -> list[str]:
    """Names of the objects in the bucket that begin with `prefix`."""
    query = urlencode({"prefix": prefix, "maxResults": 1000})
    with urllib.request.urlopen(f"{store}/storage/v1/b/{BUCKET}/o?{query}") as answer:
        return sorted(item["name"] for item in json.load(answer).get("items", []))


def get(store: str, name: str) -> bytes:
    """Content of an object, by its name or its gs:// URL."""
    name = name.removeprefix(f"gs://{BUCKET}/")
    with urllib.request.urlopen(f"{store}/storage/v1/b/{BUCKET}/o/{quote(name, safe='')}?alt=media") as answer:
        content: bytes = answer.read()
        return content


def unpacked(graph: bytes) -> bytes:
    """A staged graph and, after it, all the functions of Beam's that are packed in it (pickled, bzip2, base64)."""
    packed = [text[: len(text) // 4 * 4] for text in re.findall(rb"QlpoOT[A-Za-z0-9+/]+=*", graph)]
    return graph + b"".join(bz2.BZ2Decompressor().decompress(base64.b64decode(text)) for text in packed)


def members(package: bytes) -> dict[str, bytes]:
    """Files of an sdist by their path in it, without the folder that holds them all."""
    with tarfile.open(fileobj=BytesIO(package)) as archive:
        files = [(entry.name, archive.extractfile(entry)) for entry in archive if entry.isfile()]
        return {name.partition("/")[2]: file.read() for name, file in files if file}
