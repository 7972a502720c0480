"""Frames that are conditioned one by one: against a plain computation, and nothing else touched."""

from __future__ import annotations

import numpy as np
import pytest
from synth import speechlike

from ge2e_transforms import frames


def plain(wave, start, hop, count, length, remove_dc, emphasis):
    """By definition, in float64."""
    cut = np.stack([wave[start + n * hop :][:length] for n in range(count)]).astype(np.float64)
    if remove_dc:
        cut -= cut.mean(axis=1, keepdims=True)
    return cut - emphasis * np.concatenate([cut[:, :1], cut[:, :-1]], axis=1)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40])
@pytest.mark.parametrize(("remove_dc", "emphasis"), [(False, 0.0), (True, 0.0), (False, 0.97), (True, 0.97)])
def test_frames_are_those_of_the_definition(count, remove_dc, emphasis):
    wave = speechlike(1, 1.0) + np.float32(0.1)
    out = np.full((count, 402), np.nan, dtype=np.float32)
    frames.condition(out, (1, 400), wave, (37, 160), remove_dc, emphasis)
    assert np.abs(out[:, 1:401] - plain(wave, 37, 160, count, 400, remove_dc, emphasis)).max() < 1e-6
    assert np.isnan(out[:, [0, 401]]).all()


def test_a_frame_does_not_depend_on_those_beside_it():
    wave = speechlike(2, 1.0)
    many, one = np.zeros((20, 400), dtype=np.float32), np.zeros((1, 400), dtype=np.float32)
    frames.condition(many, (0, 400), wave, (0, 160), True, 0.97)
    for number in range(20):
        frames.condition(one, (0, 400), wave, (160 * number, 160), True, 0.97)
        assert np.array_equal(one[0], many[number])


def test_sums_go_from_the_first_sample_to_the_last_in_single_precision():
    wave = (speechlike(3, 0.1) + 0.3).astype(np.float32)[:400]
    total = np.float32(0)
    for sample in wave:
        total += sample
    out = np.zeros((1, 400), dtype=np.float32)
    frames.condition(out, (0, 400), wave, (0, 160), True, 0.0)
    assert np.array_equal(out[0], wave - total / np.float32(400))


def test_no_frame_is_none():
    around = np.full((2, 400), 7, dtype=np.float32)
    frames.condition(around[1:1], (0, 400), speechlike(4, 0.1), (0, 160), True, 0.97)
    assert (around == 7).all()
