"""Speakers to listen to: robust z-scores on known values, one speaker set apart, and who cannot be judged."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ge2e_transforms.suspects import LIMIT, Spectra, distances, limit_of, robust_z, spreads, suspects


def spectra(means: npt.NDArray[np.float64]) -> Spectra:
    """Of record means `[speakers, records, bins]`, of ten frames each."""
    count, records, _ = means.shape
    total, square = 10 * means.sum(axis=1), 10 * (means**2).sum(axis=1)
    return Spectra(np.arange(count) * 3, np.full(count, records), np.full(count, 10.0 * records), total, square)


@pytest.fixture
def means() -> npt.NDArray[np.float64]:
    """Forty speakers who are alike, of four records."""
    rng = np.random.default_rng(1)
    return np.asarray(-3 + rng.normal(size=(40, 1, 8)) + 0.2 * rng.normal(size=(40, 4, 8)))


def test_robust_z_of_known_values() -> None:
    # The median is 3 and the median distance from it 1.
    assert robust_z(np.array([1.0, 2, 3, 4, 100])) == pytest.approx(np.array([-2, -1, 0, 1, 97]) / 1.4826)


def test_robust_z_of_equal_values_and_of_none() -> None:
    assert robust_z(np.array([5.0, 5, 5, 5 + 1e-9])).tolist() == [0, 0, 0, 0]
    found = robust_z(np.array([1.0, 2, np.nan, 3]))
    assert np.isnan(found[2]) and found[1] == 0


def test_a_mean_spectrum_that_is_far_from_the_rest(means: npt.NDArray[np.float64]) -> None:
    assert suspects(spectra(means)) == []
    means[7] += 12
    (found,) = suspects(spectra(means))
    assert (found.label, found.records) == (21, 4)
    assert found.distance_z > LIMIT > found.spread_z
    assert found.distance == pytest.approx(distances(spectra(means))[7])


def test_records_that_differ_much(means: npt.NDArray[np.float64]) -> None:
    means[30, ::2] += 1
    means[30, 1::2] -= 1
    (found,) = suspects(spectra(means))
    assert found.label == 90
    assert found.spread_z > LIMIT > found.distance_z
    assert found.spread == pytest.approx(np.sqrt(means[30].var(axis=0).mean()))


def test_the_farthest_come_first_and_no_more_than_asked_for(means: npt.NDArray[np.float64]) -> None:
    means[3] += 9
    means[5] += 20
    assert [found.label for found in suspects(spectra(means))] == [15, 9]
    assert [found.label for found in suspects(spectra(means), most=1)] == [15]


def test_who_cannot_be_judged(means: npt.NDArray[np.float64]) -> None:
    means[2] += 50
    assert suspects(spectra(means[:9])) == []
    two = spectra(means[:, :2])
    assert np.isnan(spreads(two)).all()
    (found,) = suspects(two)
    assert found.label == 6 and np.isnan(found.spread_z)


def test_the_limit_as_a_value(means: npt.NDArray[np.float64]) -> None:
    values = means[:, 0, 0]
    assert robust_z(np.append(values, limit_of(values)))[-1] == pytest.approx(LIMIT, rel=0.1)
