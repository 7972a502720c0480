"""Every file operation of a shard and of commit fails in every way: the old dataset stands until the new one does.

And it is told: file, step and remedy. What passes at a second try is not noticed at all.
"""

from __future__ import annotations

import errno
import itertools
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from faults import Operation, injected
from jobs import Planned, job, planned, run_here, unlisted
from synth import small_corpus

from ge2e_transforms import decoded
from ge2e_transforms.config import PRESETS
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.digest import digest
from ge2e_transforms.errors import DiskError, StorageError
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.row_chunks import unpack
from ge2e_transforms.verify import verify
from pipeline import disk, storage
from pipeline.commit import commit
from pipeline.options import JobConfig
from pipeline.write import adopted, write_shard

# What a message must say beside the file: in which step, and what to do.
STEP = r"(shard \d of \d of split \w+|index of split \w+|table of speakers|ledger|data card|metadata): "
REMEDY = "run the same command again; finished shards are kept"
# Which operations can fail so.
FAULTS = {
    "EIO": ("stat", "open", "read", "write", "close", "fsync", "replace", "unlink", "mkdir", "listdir"),
    "ENOSPC": ("open", "write", "close", "fsync", "replace", "mkdir"),
    "EACCES": ("stat", "open", "replace", "unlink", "mkdir", "listdir"),
    "short": ("write",),
}


class Work(NamedTuple):
    """A job without Beam: what its workers do with shards and then with the dataset."""

    config: JobConfig
    made: Planned
    extractor: FeatureExtractor

    def run(self) -> None:
        output, plan = self.config.output, self.made.plan
        for number, parcels in self.made.shards.items():
            task = plan.tasks[number]
            if adopted(output, task, published=plan.standing == plan.generation) is None:
                rows = itertools.chain.from_iterable(map(unpack, parcels))
                write_shard(output, task, rows, self.extractor, plan.sources)
        commit(self.config, plan, self.made.rejected)


def work(output: Path, manifest: Path, min_utterance_ms: int = 300, **fields: Any) -> Work:
    recipe = PRESETS["ge2e"].replace(features="raw", min_utterance_ms=min_utterance_ms)
    config = job(output, manifest, recipe=recipe, max_rejected=0.5, **fields)
    return Work(config, planned(config), FeatureExtractor(recipe))


def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses before second tries."""
    monkeypatch.setattr(disk, "_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(storage, "_PAUSE_S", 0.0)
    monkeypatch.setattr(decoded, "_RETRY_WAITS_S", (0.0,) * 4)


class Case(NamedTuple):
    """A folder with the old dataset in it, the work that replaces it, and the digests of both datasets."""

    before: Path
    work: Work
    old: str
    new: str


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    base = tmp_path_factory.mktemp("faults")
    manifest = small_corpus(base / "corpus", speakers=1, utterances=1, seconds=0.6)
    output = base / "out"
    work(output, manifest, 250).run()
    shutil.copytree(output, base / "before")
    replacing = work(output, manifest, overwrite=True)
    replacing.run()
    return Case(base / "before", replacing, *(digest(Dataset.open(folder)) for folder in (base / "before", output)))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet(monkeypatch)


def begin(case: Case, *, fresh: bool = False) -> Path:
    """The output as it was before the work."""
    output = Path(case.work.config.output)
    shutil.rmtree(output)
    if fresh:
        output.mkdir()
    else:
        shutil.copytree(case.before, output)
    return output


@pytest.fixture(scope="module")
def operations(case: Case) -> list[Operation]:
    """All that the work does with files, in order."""
    output = begin(case)
    with injected(output) as faults:
        case.work.run()
    return faults.operations


def stands(output: Path) -> str | None:
    """Digest of the dataset that stands, which must be whole; None if there is none."""
    if not (output / "metadata.json").exists():
        return None
    dataset = Dataset.open(output)
    verify(dataset)
    return digest(dataset)


def test_all_that_is_done_is_counted(case: Case, operations: list[Operation]) -> None:
    done: dict[str, set[str]] = {}
    for call, name in operations:
        done.setdefault(call, set()).add(Path(name).name)
    generation = case.work.made.plan.generation
    written = {f"features-{generation}-00000-of-00001.{end}" for end in ("tfrecord", "index.parquet", "done.json")}
    written |= {f"index-{generation}.arrow", f"speakers-{generation}.parquet", f"ledger-{generation}.parquet"}
    for call in ("open", "write", "close", "fsync", "replace", "unlink", "stat"):
        assert written | {"metadata.json"} - {"stat"} <= done[call] | (
            {"metadata.json"} if call == "stat" else set()
        ), call
    assert {"train", "out"} <= done["mkdir"] & done["fsync"] & done["listdir"]
    assert set(done) == {*FAULTS["EIO"], "fstat"}


def test_what_passes_at_a_second_try_is_not_noticed(case: Case, operations: list[Operation]) -> None:
    for at, operation in enumerate(operations):
        output = begin(case)
        with injected(output) as faults:
            faults.fail(at, errno.EIO)
            case.work.run()
        assert stands(output) == case.new, operation
        # A temporary file that cannot be removed is left to the next job.
        assert not {name for name in unlisted(output) if operation.call != "unlink" or ".tmp-" not in name}, operation


@pytest.mark.parametrize("error", FAULTS)
def test_what_stays_is_told_and_the_old_dataset_stands(case: Case, operations: list[Operation], error: str) -> None:
    failed = [spoil(case, operations, operation, error) for operation in first_of_each(operations, error)]
    assert sum(failed) > len(failed) / 2


@pytest.mark.parametrize("error", FAULTS)
def test_what_stays_leaves_an_empty_folder_without_metadata(
    case: Case, operations: list[Operation], error: str
) -> None:
    shared = [operation for operation in first_of_each(operations, error) if "-" not in Path(operation.name).name]
    failed = [spoil(case, operations, operation, error, fresh=True) for operation in shared]
    assert any(failed)


def first_of_each(operations: list[Operation], error: str) -> list[Operation]:
    return [operation for operation in dict.fromkeys(operations) if operation.call in FAULTS[error]]


def spoil(case: Case, operations: list[Operation], operation: Operation, error: str, *, fresh: bool = False) -> bool:
    """Lets an operation fail for good and looks at what is left; whether the work failed."""
    output = begin(case, fresh=fresh)
    with injected(output) as faults:
        number = errno.ENOSPC if error == "short" else getattr(errno, error)
        faults.fail(operations.index(operation), number, stays=True, short=error == "short")
        raised = failure(case.work)
    where = f"{operation}: {raised}"
    if raised is not None:
        check_message(raised, output, where)
    standing = stands(output)
    assert standing in (case.new, None if fresh else case.old), where
    assert raised is not None or standing == case.new, where
    case.work.run()  # the same command again
    assert stands(output) == case.new, where
    assert not {name for name in unlisted(output) if ".tmp-" not in name}, where
    return raised is not None


def test_a_disk_that_fails_once_at_everything_makes_no_ledger_row(
    tmp_path: Path,
) -> None:
    """A whole job; each look at manifest, audio and archive, and each opening and read, fails at first."""
    manifest = small_corpus(tmp_path / "corpus", speakers=2, utterances=2, seconds=0.6)
    with tarfile.open(manifest.parent / "spk01.tar", "w") as tar:
        for path in sorted((manifest.parent / "spk01").iterdir()):
            tar.add(path, path.name)
    manifest.write_text(manifest.read_text().replace("spk01/utt00", "spk01.tar#utt00"))
    flags = ("--features", "raw")
    expected = run_here(manifest, tmp_path / "expected", *flags).metadata
    with injected(tmp_path / "corpus") as faults:
        faults.fail_each_once(errno.ETIMEDOUT)
        metadata = run_here(manifest, tmp_path / "out", *flags).metadata
        asked = {Path(operation.name).name for operation in faults.operations}
    assert {"manifest.csv", "utt00.wav", "spk01.tar"} <= asked
    assert metadata["counts"] == expected["counts"] == {"rows": 4, "written": 4, "filtered": {}, "rejected": {}}
    assert digest(Dataset.open(tmp_path / "out")) == digest(Dataset.open(tmp_path / "expected"))


def test_audio_that_cannot_be_read_for_long_is_told_and_makes_no_ledger_row(case: Case) -> None:
    output = begin(case)
    recording = Path(case.work.config.manifests[0]).parent / "spk00" / "utt00.wav"
    with injected(recording) as faults:
        faults.fail(0, errno.EIO, stays=True)
        raised = failure(case.work)
    assert isinstance(raised, DiskError)
    assert str(raised) == (
        f"{recording} cannot be read (Input/output error), when tried again too: check the disk, or the network it is "
        f"on, and {REMEDY}"
    )
    assert stands(output) == case.old
    case.work.run()
    assert stands(output) == case.new


def failure(work: Work) -> Exception | None:
    try:
        work.run()
    except Exception as error:
        return error
    return None


def check_message(raised: Exception, output: Path, where: str) -> None:
    assert isinstance(raised, StorageError | DiskError), where
    text = str(raised)
    assert text.count(REMEDY) == 1, where
    assert str(output) in text, where
    assert "\n" not in text and ".tmp-" not in text, where
    # What is left to do after the publication, such as to look for leftovers of others, is of no file of the dataset.
    assert re.match(STEP, text) or re.match(rf"{re.escape(str(output))}\S* cannot be looked up", text), where
