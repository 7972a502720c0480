"""The numeric kernel: against librosa, against closed forms, and the same bytes however it is run."""

from __future__ import annotations

import decimal
import hashlib
import math
import platform

import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synth import speechlike, tone

from ge2e_transforms import features
from ge2e_transforms.config import PRESETS
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.features import FeatureKernel, mel_filterbank, rounded_log
from ge2e_transforms.rng import random_bits

DEFAULT = PRESETS["ge2e"]
POWER = DEFAULT.replace(log="none")
RATE = 16000


def librosa_power(samples, recipe):
    """Mel power by one librosa call, `[frames, mels]`."""
    config = recipe.feature
    return librosa.feature.melspectrogram(
        y=samples,
        sr=recipe.audio.sample_rate_hz,
        n_fft=config.n_fft,
        hop_length=recipe.hop_samples,
        win_length=recipe.window_samples,
        window=config.window,
        center=config.center,
        pad_mode=config.pad_mode,
        power=2.0,
        n_mels=config.n_mels,
        fmin=config.f_min_hz,
        fmax=recipe.f_max_hz,
        htk=config.mel_scale == "htk",
        norm=None if config.mel_norm == "none" else "slaney",
    ).T


def librosa_features(samples, recipe):
    config = recipe.feature
    power = librosa_power(samples, recipe)
    floored = power + np.float32(config.floor) if config.floor_kind == "add" else np.maximum(power, config.floor)
    log = {"log10": np.log10, "ln": np.log, "none": lambda power: power}[config.log](floored)
    if config.features == "mfcc":
        return librosa.feature.mfcc(S=log.T, n_mfcc=config.n_mfcc, dct_type=2, norm="ortho").T
    return log


VARIANTS = [
    {},
    {"pad_mode": "reflect"},
    {"center": False},
    {"mel_scale": "htk"},
    {"mel_norm": "none"},
    {"mel_scale": "htk", "mel_norm": "none", "pad_mode": "reflect"},
    {"floor_kind": "max"},
    {"log": "ln"},
    {"log": "ln", "floor_kind": "max", "floor": 1e-5},
    {"window": "hamming", "window_ms": 20},
    {"window": "blackman", "window_ms": 31.9375},  # 511 samples: an odd rest around the window
    {"window": "boxcar", "window_ms": 32},
    {"hop_ms": 12.5, "n_fft": 1024, "n_mels": 80},
    {"f_min_hz": 60, "f_max_hz": 7600},
    {"sample_rate_hz": 8000, "n_fft": 256, "n_mels": 20},
]


def name_of(changes):
    return " ".join(f"{name}={value}" for name, value in changes.items()) or "default"


@pytest.mark.parametrize("changes", VARIANTS, ids=name_of)
def test_log_mel_is_librosas(changes):
    recipe = DEFAULT.replace(**changes)
    samples = speechlike(7, 2.03)
    found, expected = FeatureKernel(recipe)(samples), librosa_features(samples, recipe)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    scale = math.log(10) if recipe.feature.log == "ln" else 1
    # Filters of height 1 are some 40 times as large as those of area 1, above the same floor.
    scale *= 2 if recipe.feature.mel_norm == "none" else 1
    assert np.abs(found - expected).max() < 1e-4 * scale
    assert found.std() > 0.3  # not a comparison of two floors


@pytest.mark.parametrize(
    "changes", [{}, {"n_mfcc": 13}, {"log": "ln", "n_mfcc": 40}, {"pad_mode": "reflect"}], ids=name_of
)
def test_mfcc_is_librosas(changes):
    recipe = DEFAULT.replace(features="mfcc", **changes)
    samples = speechlike(8, 1.7)
    found, expected = FeatureKernel(recipe)(samples), librosa_features(samples, recipe)
    assert found.shape == (171, recipe.feature.n_mfcc) == expected.shape
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("length", [1, 159, 160, 255, 256, 257, 400, 511, 512, 513, 640])
@pytest.mark.parametrize("changes", [{}, {"pad_mode": "reflect"}], ids=name_of)
def test_shorter_than_a_window_is_librosas_too(length, changes):
    recipe = DEFAULT.replace(**changes)
    samples = tone(500, 1)[100 : 100 + length].copy()
    padded = np.pad(samples, 256, mode=recipe.feature.pad_mode)  # librosa itself refuses to mirror so little
    expected = librosa_features(padded, recipe.replace(center=False))
    assert np.abs(FeatureKernel(recipe)(samples) - expected).max() < 1e-4


@pytest.mark.parametrize("changes", [{}, {"pad_mode": "reflect"}, {"center": False}, {"features": "mfcc"}])
@pytest.mark.parametrize("length", [600, 700, 19200, 60000])
def test_several_waveforms_at_once_are_each_as_alone(changes, length):
    kernel = FeatureKernel(DEFAULT.replace(**changes))
    for count in (1, 2, 5):
        pieces = speechlike(4, 20.0)[: count * length].reshape(count, length)
        found = kernel(pieces)
        assert found.shape == (count, *kernel(pieces[0]).shape)
        for piece, frames in zip(pieces, found, strict=True):
            assert np.array_equal(kernel(np.ascontiguousarray(piece)), frames)


@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
@pytest.mark.parametrize("length", [1, 2, 255, 256, 257, 399, 511, 512, 513, 672, 800, 1023, 1025, 1400])
def test_frames_at_the_ends_are_librosas_for_any_length(length, pad_mode):
    recipe = DEFAULT.replace(pad_mode=pad_mode)
    samples = speechlike(12, 1.0)[4000 : 4000 + length]
    if pad_mode == "reflect" and length <= 256:  # which librosa refuses
        padded = np.pad(samples, 256, mode="reflect")
        expected = librosa_features(padded, recipe.replace(center=False))
    else:
        expected = librosa_features(samples, recipe)
    assert np.abs(FeatureKernel(recipe)(samples) - expected).max() < 1e-4


@pytest.mark.parametrize(
    "recipe", [DEFAULT, DEFAULT.replace(center=False), DEFAULT.replace(features="mfcc", n_mfcc=13)]
)
def test_no_samples_give_no_frames(recipe):
    assert FeatureKernel(recipe)(np.zeros(0, dtype=np.float32)).shape == (0, recipe.n_bins)


def test_less_than_a_whole_window_gives_no_frame_when_not_centred():
    assert FeatureKernel(DEFAULT.replace(center=False))(tone(500, 511 / RATE)).shape == (0, 40)


# Closed forms.


def test_an_impulse_gives_the_sum_of_each_filter():
    samples = np.zeros(RATE, dtype=np.float32)
    samples[50 * 160] = 1.0  # under the middle of frame 50's window, where Hann is 1: a flat spectrum
    power = FeatureKernel(POWER)(samples)
    np.testing.assert_allclose(power[50], mel_filterbank(DEFAULT).toarray().sum(axis=1), rtol=1e-5)
    weight = 0.5 + 0.5 * np.cos(2 * np.pi * 160 / 400)  # one hop beside the middle
    np.testing.assert_allclose(power[49], power[50] * weight**2, rtol=1e-4)
    np.testing.assert_allclose(power[51], power[50] * weight**2, rtol=1e-4)
    assert not power[:48].any()
    assert not power[53:].any()


def test_one_frame_is_the_fourier_transform_written_out():
    samples = speechlike(3, 0.5)[4000:4512]
    window = np.zeros(512)
    window[56:456] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    turns = np.outer(np.arange(257), np.arange(512)) / 512
    spectrum = np.exp(-2j * np.pi * turns) @ (samples.astype(np.float64) * window)
    expected = mel_filterbank(DEFAULT).toarray().astype(np.float64) @ np.abs(spectrum) ** 2
    (found,) = FeatureKernel(POWER.replace(center=False))(samples)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * expected.max())


def test_a_constant_lies_in_the_lowest_band():
    power = FeatureKernel(POWER)(np.full(RATE, 0.25, dtype=np.float32))[2:-2]
    assert np.all(power.argmax(axis=1) == 0)
    assert np.all(power[:, 3:] < 1e-5 * power[:, :1])


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("band", [3, 10, 20, 30, 39])
def test_a_tone_peaks_in_its_band(band, scale):
    recipe = POWER.replace(mel_scale=scale)
    centre = librosa.mel_frequencies(n_mels=42, fmin=0, fmax=8000, htk=scale == "htk")[band + 1]
    power = FeatureKernel(recipe)(tone(centre, 0.5))[5:-5]
    assert np.all(power.argmax(axis=1) == band)


def test_twice_the_amplitude_is_four_times_the_power():
    samples = speechlike(4, 0.5)
    assert np.array_equal(FeatureKernel(POWER)(2 * samples), 4 * FeatureKernel(POWER)(samples))


def test_silence_is_the_floor():
    frames = FeatureKernel(DEFAULT.replace(floor=2.0**-20))(np.zeros(1600, dtype=np.float32))
    assert np.all(frames == np.float32(-20 * math.log10(2)))
    assert np.all(FeatureKernel(POWER)(np.zeros(1600, dtype=np.float32)) == 0)


def test_filters_have_unit_area_or_unit_height():
    area = mel_filterbank(DEFAULT).toarray().sum(axis=1) * RATE / 512
    assert np.all(np.abs(area[12:] - 1) < 0.05)  # the lowest are hardly wider than a bin
    heights = mel_filterbank(DEFAULT.replace(mel_norm="none")).toarray().max(axis=1)
    assert np.all((heights > 0.5) & (heights <= 1))


def test_filterbank_is_sparse_and_has_its_limits():
    filters = mel_filterbank(DEFAULT.replace(f_min_hz=300, f_max_hz=3400))
    assert filters.shape == (40, 257)
    assert filters.dtype == np.float32
    columns = np.flatnonzero(filters.toarray().any(axis=0)) * RATE / 512
    assert columns.min() >= 300
    assert columns.max() <= 3400
    assert mel_filterbank(DEFAULT).nnz < 600  # of 10,280


# The same bytes however the work is cut.


@pytest.mark.parametrize("frames", [1, 2, 255, 256, 257, 512, 513])
def test_each_frame_is_the_same_alone_and_in_a_block(frames):
    recipe = DEFAULT.replace(center=False)
    kernel = FeatureKernel(recipe)
    samples = speechlike(9, 6.0)[: 512 + 160 * (frames - 1)]
    whole = kernel(samples)
    assert len(whole) == frames
    for number in {0, 1, frames // 2, 254, 255, 256, 257, 511, 512, frames - 1} & set(range(frames)):
        (alone,) = kernel(samples[160 * number : 160 * number + 512])
        assert np.array_equal(alone, whole[number]), number


@pytest.mark.parametrize("block", [1, 3, 7, 100, 256, 10_000])
@pytest.mark.parametrize("name", ["logmel", "mfcc"])
def test_the_size_of_a_block_does_not_matter(monkeypatch, block, name):
    kernel = FeatureKernel(DEFAULT.replace(features=name))
    samples = speechlike(10, 3.21)
    expected = kernel(samples)
    monkeypatch.setattr(features, "_BLOCK", block)
    assert np.array_equal(kernel(samples), expected)


def test_the_kernel_leaves_its_input_and_itself_alone():
    kernel, samples = FeatureKernel(DEFAULT), speechlike(11, 1.0)
    before = samples.copy()
    first = kernel(samples)
    kernel(speechlike(12, 2.0))
    assert np.array_equal(kernel(samples), first)
    assert np.array_equal(samples, before)


def test_a_view_with_strides_gives_the_same():
    samples = speechlike(13, 1.0)
    spread = np.zeros((len(samples), 2), dtype=np.float32)
    spread[:, 1] = samples
    for changes in ({}, {"center": False}, {"pad_mode": "reflect"}):
        kernel = FeatureKernel(DEFAULT.replace(**changes))
        assert np.array_equal(kernel(spread[:, 1]), kernel(samples))


# The same bytes on every CPU (test_extractor.py varies the CPU).

PINNED = {
    "default": "d660b9e09d98f0052ff6671dc352d39a388727f17e1eb68a8d80ce36d9174b6e",
    "pad_mode=reflect": "7f70a75b820bd1eb8f0b3dab332765afe4427142fa5731a54e3354d244ed1024",
    "features=mfcc": "1161117d3c7deaf855f192277ddc6425806b0f7258400d95be679f141345b281",
    "log=ln floor=1e-10 mel_scale=htk": "f0317d168cb7221dac4415d0f2767b211e78c0fceb9ce6a29d1d5739e941f90b",
}


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="the same bytes are promised for x86-64"
)
@pytest.mark.parametrize(
    "changes",
    [{}, {"pad_mode": "reflect"}, {"features": "mfcc"}, {"log": "ln", "floor": 1e-10, "mel_scale": "htk"}],
    ids=name_of,
)
def test_bytes_are_pinned(changes):
    """Same wheels, same bytes. Where other versions of NumPy, SciPy or librosa change them, it is to be said."""
    bits = random_bits(2018, 3 * RATE) >> np.uint64(50)
    samples = (bits.astype(np.int32) - 8192).astype(np.float32) / np.float32(32768)
    found = FeatureKernel(DEFAULT.replace(**changes))(samples)
    assert hashlib.sha256(found.tobytes()).hexdigest() == PINNED[name_of(changes)]


# Rounding of the logarithm.

# Values whose logarithm lies within 1e-15 of the middle between two float32, found by trying all from 1e-6 to 300.
DOUBTFUL = {
    "log10": {"0x1.f451d2p+5": "0x1.cbd0fap+0", "0x1.0f399cp+7": "0x1.10ef32p+1"},
    "db": {"0x1.6cb030p-15": "-0x1.5cf104p+5", "0x1.782a7ep+6": "0x1.3bbb2ap+4", "0x1.c7dc3cp-12": "-0x1.0cf104p+5"},
    "ln": {
        "0x1.b97c70p-14": "-0x1.251748p+3",
        "0x1.f0dde0p-8": "-0x1.38733cp+2",
        "0x1.827a74p-7": "-0x1.1c2b1ep+2",  # rounding the float64 gives ...20
        "0x1.2f1fd6p+3": "0x1.1fcbcep+1",  # rounding the float64 gives ...d0
    },
}


@pytest.mark.parametrize("base", ["log10", "ln", "db"])
def test_doubtful_logarithms_are_rounded_rightly(base):
    values = np.array([float.fromhex(text) for text in DOUBTFUL[base]], dtype=np.float32)
    expected = [float.fromhex(text) for text in DOUBTFUL[base].values()]
    assert rounded_log(values, base).tolist() == expected
    assert rounded_log(values[:, None], base).tolist() == [[value] for value in expected]


def test_rounding_the_float64_would_not_do():
    values = np.array([float.fromhex(text) for text in DOUBTFUL["ln"]], dtype=np.float32)
    assert not np.array_equal(np.log(values.astype(np.float64)).astype(np.float32), rounded_log(values, "ln"))


@pytest.mark.parametrize("base", ["log10", "ln", "db"])
@pytest.mark.parametrize("ulps", [-4, 4])
def test_another_librarys_last_bits_do_not_show(monkeypatch, base, ulps):
    values = np.array([float.fromhex(text) for text in DOUBTFUL[base]] * 2 + [1.0, 1e-6, 255.5], dtype=np.float32)
    expected = rounded_log(values, base)
    right = features._LOGS[base]
    monkeypatch.setitem(features._LOGS, base, lambda x: right(x) * (1 + ulps * 2.0**-53))
    assert np.array_equal(rounded_log(values, base), expected)


def is_nearest(result: np.float32, exact: decimal.Decimal) -> bool:
    neighbours = np.nextafter(result, np.float32(-np.inf)), np.nextafter(result, np.float32(np.inf))
    distances = [abs(decimal.Decimal(float(value)) - exact) for value in (result, *neighbours)]
    return distances[0] == min(distances)


@settings(max_examples=300, deadline=None)
@given(st.floats(2.0**-100, 2.0**33, width=32), st.sampled_from(["log10", "ln", "db"]))
def test_logarithms_are_the_nearest_float32(value, base):
    with decimal.localcontext() as context:
        context.prec = 60
        number = decimal.Decimal(value)
        exact = {"log10": number.log10(), "ln": number.ln(), "db": 10 * number.log10()}[base]
        assert is_nearest(rounded_log(np.array([value], dtype=np.float32), base)[0], exact)


def test_powers_of_ten_are_exact():
    assert rounded_log(np.float32([1, 10, 100, 1000, 1e10]), "log10").tolist() == [0, 1, 2, 3, 10]
    assert rounded_log(np.float32([1, 10, 100, 1000, 1e10]), "db").tolist() == [0, 10, 20, 30, 100]
    assert rounded_log(np.float32([1]), "ln").tolist() == [0]


def test_bands_without_a_bin_are_refused():
    """128 HTK bands on 512 points left one band constant, without a word."""
    with pytest.raises(ConfigError, match=r"n_mels=128, n_fft=512 cannot be used together: .* mel bands"):
        mel_filterbank(PRESETS["ge2e"].replace(n_mels=128, mel_scale="htk"))
