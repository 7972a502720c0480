"""audio and decoders: every format, every fault by its name, limits that hold, and nothing else on damaged files."""

from __future__ import annotations

import errno
import functools
import io
import itertools
import os
import struct
import sys
import tracemalloc
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.signal
import soundfile
import synth
from hypothesis import given, settings
from hypothesis import strategies as st

from ge2e_transforms import audio, decoders, regular_files
from ge2e_transforms.audio import Recording, content_hash, cut, decode, load, resample, to_mono
from ge2e_transforms.config import AudioConfig
from ge2e_transforms.errors import (
    CorruptAudioError,
    DataError,
    EmptyAudioError,
    MissingAudioError,
    NonFiniteAudioError,
    NoSuchChannelError,
    NotAudioError,
    OverLimitError,
    TruncatedAudioError,
    UnreadableAudioError,
    visible,
)

CONFIG = AudioConfig()
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_24"),
    "au": ("AU", "PCM_16"),
    "nist": ("NIST", "PCM_16"),
    "ulaw": ("WAV", "ULAW"),
    "adpcm": ("WAV", "IMA_ADPCM"),
}
BY_PYAV = {"m4a": ("aac", 44100), "webm": ("libopus", 48000), "mov": ("pcm_s16le", 16000)}


@functools.cache
def made(name: str, seconds: float = 1.0, rate: int = 16000) -> bytes:
    return synth.encoded(synth.speechlike(1, seconds, rate), rate, *FORMATS[name])


@pytest.fixture(scope="module")
def by_pyav(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    folder = tmp_path_factory.mktemp("av")

    @functools.cache
    def make(ending: str) -> bytes:
        codec, rate = BY_PYAV[ending]
        return synth.write_av(folder / f"a.{ending}", synth.speechlike(2, 1.0, rate), rate, codec).read_bytes()

    return make


def patched(data: bytes, position: int, value: bytes) -> bytes:
    return data[:position] + value + data[position + len(value) :]


def streamed_flac(seconds: float = 1.0) -> bytes:
    """A FLAC as written to a pipe: its header states no number of samples."""
    data = made("flac", seconds)
    return patched(data, 21, bytes([data[21] & 0xF0]) + bytes(4))


def likeness(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Normalised correlation at the best delay."""
    score = scipy.signal.correlate(found, expected, method="fft").max()
    return float(score / np.sqrt(np.sum(np.square(found)) * np.sum(np.square(expected))))


# Values: every bit depth against samples worked out by hand.


@pytest.mark.parametrize(
    ("width", "written", "expected"),
    [
        (1, bytes([0, 1, 128, 129, 255]), [-1, -127 / 128, 0, 1 / 128, 127 / 128]),
        (2, struct.pack("<5h", -32768, -1, 0, 1, 32767), [-1, -(2.0**-15), 0, 2.0**-15, 1 - 2.0**-15]),
        (3, bytes.fromhex("000080 ffffff 000000 010000 ffff7f"), [-1, -(2.0**-23), 0, 2.0**-23, 1 - 2.0**-23]),
        (4, struct.pack("<5i", -(2**31), -(2**15), 0, 2**15, 2**30), [-1, -(2.0**-16), 0, 2.0**-16, 0.5]),
    ],
)
def test_wav_integers(width: int, written: bytes, expected: list[float]) -> None:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, width, 8000, 0, "NONE", ""))
        file.writeframes(written)
    recording = decode(buffer.getvalue(), CONFIG)
    assert recording.rate_hz == 8000
    assert recording.samples.dtype == np.float32
    assert recording.samples.tolist() == expected


@pytest.mark.parametrize(("subtype", "type_"), [("FLOAT", np.float32), ("DOUBLE", np.float64)])
def test_wav_floats_keep_their_values(subtype: str, type_: type) -> None:
    values = np.array([0, -1, 1, 0.1, 2.5, -1e-30, 32767], dtype=type_)
    assert np.array_equal(decode(synth.encoded(values, 16000, "WAV", subtype), CONFIG).samples, values.astype("f4"))


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_flac_depths(subtype: str) -> None:
    bits = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}[subtype]
    steps = np.array([-(2 ** (bits - 1)), -1, 0, 1, 2 ** (bits - 1) - 1] * 100)
    samples = decode(synth.encoded((steps << (32 - bits)).astype(np.int32), 16000, "FLAC", subtype), CONFIG).samples
    assert np.array_equal(samples, (steps / 2 ** (bits - 1)).astype(np.float32))


def test_real_speech_is_bit_identical_to_soundfile(librispeech: Path) -> None:
    paths = sorted(librispeech.rglob("*.flac"))[::40]
    assert len(paths) >= 6
    for path in paths:
        expected, rate = soundfile.read(str(path), dtype="float32")
        recording = decode(str(path), CONFIG)
        assert recording.rate_hz == rate == 16000
        assert np.array_equal(recording.samples, expected)
        assert load(str(path), CONFIG).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", FORMATS)
def test_formats_of_libsndfile(name: str) -> None:
    recording = decode(made(name), CONFIG)
    assert recording.rate_hz == 16000
    assert recording.samples.dtype == np.float32
    # ADPCM fills its last block.
    assert len(recording.samples) == (16272 if name == "adpcm" else 16000)
    assert likeness(recording.samples, synth.speechlike(1, 1.0)) > 0.97


@pytest.mark.parametrize(("name", "ending"), [("m4a", "m4a"), ("webm", "webm"), ("mov", "mov")])
def test_formats_of_pyav(name: str, ending: str, by_pyav: Callable[[str], bytes]) -> None:
    rate = BY_PYAV[ending][1]
    recording = decode(by_pyav(ending), CONFIG)
    assert recording.rate_hz == rate
    assert recording.samples.ndim == 1
    assert 0 <= len(recording.samples) - rate <= 2 * 1024  # AAC: a frame before, and one filled up
    assert recording.samples.flags.c_contiguous
    assert likeness(recording.samples, synth.speechlike(2, 1.0, rate)) > 0.97


def test_pyav_integers_are_exact(tmp_path: Path) -> None:
    samples = synth.speechlike(3, 0.5)
    expected = decode(synth.encoded(samples, 16000, "WAV", "PCM_16"), CONFIG).samples
    found = decode(str(synth.write_av(tmp_path / "a.mov", samples, 16000, "pcm_s16le")), CONFIG).samples
    assert len(found) == len(expected)
    assert np.abs(found - expected).max() <= 2.0**-15  # the writers round half a step in different ways


@pytest.mark.parametrize("ending", ["wav", "mov"])
def test_channels_stay_apart(ending: str, tmp_path: Path) -> None:
    left, right = synth.tone(300, 0.5), synth.tone(500, 0.5, level=0.25)
    both = np.stack([left, right], axis=1)
    path = tmp_path / f"a.{ending}"
    if ending == "wav":
        synth.write(path, both, 16000, subtype="PCM_16")
    else:
        synth.write_av(path, both, 16000, "pcm_s16le")
    recording = decode(str(path), CONFIG)
    assert recording.samples.shape == (8000, 2)
    assert recording.samples.flags.c_contiguous
    assert np.abs(recording.samples - both).max() < 1e-4


@pytest.mark.parametrize("name", [*FORMATS, *BY_PYAV])
def test_bytes_path_and_piecewise_reading_are_equal(
    name: str, tmp_path: Path, by_pyav: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = by_pyav(name) if name in BY_PYAV else made(name)
    # The name says nothing about the format.
    path = tmp_path / "audio.txt"
    path.write_bytes(data)
    whole = decode(data, CONFIG)
    assert decode(str(path), CONFIG).samples.tobytes() == whole.samples.tobytes()
    monkeypatch.setattr(audio, "_WHOLE_FILE", 0)
    monkeypatch.setattr(decoders, "_BLOCK", 1000)
    assert decode(str(path), CONFIG).samples.tobytes() == whole.samples.tobytes()


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_wav_of_unknown_size_is_read_to_its_end(size: int) -> None:
    data = made("wav")
    streamed = patched(patched(data, 40, struct.pack("<I", size)), 4, struct.pack("<I", size))
    assert np.array_equal(decode(streamed, CONFIG).samples, decode(data, CONFIG).samples)


def test_flac_of_unknown_length_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = decode(made("flac"), CONFIG).samples
    assert np.array_equal(decode(streamed_flac(), CONFIG).samples, expected)
    monkeypatch.setattr(decoders, "_BLOCK", 4000)
    assert np.array_equal(decode(streamed_flac(), CONFIG).samples, expected)


# Faults, each by its name.


def riff(samples: bytes, channels: int = 1, rate: int = 16000, kind: int = 1, bits: int = 16) -> bytes:
    width = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * width, width, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


def floats(*values: float) -> bytes:
    return riff(np.array(values, dtype="<f4").tobytes(), kind=3, bits=32)


FAULTS: dict[str, tuple[bytes, type[DataError], str]] = {
    "no bytes": (b"", EmptyAudioError, "no bytes"),
    "no samples": (riff(b""), EmptyAudioError, "no samples"),
    "text": (b"this is no audio at all\n" * 50, NotAudioError, "neither libsndfile nor PyAV"),
    "zeros": (bytes(4096), NotAudioError, "neither libsndfile nor PyAV"),
    "subtitles": (b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n", NotAudioError, "no audio in the file"),
    "NaN": (floats(0, float("nan"), 0.5), NonFiniteAudioError, "1 of 3 values"),
    "infinity": (floats(float("-inf"), 0, float("inf")), NonFiniteAudioError, "2 of 3 values"),
    "minus infinity": (floats(float("-inf"), 0), NonFiniteAudioError, "1 of 2 values"),
    "too large for float32": (
        synth.encoded(np.array([0.0, 1e300]), 16000, "WAV", "DOUBLE"),
        NonFiniteAudioError,
        "1 of 2 values",
    ),
    "absurd values": (floats(0, -1e30), CorruptAudioError, r"up to 1e\+30"),
    "no samples chunk": (b"RIFF\x04\0\0\0WAVE", CorruptAudioError, "No 'data' chunk"),
    "less than a header": (b".snd", CorruptAudioError, "libsndfile fails inside of it: Format not recognised"),
    "17 channels": (riff(bytes(34), channels=17), OverLimitError, "17 channels: expected 1 to max_channels=16"),
    "rate": (riff(bytes(4), rate=384001), OverLimitError, "384001 Hz: expected 1 to max_input_rate_hz=384000"),
    "long": (
        riff(bytes(2 * 601 * 100), rate=100),
        OverLimitError,
        r"601\.0 s or more of 1 channel\(s\) at 100 Hz: .*=600",
    ),
    "wav cut": (made("wav")[:-2], TruncatedAudioError, "its end is missing"),
    "flac cut": (made("flac")[: len(made("flac")) // 2], TruncatedAudioError, r"the end (of the FLAC )?is missing"),
    "flac cut in its last frame": (made("flac")[:-1], TruncatedAudioError, r"the end (of the FLAC )?is missing"),
    "flac cut in its header": (made("flac")[:30], TruncatedAudioError, r"the end (of the FLAC )?is missing"),
    "flac that states too much": (
        patched(made("flac"), 22, struct.pack(">I", 20000)),
        TruncatedAudioError,
        "16000 of the 20000 samples",
    ),
    "vorbis cut": (made("vorbis")[:-1], TruncatedAudioError, "Ogg page"),
    "opus cut": (made("opus")[:2000], TruncatedAudioError, "Ogg page"),
    "mp3 cut": (made("mp3")[:-1], TruncatedAudioError, "MP3 frame"),
    "vorbis damaged": (patched(made("vorbis"), 4000, b"damage"), CorruptAudioError, "checksum"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str) -> None:
    data, error, message = FAULTS[name]
    with pytest.raises(error, match=f"^a/b.wav: .*{message}") as found:
        decode(data, CONFIG, "a/b.wav")
    assert type(found.value) is error
    with pytest.raises(error):
        load(data, CONFIG)


def test_damage_in_flac_frames_is_corrupt() -> None:
    data = made("flac", 4.0)
    sync = data[data.index(b"\xff\xf8", 42) :][:4]
    frames = [at for at in range(len(data)) if data.startswith(sync, at)]
    assert len(frames) == 15
    for position in range(frames[0], frames[-1], 997):
        with pytest.raises(CorruptAudioError, match="libsndfile fails inside"):
            decode(patched(data, position, bytes([data[position] ^ 4])), CONFIG)


def test_m4a_faults(by_pyav: Callable[[str], bytes]) -> None:
    data = by_pyav("m4a")
    with pytest.raises(TruncatedAudioError, match="MP4 box"):
        decode(data[: len(data) // 2], CONFIG)
    with pytest.raises(CorruptAudioError, match="PyAV fails inside"):
        decode(patched(data, len(data) // 3, bytes(400)), CONFIG)
    with pytest.raises(NotAudioError, match="no audio in the file"):
        decode(data[:36] + b"\0\0\0\x08moov", CONFIG)


def test_m4a_with_damaged_tables_is_corrupt(by_pyav: Callable[[str], bytes]) -> None:
    data = by_pyav("m4a")
    with pytest.raises(CorruptAudioError, match="20480 of the 45124 samples that the header states"):
        decode(patched(data, data.index(b"stsz") + 12, struct.pack(">I", 20)), CONFIG)
    with pytest.raises(CorruptAudioError, match="PyAV fails inside"):
        decode(patched(data, data.index(b"stsd") + 4, bytes(30)), CONFIG)
    with pytest.raises(EmptyAudioError, match="no samples"):
        decode(patched(data, data.index(b"stsz") + 12, bytes(4)), CONFIG)


def test_webm_with_a_hole_is_corrupt(by_pyav: Callable[[str], bytes]) -> None:
    data = by_pyav("webm")
    with pytest.raises(CorruptAudioError, match=r"of the 4\d+ samples that the header states"):
        decode(patched(data, len(data) // 2, bytes(2000)), CONFIG)


def test_another_longer_track_says_nothing_of_the_first(tmp_path: Path) -> None:
    import av

    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        tracks = [container.add_stream("pcm_s16le", rate=16000, layout="mono") for _ in range(2)]
        for track, seconds in zip(tracks, (1, 3), strict=True):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000 * seconds), dtype="<i2"), "s16", "mono")
            frame.sample_rate = 16000
            container.mux(track.encode(frame))
    assert decode(str(path), CONFIG).samples.shape == (16000,)


def test_limits_of_shape_hold_for_pyav(by_pyav: Callable[[str], bytes]) -> None:
    with pytest.raises(OverLimitError, match="44100 Hz"):
        decode(by_pyav("m4a"), AudioConfig(max_input_rate_hz=44099))


def test_metadata_in_another_encoding_does_not_matter(by_pyav: Callable[[str], bytes]) -> None:
    data = by_pyav("m4a")
    latin = patched(data, data.index(b"Lavf"), b"\xff\xfe\xfd\xfc")
    assert np.array_equal(decode(latin, CONFIG).samples, decode(data, CONFIG).samples)


def test_aac_without_a_container(tmp_path: Path) -> None:
    data = synth.write_av(tmp_path / "a.aac", synth.speechlike(2, 1.0), 16000).read_bytes()
    assert len(decode(data, CONFIG).samples) == 17 * 1024
    with pytest.raises(CorruptAudioError, match="PyAV fails inside"):
        decode(data[: len(data) // 2], CONFIG)
    other = synth.write_av(tmp_path / "b.aac", synth.speechlike(2, 1.0, 44100), 44100).read_bytes()
    with pytest.raises(CorruptAudioError, match=r"\(16000, 1\) at first, changes"):
        decode(data + other, CONFIG)


def test_a_codec_that_libsndfile_does_not_know_in_a_container_that_it_knows(tmp_path: Path) -> None:
    path = synth.write_av(tmp_path / "a.caf", synth.speechlike(2, 1.0), 16000, "alac")
    assert likeness(decode(str(path), CONFIG).samples, synth.speechlike(2, 1.0)) > 0.97


def test_mp3_that_becomes_stereo_is_not_silently_shorter() -> None:
    mono = synth.speechlike(1, 1.0)
    stereo = synth.encoded(np.stack([mono, mono], axis=1), 16000, "MP3")
    with pytest.raises(CorruptAudioError, match="frames inside are damaged"):
        decode(made("mp3") + stereo, CONFIG)


def test_without_pyav_the_message_says_how_to_install_it(
    by_pyav: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(NotAudioError, match=r"pip install 'ge2e-features\[av\]'"):
        decode(by_pyav("m4a"), CONFIG)
    assert len(decode(made("mp3"), CONFIG).samples) == 16000


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile 'secret.wav'\n", "#EXTM3U\n#EXTINF:1,\nsecret.wav\n"])
@pytest.mark.parametrize("name", ["list.m4a", "list.m3u8", "list.ffconcat"])
def test_a_playlist_opens_nothing(text: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    synth.write(tmp_path / "secret.wav", synth.tone(400, 0.5), 16000)
    Path(name).write_text(text)
    with pytest.raises(NotAudioError):
        decode(name, CONFIG)


# Files that may not be opened, and errors that are none of the recording's.


def test_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path / "none.wav", tmp_path / "file" / "none.wav", tmp_path / ("n" * 300), Path("nul\0.wav")):
        with pytest.raises(MissingAudioError) as found:
            decode(str(path), CONFIG)
        assert str(found.value).startswith(visible(str(path)))


class SystemCalls:
    """The module `os`, with some calls replaced for one module only."""

    def __init__(self, **calls: Any) -> None:
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return self._calls.get(name) or getattr(os, name)


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    opened: list[Any] = []
    monkeypatch.setattr(regular_files, "os", SystemCalls(open=lambda *args: opened.append(args)))
    for path in (tmp_path / "pipe.wav", tmp_path / "folder.wav", tmp_path / "loop.wav", "/dev/zero"):
        with pytest.raises(UnreadableAudioError):
            decode(str(path), CONFIG)
    assert opened == []


@pytest.mark.parametrize("method", ["stat", "open"])
def test_permission_denied(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = synth.write(tmp_path / "a.wav", synth.tone(400, 0.1), 16000)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(regular_files, "os", SystemCalls(**{method: refuse}))
    with pytest.raises(UnreadableAudioError, match="Permission denied"):
        decode(str(path), CONFIG)


@pytest.mark.parametrize("method", ["stat", "open"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_passing_errors_are_let_out(method: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = synth.write(tmp_path / "a.wav", synth.tone(400, 0.1), 16000)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(regular_files, "os", SystemCalls(**{method: fail}))
    with pytest.raises(OSError, match=os.strerror(number)) as found:
        decode(str(path), CONFIG)
    assert found.value.errno == number


def test_encoded_never_leads_to_before_its_start() -> None:
    stream = decoders.Encoded(io.BytesIO(made("wav")))
    assert [stream.seek(10), stream.seek(-4, io.SEEK_CUR), stream.seek(-4, io.SEEK_END)] == [10, 6, 32040]
    assert [stream.seek(-40000, io.SEEK_END), stream.tell()] == [0, 0]
    assert stream.read(4) == b"RIFF"


class Failing(io.BytesIO):
    """A disk that can be read up to a byte and then fails, every time or once only."""

    def __init__(self, data: bytes, good: int, once: bool) -> None:
        super().__init__(data)
        self.good, self.once = good, once

    def _check(self, length: int) -> None:
        if self.tell() + length > self.good:
            if self.once:
                self.good = 1 << 60
            raise OSError(errno.EIO, "Input/output error")

    def read(self, length: int | None = -1) -> bytes:
        self._check(length or 0)
        return super().read(length)

    def readinto(self, buffer: Any) -> int:
        self._check(min(len(buffer), len(self.getvalue()) - self.tell()))
        return super().readinto(buffer)


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "vorbis", "mov"])
def test_a_disk_that_fails_while_decoding_is_no_fault_of_the_recording(
    name: str, once: bool, by_pyav: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = by_pyav(name) if name in BY_PYAV else made(name)
    for good in (0, len(data) // 4, len(data) // 2, len(data) - 1):
        monkeypatch.setattr(audio, "_open", lambda _, data=data, good=good: Failing(data, good, once))
        with pytest.raises(OSError, match="Input/output error"):
            decode("a.wav", CONFIG)


# Limits: from the header where it tells, while decoding where it does not, and memory that stays bounded.


def test_limits_may_be_reached() -> None:
    config = AudioConfig(max_seconds=1.0, max_channels=2, max_input_rate_hz=16000)
    assert decode(synth.encoded(np.zeros((16000, 2)), 16000), config).samples.shape == (16000, 2)
    for data in (np.zeros((16001, 1)), np.zeros((16000, 3))):
        with pytest.raises(OverLimitError):
            decode(synth.encoded(data, 16000), config)


def peak_of(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(data: bytes, config: AudioConfig, error: type[DataError]) -> Callable[[], None]:
    def call() -> None:
        with pytest.raises(error):
            decode(data, config)

    return call


def test_header_decides_before_anything_is_decoded(
    by_pyav: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders._Forward, "read", lambda *_, **__: pytest.fail("decoded"))
    monkeypatch.setattr(decoders, "_values", lambda *_: (pytest.fail("decoded") for _ in "1"))
    config = AudioConfig(max_seconds=0.5)
    for name in ("wav", "flac", "vorbis", "opus", "mp3"):
        refused(made(name), config, OverLimitError)()
    for ending in BY_PYAV:
        refused(by_pyav(ending), config, OverLimitError)()


@pytest.mark.parametrize("name", ["flac", "m4a", "webm"])
def test_limit_holds_while_decoding(
    name: str, by_pyav: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "_BLOCK", 1600)
    monkeypatch.setattr(decoders, "_stated_seconds", lambda *_: 0.0)
    taken: list[int] = []
    gather = decoders._gather

    def counted(blocks: Any, *rest: Any) -> Any:
        return gather((taken.append(len(block)) or block for block in blocks), *rest)

    monkeypatch.setattr(decoders, "_gather", counted)
    data = streamed_flac() if name == "flac" else by_pyav(name)
    refused(data, AudioConfig(max_seconds=0.25), OverLimitError)()
    rate = 16000 if name == "flac" else BY_PYAV[name][1]
    assert 0.25 * rate < sum(taken) < 0.4 * rate


def test_memory_is_bounded_when_a_header_lies() -> None:
    block = 4 * decoders._BLOCK
    day = AudioConfig(max_seconds=86400, max_decoded_mib=65536)
    flac = patched(made("flac"), 22, struct.pack(">I", 16000 * 86000))
    assert peak_of(refused(flac, day, TruncatedAudioError)) < 1.1 * block
    assert peak_of(lambda: decode(streamed_flac(), day)) < 1.1 * block
    wav = patched(made("wav"), 40, b"\xff\xff\xff\xff")
    assert peak_of(lambda: decode(wav, day)) < 1 << 20
    assert peak_of(refused(patched(wav, 40, b"\0\0\0\x7f"), day, TruncatedAudioError)) < 1 << 20


def test_many_channels_at_a_high_rate_are_over_the_limit_of_memory() -> None:
    """Only seconds were limited: 94 kB of FLAC took 741 MiB."""
    loud = synth.encoded(np.full((48000, 8), 0.5), 48000, "FLAC")
    assert decode(loud, AudioConfig(max_decoded_mib=2)).samples.shape == (48000, 8)
    with pytest.raises(OverLimitError, match=r"1\.0 s or more of 8 channel\(s\) at 48000 Hz: .* max_decoded_mib=1;"):
        decode(loud, AudioConfig(max_decoded_mib=1))


def test_short_blocks_do_not_keep_long_ones_alive() -> None:
    samples = decode(streamed_flac(), CONFIG).samples
    assert samples.base is None or samples.base.nbytes == samples.nbytes


def test_a_large_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "hours.wav"
    length = 1_900_000_000
    header = riff(b"")[:40] + struct.pack("<I", length)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(44 + length)  # a hole: takes no room on the disk

    def call() -> None:
        with pytest.raises(OverLimitError, match="59375"):
            decode(str(path), CONFIG)

    assert peak_of(call) < 1 << 20


# One channel.


def test_mean_and_channels() -> None:
    samples = np.array([[1, 3, 5], [0, 0.5, -0.5]], dtype=np.float32)
    recording = Recording(samples, 16000)
    assert to_mono(recording, "mean").tolist() == [3.0, 0.0]
    for channel in range(3):
        found = to_mono(recording, channel)
        assert found.tolist() == samples[:, channel].tolist()
        assert found.flags.c_contiguous
        assert found.dtype == np.float32


def test_mean_of_many_channels() -> None:
    samples = np.random.default_rng(1).standard_normal((500, 16)).astype(np.float32)
    found = to_mono(Recording(samples, 16000), "mean")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, samples.astype(np.float64).mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("channel", ["mean", 0])
def test_mono_is_left_as_it_is(shape: tuple[int, ...], channel: str | int) -> None:
    samples = np.arange(4, dtype=np.float32).reshape(shape)
    found = to_mono(Recording(samples, 16000), channel)
    assert found.tolist() == [0, 1, 2, 3]
    assert np.shares_memory(found, samples)


@pytest.mark.parametrize("channel", [2, -1, "left", "1"])
def test_no_such_channel(channel: str | int) -> None:
    with pytest.raises(NoSuchChannelError, match=f"channel {channel!r}: expected 'mean' or a number from 0 to 1"):
        to_mono(Recording(np.zeros((3, 2), dtype=np.float32), 16000), channel)


# Rate.


def test_same_rate_returns_the_input() -> None:
    samples = synth.tone(300, 0.1)
    assert resample(samples, 16000, 16000) is samples


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_a_tone_stays_the_tone(rate: int) -> None:
    found = resample(synth.tone(1000, 2.0, rate), rate, 16000)
    expected = synth.tone(1000, 2.0)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected)[1600:-1600].max() < 1e-3


def test_what_the_new_rate_cannot_hold_is_gone() -> None:
    assert np.abs(resample(synth.tone(9000, 2.0, 44100), 44100, 16000))[1600:-1600].max() < 1e-3


@pytest.mark.parametrize(
    ("n", "rate", "expected"), [(22050, 22050, 16000), (1, 8000, 2), (3, 44100, 1), (1, 48000, 0), (1001, 48000, 334)]
)
def test_length_is_rounded(n: int, rate: int, expected: int) -> None:
    assert len(resample(np.zeros(n, dtype=np.float32), rate, 16000)) == expected


def test_resampling_twice_gives_the_same_bytes() -> None:
    samples = synth.speechlike(5, 1.0, 22050)
    assert resample(samples, 22050, 16000).tobytes() == resample(samples.copy(), 22050, 16000).tobytes()


def test_load_is_the_three_together() -> None:
    both = np.stack([synth.tone(500, 1.0, 48000), synth.tone(900, 1.0, 48000)], axis=1)
    data = synth.encoded(both, 48000, "WAV", "FLOAT")
    for channel, expected in (
        (0, synth.tone(500, 1.0)),
        (1, synth.tone(900, 1.0)),
        ("mean", (synth.tone(500, 1.0) + synth.tone(900, 1.0)) / 2),
    ):
        found = load(data, AudioConfig(channel=channel))
        assert found.shape == (16000,)
        assert np.abs(found - expected)[500:-500].max() < 1e-3
    assert np.array_equal(load(data, AudioConfig(channel=0), 1), load(data, AudioConfig(channel=1)))
    assert len(load(data, AudioConfig(sample_rate_hz=8000))) == 8000
    with pytest.raises(NoSuchChannelError, match=r"^x\.wav: channel 2"):
        load(data, CONFIG, 2, "x.wav")


# Segments.


def test_cut_takes_samples_by_seconds() -> None:
    samples = np.arange(16000, dtype=np.float32)
    found = cut(samples, 16000, 0.25, 0.5, "a.wav")
    assert (found[0], found[-1], len(found)) == (4000, 11999, 8000)
    assert np.shares_memory(found, samples)
    assert len(cut(samples, 16000, None, 0.5, "a.wav")) == 8000
    assert cut(samples, 16000, 0.75, None, "a.wav")[0] == 12000
    assert len(cut(samples, 16000, None, None, "a.wav")) == 16000


def test_segments_that_meet_share_and_lose_nothing() -> None:
    samples = np.arange(44100, dtype=np.float32)
    edges = [0.0, 0.1, 0.2, 0.30000000000000004, 0.7, 1.0]
    parts = [cut(samples, 44100, a, b - a, "a.wav") for a, b in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate(parts), samples)


@pytest.mark.parametrize(("offset", "duration", "length"), [(0.0, 1.05, 16000), (0.5, 0.55, 8000), (0.96, 0.09, 640)])
def test_up_to_50_ms_may_be_missing(offset: float, duration: float, length: int) -> None:
    samples = np.zeros(16000, dtype=np.float32)
    assert len(cut(samples, 16000, offset, duration, "a.wav")) == length
    with pytest.raises(TruncatedAudioError, match=r"^a.wav: the recording ends at 1.000 s, .* up to 1.050 s"):
        cut(samples, 16000, offset, duration + 1 / 16000, "a.wav")


@pytest.mark.parametrize(("offset", "duration"), [(1.0, None), (1.0, 0.01), (5.0, None), (5.0, 1.0)])
def test_a_segment_behind_the_end(offset: float, duration: float | None) -> None:
    with pytest.raises(TruncatedAudioError):
        cut(np.zeros(16000, dtype=np.float32), 16000, offset, duration, "a.wav")


def test_a_segment_of_no_sample() -> None:
    with pytest.raises(EmptyAudioError, match=r"^a\.wav: no sample"):
        cut(np.zeros(16000, dtype=np.float32), 16000, 0.5, 1e-6, "a.wav")


# Anything else: whatever happens to the bytes, it ends as a recording or as a named fault.

EDITS = st.tuples(
    st.sampled_from(["flip", "set", "cut", "remove", "insert", "zero", "number"]),
    st.one_of(st.floats(0, 1, exclude_max=True), st.integers(0, 100)),
    st.integers(0, 255),
)
NUMBERS = (bytes(4), b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff")


def edited(data: bytearray, edits: list[tuple[str, float, int]]) -> bytes:
    for kind, where, value in edits:
        at = int(where if where >= 1 else where * len(data))
        match kind:
            case "flip":
                data[at : at + 1] = bytes(byte ^ 1 << value % 8 for byte in data[at : at + 1])
            case "set":
                data[at : at + 1] = bytes([value])
            case "cut":
                del data[at:]
            case "remove":
                del data[at : at + value]
            case "insert":
                data[at:at] = bytes(range(value))
            case "zero":
                data[at : at + value] = bytes(value)
            case "number":
                data[at : at + 4] = NUMBERS[value % 4]
    return bytes(data)


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(name=st.sampled_from([*FORMATS, *BY_PYAV]), edits=st.lists(EDITS, min_size=1, max_size=4))
def test_any_damage_is_a_recording_or_a_named_fault(
    name: str, edits: list[tuple[str, float, int]], by_pyav: Callable[[str], bytes]
) -> None:
    data = by_pyav(name) if name in BY_PYAV else made(name, 0.5)
    try:
        samples = decode(edited(bytearray(data), edits), CONFIG).samples
    except DataError as error:
        assert error.stage == "decode"
        assert str(error).startswith("audio: ")
        return
    assert samples.dtype == np.float32
    assert samples.size
    assert np.isfinite(samples).all()


# The hash of the samples.


def test_the_hash_is_pinned() -> None:
    """XXH3 of 64 bits, seed 0, of nothing is published as 2d06800538d394c2; datasets outlive programs."""
    assert content_hash(np.zeros(0, np.float32)) == 0x2D06800538D394C2
    assert content_hash(np.zeros(16_000, np.float32)) == -2233016539543576837
    assert content_hash(np.arange(-300, 300, dtype=np.float32) / 32768) == 6453403567155079253


def test_the_hash_depends_on_values_and_not_on_their_layout() -> None:
    samples = synth.speechlike(1, 1.0)
    expected = content_hash(samples)
    assert content_hash(np.repeat(samples, 2)[::2]) == expected
    assert content_hash(samples.astype(">f4")) == expected
    changed = samples.copy()
    changed[7] = np.nextafter(changed[7], np.float32(1))
    others = [changed, samples[:-1], samples[1:], samples[::-1], np.append(samples, np.float32(0)), -samples]
    assert len({expected, *map(content_hash, others)}) == 7


@pytest.mark.parametrize("ending", ["flac", "aiff", "caf", "wav"])
def test_the_hash_is_of_the_samples_and_not_of_the_file(ending: str) -> None:
    samples = np.rint(synth.speechlike(2, 1.3, 44_100) * 32_768).astype(np.int16)
    wav = load(synth.encoded(samples, 44_100, "WAV", "PCM_16"), CONFIG)
    other = load(synth.encoded(samples, 44_100, ending.upper(), "PCM_16"), CONFIG)
    assert content_hash(other) == content_hash(wav)
    assert content_hash(load(synth.encoded(samples, 44_100, ending.upper(), "PCM_24"), CONFIG)) == content_hash(wav)
