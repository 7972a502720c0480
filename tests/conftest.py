"""Fixtures that reach outside of the repository, and the rule that a checking machine skips none of them.

A test says what it needs by its fixture (`librispeech`, `prism`) or by a mark (`needs_speech`, `needs_prism`,
`needs_flink`). Where that is missing the test is skipped with the reason; with CI=true it fails instead.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from deploy.flink.cluster import Cluster, ClusterError, find_parts

if TYPE_CHECKING:
    from ge2e_transforms.dataset import Dataset

ROOT = Path(__file__).resolve().parent.parent
INSTALL_BEAM = ROOT / "tests" / "tools" / "install_beam.sh"
INSTALL_CHROMIUM = ROOT / "tests" / "tools" / "install_chromium.sh"
INSTALL_WORKER = ROOT / "tests" / "tools" / "install_worker.sh"
MARK_OF_FIXTURE = {
    "librispeech": "needs_speech",
    "prism": "needs_prism",
    "boot": "needs_boot",
    "worker_environment": "needs_boot",
    "flink": "needs_flink",
    "chromium": "needs_chromium",
    "torch": "needs_torch",
}
NEEDS = {
    "needs_speech": "the LibriSpeech excerpt at ../shared/data/LibriSpeech, or at $GE2E_SPEECH",
    "needs_prism": "Beam's Prism runner, built with Go or given as $GE2E_PRISM",
    "needs_boot": "Beam's boot program, built with Go or given as $GE2E_BOOT, and the packages of the workers' image",
    "needs_flink": "Java, Maven and Go for a Flink cluster on this machine, or its parts as $GE2E_FLINK and $GE2E_BOOT",
    "needs_chromium": "Chromium on PATH, or as $GE2E_CHROMIUM",
    "needs_torch": "PyTorch: pip install -e '.[torch]'",
}


def on_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")


def pytest_configure(config: pytest.Config) -> None:
    # Where the suite is started with SIGINT ignored (by `nohup ... &` in a script), so would be every program that
    # tests start, and those that are interrupted would go on for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for mark, need in NEEDS.items():
        config.addinivalue_line("markers", f"{mark}: needs {need}; never skipped where CI=true")


SLOW_FILES = [
    *("test_flink.py", "test_end_to_end.py", "test_job_on_a_store.py", "test_kill.py", "test_dataflow.py"),
    *("test_hygiene.py", "test_doctor.py", "test_jobs_at_once.py", "test_watchdog.py", "test_growth.py"),
    *("test_commands.py", "test_report.py", "test_sampling.py", "test_train_training.py", "test_sampling_worth.py"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests by their fixtures, so that `-m 'not needs_prism'` leaves them out and no mark is forgotten.

    Files that take long come first: of two processes none is then left alone with one of them.
    """
    items.sort(key=lambda item: SLOW_FILES.index(item.path.name) if item.path.name in SLOW_FILES else len(SLOW_FILES))
    for item in items:
        for fixture, mark in MARK_OF_FIXTURE.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(mark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Turn a skip into a failure where CI=true and the test is marked as needing something outside."""
    report = yield
    needed = [mark for mark in NEEDS if item.get_closest_marker(mark)]
    if on_ci() and needed and report.skipped and not hasattr(report, "wasxfail"):
        *_, reason = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} may not be skipped where CI=true: it needs {NEEDS[needed[0]]}\n{reason}"
    return report


@pytest.fixture(scope="session")
def librispeech() -> Path:
    """Folder of the real speech: `<subset>/<speaker>/<chapter>/*.flac`, 311 utterances."""
    folder = Path(os.environ.get("GE2E_SPEECH") or ROOT.parent / "shared" / "data" / "LibriSpeech")
    missing = [subset for subset in ("train-clean-100", "test-other") if not (folder / subset).is_dir()]
    if missing:
        pytest.skip(f"REAL SPEECH NOT TESTED: {folder} has no {' and no '.join(missing)}; set GE2E_SPEECH to a copy")
    return folder


def installed(what: str, *command: Path | str) -> Path:
    """What a script of `tools` has installed and names; a skip with what it said where it cannot."""
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if result.returncode != 0:
        pytest.skip(f"{what} NOT TESTED: {result.stderr.strip()}")
    return Path(result.stdout.strip())


@pytest.fixture(scope="session")
def prism() -> Path:
    """Binary of Beam's Prism runner of our Beam version; built on first use (one to two minutes) where Go is."""
    return installed("PRISM", INSTALL_BEAM, "prism")


@pytest.fixture(scope="session")
def boot() -> Path:
    """Beam's program that starts the workers of a container, of our Beam version; built on first use where Go is."""
    return installed("WORKERS OF CONTAINERS", INSTALL_BEAM, "boot")


@pytest.fixture(scope="session")
def chromium() -> Path:
    """Chromium, which takes pictures of a page and prints it."""
    return installed("THE PAGE IN A BROWSER", INSTALL_CHROMIUM)


@pytest.fixture(scope="session")
def worker_environment() -> Path:
    """Python environment of the workers' image, without this project; made on first use (some minutes)."""
    return installed("WORKERS OF CONTAINERS", INSTALL_WORKER, sys.executable)


@pytest.fixture(scope="session")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster, None, None]:
    """A running Flink cluster on loopback; what it is made of is downloaded on first use (some minutes)."""
    try:
        parts = find_parts()
    except ClusterError as error:
        pytest.skip(f"FLINK NOT TESTED: {error}")
    with Cluster(tmp_path_factory.mktemp("flink") / "cluster", parts) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    """PyTorch, which most who run this suite do without, as it is some gigabytes."""
    return pytest.importorskip("torch", reason="PYTORCH NOT TESTED: pip install -e '.[torch]'")


@pytest.fixture(scope="session")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as documents speak of it: the dataset `features`, 12 speakers with 5 utterances each, and `new.wav`.

    The same as `waveforms`; `noise` and `noise-raw`, of two sources with two recordings each; and these as `rooms`.
    """
    import jobs
    import synth

    from ge2e_transforms.config import PRESETS
    from ge2e_transforms.splits import PlanConfig
    from pipeline.commit import commit

    root = tmp_path_factory.mktemp("documents")
    speech = synth.small_corpus(root / "corpus", speakers=12, utterances=5)
    noise = synth.small_corpus(root / "sounds", speakers=2, utterances=2)
    default, plan = PRESETS["ge2e"], PlanConfig(test_speakers=3)
    raw = default.replace(features="raw")
    for job in (
        jobs.job(root / "features", speech, plan=plan),
        jobs.job(root / "waveforms", speech, recipe=raw, plan=plan),
        jobs.job(root / "noise", noise, recipe=default.replace(voice="none")),
        jobs.job(root / "noise-raw", noise, recipe=raw.replace(voice="none")),
        jobs.job(root / "rooms", noise, recipe=raw.replace(voice="none")),
    ):
        planned = jobs.write_all(job)
        commit(job, planned.plan, planned.rejected)
    synth.write(root / "new.wav", synth.speechlike(1, 3.0), 16000)
    return root


@pytest.fixture(scope="session")
def augmented_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Eleven train speakers and a test speaker with two utterances each, and copies of every kind at two speeds.

    One recording of noise is no audio. It is for all tests, so nobody changes it.
    """
    import augmented

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.file_systems.sync", lambda path: None)
        return augmented.small(tmp_path_factory.mktemp("augmented"), broken=1, speakers=12)


@pytest.fixture(scope="module")
def unsynced() -> Generator[None, None, None]:
    """What a test writes need not survive the machine; waiting for the disk would take most of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.file_systems.sync", lambda path: None)
        yield
