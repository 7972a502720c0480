"""`ge2e doctor` on real workers: reports of each process, real causes of what would go wrong, status and text."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import augmented
import pytest
import synth
from jobs import LIMIT_S, files_in, job, run_command, write_rows
from threadpoolctl import threadpool_limits

from ge2e_transforms import codec_samples
from ge2e_transforms.config import PRESETS
from ge2e_transforms.errors import ConfigError, DoctorError
from ge2e_transforms.selftest import recipe_digest
from pipeline import __main__ as program
from pipeline import doctor, examine, storage
from pipeline.diagnosis import diagnose, needs_of
from pipeline.doctor import Diagnosis, examine_workers

ROOT = Path(__file__).parent.parent
HERE = "--direct_num_workers=1"
JOB = job("")


def ge2e_doctor(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = program.main(["doctor", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def kinds(found: Diagnosis) -> set[str]:
    return {finding.kind for finding in found.findings} - {"note"}


def texts(found: Diagnosis, kind: str) -> str:
    return "\n".join(finding.text for finding in found.findings if finding.kind == kind)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    synth.write(folder / "a.flac", synth.speechlike(1, 1.5), 16000)
    return write_rows(folder / "m.csv", [("", "nobody"), ("a.flac", "s1"), ("gone.flac", "s2")])


@pytest.fixture(scope="module")
def two(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Diagnosis, Path]:
    """Two worker processes, and where they may write."""
    output = tmp_path_factory.mktemp("two") / "new" / "out"
    arguments = ["--manifest", str(manifest), "--output", str(output), "--set", "n_mels=64", "--direct_num_workers=2"]
    return examine_workers(arguments), output


def test_every_process_reports_once(two: tuple[Diagnosis, Path]) -> None:
    found, _ = two
    assert len({report.pid for report in found.reports}) == len(found.reports) == 2
    assert os.getpid() not in {report.pid for report in found.reports}
    assert found.program.pid == os.getpid()
    assert kinds(found) == set()
    assert found.healthy


def test_what_a_worker_reports(two: tuple[Diagnosis, Path], manifest: Path) -> None:
    for report in two[0].reports:
        assert report.faults == {}
        assert report.recipe == recipe_digest(PRESETS["ge2e"].replace(n_mels=64))
        assert (report.crc32c, report.crc32c_mb_s > 0) == ("c", True)
        assert set(report.threads.values()) == {1}
        assert all(report.codecs.values())
        assert list(report.codecs) == list(codec_samples.SAMPLES)
        assert report.heavy == []
        assert all(report.versions.values())
        assert {"python", "apache-beam", "numpy", "libsndfile", "ge2e-features"} <= report.versions.keys()
        assert report.recording == f"{manifest.parent}/a.flac, 1.50 s"
        assert min(report.memory or 1, report.temp_disk or 0, report.output_disk or 0) > 0


def test_the_output_is_left_as_it_was(two: tuple[Diagnosis, Path], tmp_path: Path) -> None:
    assert not two[1].parent.exists()
    (tmp_path / "own.txt").write_text("kept")
    examine_workers(["--output", str(tmp_path), HERE])
    assert files_in(tmp_path) == {"own.txt"}


def test_one_worker_in_memory_is_this_program(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, text, errors = ge2e_doctor(capsys, HERE, "--output", tmp_path)
    assert (status, errors) == (0, "")
    assert f":{os.getpid()} (this program)" in text
    for row in ("processor", "versions", "codecs", "crc32c", "threads", "environment", "memory left", "disk left"):
        assert f"│ {row} " in text
    assert "FLAC ok" in text
    assert "written, read and removed" in text
    assert f" {recipe_digest(PRESETS['ge2e'])[:40]}" in text
    assert text.endswith("1 worker process(es) on 1 host(s) answered: a job would do well\n")


def test_help_and_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, status in ((["--help"], 0), (["--bogus"], 2), (["--overwrite"], 2)):
        with pytest.raises(SystemExit) as stopped:
            program.main(["doctor", *arguments])
        assert stopped.value.code == status
    captured = capsys.readouterr()
    assert "ge2e doctor --manifest manifest.csv" in captured.out
    assert "ge2e doctor: error: unrecognized arguments: --bogus" in captured.err
    assert ge2e_doctor(capsys, "--set", "n_mels=none")[2].startswith("ge2e: ConfigError: n_mels='none'")
    assert "Beam knows no option --bogus" in ge2e_doctor(capsys, "--", "--bogus")[2]


# What would fail.


def test_an_output_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, text, errors = ge2e_doctor(capsys, HERE, "--output", tmp_path / "file" / "out")
    assert (status, text) == (1, "")
    assert errors.startswith(f"ge2e: ConfigError: no dataset can be written to {tmp_path}/file/out")


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/proc/self").exists(), reason="needs root, and /proc of Linux")
def test_an_output_that_only_seems_to_be_writable(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing can be made in /proc, whatever its permissions say: as with a share that is exported read-only."""
    status, text, _ = ge2e_doctor(capsys, HERE, "--output", "/proc")
    assert status == 1
    assert "would fail: output on every worker: " in text
    assert "Nothing can be written: mend the path" in text
    assert "would fail: 0 MiB of disk left in the output" in text
    assert text.endswith("mend what is said above first\n")


def test_a_recording_that_cannot_be_read(tmp_path: Path) -> None:
    """The first row that can be used, as the manifest's own faults go to the ledger."""
    manifest = write_rows(tmp_path / "m.csv", [("", "nobody"), ("gone.flac", "s")])
    found = examine_workers(["--manifest", str(manifest), HERE])
    assert kinds(found) == {"fails"}
    assert f"MissingAudioError: {tmp_path}/gone.flac: no such file" in texts(found, "fails")
    manifest.write_text("audio_path,speaker_id\n,s\n")
    assert "no usable row in" in texts(examine_workers(["--manifest", str(manifest), HERE]), "fails")
    assert "no manifest at" in texts(examine_workers(["--manifest", str(tmp_path / "no.csv"), HERE]), "fails")


def test_lists_of_sounds_that_a_worker_does_not_reach(tmp_path: Path) -> None:
    augment = augmented.sounds(tmp_path)
    assert kinds(examine_workers(["--augment", str(augment), HERE])) <= {"note"}
    (tmp_path / "room0.wav").unlink()
    told = texts(examine_workers(["--augment", str(augment), HERE]), "fails")
    assert "sounds on every worker: MissingAudioError: " in told and "room0.wav" in told and "Copies cannot" in told
    (tmp_path / "sounds.csv").unlink()
    assert "NoiseError: the manifest of augment.noise" in texts(
        examine_workers(["--augment", str(augment), HERE]), "fails"
    )


def test_a_recipe_that_cannot_be_carried_out() -> None:
    found = examine_workers(["--set", "n_mels=512", HERE])
    assert kinds(found) == {"fails"}
    assert "recipe on every worker: ConfigError: n_mels=512, n_fft=512 cannot be used together" in texts(found, "fails")


def test_a_package_that_a_worker_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("ge2e_transforms.selftest")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("ge2e_transforms.selftest", raising=False)
    monkeypatch.delitem(sys.modules, "ge2e_transforms.audio")
    monkeypatch.delattr("ge2e_transforms.audio")
    monkeypatch.setitem(sys.modules, "soxr", None)
    report = examine.examine(JOB)
    assert "soxr" in report.faults["recipe"]
    assert report.recipe == ""
    assert report.versions["numpy"]


def test_without_the_extra_m4a_is_a_note_unless_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    versions = examine._versions
    monkeypatch.setattr(examine, "_versions", lambda checks: {**versions(checks), "av": ""})
    status, text, _ = ge2e_doctor(capsys, HERE)
    assert status == 0
    assert "AAC NO" in text
    assert "note: M4A and AAC do not decode on every worker" in text
    status, text, _ = ge2e_doctor(capsys, HERE, "--require_av")
    assert status == 1
    assert "would fail: M4A and AAC do not decode" in text


def test_a_sample_that_decodes_to_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codec_samples.SAMPLES, "MP3", codec_samples.SAMPLES["Vorbis"][:-5] + "!!!!!")
    found = examine_workers([HERE])
    assert "MP3 does not decode on every worker" in texts(found, "fails")


# What would crawl.


def test_checksums_in_python(tmp_path: Path) -> None:
    """google-crc32c as it is installed where no wheel fits: without its extension."""
    spec = importlib.util.find_spec("google_crc32c")
    assert spec is not None
    assert spec.origin is not None
    shutil.copytree(
        Path(spec.origin).parent, tmp_path / "google_crc32c", ignore=shutil.ignore_patterns("*.so", "*.pyd")
    )
    ended = run_command("doctor", HERE, PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1
    assert "│ python, " in ended.stdout
    assert "would crawl: crc32c runs in 'python' on every worker, at " in ended.stdout


def test_memory_that_is_too_little() -> None:
    long = ("--set", "sample_rate_hz=384000", "--set", "n_fft=16384", "--set", "max_seconds=86400")
    found = examine_workers([HERE, *long])
    if found.reports[0].memory is not None:
        assert "of memory left" in texts(found, "crawls")


def test_more_threads_than_one() -> None:
    """A process that nothing has told to use one."""
    with threadpool_limits(2):
        report = examine.examine(JOB)
    found = diagnose([report], report, needs_of(JOB.recipe, 128))
    assert [finding.kind for finding in found if finding.kind != "note"] == ["crawls"]
    assert found[0].text.startswith("more threads than one on every worker (")
    assert "openblas of " in found[0].text


# What would mix bytes.


def test_a_worker_with_an_older_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two workers has another build of this package, as an image that was not built again."""
    for package in ("ge2e_transforms", "pipeline"):
        shutil.copytree(ROOT / package, tmp_path / "old" / package)
    _change(tmp_path / "old/ge2e_transforms/__init__.py", '__version__ = "', '__version__ = "0.0.')
    _change(tmp_path / "old/ge2e_transforms/features.py", "rounded_log(mel + floor", "rounded_log(mel + 2 * floor")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nif mkdir "{tmp_path}/taken" 2>/dev/null; then cd "{tmp_path}/old"; else cd "{ROOT}"; fi\n'
        f'exec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    found = examine_workers(["--direct_num_workers=2"])
    assert len({report.recipe for report in found.reports}) == 2
    assert kinds(found) == {"mixes"}
    assert not found.healthy
    text = texts(found, "mixes")
    assert "the digest of the recipe differs: " in text
    assert "ge2e-features differs: " in text
    assert "in this program, " in text


def _change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# On a cluster.


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner whose workers are taken for those of another machine."""
    monkeypatch.setattr(doctor, "_on_this_machine", lambda beam_options: False)
    monkeypatch.setattr(doctor, "_HOLD_S", 0.001)


def test_a_cluster_needs_an_output(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = ge2e_doctor(capsys, "--", "--runner=FlinkRunner", "--flink_master=localhost:1")
    assert status == 1
    assert errors.startswith("ge2e: ConfigError: --output is missing: workers of FlinkRunner are not on this machine")
    status, _, errors = ge2e_doctor(capsys, "--output", "/local", "--", "--runner=DataflowRunner")
    assert "a local path, which workers of Dataflow cannot reach" in errors
    assert not Path("/local").exists()


@pytest.mark.usefixtures("elsewhere")
def test_reports_come_back_through_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = storage.write_bytes

    def noted(path: str, content: bytes) -> None:
        written.append(path)
        write(path, content)

    monkeypatch.setattr(storage, "write_bytes", noted)
    found = examine_workers(["--output", str(tmp_path / "out"), HERE])
    assert found.healthy
    assert [Path(path).suffix for path in written] == [".txt", ".jsonl"]
    assert {Path(path).parent for path in written} == {tmp_path / "out"}
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("elsewhere")
def test_after_an_error_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(reports: list[str], path: str) -> None:
        storage.write_bytes(path, b"half")
        raise ModuleNotFoundError("No module named 'pipeline'")

    monkeypatch.setattr(doctor, "_write_reports", broken)
    with pytest.raises(
        DoctorError, match=r"the small job on the workers failed: .*Install ge2e-features in the workers"
    ):
        examine_workers(["--output", str(tmp_path), HERE])
    assert files_in(tmp_path) == set()


@pytest.mark.usefixtures("elsewhere")
def test_workers_on_another_disk_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_write_reports", lambda reports, path: None)
    with pytest.raises(DoctorError, match=r"its workers wrote to another .*doctor-\w+\.jsonl than this program sees"):
        examine_workers(["--output", str(tmp_path), HERE])


@pytest.fixture
def worker_pool() -> Iterator[str]:
    """The address of Beam's worker pool, which Flink's task managers use too, in an environment of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    pool = subprocess.Popen(
        [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        limit = time.monotonic() + LIMIT_S
        while not _answers(port) and time.monotonic() < limit and pool.poll() is None:
            time.sleep(0.05)
        yield f"localhost:{port}"
    finally:
        os.killpg(pool.pid, signal.SIGKILL)
        pool.wait()


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_workers_of_a_pool(
    prism: Path, worker_pool: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of this program reaches them but the job; their reports come back through the output."""
    monkeypatch.setattr(doctor, "_HOLD_S", 0.001)
    external = ("--environment_type=EXTERNAL", f"--environment_config={worker_pool}")
    arguments = ["--manifest", str(manifest), "--output", str(tmp_path / "out"), "--", "--runner=PrismRunner"]
    found = examine_workers([*arguments, f"--prism_location={prism}", *external])
    (report,) = found.reports
    assert report.pid != os.getpid()
    assert report.faults == {}
    assert set(report.threads.values()) == {1}
    assert report.variables["OMP_NUM_THREADS"] == "1"
    assert found.healthy
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "here"),
    [
        ([], True),
        (["--runner=DirectRunner"], True),
        (["--runner=PrismRunner"], True),
        (["--runner=FlinkRunner"], False),
        (["--runner=PortableRunner", "--", "--environment_type=LOOPBACK"], True),
        (["--runner=PrismRunner", "--", "--environment_type=DOCKER"], False),
    ],
)
def test_which_workers_are_on_this_machine(flags: list[str], here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(job: object, beam_options: object, path: str, hold_s: float) -> None:
        ran.append(path)
        storage.write_bytes(path, examine.examine(JOB).to_json().encode())

    monkeypatch.setattr(doctor, "_run", run)
    if here:
        examine_workers(flags)
        assert len(ran) == 1
    else:
        with pytest.raises(ConfigError, match="--output is missing"):
            examine_workers(flags)
        assert ran == []
