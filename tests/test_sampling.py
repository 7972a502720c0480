"""Plans: what every batch of every epoch promises, on skewed, Pareto, tight and random corpora."""

from __future__ import annotations

import dataclasses
import decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_arrays import Speaker, index_of, met, met_by_chance, pareto

from ge2e_transforms import population, sampling
from ge2e_transforms.coverage import coverage
from ge2e_transforms.errors import ConfigError, SamplingError
from ge2e_transforms.population import Population
from ge2e_transforms.sampling import Plan, Sampler, quotas
from ge2e_transforms.supply import SamplingOptions

Ints = npt.NDArray[np.int64]
OPTIONS = SamplingOptions(speakers_per_batch=4, utterances_per_speaker=3, crop_frames=10, seed=1)


def make(corpus: list[Speaker], per_session: int = 2, **values: Any) -> tuple[dict[str, Ints], Sampler]:
    index = index_of(corpus, per_session)
    return index, Sampler(Population(index, dataclasses.replace(OPTIONS, **values)))


def slot_numbers(index: dict[str, Ints], plan: Plan, crop: int) -> Ints:
    """Which stratum of its record each start is in; fails where it is in none."""
    frames, starts = index["frames"][plan.records], plan.starts.astype(np.int64)
    slots, possible = np.maximum(1, frames // crop), np.maximum(1, frames - crop + 1)
    assert np.all((starts >= 0) & (starts < possible))
    slot = starts * slots // possible
    slot += ((slot + 1) * possible // slots) <= starts
    assert np.all((slot * possible // slots <= starts) & (starts < (slot + 1) * possible // slots))
    return slot


def windows(index: dict[str, Ints], plan: Plan, crop: int = 10) -> Ints:
    """An id of (record, slot) of every crop, `[B, N*M]`."""
    return plan.records.astype(np.int64) * 10_000 + slot_numbers(index, plan, crop)


def brute_held(slots: list[int], m: int, distinct: str) -> int:
    groups = range(sum(slots) // m + 1)
    return max(g for g in groups if distinct != "strict" or sum(min(c, g) for c in slots) >= g * m)


def utterance_slots(index: dict[str, Ints], label: int, crop: int, short: str) -> list[int]:
    slots: dict[int, int] = {}
    for frames, owner, utterance in zip(*(index[c] for c in ("frames", "label", "utterance_index")), strict=True):
        count = int(frames) // crop if frames >= crop else int(short != "drop")
        if owner == label and count:
            slots[utterance] = slots.get(utterance, 0) + count
    return list(slots.values())


def check_epoch(index: dict[str, Ints], sampler: Sampler, epoch: int) -> Plan:
    """All that holds of any epoch of any corpus."""
    options, n = sampler.options, sampler.speakers_per_batch
    m, crop = options.utterances_per_speaker, options.crop_frames
    plan = sampler.plan(epoch)
    assert plan.records.shape == plan.starts.shape == (sampler.batches_per_epoch, n * m)
    labels = index["label"][plan.records].reshape(-1, n, m)
    assert np.all(labels == plan.labels[:, :, None])
    ordered = np.sort(plan.labels, axis=1)
    assert np.all(ordered[:, 1:] != ordered[:, :-1])
    ids = windows(index, plan, crop)
    if options.under_m == "drop":
        assert len(np.unique(ids)) == ids.size
    utterances = np.sort(index["utterance_index"][plan.records].reshape(-1, n, m), axis=2)
    repeats = (utterances[:, :, 1:] == utterances[:, :, :-1]).sum(axis=2)
    for label in np.unique(index["label"]):
        groups = int(np.count_nonzero(plan.labels == label))
        slots = utterance_slots(index, int(label), crop, options.short)
        possible = sum(min(c, groups) for c in slots)
        found = int(repeats[plan.labels == label].sum())
        if options.distinct == "strict" or (options.distinct == "prefer" and possible >= groups * m):
            assert found == 0
        quota = int(sampler.quota[sampler.population.label == label].sum())
        if options.distinct == "prefer":
            assert found <= max(0, quota * m - sum(min(c, quota) for c in slots))
        assert quota - groups in (0, 1) or options.exponent > 0
    return plan


def check_epochs(index: dict[str, Ints], sampler: Sampler) -> None:
    plans = [check_epoch(index, sampler, epoch) for epoch in range(3)]
    found = coverage(sampler)
    assert found["used"] == plans[0].records.size
    left = sum(value for name, value in found.items() if name.startswith("left_"))
    assert found["slots"] == found["used"] + left - found["repeated_slots"]
    if sampler.options.under_m == "drop":
        assert found["repeated_slots"] == 0


def check_batch_count(index: dict[str, Ints], sampler: Sampler) -> None:
    """B against the inequality, tried with every number, on quotas that are worked out anew."""
    options, n = sampler.options, sampler.speakers_per_batch
    held = [
        brute_held(
            utterance_slots(index, label, options.crop_frames, options.short),
            options.utterances_per_speaker,
            options.distinct,
        )
        for label in np.unique(index["label"]).tolist()
    ]
    held = sorted(count for count in held if count)
    if options.speakers == "uniform":
        held = [min(count, held[len(held) // 10]) for count in held]
    best = max(b for b in range(sum(held) + 1) if sum(min(g, b) for g in held) >= n * b)
    assert sampler.batches_per_epoch == best


@given(
    speakers=st.lists(
        st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=3), min_size=1, max_size=7), min_size=1, max_size=9
    ),
    n=st.integers(1, 5),
    m=st.integers(1, 5),
    crop=st.integers(1, 30),
    seed=st.integers(0, 2**64 - 1),
    distinct=st.sampled_from(["strict", "prefer", "any"]),
    policy=st.sampled_from(["uniform", "proportional", 0.5]),
    short=st.sampled_from(["repeat", "pad", "drop"]),
    per_session=st.integers(1, 4),
)
@settings(max_examples=200, deadline=None)
def test_promises_hold_on_random_corpora(speakers, n, m, crop, seed, distinct, policy, short, per_session):
    values = {"speakers_per_batch": n, "utterances_per_speaker": m, "crop_frames": crop, "seed": seed}
    try:
        index, sampler = make(speakers, per_session, distinct=distinct, speakers=policy, short=short, **values)
    except SamplingError:
        return
    check_epochs(index, sampler)
    if policy != 0.5:
        check_batch_count(index, sampler)


def skewed(count: int) -> list[Speaker]:
    """One speaker with as many utterances as all others have together."""
    return [[[10 + 7 * u] for u in range(5 * count)], *([[35], [12], [50], [10], [21]] for _ in range(count))]


def pareto_corpus(count: int) -> list[Speaker]:
    """Pareto numbers of utterances a speaker and of slots an utterance."""
    sizes, lengths = pareto(count, 0.9, 300), pareto(300, 1.2, 40, key=6)
    return [[[10 * int(length)] for length in np.roll(lengths, 17 * i)[: 2 + size]] for i, size in enumerate(sizes)]


CORPORA: dict[str, list[Speaker]] = {
    "skewed": skewed(20),
    "pareto": pareto_corpus(60),
    "as_many_speakers_as_seats": [[[10 * (u + s + 1)] for u in range(4)] for s in range(4)],
    "one_utterance_a_speaker": [[[40 + 10 * s]] for s in range(10)],
    "one_long_utterance_in_parts": [[[600, 590, 30], [10], [10], [10]] for _ in range(6)],
    "windows": [[[10] * (3 + u) for u in range(5 + s)] for s in range(12)],
}


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.parametrize("policy", ["uniform", "proportional", 0.7])
@pytest.mark.parametrize("distinct", ["strict", "prefer", "any"])
def test_promises_hold_on_corpora_of_every_kind(name: str, policy: str | float, distinct: str):
    if name == "one_utterance_a_speaker" and distinct == "strict":
        with pytest.raises(SamplingError, match="0 can give 3 utterances"):
            make(CORPORA[name], distinct=distinct)
        return
    index, sampler = make(CORPORA[name], speakers=policy, distinct=distinct)
    check_epochs(index, sampler)
    if policy != 0.7:
        check_batch_count(index, sampler)


def test_one_utterance_a_speaker_counts_its_repetitions():
    """25 groups, each with two repetitions; one of them is not needed for 6 batches of 4."""
    index, sampler = make([[[40 + 10 * s]] for s in range(10)], speakers="proportional")
    assert sampler.batches_per_epoch == 6
    assert coverage(sampler)["repeated_utterances"] == 2 * 24
    check_epochs(index, sampler)


# Not "skewed" with N=2: there the rich speaker must be in every batch, and the others can meet no one else.
@pytest.mark.parametrize(
    ("name", "n"),
    [("skewed", 4), ("pareto", 2), ("pareto", 4), ("windows", 2), ("windows", 4), ("as_many_speakers_as_seats", 4)],
)
@pytest.mark.parametrize("policy", ["uniform", "proportional"])
def test_speakers_meet_as_many_others_as_by_chance(name: str, n: int, policy: str):
    _, sampler = make(CORPORA[name], speakers_per_batch=n, speakers=policy)
    epochs = [sampler.plan(epoch).labels for epoch in range(8)]
    chance = [met_by_chance(labels, seed) for seed, labels in enumerate(epochs)]
    assert np.mean([met(labels) for labels in epochs]) >= 0.9 * np.mean(chance)


def test_uniform_takes_all_through_a_rich_speakers_slots():
    """9 speakers hold 2 groups of 3, one holds 34 of them: 17 epochs go through it, each window once."""
    rich = [[10 * (1 + u)] for u in range(13)] + [[110]]  # 102 slots
    index, sampler = make([*([[[20], [20], [20]]] * 9), rich], per_session=3)
    assert sampler.quota.tolist() == [2] * 10
    assert coverage(sampler)["epochs_for_all"] == 17
    walks = []
    for first in (0, 17):
        plans = [check_epoch(index, sampler, first + turn) for turn in range(17)]
        mine = [windows(index, plan)[np.repeat(plan.labels == 37, 3, axis=1)] for plan in plans]
        taken = np.concatenate(mine)
        assert len(taken) >= 102 - 17 * 3  # where an epoch is cut to whole batches it takes one group less
        assert len(np.unique(taken)) == len(taken)
        walks.append(taken)
    assert not np.array_equal(walks[0], walks[1])


def test_prefer_relaxes_no_more_than_the_quota_needs():
    """100 slots in one utterance, 30 in others: 10 groups of 4 can be distinct, and all slots come in turn."""
    speakers: list[Speaker] = [[[1000], *[[10]] * 30]] + [[[50], [50], [50], [50]]] * 3
    index, sampler = make(speakers, utterances_per_speaker=4)
    assert sampler.quota.tolist() == [5, 5, 5, 5]
    assert coverage(sampler)["repeated_utterances"] == 0
    assert coverage(sampler)["epochs_for_all"] == 20  # 10 slots a walk of two epochs
    seen: set[int] = set()
    for epoch in range(20):
        plan = check_epoch(index, sampler, epoch)
        seen |= set(windows(index, plan)[plan.records == 0].tolist())
    assert seen == set(range(100))


def test_proportional_takes_every_slot_in_every_epoch():
    index, sampler = make([[[30], [40], [20]]] * 8, speakers="proportional")
    assert sampler.batches_per_epoch == 6
    for epoch in range(3):
        assert len(np.unique(windows(index, check_epoch(index, sampler, epoch)))) == 8 * 9


def test_sessions_repeat_as_little_as_can_be():
    """Three sessions of 4 + 4 slots and groups of 3: every group has one crop of each session."""
    index, sampler = make([[[40]] * 6] * 4, per_session=2, speakers="proportional")
    for epoch in range(5):
        sessions = np.sort(index["session_index"][sampler.plan(epoch).records].reshape(-1, 3), axis=1)
        assert np.array_equal(sessions, np.tile([0, 1, 2], (len(sessions), 1)))


def test_every_start_happens_equally_often_within_its_slot():
    """23 rows, crops of 10: starts 0-13, in two strata of 7; one record more with 10 rows, for one start."""
    _, sampler = make([[[23], [10]]] * 4, speakers="proportional")
    plans = [sampler.plan(epoch) for epoch in range(700)]
    starts = np.concatenate([plan.starts[plan.records % 2 == 0] for plan in plans])
    counts = np.bincount(starts, minlength=14)
    assert len(counts) == 14
    assert len(starts) == 2 * 4 * 700
    assert np.all(np.abs(counts - 400) < 5 * 19)  # standard deviation 19
    assert all(np.all(plan.starts[plan.records % 2 == 1] == 0) for plan in plans)


def test_slots_of_an_utterance_are_drawn_apart():
    """Both starts of one record in an epoch are independent of each other and of those of other records."""
    index, sampler = make([[[29], [10]]] * 4, speakers="proportional")
    offsets = []
    for epoch in range(800):
        plan = sampler.plan(epoch)
        slot = slot_numbers(index, plan, 10).ravel()
        for record in (0, 2):
            mine = plan.records.ravel() == record
            offsets.append((plan.starts.ravel()[mine] - 10 * slot[mine])[np.argsort(slot[mine])])
    first, second = np.array(offsets).reshape(800, 2, 2).transpose(1, 0, 2).reshape(2, 1600)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / 40
    both = np.array(offsets)
    assert abs(np.corrcoef(both[:, 0], both[:, 1])[0, 1]) < 5 / 40
    assert abs(np.corrcoef(first[:-2], first[2:])[0, 1]) < 5 / 40


def test_grid_lays_crops_end_to_end_from_any_phase():
    _, sampler = make([[[35], [12]]] * 4, speakers="proportional", crops="grid", utterances_per_speaker=4)
    phases = set()
    for epoch in range(100):
        plan = sampler.plan(epoch)
        for record in range(0, 8, 2):
            starts = np.sort(plan.starts[plan.records == record])
            assert np.array_equal(np.diff(starts), [10, 10])
            phases.add(int(starts[0]))
    assert phases == set(range(6))


def test_under_m_repeat_uses_every_slot_before_one_again():
    """M = 5 with slots (2, 1) and (1): every slot comes once or twice; and all of them five times."""
    index, sampler = make(
        [[[29], [12]], [[19]], [[100]], [[70], [70]]], under_m="repeat", utterances_per_speaker=5, speakers_per_batch=4
    )
    found = coverage(sampler)
    assert found["repeated_slots"] == 2 + 4
    for epoch in range(30):
        plan = check_epoch(index, sampler, epoch)
        assert sampler.batches_per_epoch == 1
        mine = windows(index, plan).reshape(4, 5)
        for label, used in zip(plan.labels[0].tolist(), mine, strict=True):
            counts = np.sort(np.unique(used, return_counts=True)[1]).tolist()
            assert counts in {10: [[1, 1, 3], [1, 2, 2]], 13: [[5]], 16: [[1] * 5], 19: [[1] * 5]}[label]
        starts = plan.starts.reshape(4, 5)[plan.labels[0] == 13][0]
        assert len(set(starts.tolist())) > 1 or epoch


def test_plan_is_pinned():
    corpus: list[Speaker] = [[[25], [12, 31]], [[44], [9]], [[10]] * 6]
    plan = make(corpus, speakers_per_batch=2, speakers="proportional")[1].plan(3)
    assert plan.records.tolist() == [[4, 3, 3, 5, 7, 10], [1, 2, 0, 6, 8, 9]]
    assert plan.starts.tolist() == [[0, 12, 22, 0, 0, 0], [0, 6, 14, 0, 0, 0]]
    assert plan.labels.tolist() == [[13, 16], [10, 16]]
    assert plan.frames.tolist() == [10, 10]


def test_lengths_that_are_drawn_are_pinned():
    """Each batch has one length; slots are counted for the longest, and crops of all lengths start in them."""
    sampler = make([[[60]] * 3] * 4, crop_frames=(6, 10, 2))[1]
    plan = sampler.plan(1)
    assert plan.frames.tolist() == [6, 8, 6, 6, 8, 8]
    assert plan.starts[0].tolist() == [14, 41, 37, 30, 32, 38, 11, 14, 14, 51, 26, 53]
    assert np.all(plan.starts + plan.frames[:, None] <= 60)
    counts = np.bincount(np.concatenate([sampler.plan(epoch).frames for epoch in range(100)]))
    assert set(np.flatnonzero(counts)) == {6, 8, 10}
    assert np.all(np.abs(counts[[6, 8, 10]] - 200) < 5 * 12)  # standard deviation 12


def neighbours(sampler: Sampler, epoch: int) -> set[tuple[int, ...]]:
    return {tuple(sorted(labels)) for labels in sampler.plan(epoch).labels.tolist()}


def test_batches_are_of_neighbours_in_the_order_that_is_given():
    """Six speakers of two groups each, two to a batch: in the order of even epochs, and of odd ones."""
    orders = {0: [25, 10, 19, 16, 13, 22], 1: [10, 13, 16, 19, 22, 25]}
    index = index_of([[[10]] * 6] * 6)
    population = Population(index, dataclasses.replace(OPTIONS, speakers_per_batch=2))
    sampler = Sampler(population, speaker_order=lambda epoch: orders[epoch % 2])
    assert sampler.has_order
    assert not Sampler(population).has_order
    assert neighbours(sampler, 0) == neighbours(sampler, 2) == {(10, 25), (16, 19), (13, 22)}
    assert neighbours(sampler, 3) == {(10, 13), (16, 19), (22, 25)}
    check_epoch(index, sampler, 0)


def test_speakers_that_an_order_leaves_out_follow_it_rising():
    population = Population(index_of([[[10]] * 3] * 6), dataclasses.replace(OPTIONS, speakers_per_batch=2))
    assert neighbours(Sampler(population, speaker_order=lambda epoch: [22, 13]), 0) == {(13, 22), (10, 16), (19, 25)}
    assert neighbours(Sampler(population, speaker_order=lambda epoch: []), 0) == {(10, 13), (16, 19), (22, 25)}
    many = Population(index_of([[[10]] * 3] * 60), dataclasses.replace(OPTIONS, speakers_per_batch=2))
    labels = list(range(10, 190, 3))
    following = labels[::-3] + sorted(set(labels) - set(labels[::-3]))
    pairs = {tuple(sorted(pair)) for pair in zip(following[::2], following[1::2], strict=True)}
    assert neighbours(Sampler(many, speaker_order=lambda epoch: labels[::-3]), 0) == pairs


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ([10, 1, 2, 3, 4, 5, 6], "[1, 2, 3, 4, 5]"),
        ([10, 11], "[11]"),
        ([10, 13, 10], "a label twice"),
    ],
)
def test_an_order_of_what_is_no_speaker_is_refused(order: list[int], said: str):
    sampler = Sampler(Population(index_of([[[10]] * 3] * 4), OPTIONS), speaker_order=lambda epoch: order)
    with pytest.raises(ConfigError) as error:
        sampler.plan(7)
    assert str(error.value) == (
        f"speaker_order(7) gave {said}: expected labels of speakers of the split, each at most once"
    )


def test_plans_follow_from_seed_and_epoch_alone():
    corpus = CORPORA["pareto"]
    one, other = make(corpus)[1], make(corpus)[1]
    late = other.plan(5)
    early = one.plan(0)
    for plan, again in ((early, other.plan(0)), (late, one.plan(5))):
        assert all(np.array_equal(getattr(plan, f), getattr(again, f)) for f in ("records", "starts", "labels"))
    assert not np.array_equal(early.records, late.records)
    assert not np.array_equal(early.labels, late.labels)
    assert not np.array_equal(early.records, make(corpus, seed=2)[1].plan(0).records)


def test_order_of_the_records_does_not_matter():
    index, sampler = make(CORPORA["skewed"])
    order = np.random.default_rng(1).permutation(len(index["label"]))
    mixed = Sampler(Population({name: column[order] for name, column in index.items()}, sampler.options))
    plan, same = sampler.plan(1), mixed.plan(1)
    assert np.array_equal(plan.records, order[same.records])
    assert np.array_equal(plan.starts, same.starts)


def test_plan_does_not_depend_on_the_size_of_its_chunks(monkeypatch: pytest.MonkeyPatch):
    whole = make(CORPORA["pareto"])[1].plan(2)
    monkeypatch.setattr(population, "CHUNK_RECORDS", 7)
    monkeypatch.setattr(sampling, "_CHUNK_SLOTS", 2)  # fewer than a group has
    parts = make(CORPORA["pareto"])[1].plan(2)
    assert np.array_equal(whole.table, parts.table)


def test_crops_are_worked_out_some_at_a_time_and_once(monkeypatch: pytest.MonkeyPatch):
    """Memory beside the plan does not grow with it."""
    monkeypatch.setattr(sampling, "_CHUNK_SLOTS", 30)
    sampler = make(CORPORA["windows"])[1]
    sizes = []
    whole = sampler.dealer.slots

    def slots(supply: Any, layout: Any, speaker: Ints, number: Ints) -> Any:
        sizes.append((len(speaker), len(number)))
        return whole(supply, layout, speaker, number)

    monkeypatch.setattr(sampler.dealer, "slots", slots)
    groups = sampler.plan(0).labels.size
    assert sizes == [(10, 10)] * (groups // 10) + [(groups % 10, groups % 10)] * (groups % 10 > 0)
    assert len(sizes) > 3


def test_a_batch_is_found_without_planning_and_its_epoch_is_worked_out_once(monkeypatch: pytest.MonkeyPatch):
    sampler = make([[[30]] * 3] * 4)[1]
    asked = []
    whole = sampler._parts.batches
    monkeypatch.setattr(sampler._parts, "batches", lambda key: asked.append(int(key[0])) or whole(key))
    assert [sampler.locate(epoch, number) for epoch in (0, 1) for number in (0, 1, 2)] == 2 * [(0, 0), (0, 1), (0, 2)]
    for epoch in (0, 1, 0, 1):  # two epochs meet where one follows the other
        sampler.locate(epoch, 0)
    assert len(asked) == 2
    sampler.locate(2, 0)
    sampler.locate(1, 0)
    assert len(asked) == 3
    sampler.locate(0, 0)  # forgotten
    assert len(asked) == 4


def test_records_of_a_part_may_be_in_any_shard():
    assert make([[[30]] * 3] * 4)[1].shards(0, 0) == []


def test_fewer_speakers_than_seats_is_refused():
    with pytest.raises(SamplingError, match="Largest N for M=3: 2; largest M for N=4: none"):
        make([[[10]] * 3] * 2)


@pytest.mark.parametrize("value", [-1, 0.5, None, 1 << 62])
def test_an_epoch_is_a_number_from_0(value: Any):
    with pytest.raises(ConfigError) as error:
        make([[[30]]] * 4)[1].plan(value)
    expected = f"an integer from 0 to {(1 << 62) - 1}"
    assert str(error.value) == f"epoch={value!r} cannot be used: expected {expected}"


def test_epochs_are_as_many_as_anybody_wants():
    for epoch in (1 << 40, (1 << 62) - 1):
        assert make([[[30]]] * 4)[1].plan(epoch).records.shape == (1, 12)


@pytest.mark.parametrize("part", [-1, 1, 0.5])
def test_a_part_is_one_of_those_that_there_are(part: Any):
    with pytest.raises(ConfigError) as error:
        make([[[30]]] * 4)[1].plan(0, part)
    assert str(error.value) == f"part={part!r} cannot be used: expected an integer from 0 to 0"


def test_uniform_quota_is_what_nine_in_ten_can_fill():
    assert quotas(np.array([1, *[50] * 9, 200]), 0).tolist() == [1] + [50] * 10
    assert quotas(np.array([1, 2, *[50] * 9]), 0).tolist() == [1, *[2] * 10]
    assert quotas(np.array([0, 3, 8]), 0).tolist() == [0, 3, 3]
    assert quotas(np.array([0, 0]), 0).tolist() == [0, 0]


def test_quota_grows_with_a_power_of_what_is_held():
    held = np.array([0, 1, *[4] * 20, 16, 400, 401])
    assert quotas(held, 1).tolist() == held.tolist()
    assert quotas(held, 0.5).tolist() == [0, 1, *[4] * 20, 8, 40, 40]
    assert quotas(held, 0.0).tolist() == [0, 1, *[4] * 20, 4, 4, 4]
    with decimal.localcontext() as context:  # that of the program is its own
        context.prec = 2
        assert quotas(np.array([*[4] * 20, 1_000_000]), 0.5).tolist() == [*[4] * 20, 2000]
        assert quotas(np.array([*[4] * 20, 998_002]), 0.5).tolist() == [*[4] * 20, 1998]
    assert quotas(np.array([*[1] * 20, 2, 1024]), 0.1).tolist() == [*[1] * 20, 1, 2]  # 1.07 and 2
