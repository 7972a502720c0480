"""What scores of verification trials are worth: error rates, EER, minDCF, and intervals over speakers.

A score is any number that is higher for one speaker than for two; a trial is accepted where its score is at or above a
threshold. It must not know what gave the scores.
"""

from __future__ import annotations

import bisect
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ge2e_transforms.errors import ConfigError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

# The operating point of VoxCeleb's tables: Nagrani, Chung & Zisserman, "VoxCeleb: a large-scale speaker identification
# dataset", Interspeech 2017.
P_TARGET, C_MISS, C_FALSE_ALARM = 0.01, 1.0, 1.0
# Doddington et al., "The NIST speaker recognition evaluation - Overview, methodology, systems, results, perspective",
# Speech Communication 31 (2000): with 30 errors the true rate is within 30 % of the observed one, with 90 % confidence,
# if errors are independent.
RULE_OF_30 = 30
CONFIDENCE, RESAMPLES = 0.95, 1000
# From n speakers (2n - 1 choose n) different resamples can be drawn: 35 of four, too few for an end of 2.5 %; of five
# there are 126.
FEWEST_SPEAKERS = 5
# Part of the resamples that may lack one kind of trials and be left out.
_MOST_LEFT_OUT = 0.05


class ErrorRates(NamedTuple):
    """The DET curve, from the threshold that accepts all to the one that rejects all.

    miss, false_alarm: float64 `[points]` in [0, 1], of target and of non-target trials.
    threshold: float64 `[points]`, rising; half-way between two scores that follow one another.
    """

    miss: Floats
    false_alarm: Floats
    threshold: Floats


class EqualErrorRate(NamedTuple):
    """Where both kinds of errors are as frequent: the rate in [0, 1], and the threshold."""

    rate: float
    threshold: float


class MinimumCost(NamedTuple):
    """The threshold of least cost: the cost (1 is that of always giving the cheaper answer) and the errors there."""

    cost: float
    threshold: float
    miss: float
    false_alarm: float


class Interval(NamedTuple):
    """Ends of an interval."""

    low: float
    high: float


class Ranked:
    """Trials sorted by their score once, for any number of weights.

    Args:
        scores: finite numbers `[n]`.
        same: bool `[n]`, True for target trials; both kinds are needed.

    Attributes:
        targets, non_targets: numbers of the trials of a kind, by rising score.
        threshold: float64 `[points]`, as in `ErrorRates`.

    Raises:
        ConfigError: the scores cannot be used.
    """

    def __init__(self, scores: npt.ArrayLike, same: npt.ArrayLike) -> None:
        values, self.same = _checked(scores, same)
        order = np.argsort(values, kind="stable")
        self.targets, self.non_targets = order[self.same[order]], order[~self.same[order]]
        # Equal scores are accepted or rejected together.
        distinct = np.unique(values)
        above = np.nextafter(distinct, np.inf)
        between = np.maximum(distinct[:-1] + (distinct[1:] - distinct[:-1]) / 2, above[:-1])
        self.threshold: Floats = np.concatenate([distinct[:1], between, above[-1:]])
        # How many of each kind lie below each threshold.
        self._below = tuple(np.searchsorted(values[kind], self.threshold) for kind in (self.targets, self.non_targets))

    def rates(self, weights: npt.ArrayLike | None = None) -> ErrorRates:
        """Error rates at all thresholds; `weights` `[n]` in the order of the trials, at least 0."""
        weight = self._weights(weights)
        missed, rejected = _sums(weight[self.targets]), _sums(weight[self.non_targets])
        false_alarm = (rejected[-1] - rejected[self._below[1]]) / rejected[-1]
        return ErrorRates(missed[self._below[0]] / missed[-1], false_alarm, self.threshold)

    def eer(self, weights: npt.ArrayLike | None = None) -> EqualErrorRate:
        """The EER: where the straight lines between the points of the DET curve meet the diagonal."""
        weight = self._weights(weights)
        return self.eer_of(weight[self.targets], weight[self.non_targets])

    def eer_of(self, target: Floats, non_target: Floats) -> EqualErrorRate:
        """As `eer`, for weights in the order of `targets` and `non_targets`; NaN where all of a kind are 0."""
        missed, rejected = _sums(target), _sums(non_target)
        if not (missed[-1] and rejected[-1]):
            return EqualErrorRate(np.nan, np.nan)

        def rates(point: int) -> tuple[float, float]:
            miss, right = missed[self._below[0][point]] / missed[-1], rejected[self._below[1][point]]
            return float(miss), float((rejected[-1] - right) / rejected[-1])

        def is_behind(point: int) -> bool:
            miss, false_alarm = rates(point)
            return miss >= false_alarm

        point = bisect.bisect_left(range(len(self.threshold)), True, key=is_behind)
        (miss, false_alarm), (next_miss, next_false_alarm) = rates(point - 1), rates(point)
        part = (false_alarm - miss) / (false_alarm - miss + next_miss - next_false_alarm)
        low, high = self.threshold[point - 1 : point + 1].tolist()
        return EqualErrorRate(miss + part * (next_miss - miss), low + part * (high - low))

    def _weights(self, given: npt.ArrayLike | None) -> Floats:
        weights = np.ones(len(self.same)) if given is None else np.asarray(given, dtype=np.float64)
        if weights.shape != self.same.shape or not np.isfinite(weights).all() or (weights < 0).any():
            raise ConfigError(
                f"weights cannot be used: expected {len(self.same)} finite numbers of at least 0, one a score, got "
                f"{_described(weights)}"
            )
        if not (weights[self.same].any() and weights[~self.same].any()):
            raise ConfigError("weights cannot be used: expected some above 0 of target and of non-target trials")
        return weights


def error_rates(scores: npt.ArrayLike, same: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> ErrorRates:
    """The points of the DET curve of scores `[n]`, bool `[n]` and weights `[n]` (None: all 1); see `Ranked`."""
    return Ranked(scores, same).rates(weights)


def equal_error_rate(
    scores: npt.ArrayLike, same: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> EqualErrorRate:
    """The EER of scores `[n]`, bool `[n]` and weights `[n]` (None: all 1), and its threshold; see `Ranked`."""
    return Ranked(scores, same).eer(weights)


def min_dcf(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    p_target: float = P_TARGET,
    c_miss: float = C_MISS,
    c_fa: float = C_FALSE_ALARM,
) -> MinimumCost:
    """The least detection cost over all thresholds, as NIST defines it and normalises it; `supports_dcf` says when.

    Args:
        scores: finite numbers `[n]`.
        same: bool `[n]`, True for target trials.
        weights: numbers `[n]` of at least 0; None is 1 for all.
        p_target: prior of a target trial, in (0, 1).
        c_miss: cost of a miss, above 0.
        c_fa: cost of a false alarm, above 0.
    """
    of_miss, of_false_alarm = _prices(p_target, c_miss, c_fa)
    rates = Ranked(scores, same).rates(weights)
    cost = of_miss * rates.miss + of_false_alarm * rates.false_alarm
    best = int(np.argmin(cost))
    return MinimumCost(*(float(values[best]) for values in (cost, rates.threshold, rates.miss, rates.false_alarm)))


def supports_dcf(
    targets: int, non_targets: int, p_target: float = P_TARGET, c_miss: float = C_MISS, c_fa: float = C_FALSE_ALARM
) -> str:
    """Why so many trials are too few for a minDCF; empty where they are enough.

    They are enough if a decision that costs as much as always giving the cheaper answer can make 30 errors of either
    kind (`RULE_OF_30`). With fewer trials every useful threshold rests on less than 30 errors. At p_target 0.01 that
    asks for 30 target trials and 30 * 99 = 2,970 non-target trials. It is the least that the rule asks for: a good
    system makes few errors, and may need more trials.
    """
    prices = _prices(p_target, c_miss, c_fa)
    needed = [int(np.ceil(round(RULE_OF_30 * price, 6))) for price in prices]
    if targets >= needed[0] and non_targets >= needed[1]:
        return ""
    return (
        f"too few trials for a minDCF at p_target={p_target:g}, c_miss={c_miss:g}, c_fa={c_fa:g}: expected "
        f"{needed[0]:,} target and {needed[1]:,} non-target trials or more, so that {RULE_OF_30} errors of a kind cost "
        f"no more than always giving the cheaper answer, got {targets:,} and {non_targets:,}"
    )


def eer_interval(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    enrol_speakers: npt.ArrayLike,
    test_speakers: npt.ArrayLike,
    resamples: int = RESAMPLES,
    seed: int = 0,
    baseline: npt.ArrayLike | None = None,
) -> tuple[Interval | None, str]:
    """The 95 % interval of the EER over other speakers: a percentile bootstrap; or None and why there is none.

    Trials of one speaker are alike, so speakers are drawn and not trials: in a resample that holds speaker s w(s)
    times, a target trial of s counts w(s) times and a non-target trial of a and b w(a) * w(b) times (the vertex
    bootstrap of Snijders & Borgatti, "Non-parametric standard errors and tests for network statistics", Connections
    22(2), 1999; a speaker drawn twice makes no non-target trial with itself).

    Args:
        scores: finite numbers `[n]`.
        same: bool `[n]`, True for target trials.
        enrol_speakers: number or name of the first speaker of each trial, `[n]`.
        test_speakers: of the second.
        resamples: how many are drawn, 1 or more.
        seed: integer of at least 0; other seeds draw others.
        baseline: scores `[n]` of another system of the same trials: then the interval is of the EER minus that of the
            baseline, by the same resamples for both, so what speakers make easy or hard for both of them cancels out.

    Raises:
        ConfigError: scores cannot be used, or speakers that are not as `same` says.
    """
    systems = [Ranked(given, same) for given in (scores, baseline) if given is not None]
    pairs = speaker_pairs(systems[0].same, enrol_speakers, test_speakers)
    if why := _too_few_speakers(systems[0].same, pairs):
        return None, why
    speakers = int(pairs.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(speakers, np.full(speakers, 1 / speakers), resamples)
    rates = [_resampled(system, pairs, drawn.astype(np.float64)) for system in systems]
    values = rates[0] if len(rates) == 1 else rates[0] - rates[1]
    if (left_out := float(np.isnan(values).mean())) > _MOST_LEFT_OUT:
        return None, (
            f"no interval: {left_out:.0%} of the resamples of {speakers} speakers have no trial of a kind (expected at "
            f"most {_MOST_LEFT_OUT:.0%}): too many trials are of the same few speakers"
        )
    low, high = np.nanquantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high)), ""


def _resampled(system: Ranked, pairs: Ints, drawn: Floats) -> Floats:
    """EERs `[resamples]` where the speakers count as often as `drawn` `[resamples, speakers]` says."""
    target, (enrol, test) = pairs[0, system.targets], pairs[:, system.non_targets]
    return np.array([system.eer_of(count[target], count[enrol] * count[test]).rate for count in drawn])


def speaker_pairs(same: Bools, enrol: npt.ArrayLike, test: npt.ArrayLike) -> Ints:
    """Numbers from 0 on of both speakers of each trial, `[2, n]`.

    Raises:
        ConfigError: trials that are labelled otherwise than their speakers say, or of one kind only.
    """
    _check_kinds(same)
    given = [np.asarray(enrol), np.asarray(test)]
    if any(names.shape != same.shape for names in given):
        raise ConfigError(
            f"speakers cannot be used: expected {len(same)} enrolled and as many tested, one a trial, got arrays of "
            f"shapes {given[0].shape} and {given[1].shape}"
        )
    pairs: Ints = np.unique(np.concatenate(given), return_inverse=True)[1].astype(np.int64).reshape(2, -1)
    if wrong := np.flatnonzero((pairs[0] == pairs[1]) != same).tolist():
        first, kind = wrong[0], "target" if same[wrong[0]] else "non-target"
        raise ConfigError(
            f"{len(wrong)} of {len(same)} trials are labelled otherwise than their speakers say: trial {first} is a "
            f"{kind} trial of speakers {given[0][first]} and {given[1][first]}. Are the labels swapped, or is one "
            "person there by two names?"
        )
    return pairs


def _too_few_speakers(same: Bools, pairs: Ints) -> str:
    for kind, chosen in (("target", same), ("non-target", ~same)):
        if (speakers := len(np.unique(pairs[:, chosen]))) < FEWEST_SPEAKERS:
            return (
                f"no interval: the {kind} trials are of {speakers} speakers, expected {FEWEST_SPEAKERS} or more to "
                "draw from"
            )
    return ""


def _prices(p_target: float, c_miss: float, c_fa: float) -> tuple[float, float]:
    """What a rate of 1 of misses and of false alarms costs, where the cheaper trivial decision costs 1."""
    if not (0 < p_target < 1 and c_miss > 0 and c_fa > 0 and np.isfinite([c_miss, c_fa]).all()):
        raise ConfigError(
            f"p_target={p_target!r}, c_miss={c_miss!r}, c_fa={c_fa!r} cannot be used: expected a prior between 0 and 1 "
            "and costs above 0"
        )
    miss, false_alarm = c_miss * p_target, c_fa * (1 - p_target)
    cheaper = min(miss, false_alarm)
    return miss / cheaper, false_alarm / cheaper


def _checked(scores: npt.ArrayLike, same: npt.ArrayLike) -> tuple[Floats, Bools]:
    values, targets = np.asarray(scores, dtype=np.float64), np.asarray(same)
    if values.ndim != 1 or values.shape != targets.shape or targets.dtype != np.bool_:
        raise ConfigError(
            f"trials cannot be scored: expected scores [n] and bool [n], got {_described(values)} and "
            f"{_described(targets)}"
        )
    if bad := int(np.sum(~np.isfinite(values))):
        raise ConfigError(f"{bad} of {len(values)} scores are no finite numbers: did the training diverge?")
    _check_kinds(targets)
    return values, targets


def _check_kinds(same: Bools) -> None:
    if not (same.any() and not same.all()):
        raise ConfigError(
            f"error rates need target and non-target trials: got {int(same.sum())} target trials of {len(same)}. "
            "Non-target trials need two speakers, target trials two utterances of one"
        )


def _described(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _sums(weights: Floats) -> Floats:
    """Sums of the first 0, 1, ... weights, `[n + 1]`."""
    return np.concatenate([[0.0], np.cumsum(weights)])
