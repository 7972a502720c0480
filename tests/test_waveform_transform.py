"""Transforms of waveforms: what they give is checked, and draws of a function of one waveform come from its key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ge2e_transforms import PRESETS, EachWaveform
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.rng import random_bits
from ge2e_transforms.waveform_transform import Waveforms, bound, transformed

KEYS = random_bits(1, 6)
WAVEFORMS = np.zeros((6, 50), np.float32)


def noisy(waveform: Waveforms, rng: np.random.Generator) -> Any:
    return waveform + rng.standard_normal(len(waveform))


def test_the_generator_of_a_waveform_is_that_of_its_key() -> None:
    each = EachWaveform(noisy)
    together = each(WAVEFORMS, KEYS)
    assert together.dtype == np.float32 and len(np.unique(together[:, 0])) == 6
    for place in (5, 0, 2):
        assert np.array_equal(each(WAVEFORMS[place : place + 1], KEYS[place : place + 1])[0], together[place])
    wanted = np.random.Generator(np.random.PCG64(int(KEYS[3]))).standard_normal(50)
    assert np.array_equal(together[3], wanted.astype(np.float32))


def cut(waveform: Waveforms, rng: np.random.Generator) -> Any:
    return waveform[1:]


def test_a_function_that_gives_another_length_is_named() -> None:
    with pytest.raises(ConfigError, match=r"waveform_transform: cut gave shape \[49\]; expected .* shape \[50\]"):
        EachWaveform(cut)(WAVEFORMS, KEYS)
    with pytest.raises(ConfigError, match="function=3"):
        EachWaveform(3)  # type: ignore[arg-type]


def as_doubles(waveforms: Waveforms, keys: Any) -> Any:
    return waveforms.astype(np.float64)


def with_nan(waveforms: Waveforms, keys: Any) -> Any:
    waveforms = waveforms.copy()
    waveforms[2, 7] = np.nan
    return waveforms


def with_infinities(waveforms: Waveforms, keys: Any) -> Any:
    waveforms = waveforms.copy()
    waveforms[2, 7:9] = np.inf, -np.inf
    return waveforms


@pytest.mark.parametrize(
    ("transform", "told"),
    [
        (as_doubles, r"as_doubles gave float64 \[6, 50\]; expected float32 \[6, 50\]"),
        (lambda waveforms, keys: waveforms[:5], r"<lambda> gave float32 \[5, 50\]"),
        (lambda waveforms, keys: None, "gave NoneType"),
        (with_nan, "with_nan gave NaN or infinity"),
        (with_infinities, "with_infinities gave NaN or infinity"),
        (EachWaveform(lambda waveform, rng: waveform / 0.0), "EachWaveform gave NaN or infinity"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_cannot_be_used_is_refused(transform: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=f"waveform_transform: .*{told}"):
        transformed(transform, WAVEFORMS, KEYS)


def test_large_samples_are_finite_although_their_sum_is_not() -> None:
    huge = np.full((2, 50), 3e38, np.float32)
    with np.errstate(over="ignore"):
        assert transformed(lambda waveforms, keys: waveforms, huge, KEYS[:2]) is huge


class Bound:
    """A transform that has to know the recipe."""

    def bind(self, recipe: Any) -> Any:
        return recipe.audio.sample_rate_hz if recipe is not PRESETS["ge2e"] else as_doubles


def test_a_transform_that_has_to_know_the_speech_is_bound_to_it() -> None:
    assert bound(as_doubles, PRESETS["ge2e"]) is as_doubles
    assert bound(Bound(), PRESETS["ge2e"]) is as_doubles
    with pytest.raises(ConfigError, match=r"waveform_transform=16000 cannot be used: expected transform\("):
        bound(Bound(), PRESETS["kaldi"])
