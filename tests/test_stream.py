"""One stream for all readers: steps, hosts, states, labels, choices; the same batches whoever reads them."""

from __future__ import annotations

import itertools
import json
import pickle
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_dataset import DEFAULT, speakers, write_dataset, write_twins

from ge2e_transforms import BatchLoader, MelAugment, SpecAugment
from ge2e_transforms.errors import ConfigError, DatasetError, SamplingError
from ge2e_transforms.stream import Batch, Position

pytestmark = pytest.mark.filterwarnings("ignore:an epoch of split")
OPTIONS: dict[str, Any] = {"speakers_per_batch": 3, "utterances_per_speaker": 2, "speakers": "proportional", "seed": 7}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 train speakers with 5 utterances, and a test split."""
    splits = {"train": speakers("a", 11, 0, 5), "test": speakers("b", 4, 55, 5)}
    return write_dataset(tmp_path_factory.mktemp("dataset"), splits, shards=4)


def open_loader(root: Path, **options: Any) -> BatchLoader:
    return BatchLoader(root, **{**OPTIONS, **options})


def same(one: Iterable[Batch], other: Iterable[Batch]) -> int:
    """Asserts that two streams are equal to the bit; returns how long they are."""
    count = 0
    for (examples, labels), (wanted, wanted_labels) in itertools.zip_longest(one, other, fillvalue=((), ())):
        assert np.array_equal(examples, wanted)
        assert np.array_equal(labels, wanted_labels)
        count += 1
    return count


# State and resume.


@pytest.mark.parametrize("step", [0, 1, 5, -1])
def test_a_stream_goes_on_from_any_step(root: Path, step: int):
    loader = open_loader(root)
    step %= loader.steps_per_epoch
    rest = list(loader.batches(epochs=2))[step:]
    assert same(loader.batches(epochs=2, start=(0, step)), rest) == 2 * loader.steps_per_epoch - step
    later = list(loader.batches(epochs=3))[loader.steps_per_epoch + step :]
    assert same(loader.batches(epochs=2, start=(1, step)), later) == len(later)


def test_the_end_of_an_epoch_is_the_start_of_the_next(root: Path):
    loader = open_loader(root)
    steps = loader.steps_per_epoch
    assert same(loader.batches(epochs=2, start=(0, steps)), loader.batches(epochs=1, start=(1, 0))) == steps
    iterator = loader.batches(epochs=2)
    for _ in range(steps):
        next(iterator)
    assert (iterator.state_dict()["epoch"], iterator.state_dict()["step"]) == (1, 0)


def test_a_state_makes_another_iterator_go_on(root: Path):
    loader = open_loader(root)
    for done in (0, 3, loader.steps_per_epoch, loader.steps_per_epoch + 2):
        iterator = loader.batches(epochs=3)
        for _ in range(done):
            next(iterator)
        state = json.loads(json.dumps(iterator.state_dict()))
        resumed = open_loader(root).batches(epochs=3)
        resumed.load_state_dict(state)
        assert same(resumed, iterator) == 3 * loader.steps_per_epoch - done


def test_resuming_reads_nothing_of_what_came_before(root: Path, monkeypatch: pytest.MonkeyPatch):
    loader = open_loader(root)
    places: list[Position] = []
    batch = type(loader.stream("train")).batch
    monkeypatch.setattr(type(loader.stream("train")), "batch", lambda s, p, **k: places.append(p) or batch(s, p, **k))
    next(loader.batches(epochs=None, start=(5, 4)))
    assert places == [Position(5, 4)]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seed": 8}, r"seed \(then 7, now 8\)"),
        ({"utterances_per_speaker": 3}, r"batches_per_epoch .*utterances_per_speaker \(then 2, now 3\)"),
        ({"speakers_per_batch": 4}, "speakers_per_batch"),
        ({"crop_frames": 100}, "crop_frames"),
        ({"crop_frames": (100, 121, 3)}, "crop_frames"),
        ({"distinct": "any"}, "distinct"),
        ({"exclude_speakers": ["test/a3"]}, "filters"),
        ({"speaker_order": lambda epoch: [2, 1]}, "speaker_order"),
    ],
)
def test_a_state_of_other_batches_is_refused(root: Path, changed: dict[str, Any], told: str):
    state = open_loader(root).batches().state_dict()
    with pytest.raises(SamplingError, match=f"other batches.*{told}"):
        open_loader(root, **changed).batches().load_state_dict(state)


@pytest.mark.parametrize("changed", [{"normalize": "crop"}, {"layout": "time_mel"}, {"labels": "dense"}])
def test_a_state_does_not_mind_how_batches_are_delivered(root: Path, changed: dict[str, Any]):
    state = open_loader(root).batches(start=(0, 3)).state_dict()
    iterator = open_loader(root, **changed).batches()
    iterator.load_state_dict(state)
    assert iterator.state_dict()["step"] == 3


def test_a_state_of_another_dataset_or_split_is_refused(root: Path, tmp_path: Path):
    write_dataset(tmp_path, {"train": speakers("a", 11, 0, 5)}, shards=3)
    state = open_loader(root).batches().state_dict()
    with pytest.raises(SamplingError, match="dataset"):
        open_loader(tmp_path).batches().load_state_dict(state)
    with pytest.raises(SamplingError, match="split"):
        open_loader(root).batches("test").load_state_dict(state)


@pytest.mark.parametrize("state", [{}, None, {"epoch": 0, "step": 0}, 7])
def test_what_is_no_state_is_refused(root: Path, state: Any):
    with pytest.raises(ConfigError, match="state"):
        open_loader(root).batches().load_state_dict(state)


@pytest.mark.parametrize("start", [(0, -1), (-1, 0), (0, 10_000), (0.5, 0), 3, (1, 2, 3)])
def test_a_start_that_is_no_place_is_refused(root: Path, start: Any):
    with pytest.raises(ConfigError, match="start"):
        open_loader(root).batches(start=start)


# Hosts.


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_hosts_share_the_stream_of_one(root: Path, count: int):
    single = open_loader(root)
    steps = single.steps_per_epoch // count
    hosts = [open_loader(root, host_index=index, host_count=count) for index in range(count)]
    assert {loader.steps_per_epoch for loader in hosts} == {steps}
    for epoch in range(2):
        turns = zip(*(loader.batches(start=(epoch, 0)) for loader in hosts), strict=True)
        union = [batch for turn in turns for batch in turn]
        whole = list(single.batches(start=(epoch, 0)))
        assert same(union, whole[: steps * count]) == steps * count


@pytest.mark.parametrize("seed", range(25))
def test_another_number_of_hosts_goes_on_with_the_same_stream(root: Path, seed: int):
    rng = random.Random(seed)
    hosts, others, epochs, done = rng.randint(1, 5), rng.randint(1, 5), rng.randint(1, 3), rng.randint(0, 60)

    def loaders(count: int) -> list[BatchLoader]:
        return [open_loader(root, host_index=index, host_count=count) for index in range(count)]

    first = loaders(hosts)
    iterators = [loader.batches(epochs=epochs) for loader in first]
    done %= epochs * first[0].steps_per_epoch + 1
    for iterator in iterators:
        for _ in range(done):
            next(iterator)
    states = [iterator.state_dict() for iterator in iterators]
    assert all(state == states[0] for state in states)
    resumed = [loader.batches(epochs=epochs) for loader in loaders(others)]
    for iterator in resumed:
        iterator.load_state_dict(states[0])
    single = open_loader(root)
    b, place = single.steps_per_epoch, (states[0]["epoch"], states[0]["step"])
    expected = []
    for epoch in range(place[0], epochs):
        begin = place[1] if epoch == place[0] else 0
        numbers = range(begin, begin + (b - begin) // others * others)
        whole = list(single.batches(start=(epoch, 0)))
        expected += [whole[number] for number in numbers]
    union = [batch for turn in zip(*resumed, strict=True) for batch in turn]
    assert same(union, expected) == len(expected)


def test_a_global_batch_is_shared_row_by_row(root: Path):
    whole = open_loader(root, speakers_per_batch=6)
    hosts = [open_loader(root, host_index=index, host_count=2, global_batch=True) for index in range(2)]
    assert hosts[0].steps_per_epoch == hosts[1].steps_per_epoch == whole.steps_per_epoch
    halves = zip(*(loader.batches(epochs=2) for loader in hosts), strict=True)
    joined = [tuple(np.concatenate(parts) for parts in zip(*pair, strict=True)) for pair in halves]
    assert same(joined, whole.batches(epochs=2)) == 2 * whole.steps_per_epoch
    state = hosts[1].batches(start=(1, 2)).state_dict()
    iterator = whole.batches()
    iterator.load_state_dict(state)  # one host of twice the speakers has the same batches
    assert iterator.state_dict() == state


@pytest.mark.parametrize("options", [{"host_index": 2, "host_count": 2}, {"host_count": 0}, {"global_batch": 1}])
def test_hosts_are_checked(root: Path, options: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"host_|global_batch"):
        open_loader(root, **options)


def test_more_hosts_than_batches_is_refused(root: Path):
    with pytest.raises(SamplingError, match=r"has \d+ batches, fewer than host_count=1000"):
        open_loader(root, host_count=1000).batches()


# What a batch holds.


def records_of(examples: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return examples[:, 0, 0].astype(np.int64) // 2048


def test_lengths_of_crops_are_drawn_per_batch(root: Path):
    loader = open_loader(root, crop_frames=(60, 120, 20))
    lengths = []
    for examples, _ in loader.batches(epochs=4):
        corner = examples[:, 0, 0]
        rows = examples.shape[2]
        lengths.append(rows)
        expected = corner[:, None, None] + np.arange(DEFAULT.n_bins)[:, None] / 64 + np.arange(rows)
        assert np.array_equal(examples, expected)  # every crop is a stretch of its record
    assert set(lengths) == {60, 80, 100, 120}
    again = [examples.shape[2] for examples, _ in open_loader(root, crop_frames=(60, 120, 20)).batches(epochs=4)]
    assert again == lengths


def test_a_short_crop_can_begin_anywhere(tmp_path: Path):
    """Records of 40 rows, longest crop 40: a crop of 10 begins at any of 31 rows, not at the first only."""
    values = [[np.arange(40, dtype=np.float32)[:, None] + np.zeros(DEFAULT.n_bins, np.float32)]] * 4
    write_dataset(tmp_path, {"train": {f"s{i}": values for i in range(3)}})
    starts: set[int] = set()
    for examples, _ in open_loader(tmp_path, crop_frames=(10, 40, 30)).batches(epochs=200):
        if examples.shape[2] == 10:
            starts |= set(examples[:, 0, 0].astype(int).tolist())
    assert starts == set(range(31))


def test_labels_are_mapped_dense_or_original(root: Path):
    """Only the test split and two speakers less: mapped labels begin at 11 and have a gap."""
    options = {"exclude_speakers": ["test/b1"], "min_utterances": 2}
    mapped, dense, original = (open_loader(root, labels=kind, **options) for kind in ("mapped", "dense", "original"))
    names = ["test/b0", "test/b2", "test/b3"]
    assert dense.speaker_ids("test") == names
    batches = [list(loader.batches("test")) for loader in (mapped, dense, original)]
    for (_, one), (_, two), (_, three) in zip(*batches, strict=True):
        assert set(one.tolist()) == {11, 13, 14}
        assert two.tolist() == [{11: 0, 13: 1, 14: 2}[label] for label in one.tolist()]
        assert three.tolist() == [names[label] for label in two.tolist()]


def test_speakers_and_sources_are_filtered(root: Path):
    chosen = [f"test/a{s}" for s in (1, 4, 7, 9)]
    loader = open_loader(root, only_speakers=chosen, labels="original")
    assert {name for _, labels in loader.batches(epochs=2) for name in labels.tolist()} == set(chosen)
    with pytest.raises(
        ConfigError, match=r"only_speakers: 2 of 3 names are no speaker of .*'a1', 'x'; it has names such"
    ):
        open_loader(root, only_speakers=["a1", "x", "test/a1"])
    with pytest.raises(
        ConfigError, match=r"sources: 1 of 1 names are no source .*'other'; it has names such as 'test'"
    ):
        open_loader(root, sources=["other"])
    assert open_loader(root, sources=["test"]).steps_per_epoch == open_loader(root).steps_per_epoch
    with pytest.raises(ConfigError, match="a list of names"):
        open_loader(root, exclude_speakers="test/a1")
    with pytest.raises(SamplingError, match="Largest N"):
        open_loader(root, min_utterances=6).batches()


def test_one_utterance_a_speaker_makes_plain_shuffled_batches(root: Path):
    loader = open_loader(root, utterances_per_speaker=1, speakers_per_batch=5)
    seen: list[float] = []
    for examples, labels in loader.batches():
        assert len(set(labels.tolist())) == 5
        seen += examples[:, 0, 0].tolist()
    assert len(set(seen)) == len(seen) == loader.coverage()["used"]
    assert len(seen) > 0.9 * loader.coverage()["slots"]


def test_neighbours_in_the_order_meet(root: Path):
    """Even labels first, then odd ones: most batches hold one kind."""
    order = [*range(0, 11, 2), *range(1, 11, 2)]
    loader = open_loader(root, speaker_order=lambda epoch: order)
    kinds = [len({label % 2 for label in labels.tolist()}) for _, labels in loader.batches(epochs=3)]
    free = [len({label % 2 for label in labels.tolist()}) for _, labels in open_loader(root).batches(epochs=3)]
    assert np.mean(kinds) <= 1.5 < 1.7 < np.mean(free)
    assert len(kinds) == len(free)
    asked: list[int] = []
    next(open_loader(root, speaker_order=lambda epoch: asked.append(epoch) or order).batches(epochs=5))
    assert asked == [0]  # later epochs are not planned ahead of what the model learns until then
    for wrong in ([0, 99], [1, 1]):
        with pytest.raises(ConfigError, match=r"speaker_order\(0\) gave"):
            next(open_loader(root, speaker_order=lambda epoch, wrong=wrong: wrong).batches())


def test_masks_are_the_same_on_every_host_and_after_a_resume(root: Path):
    masked = {"spec_augment": SpecAugment(), "normalize": "dataset"}
    whole = list(open_loader(root, **masked).batches(epochs=2))
    plain = list(open_loader(root, normalize="dataset").batches(epochs=2))
    hidden = [(one != other).mean() for (one, _), (other, _) in zip(whole, plain, strict=True)]
    assert 0.1 < np.mean(hidden) < 0.5
    assert len(set(hidden)) == len(hidden)
    assert same(open_loader(root, **masked).batches(epochs=2, start=(0, 4)), whole[4:])
    steps = open_loader(root).steps_per_epoch // 2
    turns = zip(*(open_loader(root, host_index=i, host_count=2, **masked).batches() for i in range(2)), strict=True)
    assert same((batch for turn in turns for batch in turn), whole[: 2 * steps]) == 2 * steps


def test_masks_hide_by_the_mean_of_the_train_frames(root: Path):
    loader = open_loader(root, spec_augment=SpecAugment(freq_masks=1, freq_width=40, time_masks=0))
    mean = np.array(loader.get_metadata()["statistics"]["mean"], dtype=np.float32)
    plain = list(open_loader(root).batches())
    for (examples, _), (wanted, _) in zip(loader.batches(), plain, strict=True):
        changed = examples != wanted
        assert np.array_equal(
            examples[changed],
            np.broadcast_to(mean[:, None], examples.shape[1:])[None].repeat(len(examples), axis=0)[changed],
        )
    with pytest.raises(ConfigError, match="spec_augment='LB'"):
        open_loader(root, spec_augment="LB")


# Augmented log-mels.


@pytest.fixture(scope="module")
def mels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 train speakers with 4 utterances of values as log-mels have them, and a test split."""
    return write_twins(tmp_path_factory.mktemp("mels"))[1]


def augmented(mels: Path, **more: Any) -> dict[str, Any]:
    """Options of a loader that mixes in other speech, and more."""
    return {"mel_augment": MelAugment(noise=mels, gain_db=(-6, 6), equalizer_db=(-6, 6), **more), "short": "pad"}


def test_a_batch_is_augmented_alike_alone_in_a_stream_and_after_a_resume(mels: Path):
    crops = {"locality": 2, "crop_frames": (60, 120, 20)}
    options = augmented(mels, noise_share=0.5) | crops
    whole = list(open_loader(mels, **options).batches(epochs=2))
    plain = list(open_loader(mels, short="pad", **crops).batches(epochs=2))
    differ = [(one != other).any(axis=(1, 2)).all() for (one, _), (other, _) in zip(whole, plain, strict=True)]
    assert all(differ)
    for step in (3, len(whole) // 2 + 1):
        epoch, within = divmod(step, len(whole) // 2)
        alone, _ = next(open_loader(mels, **options).batches(start=(epoch, within)))
        assert np.array_equal(alone, whole[step][0])
    iterator = open_loader(mels, **options).batches(epochs=2)
    for _ in range(5):
        next(iterator)
    resumed = pickle.loads(pickle.dumps(open_loader(mels, **options))).batches(epochs=2)
    resumed.load_state_dict(json.loads(json.dumps(iterator.state_dict())))
    assert same(resumed, whole[5:]) == len(whole) - 5


def test_the_draws_of_a_slot_are_those_of_no_other(mels: Path):
    """Gain alone, which can be read off: uniform over slots, batches and epochs, and another with another seed."""
    gain = {"mel_augment": MelAugment(gain_db=(-20, 20)), "check_crc": "never"}
    found = []
    for options in ({}, {"seed": 8}):
        pairs = zip(
            open_loader(mels, **gain, **options).batches(epochs=2),
            open_loader(mels, **options).batches(epochs=2),
            strict=True,
        )
        # Where power is far above the floor.
        found += [float(np.median((one - other)[k][other[k] > -1])) for (one, _), (other, _) in pairs for k in range(6)]
    assert len(np.unique(np.round(found, 5))) > 0.98 * len(found)
    assert np.abs(found).max() <= 2.001
    assert np.histogram(found, 4, (-2, 2))[0] == pytest.approx(len(found) / 4, rel=0.4)


def test_hosts_and_other_processes_augment_alike(mels: Path, tmp_path: Path):
    options = augmented(mels)
    whole = list(open_loader(mels, **options).batches())
    hosts = [open_loader(mels, host_index=index, host_count=2, **options) for index in range(2)]
    turns = zip(*(loader.batches() for loader in hosts), strict=True)
    steps = len(whole) // 2 * 2
    assert same((batch for turn in turns for batch in turn), whole[:steps]) == steps
    wide = open_loader(mels, speakers_per_batch=6, **options)
    shares = [open_loader(mels, host_index=i, host_count=2, global_batch=True, **options) for i in range(2)]
    halves = zip(*(loader.batches() for loader in shares), strict=True)
    joined = [tuple(np.concatenate(parts) for parts in zip(*pair, strict=True)) for pair in halves]
    assert same(joined, wide.batches()) == wide.steps_per_epoch
    stream = open_loader(mels, **options).stream("train")
    other = stream.in_other_process(tmp_path)
    assert same([other.batch(Position(0, 3))], [whole[3]]) == 1


@pytest.mark.parametrize("layout", ["mel_time", "time_mel"])
@pytest.mark.parametrize("normalize", ["crop", "dataset", "utterance"])
def test_values_are_normalised_after_they_were_augmented(mels: Path, normalize: str, layout: str):
    """By the mean and deviation of the augmented crop, or by those that are stored; masks come last."""
    options = augmented(mels) | {"layout": layout}
    raw = list(open_loader(mels, **options).batches())
    found = list(open_loader(mels, **options, normalize=normalize).batches())
    time = 2 if layout == "mel_time" else 1
    plain = {"layout": layout, "short": "pad"}
    pairs = zip(
        open_loader(mels, **plain).batches(), open_loader(mels, **plain, normalize=normalize).batches(), strict=True
    )
    for (crops, _), (values, _), ((stored, _), (wanted, _)) in zip(raw, found, pairs, strict=True):
        if normalize == "crop":
            expected = (crops - crops.mean(axis=time, keepdims=True)) / crops.std(axis=time, keepdims=True)
        else:  # the line that leads from the stored crop to the normalised one
            slope = wanted.std(axis=time, keepdims=True) / stored.std(axis=time, keepdims=True)
            expected = (crops - stored.mean(axis=time, keepdims=True)) * slope + wanted.mean(axis=time, keepdims=True)
        np.testing.assert_allclose(values, expected, atol=2e-3)
    masked = open_loader(mels, **options, normalize=normalize, spec_augment=SpecAugment()).batches()
    hidden = [(one == 0).mean() for one, _ in masked]
    assert 0.1 < np.mean(hidden) < 0.5


def test_every_split_is_augmented_as_it_is_masked(mels: Path):
    one, other = (list(open_loader(mels, **options).batches("test")) for options in (augmented(mels), {"short": "pad"}))
    assert all((a != b).any() for (a, _), (b, _) in zip(one, other, strict=True))
    assert same(open_loader(mels, **augmented(mels)).batches("test"), one) == len(one)


def test_what_cannot_be_augmented_is_refused(mels: Path, root: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="mel_augment='noise'"):
        open_loader(mels, mel_augment="noise")
    other = write_dataset(tmp_path / "ln", {"train": speakers("a", 2, 0, 2)}, DEFAULT.replace(log="ln"))
    with pytest.raises(ConfigError, match=r"cannot be mixed with this speech: it differs in log \('ln', not 'log10'\)"):
        open_loader(mels, mel_augment=MelAugment(noise=other)).batches()
    values = [[np.zeros((200, 1), np.int16)] for _ in range(4)]
    raw = write_dataset(
        tmp_path / "raw", {"train": {f"s{i}": values for i in range(4)}}, DEFAULT.replace(features="raw")
    )
    with pytest.raises(ConfigError, match="mel_augment cannot be used with a dataset of features 'raw'"):
        open_loader(raw, mel_augment=MelAugment(gain_db=(-6, 6)), crop_frames=100).batches()


@pytest.mark.parametrize("options", [{"layout": "time_mel"}, {"crop_frames": (60, 90, 30), "layout": "time_mel"}])
def test_shapes_are_known_beforehand(root: Path, options: dict[str, Any]):
    loader = open_loader(root, **options)
    examples, _ = next(loader.batches())
    shape = loader.stream("train").shape
    assert len(shape) == 3
    assert all(known in (None, size) for known, size in zip(shape, examples.shape, strict=True))
    assert (None in shape) == (len(loader.stream("train").sampler.options.lengths) > 1)


def test_a_window_of_shards_gives_the_batches_of_its_plan(root: Path):
    local = open_loader(root, locality=2)
    assert same(local.batches(epochs=3), open_loader(root, locality=2, check_crc="always").batches(epochs=3)) > 0
    mapping = local.get_metadata()["speaker_id_mapping"]
    label_of = np.array([mapping[f"test/a{s}"] for s in range(11)])
    for examples, labels in local.batches(epochs=2):
        assert np.array_equal(label_of[records_of(examples) // 5], labels)


def test_masks_without_statistics_are_refused(tmp_path: Path):
    write_dataset(tmp_path, {"test": speakers("a", 4, 0, 4)})
    with pytest.raises(DatasetError, match="spec_augment needs normalize='crop'"):
        open_loader(tmp_path, spec_augment=SpecAugment()).batches("test")
