"""One thread in each worker, nothing in it that it does not need, and nothing of `__main__` on its way there."""

from __future__ import annotations

import bz2
import os
import platform
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import apache_beam as beam
import jobs
import numpy as np
import pytest
import scipy.linalg
import synth
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment
from threadpoolctl import threadpool_limits

from pipeline import doctor, examine, graph, hygiene, local
from pipeline.write import _WriteShardsFn

ROOT = Path(__file__).parent.parent
# Beam looks for pandas and IPython, which counts as an import in the log also where they are not installed.
UNNEEDED = {name for name in (*examine.HEAVY, "rich", "pytest", "moto") if find_spec(name)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synth.small_corpus(tmp_path_factory.mktemp("corpus"), speakers=2, utterances=2, seconds=1.5)


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a library does that was not told otherwise, on any number of cores."""
    for name in hygiene.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert np.ones((2, 2)) @ np.ones((2, 2)) is not None
    assert scipy.linalg.norm([1.0]) == 1
    with threadpool_limits(2):
        yield


def most_threads() -> int:
    return max(hygiene.threads_in_force().values())


@pytest.mark.usefixtures("two_threads")
def test_threads_are_one_in_the_block_and_as_before_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = dict(os.environ)
    assert most_threads() == 2
    with pytest.raises(RuntimeError), hygiene.one_thread():
        assert most_threads() == 1
        assert os.environ["OMP_NUM_THREADS"] == os.environ["OPENBLAS_NUM_THREADS"] == "1"
        raise RuntimeError
    assert most_threads() == 2
    assert dict(os.environ) == before


@pytest.mark.usefixtures("two_threads")
def test_the_writer_of_shards_limits_the_process_that_it_is_in(tmp_path: Path) -> None:
    with hygiene.one_thread(), threadpool_limits(2):  # the first of which ends what `setup` does for good
        os.environ["OMP_NUM_THREADS"] = "2"
        _WriteShardsFn(jobs.job(tmp_path)).setup()
        assert most_threads() == 1
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.usefixtures("two_threads")
def test_a_job_leaves_the_threads_of_its_program_as_they_were(corpus: Path, tmp_path: Path) -> None:
    jobs.run_here(corpus, tmp_path / "out")
    assert most_threads() == 2
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_memory_that_is_freed_is_kept_for_the_next_utterance() -> None:
    """Without it what several arrays took goes back together, and its pages are mapped and cleared anew."""
    program = (
        "import resource, sys, numpy as np; from pipeline import hygiene\n"
        "if sys.argv[1] == 'kept': hygiene.keep_memory()\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    del [np.ones(1 << 20) for _ in range(8)][:]\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print([faults() for _ in range(3)][2])"
    )
    # With large pages a fault is 2 MiB: still more than none.
    found = [
        int(
            subprocess.run(
                [sys.executable, "-c", program, way], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout
        )
        for way in ("kept", "given back")
    ]
    assert found[0] < 8 <= found[1]


def test_a_worker_that_others_started_with_more_threads_has_one(tmp_path: Path) -> None:
    """As the worker pools of Flink, or an image whose environment asks for more."""
    variables = " ".join(f"{name}=2" for name in hygiene.VARIABLES)
    command = f"exec env {variables} '{sys.executable}' -m pipeline.local_worker 2>>{tmp_path}/log"
    runner = FnApiRunner(default_environment=SubprocessSDKEnvironment.from_command_string(command))
    with beam.Pipeline(runner=runner) as pipeline:
        doctor.build(pipeline, jobs.job(""), str(tmp_path / "reports"), 0.0)
    (report,) = map(examine.Report.from_json, (tmp_path / "reports").read_text().splitlines())
    assert report.pid != os.getpid()
    assert set(report.threads.values()) == {1}
    assert set(report.variables.values()) == {"1"}
    assert report.heavy == []
    assert report.faults == {}


def test_a_worker_of_a_job_imports_only_what_it_needs(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "imports.log"

    @contextmanager
    def kept_log() -> Iterator[Path]:
        yield log

    monkeypatch.setattr(local, "worker_log", kept_log)
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # each worker tells all that it imports
    result = jobs.run_here(corpus, tmp_path / "out", "--direct_num_workers=2")
    assert result.metadata["counts"]["written"] == 4
    assert os.getpid() not in jobs.pids(tmp_path / "out")
    imported = set(re.findall(r"^import time: .*\| +(\S+)$", log.read_text(), re.MULTILINE))
    assert {"ge2e_transforms.shards", "pipeline.write", "ge2e_transforms.spectrum", "apache_beam"} <= imported
    assert "tensorflow" in UNNEEDED
    # IPython is asked for by Beam and tqdm, and kept away: that it was looked for is told, too.
    assert "IPython.core.getipython" not in imported
    assert {name.partition(".")[0] for name in imported} & (UNNEEDED - {"IPython"}) == set()
    assert {name for name in imported if name.startswith(("pipeline.commands", "pipeline.__main__"))} == set()


def pickles(pipeline: beam.Pipeline) -> list[bytes]:
    """All that Beam pickled: in base64, of what bz2 made of it."""
    found = re.findall(rb"QlpoO[A-Za-z0-9+/]+={0,2}", pipeline.to_runner_api().SerializeToString())
    return [bz2.BZ2Decompressor().decompress(b64decode(text[: len(text) // 4 * 4])) for text in found]


def _of_main(_: int) -> int:
    return 1


def test_what_travels_to_workers_names_no_main(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs.job(tmp_path / "out", corpus)
    run_job, doctor_job, other = beam.Pipeline(), beam.Pipeline(), beam.Pipeline()
    graph.build(run_job, job)
    doctor.build(doctor_job, job, str(tmp_path / "reports"), 0.0)
    found = pickles(run_job) + pickles(doctor_job)
    assert any(b"_WriteShardsFn" in pickle for pickle in found)
    assert any(b"_ExamineFn" in pickle for pickle in found)
    assert [pickle for pickle in found if b"__main__" in pickle] == []
    # The same search finds what is in `__main__`.
    monkeypatch.setattr(_of_main, "__module__", "__main__")
    other | beam.Create([1]) | beam.Map(_of_main)
    assert [pickle for pickle in pickles(other) if b"__main__" in pickle] != []


SCRIPT = """
import sys
from pipeline.main import run

if __name__ == "__main__":
    print(run(sys.argv[1:]).metadata["counts"]["written"])
"""


def ended(arguments: list[object], **environment: str) -> subprocess.CompletedProcess[str]:
    """With this package first on the path, whatever the script is."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=jobs.LIMIT_S,
        check=False,
    )


def test_a_script_of_ones_own_may_run_a_job_in_processes(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    out = tmp_path / "out"
    done = ended([tmp_path / "script.py", "--manifest", corpus, "--output", out, "--direct_num_workers=2"])
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr
    assert len(jobs.pids(out)) == 2


def test_the_console_script_runs_a_job_in_processes(corpus: Path, tmp_path: Path) -> None:
    entry = re.search(r'"ge2e = ([\w.]+):(\w+)"', (ROOT / "setup.py").read_text())
    assert entry is not None
    script = tmp_path / "ge2e"  # as pip writes it
    script.write_text(f"import sys\nfrom {entry[1]} import {entry[2]}\nsys.exit({entry[2]}())\n")
    done = ended([script, "run", "--manifest", corpus, "--output", tmp_path / "out", "--direct_num_workers=2"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "written    4 utterances" in done.stdout
