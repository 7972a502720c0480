"""Jobs that are killed and go on by the same command, and what must be so afterwards; for tests and benchmarks."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import kills
from jobs import metadata_of, unlisted
from kills import Drivers, Moment, Operation
from synth import small_corpus

from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import digest
from ge2e_transforms.verify import verify
from pipeline.clean import clean

_NEW, _OLD = ("--test_speakers=2",), ("--valid_speakers=1", "--shard_mib=1")
SHARDS = 8


class Outcome(NamedTuple):
    """Of one kill.

    Attributes:
        stage: of the job, at its last file operation.
        kept: finished shards that the job went on with.
        cleaned: files that `ge2e clean` removed.
    """

    stage: str
    kept: int
    cleaned: int


class Bench:
    """A corpus, an older dataset of it, and undisturbed jobs, which those that are killed are held against."""

    def __init__(self, drivers: Drivers, folder: Path) -> None:
        self.drivers, self.folder = drivers, folder
        self.corpus = folder / "corpus"
        self.manifest = small_corpus(self.corpus, speakers=SHARDS, utterances=3, seconds=1.5)
        self._job(folder / "old", _OLD, "old.log")
        self._job(folder / "new", _NEW, "new.log")
        shutil.copytree(folder / "old", folder / "replaced")
        self._job(folder / "replaced", (*_NEW, "--overwrite"), "replaced.log")
        self.digest = digest(Dataset.open(folder / "new"))
        self.generation = metadata_of(folder / "new")["generation"]

    def operations(self, *, older: bool) -> list[Operation]:
        """Of an undisturbed job, with or without an older dataset in its folder."""
        return kills.operations(self.folder / ("replaced.log" if older else "new.log"))

    def worker_operations(self) -> list[Operation]:
        """Of the worker that has most of them in an undisturbed job of two worker processes."""
        armed = self._armed("undisturbed", kills.NEVER)
        self._job(self.folder / "undisturbed", _NEW, "undisturbed.log", workers=2, **armed)
        return max(map(kills.operations, self.folder.glob("undisturbed.worker-*")), key=len)

    def kill_program(self, name: str, moment: Moment, *, older: bool) -> Outcome:
        """Kills the program at a moment, gives the same command again, and checks what then stands."""
        out, flags = self.folder / name, (*_NEW, "--overwrite") if older else _NEW
        if older:
            shutil.copytree(self.folder / "old", out)
        self._job(out, flags, f"{name}.log", moment=moment, expected=-signal.SIGKILL)
        metadata = metadata_of(out) if (out / "metadata.json").exists() else {}
        if metadata:
            verify(Dataset.open(out))  # the older dataset until the new one stands
        assert metadata or not older
        finished = {path: stamp for path, stamp in kills.stamps_of_done(out).items() if f"-{self.generation}-" in path}
        removed = metadata.get("generation") == self.generation and not any(
            (out / path).exists() for path in metadata["replaced"]
        )
        self._job(out, flags, f"{name}.again.log")
        if older and removed:  # nothing was left to do, so the dataset was made anew, as the command says
            assert metadata_of(out)["edition"] == 1
            finished = {}
        cleaned = self._check(out, finished)
        return Outcome(kills.operations(self.folder / f"{name}.log")[-1].stage, len(finished), cleaned)

    def kill_worker(self, name: str, moment: Moment) -> Outcome | None:
        """Kills one of two worker processes at a moment; None where neither came to it.

        The job must go on by itself, and the same command afterwards must find nothing left to do.
        """
        out = self.folder / name
        self._job(out, _NEW, f"{name}.log", workers=2, **self._armed(name, moment))
        workers = {int(path.name.rpartition("-")[2]) for path in self.folder.glob(f"{name}.worker-*")}
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
        printed = (self.folder / f"{name}.log.out").read_text()
        if not (self.folder / f"{name}.once").exists():
            assert "WARNING" not in printed.replace("warning", "")
            return None
        again = printed.count("(Killed): starting again, finished shards are kept (attempt 2 of 3)\n")
        assert "Traceback" not in printed
        killed = json.loads((self.folder / f"{name}.once").read_text())
        last = kills.operations(self.folder / f"{name}.worker-{killed['process']}")[-1].stage
        # One that dies after all of its work may die too late to be missed.
        assert again == 1 or (again == 0 and last == kills.STAGES[-1]), printed
        now = kills.stamps_of_done(out)
        assert {path: now[path] for path in killed["done"]} == killed["done"]
        self._job(out, _NEW, f"{name}.again.log")
        cleaned = self._check(out, now)
        return Outcome(last, len(killed["done"]), cleaned)

    def _job(
        self,
        out: Path,
        flags: Sequence[str],
        log: str,
        moment: Moment = kills.NEVER,
        workers: int = 1,
        expected: int = 0,
        **environment: str,
    ) -> None:
        own = [f"--direct_num_workers={workers}", *flags]
        if workers == 1:  # the operations of the program are counted, and progress is looked up as time allows
            own.append("--quiet")
        arguments = ["run", "--manifest", self.manifest, "--output", out, *own]
        status = self.drivers.run(arguments, [self.corpus, out], self.folder / log, moment, environment)
        assert status == expected, (self.folder / f"{log}.out").read_text()

    def _armed(self, name: str, moment: Moment) -> dict[str, str]:
        folders = [str(self.corpus), str(self.folder / name)]
        return kills.worker_environment(
            folders, moment, str(self.folder / f"{name}.worker"), str(self.folder / f"{name}.once")
        )

    def _check(self, out: Path, finished: dict[str, list[int]]) -> int:
        """The dataset is that of an undisturbed job, on the shards that were finished, and nothing is beside it."""
        now = kills.stamps_of_done(out)
        assert {path: now[path] for path in finished} == finished
        assert len(now) == SHARDS
        cleaned = clean(str(out))
        dataset = Dataset.open(out)
        verify(dataset)
        assert digest(dataset) == self.digest
        assert unlisted(out) == set()
        assert {path.name for path in out.iterdir() if path.is_dir()} == {"train", "test"}
        return len(cleaned.names)
