"""Windows and mel filters: librosa's and SciPy's, bit for bit."""

from __future__ import annotations

import itertools

import librosa
import numpy as np
import pytest
import scipy.signal

from ge2e_transforms.filterbank import mel_filters, to_hz, to_mel, window


@pytest.mark.parametrize("name", ["hann", "hamming", "blackman", "boxcar"])
@pytest.mark.parametrize("length", [1, 2, 3, 200, 320, 400, 511, 512, 1103, 2048])
def test_windows_are_scipys(name, length):
    found = window(name, length)
    assert found.dtype == np.float32
    assert np.array_equal(found, scipy.signal.get_window(name, length).astype(np.float32))


GEOMETRIES = [
    (16000, 512, 40, 0.0, 8000.0),
    (16000, 512, 80, 20.0, 7600.0),
    (16000, 400, 40, 0.0, 8000.0),
    (8000, 256, 20, 60.0, 3800.0),
    (22050, 1024, 80, 0.0, 11025.0),
    (48000, 2048, 128, 1500.0, 20000.0),
    (16000, 512, 3, 0.0, 900.0),
]


@pytest.mark.parametrize(
    ("geometry", "scale", "norm"), itertools.product(GEOMETRIES, ("slaney", "htk"), ("slaney", "none"))
)
def test_filters_are_librosas(geometry, scale, norm):
    rate, n_fft, n_mels, low, high = geometry
    expected = librosa.filters.mel(
        sr=rate,
        n_fft=n_fft,
        n_mels=n_mels,
        fmin=low,
        fmax=high,
        htk=scale == "htk",
        norm=None if norm == "none" else norm,
        dtype=np.float32,
    )
    found = mel_filters(rate, n_fft, n_mels, low, high, scale=scale, norm=norm)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", ["hann", "hamming", "blackman", "boxcar"])
@pytest.mark.parametrize("length", [1, 2, 3, 400, 401])
def test_symmetric_windows_are_scipys(name, length):
    expected = scipy.signal.get_window(name, length, fftbins=False).astype(np.float32)
    assert np.array_equal(window(name, length, "symmetric"), expected)


def test_poveys_window_is_a_power_of_hanns():
    found = window("povey", 400, "symmetric")
    expected = np.maximum(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399), 0) ** 0.85
    assert np.abs(found - expected).max() < 1e-7
    assert found[0] == found[-1] == 0
    assert np.array_equal(found, found[::-1])


@pytest.mark.parametrize(("n_mels", "low", "high"), [(23, 20.0, 8000.0), (80, 20.0, 8000.0), (40, 60.0, 7600.0)])
def test_kaldis_triangles_are_those_of_the_definition(n_mels, low, high):
    found = mel_filters(16000, 512, n_mels, low, high, scale="kaldi", norm="none")
    mels = 1127 * np.log(1 + np.arange(257) * 31.25 / 700)
    first, last = 1127 * np.log(1 + low / 700), 1127 * np.log(1 + high / 700)
    corners = np.linspace(first, last, n_mels + 2)
    expected = np.stack([np.interp(mels, corners[n : n + 3], [0, 1, 0]) for n in range(n_mels)])
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-4  # Kaldi's weights are rounded as they are worked out
    assert not found[:, 256].any() and not found[:, 0].any()


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_scales_there_and_back(scale):
    hz = np.array([0.0, 60.0, 999.9, 1000.0, 1000.1, 4000.0, 8000.0])
    assert np.allclose(to_hz(np.array([to_mel(value, scale) for value in hz]), scale), hz)
    assert round(to_mel(1000.0, "slaney"), 9) == 15
    assert round(to_mel(1000.0, "htk")) == 1000


def test_a_window_of_one_sample_is_one():
    assert window("hann", 1).tolist() == [1]
