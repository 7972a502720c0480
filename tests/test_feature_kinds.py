"""The table of kinds: every kind is the same to the bit wherever it is made, and its silence is what silence gives."""

from __future__ import annotations

import numpy as np
import pytest

from ge2e_transforms.config import PRESETS
from ge2e_transforms.feature_kinds import FEATURE_KINDS

SIZES = PRESETS["ge2e"].replace(n_mfcc=13).feature
OF_BANDS = {name: kind for name, kind in FEATURE_KINDS.items() if kind.of_bands}


def bands(rows: int = 9) -> np.ndarray:
    return np.random.default_rng(0).normal(-3, 2, (rows, SIZES.n_mels)).astype(np.float32)


def test_waveforms_alone_have_no_frames() -> None:
    assert set(FEATURE_KINDS) - set(OF_BANDS) == {"raw"}


@pytest.mark.parametrize("name", OF_BANDS)
def test_a_row_depends_on_nothing_but_its_own_bands(name: str) -> None:
    kind = OF_BANDS[name]
    together = kind.of_bands(bands(), SIZES)
    assert together.dtype == np.float32
    assert together.shape == (9, kind.bins(SIZES))
    apart = [kind.of_bands(np.ascontiguousarray(row[None]), SIZES)[0] for row in bands()]
    assert np.array_equal(together, np.stack(apart))


@pytest.mark.parametrize("name", FEATURE_KINDS)
def test_silence_is_what_even_bands_give(name: str) -> None:
    kind = FEATURE_KINDS[name]
    row = kind.silent_row(-6.0, SIZES)
    assert row.dtype == np.float32
    even = np.full((1, SIZES.n_mels), -6.0, dtype=np.float32)
    made = np.zeros((1, 1)) if kind.of_bands is None else kind.of_bands(even, SIZES)
    np.testing.assert_allclose(row, made[0], atol=1e-5)


@pytest.mark.parametrize("name", [name for name, kind in OF_BANDS.items() if kind.to_bands])
def test_the_way_back_undoes_what_was_kept(name: str) -> None:
    kind, whole = OF_BANDS[name], PRESETS["ge2e"].replace(n_mfcc=SIZES.n_mels).feature
    back = kind.to_bands(kind.of_bands(bands(), whole).astype(np.float64), whole)
    np.testing.assert_allclose(back, bands(), atol=1e-5)


def test_names_are_told_apart() -> None:
    assert len({kind.tag for kind in FEATURE_KINDS.values()}) == len(FEATURE_KINDS)
    assert all(kind.title and kind.axis for kind in FEATURE_KINDS.values())
