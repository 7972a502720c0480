"""Worker processes change nothing but the time: same batches, same errors; and they end, with their memory."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_dataset import RAW, raw_speakers, speakers, write_dataset

from ge2e_transforms import BatchLoader, EachWaveform, GE2EDatasetLoader, SpecAugment
from ge2e_transforms.errors import ConfigError, CorruptRecordError, SamplingError, StorageError, WorkerError
from ge2e_transforms.stream import Batch

pytestmark = pytest.mark.filterwarnings("ignore:an epoch of split")
ROOT = Path(__file__).parent.parent
SHARED = Path("/dev/shm")
LIMIT_S = 60
OPTIONS: dict[str, Any] = {
    **{"speakers_per_batch": 3, "utterances_per_speaker": 2, "speakers": "proportional", "seed": 7},
    **{"features": "logmel", "normalize": "crop", "spec_augment": SpecAugment()},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("raw"), {"train": raw_speakers("a", 9)}, RAW, shards=2)


def louder(waveform: Any, rng: np.random.Generator) -> Any:
    return waveform * rng.uniform(0.5, 2) + rng.normal(0, 0.01, len(waveform))


def processes() -> list[Any]:
    return [process for process in multiprocessing.active_children() if process.name == "ge2e-batch"]


def held() -> set[str]:
    return {path.name for path in SHARED.glob("psm_*")}


def ended(known: set[str]) -> None:
    """Asserts that no process of ours, and no shared memory beside what was there before, is left."""
    gc.collect()
    assert processes() == []
    assert held() <= known


def same(one: Iterable[Any], other: Iterable[Any]) -> int:
    count = 0
    for (examples, labels), (wanted, wanted_labels) in itertools.zip_longest(one, other, fillvalue=((), ())):
        assert np.array_equal(examples, wanted) and np.array_equal(labels, wanted_labels)
        count += 1
    return count


def test_batches_are_those_of_no_workers(root: Path) -> None:
    """For all readers, from any place; an iterator that is left does no harm; what is gone leaves nothing."""
    known, options = held(), {**OPTIONS, "waveform_transform": EachWaveform(louder)}
    wanted: list[Batch] = list(BatchLoader(root, **options).batches(epochs=2))
    loader = GE2EDatasetLoader(root, workers=2, **options)
    assert processes() == []  # none before the first batch
    iterator = loader.batches(epochs=2)
    first = [next(iterator) for _ in range(4)]
    assert same(first, wanted[:4]) == 4 and len(processes()) == 2
    state = json.loads(json.dumps(iterator.state_dict()))
    assert state == BatchLoader(root, **options).batches(start=(0, 4)).state_dict()
    assert same(iterator, wanted[4:]) > 4
    iterator.load_state_dict(state)
    assert same(itertools.islice(iterator, 3), wanted[4:7]) == 3
    iterator.load_state_dict(state)  # while others are on their way
    assert same(iterator, wanted[4:]) > 4
    for _ in range(20):
        next(loader.batches())
    tensors = loader.get_train_dataset(epochs=2, start=(0, 1))
    assert same(((examples.numpy(), labels.numpy()) for examples, labels in tensors), wanted[1:]) > 4
    assert len(processes()) == 2 and len(held() - known) == 2
    kept = first[0][0].copy()
    del tensors, iterator, loader
    ended(known)
    assert np.array_equal(first[0][0], kept)  # batches outlive the processes


def fail(waveform: Any, rng: np.random.Generator) -> Any:
    raise KeyError(f"of process {multiprocessing.parent_process() is not None}")


def test_errors_of_a_worker_are_told_as_they_are(root: Path, tmp_path: Path) -> None:
    known = held()
    batches = BatchLoader(root, workers=1, waveform_transform=EachWaveform(fail), **OPTIONS).batches()
    for _ in range(2):  # and no batch is passed over
        with pytest.raises(KeyError, match="of process True") as told:
            next(batches)
        assert "in fail" in str(told.value.__cause__)
    assert batches.state_dict()["step"] == 0
    write_dataset(tmp_path, {"train": speakers("a", 4, 0, 4)}, shards=1)
    path = next(tmp_path.glob("train/*.tfrecord"))
    content = bytearray(path.read_bytes())
    content[1000::1000] = bytes(255 - byte for byte in content[1000::1000])
    path.write_bytes(content)
    damaged = BatchLoader(tmp_path, workers=1).batches()
    with pytest.raises(CorruptRecordError, match=r"\.tfrecord at offset"):
        next(damaged)
    del batches, damaged, told  # whose frames hold the iterator
    ended(known)


def test_a_killed_worker_is_an_error_and_the_next_batch_is_made_by_another(root: Path) -> None:
    known = held()
    wanted = list(BatchLoader(root, **OPTIONS).batches())
    batches = BatchLoader(root, workers=1, **OPTIONS).batches()
    assert same([next(batches)], wanted[:1]) == 1
    (process,) = processes()
    os.kill(process.pid, signal.SIGKILL)  # waited for by the thread that has it
    with pytest.raises(WorkerError, match=r"ended by signal 9 \(Killed\): out of memory, or killed"):
        for _ in range(4):  # those that were ready before still come
            next(batches)
    step = batches.state_dict()["step"]
    assert 1 <= step < 4
    assert same(batches, wanted[step:]) > 1
    del batches
    ended(known)


def test_what_cannot_be_sent_is_refused_at_once(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"workers cannot be used with this waveform_transform.* not of lambdas"):
        BatchLoader(root, workers=1, waveform_transform=lambda waveforms, keys: waveforms, **OPTIONS).batches()
    with pytest.raises(ConfigError, match="workers=-1"):
        BatchLoader(root, workers=-1)


def test_too_little_shared_memory_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.statvfs_result((4096, 4096, 100, 1, 1, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(StorageError, match=r"2 workers need 0 MiB of shared memory.*--shm-size"):
        next(BatchLoader(root, workers=2, **OPTIONS).batches())


def test_an_order_of_speakers_is_asked_for_here_and_when_its_epoch_begins(root: Path) -> None:
    asked: list[int] = []

    def order(epoch: int) -> list[int]:
        asked.append(epoch)
        return [epoch % 9, 4]

    wanted = list(BatchLoader(root, speaker_order=order, **OPTIONS).batches(epochs=2))
    asked.clear()
    batches = BatchLoader(root, speaker_order=order, workers=1, **OPTIONS).batches(epochs=2)
    half = len(wanted) // 2
    assert same(itertools.islice(batches, half), wanted[:half]) == half
    assert set(asked) == {0}
    assert same(batches, wanted[half:]) == half


def test_pytorch_has_workers_of_its_own(torch: Any, root: Path) -> None:
    with pytest.raises(ConfigError, match=r"workers=1 cannot be used with PyTorch.*num_workers"):
        BatchLoader(root, workers=1, **OPTIONS).torch_dataset()


# Programs.

PROGRAM = """
import sys, warnings
warnings.simplefilter("ignore")
from ge2e_transforms import BatchLoader

def turned(waveforms, keys):
    return -waveforms

{guard}
    loader = BatchLoader(sys.argv[1], 3, 2, workers=1, features="logmel", waveform_transform=turned)
    batches = loader.batches(epochs=None)
    next(batches)
    print("first", flush=True)
    {then}
"""


def program(root: Path, folder: Path, guard: str, then: str) -> subprocess.Popen[str]:
    script = folder / "train.py"
    script.write_text(PROGRAM.format(guard=guard, then=then))
    return subprocess.Popen(
        [sys.executable, script, root],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def test_a_script_without_a_guard_is_told_so(root: Path, tmp_path: Path) -> None:
    with program(root, tmp_path, "if True:", "pass") as running:
        said, complaint = running.communicate(timeout=LIMIT_S)
    assert running.returncode == 1 and not said
    last = complaint.strip().splitlines()[-1]
    assert "WorkerError: a worker process of the loader ended with status 1: before its first batch" in last
    assert "if __name__ == '__main__':" in last


def test_ctrl_c_ends_a_program_with_its_processes_and_their_memory(root: Path, tmp_path: Path) -> None:
    """As a terminal sends it: to all of the group. Transforms of the script itself are found by its processes."""
    known = held()
    with program(root, tmp_path, "if __name__ == '__main__':", "[batch for batch in batches]") as running:
        assert running.stdout and running.stdout.readline() == "first\n"
        os.killpg(running.pid, signal.SIGINT)
        _, complaint = running.communicate(timeout=LIMIT_S)
    assert complaint.count("KeyboardInterrupt") == complaint.count("Traceback") == 1, complaint
    limit = time.monotonic() + LIMIT_S
    with contextlib.suppress(ProcessLookupError):
        while True:  # the keeper of shared memory ends a moment later
            os.killpg(running.pid, 0)
            assert time.monotonic() < limit
    assert held() <= known


def test_a_state_of_other_batches_is_refused_with_workers_too(root: Path) -> None:
    state = BatchLoader(root, **{**OPTIONS, "seed": 8}).batches().state_dict()
    with pytest.raises(SamplingError, match="other batches"):
        BatchLoader(root, workers=1, **OPTIONS).batches().load_state_dict(state)


def test_a_fork_has_processes_of_its_own_and_ends_none_of_others(root: Path) -> None:
    """A fork has no threads that would answer it."""
    workers = BatchLoader(root, workers=1, **OPTIONS).stream("train")._workers
    assert workers is not None
    crew = workers._crew_of_this_process()
    assert workers._crew_of_this_process() is crew
    crew.owner = -1  # as a fork sees it
    assert workers._crew_of_this_process() is not crew
    crew.end()
    assert not crew._ended
    crew.owner = os.getpid()
    crew.end()
    assert crew._ended
