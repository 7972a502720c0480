"""Real speech through a real Flink cluster: the same dataset as in process, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import NamedTuple

import augmented
import pytest
import synth
from jobs import content_of, counters, data_digests, done_files, pids, run_here, stamps, unlisted

from deploy.flink.cluster import HERE, Cluster, ClusterError, Parts
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import digest
from pipeline import metrics, progress
from pipeline.__main__ import main
from pipeline.main import RunResult

# Small shards: at least 32 of them in all.
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


def run_there(flink: Cluster, manifest: Path, out: Path, *flags: str) -> RunResult:
    return run_here(manifest, out, *FLAGS, *flags, "--runner=FlinkRunner", "--", *flink.flags)


def check_same(out: Path, baseline: Path) -> None:
    assert digest(Dataset.open(out)) == digest(Dataset.open(baseline))
    assert data_digests(out) == data_digests(baseline)
    assert content_of(out) == content_of(baseline)
    assert unlisted(out) == set()


def writers(out: Path) -> dict[Path, int]:
    """Done files, and the process that wrote each."""
    contents = {path: json.loads(path.read_text()) for path in done_files(out)}
    return {path: int(content["written_by"].rpartition(":")[2]) for path, content in contents.items()}


def files_of(done: Iterable[Path]) -> list[Path]:
    endings = (".tfrecord", ".index.parquet", ".done.json")
    return [path.with_name(path.name.replace(".done.json", ending)) for path in done for ending in endings]


class Survived(NamedTuple):
    """A job that was disturbed in its middle.

    Attributes:
        adopted, written: shards that the job's last attempts found done, and wrote, by its counters.
        before: done files just before the disturbance, and who had written them.
        after: the same after the job.
    """

    adopted: int
    written: int
    before: dict[Path, int]
    after: dict[Path, int]


def run_and_kill(
    flink: Cluster, manifest: Path, out: Path, shards: int, kill: Callable[[dict[Path, int]], None]
) -> Survived:
    """Runs the job and kills something as soon as a third of its shards is done; checks that these are kept."""
    ended = Event()

    def watch() -> tuple[dict[Path, int], dict[str, tuple[int, int]]]:
        while len(done_files(out)) * 3 < shards:
            assert not ended.wait(0.005), "the job ended before a third of its shards was done"
        done = writers(out)
        assert len(done) < shards
        seen = stamps(files_of(done))
        kill(done)
        return done, seen

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            result = run_there(flink, manifest, out)
        finally:
            ended.set()
        before, seen = watching.result()
    # The files of shards that were done are the very same: nobody made them again.
    assert stamps(map(Path, seen)) == seen
    found = counters(result.pipeline_result)
    return Survived(found[metrics.SHARDS_ADOPTED], found[metrics.SHARDS_WRITTEN], before, writers(out))


def test_real_speech_by_two_workers(
    flink: Cluster,
    baseline: Path,
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    result = run_there(flink, manifest, tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ge2e: ")]
    assert re.fullmatch(r"ge2e: [\d,]+ of 311 rows, \d+ of \d+ shards, [\d,]+ x real time, 0 rejected.*", lines[-1])
    check_same(tmp_path, baseline)
    assert len(pids(tmp_path)) == 2
    assert os.getpid() not in pids(tmp_path)
    found = counters(result.pipeline_result)
    assert found[metrics.SHARDS_WRITTEN] == len(done_files(baseline))
    assert found[metrics.UTTERANCES_WRITTEN] == 311


def test_copies_of_utterances_are_the_same(flink: Cluster, tmp_path: Path) -> None:
    manifest = synth.small_corpus(tmp_path / "corpus", 6, 1, 1.2)
    augment = ("--augment", str(augmented.sounds(tmp_path)))
    run_there(flink, manifest, tmp_path / "there", *augment)
    run_here(manifest, tmp_path / "here", *FLAGS, *augment)
    check_same(tmp_path / "there", tmp_path / "here")
    assert Dataset.open(tmp_path / "there").metadata["counts"]["copies"] == 6 * 2 * 6


def test_a_killed_worker(flink: Cluster, baseline: Path, manifest: Path, tmp_path: Path) -> None:
    victims = []

    def kill(done: dict[Path, int]) -> None:
        victims.append(list(done.values())[-1])
        if sys.platform == "linux":  # boot started it, as it does in a container
            parent = Path(f"/proc/{victims[0]}/stat").read_text().rpartition(")")[2].split()[1]
            assert Path(f"/proc/{parent}/exe").resolve() == flink.boot.resolve()
        os.kill(victims[0], signal.SIGKILL)

    shards = len(done_files(baseline))
    job = run_and_kill(flink, manifest, tmp_path, shards, kill)
    check_same(tmp_path, baseline)
    # What the dead worker had to do was done again from its first shard on: by adoption, as far as it had come.
    assert list(job.before.values()).count(victims[0]) <= job.adopted < shards
    assert job.adopted + job.written == shards


def test_a_killed_task_manager(flink: Cluster, baseline: Path, manifest: Path, tmp_path: Path) -> None:
    def kill(_: dict[Path, int]) -> None:
        flink.task_manager.kill()
        flink.start_task_manager(wait=False)

    shards = len(done_files(baseline))
    job = run_and_kill(flink, manifest, tmp_path, shards, kill)
    check_same(tmp_path, baseline)
    # Its workers are gone with it; those of the new one went through all shards again.
    assert len(job.before) <= job.adopted < shards
    assert job.adopted + job.written == shards
    assert set(job.after.values()) > set(job.before.values())


def test_ctrl_c_ends_the_job(
    flink: Cluster, baseline: Path, manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Beam's job server took the request to cancel, and the cluster went on with the job, and published it."""

    def kill(_: dict[Path, int]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_and_kill(flink, manifest, tmp_path, len(done_files(baseline)), kill)
    assert "the job was cancelled" in caplog.text
    (verdict,) = tmp_path.glob("failed-*.json")
    assert json.loads(verdict.read_text())["error"] == "StoppedError"
    job, state = "", "RUNNING"
    while state == "RUNNING":
        with urllib.request.urlopen(f"{flink.address}/jobs/overview", timeout=30) as answer:
            last = max(json.load(answer)["jobs"], key=lambda job: job["start-time"])
        job, state = last["jid"], last["state"]
    assert state in ("FAILING", "RESTARTING", "FAILED")
    request = urllib.request.Request(f"{flink.address}/jobs/{job}?mode=cancel", method="PATCH")
    with urllib.request.urlopen(request, timeout=30):  # which does not have to try ten times
        pass
    assert not (tmp_path / "metadata.json").exists()


def test_a_part_that_does_not_start_is_named_and_nothing_stays(flink: Cluster, tmp_path: Path) -> None:
    (tmp_path / "flink").mkdir()
    broken = Cluster(tmp_path / "cluster", Parts(tmp_path, flink.boot))
    with (
        pytest.raises(
            ClusterError,
            match=r"(?s)ended with status 1; the end of .*log:\n.*ClassNotFoundException",
        ),
        broken,
    ):
        pass
    assert broken.running() == []


@pytest.mark.parametrize(
    ("environment", "message"),
    [({"PATH": "/bin"}, "no Java on PATH"), ({"GE2E_FLINK": "/no/such"}, "GE2E_FLINK=/no/such is no folder")],
)
def test_what_is_missing_is_said(environment: dict[str, str], message: str, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "cksum", "cut", "dirname", "env"):
        (programs / name).symlink_to(shutil.which(name) or name)
    if "PATH" in environment:
        environment = {"PATH": str(programs)}
    result = subprocess.run([HERE / "install.sh"], env={**os.environ, **environment}, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert message in result.stderr
