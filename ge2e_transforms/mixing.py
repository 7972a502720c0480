"""Waveforms to noisy, reverberated, sped-up and coded ones. Pure functions of samples; no draws.

All is done in a fixed order: values do not depend on the CPU. Sums and products of complex numbers are compiled for
that, as NumPy's own take other instructions on other CPUs. MP3 is the exception: it is as the encoder makes it.
Waveforms are mono, float32 `[n]`. It must not know how noises, rooms and gains are chosen.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import soundfile

from ge2e_transforms import audio, sums
from ge2e_transforms.compiled import compiled
from ge2e_transforms.decoders import Samples
from ge2e_transforms.errors import SilentAudioError

# A block of the convolution has so many times the samples of the response, and at least so many: then little of it is
# overlap, and it stays in a core's cache.
_BLOCK_TIMES, _LEAST_BLOCK = 4, 1 << 14
# The telephone's band as ITU-T G.712 has it, and its rate; and the order of the band-pass at either end, which is
# applied forwards and backwards, so that nothing is delayed.
_BAND_HZ, _TELEPHONE_HZ, _ORDER = (300.0, 3400.0), 8000, 2
# What is mirrored at the ends for it: 10 ms.
_MIRRORED = 80
# The largest sample that PCM16 holds on both sides.
_PEAK = np.float32(32767 / 32768)


def excerpt(sound: Samples, start: int, length: int) -> Samples:
    """`[length]` samples of a sound from `start` on; after its end it begins again.

    >>> excerpt(np.array([0.1, 0.2, 0.3], np.float32), 1, 4).tolist() == np.float32([0.2, 0.3, 0.1, 0.2]).tolist()
    True
    """
    if start + length <= len(sound):
        return sound[start : start + length]
    return np.take(sound, np.arange(start, start + length), mode="wrap")


def mix(speech: Samples, noise: Samples, gain: float) -> Samples:
    """`speech + gain * (noise - mean of noise)`, `[n]` as both of them."""
    mixed = noise * np.float32(gain)
    mixed -= np.float32(gain) * sums.mean(noise)
    mixed += speech
    return mixed


def noise_gain(speech_power: float, noise_power: float, snr_db: float) -> float:
    """Gain that makes of a noise one that is `snr_db` below the speech; powers are mean squares, that of noise above 0.

    >>> noise_gain(4.0, 1.0, 20.0)
    0.2
    """
    return math.sqrt(speech_power / noise_power) * 10 ** (-snr_db / 20)


def limited(samples: Samples) -> Samples:
    """The samples, scaled down as a whole if one of them would not fit into PCM16. Works in place."""
    peak = max(float(samples.max()), -float(samples.min()))
    if peak > _PEAK:
        samples *= np.float32(float(_PEAK) / peak)
        np.clip(samples, -_PEAK, _PEAK, out=samples)  # what rounding left above
    return samples


class Room:
    """The impulse response of a room, ready for use.

    It counts from the direct sound on, which is its largest sample: so speech stays where it was, and what was voice is
    voice. Its energy is 1.

    Args:
        response: `[n]` float32 at the rate of the speech.

    Attributes:
        taps: samples of the response from there on.

    Raises:
        SilentAudioError: it holds no sound.
    """

    def __init__(self, response: Samples) -> None:
        import scipy.fft

        direct = int(np.argmax(np.abs(response)))
        taps = np.ascontiguousarray(response[direct:])
        energy = float(sums.hop_energies(taps, np.float32(0), len(taps))[0])
        if energy == 0:
            raise SilentAudioError("the response of a room holds no sound")
        self.taps = len(taps)
        self._size = 1 << (max(_BLOCK_TIMES * self.taps, _LEAST_BLOCK) - 1).bit_length()
        self._spectrum = scipy.fft.rfft(taps / np.float32(math.sqrt(energy)), self._size, workers=1)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return int(self._spectrum.nbytes)

    def apply(self, speech: Samples) -> Samples:
        """The speech as it sounds in the room: the convolution, cut to the length of the speech.

        Overlap-add (Stockham 1966): blocks of the speech are convolved apart, and what reaches beyond one is added.
        """
        import scipy.fft

        step = self._size - self.taps + 1
        blocks = -(-len(speech) // step)
        padded = np.zeros((blocks, self._size), dtype=np.float32)
        for number in range(blocks):
            part = speech[number * step : (number + 1) * step]
            padded[number, : len(part)] = part
        spectra = scipy.fft.rfft(padded, axis=1, workers=1)
        _multiply(spectra.view(np.float32), self._spectrum.view(np.float32))
        parts = scipy.fft.irfft(spectra, self._size, axis=1, workers=1)
        reverberated = np.zeros(max(len(speech), blocks * step + self._size), dtype=np.float32)
        for number, found in enumerate(parts):
            reverberated[number * step : number * step + self._size] += found
        return reverberated[: len(speech)]


@compiled
def _multiply(spectra: Any, factor: Any) -> None:
    """Rows of complex numbers times one row, in place; real and imaginary parts lie side by side."""
    for row in range(len(spectra)):
        spectrum = spectra[row]
        for place in range(0, len(factor), 2):
            real, imaginary = spectrum[place], spectrum[place + 1]
            spectrum[place] = real * factor[place] - imaginary * factor[place + 1]
            spectrum[place + 1] = real * factor[place + 1] + imaginary * factor[place]


def at_speed(samples: Samples, rate_hz: int, factor: float) -> Samples:
    """Speech `factor` times as fast, and as high, as if it had been taken up at another rate; exact to a thousandth."""
    thousandths = round(factor * 1000)
    return audio.resample(samples, rate_hz * thousandths, rate_hz * 1000)


def through_mp3(samples: Samples, rate_hz: int, level: float) -> Samples:
    """MP3 and back, at a rate that it can hold; `level` from 0 (the most bits) to less than 1, as libsndfile counts."""
    coded = io.BytesIO()
    soundfile.write(coded, samples, rate_hz, format="MP3", compression_level=level)
    coded.seek(0)
    decoded, _ = soundfile.read(coded, dtype="float32")
    return _fitted(decoded, len(samples))


def through_telephone(samples: Samples, rate_hz: int) -> Samples:
    """A telephone line and back: the band from 300 to 3400 Hz, 8 kHz, mu-law of 8 bits (ITU-T G.711)."""
    import scipy.signal

    narrow = audio.resample(samples, rate_hz, _TELEPHONE_HZ)
    filters = scipy.signal.butter(_ORDER, _BAND_HZ, "bandpass", output="sos", fs=_TELEPHONE_HZ)
    passed = scipy.signal.sosfiltfilt(filters, narrow, padlen=min(_MIRRORED, len(narrow) - 1))
    band = limited(passed.astype(np.float32))
    coded = io.BytesIO()
    soundfile.write(coded, band, _TELEPHONE_HZ, format="WAV", subtype="ULAW")
    coded.seek(0)
    decoded, _ = soundfile.read(coded, dtype="float32")
    return _fitted(audio.resample(decoded, _TELEPHONE_HZ, rate_hz), len(samples))


def _fitted(samples: Samples, length: int) -> Samples:
    """Cut, or filled up with silence: a codec may take or leave some samples at the end."""
    fitted = np.zeros(length, dtype=np.float32)
    fitted[: min(length, len(samples))] = samples[:length]
    return fitted
