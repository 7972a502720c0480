"""Epochs in parts: every promise of a batch holds, the number of batches is fixed, and each part keeps to itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_arrays import Speaker, index_of, met

from ge2e_transforms import sampling
from ge2e_transforms.coverage import coverage
from ge2e_transforms.errors import ConfigError, SamplingError
from ge2e_transforms.parts import Blocks, Windows
from ge2e_transforms.population import Population
from ge2e_transforms.sampling import Sampler
from ge2e_transforms.supply import SamplingOptions

Ints = npt.NDArray[np.int64]
OPTIONS = SamplingOptions(
    speakers_per_batch=4, utterances_per_speaker=3, crop_frames=10, seed=1, speakers="proportional"
)


def in_parts(corpus: list[Speaker], parts: int, **values: Any) -> tuple[dict[str, Ints], Sampler]:
    """A sampler whose epoch is cut into about so many blocks."""
    index = index_of(corpus)
    options = dataclasses.replace(OPTIONS, **values)
    whole = Sampler(Population(index, options))
    slots = whole.batches_per_epoch * whole.speakers_per_batch * options.utterances_per_speaker
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_BLOCK_SLOTS", -(-slots // parts))
        return index, Sampler(Population(index, options))


def check_epoch(index: dict[str, Ints], sampler: Sampler, epoch: int) -> list[sampling.Plan]:
    """All batches of an epoch have N different speakers with M crops each, and no crop comes twice."""
    n, m, crop = sampler.speakers_per_batch, sampler.options.utterances_per_speaker, sampler.options.longest
    plans = [sampler.plan(epoch, part) for part in range(sampler.parts)]
    rows = [sampler.locate(epoch, number) for number in range(sampler.batches_per_epoch)]
    assert rows == sorted(rows)
    seen: list[Ints] = []
    for part, row in rows:
        plan = plans[part]
        labels = index["label"][plan.records[row]].reshape(n, m)
        assert np.all(labels == plan.labels[row][:, None])
        assert len(set(plan.labels[row].tolist())) == n
        slots = plan.starts[row].astype(np.int64) * np.maximum(1, index["frames"][plan.records[row]] // crop)
        slots = slots // np.maximum(1, index["frames"][plan.records[row]] - crop + 1)
        seen.append(plan.records[row].astype(np.int64) * 10_000 + slots)
    ids = np.concatenate(seen)
    if sampler.options.distinct == "strict":
        for part, row in rows:
            used = index["utterance_index"][plans[part].records[row]].reshape(n, m)
            assert all(len(set(group.tolist())) == m for group in used)
    assert len(ids) == sampler.batches_per_epoch * n * m
    return plans


CORPUS: list[Speaker] = [[[10 * (1 + (u * s) % 7)] for u in range(3 + s % 9)] for s in range(60)]


@pytest.mark.parametrize("distinct", ["strict", "prefer"])
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_blocks_keep_every_promise(parts: int, distinct: str):
    index, sampler = in_parts(CORPUS, parts, distinct=distinct)
    assert sampler.parts == parts
    for epoch in range(3):
        plans = check_epoch(index, sampler, epoch)
        assert len({len(plan.table) for plan in plans}) == 1
        # No group twice, though a speaker may be cut between two blocks.
        labels = np.concatenate([plan.labels.ravel() for plan in plans])
        for label, quota in zip(sampler.population.label.tolist(), sampler.quota.tolist(), strict=True):
            assert np.count_nonzero(labels == label) <= quota
        records = np.concatenate([plan.table[:, : plan.records.shape[1]].ravel() for plan in plans])
        starts = np.concatenate([plan.starts.ravel() for plan in plans])
        assert len(np.unique(records.astype(np.int64) * 1000 + starts)) == len(records)


def test_batches_are_numbered_through_all_parts():
    _, sampler = in_parts(CORPUS, 5)
    each = sampler.batches_per_epoch // 5
    places = [(part, row) for part in range(5) for row in range(each)]
    assert [sampler.locate(3, number) for number in range(sampler.batches_per_epoch)] == places


def test_blocks_are_of_other_speakers_in_each_epoch():
    _, sampler = in_parts(CORPUS, 4)
    first = [set(np.unique(sampler.plan(epoch, 0).labels).tolist()) for epoch in range(16)]
    assert all(len(one) < 40 for one in first)
    assert len(set.union(*first)) > 50


def test_blocks_lose_little():
    _, whole = in_parts(CORPUS, 1)
    _, cut = in_parts(CORPUS, 5)
    assert cut.batches_per_epoch >= whole.batches_per_epoch - 5
    assert whole.batches_per_epoch > 50


def test_a_giant_speaker_is_held_to_the_batches_of_a_block():
    corpus: list[Speaker] = [[[1000]], *([[[10]] * 6] * 40)]
    index, sampler = in_parts(corpus, 4, distinct="any", speakers="proportional")
    assert sampler.quota[0] == sampler.batches_per_epoch // sampler.parts
    check_epoch(index, sampler, 0)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=4, max_size=40),
    parts=st.integers(1, 5),
    n=st.integers(1, 4),
    m=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_blocks_keep_their_promises_on_random_corpora(sizes: list[int], parts: int, n: int, m: int, seed: int):
    corpus: list[Speaker] = [[[10]] * size for size in sizes]
    values = {"speakers_per_batch": n, "utterances_per_speaker": m, "seed": seed}
    try:
        index, sampler = in_parts(corpus, parts, **values)
    except SamplingError:
        return
    if sampler.batches_per_epoch:  # else there are fewer batches than parts, which no real block is that small for
        check_epoch(index, sampler, seed % 3)


# Windows of shards.


def windowed(width: int, shards: int = 8, **values: Any) -> tuple[dict[str, Ints], Sampler, Ints]:
    index = index_of(CORPUS)
    first_rows = np.linspace(0, len(index["label"]), shards + 1).astype(np.int64)
    options = dataclasses.replace(OPTIONS, locality=width, **values)
    return index, Sampler(Population(index, options, None, first_rows)), first_rows


@pytest.mark.parametrize("width", [1, 2, 3, 8, 20])
def test_windows_keep_every_promise_and_to_their_shards(width: int):
    index, sampler, first_rows = windowed(width)
    assert sampler.parts == -(-8 // width)
    for epoch in range(4):
        plans = check_epoch(index, sampler, epoch)
        shards = [sampler.shards(epoch, part) for part in range(sampler.parts)]
        assert sorted(shard for window in shards for shard in window) == list(range(8))
        for plan, window in zip(plans, shards, strict=True):
            used = np.unique(np.searchsorted(first_rows, plan.records.ravel(), side="right") - 1)
            assert set(used.tolist()) <= set(window)


def test_windows_are_of_other_shards_in_each_epoch():
    _, sampler, _ = windowed(2)
    assert len({tuple(sampler.shards(epoch, 0)) for epoch in range(20)}) > 5


def test_every_epoch_of_windows_has_as_many_batches():
    _, sampler, _ = windowed(3)
    counts = [sampler._parts.batches(sampler._epoch_key(epoch)) for epoch in range(30)]
    assert {int(count.sum()) for count in counts} == {sampler.batches_per_epoch}
    assert len({tuple(count.tolist()) for count in counts}) > 1
    _, whole = in_parts(CORPUS, 1)
    assert sampler.batches_per_epoch >= 0.85 * whole.batches_per_epoch


def test_a_speaker_cut_over_shards_is_in_no_batch_twice():
    corpus: list[Speaker] = [[[10]] * 90, *([[[10]] * 9] * 30)]
    index = index_of(corpus)
    first_rows = np.array([0, 60, 180, 270, 360])
    options = dataclasses.replace(OPTIONS, locality=2)
    sampler = Sampler(Population(index, options, None, first_rows))
    assert np.count_nonzero(sampler.population.label == 10) == 2
    for epoch in range(5):
        check_epoch(index, sampler, epoch)


def test_windows_narrow_whom_a_speaker_meets():
    _, whole = in_parts(CORPUS, 1)
    _, narrow, _ = windowed(2)
    everyone = [np.concatenate([s.plan(0, part).labels for part in range(s.parts)]) for s in (whole, narrow)]
    assert met(everyone[1]) < met(everyone[0])
    assert coverage(narrow)["speakers_met"] == pytest.approx(met(everyone[1]), abs=0.1)


def test_windows_that_hold_too_few_speakers_are_refused():
    with pytest.raises(SamplingError, match=r"locality=1 windows of 1 of the 30 shards may hold fewer than 4 speakers"):
        windowed(1, shards=30)


def test_windows_and_single_sources_exclude_each_other():
    with pytest.raises(ConfigError, match="locality=2 and batch_sources='single'"):
        dataclasses.replace(OPTIONS, locality=2, batch_sources="single")


# One source to a batch.


def test_batches_of_one_source_come_mixed():
    index = index_of(CORPUS)
    index["source_index"] = (np.arange(len(index["label"])) % 3).astype(np.int64)
    sampler = Sampler(Population(index, dataclasses.replace(OPTIONS, batch_sources="single")))
    plan = sampler.plan(2)
    sources = index["source_index"][plan.records]
    assert np.all(sources == sources[:, :1])
    assert set(sources[:, 0].tolist()) == {0, 1, 2}
    assert len(set(sources[: len(sources) // 3, 0].tolist())) == 3
    check_epoch(index, sampler, 1)


def test_the_mixture_of_sources_is_pinned():
    index = index_of([[[10]] * 6] * 8)
    index["source_index"] = index["label"] // 22
    sampler = Sampler(Population(index, dataclasses.replace(OPTIONS, batch_sources="single")))
    assert sampler.plan(1).labels.tolist() == [[25, 22, 31, 28], [19, 10, 13, 16], [31, 28, 22, 25], [19, 13, 16, 10]]
    assert sampler.plan(2).records.tolist() == [
        [46, 44, 43, 35, 32, 30, 25, 26, 28, 41, 39, 37],
        [7, 11, 8, 22, 21, 19, 5, 3, 0, 15, 13, 17],
        [24, 27, 29, 47, 45, 42, 34, 33, 31, 40, 38, 36],
        [14, 12, 16, 4, 2, 1, 6, 10, 9, 23, 20, 18],
    ]


def test_a_source_with_too_few_speakers_is_left_out_and_counted():
    index = index_of(CORPUS)
    index["source_index"] = (index["label"] > 175).astype(np.int64)  # the last four of 60 speakers
    options = dataclasses.replace(OPTIONS, batch_sources="single", speakers_per_batch=5)
    sampler = Sampler(Population(index, options))
    assert set(index["source_index"][sampler.plan(0).records].ravel().tolist()) == {0}
    found = coverage(sampler)
    left = sum(value for name, value in found.items() if name.startswith("left_"))
    assert found["slots"] == found["used"] + left


def test_blocks_and_windows_are_pinned():
    """Another result means that every saved state goes on with other batches: raise `stream.PLAN_VERSION`."""
    blocks = in_parts(CORPUS, 3)[1].plan(5, 1)
    windows = windowed(3)[1].plan(5, 1)
    digests = [
        int(plan.table.astype(np.int64).ravel() @ np.arange(1, plan.table.size + 1)) for plan in (blocks, windows)
    ]
    assert digests == PINNED


PINNED = [44875281, 61900455]


def test_the_kinds_of_parts_are_what_they_are_called():
    assert isinstance(in_parts(CORPUS, 2)[1]._parts, Blocks)
    assert isinstance(windowed(2)[1]._parts, Windows)
