"""What is left of memory and disk, with files as the system of a host or a container has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import resources

MIB = 1 << 20


def system(root: Path, **files: str) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_of_this_machine() -> None:
    memory = resources.free_memory()
    assert memory is None or memory > 0
    assert resources.free_disk("/") > 0
    assert resources.cpu_name()


def test_a_host_without_limits_has_what_the_system_has_available(tmp_path: Path) -> None:
    system(tmp_path, proc__meminfo="MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:  2048 kB\n")
    assert resources.free_memory(tmp_path) == 2 * MIB
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("5\n")
    assert resources.free_memory(tmp_path) == 2 * MIB


def test_a_container_has_no_more_than_its_limit_less_what_cannot_be_given_back(tmp_path: Path) -> None:
    system(tmp_path, proc__meminfo="MemAvailable: 1048576 kB\n")
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{100 * MIB}\n")
    (group / "memory.current").write_text(f"{90 * MIB}\n")
    assert resources.free_memory(tmp_path) == 10 * MIB
    (group / "memory.stat").write_text(f"anon 7\ninactive_file {50 * MIB}\n")
    assert resources.free_memory(tmp_path) == 60 * MIB


def test_a_container_of_the_first_version(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/memory"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(f"{64 * MIB}\n")
    (group / "memory.usage_in_bytes").write_text(f"{70 * MIB}\n")
    assert resources.free_memory(tmp_path) == 0


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    assert resources.free_memory(tmp_path) is None


def test_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resources.free_disk("not/yet/there") > 0
