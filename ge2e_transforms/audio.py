"""Encoded audio to mono float32 samples at the recipe's rate, within its limits.

Every fault of a recording is a `DataError`. Any other `OSError` while reading (a disk or a network that fails)
is let out as it is: it says nothing about the recording, and reading again may help.

What can be decoded, and what damage cannot be noticed, stands in `decoders` and `containers`. Full scale is 1, which
float formats, lossy codecs and resampling may pass. It must not know of archives, stores or datasets.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soxr
import xxhash

from ge2e_transforms.config import AudioConfig
from ge2e_transforms.decoders import Encoded, Samples, decode_any
from ge2e_transforms.errors import (
    DataError,
    EmptyAudioError,
    MissingAudioError,
    NoSuchChannelError,
    TruncatedAudioError,
    UnreadableAudioError,
)
from ge2e_transforms.regular_files import MISSING, NEVER_READABLE, open_regular

# Files up to this size are read at once, which is faster than to read them piece by piece from a decoder.
_WHOLE_FILE = 1 << 26
# Manifests round seconds to 10 ms or so, and codecs pad by frames of 20 to 36 ms: less than this is no fault,
# and no word is shorter.
_CUT_SLACK_S = 0.05


@dataclass(frozen=True)
class Recording:
    """Decoded audio at its own rate.

    samples: `[n]` if mono, else `[n, channels]`, float32, C-contiguous. Integer formats are in [-1, 1); float
        formats and lossy codecs may pass beyond.
    """

    samples: Samples
    rate_hz: int


def load(source: str | bytes, config: AudioConfig, channel: str | int | None = None, name: str = "") -> Samples:
    """`decode`, `to_mono` and `resample`: `[n]` float32 mono at `config.sample_rate_hz`.

    Args:
        source: a local path, or the encoded bytes.
        config: rate, channel and limits.
        channel: 'mean' or a number from 0; None takes the config's.
        name: what messages call the recording; by default the path.

    Raises:
        DataError: the one that names the fault; see `decode` and `to_mono`.
        OSError: as `decode`.
    """
    recording = decode(source, config, name)
    try:
        mono = to_mono(recording, config.channel if channel is None else channel)
    except DataError as error:
        raise _named(error, source, name) from None
    return resample(mono, recording.rate_hz, config.sample_rate_hz)


def decode(source: str | bytes, config: AudioConfig, name: str = "") -> Recording:
    """All samples of a recording, or the reason why they cannot be used.

    Args:
        source: a local path, or the encoded bytes.
        config: the limits.
        name: what messages call the recording; by default the path.

    Raises:
        MissingAudioError: no such file.
        UnreadableAudioError: permissions, a directory, a device or a pipe (which are never opened).
        EmptyAudioError: no bytes, or no samples.
        NotAudioError: no decoder knows the format.
        CorruptAudioError: a decoder fails inside, or the values are no audio.
        TruncatedAudioError: the file ends before its header says.
        NonFiniteAudioError: NaN or infinity among the samples.
        OverLimitError: longer than `max_seconds`, wider than `max_channels`, a rate above `max_input_rate_hz`;
            by the header where it tells, else while decoding.
        OSError: the file could not be read, for a reason that may pass.
    """
    try:
        with _open(source) as raw, Encoded(raw) as stream:
            samples, rate_hz = decode_any(stream, config)
        if not len(samples):
            raise EmptyAudioError("the audio has no samples")
    except DataError as error:
        raise _named(error, source, name) from error.__cause__
    return Recording(samples, rate_hz)


def whole(source: str | bytes, name: str = "") -> str | bytes:
    """The bytes of a local file that `decode` would read at once; the source itself if it is longer, or bytes.

    Raises:
        MissingAudioError, UnreadableAudioError, OSError: as `decode`.
    """
    try:
        with _open(source) as raw:
            return raw.getvalue() if isinstance(raw, io.BytesIO) else source
    except DataError as error:
        raise _named(error, source, name) from None


def to_mono(recording: Recording, channel: str | int) -> Samples:
    """One channel, or the mean of all: `[n]` float32.

    Raises:
        NoSuchChannelError: `channel` is neither 'mean' nor one of the recording's channels, counted from 0.
    """
    samples = recording.samples
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    if channel == "mean":
        return samples.reshape(-1) if channels == 1 else _mean(samples)
    if not isinstance(channel, int) or not 0 <= channel < channels:
        raise NoSuchChannelError(f"channel {channel!r}: expected 'mean' or a number from 0 to {channels - 1}")
    return samples.reshape(-1) if channels == 1 else np.ascontiguousarray(samples[:, channel])


def _mean(samples: Samples) -> Samples:
    # Column after column: the order of the sum is fixed, and it is faster than a sum along each row.
    total = samples[:, 0] + samples[:, 1]
    for channel in range(2, samples.shape[1]):
        total += samples[:, channel]
    total /= np.float32(samples.shape[1])
    return total


def resample(samples: Samples, rate_in: int, rate_out: int) -> Samples:
    """`[n]` float32 to `[round(n * rate_out / rate_in)]` by soxr at quality 'HQ'; at the same rate the input itself."""
    if rate_in == rate_out:
        return samples
    return np.asarray(soxr.resample(samples, rate_in, rate_out, quality="HQ"), dtype=np.float32)


def cut(samples: Samples, rate_hz: int, offset_s: float | None, duration_s: float | None, name: str) -> Samples:
    """The segment of a manifest row: `[m]` float32, a view.

    Both ends are rounded to the nearest sample, so that segments that meet in seconds meet in samples.

    Args:
        samples: `[n]` float32, the whole recording.
        rate_hz: its rate.
        offset_s: seconds from its start; None is 0.
        duration_s: seconds; None goes to the end.
        name: what messages call the recording.

    Raises:
        TruncatedAudioError: the recording ends more than 50 ms before the segment does, or before it starts.
        EmptyAudioError: the segment is shorter than half a sample.
    """
    offset = offset_s or 0.0
    start = round(offset * rate_hz)
    stop = len(samples) if duration_s is None else round((offset + duration_s) * rate_hz)
    if stop - len(samples) > _CUT_SLACK_S * rate_hz or start >= len(samples):
        end, wanted = len(samples) / rate_hz, max(start, stop) / rate_hz
        raise TruncatedAudioError(
            f"{name}: the recording ends at {end:.3f} s, the row wants it up to {wanted:.3f} s: "
            "check its offset_s and duration_s, or copy the file again"
        )
    if start >= stop:
        raise EmptyAudioError(f"{name}: no sample in the {duration_s} s from {offset} s on")
    return samples[start:stop]


def _named(error: DataError, source: str | bytes, name: str) -> DataError:
    return type(error)(f"{name or (source if isinstance(source, str) else 'audio')}: {error}")


def _open(source: str | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    with named_faults():
        file = open_regular(source)
        if os.fstat(file.fileno()).st_size > _WHOLE_FILE:
            return file
        with file:
            return io.BytesIO(file.read())


@contextmanager
def named_faults() -> Iterator[None]:
    """Makes a MissingAudioError or an UnreadableAudioError of what opening a local file raises, unless it may pass."""
    try:
        yield
    except ValueError as error:
        raise MissingAudioError(f"no file can have this name: {error}") from None
    except OSError as error:
        if error.errno in MISSING:
            raise MissingAudioError(f"no such file ({error.strerror}): check audio_path") from None
        if error.errno in NEVER_READABLE:
            raise UnreadableAudioError(
                f"may not be read ({error.strerror}): expected a file that this user may read"
            ) from None
        raise


def content_hash(samples: Samples) -> int:
    """The column `audio_hash`: equal for equal samples, whatever file they came from.

    It is XXH3 in its form of 64 bits, with seed 0, over the samples as little-endian IEEE float32 and nothing else (no
    length in front). The 64 bits are read as a signed integer in two's complement. Bits count, so 0.0 and -0.0 are two
    samples; integer formats have no -0.0. Whoever knows the function can make two recordings that share a hash: it
    finds what happened, not what somebody hides.

    Args:
        samples: `[n]` float32 mono at the recipe's rate.

    Returns:
        An integer in [-2^63, 2^63). The chance that any two among 100 million different recordings share one is 2.7e-4.
    """
    little = np.ascontiguousarray(samples, dtype="<f4")
    return int.from_bytes(xxhash.xxh3_64_digest(little.data), "big", signed=True)
