"""The lists of noise and rooms that copies draw from, and their recordings: read where the job runs.

Sounds are kept as mono float32 samples at the recipe's rate, within `cache_mib`. It must not know how copies are mixed.
"""

from __future__ import annotations

import functools
import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ge2e_transforms.augmentation import Added, Augmentation, Rooms
from ge2e_transforms.copies import Copies
from ge2e_transforms.errors import LedgerRow, ManifestError, NoiseError
from ge2e_transforms.manifest import read_rows
from ge2e_transforms.places import permitted
from ge2e_transforms.planning import Augmented, Plan, SoundList
from ge2e_transforms.sounds import Sounds
from ge2e_transforms.utterance import Utterance
from pipeline import recordings
from pipeline.options import JobConfig
from pipeline.read import open_manifest

_one_at_a_time = threading.Lock()


def sound_lists(job: JobConfig, config: Augmentation) -> dict[SoundList, list[Utterance]]:
    """The lists of a config, and their rows.

    Raises:
        NoiseError: a list cannot be used: it is not there, has a row that cannot be used, or none.
    """
    found = {}
    for kind, entry in config.lists.items():
        try:
            with open_manifest(entry.manifest) as stream:
                content = stream.read()
        except ManifestError as error:
            raise NoiseError(f"the manifest of augment.{kind}: {error}") from error
        rows = _rows(job, kind, entry, content)
        found[SoundList(kind, hashlib.sha256(content).hexdigest(), len(rows))] = rows
    return found


def augmented_of(job: JobConfig) -> Augmented | None:
    """What a job writes beside its utterances, with what its lists hold now; errors as of `sound_lists`."""
    return Augmented(job.augmentation, tuple(sound_lists(job, job.augmentation))) if job.augmentation else None


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


def copies_of(job: JobConfig, plan: Plan) -> Copies | None:
    """What makes the copies of a shard, None where there are none to make.

    Their recordings are kept for all shards that a process writes for one submission of a job.

    Raises:
        NoiseError: a list is not what it was when the job was planned.
    """
    if plan.augmented is None:
        return None
    return Copies(plan.augmented.config, sounds_of(job, plan.augmented), job.recipe)


def sounds_of(job: JobConfig, augmented: Augmented) -> Sounds:
    """The recordings that copies are drawn from; errors as of `copies_of`."""
    with _one_at_a_time:
        return _sounds(job, augmented)


@contextmanager
def let_go() -> Iterator[None]:
    """What this process kept of sounds for a job is let go when the block ends."""
    try:
        yield
    finally:
        _sounds.cache_clear()


@functools.lru_cache(maxsize=1)
def _sounds(job: JobConfig, augmented: Augmented) -> Sounds:
    lists = sound_lists(job, augmented.config)
    if tuple(lists) != augmented.sounds:
        changed = [entry.kind for entry, was in zip(lists, augmented.sounds, strict=True) if entry != was]
        raise NoiseError(
            f"the manifest of augment.{changed[0]} is another one than when the job was planned: was it changed while "
            "the job ran? Run the same command again"
        )
    rows = {entry.kind: tuple(rows) for entry, rows in lists.items()}
    return Sounds(rows, job.recipe.audio, recordings.encoded, augmented.config.cache_mib << 20)
