"""Error rates of trials, and intervals of their differences, for `sampling_worth.py`.

Those of one encoder are of `scores.py` of the training example. Here it is several seeds on the same trials.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.stats

from ge2e_transforms.trials import Trials

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "train_ge2e"))
from scores import Ranked, equal_error_rate

_LEVEL = 0.95

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


def eer(scores: Floats, same: npt.NDArray[np.bool_], weights: Floats | Ints) -> float:
    """The equal error rate of scores `[trials]`, from 0 to 1; a trial counts `weights` times."""
    return equal_error_rate(scores, same, weights).rate


def resampled(scores: Floats, trials: Trials, times: int, seed: int = 0) -> Floats:
    """Error rates `[times, ...]` of scores `[..., trials]`, each time with as many speakers drawn anew.

    A speaker comes w times into a draw, w from 0 on. A target of a speaker then counts w times, a non-target of two
    speakers as often as pairs of them can be made: the product.
    """
    of_utterance = np.unique([speaker for speaker, _ in trials.utterances], return_inverse=True)[1]
    enrol, test = of_utterance[trials.enrol], of_utterance[trials.test]
    systems = [Ranked(own, trials.same) for own in scores.reshape(-1, len(trials))]  # sorted once for all draws
    rng, count = np.random.default_rng(seed), int(of_utterance.max()) + 1
    found = np.empty((times, len(systems)))
    for draw in found:
        drawn = rng.multinomial(count, np.full(count, 1 / count))
        weights = np.where(trials.same, drawn[enrol], drawn[enrol] * drawn[test])
        draw[:] = [system.eer(weights).rate for system in systems]
    return found.reshape(times, *scores.shape[:-1])


class Difference(NamedTuple):
    """What one condition has more than another, in the mean over seeds, and its interval.

    Attributes:
        mean: of the differences seed by seed.
        low, high: the interval.
        by_seeds, by_speakers: half of its width where only seeds, or only test speakers, were others.
    """

    mean: float
    low: float
    high: float
    by_seeds: float
    by_speakers: float

    @property
    def verdict(self) -> str:
        """Of error rates: less is better."""
        if self.low <= 0 <= self.high:
            return "within the noise"
        return "better" if self.high < 0 else "worse"


def difference(ones: Floats, others: Floats, ones_resampled: Floats, others_resampled: Floats) -> Difference:
    """The paired difference of two conditions with a 95 % interval.

    Seeds are few, so what they bring in is Student's t of the differences by seed. What test speakers bring in are the
    quantiles of the mean over seeds in all draws. The two are independent: half widths add by their squares.

    Args:
        ones: error rates `[seeds]`, two or more.
        others: those of the other condition by the same seeds.
        ones_resampled: error rates `[draws, seeds]` by draws of test speakers.
        others_resampled: those of the other condition by the same draws.
    """
    by_seed, by_draw = ones - others, (ones_resampled - others_resampled).mean(axis=1)
    mean, seeds = float(by_seed.mean()), len(by_seed)
    of_seeds = float(scipy.stats.t.ppf((1 + _LEVEL) / 2, seeds - 1) * by_seed.std(ddof=1) / np.sqrt(seeds))
    low, high = (float(abs(bound - mean)) for bound in np.quantile(by_draw, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]))
    return Difference(mean, mean - np.hypot(of_seeds, low), mean + np.hypot(of_seeds, high), of_seeds, (low + high) / 2)
