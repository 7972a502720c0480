"""The compiled kernel: against a plain computation, frame by frame, whatever the block and the kind of array."""

from __future__ import annotations

import numpy as np
import pytest
from synth import speechlike, tone

from ge2e_transforms import filterbank, spectrum
from ge2e_transforms.config import PRESETS
from ge2e_transforms.features import FeatureKernel, mel_filterbank

RECIPE = PRESETS["ge2e"].replace(log="none")


def plain(samples, recipe):
    """Mel power in float64, by definition."""
    config = recipe.feature
    samples = samples.astype(np.float64)
    if config.center:
        samples = np.pad(samples, 256, mode=config.pad_mode)
    count = 1 + (len(samples) - 512) // recipe.hop_samples
    window, length = np.zeros(512), recipe.window_samples
    window[(512 - length) // 2 :][:length] = filterbank.window(config.window, length)
    frames = np.stack([samples[n * recipe.hop_samples :][:512] * window for n in range(count)])
    turns = np.exp(-2j * np.pi * np.outer(np.arange(512), np.arange(257)) / 512)
    return np.abs(frames @ turns) ** 2 @ mel_filterbank(recipe).toarray().T


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pad_mode": "reflect"},
        {"center": False},
        {"hop_ms": 0.0625},
        {"hop_ms": 40},
        {"window_ms": 0.0625},
        {"window": "hamming", "window_ms": 31.9375},
        {"window": "boxcar", "window_ms": 32},
        {"n_mels": 3},
        {"n_mels": 1, "f_min_hz": 3000, "f_max_hz": 3100},
        {"mel_scale": "htk", "f_min_hz": 60, "f_max_hz": 7600},
    ],
    ids=str,
)
def test_power_is_that_of_the_definition(changes):
    recipe = RECIPE.replace(**changes)
    length = 700 if recipe.hop_samples == 1 else 14000
    samples = speechlike(5, 1.0)[1000 : 1000 + length]
    found, expected = FeatureKernel(recipe)(samples), plain(samples, recipe)
    assert found.shape == expected.shape
    # Single precision: an error of a bin is one of the loudest bin of its frame.
    assert np.abs(found - expected).max() < 1e-5 * expected.max()
    assert np.median(np.abs(found / np.maximum(expected, 1e-30) - 1)) < 1e-5


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 63, 64, 65, 66, 67, 68, 127, 128, 129, 200])
def test_a_frame_is_the_same_in_any_block_and_lane(frames):
    """A slice that is extracted alone must equal the whole, whichever lanes its frames stood in."""
    samples = speechlike(6, 4.0)
    whole = FeatureKernel(RECIPE.replace(center=False))(samples)
    for start in (0, 1, 17):
        part = samples[start * 160 : start * 160 + 512 + (frames - 1) * 160]
        assert np.array_equal(FeatureKernel(RECIPE.replace(center=False))(part), whole[start : start + frames])


def test_nothing_of_other_lanes_or_utterances_is_left_over():
    kernel = FeatureKernel(RECIPE)
    quiet = np.zeros(4000, dtype=np.float32)
    kernel(tone(440, 2.0, level=0.9))
    assert not kernel(quiet).any()


def test_an_impulse_is_flat_and_a_cosine_is_a_line():
    recipe = RECIPE.replace(center=False, window="boxcar", window_ms=32, mel_norm="none")
    impulse = np.zeros(512, dtype=np.float32)
    impulse[200] = 0.5
    (flat,) = FeatureKernel(recipe)(impulse)
    assert np.allclose(flat, 0.25 * mel_filterbank(recipe).toarray().sum(axis=1), rtol=1e-5)
    for k in (1, 7, 128, 129, 200, 255):
        line = np.cos(2 * np.pi * k * np.arange(512) / 512).astype(np.float32)
        (found,) = FeatureKernel(recipe)(line)
        expected = 256.0**2 * mel_filterbank(recipe).toarray()[:, k]
        assert np.allclose(found, expected, atol=1e-3 * 256)


def test_what_may_not_be_written_and_lies_apart_is_taken_too():
    """Another kind of array would have it compiled anew, for seconds."""
    kernel, samples = FeatureKernel(RECIPE), speechlike(8, 1.0)
    expected = kernel(samples)
    compiled = len(spectrum.mel_power.signatures)
    frozen = np.frombuffer(samples.tobytes(), dtype=np.float32)
    apart = np.repeat(samples, 2)[::2]
    for other in (frozen, apart, samples.astype(np.float64), np.stack([samples, samples])[1]):
        assert np.array_equal(kernel(other), expected)
    assert len(spectrum.mel_power.signatures) == compiled == 1
