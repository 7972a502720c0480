"""Faults of a disk, injected into what Python does with files below a folder: counted, failed, and told apart by name.

Real files and real buffers: only the system's answers are replaced. What pyarrow writes goes through Python files too.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

_TOKEN = re.compile(r"\.tmp-.*|ge2e-\w+")
# Functions of `os` whose first argument is a path, or a descriptor that `os.open` gave.
_CALLS = ("stat", "open", "fsync", "replace", "unlink", "mkdir", "rmdir", "listdir", "fstat", "pread")


class Operation(NamedTuple):
    """One request to the system: what, and of which file (temporary names without what makes them unique)."""

    call: str
    name: str


class Faults:
    """What is done below some folders, in order; one of it fails, once or from then on.

    Attributes:
        operations: all that was asked for.
    """

    def __init__(self, *folders: Path) -> None:
        self._folders = tuple(map(str, folders))
        self.reset()

    def reset(self) -> None:
        self.operations: list[Operation] = []
        self._at, self._error, self._stays, self._short = -1, 0, False, False
        self._failing: Operation | None = None
        self._failed: set[Operation] | None = None

    def fail(self, at: int, error: int, *, stays: bool = False, short: bool = False) -> None:
        """Fails operation `at`, counted from 0; if it stays, then all of the same file and kind that follow too.

        A short write takes half of the bytes first.
        """
        self.reset()
        self._at, self._error, self._stays, self._short = at, error, stays, short

    def fail_each_once(self, error: int) -> None:
        """Every operation fails when it is first asked for."""
        self.reset()
        self._error, self._failed = error, set()

    def asked(self, call: str, path: object) -> bool:
        """Whether a write is to be cut short; raises where the operation is to fail."""
        text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
        if not isinstance(text, str) or not text.startswith(self._folders):
            return False
        operation = Operation(call, _TOKEN.sub("", text))
        self.operations.append(operation)
        if self._failed is not None:
            if operation in self._failed:
                return False
            self._failed.add(operation)
        elif len(self.operations) - 1 == self._at:
            self._failing = operation
            if self._short and call == "write":
                return True
        elif not (self._stays and operation == self._failing):
            return False
        raise OSError(self._error, os.strerror(self._error), text)


class _File(io.FileIO):
    def __init__(self, path: Any, mode: str, faults: Faults) -> None:
        self._path, self._faults = path, faults
        faults.asked("open", path)
        super().__init__(path, mode)

    def readinto(self, buffer: Any) -> int | None:
        self._faults.asked("read", self._path)
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self._faults.asked("read", self._path)
        return super().readall()

    def write(self, content: Any) -> int | None:
        if self._faults.asked("write", self._path):
            return super().write(memoryview(content)[: max(1, len(content) // 2)])
        return super().write(content)

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        if "w" in self.mode or "+" in self.mode:
            self._faults.asked("close", self._path)


@contextlib.contextmanager
def injected(*folders: Path) -> Iterator[Faults]:
    """Puts `Faults` between Python and these folders."""
    faults, descriptors = Faults(*folders), dict[int, str]()
    with pytest.MonkeyPatch.context() as patch:
        # What a test writes need not survive the machine, and waiting for the disk would take most of the time.
        patch.setattr(os, "fsync", lambda descriptor: None)
        for name in _CALLS:
            patch.setattr(os, name, _counted(name, getattr(os, name), faults, descriptors))
        really_open = io.open

        def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
            if "b" not in mode or not str(file).startswith(faults._folders):
                return really_open(file, mode, buffering, *rest, **named)
            raw = _File(file, mode.replace("b", ""), faults)
            if not buffering:
                return raw
            return io.BufferedReader(raw) if "r" in mode else io.BufferedWriter(raw)

        patch.setattr(io, "open", opened)
        yield faults


def _counted(name: str, really: Callable[..., Any], faults: Faults, descriptors: dict[int, str]) -> Callable[..., Any]:
    def call(path: Any, *arguments: Any, **named: Any) -> Any:
        faults.asked(name, descriptors.get(path, path) if isinstance(path, int) else path)
        result = really(path, *arguments, **named)
        if name == "open":
            descriptors[result] = str(path)
        return result

    return call
