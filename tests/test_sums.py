"""Sums in a fixed order: right, whatever the length, and those of integers exact."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ge2e_transforms.sums import frame_sums, hop_energies, levelled, mean, of_crops

LENGTHS = [1, 2, 63, 64, 65, 511, 512, 513, 200_000]


@pytest.mark.parametrize("length", LENGTHS)
def test_mean_is_exact_for_what_was_16_bits(length):
    numbers = np.random.default_rng(length).integers(-32768, 32767, length)
    expected = np.float32(int(numbers.sum()) / 32768 / length)
    assert mean((numbers / 32768).astype(np.float32)) == expected


@pytest.mark.parametrize("hop", [1, 63, 64, 100, 512])
@pytest.mark.parametrize("length", LENGTHS)
def test_hop_energies_take_the_mean_off_and_leave_nothing_out(length, hop):
    samples = np.random.default_rng(length).normal(0.3, 0.1, length).astype(np.float32)
    energies = hop_energies(samples, np.float32(0.3), hop)
    assert energies.shape == (1 + length // hop,)
    exact = (samples.astype(np.float64) - np.float32(0.3)) ** 2
    expected = np.add.reduceat(np.append(exact, 0), np.arange(0, length + 1, hop))
    np.testing.assert_allclose(energies, expected, rtol=1e-5)
    assert len(energies) == 1 or energies[0] == hop_energies(samples[:hop], np.float32(0.3), hop)[0]


@pytest.mark.parametrize("bins", [1, 7, 40, 80])
def test_sums_of_bins_add_up_row_by_row(bins):
    frames = np.random.default_rng(bins).normal(-3, 1, (1000, bins)).astype(np.float32)
    sums, squares = frame_sums(frames)
    for bin_ in range(bins):
        assert math.isclose(sums[bin_], math.fsum(frames[:, bin_].tolist()), rel_tol=1e-12)
        assert math.isclose(squares[bin_], math.fsum(value**2 for value in frames[:, bin_].tolist()), rel_tol=1e-12)
    # In the order of the rows, so that it is the same sum on every CPU.
    one_by_one = np.zeros(bins)
    for row in frames:
        one_by_one += row
    assert sums.tolist() == one_by_one.tolist()


def test_what_may_not_be_written_is_summed_too():
    samples = np.frombuffer(np.arange(1000, dtype=np.float32).tobytes(), dtype=np.float32)
    assert mean(samples) == 499.5
    assert hop_energies(samples, np.float32(0), 1000)[0] == np.sum(np.arange(1000.0) ** 2)


@pytest.mark.parametrize("samples", [1, 63, 64, 1000])
def test_waveforms_of_one_length_are_summed_as_one_by_one(samples):
    crops = np.random.default_rng(samples).normal(0.3, 1, (3, samples)).astype(np.float32)
    for centred in (True, False):
        means, energies, peaks = of_crops(crops, centred, 100)
        for number, crop in enumerate(crops):
            assert means[number] == (mean(crop) if centred else 0)
            assert energies[number].tolist() == hop_energies(crop, means[number], 100).tolist()
            assert peaks[number] == max(crop.max() - means[number], means[number] - crop.min())
    gains = np.array([1, 0.3, 7], np.float32)
    assert np.array_equal(levelled(crops, means, gains), (crops - means[:, None]) * gains[:, None])
