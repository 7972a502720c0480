"""What is drawn for a crop follows from its key, lies in its range and does what it says; what cannot be is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_dataset import write_dataset

from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.errors import ConfigError, DatasetError
from ge2e_transforms.mel_augment import MelAugment, MelAugmenter
from ge2e_transforms.mel_mixing import band_weights
from ge2e_transforms.rng import derive

GE2E = PRESETS["ge2e"]
FREE = GE2E.replace(level_dbfs=None)
KEYS = derive(11, 3, np.arange(300))
FRAMES = 50


def logs(n: int, frames: int, seed: int) -> npt.NDArray[np.float32]:
    """Log-mels `[n, 40, frames]` of power far above the floor."""
    power = 10 ** np.random.default_rng(seed).uniform(-4, 1, (n, 40, frames))
    return np.asarray(np.log10(power + 1e-6), dtype=np.float32)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four records, one a little shorter than a crop."""
    records = [logs(1, rows, rows)[0].T for rows in (45, 80, 200, 300)]
    split = {f"test/n{number}": [[values]] for number, values in enumerate(records)}
    return write_dataset(tmp_path_factory.mktemp("noise"), {"train": split}, GE2E)


def augmented(
    options: MelAugment, recipe: Recipe = GE2E, keys: Any = KEYS, layout: str = "mel_time"
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Power of crops `[n, 40, frames]` before and after."""
    before = logs(len(keys), FRAMES, 0)
    after = before.copy() if layout == "mel_time" else before.swapaxes(1, 2).copy()
    MelAugmenter(options, recipe, layout).apply(after, keys)
    after = after if layout == "mel_time" else after.swapaxes(1, 2)
    return tuple(10 ** values.astype(np.float64) - 1e-6 for values in (before, after))  # type: ignore[return-value]


def gains(options: MelAugment, **more: Any) -> npt.NDArray[np.float64]:
    """Decibels of each band of each crop, `[n, 40]`, which are the same in all frames."""
    before, after = augmented(options, **more)
    found = 10 * np.log10(after / before)
    np.testing.assert_allclose(found, found[:, :, :1].repeat(FRAMES, 2), atol=0.02)
    return np.asarray(np.median(found, axis=2))


# Level, tilt, equaliser.


def test_gain_is_of_all_bands_and_uniform() -> None:
    found = gains(MelAugment(gain_db=(-6, 10)))
    np.testing.assert_allclose(found, found[:, :1].repeat(40, 1), atol=2e-3)
    assert -6 <= found.min() < -5.8 < 9.8 < found.max() <= 10.001
    assert np.histogram(found[:, 0], 4, (-6, 10))[0] == pytest.approx(75, abs=25)


@pytest.mark.parametrize("gain_db", [-20.0, 3.0, 12.5])
def test_a_range_of_one_value_is_that_value(gain_db: float) -> None:
    np.testing.assert_allclose(gains(MelAugment(gain_db=(gain_db, gain_db))), gain_db, atol=2e-3)


def test_a_tilt_is_a_straight_line_through_the_middle() -> None:
    found = gains(MelAugment(tilt_db=(-8, 8)))
    step = (found[:, -1] - found[:, 0]) / 39
    np.testing.assert_allclose(found, step[:, None] * (np.arange(40) - 19.5), atol=4e-3)
    assert -8 <= (39 * step).min() < -7.5 < 7.5 < (39 * step).max() <= 8
    np.testing.assert_allclose(gains(MelAugment(tilt_db=(6, 6)))[:, [0, -1]], [[-3, 3]] * 300, atol=2e-3)


def test_an_equaliser_goes_straight_from_point_to_point() -> None:
    found = gains(MelAugment(equalizer_db=(-6, 6), equalizer_points=4))
    points = found[:, [0, 13, 26, 39]]
    expected = [np.interp(np.arange(40), [0, 13, 26, 39], crop) for crop in points]
    np.testing.assert_allclose(found, expected, atol=4e-3)
    assert np.abs(found).max() <= 6.002
    np.testing.assert_allclose(np.cov(points.T), 12 * np.eye(4), atol=2.5)  # each point by itself: 12**2 / 12


def test_gain_tilt_and_equaliser_add_up() -> None:
    parts = [{"gain_db": (-6, 6)}, {"tilt_db": (-6, 6)}, {"equalizer_db": (-6, 6)}]
    together = gains(MelAugment(**parts[0], **parts[1], **parts[2]))  # type: ignore[arg-type]
    alone = sum(gains(MelAugment(**one)) for one in parts)  # type: ignore[arg-type]
    np.testing.assert_allclose(together, alone, atol=6e-3)


def test_one_band_has_no_tilt_and_few_bands_an_equaliser() -> None:
    options = MelAugment(gain_db=(1, 1), tilt_db=(5, 5), equalizer_db=(2, 2), equalizer_points=1024)
    assert options.decibels(KEYS[:2], 1).tolist() == [[3], [3]]
    np.testing.assert_allclose(options.decibels(KEYS[:1], 3), [[0.5, 3, 5.5]])


# Noise.


def snr_of(options: MelAugment, recipe: Recipe, noise: bool = True) -> npt.NDArray[np.float64]:
    """Power of crops to the power of what was added to them, in decibels."""
    before, after = augmented(options, recipe)
    weights = band_weights(recipe).astype(np.float64)
    speech, mixed = (np.einsum("nbt,b->n", power, weights) for power in (before, after))
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(speech / (mixed - speech)))


def test_noise_is_added_at_the_ratio_that_is_drawn(noise: Path) -> None:
    options = MelAugment(noise=noise, noise_share=1, snr_db=(-3, 12))
    found = snr_of(options, FREE)
    np.testing.assert_allclose(found, options.snr(KEYS), atol=0.02)
    assert -3 <= found.min() < -2.5 < 11.5 < found.max() <= 12.1
    assert np.histogram(found, 3, (-3, 12))[0] == pytest.approx(100, abs=30)


def test_the_mixture_has_the_level_of_the_speech_where_the_recipe_sets_one(noise: Path) -> None:
    options = MelAugment(noise=str(noise), noise_share=1, snr_db=(4, 4))
    (before, levelled), (_, free) = augmented(options), augmented(options, FREE)
    weights = band_weights(GE2E).astype(np.float64)
    np.testing.assert_allclose(*(np.einsum("nbt,b->n", power, weights) for power in (levelled, before)), rtol=1e-4)
    ratio = levelled / free
    np.testing.assert_allclose(ratio, 1 / (1 + 10**-0.4), rtol=1e-3)
    _, raised = augmented(options, GE2E.replace(level_mode="raise"))
    assert np.array_equal(raised, free)


@pytest.mark.parametrize(("share", "least", "most"), [(0, 0, 0), (0.25, 0.18, 0.32), (1, 1, 1)])
def test_a_share_of_the_crops_gets_noise(noise: Path, share: float, least: float, most: float) -> None:
    before, after = augmented(MelAugment(noise=noise, noise_share=share))
    assert least <= (before != after).any(axis=(1, 2)).mean() <= most


def test_noise_differs_from_crop_to_crop_and_is_a_stretch_of_a_record(noise: Path) -> None:
    options = MelAugment(noise=noise, noise_share=1, snr_db=(-60, -60))
    before = np.full((300, 40, FRAMES), -1, np.float32)
    MelAugmenter(options, GE2E, "mel_time").apply(before, KEYS)
    shapes = before - before.mean(axis=(1, 2), keepdims=True)  # what is left is the noise
    records = [logs(1, rows, rows)[0] for rows in (45, 80, 200, 300)]
    repeated = [np.concatenate([record, record], 1)[:, : max(FRAMES, record.shape[1])] for record in records]
    stretches = np.concatenate(
        [np.lib.stride_tricks.sliding_window_view(one, FRAMES, axis=1).swapaxes(0, 1) for one in repeated]
    )
    stretches = stretches - stretches.mean(axis=(1, 2), keepdims=True)
    nearest = [int(np.abs(stretches - one).mean(axis=(1, 2)).argmin()) for one in shapes]
    off = [np.abs(stretches[place] - one).max() for place, one in zip(nearest, shapes, strict=True)]
    assert max(off) < 0.05  # the floor and the speech are there, too; other stretches differ by some units
    assert len(set(nearest)) > 100
    assert (np.bincount(np.searchsorted([1, 32, 183], nearest, side="right")) > 50).all()  # all four records


# Keys.


@pytest.mark.parametrize("layout", ["mel_time", "time_mel"])
def test_a_crop_gets_the_same_wherever_it_stands_and_in_both_layouts(noise: Path, layout: str) -> None:
    options = MelAugment(noise=noise, gain_db=(-6, 6), tilt_db=(-3, 3), equalizer_db=(-6, 6))
    whole = logs(300, FRAMES, 0)
    MelAugmenter(options, GE2E, "mel_time").apply(whole, KEYS)
    augmenter = MelAugmenter(options, GE2E, layout)
    for part in (slice(0, 1), slice(17, 40), slice(250, 300)):
        crops = logs(300, FRAMES, 0)[part]
        crops = crops.copy() if layout == "mel_time" else crops.swapaxes(1, 2).copy()
        augmenter.apply(crops, KEYS[part])
        if layout == "mel_time":
            assert np.array_equal(crops, whole[part])
        else:  # sums of power have another order
            np.testing.assert_allclose(crops.swapaxes(1, 2), whole[part], atol=2e-6)


def test_the_draws_of_a_key_are_pinned() -> None:
    """The same on every machine and in every version: a change of these numbers changes every training run."""
    options = MelAugment(noise="x", gain_db=(-6, 6), tilt_db=(-6, 6), equalizer_db=(-6, 6), equalizer_points=3)
    keys = derive(11, 3, np.arange(8))
    assert options.noisy(keys).tolist() == PINNED_NOISY
    np.testing.assert_allclose(options.snr(keys[:4]), PINNED_SNR, atol=1e-5)
    np.testing.assert_allclose(options.decibels(keys[:4], 5), PINNED_DECIBELS, atol=1e-5)


PINNED_NOISY = [1, 2, 5, 6]
PINNED_SNR = [3.32128, 0.71725, 10.14123, 6.18761]
PINNED_DECIBELS = [
    [-9.97106, -5.57609, -1.18112, 0.88426, 2.94965],
    [-1.60375, -4.08691, -6.57007, -6.12513, -5.6802],
    [-2.89418, -0.48775, 1.91869, 1.75323, 1.58777],
    [2.09664, 3.61143, 5.12621, 0.84594, -3.43432],
]


# What is refused.


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "a MelAugment that does nothing cannot be used: give one of noise, gain_db, tilt_db, equalizer_db"),
        ({"snr_db": (0, 5), "gain_db": (0, 0)}, "does nothing"),
        ({"noise": 3}, "noise=3 cannot be used: expected a folder, a URL or None"),
        ({"noise": "x", "noise_share": 1.5}, r"noise_share=1.5 cannot be used: expected a number in \[0, 1\]"),
        ({"noise": "x", "noise_share": "all"}, "noise_share='all' cannot be used"),
        ({"noise": "x", "noise_share": float("nan")}, "noise_share=nan cannot be used"),
        (
            {"noise": "x", "snr_db": (15, 0)},
            r"snr_db=\(15, 0\) cannot be used: expected \(lowest, highest\) in decibels",
        ),
        ({"noise": "x", "snr_db": (0, 61)}, r"snr_db=\(0, 61\) cannot be used: .*from -60 to 60"),
        ({"gain_db": 6}, "gain_db=6 cannot be used"),
        ({"gain_db": (0, 1, 2)}, r"gain_db=\(0, 1, 2\) cannot be used"),
        ({"tilt_db": (0, None)}, r"tilt_db=\(0, None\) cannot be used"),
        ({"tilt_db": (0, float("inf"))}, r"tilt_db=\(0, inf\) cannot be used"),
        ({"equalizer_db": "+-"}, r"equalizer_db='\+-' cannot be used"),
        (
            {"equalizer_db": (0, 6), "equalizer_points": 1},
            "equalizer_points=1 cannot be used: expected an integer from 2",
        ),
    ],
)
def test_options_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MelAugment(**values)


def test_whole_numbers_and_lists_are_ranges_too() -> None:
    options = MelAugment(gain_db=[-3, np.float32(3)], noise_share=1)  # type: ignore[arg-type]
    assert np.abs(options.decibels(KEYS, 4)).max() <= 3


@pytest.mark.parametrize("features", ["mfcc", "raw"])
def test_other_features_are_refused(features: str) -> None:
    with pytest.raises(ConfigError, match=f"a dataset of features '{features}': .*--features logmel"):
        MelAugmenter(MelAugment(gain_db=(-6, 6)), GE2E.replace(features=features), "mel_time")


def test_noise_of_another_recipe_or_none_is_refused(noise: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be mixed with this speech: .*log \('log10', not 'ln'\)"):
        MelAugmenter(MelAugment(noise=noise), GE2E.replace(log="ln"), "mel_time")
    with pytest.raises(DatasetError, match=str(tmp_path / "none")):
        MelAugmenter(MelAugment(noise=tmp_path / "none"), GE2E, "mel_time")
