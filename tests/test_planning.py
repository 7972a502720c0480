"""The layout of a dataset: splits, labels and shards from totals per speaker."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ge2e_transforms import schema
from ge2e_transforms.augmentation import Added, Augmentation
from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import ConfigError, PlanError
from ge2e_transforms.identity import Tombstones
from ge2e_transforms.planning import (
    Augmented,
    ManifestSummary,
    PlanConfig,
    ShardTask,
    SoundList,
    SpeakerRange,
    SpeakerTotal,
    bytes_per_ms,
    content_of,
    expected_ms,
    generation_of,
    make_plan,
    nothing_to_do,
)
from ge2e_transforms.standing import Growth, KnownSpeaker, SplitRule, Standing, stable_hash
from ge2e_transforms.utterance import Utterance

RECIPE = Recipe()
MANIFESTS = [ManifestSummary("/data/manifest.csv", "ab" * 32, 100, 3)]
STANDING = Standing("0a1b2c3d", SplitRule("ge2e", 0, 0), "speakers.parquet", ("b", "z"), 7, {})
# Two copies of noise and one speed: a train speaker takes two labels, and 3 x (1 + 1 / 0.8) = 6.75 times the room.
AUGMENTED = Augmented(
    Augmentation(noise=Added("noise.csv", (0, 15), copies=2), speed=(0.8,)), (SoundList("noise", "ef" * 32, 9),)
)
BYTES_PER_MS = 16  # 40 bins of 4 bytes every 10 ms


def row(speaker="a/s", utterance="u", split="", **others):
    namespace, _, name = speaker.partition("/")
    return Utterance(f"{utterance}.wav", name, namespace, utterance, namespace, split=split, **others)


def total(speaker, milliseconds=5000, split="", source="a"):
    return SpeakerTotal(speaker, split, source, milliseconds)


def several(count, milliseconds=5000, split=""):
    return [total(f"a/{number:06d}", milliseconds, split) for number in range(count)]


def plan_of(totals, config=None, recipe=RECIPE, manifests=MANIFESTS):
    return make_plan(totals, manifests, config or PlanConfig(), recipe)


def shard_mib(milliseconds):
    """The size of a shard that holds so much speech."""
    return milliseconds * BYTES_PER_MS / 2**20


# The hash.


def test_the_hash_is_pinned():
    assert stable_hash("", "") == 13020603013274838756
    assert stable_hash("librispeech/1034", "ge2e") == 13704157065554537162
    assert stable_hash("librispeech/1034", "other") == 8770611159859225658
    assert stable_hash("Zoë", "part") == 2804192801263095061


def test_the_hash_is_uniform_and_its_salt_matters():
    hashes = [stable_hash(f"a/{number}", "ge2e") for number in range(4000)]
    tenths = Counter(value * 10 >> 64 for value in hashes)
    assert all(abs(tenths[tenth] - 400) < 100 for tenth in range(10))
    others = [stable_hash(f"a/{number}", "other") for number in range(4000)]
    both = sum(a >> 63 == b >> 63 for a, b in zip(hashes, others, strict=True))
    assert abs(both - 2000) < 160


# Lengths.


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, 8000),
        ({"duration_s": 1.2345}, 1234),
        ({"duration_s": 1.5, "bytes": 10**9}, 1500),
        ({"duration_s": 0.0001}, 1),
        ({"bytes": 320_000}, 16000),
        ({"bytes": 39_999}, 1999),
        ({"bytes": 0}, 1),
        ({"bytes": 320_000, "offset_s": 3.0}, 8000),  # a segment of a file of unknown length
        ({"duration_s": 2.0, "offset_s": 3.0}, 2000),
        ({"duration_s": 1e12}, 600_000),  # planned a hundred million shards
        ({"bytes": 2**53}, 600_000),
    ],
)
def test_length_of_a_row(values, expected):
    assert expected_ms(row(**values), 600) == expected


@pytest.mark.parametrize(
    ("max_seconds", "expected"), [(8.001, 8000), (8.0, 8000), (7.9996, 7999), (0.0011, 1), (0.0009, 1), (0.0, 1)]
)
def test_no_row_is_longer_than_rows_may_be_nor_of_no_length(max_seconds, expected):
    assert expected_ms(row(), max_seconds) == expected


# Options.


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"test_fraction": -0.1}, "test_fraction=-0.1"),
        ({"test_fraction": 1}, "test_fraction=1"),
        ({"valid_fraction": float("nan")}, "valid_fraction=nan"),
        ({"test_speakers": -1}, "test_speakers=-1"),
        ({"valid_speakers": -2}, "valid_speakers=-2"),
        ({"test_speakers": 3, "test_fraction": 0.1}, "give one of the two"),
        ({"test_fraction": 0.5, "valid_fraction": 0.5}, "leave nothing to train on"),
        ({"shard_mib": 0}, "shard_mib=0"),
        ({"shard_mib": 2049}, "shard_mib=2049"),
        ({"shard_mib": float("nan")}, "shard_mib=nan"),
        ({"min_shards": 0}, "min_shards=0"),
        ({"split_salt": "x" * 65}, "split_salt="),
        ({"split_salt": "é" * 33}, "split_salt="),
    ],
)
def test_options_that_cannot_be_used(options, named):
    with pytest.raises(ConfigError) as error:
        PlanConfig(**options)
    assert named in str(error.value)


def test_the_longest_salt_works():
    assert plan_of(several(50), PlanConfig(test_speakers=2, split_salt="x" * 64)).speakers["test"] == 2


# Layout.

sizes_of_speakers = st.lists(
    st.integers(1, 2000) | st.integers(1, 400_000) | st.integers(100_000, 4_000_000), min_size=1, max_size=60
)


def check_layout(plan, splits):
    """Labels run through the splits in sorted order; every shard has a task; rows find their shard."""
    tasks = plan.tasks
    assert list(plan.ranges) == sorted(splits, key=schema.split_key)
    assert plan.speakers == {split: len(splits[split]) for split in plan.ranges}
    label = shard = 0
    for split, ranges in plan.ranges.items():
        names = sorted(splits[split])
        own = tasks[shard : shard + plan.shards[split]]
        assert [task.shard for task in own] == list(range(len(own)))
        assert {(task.split, task.shards, task.generation) for task in own} == {(split, len(own), plan.generation)}
        firsts = [entry.first_speaker for entry in ranges]
        assert firsts == sorted(set(firsts))
        assert firsts[0] == names[0]
        for entry, following in itertools.zip_longest(ranges, ranges[1:]):
            assert entry.shard == shard
            members = [n for n in names if n >= entry.first_speaker and (not following or n < following.first_speaker)]
            assert members, "a shard without a speaker"
            assert entry.parts == 1 or len(members) == 1
            found = {plan.shard_of(row(name, f"u{k}", split)) for name in members for k in range(4 * entry.parts)}
            assert found <= set(range(shard, shard + entry.parts))
            for task in tasks[shard : shard + entry.parts]:
                assert task.label == label + names.index(members[0])
            shard += entry.parts
        label += len(names)
    assert shard == len(tasks)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_every_speaker_has_its_shard_and_every_shard_a_speaker(data):
    sizes = {
        split: data.draw(sizes_of_speakers)
        for split in data.draw(st.sets(st.sampled_from(["train", "test", "dev"]), min_size=1))
    }
    splits = {split: [f"a/{split}{n:03d}" for n in range(len(values))] for split, values in sizes.items()}
    totals = [
        total(name, size, split)
        for split, values in sizes.items()
        for name, size in zip(splits[split], values, strict=True)
    ]
    config = PlanConfig(shard_mib=shard_mib(300_000), min_shards=data.draw(st.integers(1, 20)))
    plan = plan_of(data.draw(st.permutations(totals)), config)
    check_layout(plan, splits)
    for split, ranges in plan.ranges.items():
        assert sum(entry.parts for entry in ranges) == plan.shards[split] >= min(len(splits[split]), config.min_shards)


def loads(plan, totals):
    """Milliseconds of every shard, cut speakers shared out evenly."""
    held = Counter()
    for speaker, _, _, size in totals:
        ranges = plan.ranges["train"]
        entry = max(entry for entry in ranges if entry.first_speaker <= speaker)
        for part in range(entry.parts):
            held[entry.shard + part] += size / entry.parts
    return [held[number] for number in range(len(plan.tasks))]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=300), st.integers(1, 16))
def test_shards_are_of_nearly_equal_size(sizes, least):
    limit = 300_000
    totals = [total(f"a/{number:04d}", size) for number, size in enumerate(sizes)]
    plan = plan_of(totals, PlanConfig(shard_mib=shard_mib(limit), min_shards=least))
    count = len(plan.tasks)
    assert count == min(len(sizes), max(-(-sum(sizes) // limit), least))
    # A cut is within half a speaker of where it should be, so a shard is within one of its share.
    assert max(loads(plan, totals)) <= sum(sizes) / count + max(sizes) * (1 if count < len(sizes) else count)


def test_equal_speakers_make_equal_shards():
    totals = several(1000, 60_000)
    plan = plan_of(totals, PlanConfig(shard_mib=shard_mib(600_000)))
    assert len(plan.tasks) == 100
    assert set(loads(plan, totals)) == {600_000}


def test_layout_of_a_small_dataset_is_pinned():
    totals = [total("a/x", 4000), total("a/y", 1000), total("a/z", 1000), total("b/a", 9000, source="b")]
    plan = plan_of(totals, PlanConfig(min_shards=2))
    assert plan.ranges == {"train": (SpeakerRange("a/x", 0, 0, 1, 6000), SpeakerRange("b/a", 3, 1, 1, 9000))}
    assert plan.shards == {"train": 2}
    assert plan.sources == ("a", "b")
    assert plan.manifests == tuple(MANIFESTS)
    assert plan.tasks == [ShardTask("train", 0, 2, 0, plan.generation), ShardTask("train", 1, 2, 3, plan.generation)]
    assert plan.tasks[1].base == f"train/features-{plan.generation}-00001-of-00002"
    assert [plan.shard_of(row(name)) for name in ("a/x", "a/y", "a/z", "b/a")] == [0, 0, 0, 1]


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_shards_dealt_out_largest_first_end_together(workers):
    """In the order of the speakers a worker may be given the smaller of each two, and stand idle at the end."""
    totals = [total(f"{source}/{n:03d}", 1000 * (1 + n * n % 97), source=source) for source in "ab" for n in range(200)]
    plan = plan_of(totals, PlanConfig(shard_mib=shard_mib(300_000)))
    sizes = loads(plan, totals)
    order = plan.largest_first()
    assert sorted(order) == list(range(len(plan.tasks)))
    shares = [sum(sizes[number] for number in order[worker::workers]) for worker in range(workers)]
    assert max(shares) - min(shares) <= max(sizes)


@pytest.mark.parametrize(("speakers", "shards"), [(1, 1), (5, 5), (16, 16), (17, 16), (400, 16)])
def test_small_jobs_have_a_shard_for_every_core(speakers, shards):
    assert plan_of(several(speakers)).shards == {"train": shards}


def test_every_split_has_its_own_shards():
    plan = plan_of([*several(40, split="train"), total("b/1", split="test"), total("b/2", split="zoo")])
    assert plan.shards == {"train": 16, "test": 1, "zoo": 1}
    assert [task.label for task in plan.tasks[-2:]] == [40, 41]
    assert [plan.shard_of(row(name, split=split)) for name, split in (("b/1", "test"), ("b/2", "zoo"))] == [16, 17]
    assert [(task.split, task.keep_all) for task in plan.tasks[15:]] == [
        ("train", False),
        ("test", True),
        ("zoo", True),
    ]


def test_a_giant_speaker_is_cut_in_parts():
    totals = [total("a/1", 1000), total("a/2", 1_800_001), total("a/3", 1000), total("a/4", 600_000)]
    plan = plan_of(totals, PlanConfig(shard_mib=shard_mib(300_000), min_shards=1))
    assert plan.ranges["train"] == (
        SpeakerRange("a/1", 0, 0, 1, 1000),
        SpeakerRange("a/2", 1, 1, 7, 257_143),
        SpeakerRange("a/3", 2, 8, 1, 1000),
        SpeakerRange("a/4", 3, 9, 1, 600_000),  # twice the limit is not yet cut
    )
    assert [task.label for task in plan.tasks] == [0, 1, 1, 1, 1, 1, 1, 1, 2, 3]
    assert plan.largest_first() == [9, 1, 2, 3, 4, 5, 6, 7, 0, 8]
    held = Counter(plan.shard_of(row("a/2", f"utterance {number}")) for number in range(7000))
    assert sorted(held) == list(range(1, 8))
    assert all(abs(count - 1000) < 150 for count in held.values())
    # Doubles of an utterance meet in one shard, whichever rows they are.
    assert plan.shard_of(row("a/2", "u", position=1)) == plan.shard_of(row("a/2", "u", position=2))


def test_giants_between_small_speakers_do_not_make_many_small_shards():
    totals = [total(f"a/{n:05d}", 1_000_000 if n % 100 == 99 else 1000) for n in range(5000)]
    plan = plan_of(totals, PlanConfig(shard_mib=shard_mib(300_000)))
    assert len(plan.tasks) == 50 * (1 + 4)  # 99 small speakers together, then a giant in four parts


def test_size_of_a_shard_follows_the_recipe():
    def shards(recipe):
        return len(plan_of(several(500, 60_000), PlanConfig(shard_mib=shard_mib(600_000)), recipe).tasks)

    assert shards(RECIPE) == 50
    assert shards(RECIPE.replace(n_mels=80)) == 100
    assert shards(RECIPE.replace(features="raw")) == 100  # 32 bytes a millisecond
    assert shards(RECIPE.replace(features="mfcc")) == 25


def test_the_order_of_totals_and_manifests_does_not_matter():
    totals = [*several(30), total("b/1", 10**7, "test", "b"), total("b/1", 3, "test", "c")]
    manifests = [ManifestSummary(f"m{number}.csv", "00", 5, 0) for number in range(3)]
    plans = [
        plan_of(order, PlanConfig(test_speakers=3), manifests=paths)
        for order, paths in ((totals, manifests), (totals[::-1], manifests[::-1]), (totals[7:] + totals[:7], manifests))
    ]
    assert plans[0] == plans[1] == plans[2]


def test_totals_of_one_speaker_add_up():
    one = plan_of([total("a/1", 700_000), total("a/2", 1)], PlanConfig(shard_mib=shard_mib(300_000)))
    two = plan_of(
        [total("a/1", 400_000), total("a/2", 1), total("a/1", 300_000, source="b")],
        PlanConfig(shard_mib=shard_mib(300_000)),
    )
    assert one.ranges == two.ranges
    assert two.sources == ("a", "b")


def test_a_shard_is_never_of_less_than_a_millisecond():
    plan = plan_of([total("a/1", 5), total("a/2", 1)], PlanConfig(shard_mib=1e-9, min_shards=1))
    assert plan.ranges["train"] == (SpeakerRange("a/1", 0, 0, 5, 1), SpeakerRange("a/2", 1, 5, 1, 1))


def test_copies_make_a_split_larger_and_speeds_take_labels():
    """Only train is augmented by default."""
    totals = [total("a/1", 1001), total("a/2", 4000), total("b/1", 3000, "test"), total("b/2", 2000, "test")]
    totals = [entry if entry.split else entry._replace(split="train") for entry in totals]
    plan = make_plan(totals, MANIFESTS, PlanConfig(), RECIPE, augmented=AUGMENTED)
    assert plan.ranges == {
        "train": (SpeakerRange("a/1", 0, 0, 1, 6757), SpeakerRange("a/2", 2, 1, 1, 27000)),
        "test": (SpeakerRange("b/1", 4, 2, 1, 3000), SpeakerRange("b/2", 5, 3, 1, 2000)),
    }
    assert plan.next_label == 6
    assert plan.augmented is AUGMENTED


def test_what_is_added_keeps_splits_labels_and_sources_of_what_stands():
    known = {"a/w": KnownSpeaker("test", 5), "a/x": KnownSpeaker("train", 2)}
    totals = [total(f"a/{name}", source=source) for name, source in [("w", "a"), ("x", "b"), ("y", "c"), ("z", "a")]]
    growth = Growth("add", STANDING, known)
    plan = make_plan(totals, MANIFESTS, PlanConfig(min_shards=3), RECIPE, growth=growth)
    assert plan.ranges["train"] == (
        SpeakerRange("a/x", 7, 0, 1, 5000),  # its own label is among those that stand
        SpeakerRange("a/y", 7, 1, 1, 5000),
        SpeakerRange("a/z", 8, 2, 1, 5000),
    )
    assert plan.ranges["test"] == (SpeakerRange("a/w", 9, 3, 1, 5000),)
    assert (plan.next_label, plan.sources, plan.kind) == (9, ("b", "z", "a", "c"), "add")
    assert plan.grows is STANDING
    assert plan.rule is STANDING.rule
    assert plan.elsewhere == {"a/w": "test"}
    assert [plan.split_of("a/w", named) for named in ("", "test", "dev")] == ["test", "test", "dev"]
    assert plan.split_of("a/y", "") == "train"
    assert plan.shard_of(row("a/w")) == 3
    assert plan.generation == generation_of(plan.content, 0, None, "0a1b2c3d")
    assert plan.content == content_of(MANIFESTS, PlanConfig(min_shards=3), RECIPE, "add")
    assert not plan.nothing_to_do


def test_a_plan_without_anything_to_add_to():
    plan = make_plan(several(2), MANIFESTS, PlanConfig(), RECIPE, 3)
    assert (plan.edition, plan.kind, plan.standing, plan.pseudonyms, plan.next_label) == (3, "run", "", "", 2)
    assert plan.elsewhere == {}
    assert plan.grows is plan.erased is plan.augmented is None
    assert plan.content == content_of(MANIFESTS, PlanConfig(), RECIPE, "run", "", (), None)
    assert plan.generation == generation_of(plan.content, 3, None, "")


def test_a_plan_of_what_is_there_already():
    manifests = [ManifestSummary(f"{name}.csv", "00", 5, 0) for name in "ba"]
    present = {"generation": "0a1b2c3d", "edition": 4, "datasets": ["b", "a"]}
    present["split_rule"] = {"salt": "s", "test_below": 1, "valid_below": 2}
    plan = nothing_to_do(present, manifests)
    assert plan.nothing_to_do
    assert (plan.generation, plan.standing, plan.edition, plan.sources) == ("0a1b2c3d", "0a1b2c3d", 4, ("b", "a"))
    assert plan.rule == SplitRule("s", 1, 2)
    assert plan.manifests == (manifests[1], manifests[0])
    assert (plan.ranges, plan.shards, plan.speakers, plan.tasks, plan.largest_first()) == ({}, {}, {}, [], [])


# Splits.


def drawn(plan, totals):
    return {
        split: {t.speaker for t in totals if (t.split or plan.rule.split_of(t.speaker)) == split}
        for split in plan.ranges
    }


@pytest.mark.parametrize(("test", "valid"), [(0, 0), (1, 0), (0, 1), (40, 0), (7, 13), (50, 49)])
def test_exactly_so_many_speakers_are_drawn(test, valid):
    totals = several(100)
    plan = plan_of(totals, PlanConfig(test_speakers=test, valid_speakers=valid))
    expected = {"train": 100 - test - valid, "valid": valid, "test": test}
    assert plan.speakers == {split: count for split, count in expected.items() if count}
    assert {split: len(names) for split, names in drawn(plan, totals).items()} == plan.speakers
    for split, names in drawn(plan, totals).items():
        assert {plan.split_of(name, "") for name in names} == {split}
        assert {plan.tasks[plan.shard_of(row(name))].split for name in names} == {split}
    hashes = sorted(stable_hash(t.speaker, "ge2e") for t in totals)
    assert {stable_hash(name, "ge2e") for name in drawn(plan, totals).get("test", ())} == set(hashes[:test])


@pytest.mark.parametrize(
    ("options", "test", "valid"),
    [
        ({"test_fraction": 0.1}, 200, 0),
        ({"test_fraction": 0.1, "valid_fraction": 0.2}, 200, 400),
        ({"valid_fraction": 0.2}, 0, 400),
        ({"test_speakers": 500, "valid_fraction": 0.2}, 500, 400),
        ({"test_fraction": 0.25, "valid_speakers": 100}, 500, 100),
    ],
)
def test_fractions_of_the_speakers_are_drawn(options, test, valid):
    plan = plan_of(several(2000), PlanConfig(**options))
    for split, count in (("test", test), ("valid", valid)):
        exact = f"{split}_speakers" in options or not count
        assert abs(plan.speakers.get(split, 0) - count) <= (0 if exact else 55)  # three standard deviations
    assert sum(plan.speakers.values()) == 2000


def test_what_is_drawn_stays_when_speakers_are_added():
    few, many = several(500), several(1000)
    config = PlanConfig(test_fraction=0.2, valid_fraction=0.2)
    before, after = drawn(plan_of(few, config), few), drawn(plan_of(many, config), many)
    for split in ("train", "valid", "test"):
        assert before[split] <= after[split]


def test_another_salt_draws_others():
    totals = several(200)
    one, other = (
        drawn(plan_of(totals, PlanConfig(test_speakers=50, split_salt=salt)), totals)["test"] for salt in ("a", "b")
    )
    assert len(one & other) < 30


def test_stated_splits_stay_and_only_the_others_are_drawn_from():
    stated = [total(f"b/{number}", split=split) for number, split in enumerate(["train", "test", "dev"] * 20)]
    totals = several(40) + stated
    plan = plan_of(totals, PlanConfig(test_speakers=10, valid_speakers=5))
    assert plan.speakers == {"train": 25 + 20, "valid": 5, "test": 10 + 20, "dev": 20}
    found = drawn(plan, totals)
    assert {t.speaker for t in stated if t.split == "dev"} == found["dev"]
    assert sum(name.startswith("a/") for name in found["test"]) == 10


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 60), st.floats(0, 0.45), st.floats(0, 0.45), st.text(max_size=10))
def test_splits_never_share_a_speaker_and_lose_none(count, test, valid, salt):
    totals = several(count)
    try:
        plan = plan_of(totals, PlanConfig(test_fraction=test, valid_fraction=valid, split_salt=salt))
    except PlanError as error:
        assert "one must remain to train on" in str(error)
        return
    found = drawn(plan, totals)
    assert sum(map(len, found.values())) == count == len(set().union(*found.values()))
    assert found["train"]


@pytest.mark.parametrize("splits", [("train", "test"), ("", "train"), ("test", "")])
def test_a_speaker_in_two_splits_is_named(splits):
    totals = [*several(5), total("a/twice", split=splits[0]), total("a/twice", split=splits[1])]
    with pytest.raises(PlanError, match="speaker 'a/twice' is in more than one split: its rows name") as error:
        plan_of(totals)
    for split in splits:
        assert (repr(split) if split else "none") in str(error.value)


@pytest.mark.parametrize(
    "options", [{"test_speakers": 2}, {"valid_speakers": 2}, {"test_fraction": 0.1}, {"valid_fraction": 0.1}]
)
def test_drawing_from_nobody_is_refused(options):
    with pytest.raises(PlanError, match="name the split of every speaker, so there is nothing to draw"):
        plan_of(several(20, split="train"), PlanConfig(**options))


@pytest.mark.parametrize(
    "options",
    [
        {"test_speakers": 10},
        {"test_speakers": 6, "valid_speakers": 4},
        {"test_speakers": 100},
        {"valid_speakers": 100},
        {"test_fraction": 0.95, "valid_speakers": 3},
        {"test_speakers": 8, "valid_fraction": 0.9},
    ],
)
def test_one_speaker_must_remain_to_train_on(options):
    with pytest.raises(PlanError, match=r"all of the 10 speakers .* one must remain to train on"):
        plan_of(several(10), PlanConfig(**options))


def test_no_usable_row_says_how_many_there_were():
    manifests = [ManifestSummary(f"{name}.csv", "", number, number - 1) for number, name in enumerate("abcd", 1)]
    with pytest.raises(PlanError) as error:
        plan_of([], manifests=manifests)
    assert str(error.value) == (
        "no usable row in 4 manifest(s) (a.csv, b.csv, c.csv): 10 rows read, 6 rejected. Every row needs an audio_path "
        "and a speaker_id; `ge2e manifest` writes such a file from a folder of speech"
    )


@pytest.mark.parametrize(("kind", "said"), [("retry", "no row that the ledger"), ("add", "no usable row in 2")])
def test_no_row_to_retry_is_another_matter(kind, said):
    manifests = [ManifestSummary(f"{name}.csv", "", 7, 0) for name in "ab"]
    with pytest.raises(PlanError, match=f"^{said}") as error:
        make_plan([], manifests, PlanConfig(), RECIPE, growth=Growth(kind, STANDING, {}))
    assert kind == "add" or str(error.value) == (
        "no row that the ledger rejects stands in its place any more (of 2 manifests, first a.csv): were they changed? "
        "`ge2e add` takes a changed manifest"
    )


# Generation and size.


def test_the_generation_is_pinned():
    assert plan_of(several(3)).generation == "e44d5629"


def test_the_generation_names_all_that_decides_the_bytes():
    def generation(totals=3, config=None, recipe=RECIPE, manifests=MANIFESTS):
        return plan_of(several(totals), config, recipe, manifests).generation

    (summary,) = MANIFESTS
    found = [
        generation(),
        generation(recipe=RECIPE.replace(n_mels=41)),
        generation(recipe=RECIPE.replace(max_part_s=61)),
        generation(config=PlanConfig(test_speakers=1)),
        generation(config=PlanConfig(shard_mib=127)),
        generation(config=PlanConfig(min_shards=15)),
        generation(config=PlanConfig(split_salt="x")),
        generation(manifests=[summary._replace(sha256="cd" * 32)]),
        generation(manifests=[summary, summary._replace(path="other.csv")]),
    ]
    assert len(set(found)) == len(found)
    assert all(len(name) == 8 and int(name, 16) >= 0 for name in found)
    assert generation(config=PlanConfig(shard_mib=128, test_fraction=0)) == found[0]


def test_the_content_is_pinned():
    """Jobs find by it what they wrote themselves, also those of an older version."""
    assert content_of(MANIFESTS, PlanConfig(), RECIPE) == "75d201f0"
    others = {"kind": "add", "pseudonyms": "check", "allow_schemes": ["s3", "gs", "s3"], "augmented": AUGMENTED}
    assert content_of(MANIFESTS, PlanConfig(), RECIPE, **others) == "537c8818"
    assert content_of(MANIFESTS, PlanConfig(), RECIPE, **others | {"allow_schemes": ("gs", "s3")}) == "537c8818"
    alone = [content_of(MANIFESTS, PlanConfig(), RECIPE, **{name: value}) for name, value in others.items()]
    assert len({*alone, "75d201f0", "537c8818"}) == 6
    read = [summary._replace(path=path) for path in ("a", "b") for summary in MANIFESTS]
    assert content_of(read, PlanConfig(), RECIPE) == content_of(read[::-1], PlanConfig(), RECIPE)


def test_generations_tell_apart_what_the_content_does_not():
    erased = Tombstones("00" * 16, frozenset({"ab" * 16}))
    assert generation_of("c", 0) == generation_of("c", 0, Tombstones("00" * 16, frozenset()), "") == "f729c345"
    assert generation_of("c", 1) == "e5d7d1fe"
    assert generation_of("c", 0, erased) == "8b928a16"
    assert generation_of("c", 0, None, "0a1b2c3d") == "99fb8f51"


def test_all_that_a_plan_is_asked_for_is_part_of_it():
    erased = Tombstones("00" * 16, frozenset({"ab" * 16}))
    others = {"pseudonyms": "check", "allow_schemes": ["gs"], "augmented": AUGMENTED}
    plan = make_plan(several(2), MANIFESTS, PlanConfig(), RECIPE, 1, erased=erased, **others)
    assert plan.content == content_of(MANIFESTS, PlanConfig(), RECIPE, "run", **others)
    assert plan.generation == generation_of(plan.content, 1, erased)
    assert (plan.erased, plan.pseudonyms) == (erased, "check")


def test_bytes_of_a_millisecond():
    assert [bytes_per_ms(RECIPE.replace(**changes)) for changes in ({}, {"n_mels": 80}, {"dtype": "float16"})] == [
        BYTES_PER_MS,
        2 * BYTES_PER_MS,
        BYTES_PER_MS / 2,
    ]


def test_a_shard_of_halves_holds_twice_the_speech():
    recipes = RECIPE, RECIPE.replace(dtype="float16")
    floats, halves = (plan_of(several(4000, 300_000), recipe=recipe).shards["train"] for recipe in recipes)
    assert (floats, halves) == (144, 72)


def test_a_plan_is_small_whatever_the_number_of_speakers():
    plan = plan_of(several(200_000, 300_000), PlanConfig(test_fraction=0.05))
    assert len(pickle.dumps(plan)) < 36 * 7153 < 260_000  # 16,667 hours in shards of 2.3 hours
    assert sum(plan.shards.values()) == 7153
    assert sum(plan.speakers.values()) == 200_000
    assert pickle.loads(pickle.dumps(plan)) == plan
