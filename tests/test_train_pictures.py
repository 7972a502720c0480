"""Pictures of the training example show what they are given: read from the figure that is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pictures
import pytest
import scores
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.stats import norm

Array = npt.NDArray[Any]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures as they were saved."""
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: figures.append(self) or save(self, *args, **kwargs)
    )
    return figures


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n")


def inside(figure: Figure) -> bool:
    """Whether nothing of it is cut off, by a tolerance of half a pixel."""
    box, whole = figure.get_tightbbox(), figure.bbox_inches
    return bool(min(box.x0, box.y0) > -0.01 and box.x1 < whole.x1 + 0.01 and box.y1 < whole.y1 + 0.01)


def det(path: Path, values: Array, same: Array) -> scores.EqualErrorRate:
    eer = scores.equal_error_rate(values, same)
    pictures.draw_det(path, scores.error_rates(values, same), eer, int(same.sum()), int((~same).sum()))
    return eer


def test_the_curve_passes_the_marked_rate(tmp_path: Path, written: list[Figure]) -> None:
    same = np.arange(4000) < 2000
    eer = det(tmp_path / "det.png", np.random.default_rng(0).normal(0, 1, 4000) + 2 * same, same)
    assert is_png(tmp_path / "det.png")
    (axes,) = written[0].axes
    _, curve, mark = axes.lines
    (point,) = mark.get_xydata()
    assert norm.cdf(point) == pytest.approx(eer.rate)
    assert np.abs(curve.get_xydata() - point).max(axis=1).min() < 0.02
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "fewer than 30 errors",
        "2,000 target and 2,000 non-target trials",
        f"EER {100 * eer.rate:.2f} %",
    ]
    ticks = {label.get_text(): place for label, place in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)}
    assert ticks["2"] == pytest.approx(norm.ppf(0.02))
    grey = axes.patches[1]
    assert norm.cdf(grey.get_x() + grey.get_width()) == pytest.approx(30 / 2000)
    assert inside(written[0])


def test_gaussian_scores_give_a_straight_line(tmp_path: Path, written: list[Figure]) -> None:
    grid = norm.ppf((np.arange(3000) + 0.5) / 3000)
    det(tmp_path / "det.png", np.concatenate([grid, grid + 2]), np.repeat([False, True], 3000))
    x, y = written[0].axes[0].lines[1].get_xydata().T
    middle = (np.abs(x + 1) < 1) & (np.abs(y + 1) < 1)
    assert middle.sum() > 100
    np.testing.assert_allclose(x[middle] + y[middle], -2, atol=0.03)


@pytest.mark.parametrize("values", [[0.0, 0, 1, 1], [1.0, 1, 0, 0], [0.0, 0, 0, 0]])
def test_without_errors_or_with_nothing_else_there_is_a_picture(
    tmp_path: Path, written: list[Figure], values: list[float], recwarn: pytest.WarningsRecorder
) -> None:
    det(tmp_path / "det.png", np.array(values), np.array([False, False, True, True]))
    (axes,) = written[0].axes
    low, high = axes.get_xlim()
    assert low < high
    assert all(np.isfinite(line.get_xydata()).all() for line in axes.lines)
    assert (axes.lines[2].get_xydata() >= low - 1e-9).all()
    assert (axes.lines[2].get_xydata() <= high + 1e-9).all()
    assert not recwarn.list


# Embeddings.


def clusters(speakers: int, each: int, seed: int = 0) -> tuple[npt.NDArray[np.float32], list[str]]:
    rng = np.random.default_rng(seed)
    values = np.repeat(rng.normal(size=(speakers, 16)), each, axis=0) + 0.2 * rng.normal(size=(speakers * each, 16))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values.astype(np.float32), [f"_ns/{number:02d}" for number in range(speakers) for _ in range(each)]


def drawn(figure: Figure) -> list[tuple[str, Array, tuple[str, int]]]:
    """Name, places and look (colour, points of the marker's outline) of each speaker."""
    found = []
    for dots in figure.axes[0].collections:
        look = to_hex(dots.get_facecolor()[0]), hash(dots.get_paths()[0].vertices.tobytes())
        found.append((dots.get_label().strip(), np.asarray(dots.get_offsets()), look))
    return found


def test_speakers_lie_together_and_differ_in_look(tmp_path: Path, written: list[Figure]) -> None:
    values, speakers = clusters(6, 10)
    pictures.draw_embeddings(tmp_path / "one.png", values, speakers)
    pictures.draw_embeddings(tmp_path / "two.png", values, speakers)
    assert is_png(tmp_path / "one.png")
    shown = drawn(written[0])
    assert [name for name, _, _ in shown] == sorted(set(speakers))
    legend = [text.get_text().strip() for text in written[0].legends[0].get_texts()]
    assert legend == sorted(set(speakers))
    centres = np.array([places.mean(axis=0) for _, places, _ in shown])
    for number, (_, places, _) in enumerate(shown):
        assert (np.linalg.norm(places[:, None] - centres, axis=2).argmin(axis=1) == number).all()
    again = drawn(written[1])
    assert all((first == second).all() for (_, first, _), (_, second, _) in zip(shown, again, strict=True))
    assert inside(written[0])


def test_of_many_some_are_drawn_and_none_looks_as_another(tmp_path: Path, written: list[Figure]) -> None:
    values, speakers = clusters(40, 32)
    pictures.draw_embeddings(tmp_path / "many.png", values, [f"{name}/{'long' * 9}" for name in speakers])
    shown = drawn(written[0])
    assert len(shown) == 12 == len({look for _, _, look in shown})
    assert {len(places) for _, places, _ in shown} == {30}
    assert written[0].axes[0].get_title() == "360 embeddings of 12 of 40 speakers"
    assert all(len(name) == 22 and name.endswith("…") for name, _, _ in shown)
    assert inside(written[0])


@pytest.mark.parametrize("each", [1, 2, 20])
def test_few_points_and_points_that_are_all_one(tmp_path: Path, written: list[Figure], each: int) -> None:
    pictures.draw_embeddings(tmp_path / "few.png", *clusters(2, each))
    pictures.draw_embeddings(tmp_path / "one.png", np.ones((2 * each, 4), np.float32), ["a", "b"] * each)
    for figure in written:
        assert [len(places) for _, places, _ in drawn(figure)] == [each, each]
        assert all(np.isfinite(places).all() for _, places, _ in drawn(figure))
