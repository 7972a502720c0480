"""Plans are made once per host, ahead of their time, and nothing is left of them."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from index_arrays import index_of

from ge2e_transforms import plans, sampling
from ge2e_transforms.errors import StorageError
from ge2e_transforms.plans import Plans
from ge2e_transforms.population import Population
from ge2e_transforms.sampling import Sampler
from ge2e_transforms.supply import SamplingOptions

OPTIONS = SamplingOptions(
    speakers_per_batch=3, utterances_per_speaker=2, crop_frames=10, seed=1, speakers="proportional"
)


def make_sampler(parts: int = 1) -> Sampler:
    population = Population(index_of([[[10]] * 12] * 9), OPTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_BLOCK_SLOTS", 108 // parts)
        return Sampler(population)


class Counting(Sampler):
    """Counts what is planned."""

    def __init__(self, parts: int = 1) -> None:
        self.__dict__.update(make_sampler(parts).__dict__)
        self.made: list[tuple[int, int]] = []

    def plan(self, epoch: int, part: int = 0) -> sampling.Plan:
        self.made.append((epoch, part))
        return super().plan(epoch, part)


def wait_for_what_is_made_ahead() -> None:
    for thread in threading.enumerate():
        if thread.name == "ge2e-plan":
            thread.join()


def test_a_mapped_plan_is_the_plan():
    sampler = make_sampler()
    kept = Plans(sampler, "x")
    for epoch in (0, 3, 1):
        assert np.array_equal(kept.get(epoch, 0).table, sampler.plan(epoch).table)
        assert type(kept.get(epoch, 0).table) is np.ndarray


def test_the_next_part_is_made_ahead_and_the_next_epoch_if_it_is_wanted():
    sampler = Counting(parts=3)
    assert sampler.parts == 3
    kept = Plans(sampler, "x")
    for part in range(3):
        kept.get(0, part)
        wait_for_what_is_made_ahead()
    assert sampler.made == [(0, 0), (0, 1), (0, 2)]
    kept.get(0, 2, go_on=True)  # is there: nothing is begun
    kept.get(1, 0)
    wait_for_what_is_made_ahead()
    kept.get(1, 2, go_on=True)
    wait_for_what_is_made_ahead()
    assert sampler.made[3:] == [(1, 0), (1, 1), (1, 2), (2, 0)]


def test_a_few_plans_are_kept_and_older_ones_made_again():
    sampler = Counting()
    kept = Plans(sampler, "x")
    for epoch in range(6):
        kept.get(epoch, 0)
    assert len(list(kept.folder.glob("*.npy"))) == 3
    first = kept.get(0, 0)
    assert sampler.made == [(epoch, 0) for epoch in (*range(6), 0)]
    for epoch in range(6, 9):
        kept.get(epoch, 0)
    assert np.array_equal(first.table, make_sampler().plan(0).table)  # still mapped, though its file is gone


def test_two_readers_of_one_folder_make_a_plan_once():
    one, two = Counting(), Counting()
    kept = Plans(one, "x")
    shared = Plans(two, "x", kept.folder)
    assert np.array_equal(kept.get(0, 0).table, shared.get(0, 0).table)
    assert np.array_equal(shared.get(1, 0).table, kept.get(1, 0).table)
    assert (one.made, two.made) == ([(0, 0)], [(1, 0)])
    assert not np.array_equal(Plans(two, "y", kept.folder).get(1, 0).table[0], kept.get(0, 0).table[0])


def _plan_elsewhere(folder: Path, queue: multiprocessing.Queue) -> None:
    sampler = Counting()
    plan = Plans(sampler, "x", folder).get(0, 0)
    queue.put((sampler.made, int(plan.table.sum())))


class Forking(Counting):
    """Forks a process while it makes a plan, as a program may in another thread; it lives until it is told to end."""

    def plan(self, epoch: int, part: int = 0) -> sampling.Plan:
        reader, self.end = os.pipe()
        self.child = os.fork()
        if not self.child:
            os.close(self.end)
            os.read(reader, 1)
            os._exit(0)
        os.close(reader)
        return super().plan(epoch, part)


def test_a_process_forked_while_a_plan_is_made_does_not_keep_its_lock(tmp_path: Path) -> None:
    """It holds a copy of the descriptor: closing ours left the folder locked until that process ended."""
    forking, other = Forking(), Counting()
    Plans(forking, "x", tmp_path).get(0, 0)
    waiting = threading.Thread(target=Plans(other, "x", tmp_path).get, args=(1, 0))
    waiting.start()
    waiting.join(10)
    waits = waiting.is_alive()
    os.close(forking.end)
    os.waitpid(forking.child, 0)
    waiting.join()
    assert not waits
    assert other.made == [(1, 0)]


def test_processes_share_plans_and_leave_the_folder_alone():
    context = multiprocessing.get_context("fork")
    kept = Plans(make_sampler(), "x")
    queue = context.Queue()
    workers = [context.Process(target=_plan_elsewhere, args=(kept.folder, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert sum(len(made) for made, _ in results) == 1
    assert len({total for _, total in results}) == 1
    assert int(kept.get(0, 0).table.sum()) == results[0][1]


def test_the_folder_goes_with_its_plans():
    kept = Plans(make_sampler(), "x")
    kept.get(0, 0)
    folder = kept.folder
    assert folder.is_dir()
    del kept
    gc.collect()
    assert not folder.exists()


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = Plans(make_sampler(), "x")
    monkeypatch.setattr(plans.np, "save", full)
    with pytest.raises(StorageError, match=r"cannot be kept in .*No space left on device.*TMPDIR"):
        kept.get(0, 0)
    monkeypatch.undo()
    assert len(kept.get(0, 0).table) == make_sampler().batches_per_epoch  # and what failed is made again
