"""Opens local files that came by their name from elsewhere: what is no regular file is refused and never waited for.

Opening a named pipe waits for its writer, opening a device may act on it, and neither has an end. It must not know what
is in a file.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

# Numbers of errors that say there is no such file, and all that no second try would mend.
MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
NEVER_READABLE = MISSING | {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV}
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: str) -> BinaryIO:
    """A regular file, or one that links lead to, for reading.

    Raises:
        IsADirectoryError: it is a directory.
        OSError: of number ENODEV for a device, a pipe or a socket; others as `open` has them.
        ValueError: no file can have this name.
    """
    _refuse(path, os.stat(path))  # noqa: PTH116 (Path leaves out '.' and '//', which errors should show)
    # The name may be of something else by now. What was opened is looked at again, and opening does not wait for it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _refuse(path, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _refuse(path: str, status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if kind != stat.S_IFREG:
        raise OSError(errno.ENODEV, f"{_KINDS.get(kind, 'no regular file')}, expected a regular file", path)
