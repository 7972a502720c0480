"""What a process computes from signals that are kept here: which codecs decode, and one digest of a recipe.

Two processes that give the same digests give the same bytes for the same recording. Signals are made of integers, so
they are the same on every CPU; the samples of codecs are kept as bytes, so that decoders are tested and no encoder is.
It must not know of datasets or of jobs.
"""

from __future__ import annotations

import base64
import hashlib
import time
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ge2e_transforms import audio, records, schema
from ge2e_transforms.codec_samples import SAMPLES
from ge2e_transforms.config import AudioConfig, Recipe
from ge2e_transforms.decoded import AudioSource
from ge2e_transforms.decoders import Samples
from ge2e_transforms.errors import CorruptAudioError
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.rng import random_bits
from ge2e_transforms.utterance import Utterance

CODEC_RATE_HZ = 16000
LOSSLESS, NEEDS_AV = ("WAV", "FLAC"), ("AAC",)
CODECS = tuple(SAMPLES)
# What the tone and its decoded copy have in common, 1 for equality. Lossy codecs keep nearly all of
# a tone; another signal, or the tone at another rate, has less than half of it at any shift.
_LIKENESS = 0.95
# Recordings at this rate are common, and no preset's: they have to be resampled.
_OTHER_RATE_HZ = 22050
_CRC_SECONDS = 0.01


def tone() -> npt.NDArray[np.int16]:
    """0.2 s of a tone of 200 Hz (half waves are parabolas), `[3200]` int16 at `CODEC_RATE_HZ`, fading in and out."""
    time_ = np.arange(3200)
    within, half = time_ % 40, time_ // 40
    wave = (1 - 2 * (half % 2)) * within * (40 - within) * 20
    fade = np.minimum(np.minimum(time_, 3200 - time_), 400)
    return np.asarray(wave * fade // 400, dtype=np.int16)


def decode_sample(codec: str) -> str:
    """Decodes the kept sample of one of `CODECS` as a job decodes recordings.

    Returns:
        16 hex digits over the decoded values. They may differ between CPUs and builds for what is not in `LOSSLESS`.

    Raises:
        DataError: it does not decode, or not to what was encoded.
    """
    return check_decoded(zlib.decompress(base64.b85decode(SAMPLES[codec])), codec)


def check_decoded(data: bytes, codec: str) -> str:
    """As `decode_sample`, of the encoded tone in `data`."""
    found = audio.decode(data, AudioConfig(), f"the sample of {codec}")
    expected = tone().astype(np.float32) / np.float32(schema.PCM16_SCALE)
    samples = audio.to_mono(found, "mean")
    good = np.array_equal(samples, expected) if codec in LOSSLESS else _likeness(samples, expected) >= _LIKENESS
    if found.rate_hz != CODEC_RATE_HZ or not good:
        raise CorruptAudioError(
            f"the sample of {codec} decodes to something else than was encoded: {len(samples)} samples at "
            f"{found.rate_hz} Hz, expected {len(expected)} at {CODEC_RATE_HZ} Hz"
        )
    return _digest(samples)


def _likeness(samples: Samples, expected: Samples) -> float:
    """Largest normalised correlation over all shifts: encoders and decoders add delays of their own."""
    scale = float(np.linalg.norm(samples) * np.linalg.norm(expected))
    return float(np.correlate(samples, expected, "full").max()) / scale if scale else 0.0


def _digest(samples: Samples) -> str:
    return hashlib.sha256(np.ascontiguousarray(samples, dtype="<f4").tobytes()).hexdigest()[:16]


def speech(count: int) -> npt.NDArray[np.float32]:
    """Bursts of harmonics and noise with pauses, float32 `[count]` in [-1, 1): something for every stage of a recipe.

    A burst is 6000 samples, a pause 2000. Values are multiples of 2^-15, so they are exact.
    """
    time_ = np.arange(count)
    burst, within = time_ // 8000, time_ % 8000
    period = 70 + 13 * (burst % 7)
    # Triangles of a pitch and three of its multiples: values in [-1024, 1024) before they are weighted.
    waves = sum((np.abs(time_ * k % period * 4096 // period - 2048) - 1024) * (5 - k) for k in (1, 2, 3, 4))
    fade = np.maximum(np.minimum(np.minimum(within, 6000 - within), 500), 0)
    noise = (random_bits(1, count) >> np.uint64(58)).astype(np.int64) - 32
    return np.asarray((np.asarray(waves) * fade // 500 + noise) / schema.PCM16_SCALE, dtype=np.float32)


def recipe_digest(recipe: Recipe) -> str:
    """sha256, 64 hex digits, of the records that a recipe makes of two test signals, one of them resampled.

    Raises:
        ConfigError: the recipe cannot be carried out.
    """
    rate, extractor = recipe.audio.sample_rate_hz, FeatureExtractor(recipe)
    # Long enough for pauses, and for a frame of any recipe.
    count = max(3 * rate, 2 * recipe.feature.n_fft, 24000)
    digest = hashlib.sha256()
    for signal in (speech(count), audio.resample(speech(count * _OTHER_RATE_HZ // rate), _OTHER_RATE_HZ, rate)):
        extraction = extractor.extract(signal, utterance_id="selftest", keep_all=True)
        for segment in extraction.segments:
            fields: dict[str, str | int] = {schema.KEY_UTTERANCE: "selftest", schema.KEY_START: segment.start}
            digest.update(records.encode_record(segment.values, fields)[0])
        digest.update(f"{extraction.gain_db:.9f} {extraction.voiced_fraction:.9f}".encode())
    return digest.hexdigest()


def crc_speed() -> float:
    """Megabytes of which the checksum of records is taken in a second."""
    size = 1 << 12
    while True:
        block = bytes(size)
        began = time.perf_counter()
        records.masked_crc(block)
        seconds = time.perf_counter() - began
        if seconds >= _CRC_SECONDS:
            return size / seconds / 1e6
        size *= 2


class Decoded(NamedTuple):
    """A recording of a manifest, as it was decoded: where it is, its seconds, 16 hex digits over its values."""

    location: str
    seconds: float
    digest: str


def decode_row(row: Utterance, config: AudioConfig, open_audio: AudioSource) -> Decoded:
    """Opens and decodes the recording of a row, and cuts its segment.

    Raises:
        DataError: the recording cannot be used.
    """
    samples: Any = audio.load(open_audio(row.location), config, row.channel, row.location)
    if row.offset_s is not None:
        samples = audio.cut(samples, config.sample_rate_hz, row.offset_s, row.duration_s, row.location)
    return Decoded(row.location, len(samples) / config.sample_rate_hz, _digest(samples))
