"""Masks are drawn as the paper says, belong to the crop alone, and reach exactly what they should."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ge2e_transforms.augment import SpecAugment
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.rng import derive

FILL = np.arange(40, dtype=np.float32) - 100
KEYS = derive(11, 3, np.arange(4))


def noise(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def masked(options: SpecAugment, keys: Any, bins: int = 40, frames: int = 121) -> npt.NDArray[np.bool_]:
    """Which values of crops `[n, bins, frames]` are replaced."""
    crops = np.zeros((len(keys), bins, frames), dtype=np.float32)
    options.apply(crops, keys, np.ones(bins, dtype=np.float32), 2)
    return crops == 1


# A second implementation, with Python's integers and a loop over everything.

LIMIT = 1 << 64


def plain_mix(value: int) -> int:
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % LIMIT
    value = (value ^ value >> 27) * 0x94D049BB133111EB % LIMIT
    return value ^ value >> 31


def plain_draw(key: int, stream: int, mask: int, bound: int) -> int:
    for ident in (stream, mask):
        key = plain_mix((key + (ident + 1) * 0x9E3779B97F4A7C15) % LIMIT)
    return (key >> 32) * bound >> 32


def plain_apply(options: SpecAugment, crop: npt.NDArray[np.float32], key: int, fill: npt.NDArray[np.float32]) -> None:
    """Masks one crop `[bins, frames]`."""
    bins, frames = crop.shape
    widest = min(options.freq_width, bins), min(options.time_width, int(options.time_fraction * frames + 1e-6))
    for mask in range(options.freq_masks):
        width = plain_draw(key, 0, mask, widest[0] + 1)
        start = plain_draw(key, 1, mask, bins - width) if width < bins else 0
        for place in range(start, start + width):
            for frame in range(frames):
                crop[place, frame] = fill[place]
    for mask in range(options.time_masks):
        width = plain_draw(key, 2, mask, widest[1] + 1)
        start = plain_draw(key, 3, mask, frames - width) if width < frames else 0
        for frame in range(start, start + width):
            for place in range(bins):
                crop[place, frame] = fill[place]


shapes = st.tuples(st.integers(0, 6), st.integers(1, 50), st.integers(1, 90))
options_of_any_kind = st.builds(
    SpecAugment,
    freq_masks=st.integers(0, 4),
    freq_width=st.integers(0, 60),
    time_masks=st.integers(0, 4),
    time_width=st.integers(0, 120),
    time_fraction=st.integers(0, 100).map(lambda percent: percent / 100),
)


@settings(max_examples=150, deadline=None)
@given(options=options_of_any_kind, shape=shapes, seed=st.integers(0, LIMIT - 1), time_axis=st.sampled_from([1, 2]))
def test_it_does_what_a_plain_loop_does(options: SpecAugment, shape: tuple[int, int, int], seed: int, time_axis: int):
    n, bins, _ = shape
    crops, keys, fill = noise(*shape), derive(seed, np.arange(n)), noise(bins, seed=1)
    expected = crops.copy()
    for crop, key in zip(expected, keys.tolist(), strict=True):
        plain_apply(options, crop, key, fill)
    examples = crops.copy() if time_axis == 2 else np.ascontiguousarray(crops.swapaxes(1, 2))
    options.apply(examples, keys, fill, time_axis)
    assert np.array_equal(examples if time_axis == 2 else examples.swapaxes(1, 2), expected)


def spans(places: npt.NDArray[np.bool_]) -> list[int]:
    return np.flatnonzero(places).tolist()


def test_the_masks_of_a_key_are_pinned():
    """The same on every machine and in every version: a change of these numbers changes every training run."""
    assert KEYS.tolist() == PINNED_KEYS
    found = masked(SpecAugment(), KEYS)
    bins = [spans(crop.all(axis=1)) for crop in found]
    frames = [spans(crop.all(axis=0)) for crop in found]
    assert bins == PINNED_BINS
    assert frames == PINNED_FRAMES


PINNED_KEYS = [537672492462473632, 164998679073317326, 1575874801013560142, 11484469475378510393]
PINNED_BINS = [[24, 25, 26, 27], [12, 13, 24, 25, 26, 27, 28], [], [31, 36, 37, 38]]
PINNED_FRAMES = [
    [5, 6, 7, 8, 9, 108, 109, 110, 111, 112, 113, 114, 115, 116, 117],
    [6, 7, 8, 9, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78],
    [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 62, 63, 64, 65, 66, 67, 68, 69],
    [17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 94],
]


def test_both_layouts_get_the_same_masks():
    crops = noise(4, 40, 121)
    turned = np.ascontiguousarray(crops.swapaxes(1, 2))
    SpecAugment().apply(crops, KEYS, FILL, 2)
    SpecAugment().apply(turned, KEYS, FILL, time_axis=1)
    assert np.array_equal(crops, turned.swapaxes(1, 2))
    assert np.any(crops == FILL[:, None])


def test_a_crop_gets_its_masks_wherever_it_stands_in_whatever_batch():
    keys = derive(5, np.arange(50))
    whole = masked(SpecAugment(), keys)
    order = np.random.default_rng(0).permutation(50)
    assert np.array_equal(masked(SpecAugment(), keys[order]), whole[order])
    assert np.array_equal(np.concatenate([masked(SpecAugment(), keys[i : i + 7]) for i in range(0, 50, 7)]), whole)


def test_more_masks_leave_the_first_as_they_are():
    keys = derive(5, np.arange(50))
    one, two, three = (masked(SpecAugment(freq_masks=n, time_masks=n), keys) for n in (1, 2, 3))
    assert np.all(one <= two)
    assert np.all(two <= three)
    assert one.sum() < two.sum() < three.sum()


def test_views_are_masked_in_place():
    batch = np.zeros((9, 121, 80), dtype=np.float32)
    SpecAugment().apply(batch[1::2, :, ::2].swapaxes(1, 2), KEYS, FILL, 2)
    assert np.array_equal(batch[1::2, :, ::2].swapaxes(1, 2) != 0, masked(SpecAugment(), KEYS))
    assert not batch[::2].any()
    assert not batch[:, :, 1::2].any()


def test_widths_and_starts_are_uniform():
    """One mask: widths take all of [0, F] evenly, starts all of [0, axis - width)."""
    keys = derive(7, np.arange(40_000))
    hidden = masked(SpecAugment(1, 4, 0, 0, 0.0), keys, bins=10, frames=1)[:, :, 0]
    width, start = hidden.sum(axis=1), hidden.argmax(axis=1)
    assert np.allclose(np.bincount(width, minlength=5) / len(keys), 1 / 5, atol=0.01)
    for each in range(1, 5):
        counts = np.bincount(start[width == each], minlength=10)
        assert np.allclose(counts[: 10 - each] / counts.sum(), 1 / (10 - each), atol=0.02)
        assert not counts[10 - each :].any()
    assert np.all(np.diff(np.pad(hidden, ((0, 0), (1, 1))).astype(int)).clip(0).sum(axis=1) <= 1)  # in one piece


def test_the_streams_do_not_depend_on_each_other():
    keys = derive(7, np.arange(20_000))
    found = masked(SpecAugment(1, 30, 1, 30, 1.0), keys, bins=31, frames=31)
    bins, frames = (found.all(axis=axis).sum(axis=1) for axis in (2, 1))
    assert abs(np.corrcoef(bins, frames)[0, 1]) < 0.03


def test_the_defaults_hide_a_quarter():
    assert masked(SpecAugment(), derive(1, np.arange(2000))).mean() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(
    ("fraction", "frames", "widest"), [(0.2, 121, 24), (0.29, 100, 29), (1.0, 50, 50), (0.0, 50, 0)]
)
def test_a_time_mask_is_at_most_a_fraction_of_the_frames(fraction: float, frames: int, widest: int):
    found = masked(SpecAugment(0, 0, 1, 1000, fraction), derive(3, np.arange(3000)), bins=2, frames=frames)
    assert found[:, 0].sum(axis=1).max() == widest


def test_widths_beyond_an_axis_are_clipped_to_it():
    found = masked(SpecAugment(1, 1000, 1, 1000, 1.0), derive(3, np.arange(3000)), bins=4, frames=6)
    bins, frames = (found.all(axis=axis).sum(axis=1) for axis in (2, 1))
    assert sorted(set(bins.tolist())) == [0, 1, 2, 3, 4]
    assert sorted(set(frames.tolist())) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("options", [SpecAugment(0, 7, 0, 12), SpecAugment(2, 0, 2, 0), SpecAugment(0, 7, 2, 12, 0.0)])
def test_masks_can_be_turned_off(options: SpecAugment):
    assert not masked(options, KEYS).any()


def test_no_crops_and_single_values():
    assert masked(SpecAugment(), KEYS[:0]).shape == (0, 40, 121)
    assert masked(SpecAugment(1, 9, 1, 9, 1.0), derive(1, np.arange(60)), bins=1, frames=1).mean() > 0.5


# Policies and checks.


def test_the_policies_are_those_of_table_1():
    policies = {name: dataclasses.astuple(SpecAugment.policy(name)) for name in ("LB", "LD", "SM", "SS")}
    assert policies == {
        "LB": (1, 27, 1, 100, 1.0),
        "LD": (2, 27, 2, 100, 1.0),
        "SM": (2, 15, 2, 70, 0.2),
        "SS": (2, 27, 2, 70, 0.2),
    }


def test_an_unknown_policy_is_refused():
    with pytest.raises(ConfigError, match="policy='XL' cannot be used: expected one of LB, LD, SM, SS"):
        SpecAugment.policy("XL")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"freq_masks": -1}, "freq_masks=-1 cannot be used: expected an integer from 0 to 1024"),
        ({"time_masks": 1025}, "time_masks=1025 cannot be used: expected an integer from 0 to 1024"),
        ({"freq_width": -3}, "freq_width=-3 cannot be used: expected an integer from 0 to 1048576"),
        ({"time_width": 2.5}, "time_width=2.5 cannot be used: expected a value of type int"),
        ({"time_masks": True}, "time_masks=True cannot be used: expected a value of type int"),
        ({"time_fraction": 1.5}, r"time_fraction=1.5 cannot be used: expected a number in \[0, 1\]"),
        ({"time_fraction": float("nan")}, "time_fraction=nan cannot be used"),
    ],
)
def test_options_are_checked(values: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        SpecAugment(**values)


def test_whole_numbers_are_fractions_too():
    assert SpecAugment(time_fraction=1) == SpecAugment(time_fraction=1.0)


def read_only() -> npt.NDArray[np.float32]:
    crops = noise(4, 40, 121)
    crops.flags.writeable = False
    return crops


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"examples": np.zeros((4, 40, 121))}, r"examples='float64 \[4, 40, 121\]' cannot be used: expected writeable"),
        ({"examples": noise(40, 121)}, r"examples='float32 \[40, 121\]' cannot be used"),
        ({"examples": read_only()}, r"examples='float32 \[4, 40, 121\] read-only' cannot be used"),
        ({"bits": KEYS[:3]}, r"bits='uint64 \[3\]' cannot be used: expected one uint64 key a crop, \[4\]"),
        ({"bits": np.arange(4)}, r"bits='int64 \[4\]' cannot be used"),
        ({"fill": FILL[:39]}, r"fill='float32 \[39\]' cannot be used: expected one float32 a bin, \[40\]"),
        ({"fill": np.zeros(40)}, r"fill='float64 \[40\]' cannot be used"),
        ({"time_axis": 1}, r"fill='float32 \[40\]' cannot be used: expected one float32 a bin, \[121\]"),
        ({"time_axis": 0}, r"time_axis=0 cannot be used: expected 2 for \[n, bins, frames\]"),
    ],
)
def test_arrays_are_checked(change: dict[str, Any], message: str):
    values = {"examples": noise(4, 40, 121), "bits": KEYS, "fill": FILL, "time_axis": 2} | change
    with pytest.raises(ConfigError, match=message):
        SpecAugment().apply(**values)
