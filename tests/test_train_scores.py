"""EER, minDCF and intervals of the training example, against plain computations and what is known of Gaussians."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scores
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import det_curve

from ge2e_transforms.errors import ConfigError

Array = npt.NDArray[Any]


def plain_rates(values: Array, same: Array, weights: Array) -> list[tuple[float, float, float]]:
    """(threshold, miss, false alarm) at every score and above all of them, by looking at each trial each time."""
    found = []
    for threshold in [*sorted(set(values.tolist())), np.inf]:
        miss = sum(w for v, s, w in zip(values, same, weights, strict=True) if s and v < threshold)
        false = sum(w for v, s, w in zip(values, same, weights, strict=True) if not s and v >= threshold)
        found.append((threshold, miss / weights[same].sum(), false / weights[~same].sum()))
    return found


def plain_eer(values: Array, same: Array, weights: Array) -> float:
    points = plain_rates(values, same, weights)
    for (_, miss, false), (_, next_miss, next_false) in itertools.pairwise(points):
        if next_miss >= next_false:
            # Two straight lines over the step from 0 to 1: miss + t * (next_miss - miss) = false + t * (...).
            step = (false - miss) / ((next_miss - miss) - (next_false - false))
            return miss + step * (next_miss - miss)
    raise AssertionError("no crossing")


def some_trials(seed: int, n: int = 60, levels: int = 0) -> tuple[Array, Array, Array]:
    """Scores (with ties on so many levels), kinds and weights."""
    rng = np.random.default_rng(seed)
    same = rng.random(n) < 0.4
    same[:2] = True, False
    values = rng.normal(0, 1, n) + same
    return (np.round(values * levels) if levels else values), same, rng.integers(0, 4, n) + (np.arange(n) < 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.sampled_from([0, 1, 3]))
def test_as_a_plain_computation(seed: int, n: int, levels: int) -> None:
    values, same, weights = some_trials(seed, n, levels)
    rates = scores.error_rates(values, same, weights)
    expected = np.array(plain_rates(values, same, weights))
    np.testing.assert_allclose(np.stack([rates.miss, rates.false_alarm], 1), expected[:, 1:], atol=1e-12)
    assert (rates.threshold[1:-1] > expected[:-2, 0]).all()
    assert (rates.threshold[:-1] <= expected[:-1, 0]).all()
    assert scores.equal_error_rate(values, same, weights).rate == pytest.approx(plain_eer(values, same, weights))
    cost = min(miss + 99 * false for _, miss, false in expected.tolist())
    assert scores.min_dcf(values, same, weights).cost == pytest.approx(cost)


def test_the_curve_is_that_of_scikit_learn() -> None:
    values, same, weights = some_trials(5, 300, levels=4)
    rates = scores.error_rates(values, same, weights)
    false_alarm, miss, _ = det_curve(same, values, sample_weight=weights)
    ours = {(round(m, 9), round(f, 9)) for m, f in zip(rates.miss, rates.false_alarm, strict=True)}
    assert {(round(m, 9), round(f, 9)) for m, f in zip(miss, false_alarm, strict=True)} <= ours


def test_weights_are_trials_that_come_several_times() -> None:
    values, same, weights = some_trials(1, levels=2)
    again = np.repeat(np.arange(len(values)), weights)
    weighted = scores.equal_error_rate(values, same, weights)
    assert weighted.rate == pytest.approx(scores.equal_error_rate(values[again], same[again]).rate)
    assert scores.min_dcf(values, same, weights).cost == pytest.approx(scores.min_dcf(values[again], same[again]).cost)


@pytest.mark.parametrize("distance", [0.0, 1.0, 3.0])
def test_gaussian_scores_have_the_rate_that_is_known(distance: float) -> None:
    """Of N(0, 1) and N(d, 1) both errors are equal at d / 2. The grid of quantiles has no noise of drawing."""
    grid = norm.ppf((np.arange(2000) + 0.5) / 2000)
    found = scores.equal_error_rate(np.concatenate([grid, grid + distance]), np.repeat([False, True], 2000))
    assert found.rate == pytest.approx(norm.cdf(-distance / 2), abs=1e-3)
    assert found.threshold == pytest.approx(distance / 2, abs=5e-3)


def test_the_least_cost_of_gaussian_scores() -> None:
    """Where the ratio of the densities is that of the prices: t = d / 2 + ln(price) / d."""
    grid, distance, price = norm.ppf((np.arange(20_000) + 0.5) / 20_000), 3.0, 0.95 / (10 * 0.05)
    values, same = np.concatenate([grid, grid + distance]), np.repeat([False, True], 20_000)
    found = scores.min_dcf(values, same, p_target=0.05, c_miss=10)
    threshold = distance / 2 + np.log(price) / distance
    expected = norm.cdf(threshold - distance) + price * norm.sf(threshold)
    assert found.cost == pytest.approx(expected, abs=1e-3)
    assert found.threshold == pytest.approx(threshold, abs=0.03)
    assert found.cost == pytest.approx(found.miss + price * found.false_alarm)


def test_a_cost_is_never_above_that_of_the_cheaper_trivial_decision() -> None:
    values, same, _ = some_trials(2)
    for p_target in (0.01, 0.5, 0.99):
        assert scores.min_dcf(-values, same, p_target=p_target).cost <= 1
    assert scores.min_dcf(np.zeros(60), same).cost == 1


def test_separable_scores_have_no_errors_and_a_threshold_between() -> None:
    values, same = np.array([0.1, 0.2, 0.6, 0.9]), np.array([False, False, True, True])
    assert scores.equal_error_rate(values, same) == (0, pytest.approx(0.4))
    assert scores.min_dcf(values, same) == (0, pytest.approx(0.4), 0, 0)


def test_neighbouring_numbers_are_told_apart() -> None:
    high = np.nextafter(0.3, 1)
    values, same = np.array([0.3, high]), np.array([False, True])
    assert scores.equal_error_rate(values, same) == (0, high)


def test_ties_and_swapped_labels() -> None:
    values, same, _ = some_trials(3, levels=2)
    assert scores.equal_error_rate(np.ones(60), same).rate == pytest.approx(0.5)
    assert scores.equal_error_rate(values, same).rate < 0.5
    assert scores.equal_error_rate(values, ~same).rate == pytest.approx(1 - scores.equal_error_rate(values, same).rate)
    assert scores.equal_error_rate(-values, ~same).rate == pytest.approx(scores.equal_error_rate(values, same).rate)


def test_the_threshold_makes_as_many_errors_as_said() -> None:
    values, same, _ = some_trials(4, 4000)
    rate, threshold = scores.equal_error_rate(values, same)
    assert np.mean(values[same] < threshold) == pytest.approx(rate, abs=2 / same.sum())
    assert np.mean(values[~same] >= threshold) == pytest.approx(rate, abs=2 / same.sum())


@pytest.mark.parametrize(
    ("values", "same", "weights", "message"),
    [
        ([1.0, 2.0], [True, True], None, "got 2 target trials of 2"),
        ([1.0, 2.0], [False, False], None, "got 0 target trials of 2"),
        ([], np.array([], bool), None, "got 0 target trials of 0"),
        ([1.0, np.nan], [True, False], None, "1 of 2 scores are no finite numbers"),
        ([1.0, 2.0], [1, 0], None, "expected scores [n] and bool [n], got float64 [2] and int64 [2]"),
        ([1.0, 2.0, 3.0], [True, False], None, "got float64 [3] and bool [2]"),
        ([1.0, 2.0], [True, False], [1.0], "expected 2 finite numbers of at least 0"),
        ([1.0, 2.0], [True, False], [1.0, -1.0], "of at least 0"),
        ([1.0, 2.0], [True, False], [1.0, 0.0], "some above 0 of target and of non-target trials"),
    ],
)
def test_what_cannot_be_scored_is_told(values: Any, same: Any, weights: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        scores.equal_error_rate(values, same, weights)


@pytest.mark.parametrize("option", [{"p_target": 0}, {"p_target": 1.0}, {"c_miss": 0}, {"c_fa": -1}, {"c_fa": np.nan}])
def test_prices_that_mean_nothing_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected a prior between 0 and 1 and costs above 0"):
        scores.min_dcf([1.0, 2.0], [False, True], **option)
    with pytest.raises(ConfigError, match="expected a prior"):
        scores.supports_dcf(100, 100, **option)


def test_trials_support_a_minimum_cost_by_the_rule_of_30() -> None:
    assert scores.supports_dcf(30, 2970) == ""
    assert "expected 30 target and 2,970 non-target trials or more" in scores.supports_dcf(30, 2969)
    assert "got 29 and 2,970" in scores.supports_dcf(29, 2970)
    assert scores.supports_dcf(30, 570, p_target=0.05) == ""
    assert scores.supports_dcf(30, 569, p_target=0.05)
    # A miss ten times as dear, and a prior of 1/2: now misses are the dear ones.
    assert scores.supports_dcf(300, 30, p_target=0.5, c_miss=10) == ""
    assert "expected 300 target and 30" in scores.supports_dcf(299, 30, p_target=0.5, c_miss=10)


@pytest.mark.parametrize("non_targets", [10, 2969, 2970, 5000])
def test_with_enough_trials_30_false_alarms_cost_no_more_than_rejecting_all(non_targets: int) -> None:
    values, same = np.arange(2.0 * non_targets), np.repeat([False, True], non_targets)
    values[: min(30, non_targets)] += 1e9  # false alarms
    rates = scores.error_rates(values, same)
    all_targets_accepted = np.flatnonzero(rates.miss == 0)[-1]
    cost = 99 * rates.false_alarm[all_targets_accepted]
    assert (cost <= 1) == (scores.supports_dcf(non_targets, non_targets) == "")


# Intervals.


def speakers_alike(seed: int, speakers: int = 20, each: int = 10, alike: float = 0.8) -> tuple[Array, Array, Array]:
    """Scores, kinds and pairs `[2, n]` of speakers that are easy or hard; the rate of the population is Φ(-1).

    Target scores are N(2, 1), non-target scores N(0, 1), of which `alike` of the variance is the speakers'.
    """
    rng = np.random.default_rng(seed)
    easy, sheep = rng.normal(0, np.sqrt(alike), (2, speakers))
    own = np.repeat(np.arange(speakers), each)
    other = (own + rng.integers(1, speakers, len(own))) % speakers
    noise = rng.normal(0, np.sqrt(1 - alike), (2, len(own)))
    target, non_target = 2 + easy[own] + noise[0], (sheep[own] + sheep[other]) / np.sqrt(2) + noise[1]
    same = np.repeat([True, False], len(own))
    pairs = np.stack([np.concatenate([own, own]), np.concatenate([own, other])])
    return np.concatenate([target, non_target]), same, pairs


def test_the_interval_is_that_of_plain_resamples() -> None:
    values, same, pairs = speakers_alike(0, 6, 4)
    resamples = np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), 40)

    def rates() -> Iterator[float]:
        for count in resamples:
            weights = np.where(same, count[pairs[0]], count[pairs[0]] * count[pairs[1]])
            if weights[same].any() and weights[~same].any():
                yield plain_eer(values, same, weights)

    found, why = scores.eer_interval(values, same, *pairs, resamples=40, seed=3)
    assert why == ""
    np.testing.assert_allclose(found, np.quantile(list(rates()), [0.025, 0.975]), atol=1e-12)


def test_the_interval_follows_from_its_seed_and_not_from_the_order_of_trials() -> None:
    values, same, pairs = speakers_alike(1)
    names = np.array([f"namespace/{number:02d}" for number in range(20)])
    found, _ = scores.eer_interval(values, same, *pairs, 50)
    order = np.random.default_rng(0).permutation(len(same))
    again, _ = scores.eer_interval(values[order], same[order], *names[pairs][:, order], 50)
    other, _ = scores.eer_interval(values, same, *pairs, 50, seed=1)
    assert found is not None
    assert found == again != other
    assert found.low < scores.equal_error_rate(values, same).rate < found.high


def test_intervals_over_speakers_cover_and_those_over_trials_do_not() -> None:
    """120 test sets from one population: a 95 % interval must hold the rate of the population in most of them."""
    truth, covers = norm.cdf(-1), {"speakers": 0, "trials": 0}
    for seed in range(120):
        values, same, pairs = speakers_alike(seed)
        found, _ = scores.eer_interval(values, same, *pairs, 100, seed)
        assert found is not None
        covers["speakers"] += found.low <= truth <= found.high
        # The same with every trial a unit of its own.
        ranked, half = scores.Ranked(values, same), len(same) // 2
        drawn = np.random.default_rng(seed).multinomial(half, np.full(half, 1 / half), (100, 2)).astype(float)
        low, high = np.quantile([ranked.eer_of(*weights).rate for weights in drawn], [0.025, 0.975])
        covers["trials"] += low <= truth <= high
    assert covers["speakers"] >= 0.87 * 120, covers
    assert covers["trials"] <= 0.7 * 120, covers


def test_the_difference_of_two_systems_is_surer_than_either() -> None:
    values, same, pairs = speakers_alike(2)
    better = values + 0.3 * same + np.random.default_rng(0).normal(0, 0.1, len(same))
    one, _ = scores.eer_interval(values, same, *pairs, 300)
    found, why = scores.eer_interval(better, same, *pairs, 300, baseline=values)
    assert why == ""
    assert one is not None
    assert found is not None
    assert found.high < 0
    assert found.high - found.low < (one.high - one.low) / 2
    assert scores.eer_interval(values, same, *pairs, 20, baseline=values)[0] == (0, 0)
    against = scores.eer_interval(values, same, *pairs, 300, baseline=better)[0]
    assert against == pytest.approx((-found.high, -found.low))


def test_few_speakers_have_no_interval_but_a_reason() -> None:
    values, same, pairs = speakers_alike(0, 4, 6)
    assert scores.eer_interval(values, same, *pairs) == (
        None,
        "no interval: the target trials are of 4 speakers, expected 5 or more to draw from",
    )
    values, same, pairs = speakers_alike(0, 8, 6)
    keep = same | (pairs.max(axis=0) < 3)
    found, why = scores.eer_interval(values[keep], same[keep], *pairs[:, keep])
    assert found is None
    assert "the non-target trials are of 3 speakers" in why


def test_trials_that_all_hang_on_one_speaker_have_no_interval() -> None:
    values, same, pairs = speakers_alike(0, 30, 8)
    keep = same | (pairs == 0).any(axis=0)
    found, why = scores.eer_interval(values[keep], same[keep], *pairs[:, keep])
    assert found is None
    assert re.search(r"no interval: 3\d% of the resamples of 30 speakers have no trial of a kind", why)


def test_labels_that_contradict_the_speakers_are_told() -> None:
    values, same, pairs = speakers_alike(0)
    with pytest.raises(ConfigError, match=r"400 of 400 trials .* trial 0 is a non-target trial of speakers 0 and 0"):
        scores.eer_interval(values, ~same, *pairs)
    with pytest.raises(ConfigError, match=r"expected 400 enrolled and as many tested.*shapes \(400,\) and \(399,\)"):
        scores.eer_interval(values, same, pairs[0], pairs[1, 1:])
