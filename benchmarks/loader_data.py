"""The same 40,000 windows in the format of each contestant of `loader.py`, written once into one folder.

Windows are float32 `[121, 40]` of noise (so no compression helps anyone), 400 speakers x 100, sorted by speaker. Every
format has 16 files and is stored without compression.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import mmap
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
SPEAKERS, PER_SPEAKER = 400, 100
SHARDS = 16
SHAPE = (121, 40)
N, M = 64, 10
BATCH = N * M
_FSYNC_DONE = "complete"

Window = npt.NDArray[np.float32]


def speakers() -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """(name, windows `[100, 121, 40]`) in sorted order, the same at every call."""
    for number in range(SPEAKERS):
        draws = np.random.default_rng(number)
        yield f"speaker-{number:04d}", draws.standard_normal((PER_SPEAKER, *SHAPE), dtype=np.float32)


def shards() -> Iterator[tuple[int, Iterator[tuple[str, Window]]]]:
    """(number, its windows under a name each) of every shard."""
    every = speakers()
    for number, part in enumerate(np.array_split(np.arange(SPEAKERS), SHARDS)):
        yield number, _windows([next(every) for _ in part])


def _windows(part: list[tuple[str, npt.NDArray[np.float32]]]) -> Iterator[tuple[str, Window]]:
    return ((f"{name}-{number:03d}", window) for name, windows in part for number, window in enumerate(windows))


def write_ours(folder: Path) -> None:
    """A dataset folder as `ge2e run` writes it, by the helper that the tests use."""
    from ge2e_transforms.config import PRESETS

    train = {name: [[window] for window in windows] for name, windows in speakers()}
    import_small_dataset().write_dataset(folder, {"train": train}, PRESETS["seed"], SHARDS, N, M)


def import_small_dataset() -> ModuleType:
    """The tests' module that writes dataset folders."""
    tests = str(HERE.parent / "tests")
    if tests not in sys.path:
        sys.path.insert(0, tests)
    return importlib.import_module("small_dataset")


def write_array_record(folder: Path) -> None:
    """Groups of one record, as its documentation asks for where reads are random."""
    from array_record.python.array_record_module import ArrayRecordWriter

    for number, windows in shards():
        writer = ArrayRecordWriter(str(folder / f"windows-{number:05d}.array_record"), "group_size:1,uncompressed")
        for _, window in windows:
            writer.write(window.tobytes())
        writer.close()


def write_webdataset(folder: Path) -> None:
    """Raw values under the ending `f32`: nothing to decode. Plain ustar headers, one a sample."""
    for number, windows in shards():
        with tarfile.open(folder / f"windows-{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, window in windows:
                entry = tarfile.TarInfo(f"{name}.f32")
                entry.size = window.nbytes
                tar.addfile(entry, io.BytesIO(window.tobytes()))


def write_mds(folder: Path) -> None:
    """One column of raw bytes (measured: a third less time a sample than `ndarray:float32:121,40`). No hashes."""
    from streaming import MDSWriter

    size = SPEAKERS * PER_SPEAKER * SHAPE[0] * SHAPE[1] * 4 // SHARDS
    with MDSWriter(out=str(folder), columns={"window": "bytes"}, size_limit=size + (1 << 20)) as writer:
        for _, windows in shards():
            for _, window in windows:
                writer.write({"window": window.tobytes()})


FORMATS: dict[str, Callable[[Path], None]] = {
    "ours": write_ours,
    "array_record": write_array_record,
    "webdataset": write_webdataset,
    "mds": write_mds,
}


def prepare(data: Path, name: str) -> Path:
    """The folder of a format, written if it is not there yet, and on the disk."""
    folder, mark = data / name, data / f"{name}.{_FSYNC_DONE}"
    if not mark.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        FORMATS[name](folder)
        for path in files(folder):
            _fsync(path)
        mark.touch()
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps every file in the page cache meanwhile: some systems take back pages that were not used for seconds.

    Where the system forbids locking so much memory, files are read once and may go again: the disk reads of a run,
    which stand in the results, tell.
    """
    with contextlib.ExitStack() as stack:
        for path in files(folder):
            size = path.stat().st_size
            if size and not _lock(path, size, stack):
                path.read_bytes()
        yield


def _lock(path: Path, size: int, stack: contextlib.ExitStack) -> bool:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mlock.argtypes = libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    with path.open("rb") as stream:
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, stream.fileno(), 0)
    if address == ctypes.c_void_p(-1).value:
        return False
    stack.callback(libc.munmap, address, size)
    return bool(libc.mlock(address, size) == 0)


def drop(folder: Path) -> None:
    """Takes every file out of the page cache. Only pages that are on the disk can go: see `prepare`."""
    for path in files(folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
