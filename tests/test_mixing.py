"""Mixing, rooms, speed and codecs against plain computations in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.signal
from synth import speechlike, tone

from ge2e_transforms import mixing
from ge2e_transforms.errors import SilentAudioError
from ge2e_transforms.mixing import Room

Samples = npt.NDArray[np.float32]


def noise(seed: int, length: int) -> Samples:
    return (0.1 * np.random.default_rng(seed).standard_normal(length)).astype(np.float32)


def response(seed: int, length: int, before: int = 0) -> Samples:
    """A decaying response whose direct sound stands behind `before` samples of less."""
    rng = np.random.default_rng(seed)
    found = 0.3 * rng.standard_normal(length) * np.exp(-np.arange(length) / (length / 5))
    found[:before] *= 0.01
    found[before] = 2.5
    return found.astype(np.float32)


def power(samples: npt.NDArray[np.floating]) -> float:
    return float(np.mean(np.square(samples.astype(np.float64))))


def test_an_excerpt_begins_again_after_the_end() -> None:
    sound = np.arange(5, dtype=np.float32)
    assert mixing.excerpt(sound, 1, 4).tolist() == [1, 2, 3, 4]
    assert mixing.excerpt(sound, 3, 9).tolist() == [3, 4, 0, 1, 2, 3, 4, 0, 1]


@pytest.mark.parametrize("snr_db", [-20.0, 0.0, 7.5, 40.0])
def test_noise_is_as_far_below_as_asked(snr_db: float) -> None:
    speech, sound = speechlike(1, 2.0), noise(1, 32000) + np.float32(0.3)
    gain = mixing.noise_gain(power(speech), power(sound - sound.mean()), snr_db)
    mixed = mixing.mix(speech, sound, gain)
    added = mixed.astype(np.float64) - speech
    assert 10 * np.log10(power(speech) / power(added)) == pytest.approx(snr_db, abs=0.01)
    np.testing.assert_allclose(mixed, speech + gain * (sound - sound.astype(np.float64).mean()), atol=2e-6 * (1 + gain))
    assert np.abs(added.mean()) < 1e-4 * gain + 1e-6  # an offset of the noise is not added


@pytest.mark.parametrize(("length", "taps"), [(1000, 50), (16384, 4096), (100_000, 8000), (40_000, 70_000), (1, 30)])
def test_a_room_is_the_convolution_of_scipy(length: int, taps: int) -> None:
    speech, found = noise(2, length), response(3, taps)
    heard = Room(found).apply(speech)
    exact = found.astype(np.float64) / np.sqrt(np.sum(np.square(found.astype(np.float64))))
    expected = scipy.signal.fftconvolve(speech.astype(np.float64), exact)[:length]
    assert heard.dtype == np.float32 and heard.shape == (length,)
    np.testing.assert_allclose(heard, expected, atol=2e-6 * np.abs(expected).max() + 1e-7)


def test_a_response_counts_from_its_direct_sound() -> None:
    speech, found = speechlike(4, 1.0), response(5, 3000)
    late = np.concatenate([np.full(700, 0.02, np.float32), found])
    np.testing.assert_array_equal(Room(late).apply(speech), Room(found).apply(speech))
    assert Room(late).taps == 3000


@pytest.mark.parametrize("height", [1.0, -0.25, 1e-3])
def test_a_room_of_one_echo_changes_neither_sound_nor_energy(height: float) -> None:
    delta = np.zeros(500, np.float32)
    delta[120] = height
    speech = speechlike(6, 1.5)
    heard = Room(delta).apply(speech)
    np.testing.assert_allclose(heard, np.sign(height) * speech, atol=1e-6)
    assert power(heard) == pytest.approx(power(speech), rel=1e-5)


def test_a_silent_response_is_refused() -> None:
    with pytest.raises(SilentAudioError, match="no sound"):
        Room(np.zeros(100, np.float32))


def test_what_would_clip_is_scaled_down_as_a_whole() -> None:
    loud = 3 * speechlike(7, 0.5)
    scaled = mixing.limited(loud.copy())
    assert np.abs(scaled).max() == np.float32(32767 / 32768)
    np.testing.assert_allclose(scaled / loud, scaled[100] / loud[100], rtol=1e-5)
    quiet = speechlike(8, 0.5)
    np.testing.assert_array_equal(mixing.limited(quiet.copy()), quiet)


@pytest.mark.parametrize("factor", [0.9, 1.1, 0.955, 1.25])
def test_speech_at_a_speed_is_shorter_and_higher_by_it(factor: float) -> None:
    sound = tone(1000, 2.0)
    fast = mixing.at_speed(sound, 16000, factor)
    assert len(fast) == round(32000 / factor)
    middle = fast[2000:-2000].astype(np.float64)
    time = np.arange(2000, len(fast) - 2000) / 16000
    np.testing.assert_allclose(middle, 0.5 * np.sin(2 * np.pi * 1000 * factor * time), atol=2e-3)


def test_a_codec_keeps_length_and_place() -> None:
    speech = speechlike(9, 2.013)
    for coded in (mixing.through_mp3(speech, 16000, 0.3), mixing.through_telephone(speech, 16000)):
        assert coded.shape == speech.shape and coded.dtype == np.float32
        lag = int(np.argmax(scipy.signal.correlate(coded, speech))) - (len(speech) - 1)
        assert lag == 0
        assert 0.9 < np.corrcoef(coded, speech)[0, 1] < 0.99999


def test_more_compression_is_further_away() -> None:
    speech = speechlike(10, 2.0)
    errors = [power(mixing.through_mp3(speech, 16000, level) - speech) for level in (0.2, 0.6, 0.9)]
    assert 0 < errors[0] < errors[1] < errors[2] < power(speech)


def test_a_telephone_passes_its_band_only() -> None:
    def passed_db(frequency: float) -> float:
        sound = tone(frequency, 1.0)
        passed = mixing.through_telephone(sound, 16000)[4000:12000]
        return float(10 * np.log10((power(passed) + 1e-12) / power(sound)))

    assert all(abs(passed_db(frequency)) < 1 for frequency in (500, 1000, 2500))
    assert passed_db(60) < -40 and passed_db(5000) < -40


def test_a_telephone_of_eight_kilohertz_is_not_resampled() -> None:
    speech = speechlike(11, 1.0, rate=8000)
    assert mixing.through_telephone(speech, 8000).shape == speech.shape
