"""How fast a shard is made from a store that answers late, beside local files: does reading ahead hide the waiting?

    python benchmarks/read_ahead.py MANIFEST [--latency_ms 0 50 100] [--times 4] [--rounds 3] [--json FILE]

The audio of a local manifest is served as `s3://` by a small server on this machine, in a process and on a core of its
own, which waits before each answer; a shard is made from it by one process on another core, written to a local disk.
`one at a time` reads a recording when it is needed. Contestants take turns; medians and ratios count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock
from urllib.parse import quote, unquote

from ge2e_transforms.config import PRESETS
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.manifest import read_rows
from ge2e_transforms.planning import ShardTask
from ge2e_transforms.utterance import Utterance
from pipeline import recordings
from pipeline.write import write_shard

_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency_s: float) -> None:
    """HEAD and GET, with ranges, of local files by their path below the bucket."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while head := (await reader.readuntil(b"\r\n\r\n")).decode():
            await asyncio.sleep(latency_s)
            request, *lines = head.split("\r\n")
            method, path, _ = request.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            copied = unquote(path.partition("?")[0]).removeprefix("/speech/")
            content = Path("/" + copied.partition("/")[2]).read_bytes()
            status, part = "200 OK", content
            if "range" in headers:
                first, last = headers["range"].removeprefix("bytes=").split("-")
                status, part = "206 Partial Content", content[int(first) : int(last) + 1]
            writer.write(f'HTTP/1.1 {status}\r\nContent-Length: {len(part)}\r\nETag: "x"\r\n'.encode())
            writer.write(b"Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n" + (part if method == "GET" else b""))
            await writer.drain()


async def serve(latency_s: float) -> None:
    server = await asyncio.start_server(lambda r, w: answer(r, w, latency_s), "127.0.0.1", 0, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)  # connections that are open would be complained of


@contextlib.contextmanager
def store(latency_ms: float) -> Iterator[None]:
    command = [sys.executable, __file__, "--serve", str(latency_ms / 1000)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        assert process.stdout
        endpoint = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{process.stdout.readline().strip()}"}
        try:
            with mock.patch.dict(os.environ, {**_ENVIRONMENT, **endpoint}):
                yield
        finally:
            process.communicate("")


def shard_seconds(rows: list[Utterance], extractor: FeatureExtractor) -> float:
    with tempfile.TemporaryDirectory() as output:
        began = time.monotonic()
        done = write_shard(output, ShardTask("train", 0, 1, 0, "00000000"), rows, extractor, ("speech",))
        seconds = time.monotonic() - began
    if done["rejected"]:
        raise SystemExit(f"recordings were rejected: {done['ledger'][0]}")
    return seconds


def on_store(row: Utterance) -> Utterance:
    copy, path = row.utterance_id.rpartition("-")[2], str(Path(row.audio_path).resolve())
    return row._replace(audio_path=f"s3://speech/{copy}{quote(path)}")


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    @contextlib.contextmanager
    def reading(order: list[str]) -> Iterator[object]:
        yield lambda location: recordings.open_source(location).read()

    with mock.patch.object(recordings, "reading", reading):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", nargs="?")
    parser.add_argument("--latency_ms", type=float, nargs="+", default=[0, 50, 100])
    parser.add_argument("--times", type=int, default=4, help="how often the manifest's rows are repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        asyncio.run(serve(args.serve))
        return
    with Path(args.manifest).open("rb") as stream:
        read = [row for row in read_rows(stream, str(Path(args.manifest).absolute())) if isinstance(row, Utterance)]
    rows = [
        # Under a path of its own, else a copy would be taken from the recording that was just decoded.
        row._replace(
            utterance_id=f"{row.utterance_id}-{copy}",
            audio_path="/." * copy + str(Path(row.location).resolve()),
            source="speech",
        )
        for copy in range(args.times)
        for row in read
    ]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    times = measure(rows, args.latency_ms, args.rounds)
    base = statistics.median(times["local files"])
    print(f"{len(rows)} recordings\n\n| audio from | s | recordings a second | against local files |")
    print("|---|---|---|---|")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"| {name} | {median:.2f} | {len(rows) / median:.0f} | {base / median:.2f} |")
    if args.json:
        args.json.write_text(json.dumps({"recordings": len(rows), "seconds": times}, indent=1))


def measure(rows: list[Utterance], latencies_ms: list[float], rounds: int) -> dict[str, list[float]]:
    extractor = FeatureExtractor(PRESETS["ge2e"])
    times: dict[str, list[float]] = {}
    shard_seconds(rows[:20], extractor)  # what is loaded at first use
    remote = [on_store(row) for row in rows]
    for _ in range(rounds):
        times.setdefault("local files", []).append(shard_seconds(rows, extractor))
        for latency in latencies_ms:
            with store(latency):
                times.setdefault(f"store, {latency:g} ms", []).append(shard_seconds(remote, extractor))
        if latencies_ms:
            with store(latencies_ms[-1]), one_at_a_time():
                few = read_few(remote)
                seconds = shard_seconds(few, extractor) * len(remote) / len(few)
            times.setdefault(f"store, {latencies_ms[-1]:g} ms, one at a time", []).append(seconds)
    return times


def read_few(rows: list[Utterance]) -> list[Utterance]:
    """A tenth: one at a time takes long, and every recording takes alike."""
    return rows[: max(1, len(rows) // 10)]


if __name__ == "__main__":
    main()
