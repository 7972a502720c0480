"""Pictures of an evaluation: the DET curve, and embeddings in two dimensions.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which the colour-blind tell apart; speakers differ
by their marker, too. It must not know where scores and embeddings are from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from scipy.stats import norm
from scores import RULE_OF_30, EqualErrorRate, ErrorRates
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

_INK, _GREY, _BLUE, _RED = "#222222", "#e4e4e4", "#0072b2", "#d55e00"
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v")  # 5 and 7 have no common factor: 35 speakers without a pair twice
# What a reader can tell apart, and what t-SNE lays out in a few seconds.
MOST_SPEAKERS, MOST_OF_A_SPEAKER = 12, 30
# The default of van der Maaten & Hinton, "Visualizing Data using t-SNE", JMLR 9 (2008), is 5 to 50; it must be below
# the number of points.
_PERPLEXITY = 30.0
_NAME = 22  # letters of a speaker in the legend
_TICKS = np.array([0.001, 0.01, 0.1, 0.5, 2, 5, 10, 20, 40, 60, 80, 90, 95, 98, 99.5, 99.9]) / 100
_STYLE = {"font.size": 10, "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}


def draw_det(path: str | Path, rates: ErrorRates, eer: EqualErrorRate, targets: int, non_targets: int) -> None:
    """The DET curve with its EER, as PNG; rates of fewer than 30 errors lie on grey.

    Both errors stand on axes on which Gaussian scores give a straight line (Martin et al., "The DET curve in assessment
    of detection task performance", Eurospeech 1997).

    Args:
        path: of the picture.
        rates: the curve.
        eer: the point to mark.
        targets: target trials behind the rates of misses.
        non_targets: non-target trials behind the rates of false alarms.
    """
    lowest = min(0.01, 0.5 / max(targets, non_targets))
    highest = 0.6 if eer.rate < 0.5 else 1 - lowest
    miss, false_alarm = (np.clip(kind, lowest, 1 - lowest) for kind in (rates.miss, rates.false_alarm))
    point = norm.ppf(np.clip(eer.rate, lowest, 1 - lowest))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6, 5.6), layout="constrained")
        axes = figure.add_subplot()
        grey: dict[str, Any] = {"color": _GREY, "zorder": 0}
        axes.axhspan(norm.ppf(lowest), norm.ppf(_few(targets, highest)), linewidth=0, **grey)
        few = norm.ppf([lowest, _few(non_targets, highest)])
        axes.axvspan(*few, linewidth=0, label=f"fewer than {RULE_OF_30} errors", **grey)
        axes.plot(norm.ppf([lowest, highest]), norm.ppf([lowest, highest]), ":", color=_INK, linewidth=0.8)
        axes.plot(
            norm.ppf(false_alarm),
            norm.ppf(miss),
            color=_BLUE,
            linewidth=1.8,
            label=f"{targets:,} target and {non_targets:,} non-target trials",
        )
        axes.plot([point], [point], "o", color=_RED, markersize=8, label=f"EER {100 * eer.rate:.2f} %", clip_on=False)
        _name_axes(axes, lowest, highest)
        axes.legend(loc="upper right")
        figure.savefig(path, dpi=120)


def _few(trials: int, highest: float) -> float:
    """The rate below which there are fewer than 30 errors, as far as the axis goes."""
    return min(highest, RULE_OF_30 / trials)


def _name_axes(axes: Any, lowest: float, highest: float) -> None:
    ticks = _TICKS[(lowest <= _TICKS) & (highest >= _TICKS)]
    names = [f"{100 * tick:g}" for tick in ticks]
    limits = norm.ppf([lowest, highest])
    axes.set(title="Detection error trade-off", xlabel="False alarms, % of non-target trials")
    axes.set(ylabel="Misses, % of target trials", xlim=limits, ylim=limits, aspect="equal")
    axes.set_xticks(norm.ppf(ticks), names)
    axes.set_yticks(norm.ppf(ticks), names)


def draw_embeddings(
    path: str | Path, embeddings: npt.NDArray[np.float32], speakers: Sequence[str], seed: int = 0
) -> None:
    """Embeddings `[n, size]` of utterances of `speakers` `[n]`, laid out by t-SNE and coloured by speaker, as PNG.

    Of many speakers or utterances some are drawn by `seed`, which also starts the layout.
    """
    names, number = np.unique(np.array(speakers, dtype=object), return_inverse=True)
    shown = _some(number, len(names), seed)
    placed, perplexity = _layout(embeddings[shown], seed)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.6, 5.6), layout="constrained")
        axes = figure.add_subplot()
        drawn = np.unique(number[shown])
        for place, speaker in enumerate(drawn.tolist()):
            own = placed[number[shown] == speaker]
            look: dict[str, Any] = {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)]}
            axes.scatter(own[:, 0], own[:, 1], s=34, alpha=0.8, linewidth=0, label=_short(names[speaker]), **look)
        some = "" if len(drawn) == len(names) else f" of {len(names):,}"
        axes.set_title(f"{len(shown)} embeddings of {len(drawn)}{some} speakers")
        axes.set(
            xlabel=f"t-SNE, perplexity {perplexity:.3g}: neighbourhoods count, distances do not", xticks=[], yticks=[]
        )
        axes.set_aspect("equal", adjustable="datalim")
        figure.legend(loc="outside right upper", frameon=False, title="speaker")
        figure.savefig(path, dpi=120)


def _some(number: npt.NDArray[np.int64], speakers: int, seed: int) -> npt.NDArray[np.int64]:
    """Utterances to draw, in their order: of some speakers, and of each of them some."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(speakers)[:MOST_SPEAKERS]
    parts = [rng.permutation(np.flatnonzero(number == speaker))[:MOST_OF_A_SPEAKER] for speaker in chosen.tolist()]
    return np.sort(np.concatenate(parts))


def _layout(embeddings: npt.NDArray[np.float32], seed: int) -> tuple[npt.NDArray[np.float32], float]:
    """Places `[n, 2]`, and the perplexity that so few points allow."""
    perplexity = min(_PERPLEXITY, max(1.0, (len(embeddings) - 1) / 3))
    # Principal components keep what is far apart so; points that are all one have none.
    start = "pca" if np.ptp(embeddings, axis=0).max() > 1e-6 else "random"
    with threadpool_limits(1):  # so few points take longer with several threads than with one
        placed = TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(embeddings)
    return np.asarray(placed, dtype=np.float32), perplexity


def _short(name: str) -> str:
    # The space, as matplotlib leaves out of a legend what begins with "_".
    return " " + (name if len(name) <= _NAME else f"{name[: _NAME - 1]}…")
