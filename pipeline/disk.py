"""The local disk: what is tried again when it fails, and what is said then.

Content is bytes, pauses are seconds. It must not know stores, nor Beam.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from ge2e_transforms import schema
from ge2e_transforms.errors import DiskError, StorageError
from ge2e_transforms.regular_files import NEVER_READABLE, open_regular

# What a second try may mend, and the pauses before each; and what none does.
_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)
_PAUSES_S = (1.0, 5.0)
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, *NEVER_READABLE)
_T = TypeVar("_T")


def named(error: OSError, path: str, action: str) -> OSError:
    """What to say of a local file that cannot be read or written: `StorageError`, or `DiskError` if that may pass."""
    step = schema.role(path)
    words = f"{step}{': ' if step else ''}{path} cannot be {action} ({error.strerror or error})"
    again = "run the same command again; finished shards are kept"
    if error.errno not in _REFUSED:
        return DiskError(f"{words}, when tried again too: check the disk, or the network it is on, and {again}")
    if action in ("read", "looked up"):
        return StorageError(f"{words}: expected what you may read; mend its permissions and {again}")
    folder = (
        str(Path(path).parent) if "://" not in path else f"the folder for temporary files ({tempfile.gettempdir()})"
    )
    return StorageError(f"{words}: make room in {folder}, or mend its permissions, and {again}")


def patiently(call: Callable[[], _T], path: str, action: str) -> _T:
    """`call`, again after a failure that may pass; only for what a second call does not do twice.

    Raises:
        FileNotFoundError, NotADirectoryError: as `call`.
        StorageError, DiskError: for any other OSError.
    """
    try:
        return retried(call)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise named(error, path, action) from error


def retried(call: Callable[[], _T]) -> _T:
    """As `patiently`, but an error stays as it is."""
    pauses = iter(_PAUSES_S)
    while True:
        try:
            return call()
        except OSError as error:
            pause = next(pauses, None)
            if pause is None or error.errno not in _PASSING:
                raise
            time.sleep(pause)


class PatientFile(io.RawIOBase):
    """A local file to read; a read that failed is tried again from where it began."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: Any = patiently(lambda: cast(io.BufferedReader, open_regular(path)).detach(), path, "read")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        return patiently(lambda: int(self._file.readinto(buffer)), self._path, "read")

    def readall(self) -> bytes:
        start = self.tell()
        return patiently(lambda: bytes(self._file.seek(start) or self._file.readall()), self._path, "read")

    def close(self) -> None:
        with contextlib.suppress(OSError):  # nothing can be lost by it
            self._file.close()
        super().close()


def write_whole(path: Path, content: bytes) -> None:
    """A file for people, whole or not at all, with the permissions that a new file has; raises OSError as it comes."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".ge2e-", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            file.flush()
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
