"""`ge2e download` against a server on loopback: resumed, checked, unpacked whole or not at all."""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import shutil
import tarfile
import threading
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ge2e_transforms.corpora import librispeech
from ge2e_transforms.errors import DownloadError
from pipeline import download
from pipeline.commands import download as command

NAME = "dev-clean"


class Server(ThreadingHTTPServer):
    """Serves one archive at `/dev-clean.tar.gz`.

    Attributes:
        content: of the archive.
        ranges: whether Range is known here.
        cut: bytes after which each answer ends, though more was announced; one number for each answer, then none.
        asked: the Range of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = b""
        self.ranges = True
        self.announced = True
        self.cut: list[int] = []
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Answers as a mirror of the corpus does, and as it may do wrong."""

    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.path != f"/{NAME}.tar.gz":
            self.send_error(404)
            return
        content, start = self.server.content, 0
        if asked and self.server.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if self.server.announced:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + self.server.cut.pop(0) if self.server.cut else len(content)
        self.wfile.write(content[start:end])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "_PAUSES_S", (0.0, 0.0))
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        serve(running, monkeypatch, packed({"LibriSpeech/SPEAKERS.TXT": b"ids", AUDIO: bytes(range(256)) * 1200}))
        yield running
        running.shutdown()
        thread.join()


AUDIO = "LibriSpeech/dev-clean/84/121123/84-121123-0000.flac"


def packed(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=0) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def serve(server: Server, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    server.content = content
    monkeypatch.setitem(download.LIBRISPEECH_MD5, NAME, hashlib.md5(content).hexdigest())


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_fetched_checked_and_unpacked(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    folder = tmp_path / "my corpora"
    arguments = ["librispeech", "--subset", NAME, "-o", str(folder), "--url", server.url + "/"]
    args = parser.parse_args(arguments)
    assert args.command(args) == 0
    assert names(folder) == ["LibriSpeech/SPEAKERS.TXT", AUDIO]
    assert (folder / AUDIO).read_bytes() == bytes(range(256)) * 1200
    told = capsys.readouterr().out
    assert told.splitlines() == [
        f"{folder}/LibriSpeech/dev-clean: complete",
        f"next: ge2e manifest librispeech '{folder}/LibriSpeech' -o librispeech.csv",
    ]
    assert [row.split for row in librispeech(folder / "LibriSpeech")] == ["valid"]
    # What is there is not asked for again.
    assert args.command(args) == 0
    assert server.asked == [None]


def test_the_archive_is_kept_on_demand(server: Server, tmp_path: Path) -> None:
    download.librispeech(NAME, tmp_path, server.url, keep=True)
    assert (tmp_path / "dev-clean.tar.gz").read_bytes() == server.content
    shutil.rmtree(tmp_path / "LibriSpeech")
    download.librispeech(NAME, tmp_path, server.url)
    assert server.asked == [None]
    assert names(tmp_path) == ["LibriSpeech/SPEAKERS.TXT", AUDIO]


def test_a_connection_that_is_cut_off_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cut = [65536, 150_000]
    download.librispeech(NAME, tmp_path, server.url)
    assert server.asked == [None, "bytes=65536-", f"bytes={3 * 65536}-"]
    assert (tmp_path / AUDIO).is_file()


def test_the_next_command_resumes_too(server: Server, tmp_path: Path) -> None:
    server.cut = [70_000, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"cannot be fetched .*the same command goes on after what is there"):
        download.librispeech(NAME, tmp_path, server.url)
    assert names(tmp_path) == ["dev-clean.tar.gz.part"]
    download.librispeech(NAME, tmp_path, server.url)
    assert server.asked[-1] == "bytes=65536-"
    assert (tmp_path / AUDIO).is_file()


def test_a_server_that_knows_no_ranges_begins_anew(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cut = [70_000]
    download.librispeech(NAME, tmp_path, server.url)
    assert server.asked == [None, "bytes=65536-"]
    assert (tmp_path / AUDIO).is_file()


def test_a_part_that_is_whole_is_only_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "dev-clean.tar.gz.part").write_bytes(server.content)
    download.librispeech(NAME, tmp_path, server.url)
    assert server.asked == [f"bytes={len(server.content)}-"]
    assert (tmp_path / AUDIO).is_file()


def test_a_part_that_is_longer_than_the_file_is_given_up(server: Server, tmp_path: Path) -> None:
    (tmp_path / "dev-clean.tar.gz.part").write_bytes(server.content + b"more")
    download.librispeech(NAME, tmp_path, server.url)
    assert server.asked[-1] is None
    assert (tmp_path / AUDIO).is_file()


def test_a_wrong_checksum(server: Server, tmp_path: Path) -> None:
    right = download.LIBRISPEECH_MD5[NAME]
    server.content = b"x" + server.content[1:]
    wrong = hashlib.md5(server.content).hexdigest()
    with pytest.raises(DownloadError, match=f"bytes of md5 {wrong}, expected md5 {right}: it was removed"):
        download.librispeech(NAME, tmp_path, server.url)
    assert names(tmp_path) == []


def test_an_archive_of_another_checksum_is_told_too(server: Server, tmp_path: Path) -> None:
    (tmp_path / "dev-clean.tar.gz").write_bytes(b"other")
    with pytest.raises(DownloadError, match="5 bytes of md5"):
        download.librispeech(NAME, tmp_path, server.url)
    assert server.asked == []


def test_refusals_of_a_server(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"/no/dev-clean\.tar\.gz: the server answered 404 Not Found: check the ad"):
        download.librispeech(NAME, tmp_path, f"{server.url}/no")
    server.announced = False
    with pytest.raises(DownloadError, match="the server does not say how long it is"):
        download.librispeech(NAME, tmp_path, server.url)
    with pytest.raises(DownloadError, match="cannot be fetched: No connection adapters"):
        download.librispeech(NAME, tmp_path, "ftp://127.0.0.1")
    assert names(tmp_path) == []


def test_nobody_answers(server: Server, tmp_path: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match="check the network"):
        download.librispeech(NAME, tmp_path, server.url)


@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/outside.txt", "LibriSpeech/dev-clean/../../../outside.txt"])
def test_members_that_lead_out(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    serve(server, monkeypatch, packed({AUDIO: b"audio", name: b"outside"}))
    folder = tmp_path / "corpora"
    if name.startswith("/"):  # the leading '/' means nothing in an archive: it stays within
        download.librispeech(NAME, folder, server.url)
        assert names(folder) == [AUDIO]
    else:
        with pytest.raises(
            DownloadError, match=r"cannot be unpacked .*outside the destination.*nothing of it was kept"
        ):
            download.librispeech(NAME, folder, server.url)
        assert names(folder) == ["dev-clean.tar.gz"]
    assert not list(tmp_path.rglob("outside.txt"))


def test_an_archive_of_something_else(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content, message in [
        (packed({"other/a.flac": b"audio"}), "holds no LibriSpeech/dev-clean"),
        (b"no archive at all", "cannot be unpacked"),
        (server.content[:150_000], "cannot be unpacked"),
    ]:
        serve(server, monkeypatch, content)
        folder = tmp_path / hashlib.md5(content).hexdigest()
        with pytest.raises(DownloadError, match=message):
            download.librispeech(NAME, folder, server.url)
        assert names(folder) == ["dev-clean.tar.gz"]


def test_room_is_looked_for_first(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    needed = len(server.content) + int(len(server.content) * 1.1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(needed - 1))
    with pytest.raises(DownloadError, match=r"has 0\.0 GB free: expected 0\.0 GB for the archive and what is unpacked"):
        download.librispeech(NAME, tmp_path, server.url)
    assert names(tmp_path) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(needed))
    download.librispeech(NAME, tmp_path, server.url)


def test_the_table_names_the_seven_archives() -> None:
    assert sorted(download.LIBRISPEECH_MD5) == [
        *("dev-clean", "dev-other", "test-clean", "test-other"),
        *("train-clean-100", "train-clean-360", "train-other-500"),
    ]
    assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in download.LIBRISPEECH_MD5.values())
    assert len(set(download.LIBRISPEECH_MD5.values())) == 7


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    for arguments in (["-o", "x"], ["--subset", "dev-dirty", "-o", "x"], ["--subset", NAME]):
        with pytest.raises(SystemExit):
            parser.parse_args(["librispeech", *arguments])
    assert "invalid choice: 'dev-dirty'" in capsys.readouterr().err
