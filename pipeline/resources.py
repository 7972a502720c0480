"""What a machine, or the container on it, has left: memory, disk, and the name of its processor.

Sizes are bytes. It must not know what they are needed for.
"""

from __future__ import annotations

import functools
import platform
import shutil
from pathlib import Path

_SYSTEM = Path("/")
# Limit and use of a control group, version 2 then 1, and the part of the use that is page cache to be given back.
_GROUPS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(root: Path = _SYSTEM) -> int | None:
    """Bytes that a process can still have: what the system has available, or less if its container allows less.

    None where the system does not tell (macOS).
    """
    found = [_available(root), *(_left(root / path, *names) for path, *names in _GROUPS)]
    return min((value for value in found if value is not None), default=None)


def _available(root: Path) -> int | None:
    kib = _field(root / "proc/meminfo", "MemAvailable:")
    return None if kib is None else 1024 * kib


def _left(folder: Path, limit: str, use: str, cache: str) -> int | None:
    try:
        most, used = int((folder / limit).read_text()), int((folder / use).read_text())
    except (OSError, ValueError):  # no such group, or 'max'
        return None
    return max(0, most - used + (_field(folder / "memory.stat", cache) or 0))


def _field(path: Path, name: str) -> int | None:
    """The number behind a name in a file of such lines."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    return next((int(line[1]) for line in lines if line[:1] == [name]), None)


def free_disk(folder: str) -> int:
    """Bytes that may be written in a folder, or in the nearest folder above it that is there."""
    path = Path(folder).absolute()
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free


@functools.cache
def cpu_name() -> str:
    """Name of the processor, as well as the system tells it."""
    information = _SYSTEM / "proc/cpuinfo"
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
