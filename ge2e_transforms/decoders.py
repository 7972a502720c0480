"""The libraries that decode: encoded bytes to float32 samples at their own rate, or to what their header states.

libsndfile takes WAV (8 to 32 bit, float), FLAC, Ogg Vorbis, Opus, MP3, AIFF, AU, NIST SPHERE and more; PyAV,
where it is installed (extra `av`), what libsndfile does not know, such as M4A. The format is told by the first
bytes, never by the file's name. The delay that an encoder adds stays in.

Damage that cannot be noticed: a FLAC whose header states another rate, or fewer samples than it holds, or no
number while the end is missing from between two frames on; damage in MP3 or AAC that keeps the frames in step;
a missing end where the length is not stated (AAC without a container, WebM as it was streamed); and what
`containers` lists. Damage in the last frame of a FLAC is taken for a missing end.

Samples are float32 `[n]` or `[n, channels]`. It must not know where bytes come from, or what a recipe makes of samples.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import soundfile

from ge2e_transforms import containers
from ge2e_transforms.config import AudioConfig
from ge2e_transforms.errors import (
    CorruptAudioError,
    EmptyAudioError,
    NonFiniteAudioError,
    NotAudioError,
    OverLimitError,
    TruncatedAudioError,
)

Samples: TypeAlias = npt.NDArray[np.float32]
_T = TypeVar("_T")
# What is made of an opened sound or container.
_Use: TypeAlias = Callable[[Any], _T]

# Values decoded at once (64 MiB): more than most recordings have, so that there is one call and no copy, and
# little enough for a header that claims too much.
_BLOCK = 1 << 24
_FLOATS_PER_MIB = 1 << 18
# libsndfile's error numbers: format not recognised; encoding not supported or not implemented.
_NOT_RECOGNISED, _OTHER_CODEC = 1, (4, 18)
# libsndfile gives 2^63 - 1 samples where a stream states none.
_UNKNOWN_LENGTH = 1 << 62
# Decoders count bytes in 63 bits.
_FAR = 1 << 62
# One MPEG frame: some writers count the frame of the tag.
_MP3_SLACK = 1152
# Two frames of HE-AAC: what an edit list or the padding of the last frame may take from the stated duration.
_AV_SLACK = 2 * 2048
# The scale of 32-bit integers in a float file. Larger values are no audio, and sums of their squares overflow.
_MAX_VALUE = 2.0**31


def libsndfile_version() -> str:
    """Of the library that soundfile loaded, which need not be the one in its wheel."""
    return str(soundfile.__libsndfile_version__)


class Header(NamedTuple):
    """What a recording says of itself.

    seconds: length; counted by decoding where the header does not state it.
    format: container and coding, such as 'FLAC PCM_16', 'MP4 AAC'.
    """

    seconds: float
    rate_hz: int
    channels: int
    format: str


class Encoded:
    """The encoded bytes as a decoder reads them, with the head that `containers.inspect` gives.

    A decoder takes a failed read for the end of the file. So the error is kept and raised on leaving.
    """

    def __init__(self, raw: BinaryIO) -> None:
        size = raw.seek(0, io.SEEK_END)
        if size == 0:
            raise EmptyAudioError("the file has no bytes")
        container = containers.inspect(raw, size)
        self.kind = container.kind
        self._raw, self._head = raw, container.head
        self._moved = container.skip - len(container.head)
        self.size = size - self._moved
        self._position = self._furthest = 0
        self._step = self.size
        self._error: OSError | None = None

    def __enter__(self) -> Encoded:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._error is not None:
            raise self._error

    @property
    def was_at_end(self) -> bool:
        """Whether the last byte has been read, wherever the decoder went afterwards."""
        return self._furthest >= self.size

    def read_again_slowly(self) -> None:
        """From the start, and in small steps: a decoder then has read little beyond the place where it fails."""
        self._position, self._step, self._furthest = 0, 64, 0

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        # A damaged header may lead to before the start, or to where no file ends, which would be an error deep inside
        # of a decoder.
        self._position = min(max(0, (0, self._position, self.size)[whence] + offset), _FAR)
        return self._position

    def readinto(self, buffer: Any) -> int:
        buffer = memoryview(buffer)[: self._step]
        head = self._head[self._position : self._position + len(buffer)]
        length = len(head)
        buffer[:length] = head
        # The system takes a place where no file ends for an error, which would be taken for one of the disk.
        if length < len(buffer) and self._position + length < self.size:
            try:
                self._raw.seek(self._position + length + self._moved)
                length += self._raw.readinto(buffer[length:])  # type: ignore[attr-defined]
            except OSError as error:
                self._error = error
        self._position += length
        self._furthest = max(self._furthest, self._position)
        return length

    def read(self, length: int) -> bytes:
        buffer = bytearray(length)
        return bytes(buffer[: self.readinto(buffer)])


def decode_any(stream: Encoded, config: AudioConfig) -> tuple[Samples, int]:
    """Samples `[n]` or `[n, channels]`, float32, and their rate in Hz, by the library that knows the format.

    Raises:
        DataError: not audio, corrupt, truncated, empty or over a limit.
    """
    return _by_either(
        stream,
        config,
        lambda sound: _decode_sound(sound, stream.kind, config),
        lambda container: _decode_track(container, stream.kind, config),
    )


def header_of_any(stream: Encoded, config: AudioConfig) -> Header:
    """What the header states; one that states no length is decoded to its end, or to `config.max_seconds`.

    Raises:
        DataError: as `decode_any`, as far as that shows without decoding.
    """
    return _by_either(
        stream,
        config,
        lambda sound: _header_of_sound(sound, config),
        lambda container: _header_of_track(container, stream.kind, config),
    )


def _by_either(stream: Encoded, config: AudioConfig, of_sound: _Use[_T], of_track: _Use[_T]) -> _T:
    found = None if stream.kind in ("mp4", "matroska") else _by_libsndfile(stream, config, of_sound)
    return _by_pyav(stream, of_track) if found is None else found


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """A `SoundFile` that reads from start to end and never seeks.

    `SoundFile.read` seeks to where it already is after each block. That fails at the end of a FLAC of unknown
    length, and makes an MP3 decoder start anew, which changes the samples that follow.
    """

    def seekable(self) -> bool:
        return False


def _by_libsndfile(stream: Encoded, config: AudioConfig, use: _Use[_T]) -> _T | None:
    try:
        with _Forward(stream) as sound:
            _check_shape(sound.samplerate, sound.channels, config)
            return use(sound)
    except soundfile.LibsndfileError as error:
        if stream.kind == "flac" and _fails_at_end(stream):
            raise TruncatedAudioError(f"the end of the FLAC is missing: {error.error_string}") from error
        if error.code in _OTHER_CODEC or (error.code == _NOT_RECOGNISED and not stream.kind):
            return None
        raise CorruptAudioError(f"libsndfile fails inside of it: {error.error_string}") from error


def _decode_sound(sound: Any, kind: str, config: AudioConfig) -> tuple[Samples, int]:
    stated = 0 if sound.frames >= _UNKNOWN_LENGTH else sound.frames
    samples = _gather(_blocks(sound), stated, (sound.samplerate, sound.channels), config)
    _check_length(len(samples), stated, kind, sound.subtype)
    if not sound.subtype.startswith("PCM"):
        _check_values(samples)
    return samples, sound.samplerate


def _header_of_sound(sound: Any, config: AudioConfig) -> Header:
    rate, channels, frames = sound.samplerate, sound.channels, sound.frames
    if frames >= _UNKNOWN_LENGTH:
        frames = sum(map(len, _limited(_blocks(sound), 0, (rate, channels), config)))
    return Header(frames / rate, rate, channels, f"{sound.format} {sound.subtype}")


def _fails_at_end(stream: Encoded) -> bool:
    """Whether the decoder that failed wanted more bytes than there are."""
    stream.read_again_slowly()
    try:
        with _Forward(stream) as sound:
            for _ in _blocks(sound):
                pass
    except soundfile.LibsndfileError:
        pass
    return stream.was_at_end


def _blocks(sound: Any) -> Iterator[Samples]:
    left = sound.frames
    while left > 0:
        asked = min(left, _BLOCK // sound.channels)
        block = sound.read(asked, dtype="float32")
        left = left - asked if len(block) == asked else 0
        # A short block is a view of a long one, which nothing else should keep alive.
        yield block if len(block) == asked else block.copy()


def _check_length(decoded: int, stated: int, kind: str, subtype: str) -> None:
    found = f"{decoded} of the {stated} samples that the header states could be decoded"
    if not subtype.startswith("MPEG"):
        if decoded < stated:
            raise TruncatedAudioError(f"{found}: the end is missing")
    # `containers` saw all bytes of an MP3. In layers I and II and MP3 in WAV the number is only an estimate.
    elif kind == "mp3" and decoded < stated - _MP3_SLACK:
        raise CorruptAudioError(f"{found}: frames inside are damaged")


def _by_pyav(stream: Encoded, use: _Use[_T]) -> _T:
    try:
        import av
    except ImportError:
        raise NotAudioError(
            "libsndfile does not know the format; M4A and others need PyAV: pip install 'ge2e-features[av]'"
        ) from None
    stream.seek(0)
    known = stream.kind != ""
    try:
        # A file that names other files or addresses (a playlist) must not make us open them.
        options = {"protocol_whitelist": "none"}
        with av.open(stream, "r", options=options, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise NotAudioError(f"there is no audio in the file, which looks like {container.format.name}")
            known = True
            return use(container)
    except av.error.FFmpegError as error:
        if known:
            raise CorruptAudioError(f"PyAV fails inside of it: {error.strerror}") from error
        raise NotAudioError(f"neither libsndfile nor PyAV knows the format: {error.strerror}") from error


def _decode_track(container: Any, kind: str, config: AudioConfig) -> tuple[Samples, int]:
    first, frames = _frames(container, config)
    rate = first.sample_rate
    stated = int(_stated_seconds(container, kind) * rate)
    samples = _gather(_values(first, frames), stated, (rate, first.layout.nb_channels), config)
    if len(samples) < stated - _AV_SLACK:
        raise CorruptAudioError(f"{len(samples)} of the {stated} samples that the header states could be decoded")
    _check_values(samples)
    return samples, rate


def _header_of_track(container: Any, kind: str, config: AudioConfig) -> Header:
    first, frames = _frames(container, config)
    rate, channels = first.sample_rate, first.layout.nb_channels
    seconds = _stated_seconds(container, kind)
    if not seconds:
        seconds = sum(map(len, _limited(_values(first, frames), 0, (rate, channels), config))) / rate
    coding = container.streams.audio[0].codec_context.name
    return Header(seconds, rate, channels, f"{kind or container.format.name} {coding}".upper())


def _frames(container: Any, config: AudioConfig) -> tuple[Any, Iterator[Any]]:
    """The first frame, which knows what the track does not (HE-AAC states half of the rate), and the others."""
    frames = container.decode(container.streams.audio[0])
    first = next(frames, None)
    if first is None:
        raise EmptyAudioError("the audio has no samples")
    _check_shape(first.sample_rate, first.layout.nb_channels, config)
    return first, frames


def _stated_seconds(container: Any, kind: str) -> float:
    """What the header states; 0 where FFmpeg only estimates it, or it may be that of another track."""
    track = container.streams.audio[0]
    if kind == "mp4" and track.duration:
        return float(track.duration * track.time_base)
    if kind == "matroska" and container.duration and len(container.streams) == 1:
        return float(container.duration / 1e6)
    return 0.0


def _values(first: Any, others: Iterator[Any]) -> Iterator[Samples]:
    import av

    packed = av.AudioResampler(format="flt")
    shape = first.sample_rate, first.layout.nb_channels
    frame: Any = first
    while frame is not None:
        if (frame.sample_rate, frame.layout.nb_channels) != shape:
            raise CorruptAudioError(f"the rate or the number of channels, {shape} at first, changes inside of it")
        for piece in packed.resample(frame):
            values = piece.to_ndarray()[0]
            yield values if shape[1] == 1 else values.reshape(-1, shape[1])
        frame = next(others, None)


def _check_shape(rate: int, channels: int, config: AudioConfig) -> None:
    if not 1 <= rate <= config.max_input_rate_hz:
        raise OverLimitError(f"rate of {rate} Hz: expected 1 to max_input_rate_hz={config.max_input_rate_hz}")
    if not 1 <= channels <= config.max_channels:
        raise OverLimitError(f"{channels} channels: expected 1 to max_channels={config.max_channels}")


def _gather(blocks: Iterator[Samples], stated: int, shape: tuple[int, int], config: AudioConfig) -> Samples:
    taken = list(_limited(blocks, stated, shape, config))
    return taken[0] if len(taken) == 1 else np.concatenate(taken or [np.empty(0, dtype=np.float32)])


def _limited(blocks: Iterator[Samples], stated: int, shape: tuple[int, int], config: AudioConfig) -> Iterator[Samples]:
    """The blocks, until they, or the length that is stated, pass a limit; `shape` is the rate and the channels."""
    rate, channels = shape
    most = min(config.max_seconds * rate, config.max_decoded_mib * _FLOATS_PER_MIB / channels)
    decoded = 0
    while max(stated, decoded) <= most:
        block = next(blocks, None)
        if block is None:
            return
        decoded += len(block)
        yield block
    raise OverLimitError(
        f"{max(stated, decoded) / rate:.1f} s or more of {channels} channel(s) at {rate} Hz: expected at most "
        f"max_seconds={config.max_seconds:g} and max_decoded_mib={config.max_decoded_mib:g}; cut the recording, or "
        "raise the limit"
    )


def _check_values(samples: Samples) -> None:
    """Not for integer formats, which cannot hold what is refused here."""
    # Minimum and maximum carry NaN along and need no array of their own.
    low, high = float(samples.min(initial=0)), float(samples.max(initial=0))
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int(np.count_nonzero(~np.isfinite(samples)))
        raise NonFiniteAudioError(f"{bad} of {samples.size} values are NaN or infinite")
    if max(-low, high) > _MAX_VALUE:
        raise CorruptAudioError(
            f"values up to {max(-low, high):.3g}: expected audio in [-1, 1], or at least in 32 bits"
        )
