"""Real speech through a real Flink cluster: the same dataset as in process, and what is killed on the way is survived."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs import (
    LIMIT_S,
    ROOT,
    command,
    counters,
    data_digests,
    done_contents,
    done_files,
    metadata_of,
    pids,
    run_here,
    stamps,
    unlisted,
)

from deploy.flink.cluster import Cluster
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import digest
from pipeline import metrics
from pipeline.__main__ import main

FLAGS = ("--shard_mib", "1")


@pytest.fixture(scope="module")
def manifest(librispeech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("manifest") / "librispeech.csv"
    assert main(["manifest", "librispeech", str(librispeech), "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def baseline(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset by one worker in this process."""
    out = tmp_path_factory.mktemp("baseline") / "out"
    run_here(manifest, out, *FLAGS)
    assert len(done_files(out)) >= 32
    return out


def check_same(out: Path, baseline: Path) -> None:
    assert digest(Dataset.open(out)) == digest(Dataset.open(baseline))
    assert data_digests(out) == data_digests(baseline)
    assert metadata_of(out) == {**metadata_of(baseline), "token": metadata_of(out)["token"]}  # names the submission
    assert unlisted(out) == set()


def test_real_speech_by_two_workers(flink: Cluster, baseline: Path, manifest: Path, tmp_path: Path) -> None:
    result = run_here(manifest, tmp_path, *FLAGS, "--runner=FlinkRunner", "--", *flink.flags)
    check_same(tmp_path, baseline)
    assert len(pids(tmp_path)) == 2
    assert os.getpid() not in pids(tmp_path)
    found = counters(result.pipeline_result)
    assert found[metrics.SHARDS_WRITTEN] == len(done_files(baseline))
    assert found[metrics.UTTERANCES_WRITTEN] == 311


@contextlib.contextmanager
def job(flink: Cluster, manifest: Path, out: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The same job as a program of its own; killed where the block ends before it does."""
    arguments = command("run", "--manifest", manifest, "--output", out, *FLAGS, "--", *flink.flags)
    with log.open("wb") as stream:
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=stream, stderr=stream)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for_a_third(process: subprocess.Popen[bytes], out: Path, shards: int) -> list[Path]:
    """Waits until a third of the shards is done, and returns the files of these shards."""
    limit = time.monotonic() + LIMIT_S
    while len(done := done_files(out)) < -(-shards // 3):
        assert process.poll() is None, "the job ended before a third of its shards was done"
        assert time.monotonic() < limit, "the job came to nothing"
        time.sleep(0.005)
    assert len(done) < shards
    endings = (".tfrecord", ".index.parquet", ".done.json")
    return [path.with_name(path.name.replace(".done.json", ending)) for path in done for ending in endings]


def check_finished(process: subprocess.Popen[bytes], log: Path, out: Path, kept: dict[str, tuple[int, int]]) -> None:
    assert process.wait(LIMIT_S) == 0, log.read_text()
    # Shards that were done are adopted: their files are the very same, and nothing was made beside them.
    assert stamps(map(Path, kept)) == kept


def written_by(content: dict[str, str]) -> int:
    return int(content["written_by"].rpartition(":")[2])


def test_a_killed_worker(flink: Cluster, baseline: Path, manifest: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    with job(flink, manifest, out, log) as process:
        kept = stamps(wait_for_a_third(process, out, len(done_files(baseline))))
        victim = written_by(done_contents(out)[-1])
        if sys.platform == "linux":
            parent = Path(f"/proc/{victim}/stat").read_text().rpartition(")")[2].split()[1]
            assert Path(f"/proc/{parent}/exe").resolve() == flink.boot.resolve()
        before = {
            path.name: written_by(content) for path, content in zip(done_files(out), done_contents(out), strict=True)
        }
        os.kill(victim, signal.SIGKILL)
        check_finished(process, log, out, kept)
    after = {path.name: written_by(content) for path, content in zip(done_files(out), done_contents(out), strict=True)}
    assert {name: pid for name, pid in after.items() if name in before} == before
    assert victim in before.values()
    check_same(out, baseline)


def test_a_killed_task_manager(flink: Cluster, baseline: Path, manifest: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    with job(flink, manifest, out, log) as process:
        kept = stamps(wait_for_a_third(process, out, len(done_files(baseline))))
        flink.task_manager.kill()
        flink.start_task_manager(wait=False)
        first = pids(out)
        check_finished(process, log, out, kept)
    # The workers of the dead one are gone with it: those of the new one did the rest, and adopted the others.
    assert pids(out) > first
    check_same(out, baseline)
