"""What the sampling is worth is measured on factors, batches and intervals that are what they are said to be."""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import programs
import pytest

from ge2e_transforms import BatchLoader
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.trials import Trials

SPEAKERS, TEST_SPEAKERS = 96, 12
BATCHES = 3 * SPEAKERS // 32 * 5  # three epochs of the quota of five


def load(name: str) -> ModuleType:
    """A program of benchmarks, with the files that it imports by their bare names."""
    return programs.load(name)


@pytest.fixture(scope="module", autouse=True)
def beside() -> Iterator[None]:
    """The folder of the programs is on the path meanwhile, as it is where one of them is started."""
    sys.path.insert(0, str(programs.FOLDER))
    yield
    sys.path.remove(str(programs.FOLDER))


@pytest.fixture(scope="module")
def corpus() -> ModuleType:
    return load("sampling_corpus")


@pytest.fixture(scope="module")
def root(corpus: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written: Path = corpus.write(tmp_path_factory.mktemp("simulated"), SPEAKERS, TEST_SPEAKERS)
    return written


@pytest.fixture(scope="module")
def made() -> ModuleType:
    return load("sampling_batches")


@pytest.fixture(scope="module")
def speech(made: ModuleType, root: Path) -> Any:
    return quiet(made.Speech, root)


@pytest.fixture(scope="module")
def intervals() -> ModuleType:
    return load("sampling_intervals")


def quiet(call: Any, *arguments: Any) -> Any:
    """Without the loader's words on what an epoch leaves to later ones."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "an epoch of split", UserWarning)
        return call(*arguments)


def taken(made: ModuleType, root: Path, speech: Any, name: str, count: int = BATCHES, seed: int = 0) -> list[Any]:
    batches = made.batches(root, speech, made.CONDITIONS[name], seed)
    return quiet(list, itertools.islice(batches, count))


def facts(made: ModuleType, root: Path, speech: Any, name: str) -> dict[str, float]:
    found = [speech.find(examples) for examples, _ in taken(made, root, speech, name)]
    counted: dict[str, float] = made.facts(speech, found)
    return counted


# The corpus.


def test_factors_are_of_the_size_that_is_said(corpus: ModuleType) -> None:
    shared = corpus.world(7)
    rng = np.random.default_rng(7)
    spoken = [corpus.speaker(shared, [2, 2, 2], rng).utterances for _ in range(300)]
    means = np.array([[u.astype(np.float64).mean(axis=0) for u in own] for own in spoken]).reshape(300, 3, 2, -1)
    of_utterances = means.var(axis=2, ddof=1).mean()
    of_sessions = means.mean(axis=2).var(axis=1, ddof=1).mean() - of_utterances / 2
    of_speakers = means.mean(axis=(1, 2)).var(axis=0, ddof=1).mean() - of_sessions / 3 - of_utterances / 6
    # The channels are 40 draws that all sessions share: their variance is less sure than that of the others.
    assert of_speakers == pytest.approx(0.04, rel=0.2)
    assert of_sessions == pytest.approx(0.04, rel=0.35)
    assert shared.channels.var() == pytest.approx(0.025, rel=0.5)
    assert of_utterances == pytest.approx(0.03, rel=0.15)
    within = np.mean([u.astype(np.float64).var(axis=0).mean() for own in spoken for u in own])
    assert within + of_utterances == pytest.approx(1, rel=0.05)


def test_sessions_may_have_less_of_the_variance(corpus: ModuleType) -> None:
    shared = corpus.world(0, corpus.Factors(0.125, 0.2))
    assert (shared.speakers, shared.sessions, shared.noise_spread) == pytest.approx((0.07, 0.00375, 0.2))
    np.testing.assert_allclose(shared.channels, corpus.world(0).channels / 2, rtol=1e-5)


def test_channels_are_smooth_and_speakers_are_not(corpus: ModuleType) -> None:
    shared = corpus.world(0)
    smooth = shared.curves[:4] / np.linalg.norm(shared.curves[:4], axis=1, keepdims=True)
    left = shared.channels - shared.channels @ smooth.T @ smooth
    assert np.abs(left).max() < 1e-5
    assert np.linalg.matrix_rank(shared.curves) == 8


def test_few_speakers_have_much_of_the_speech(corpus: ModuleType) -> None:
    rng = np.random.default_rng(0)
    sessions = [corpus.train_counts(rng) for _ in range(3000)]
    counts = np.sort([sum(some) for some in sessions])
    assert (counts[0], counts[-1]) == (corpus.FEWEST, corpus.MOST)
    assert 0.4 < counts[-300:].sum() / counts.sum() < 0.55
    assert min(map(len, sessions)) == 2
    assert np.mean([count for some in sessions for count in some]) == pytest.approx(3, abs=0.3)


def test_the_simulated_corpus_is_a_dataset(corpus: ModuleType, root: Path) -> None:
    dataset = Dataset.open(root, None)
    index = dataset.index("test")
    sessions = index["session_index"].reshape(TEST_SPEAKERS, -1)
    assert sessions.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]] * TEST_SPEAKERS
    spoken = corpus.speakers("test", TEST_SPEAKERS, 0)
    for whole in BatchLoader(root, layout="time_mel").utterances("test"):
        told = spoken[whole.speaker_id].utterances[int(whole.utterance_id[1:])]
        np.testing.assert_array_equal(whole.values, told)
    train = np.concatenate([one.values for one in BatchLoader(root, layout="time_mel").utterances("train")])
    statistics = dataset.metadata["statistics"]
    assert statistics["frames"] == len(train)
    np.testing.assert_allclose(statistics["mean"], train.mean(axis=0, dtype=np.float64), atol=1e-6)
    np.testing.assert_allclose(statistics["std"], train.std(axis=0, dtype=np.float64), atol=1e-6)
    assert set(dataset.index("train")["label"].tolist()).isdisjoint(index["label"].tolist())


def test_sizes_are_told_of_a_dataset(root: Path) -> None:
    found = load("sampling_sizes").sizes(root)
    assert found["between_utterances"] == pytest.approx(0.03, rel=0.2)
    assert 0.08 < found["between_speakers"] < 0.14
    assert 0.09 < found["deviations"] < 0.17
    assert 0.6 < found["correlation"] < 0.7


# The batches.


def test_crops_are_found_where_they_are_from(made: ModuleType, root: Path, speech: Any) -> None:
    values = np.concatenate([one.values for one in BatchLoader(root, layout="time_mel").utterances("train")])
    for name in ("default", "one file"):
        for examples, labels in taken(made, root, speech, name, 2):
            utterance, row = speech.find(examples)
            assert speech.label[utterance].tolist() == labels.tolist()
            np.testing.assert_array_equal(values[row[:, None] + np.arange(40)], examples)
    with pytest.raises(LookupError, match="another dataset"):
        speech.find(examples + 1)


def test_the_default_never_takes_two_crops_of_a_file(made: ModuleType, root: Path, speech: Any) -> None:
    found = facts(made, root, speech, "default")
    assert found["of_one_file"] == 0.25
    assert found["speakers"] == SPEAKERS
    assert found["crops"] > 2.5 / 3 * BATCHES * made.N * made.M
    assert found["partners"] > 60


def test_frozen_batches_repeat(made: ModuleType, root: Path, speech: Any) -> None:
    for name in ("frozen", "one file, frozen"):
        batches = taken(made, root, speech, name)
        epoch = BATCHES // 3
        for first, second, third in zip(batches[:epoch], batches[epoch:-epoch], batches[-epoch:], strict=True):
            for again in (second, third):
                np.testing.assert_array_equal(first[0], again[0])
                np.testing.assert_array_equal(first[1], again[1])
        assert not np.array_equal(batches[0][0], batches[1][0])
    default = taken(made, root, speech, "default")
    assert not np.array_equal(default[0][0], default[BATCHES // 3][0])


def test_windows_in_the_order_of_files_come_mostly_of_one(made: ModuleType, root: Path, speech: Any) -> None:
    for name in ("one file", "one file, frozen", "one file, frozen, proportional"):
        found = facts(made, root, speech, name)
        assert 0.75 < found["of_one_file"] < 0.85
        assert found["sessions"] < 1.3
    # The first M windows of a speaker are those at the head of their first file, one behind the other.
    examples, labels = taken(made, root, speech, "one file, frozen", 1)[0]
    utterance, row = speech.find(examples)
    assert np.diff(row.reshape(-1, 4)).tolist() == [[40] * 3] * 32
    assert utterance[::4].tolist() == [int(np.flatnonzero(speech.label == label)[0]) for label in labels[::4]]


def test_only_the_windows_differ_where_they_are_of_one_file(made: ModuleType, root: Path, speech: Any) -> None:
    for one, other in (("one file", "default"), ("one file, frozen", "frozen")):
        ours, theirs = (taken(made, root, speech, name) for name in (one, other))
        assert [labels.tolist() for _, labels in ours] == [labels.tolist() for _, labels in theirs]


def test_cliques_are_fixed(made: ModuleType, root: Path, speech: Any) -> None:
    met: dict[int, set[int]] = {}
    for _, labels in taken(made, root, speech, "cliques"):
        for label in labels[::4].tolist():
            met.setdefault(label, set()).update(labels.tolist())
    assert len(met) == SPEAKERS
    assert {len(others) for others in met.values()} == {32}
    assert facts(made, root, speech, "cliques")["partners"] == 31
    assert facts(made, root, speech, "cliques")["of_one_file"] == 0.25


def test_speakers_with_much_speech_come_more_often_only_where_asked(made: ModuleType, root: Path, speech: Any) -> None:
    share = {name: facts(made, root, speech, name)["top_tenth"] for name in ("default", "proportional")}
    assert share["default"] == pytest.approx(9 / SPEAKERS, abs=0.001)
    assert share["proportional"] > 0.2


# Error rates and intervals.


def test_the_error_rate_is_where_both_kinds_of_error_are_equal(intervals: ModuleType) -> None:
    same = np.array([True] * 4 + [False] * 4)
    ones = np.ones(8)
    assert intervals.eer(np.array([8.0, 7, 6, 5, 4, 3, 2, 1]), same, ones) == 0
    assert intervals.eer(np.array([8.0, 7, 6, 3, 5, 4, 2, 1]), same, ones) == pytest.approx(0.25)
    assert intervals.eer(np.array([1.0, 2, 3, 4, 5, 6, 7, 8]), same, ones) == 1
    assert intervals.eer(ones, same, ones) == 0.5  # nothing told apart


def test_a_trial_of_weight_3_counts_as_three_trials(intervals: ModuleType) -> None:
    rng = np.random.default_rng(0)
    same = rng.random(200) < 0.5
    scores, weights = rng.normal(same, 1.0).round(1), rng.integers(0, 4, 200)
    repeated = intervals.eer(np.repeat(scores, weights), np.repeat(same, weights), np.ones(weights.sum()))
    assert intervals.eer(scores, same, weights) == pytest.approx(repeated, abs=1e-12)
    assert 0.1 < repeated < 0.5


def made_up_trials(speakers: int, each: int, rng: np.random.Generator) -> tuple[Trials, Any]:
    """`each` targets of each speaker and as many non-targets, and the speakers of each trial."""
    enrol = np.tile(np.repeat(np.arange(speakers), each), 2)
    test = enrol.copy()
    test[speakers * each :] = (enrol[: speakers * each] + rng.integers(1, speakers, speakers * each)) % speakers
    utterances = [(f"s{number}", "u") for number in range(speakers)]
    return Trials(enrol == test, enrol.astype(np.int32), test.astype(np.int32), utterances), (enrol, test)


def test_speakers_are_drawn_with_all_their_trials(intervals: ModuleType) -> None:
    """Where all targets of a speaker fail together, the rate swings as with so few speakers, not as with all trials."""
    rng = np.random.default_rng(0)
    trials, _ = made_up_trials(20, 50, rng)
    hard = trials.enrol < 5
    scores = np.where(trials.same & ~hard, 1.0, 0.0) + rng.normal(0, 0.01, len(trials))
    rates = intervals.resampled(np.stack([scores, scores]), trials, 300)
    assert rates.shape == (300, 2)
    np.testing.assert_array_equal(rates[:, 0], rates[:, 1])  # the same draws for all
    # A quarter of the targets are as non-targets, so a fifth of each kind are errors: x = (1 - x) / 4.
    assert rates.mean() == pytest.approx(0.2, abs=0.02)
    of_trials = np.sqrt(0.2 * 0.8 / 1000)
    assert rates[:, 0].std() > 3 * of_trials


def interval(intervals: ModuleType, shift: float, seed: int, seeds: int = 5) -> Any:
    """Of two conditions, one of which has worse scores by `shift`; test speakers and seeds move both alike."""
    rng = np.random.default_rng(seed)
    trials, (enrol, _) = made_up_trials(40, 20, rng)
    clearness = rng.normal(2.0, 0.5, 40)[enrol]
    scores = np.empty((2, seeds, len(trials)))
    for number in range(seeds):
        noise, luck = rng.normal(0, 1, len(trials)), rng.normal(0, 0.05, 2)
        for which in range(2):
            own = noise + rng.normal(0, 0.3, len(trials))
            scores[which, number] = trials.same * (clearness - luck[which] - shift * (which == 0)) + own
    ones = np.ones(len(trials))
    rates = np.array([[intervals.eer(one, trials.same, ones) for one in some] for some in scores])
    again = intervals.resampled(scores, trials, 60)
    return intervals.difference(rates[0], rates[1], again[:, 0], again[:, 1])


def test_intervals_of_made_up_scores_hold_the_truth(intervals: ModuleType) -> None:
    equal = [interval(intervals, 0.0, seed) for seed in range(12)]
    assert sum(one.low <= 0 <= one.high for one in equal) >= 10
    assert {one.verdict for one in equal} >= {"within the noise"}
    worse = [interval(intervals, 0.5, seed) for seed in range(3)]
    assert [one.verdict for one in worse] == ["worse"] * 3
    assert all(one.low < one.mean < one.high for one in equal + worse)
    assert interval(intervals, -0.5, 0).verdict == "better"


def test_an_interval_is_of_seeds_and_of_speakers_together(intervals: ModuleType) -> None:
    steady, draws = np.zeros(5), np.random.default_rng(0).normal(0, 1, (4000, 5))
    seeds = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    of_seeds = intervals.difference(seeds, steady, np.full((10, 5), 3.0), np.zeros((10, 5)))
    # Student's t with four degrees of freedom: 2.776 x sqrt(2.5 / 5).
    assert (of_seeds.low, of_seeds.high) == pytest.approx((3 - 1.963, 3 + 1.963), abs=1e-3)
    assert of_seeds.by_speakers == pytest.approx(0, abs=1e-12)
    of_speakers = intervals.difference(steady, steady, draws, np.zeros_like(draws))
    assert of_speakers.by_seeds == 0
    assert of_speakers.by_speakers == pytest.approx(1.96 / np.sqrt(5), rel=0.06)
    both = intervals.difference(seeds, steady, draws + 3, np.zeros_like(draws))
    assert both.high - both.mean == pytest.approx(np.hypot(1.963, 1.96 / np.sqrt(5)), rel=0.06)


# The program.


def test_the_smallest_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    sizes = ["--speakers=64", "--test_speakers=6", "--steps=3", "--draws=20"]
    flags = [*sizes, "--seeds", "0", "1", "--only", "frozen", "--json", str(path)]
    program = load("sampling_worth")
    quiet(program.main, flags)
    found = json.loads(path.read_text())
    rows = found["conditions"]
    assert [row["condition"] for row in rows] == ["default", "frozen"]
    # The first epoch of both is the same, and three steps are less than one: so is the encoder.
    assert rows[0]["eer_percent"] == rows[1]["eer_percent"]
    assert rows[0]["eer_percent"][0] != rows[0]["eer_percent"][1]
    (told,) = [row["points"] for row in found["differences"]]
    assert (told["mean"], told["verdict"]) == (0, "within the noise")
    assert 1 < min(rows[0]["eer_percent"]) < 99
    features = found["corpus"]["features_eer_percent"]["means and deviations"]
    assert features["within a session"] < features["across sessions"] < 50
    figures = load("compare").figures(found)
    assert {"conditions / default / eer_percent", "conditions / frozen / eer_percent"} <= figures.keys()
    assert not any(figure.more_is_better for figure in figures.values())
    assert "| frozen | default | +0.00 [" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="two or more"):
        program.main(["--seeds", "0"])
