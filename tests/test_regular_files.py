"""Local files that are never waited for: what is opened, and what is refused before and after it is opened."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from ge2e_transforms import regular_files
from ge2e_transforms.errors import UnreadableAudioError
from ge2e_transforms.regular_files import open_regular
from pipeline import recordings


def test_regular_files_and_links_to_them(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"audio")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        with open_regular(f"{tmp_path}/{name}") as file:
            assert file.read() == b"audio"


def open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def special(folder: Path, kind: str) -> str:
    """A file of some kind that is none to read."""
    path = folder / "a.wav"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to("b.wav")
        (folder / "b.wav").symlink_to("a.wav")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(path))
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "vanished":
        path.symlink_to("gone.wav")
    return kind if kind.startswith("/") else str(path)


# A number that no process can have open: 99, which was here, is somebody's in a process that ran many tests before.
NO_DESCRIPTOR = "/dev/fd/4294967295/x"
KINDS = {
    "pipe": (errno.ENODEV, "a pipe, expected a regular file"),
    "socket": (errno.ENODEV, "a socket, expected a regular file"),
    "link to a device": (errno.ENODEV, "a device, expected a regular file"),
    "/dev/zero": (errno.ENODEV, "a device, expected a regular file"),
    "folder": (errno.EISDIR, "Is a directory"),
    "loop": (errno.ELOOP, "Too many levels of symbolic links"),
    "vanished": (errno.ENOENT, "No such file or directory"),
    NO_DESCRIPTOR: (errno.ENOENT, "No such file or directory"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_none_is_refused_without_being_opened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = special(tmp_path, kind)
    opened: list[str] = []
    monkeypatch.setattr(regular_files.os, "open", lambda name, *_: opened.append(name))
    with pytest.raises(OSError, match=KINDS[kind][1]) as caught:
        open_regular(path)
    assert caught.value.errno == KINDS[kind][0]
    assert opened == []


def test_standard_input_is_no_file() -> None:
    ours, theirs = os.pipe()
    with os.fdopen(ours), os.fdopen(theirs, "w"), pytest.raises(OSError, match="a pipe, expected a regular file"):
        open_regular(f"/dev/fd/{ours}")


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the name and the opening another one may be put in its place."""
    os.mkfifo(tmp_path / "a.wav")
    (tmp_path / "file").write_bytes(b"x")
    file = (tmp_path / "file").stat()
    monkeypatch.setattr(regular_files.os, "stat", lambda _: file)
    before = open_files()
    raised: list[Any] = []

    def read() -> None:
        try:
            open_regular(str(tmp_path / "a.wav"))
        except OSError as error:
            raised.append(error.errno)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(30)
    assert raised == [errno.ENODEV]
    assert open_files() == before


@pytest.mark.parametrize("kind", ["pipe", "socket", "link to a device", "folder", "loop"])
def test_archives_that_are_no_files_are_the_rows_fault(kind: str, tmp_path: Path) -> None:
    """A link that leads to itself ended the job."""
    special(tmp_path, kind)
    (tmp_path / "a.wav").rename(tmp_path / "a.tar") if kind != "loop" else (tmp_path / "a.tar").symlink_to("a.wav")
    with pytest.raises(UnreadableAudioError, match=r"a\.tar \(.*\): expected a file that may be read"):
        recordings.open_source(f"{tmp_path}/a.tar#x.wav")


def test_a_name_with_slashes_after_a_colon_is_a_path(tmp_path: Path) -> None:
    """It was handed to Beam, which takes it for a path too and reads a device without end."""
    with recordings.reading(["/x://../../dev/zero"]) as source:
        assert source("/x://../../dev/zero") == "/x://../../dev/zero"
