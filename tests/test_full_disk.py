"""A disk that is really full in the middle of a whole job: told, nothing lost, and gone on with once there is room."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jobs import LIMIT_S, ROOT, command, done_files, job, unlisted, write_all
from synth import small_corpus

from ge2e_transforms.config import PRESETS
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import digest
from ge2e_transforms.verify import verify
from pipeline.__main__ import main
from pipeline.commit import commit

KIB, LARGE_KIB = 1024, 16_384
FLAGS = ("--overwrite", "--features", "raw", "--direct_num_workers=1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"), speakers=4, utterances=3, seconds=1.5)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """A file system in memory, and a function that leaves so many KiB of room on it."""
    mount = tmp_path / "disk"
    mount.mkdir()
    try:
        mounted(mount, f"size={LARGE_KIB}k")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"only root may mount a small disk ({error}); the test with a limit of file sizes runs everywhere")
    try:
        yield mount, lambda room: mounted(mount, f"remount,size={used_kib(mount) + room}k")
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


def mounted(path: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "ge2e-test", path], check=True, capture_output=True)


def used_kib(path: Path) -> int:
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize // KIB


def made(output: Path, corpus: Path, *, overwrite: bool = False, **settings: object) -> str:
    """A dataset made without Beam; its digest."""
    config = job(output, corpus, recipe=PRESETS["ge2e"].replace(features="raw", **settings), overwrite=overwrite)
    planned = write_all(config)
    commit(config, planned.plan, planned.rejected)
    return digest(Dataset.open(output))


def run(output: Path, corpus: Path, limit: Callable[[], None] | None = None) -> tuple[int, str]:
    """`ge2e run --overwrite`, by a worker process if there is no limit; exit status and the last line of stderr."""
    mode = "in_memory" if limit else "multi_processing"
    # What measures coverage writes a file as well, which the limit would meet first.
    environment = {name: value for name, value in os.environ.items() if not (limit and name.startswith("COVERAGE"))}
    done = subprocess.run(
        command("run", "--manifest", corpus, "--output", output, *FLAGS, f"--direct_running_mode={mode}"),
        **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": LIMIT_S, "preexec_fn": limit},
        env=environment,
    )
    return done.returncode, (done.stderr.splitlines() or [""])[-1]


def check_whole(output: Path, expected: str) -> None:
    dataset = Dataset.open(output)
    verify(dataset)
    assert digest(dataset) == expected


def test_a_disk_that_is_full(disk: tuple[Path, Callable[[int], None]], corpus: Path, tmp_path: Path) -> None:
    mount, leave_room = disk
    output = mount / "out"
    old = made(output, corpus, min_utterance_ms=250)
    leave_room(used_kib(mount) * 2 // 5)  # for some of the four shards
    status, told = run(output, corpus)
    assert status == 1
    assert told.startswith("ge2e: StorageError: shard "), told
    assert f" of split train: {output}/train/features-" in told
    assert "cannot be written (No space left on device): make room in" in told
    assert told.endswith("and run the same command again; finished shards are kept")
    check_whole(output, old)
    kept = len(done_files(output)) - 4
    assert 1 <= kept < 4
    leave_room(LARGE_KIB)
    assert main(["run", "--manifest", str(corpus), "--output", str(output), *FLAGS]) == 0
    check_whole(output, made(tmp_path / "alone", corpus))
    assert unlisted(output) == set()


def test_a_file_that_may_not_grow(corpus: Path, tmp_path: Path) -> None:
    """As a quota of a user: any machine has this limit."""
    output = tmp_path / "out"

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    status, told = run(output, corpus, limited)
    assert status == 1
    assert "cannot be written (File too large): make room in" in told
    assert told.startswith("ge2e: StorageError: shard ")
    assert not (output / "metadata.json").exists()
    assert not done_files(output)
