"""Crops are mixed and changed as in a plain computation, for every kind of stored value; silence stays silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from synth import speechlike

from ge2e_transforms import mel_mixing
from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.features import FeatureKernel
from ge2e_transforms.mel_mixing import MelMixing, band_weights
from ge2e_transforms.reading import silence

GE2E = PRESETS["ge2e"]
BANDS, FRAMES = 40, 23
Exact = npt.NDArray[np.float64]
NONE = np.empty(0, dtype=np.int64)


def form_of(log: str, floor_kind: str, level: float | None = -30.0) -> Recipe:
    return GE2E.replace(log=log, floor_kind=floor_kind, floor=1e-6, level_dbfs=level)


def as_stored(power: Exact, recipe: Recipe) -> npt.NDArray[np.float32]:
    config = recipe.feature
    if config.log != "none":
        power = power + config.floor if config.floor_kind == "add" else np.maximum(power, config.floor)
        logs = {"log10": np.log10, "ln": np.log, "db": lambda values: 10 * np.log10(values)}
        power = logs[config.log](power)
    return np.asarray(power, dtype=np.float32)


def as_power(stored: npt.NDArray[np.float32], recipe: Recipe) -> Exact:
    config, values = recipe.feature, stored.astype(np.float64)
    if config.log == "none":
        return values
    values = {"log10": lambda: 10**values, "ln": lambda: np.exp(values), "db": lambda: 10 ** (values / 10)}[
        config.log
    ]()
    if config.floor_kind == "add":
        return np.maximum(values - config.floor, 0)
    return np.where(stored > silence(recipe)[0], values, 0)


def crops(n: int, recipe: Recipe, seed: int = 0) -> npt.NDArray[np.float32]:
    """`[n, bands, frames]` with power from far below the floor to 100, some of it none."""
    rng = np.random.default_rng(seed)
    power = 10 ** rng.uniform(-9, 2, (n, BANDS, FRAMES))
    power[rng.random(power.shape) < 0.1] = 0
    return as_stored(power, recipe)


def plainly(
    speech: npt.NDArray[np.float32], noise: Any, snr_db: float, decibels: npt.NDArray[Any], recipe: Recipe
) -> npt.NDArray[np.float32]:
    """One crop `[bands, frames]`."""
    power, weights = as_power(speech, recipe), band_weights(recipe).astype(np.float64)[:, None]
    if noise is not None:
        other, ratio = as_power(noise, recipe), 10 ** (-snr_db / 10)
        mixed = power + other * ratio * (weights * power).sum() / (weights * other).sum()
        power = mixed / (1 + ratio) if recipe.level.level_dbfs is not None else mixed
    return as_stored(power * 10 ** (decibels[:, None] / 10), recipe)


KINDS = [(log, kind) for log in ("log10", "ln", "db") for kind in ("add", "max")] + [("none", "add")]


@pytest.mark.parametrize("time_axis", [1, 2])
@pytest.mark.parametrize("level", [-30.0, None])
@pytest.mark.parametrize(("log", "floor_kind"), KINDS)
def test_it_does_what_a_plain_computation_does(log: str, floor_kind: str, level: float | None, time_axis: int) -> None:
    recipe = form_of(log, floor_kind, level)
    speech, noise = crops(6, recipe), crops(3, recipe, seed=1)
    decibels = np.random.default_rng(2).uniform(-9, 9, (6, BANDS)).astype(np.float32)
    noisy, snr_db = np.array([0, 3, 4]), np.array([-5, 10, 30], dtype=np.float32)
    of_crop = dict(zip(noisy.tolist(), zip(noise, snr_db.tolist(), strict=True), strict=True))
    expected = [
        plainly(crop, *of_crop.get(number, (None, 0.0)), decibels[number], recipe) for number, crop in enumerate(speech)
    ]
    order = (0, 1, 2) if time_axis == 2 else (0, 2, 1)
    examples, others = speech.transpose(order).copy(), noise.transpose(order).copy()
    MelMixing(recipe).apply(examples, time_axis, decibels, others, noisy, snr_db)
    unit = {"log10": 1.0, "ln": 2.3, "db": 10.0, "none": 0.0}[log]
    np.testing.assert_allclose(examples.transpose(order), expected, rtol=4e-6, atol=2e-5 * unit)
    assert np.abs(examples.transpose(order) - speech).max() > 0.3 * unit


def test_a_crop_that_nothing_is_done_to_keeps_its_bits() -> None:
    speech = crops(4, GE2E)
    examples = speech.copy()
    MelMixing(GE2E).apply(examples, 2, None, speech[2:3].copy(), np.array([2]), np.zeros(1, np.float32))
    assert np.array_equal(np.delete(examples, 2, 0), np.delete(speech, 2, 0))
    np.testing.assert_allclose(examples[2], speech[2], atol=2e-5)  # with itself, at the power that it had
    MelMixing(GE2E).apply(examples, 2, None, speech[:0], NONE, np.empty(0, np.float32))
    assert np.array_equal(examples[3], speech[3])
    MelMixing(GE2E).apply(examples[:0], 2, None, speech[:0], NONE, np.empty(0, np.float32))


@pytest.mark.parametrize(
    ("log", "floor_kind", "dtype"),
    [(*kind, "float32") for kind in KINDS] + [("log10", "add", "float16"), ("ln", "max", "float16")],
)
def test_silence_stays_silence_and_a_silent_noise_changes_nothing(log: str, floor_kind: str, dtype: str) -> None:
    recipe = form_of(log, floor_kind).replace(dtype=dtype)
    speech = crops(2, recipe).astype(dtype).astype(np.float32)
    quiet = np.broadcast_to(silence(recipe)[:, None], speech.shape).copy()
    snr_db, both = np.full(2, -60, dtype=np.float32), np.arange(2)
    for one, other in ((speech, quiet), (quiet, speech), (quiet, quiet)):
        examples = one.copy()
        MelMixing(recipe).apply(examples, 2, None, other, both, snr_db)
        assert np.array_equal(examples, one)
    loud = quiet.copy()
    MelMixing(recipe).apply(loud, 2, np.full((2, BANDS), 60, np.float32), speech, both, snr_db)
    np.testing.assert_allclose(loud, as_stored(np.zeros(speech.shape), recipe), rtol=1e-6)


@pytest.mark.parametrize("log", ["log10", "none"])
def test_values_that_no_recipe_gives_make_no_nan(log: str) -> None:
    rng = np.random.default_rng(0)
    wild = rng.uniform(-2000, 2000, (2, BANDS, FRAMES)).astype(np.float32)
    for speech, noise in ((wild, crops(2, GE2E)), (crops(2, GE2E), wild), (wild, wild[::-1].copy())):
        examples = speech.copy()
        changes = np.full((2, BANDS), 60, np.float32)
        MelMixing(form_of(log, "add")).apply(examples, 2, changes, noise, np.arange(2), np.full(2, -60, np.float32))
        assert np.isfinite(examples).all()


def test_only_arrays_in_c_order_are_changed() -> None:
    turned = crops(2, GE2E).swapaxes(1, 2)
    with pytest.raises(ConfigError, match=r"examples='of strides .* expected an array in C order"):
        MelMixing(GE2E).apply(turned, 1, None, turned[:0], NONE, np.empty(0, np.float32))


def test_exponential_and_logarithm_are_exact_to_the_last_places() -> None:
    exponents = np.linspace(-99, 99, 20_001, dtype=np.float32)
    powers = np.array([mel_mixing._exp2(one) for one in exponents])
    np.testing.assert_allclose(powers, 2 ** exponents.astype(np.float64), rtol=3e-7)
    values = (10 ** np.linspace(-37, 38, 20_001)).astype(np.float32)
    logs = np.array([mel_mixing._log2(one) for one in values])
    np.testing.assert_allclose(logs, np.log2(values.astype(np.float64)), rtol=2e-7, atol=2e-7)


# Power.


def test_weights_undo_the_heights_of_slaneys_triangles() -> None:
    assert np.all(band_weights(GE2E.replace(mel_norm="none")) == 1)
    weights = band_weights(GE2E)
    hz = 200 / 3 * np.linspace(0, 45.245640471924965, 42)[:3]  # corners of the first triangle; it is 1 / (area 1)
    assert weights[0] == pytest.approx((hz[2] - hz[0]) / 2, rel=1e-5)
    assert weights[-1] > 5 * weights[0]


@pytest.mark.parametrize(
    ("preset", "changes", "tolerance"),
    [("ge2e", {}, 0.25), ("librosa", {}, 0.25), ("kaldi", {}, 0.5), ("ge2e", {"pre_emphasis": 0.97}, 0.5)],
)
def test_the_power_of_bands_is_that_of_the_waveform(preset: str, changes: dict[str, Any], tolerance: float) -> None:
    """The ratio of two signals of very different spectra, in decibels. Of emphasis within frames, as Kaldi does it."""
    frames = {"pre_emphasis_in": "frame"} if changes else {}
    recipe = PRESETS[preset].replace(log="none", **changes, **frames)
    rng = np.random.default_rng(0)
    voice = speechlike(0, 2.0) * np.float32(0.3)
    hiss = rng.normal(0, 0.05, len(voice)).astype(np.float32)
    weights, kernel = band_weights(recipe).astype(np.float64), FeatureKernel(recipe)
    powers = [(kernel(signal) @ weights).sum() for signal in (voice, hiss)]
    exact = [float(np.square(signal, dtype=np.float64).sum()) for signal in (voice, hiss)]
    off = 10 * np.log10(powers[0] / powers[1]) - 10 * np.log10(exact[0] / exact[1])
    assert abs(off) < tolerance
