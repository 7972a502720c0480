"""The lists of noise and rooms that copies draw from, and their recordings: read where the job runs."""

from __future__ import annotations

import functools
import hashlib
import io
import threading
from collections.abc import Sequence

from ge2e_transforms.augmentation import Added, Augmentation, Rooms
from ge2e_transforms.config import AudioConfig
from ge2e_transforms.errors import LedgerRow, ManifestError, NoiseError
from ge2e_transforms.manifest import read_rows
from ge2e_transforms.places import permitted
from ge2e_transforms.planning import Plan, SoundList
from ge2e_transforms.sounds import Sounds
from ge2e_transforms.utterance import Utterance
from pipeline import recordings, storage
from pipeline.options import JobConfig

_one_at_a_time = threading.Lock()


def sound_lists(job: JobConfig, config: Augmentation) -> dict[SoundList, list[Utterance]]:
    """The lists of a config, and their rows.

    Raises:
        NoiseError: a list cannot be used: it is not there, has a row that cannot be used, or none.
    """
    found = {}
    for kind, entry in config.lists.items():
        content = _content(kind, entry.manifest)
        rows = _rows(job, kind, entry, content)
        found[SoundList(kind, hashlib.sha256(content).hexdigest(), len(rows))] = rows
    return found


def _content(kind: str, path: str) -> bytes:
    try:
        return storage.read_bytes(path)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise NoiseError(
            f"the manifest of augment.{kind}, {path}, cannot be read ({error.strerror}): expected a file that all "
            "workers reach; `ge2e manifest musan` and `ge2e manifest rirs` write such files"
        ) from error


def _rows(job: JobConfig, kind: str, entry: Added | Rooms, content: bytes) -> list[Utterance]:
    where = f"the manifest of augment.{kind}, {entry.manifest}"
    rows: list[Utterance] = []
    subsets = set()
    try:
        for row in permitted(read_rows(io.BytesIO(content), entry.manifest), job.allow_outside, job.allow_schemes):
            if isinstance(row, LedgerRow):
                raise NoiseError(f"{where}: the row at {row.position} cannot be used: {row.detail}")
            subsets.add(row.subset)
            if not entry.subset or row.subset in entry.subset:
                rows.append(row)
    except ManifestError as error:
        raise NoiseError(f"{where}: {error}") from error
    if not rows:
        held = ", ".join(map(repr, sorted(subsets)[:10])) or "no rows"
        raise NoiseError(f"{where}: expected rows of subset {' or '.join(entry.subset) or 'any'}, got {held}")
    return rows


def sounds_of(job: JobConfig, plan: Plan) -> Sounds | None:
    """The recordings that a plan's copies draw from, one set for a process and a submission of a job.

    Raises:
        NoiseError: a list is not what it was when the job was planned.
    """
    return None if plan.augmentation is None else sounds_for(job, plan.augmentation, plan.sounds)


def sounds_for(job: JobConfig, config: Augmentation, planned: tuple[SoundList, ...]) -> Sounds:
    """As `sounds_of`, of lists as they were read before."""
    with _one_at_a_time:
        return _sounds(job, config, planned, job.recipe.audio)


@functools.lru_cache(maxsize=1)
def _sounds(job: JobConfig, config: Augmentation, planned: Sequence[SoundList], audio: AudioConfig) -> Sounds:
    lists = sound_lists(job, config)
    if tuple(lists) != planned:
        changed = [entry.kind for entry, was in zip(lists, planned, strict=True) if entry != was]
        raise NoiseError(
            f"the manifest of augment.{changed[0]} is another one than when the job was planned: was it changed while "
            "the job ran? Run the same command again"
        )
    rows = {entry.kind: tuple(rows) for entry, rows in lists.items()}
    return Sounds(rows, audio, recordings.encoded, config.cache_mib << 20)
