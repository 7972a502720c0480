"""Features become a waveform again whose features, level and length are those that they came from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import synth

from ge2e_transforms import inversion
from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.errors import ConfigError, CorruptRecordError
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.features import mel_filterbank

GE2E = PRESETS["ge2e"]
KALDI = PRESETS["kaldi"]
# By name: a recipe, and what its features may be off on average, in log10. Where nothing as high as the floor of `ge2e`
# hides them, soft bands beside loud ones are off most: between harmonics, and under what a Hamming window leaks.
CASES: Mapping[str, tuple[Recipe, float]] = {
    "ge2e": (GE2E, 0.03),
    "seed": (PRESETS["seed"], 0.03),
    "librosa": (PRESETS["librosa"], 0.35),
    "kaldi": (KALDI, 0.08),
    "rtvc": (PRESETS["rtvc"], 0.03),
    "wespeaker": (PRESETS["wespeaker"], 0.2),
    "ln": (GE2E.replace(log="ln"), 0.03),
    "max": (GE2E.replace(floor_kind="max"), 0.03),
    "htk": (GE2E.replace(mel_scale="htk", mel_norm="none"), 0.05),
    "not centred": (GE2E.replace(center=False), 0.03),
    "symmetric": (GE2E.replace(window="hamming", window_form="symmetric"), 0.09),
    "odd window": (GE2E.replace(window="blackman", window_ms=25.0625), 0.03),
    "band": (GE2E.replace(f_min_hz=80.0, f_max_hz=7000.0), 0.03),
    "pre-emphasis": (GE2E.replace(pre_emphasis=0.97), 0.03),
    "difference": (GE2E.replace(pre_emphasis=1.0), 0.03),
    "mfcc": (GE2E.replace(features="mfcc"), 0.04),
    "mfcc of Kaldi": (KALDI.replace(features="mfcc", n_mfcc=80), 0.1),
    "48 kHz": (GE2E.replace(sample_rate_hz=48000, n_fft=2048), 0.03),
}
Values = npt.NDArray[np.float32]


@cache
def speech(rate: int = 16000) -> Values:
    return synth.speechlike(3, 1.3, rate)


def features(samples: Values, recipe: Recipe) -> Values:
    """Of all samples, as they are."""
    as_they_are = {"remove_dc": False, "voice": "none", "level_mode": "set", "level_dbfs": None, "min_utterance_ms": 0}
    extractor = FeatureExtractor(recipe.replace(**as_they_are, segments="utterance"))
    return np.asarray(extractor.joined(extractor.extract(samples, keep_all=True)))


def in_log10(values: Values, recipe: Recipe) -> npt.NDArray[np.float64]:
    if recipe.feature.log == "none":
        return np.log10(np.maximum(values, 0) + 1e-6)
    return values / {"log10": 1, "ln": math.log(10), "db": 10}[recipe.feature.log]


def off(one: Values, other: Values, recipe: Recipe) -> float:
    return float(np.abs(in_log10(one, recipe) - in_log10(other, recipe)).mean())


@pytest.mark.parametrize("name", CASES)
def test_features_of_the_result_are_near_and_its_level_is_the_same(name: str) -> None:
    recipe, bound = CASES[name]
    samples = speech(recipe.audio.sample_rate_hz)
    given = features(samples, recipe)
    found = inversion.waveform(given, recipe)
    assert (found.dtype, found.ndim) == (np.float32, 1)
    again = features(found, recipe)
    assert again.shape == given.shape
    assert off(again, given, recipe) < bound
    assert off(features(2 * found, recipe), given, recipe) > bound
    assert 0.95 < np.sqrt(np.mean(found**2) / np.mean(samples**2)) < 1.05


@pytest.mark.parametrize("where", ["utterance", "frame"])
def test_pre_emphasis_is_undone(where: str) -> None:
    recipe = GE2E.replace(pre_emphasis=0.97, pre_emphasis_in=where)
    given = features(speech(), recipe)
    plain = features(speech(), GE2E)
    assert off(features(inversion.waveform(given, recipe), GE2E), plain, GE2E) < 0.15
    assert off(features(inversion.waveform(given, GE2E), GE2E), plain, GE2E) > 0.3


@pytest.mark.parametrize("name", ["ge2e", "seed", "kaldi", "not centred", "librosa"])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_of_few_frames_as_many_come_back(name: str, rows: int) -> None:
    recipe = CASES[name][0]
    given = features(speech(), recipe)[10 : 10 + rows]
    found = inversion.waveform(given, recipe, iterations=4)
    assert np.isfinite(found).all() and np.abs(found).max() > 1e-3
    # One centred frame is told by less than a hop of sound.
    assert len(features(found, recipe)) == (2 if rows == 1 and recipe.feature.center else rows)


def test_a_seed_gives_the_same_phases_and_another_others() -> None:
    given = features(speech(), GE2E)
    one, same, other = (inversion.waveform(given, GE2E, 2, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert np.abs(one - other).max() > 0.01


def test_more_iterations_come_nearer() -> None:
    given = features(speech(), GE2E)
    errors = [off(features(inversion.waveform(given, GE2E, many), GE2E), given, GE2E) for many in (1, 8, 60)]
    assert errors[0] > 2 * errors[1] > 3 * errors[2]


# Parts.


@pytest.mark.parametrize(
    ("changes", "compress"),
    [
        ({}, lambda power: np.log10(power + 1e-6)),
        ({"log": "ln", "floor": 1e-3}, lambda power: np.log(power + 1e-3)),
        ({"log": "db"}, lambda power: 10 * np.log10(power + 1e-6)),
        ({"log": "none"}, lambda power: power),
        ({"scale": "pcm16"}, lambda power: np.log10(power * 32768.0**2 + 1e-6)),
    ],
)
def test_the_logarithm_and_its_floor_are_undone(changes: dict[str, Any], compress: Any) -> None:
    power = np.array([[0, 1e-5, 0.5, 123.0]])
    found = inversion.mel_power(compress(power), GE2E.replace(n_mels=4, **changes))
    np.testing.assert_allclose(found, power, rtol=1e-9, atol=1e-14)


def test_a_floor_that_replaced_power_is_left() -> None:
    recipe = GE2E.replace(n_mels=3, floor_kind="max", floor=1e-2)
    assert inversion.mel_power(np.array([[-2.0, 0.0, 1.0]]), recipe)[0].tolist() == pytest.approx([1e-2, 1, 10])


def test_less_than_the_floor_that_was_added_is_no_power() -> None:
    assert inversion.mel_power(np.array([[-7.0, -6.0]]), GE2E.replace(n_mels=2)).tolist() == [[0, 0]]


@pytest.mark.parametrize("log", ["log10", "none"])
def test_all_coefficients_give_the_bands(log: str) -> None:
    plain = GE2E.replace(log=log)
    recipe = plain.replace(features="mfcc", n_mfcc=40)
    bands = inversion.mel_power(features(speech(), plain), plain)
    np.testing.assert_allclose(inversion.mel_power(features(speech(), recipe), recipe), bands, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CASES if "mfcc" not in name])
def test_a_spectrum_has_the_power_of_the_bands_and_is_smooth(name: str) -> None:
    """Of a spectrum that falls evenly: all of it is found again, to what bands as wide as these cannot tell."""
    recipe = CASES[name][0].replace(pre_emphasis=0.0)
    filters = mel_filterbank(recipe).toarray().astype(np.float64)
    bins = filters.shape[1]
    spectrum = np.exp(-5 * np.arange(bins) / bins)[:, None] * np.array([1.0, 1e-9, 1e6])
    mel = filters @ spectrum
    found = inversion.spectrum_of(mel.T, recipe)
    assert found.shape == spectrum.shape
    assert (found >= 0).all()
    assert np.abs(np.log10(filters @ found) - np.log10(mel)).max() < 1e-3
    told = filters.sum(axis=0) > 0
    assert np.median(np.abs(np.log10(found[told]) - np.log10(spectrum[told]))) < 0.05
    assert not found[~told].any()


def test_silence_is_silence() -> None:
    recipe = GE2E.replace(n_mels=20)
    assert not inversion.waveform(np.full((30, 20), -6.0, np.float32), recipe, 2).any()


def test_frames_of_many_blocks_are_those_of_one() -> None:
    mel = np.random.default_rng(0).gamma(1.0, size=(1100, 40))
    whole = inversion.spectrum_of(mel, GE2E)
    for first in (0, 500, 1099):
        np.testing.assert_allclose(inversion.spectrum_of(mel[first : first + 1], GE2E), whole[:, first : first + 1])


# What cannot be given.


def test_samples_are_no_features() -> None:
    with pytest.raises(ConfigError, match="features='raw' cannot be used"):
        inversion.waveform(np.zeros((10, 1), np.float32), GE2E.replace(features="raw"))


@pytest.mark.parametrize("field", [{"iterations": 0}, {"seed": -1}])
def test_options_out_of_range(field: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"(iterations=0|seed=-1) cannot be used: expected an integer"):
        inversion.waveform(np.zeros((10, 40), np.float32), GE2E, **field)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5, 31.0])
@pytest.mark.parametrize("kind", ["logmel", "mfcc"])
def test_what_no_waveform_has_is_damage(value: float, kind: str) -> None:
    recipe = GE2E.replace(features=kind, n_mfcc=40)
    values = np.zeros((10, 40), np.float32)
    values[3, 0] = value * (7 if kind == "mfcc" else 1)  # the first coefficient is the sum by the root of 40
    with pytest.raises(CorruptRecordError, match=r"got a power of \S+ in a mel band"):
        inversion.waveform(values, recipe)
