"""Figures of the report as SVG that stands within a page: its colours are those of the page, light or dark.

No name of a dataset is drawn but those of its splits: the page names sources in text beside them.

Arrays come in, text goes out: it must not know a dataset or its files.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ge2e_transforms.config import Recipe
from ge2e_transforms.feature_kinds import FEATURE_KINDS
from ge2e_transforms.histogram import Histogram
from ge2e_transforms.summary import SourceSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

WIDTH, HEIGHT, LOW = 4.3, 2.6, 1.45  # inches; narrow, so that text stays legible on a phone
SMALL = (1.2, 2.9)  # height and width of one of three side by side
# Colours that stand for those of the page.
_INK, _MUTED, _GRID = "#010203", "#010204", "#010205"
_SERIES = [f"#02030{number}" for number in range(8)]
_PAGE = {_INK: "currentColor", _MUTED: "var(--muted)", _GRID: "var(--line)"}
_PAGE |= {colour: f"var(--s{number})" for number, colour in enumerate(_SERIES)}
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}
_NAME = 14  # signs of a split in a legend
_SHOWN_S = 6.0  # of a record


def crops(by_split: Mapping[str, Ints]) -> str:
    """Speakers by the number of crops they have."""
    highest = max((int(have.max(initial=1)) for have in by_split.values()), default=1)
    if highest <= 48:
        edges = np.arange(0, highest + 2) - 0.5
    else:
        edges = np.unique(np.round(np.geomspace(1, highest + 1, 33))) - 0.5

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for number, (split, have) in enumerate(by_split.items()):
            counts = 100 * np.histogram(have, edges)[0] / max(1, len(have))
            axes.stairs(counts, edges, fill=True, alpha=0.25, color=_colour(number))
            axes.stairs(counts, edges, color=_colour(number), linewidth=1.4, label=_short(split))
        if highest > 48:
            _logarithmic(axes)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="crops of a speaker", ylabel="speakers of the split, %")
        _legend(axes, len(by_split))

    return _figure("crops", draw)


def eligible(counts: Sequence[int], by_split: Mapping[str, tuple[Ints, Ints]], proposed: int) -> str:
    """Share of the speakers with M crops (drawn through), and with M different utterances (dashed)."""

    def draw(axes: Axes) -> None:
        for number, (split, (of_crops, of_utterances)) in enumerate(by_split.items()):
            everyone = max(1, int(of_crops[0]))
            axes.plot(counts, 100 * of_crops / everyone, color=_colour(number), label=f"{_short(split)}: crops")
            label = f"{_short(split)}: utterances"
            axes.plot(counts, 100 * of_utterances / everyone, color=_colour(number), linestyle="--", label=label)
        axes.axvline(proposed, color=_MUTED, linewidth=1, linestyle=":")
        axes.annotate(
            f"M = {proposed}", (proposed, 103), color=_MUTED, ha="center", fontsize=8.5, annotation_clip=False
        )
        _logarithmic(axes)
        axes.set(xlabel="M, utterances per speaker", ylabel="can take part, %", ylim=(0, 101))
        _legend(axes, 2 * len(by_split))

    return _figure("eligible", draw)


def shares(
    name: str, sources: Sequence[Histogram], xlabel: str, logarithmic: bool = False, percent: bool = False
) -> str:
    """Histograms of the sources, each as shares of its own utterances."""

    def draw(axes: Axes) -> None:
        used = np.flatnonzero(sum(histogram.counts for histogram in sources))
        for number, histogram in enumerate(sources):
            edges = histogram.edges * (100 if percent else 1)
            heights = 100 * histogram.counts / max(1, histogram.count)
            if len(sources) == 1:
                axes.stairs(heights, edges, fill=True, alpha=0.25, color=_colour(number))
            axes.stairs(heights, edges, color=_colour(number), linewidth=1.4)
        if logarithmic:
            _logarithmic(axes)
        if len(used):
            axes.set_xlim(edges[max(0, used[0] - 1)], edges[min(len(edges) - 1, used[-1] + 2)])
        axes.set(xlabel=xlabel, ylabel="utterances, %")

    return _figure(name, draw)


def ratios(by_kind: Mapping[str, Histogram]) -> str:
    """Histograms of the ratio of speech to what was added, of each kind as shares of its own copies."""

    def draw(axes: Axes) -> None:
        for number, (kind, histogram) in enumerate(by_kind.items()):
            heights = 100 * histogram.counts / max(1, histogram.count)
            axes.stairs(heights, histogram.edges, fill=True, alpha=0.25, color=_colour(number))
            axes.stairs(heights, histogram.edges, color=_colour(number), linewidth=1.4, label=kind)
        axes.set(xlabel="speech over what was added, dB", ylabel="copies of the kind, %")
        _legend(axes, len(by_kind))

    return _figure("ratios", draw)


def bins(sources: Sequence[SourceSummary], features: str) -> str:
    """Mean of each bin, with one deviation to both sides where there is one source."""

    def draw(axes: Axes) -> None:
        for number, source in enumerate(sources):
            place, mean, deviation = np.arange(len(source.mean)), source.mean, source.deviation
            if len(sources) == 1:
                axes.fill_between(place, mean - deviation, mean + deviation, alpha=0.18, color=_colour(number), lw=0)
            axes.plot(place, mean, color=_colour(number), marker="." * (len(place) < 4))
        axes.set(xlabel=FEATURE_KINDS[features].axis, ylabel="value")

    return _figure("bins", draw)


def distances(distance: Floats, limit: float) -> str:
    """How far the mean spectra of the speakers lie from the middle."""

    def draw(axes: Axes) -> None:
        counts, edges = np.histogram(distance, min(40, max(8, len(distance) // 6)))
        axes.stairs(counts, edges, fill=True, alpha=0.25, color=_SERIES[0])
        axes.stairs(counts, edges, color=_SERIES[0], linewidth=1.4)
        axes.axvline(limit, color=_SERIES[1], linewidth=1.2, linestyle="--")
        axes.annotate(
            "limit", (limit, 1.02), xycoords=("data", "axes fraction"), color=_SERIES[1], ha="center", fontsize=8.5
        )
        axes.set(xlabel="distance of the mean spectrum", ylabel="speakers")

    return _figure("distances", draw)


def scale_of(shown: Sequence[npt.NDArray[np.float32]], features: str) -> tuple[float, float]:
    """The least and the greatest value of one scale of colours for some records, so that they can be compared."""
    first = features == "mfcc"  # the first coefficient is the level, far from the others
    values = np.concatenate([part[:, first:].ravel() for part in shown]) if shown else np.zeros(1)
    values = values if values.size else np.zeros(1)
    return float(np.quantile(values, 0.01)), float(np.quantile(values, 0.995))


def record(
    name: str, values: npt.NDArray[np.float32], recipe: Recipe, scale: tuple[float, float], small: bool = False
) -> str:
    """The first seconds of a record `[rows, bins]`: its spectrogram between two values, or its waveform.

    `small`: for three side by side, with text as large.
    """
    rate = recipe.audio.sample_rate_hz / recipe.row_samples
    part = values[: max(1, round(_SHOWN_S * rate))]

    def draw(axes: Axes) -> None:
        axes.grid(False)
        axes.set(xlabel="seconds", ylabel=FEATURE_KINDS[recipe.feature.features].axis)
        if recipe.feature.features == "raw":
            steps = np.array_split(part[:, 0], min(len(part), 600))
            low, high = [step.min() for step in steps], [step.max() for step in steps]
            place = np.linspace(0, len(part) / rate, len(steps))
            axes.fill_between(place, low, high, color=_SERIES[0], lw=0.5)
            axes.set_ylim(-1, 1)
            return
        extent = (0, len(part) / rate, -0.5, part.shape[1] - 0.5)
        axes.imshow(
            part.T, cmap="magma", vmin=scale[0], vmax=scale[1], aspect="auto", origin="lower", extent=extent,
            interpolation="none",
        )  # fmt: skip

    return _figure(name, draw, *(SMALL if small else (LOW, WIDTH)))


def _figure(name: str, draw: Callable[[Axes], None], height: float = HEIGHT, width: float = WIDTH) -> str:
    """One figure with one pair of axes, as an `svg` element that may stand in a page."""
    import matplotlib
    from matplotlib.figure import Figure

    about: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # text is drawn by the browser, with its own fonts
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.subplots())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata=about)
    return embedded(stream.getvalue())


def embedded(svg: str) -> str:
    """An SVG file as a part of a page: no declaration, no size, the colours of the page, no ids that stand twice."""
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([\d. ]+)"', svg)
    svg = re.sub(r"<svg[^>]*>", f'<svg viewBox="{box[1] if box else ""}" aria-hidden="true">', svg, count=1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    for colour, own in _PAGE.items():
        svg = svg.replace(colour, own)
    # Text is in the fonts of the page, and no rule for all of the page stays.
    return re.sub(r"<style.*?</style>|font-family: [^;]*; ", "", svg, flags=re.DOTALL).strip()


def _colour(number: int) -> str:
    return _SERIES[number % len(_SERIES)]


def _short(split: str) -> str:
    return split if len(split) <= _NAME else f"{split[:_NAME]}…"


def _legend(axes: Axes, entries: int) -> None:
    if entries > 1:
        axes.figure.legend(loc="outside lower center", ncols=2, handlelength=1.6, columnspacing=1.2)


def _logarithmic(axes: Axes) -> None:
    """With plain numbers at the ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log", base=10)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
