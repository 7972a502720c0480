"""Plans on disk: each part of an epoch is planned once per host, ahead of its time, and mapped by all who read it.

Processes that share a folder share its plans: the first that needs one makes it while the others wait. The folder is
temporary; what is lost with it is made again. A plan is an int32 table (`sampling.Plan`). It must not know how one is
made, or what is read by it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path

import numpy as np

from ge2e_transforms.errors import Ge2eError, StorageError
from ge2e_transforms.files import locked
from ge2e_transforms.sampling import Plan, Sampler

Part = tuple[int, int]  # epoch, part

# Plans held open: of the part being read, the one before (readers that lag), and the next.
_HELD = 3


class Plans:
    """Plans of the parts of all epochs.

    Args:
        sampler: makes them.
        name: tells plans of different samplers in one folder apart.
        folder: where they are kept; by default a new one, removed with this object.

    Attributes:
        folder: pass it on to other processes of this host.
    """

    def __init__(self, sampler: Sampler, name: str, folder: Path | None = None) -> None:
        self._sampler, self._name = sampler, name
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="ge2e-plans-"))
            # Only in the process that made it: a forked one that ends takes nothing away.
            weakref.finalize(self, _remove, folder, os.getpid())
        self.folder = folder
        self._held: dict[Part, Plan] = {}
        self._ahead: set[Part] = set()
        self._lock = threading.Lock()

    def get(self, epoch: int, part: int, go_on: bool = False) -> Plan:
        """The plan of a part; the following one is then made in the background, that of the next epoch if `go_on`.

        Raises:
            StorageError: the temporary folder takes no more files.
        """
        key = (epoch, part)
        plan = self._held.get(key)
        if plan is None:
            with self._lock:
                plan = self._held.get(key) or self._load(key)
                while len(self._held) >= _HELD:
                    self._forget(next(iter(self._held)))
                self._held[key] = plan
                if part + 1 < self._sampler.parts or go_on:
                    self._make_ahead((epoch, part + 1) if part + 1 < self._sampler.parts else (epoch + 1, 0))
        return plan

    def _load(self, key: Part) -> Plan:
        """Maps a plan; makes it first where nobody has yet. Processes take turns by a lock that ends with them."""
        path = self._path(key)
        try:
            with locked(self.folder / "lock"):
                if not path.exists():
                    table = self._sampler.plan(*key).table
                    temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
                    with temporary.open("wb") as stream:
                        np.save(stream, table)
                    temporary.replace(path)
                table = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except OSError as error:
            raise StorageError(
                f"the plan of epoch {key[0]} cannot be kept in {self.folder} ({error.strerror}): make room "
                "there, or set TMPDIR to a folder with some (8 bytes for each crop of an epoch)"
            ) from error
        return Plan(table, self._sampler.speakers_per_batch)

    def _path(self, key: Part) -> Path:
        return self.folder / f"{self._name}-{key[0]}-{key[1]}.npy"

    def _forget(self, key: Part) -> None:
        """A mapped plan lives on where it is used; a reader that comes late makes it again."""
        del self._held[key]
        self._path(key).unlink(missing_ok=True)

    def _make_ahead(self, key: Part) -> None:
        if key in self._ahead or self._path(key).exists():
            return
        self._ahead = {key}
        me = weakref.ref(self)
        threading.Thread(target=_make, args=(me, key), name="ge2e-plan", daemon=True).start()


def _make(plans: weakref.ref[Plans], key: Part) -> None:
    alive = plans()
    if alive is not None:
        try:
            alive._load(key)
        except Ge2eError:
            return  # told to whoever needs the plan


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
