"""Stores for tests: moto's S3 server on loopback, behind a proxy that is slow, counts, fails or cuts off at will.

`with s3_server() as server:` gives both. Requests that go to `server.endpoint` pass the proxy; `server.put` does not.
`gcs_emulator` is the same for gs://, with a proxy in its own process, which compares the generations that writes name.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlencode

import numpy as np
import pytest

BUCKET = "corpus"
# What the environment of a client must hold. None of it is a secret: moto accepts any.
ACCESS_KEY, SECRET_KEY = "fake-access-key", "fake-secret-key"

_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_KEPT_BY_PROXY = {"connection", "content-length", "keep-alive", "transfer-encoding"}


def noise(size: int, seed: int = 0) -> bytes:
    """What no compression and no mix-up hides."""
    return np.random.default_rng([size, seed]).bytes(size)


def environment(endpoint: str) -> dict[str, str]:
    """Variables by which clients find the server and ask nobody else."""
    return {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "eu-north-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class Request(NamedTuple):
    """A request as it came in."""

    method: str
    path: str  # without query, unquoted
    range: str  # 'bytes=0-9', or '' for all


class Proxy(ThreadingHTTPServer):
    """Hands requests on to another server on this machine.

    Attributes:
        latency_s: waited before each request is handed on.
        requests: all that came, in order.
        most_at_once: the highest number of requests that were in flight at one time.
        fail_next: how many of the next requests are answered by `fail_with`, 503 unless told.
        cut_next: how many of the next answers of GET end after half of their body.
        lose_next: how many of the next writes are handed on and never answered: the connection ends.
        before: called with each request before it is answered or handed on; what it returns may be the name of one of
            the orders above, for this request alone, or 'drop': the connection ends at once.
        generations: writes that name a generation (`ifGenerationMatch`) are refused with 412 where another one stands,
            as Google's store does and the emulator does not.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, upstream: tuple[str, int], *, generations: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.generations = upstream, generations
        self.comparing = threading.Lock()
        self.latency_s = 0.0
        self._lock = threading.Lock()
        self.reset()

    def server_bind(self) -> None:
        # HTTPServer asks for the name of its address, which may wait for a name server.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of the tests."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def reset(self) -> None:
        """Forgets all counts and orders; the latency stays."""
        with self._lock:
            self.requests: list[Request] = []
            self._in_flight = self.most_at_once = 0
            self.fail_next = self.cut_next = self.lose_next = 0
            self.fail_with = 503
            self.before: Callable[[Request], str | None] = lambda request: None

    def take(self, order: str) -> bool:
        """Whether one more request is to be answered by `order`."""
        with self._lock:
            left = getattr(self, order)
            setattr(self, order, max(0, left - 1))
            return left > 0

    @contextlib.contextmanager
    def in_flight(self, request: Request) -> Iterator[None]:
        with self._lock:
            self.requests.append(request)
            self._in_flight += 1
            self.most_at_once = max(self.most_at_once, self._in_flight)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def setup(self) -> None:
        super().setup()
        # An answer is written in two parts; the second must not wait for the acknowledgement of the first.
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _answer(self) -> None:
        body = self._body()
        path = unquote(self.path.partition("?")[0])
        request = Request(self.command, path, self.headers.get("Range", ""))
        with self.server.in_flight(request):
            order = self.server.before(request)
            if order == "drop":
                self.close_connection = True
                return
            if self.server.latency_s:
                time.sleep(self.server.latency_s)
            if order == "fail_next" or self.server.take("fail_next"):
                answer = (self.server.fail_with, {"Content-Type": "application/xml"}, _SLOW_DOWN, len(_SLOW_DOWN))
            elif self.server.generations and self.command == "POST" and "ifGenerationMatch=" in self.path:
                answer = self._compared(body)
            else:
                answer = self._hand_on(body, order)
            if self.command in ("POST", "PUT") and answer[0] < 300 and self.server.take("lose_next"):
                self.close_connection = True
                return
        # No longer in flight: the client may send its next request before this thread goes on.
        self._send(*answer)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while length := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        del self.headers["Transfer-Encoding"], self.headers["Expect"]  # done, and answered
        return b"".join(parts)

    def _compared(self, body: bytes) -> tuple[int, dict[str, str], bytes, int]:
        """An upload that names the generation that it replaces; 0 is none."""
        bucket = self.path.partition("/b/")[2].partition("/")[0]
        found = re.search(rb'"name":\s*("[^"]+")', body)
        assert found, body[:300]
        place = f"/storage/v1/b/{bucket}/o/{quote(json.loads(found[1]), safe='')}"
        (expected,) = parse_qs(self.path.partition("?")[2])["ifGenerationMatch"]
        with self.server.comparing:
            connection = http.client.HTTPConnection(*self.server.upstream)
            connection.request("GET", place)
            response = connection.getresponse()
            stands = json.loads(response.read())["generation"] if response.status == 200 else "0"
            connection.close()
            if stands == expected:
                return self._hand_on(body)
        told = json.dumps({"error": {"code": 412, "message": "conditionNotMet"}}).encode()
        return 412, {"Content-Type": "application/json"}, told, len(told)

    def _hand_on(self, body: bytes, order: str | None = None) -> tuple[int, dict[str, str], bytes, int]:
        connection = http.client.HTTPConnection(*self.server.upstream)
        connection.request(self.command, self.path, body, dict(self.headers))
        response = connection.getresponse()
        content = response.read()
        connection.close()
        headers = {name: value for name, value in response.getheaders() if name.lower() not in _KEPT_BY_PROXY}
        length = int(response.headers.get("Content-Length") or len(content))
        cut = self.command == "GET" and response.status < 300
        if cut and (order == "cut_next" or self.server.take("cut_next")):
            content = content[: len(content) // 2]
            self.close_connection = True
        return response.status, headers, content, length

    def _send(self, status: int, headers: dict[str, str], content: bytes, length: int) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@contextlib.contextmanager
def serving(server: HTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class S3Server(NamedTuple):
    """A running server with one bucket."""

    proxy: Proxy
    client: Any  # boto3's, past the proxy

    @property
    def endpoint(self) -> str:
        return self.proxy.endpoint

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=name, Body=content)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=name)


def in_environment(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """For a fixture: clients find the server, and what its proxy was told or counted is forgotten before and after."""
    for name, value in environment(server.endpoint).items():
        monkeypatch.setenv(name, value)
    server.proxy.reset()
    yield server
    server.proxy.reset()


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """Starts the server and its proxy on free ports, with an empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        client.create_bucket(Bucket=BUCKET)
        proxy = Proxy((host, port))
        with serving(proxy):
            yield S3Server(proxy, client)
    finally:
        moto.stop()


@contextlib.contextmanager
def gcs_emulator() -> Iterator[str]:
    """The endpoint of a store for gs://, in a process of its own: Arrow holds Python's lock while it waits for it."""
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        endpoint = process.stdout.readline().decode().strip()
        assert endpoint.startswith("http://")
        try:
            yield endpoint
        finally:
            process.communicate(b"", timeout=30)


def _run_gcs_emulator() -> None:
    """Until its input ends. Behind the proxy: the emulator takes one connection at a time, and clients hold several."""
    from gcp_storage_emulator.server import create_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    server = create_server(*address, in_memory=True, default_bucket=BUCKET)
    server.start()
    proxy = Proxy(address, generations=True)
    with serving(proxy):
        print(proxy.endpoint, flush=True)
        sys.stdin.read()
    server.stop()


def put_gcs(endpoint: str, name: str, content: bytes) -> None:
    """Stores an object, which may not be empty (the emulator fails)."""
    query = urlencode({"uploadType": "media", "name": name})
    kind = {"Content-Type": "application/octet-stream"}
    urllib.request.urlopen(
        urllib.request.Request(f"{endpoint}/upload/storage/v1/b/{BUCKET}/o?{query}", content, kind)
    ).close()


if __name__ == "__main__":
    _run_gcs_emulator()
