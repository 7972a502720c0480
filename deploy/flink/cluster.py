"""A Flink cluster on this machine: job manager, task manager, Beam's job server and a pool of Python workers.

    python deploy/flink/cluster.py [--slots 2] [--folder FOLDER]

starts it on loopback, prints the `ge2e run` command that uses it, and runs until Ctrl-C. What it is made of is
downloaded once (see install.sh). `Cluster` does the same from Python:

    with Cluster(folder, find_parts()) as cluster:
        run([..., "--", *cluster.flags])

Workers run as in a cluster: in processes and in an environment of their own, in which this project is installed.
"""

# It must not know what jobs are run on it.

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from ge2e_transforms.errors import Ge2eError

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"

# What Flink's own scripts give to Java 17.
_OPENS = (
    *("java.lang", "java.net", "java.io", "java.nio", "sun.nio.ch", "java.lang.reflect", "java.text", "java.time"),
    *("java.util", "java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks"),
)
_EXPORTS = ("java.base/sun.net.util", "java.rmi/sun.rmi.registry", "java.security.jgss/sun.security.krb5")
# Short-lived programs on few cores: the second compiler and parallel collectors cost more than they give.
_JAVA = [
    *("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"),
    *(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in _OPENS),
    *(f"--add-exports={name}=ALL-UNNAMED" for name in _EXPORTS),
]
# The sizes that Flink's scripts would work out; a task manager does not start without any of them.
_TASK_MANAGER_SIZES = {
    "framework.heap.size": "128mb",
    "framework.off-heap.size": "128mb",
    "task.heap.size": "512mb",
    "task.off-heap.size": "128mb",
    "network.min": "128mb",
    "network.max": "128mb",
    "managed.size": "256mb",
    "jvm-metaspace.size": "256mb",
    "jvm-overhead.min": "192mb",
    "jvm-overhead.max": "192mb",
}
# A worker process computes with one thread.
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_SECONDS_TO_START = 120.0
_SECONDS_BETWEEN_LOOKS = 0.05
_SECONDS_BETWEEN_CHECKS = 1.0
_SECONDS_TO_END = 15.0
_MILLISECONDS_TO_KEEP_WORKERS = 10000
# Beam's job server sends all jars that it is made of to Flink with each job, and has no option against it; but what
# lies in a folder of this name it takes for no part of the job (PipelineResources.isStageable).
_NOT_STAGED = Path("gradle", "wrapper")


class ClusterError(Ge2eError, RuntimeError):
    """A part of the cluster cannot be had, does not start, or ended. The end of a log has lines of its own."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class Parts(NamedTuple):
    """What a cluster is made of."""

    jars: Path  # folder that install.sh prints
    boot: Path  # Beam's program that starts workers


def find_parts() -> Parts:
    """Installs what is missing, into a cache outside of the repository.

    Raises:
        ClusterError: Java, Maven or Go is missing, or a download failed; with what the script said.
    """
    scripts = ([HERE / "install.sh", sys.executable], [ROOT / "tests" / "tools" / "install_beam.sh", "boot"])
    found = []
    for script in scripts:
        result = subprocess.run(list(map(str, script)), capture_output=True, text=True, check=False)
        if result.returncode:
            raise ClusterError(result.stderr.strip())
        found.append(Path(result.stdout.strip()))
    return Parts(*found)


def make_worker_environment(folder: Path) -> Path:
    """Makes a Python environment with this project installed, as it stands, and returns its Python.

    All other packages are those of the running Python, seen through a path file. An editable install of this project
    there is not: path files that such a path holds are not followed.

    Raises:
        ClusterError: pip failed.
    """
    sources = folder / "sources"
    sources.mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    for name in ("ge2e_transforms", "pipeline"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = folder / "environment"
    _call([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    places = {"base": str(environment), "platbase": str(environment)}
    packages = Path(sysconfig.get_path("purelib", "venv", places))
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "shared.pth").write_text("\n".join(shared) + "\n")
    python = environment / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    _call([*pip, "--no-build-isolation", "--ignore-installed", str(sources)])
    return python


def _call(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ClusterError(f"{shlex.join(command)} ended with {result.returncode}: {result.stderr.strip()}")


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class Cluster:
    """A cluster on loopback, as a context.

    Args:
        folder: for logs, settings and scratch; must be new.
        parts: from `find_parts`.
        slots: of the task manager, and Python worker processes.
        stage_all: leave the jars of Beam out of the cluster and send all with each job, as Beam does by itself.

    Attributes:
        flags: options of Beam by which a job runs on it.
        boot: what starts the workers.
        task_manager: its process.
    """

    def __init__(self, folder: Path, parts: Parts, slots: int = 2, *, stage_all: bool = False) -> None:
        self.folder, self._parts, self._slots, self._stage_all = folder.absolute(), parts, slots, stage_all
        self._rpc, self._rest, self._jobs, self._artifacts, self._pool = (free_port() for _ in range(5))
        self.boot = parts.boot
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._task_managers = 0

    @property
    def flags(self) -> list[str]:
        flags = [
            *("--runner=FlinkRunner", "--flink_version=1.19", f"--job_endpoint={HOST}:{self._jobs}"),
            *("--environment_type=EXTERNAL", f"--environment_config={HOST}:{self._pool}"),
            *(f"--parallelism={self._slots}", f"--sdk_worker_parallelism={self._slots}", "--load_balance_bundles"),
        ]
        if self._stage_all:
            return flags[:-1]
        # Stage by stage: what is finished is not run again, and stages in turn never wait for each other's worker.
        # Between two of them workers live on; where a job brings its own jars they would be ended.
        batch = "--execution_mode_for_batch=BATCH_FORCED"
        return [*flags, batch, f"--environment_cache_millis={_MILLISECONDS_TO_KEEP_WORKERS}"]

    @property
    def address(self) -> str:
        """Flink's web page and REST interface."""
        return f"http://{HOST}:{self._rest}"

    def __enter__(self) -> Cluster:
        try:
            self.folder.mkdir(parents=True)
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        self._configure()
        self._start_job_manager()
        self.start_task_manager(wait=False)
        self._start_job_server()
        self._start_pool(make_worker_environment(self.folder / "worker"))
        self._wait("the job server", lambda: _listens(self._jobs))
        self._wait("the pool of workers", lambda: _listens(self._pool))
        self._wait_for_slots()

    def _configure(self) -> None:
        settings = {
            "jobmanager.rpc.address": HOST,
            "jobmanager.rpc.port": self._rpc,
            "jobmanager.bind-host": HOST,
            "jobmanager.memory.process.size": "1600m",
            "rest.address": HOST,
            "rest.bind-address": HOST,
            "rest.port": self._rest,
            "taskmanager.host": HOST,
            "taskmanager.bind-host": HOST,
            "taskmanager.numberOfTaskSlots": self._slots,
            "taskmanager.cpu.cores": float(self._slots),
            **{f"taskmanager.memory.{name}": size for name, size in _TASK_MANAGER_SIZES.items()},
            "parallelism.default": self._slots,
            "io.tmp.dirs": str(self.folder / "tmp"),
            # A worker or a task manager that dies fails its tasks, which are run again: as often as in a long job.
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 10,
            "restart-strategy.fixed-delay.delay": "1 s",
            # Each exchange of each running task needs these buffers; by default 512, which small memory has not.
            "taskmanager.network.sort-shuffle.min-buffers": 16,
            # A killed task manager is missed within some seconds, not within a minute.
            "heartbeat.interval": 1000,
            "heartbeat.timeout": 10000,
            "heartbeat.rpc-failure-threshold": 1,
        }
        for part in ("conf", "tmp", "artifacts"):
            (self.folder / part).mkdir()
        lines = [f"{name}: {json.dumps(value)}" for name, value in settings.items()]
        (self.folder / "conf" / "config.yaml").write_text("\n".join(lines) + "\n")
        (self.folder / "conf" / "log4j.properties").write_text(
            "rootLogger.level=INFO\nrootLogger.appenderRef.out.ref=Out\nappender.out.name=Out\n"
            "appender.out.type=CONSOLE\nappender.out.layout.type=PatternLayout\n"
            "appender.out.layout.pattern=%d{ISO8601} %-5p %c{1} - %m%n\n"
        )

    def _flink_class_path(self) -> str:
        beam = () if self._stage_all else self._beam_jars()
        return os.pathsep.join(map(str, [*sorted((self._parts.jars / "flink").glob("*.jar")), *beam]))

    def _beam_jars(self) -> list[Path]:
        """Jars of the job server that Flink does not bring itself."""
        own = ("flink-", "slf4j-")
        return [
            path for path in sorted((self._parts.jars / _NOT_STAGED).glob("*.jar")) if not path.name.startswith(own)
        ]

    def _flink(self, name: str, main: str, *java: str) -> subprocess.Popen[bytes]:
        log4j = f"-Dlog4j.configurationFile={self.folder / 'conf' / 'log4j.properties'}"
        command = [*_JAVA, *java, log4j, "-cp", self._flink_class_path(), f"org.apache.flink.runtime.{main}"]
        return self._run(name, [*command, "--configDir", str(self.folder / "conf")])

    def _start_job_manager(self) -> None:
        self._flink("job-manager", "entrypoint.StandaloneSessionClusterEntrypoint", "-Xmx512m")

    def start_task_manager(self, *, wait: bool = True) -> None:
        """Starts a task manager, the first or one in place of one that ended."""
        self._task_managers += 1
        name = f"task-manager-{self._task_managers}"
        self.task_manager = self._flink(
            name, "taskexecutor.TaskManagerRunner", "-Xmx640m", "-XX:MaxDirectMemorySize=384m"
        )
        if wait:
            self._wait_for_slots()

    def _start_job_server(self) -> None:
        folder = self._parts.jars / _NOT_STAGED
        if self._stage_all:
            folder = Path(shutil.copytree(folder, self.folder / "jars"))
        jars = os.pathsep.join(map(str, sorted(folder.glob("*.jar"))))
        command = [*_JAVA, "-Xmx512m", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
        command += ["-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss,SSS", "-cp", jars]
        options = {
            "flink-master": f"{HOST}:{self._rest}",
            "job-host": HOST,
            "job-port": self._jobs,
            "artifact-port": self._artifacts,
            "expansion-port": -1,
            "artifacts-dir": self.folder / "artifacts",
        }
        main = "org.apache.beam.runners.flink.FlinkJobServerDriver"
        self._run("job-server", [*command, main, *(f"--{name}={value}" for name, value in options.items())])

    def _start_pool(self, python: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment.update(dict.fromkeys(_ONE_THREAD, "1"))
        options = {"port": self._pool, "boot": self._parts.boot, "folder": self.folder / "workers"}
        flags = [f"--{name}={value}" for name, value in options.items()]
        self._run("worker-pool", [str(python), str(HERE / "worker_pool.py"), *flags], environment)

    def _run(
        self, name: str, command: Sequence[str], environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        # In a session of its own: Ctrl-C in a terminal reaches this program alone, which then ends them in order.
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append((name, process))
        return process

    def _wait_for_slots(self) -> None:
        self._wait("a task manager", lambda: self._free_slots() == self._slots)

    def _free_slots(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            # Past any proxy: it is on this machine.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{self.address}/overview", timeout=5) as answer:
                return int(json.load(answer)["slots-total"])
        return 0

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        limit = time.monotonic() + _SECONDS_TO_START
        while not ready():
            self.check()
            if time.monotonic() > limit:
                raise ClusterError(
                    f"{what} did not answer within {_SECONDS_TO_START:g} s: see the logs in {self.folder}"
                )
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def check(self) -> None:
        """Raises ClusterError if a part has ended, except for task managers that were replaced."""
        for name, process in self._processes:
            replaced = name.startswith("task-manager") and process is not self.task_manager
            if process.poll() is not None and not replaced:
                log = self.folder / f"{name}.log"
                last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
                raise ClusterError(f"{name} ended with status {process.returncode}; the end of {log}:\n{last}")

    def stop(self) -> None:
        """Ends all that was started: the workers first, which tell the others that they go."""
        pool = [process for name, process in self._processes if name == "worker-pool"]
        _end(pool)
        _end([process for _, process in self._processes if process not in pool])

    def running(self) -> list[str]:
        """Names of the parts that run."""
        return [name for name, process in self._processes if process.poll() is None]


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)
        if process.poll() is None:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def main() -> int:
    """Runs a cluster until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=2, metavar="N", help="worker processes (default: %(default)d)")
    parser.add_argument("--folder", type=Path, help="for logs, settings and scratch; default: a temporary one")
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="ge2e-flink-") as temporary:
            folder = args.folder or Path(temporary) / "cluster"
            with Cluster(folder, find_parts(), args.slots) as cluster:
                print(f"Flink is at {cluster.address}, logs are in {cluster.folder}. Run jobs with\n")
                print("  ge2e run --manifest MANIFEST --output FOLDER -- \\")
                print("      " + " \\\n      ".join(cluster.flags) + "\n\nCtrl-C ends it.", flush=True)
                while True:
                    cluster.check()
                    time.sleep(_SECONDS_BETWEEN_CHECKS)
    except ClusterError as error:
        print(f"cluster.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
