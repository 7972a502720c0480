"""What one process can do for a job: `examine`, whose report is plain data, and which never raises.

A check that fails leaves the error in the report: the others go on, and a package that is missing on a worker is told
like any other fault. So what computes features is imported here only where it is tried.

Sizes are bytes. It must not know what a fault does to a job (`diagnosis`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import ge2e_transforms
from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.errors import ManifestError, StorageError
from ge2e_transforms.manifest import read_rows
from ge2e_transforms.places import permitted
from ge2e_transforms.utterance import Utterance
from pipeline import hygiene, recordings, resources, storage
from pipeline.options import JobConfig
from pipeline.read import expand_manifests, open_manifest

# What takes long to import or much memory, and no worker needs.
HEAVY = ("tensorflow", "keras", "torch", "jax", "matplotlib", "pandas", "sklearn", "IPython")
_PACKAGES = (
    *("apache-beam", "numpy", "numba", "scipy", "soundfile", "soxr", "pyarrow", "av"),
    *("google-crc32c", "threadpoolctl", "xxhash"),
)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Report:
    """One process.

    Attributes:
        key: differs between processes, also where host and pid do not (containers).
        host, pid, cpu: which one.
        versions: of what matters; '' where it is not installed.
        heavy: packages of `HEAVY` that are loaded.
        codecs: digest of the decoded sample of each codec, '' where it did not decode.
        recipe: digest of the job's recipe on test signals.
        crc32c, crc32c_mb_s: implementation of the checksum of records, and its speed.
        threads: of each library's pool, in force; variables: those of the environment that speak of them.
        memory, temp_disk, output_disk: bytes left; None where that cannot be told, or was not asked.
        temp: the folder for temporary files; output: that of the job, '' if not asked.
        recording, recording_digest: the first usable row of the manifests, as it was decoded.
        faults: what went wrong, by the name of the check: 'output', 'recipe', 'crc32c', 'libsndfile', 'recording',
            'temp', 'sounds', or a codec.
    """

    key: str
    host: str
    pid: int
    cpu: str
    versions: dict[str, str]
    heavy: list[str]
    codecs: dict[str, str]
    recipe: str
    crc32c: str
    crc32c_mb_s: float
    threads: dict[str, int]
    variables: dict[str, str]
    memory: int | None
    temp: str
    temp_disk: int | None
    output: str
    output_disk: int | None
    recording: str
    recording_digest: str
    faults: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.host}:{self.pid}"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Report:
        return cls(**json.loads(text))


class _Checks:
    """Runs checks and keeps what they raise."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}

    def value(self, name: str, check: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return check()
        except Exception as error:  # each library and store has errors of its own
            self.faults[name] = " ".join(f"{type(error).__name__}: {error}".split())
            return otherwise


def examine(job: JobConfig) -> Report:
    """The report of this process; what it writes to the output to try it is removed again."""
    checks = _Checks()
    crc32c, speed = checks.value("crc32c", _crc, ("", 0.0))
    codecs = _codecs(checks)
    recipe = checks.value("recipe", lambda: _recipe_digest(job), "")
    recording = checks.value("recording", lambda: _recording(job), ("", "")) if job.manifests else ("", "")
    if config := job.augmentation:
        checks.value("sounds", lambda: _sounds(job, config), None)
    if job.output:
        checks.value("output", lambda: _write_read_remove(job.output), None)
    temp = checks.value("temp", tempfile.gettempdir, "")
    local_output = bool(job.output) and storage.is_local(job.output)
    return Report(
        key=uuid.uuid4().hex,
        host=platform.node(),
        pid=os.getpid(),
        cpu=resources.cpu_name(),
        versions=_versions(checks),
        heavy=[name for name in HEAVY if sys.modules.get(name)],
        codecs=codecs,
        recipe=recipe,
        crc32c=crc32c,
        crc32c_mb_s=round(speed, 1),
        threads=hygiene.threads_in_force(),
        variables={name: os.environ[name] for name in hygiene.VARIABLES if name in os.environ},
        memory=resources.free_memory(),
        temp=temp,
        temp_disk=resources.free_disk(temp) if temp else None,
        output=job.output,
        output_disk=resources.free_disk(job.output) if local_output else None,
        recording=recording[0],
        recording_digest=recording[1],
        faults=checks.faults,
    )


_reports: dict[str, Report] = {}
_one_at_a_time = threading.Lock()


def examined(job: JobConfig) -> Report:
    """As `examine`, done once in a process for one submission of a job, whichever threads ask."""
    with _one_at_a_time:
        if job.token not in _reports:
            _reports[job.token] = examine(job)
        return _reports[job.token]


def _versions(checks: _Checks) -> dict[str, str]:
    found = {"ge2e-features": ge2e_transforms.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    found["libsndfile"] = checks.value("libsndfile", _libsndfile, "")
    return found


def _libsndfile() -> str:
    from ge2e_transforms.decoders import libsndfile_version

    return libsndfile_version()


def _crc() -> tuple[str, float]:
    from ge2e_transforms import records, selftest

    return records.crc_implementation(), selftest.crc_speed()


def _codecs(checks: _Checks) -> dict[str, str]:
    from ge2e_transforms.codec_samples import SAMPLES

    def decode(codec: str) -> str:
        from ge2e_transforms.selftest import decode_sample

        return decode_sample(codec)

    return {codec: checks.value(codec, lambda codec=codec: decode(codec), "") for codec in SAMPLES}  # type: ignore[misc]


def _recipe_digest(job: JobConfig) -> str:
    from ge2e_transforms.selftest import recipe_digest

    return recipe_digest(job.recipe)


def _recording(job: JobConfig) -> tuple[str, str]:
    from ge2e_transforms.selftest import decode_row

    row = _first_row(job)
    with recordings.reading([row.location]) as open_audio:
        found = decode_row(row, job.recipe.audio, open_audio)
    return f"{found.location}, {found.seconds:.2f} s", found.digest


def _sounds(job: JobConfig, config: Augmentation) -> None:
    """Reads the lists of noise and rooms, and decodes the first recording of each."""
    from ge2e_transforms import audio
    from ge2e_transforms.sounds import Sounds
    from pipeline.sound_lists import sound_lists

    for entry, rows in sound_lists(job, config).items():
        sounds = Sounds({entry.kind: rows}, job.recipe.audio, recordings.encoded, 0)
        if entry.kind == "room":
            sounds.room(0, audio.load)
        else:
            sounds.sound(entry.kind, 0, audio.load)


def _first_row(job: JobConfig) -> Utterance:
    paths = expand_manifests(job.manifests)
    for path in paths:
        with open_manifest(path) as stream:
            for row in permitted(read_rows(stream, path), job.allow_outside, job.allow_schemes):
                if isinstance(row, Utterance):
                    return row
    raise ManifestError(
        f"no usable row in {', '.join(paths)}: `ge2e manifest` writes manifests, columns: docs/guides/corpora.md"
    )


def _write_read_remove(output: str) -> None:
    path = storage.join(output, f"doctor-{uuid.uuid4().hex}.txt")
    content: Any = uuid.uuid4().hex.encode()
    try:
        storage.write_bytes(path, content)
        if storage.read_bytes(path) != content:
            raise StorageError(f"{path} does not hold what was just written to it")
    finally:
        storage.remove([path])
