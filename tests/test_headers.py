"""headers: what is stated is what decoding gives, in every format; faults by name; many at once, in order."""

from __future__ import annotations

import errno
import io
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
import synth

from ge2e_transforms import audio, decoders
from ge2e_transforms.config import AudioConfig
from ge2e_transforms.errors import (
    CorruptAudioError,
    DataError,
    DiskError,
    EmptyAudioError,
    MissingAudioError,
    NotAudioError,
    OverLimitError,
    TruncatedAudioError,
    UnreadableAudioError,
)
from ge2e_transforms.headers import Header, read_header, read_headers

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_24"),
    "au": ("AU", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
}
SPEECH = synth.speechlike(1, 1.3)


def made(name: str) -> bytes:
    return synth.encoded(SPEECH, 16000, *FORMATS[name])


def written(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return str(folder / name)


@pytest.mark.parametrize("name", FORMATS)
def test_the_header_states_what_decoding_gives(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, f"a.{name}", made(name))
    decoded = audio.decode(path, AudioConfig())
    header = read_header(path)
    assert (header.rate_hz, header.channels) == (decoded.rate_hz, 1)
    assert header.seconds == len(decoded.samples) / decoded.rate_hz
    assert header.format == " ".join(FORMATS[name])


def test_a_wave_file_is_pinned(tmp_path: Path) -> None:
    stereo = SPEECH[:16000].reshape(-1, 2)
    path = written(tmp_path, "a.wav", synth.encoded(stereo, 8000, "WAV", "PCM_24"))
    assert read_header(path) == Header(1.0, 8000, 2, "WAV PCM_24")


@pytest.mark.parametrize(("ending", "codec", "rate"), [("m4a", "aac", 44100), ("webm", "libopus", 48000)])
def test_what_pyav_knows(tmp_path: Path, ending: str, codec: str, rate: int) -> None:
    path = str(synth.write_av(tmp_path / f"a.{ending}", SPEECH, 16000, codec))
    decoded = audio.decode(path, AudioConfig())
    header = read_header(path)
    assert header.rate_hz == decoded.rate_hz
    assert header.seconds == pytest.approx(len(decoded.samples) / decoded.rate_hz, abs=0.1)
    assert header.format == {"m4a": "MP4 AAC", "webm": "MATROSKA OPUS"}[ending]


def test_aac_without_a_container_is_counted(tmp_path: Path) -> None:
    path = str(synth.write_av(tmp_path / "a.aac", SPEECH, 16000))
    assert read_header(path).seconds == len(audio.decode(path, AudioConfig()).samples) / 16000
    with pytest.raises(OverLimitError, match=r"a\.aac: .*expected at most max_seconds=1 "):
        read_header(path, AudioConfig(max_seconds=1.0))


def without_length(flac: bytes) -> bytes:
    """A FLAC as an encoder leaves it that writes to a pipe: the number of samples is 0."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


def test_flac_without_a_length_is_counted(tmp_path: Path) -> None:
    path = written(tmp_path, "a.flac", without_length(made("flac")))
    assert read_header(path).seconds == 1.3
    with pytest.raises(OverLimitError, match="expected at most max_seconds=1 "):
        read_header(path, AudioConfig(max_seconds=1.0))


def test_a_long_recording_is_stated_whatever_the_limit(tmp_path: Path) -> None:
    path = written(tmp_path, "a.flac", made("flac"))
    assert read_header(path, AudioConfig(max_seconds=1.0)).seconds == 1.3


def test_only_the_start_is_read(tmp_path: Path) -> None:
    """The samples of a file are not looked at: damage inside shows when it is decoded."""
    flac = bytearray(made("flac"))
    flac[len(flac) // 2 :] = bytes(len(flac) - len(flac) // 2)
    assert read_header(written(tmp_path, "a.flac", bytes(flac))).seconds == 1.3


def flac_that_states(samples: int) -> bytes:
    flac = made("flac")
    return flac[:21] + bytes([flac[21] & 0xF0 | samples >> 32]) + struct.pack(">I", samples & 0xFFFFFFFF) + flac[26:]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", EmptyAudioError, "no bytes"),
        (b"not audio at all, but text", NotAudioError, "knows the format"),
        (synth.encoded(SPEECH[:0], 16000), EmptyAudioError, "no samples"),
        (synth.encoded(SPEECH, 16000)[:-100], TruncatedAudioError, "its end is missing"),
        (synth.encoded(SPEECH, 16000, "OGG", "VORBIS")[:-100], TruncatedAudioError, "the Ogg page"),
        (flac_that_states(1 << 35), CorruptAudioError, "states 2147483.6 s at 16000 Hz, which"),
        (made("wav")[:24] + struct.pack("<I", 4_000_000) + made("wav")[28:], OverLimitError, "rate of 4000000 Hz"),
        (made("wav")[:22] + struct.pack("<H", 900) + made("wav")[24:], OverLimitError, "900 channels"),
    ],
)
def test_faults_by_name(tmp_path: Path, content: bytes, error: type[DataError], message: str) -> None:
    path = written(tmp_path, "a", content)
    with pytest.raises(error, match=message) as caught:
        read_header(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableAudioError, match="a pipe, expected a regular file"):
        read_header(str(tmp_path / "pipe"))
    with pytest.raises(UnreadableAudioError):
        read_header(str(tmp_path))
    with pytest.raises(MissingAudioError, match="no such file"):
        read_header(str(tmp_path / "no.wav"))
    with pytest.raises(MissingAudioError, match="no file can have this name"):
        read_header("a\0b.wav")


def test_hostile_bytes_end_in_a_named_error(tmp_path: Path) -> None:
    """Every header, cut anywhere or with any byte turned round, gives numbers or a DataError."""
    for name in FORMATS:
        content = made(name)[:4000]
        for place in range(0, 80, 3):
            turned = content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
            for bad in (content[:place], turned):
                (found,) = read_headers(["x"], 1, open_header=opener({"x": bad}))
                assert isinstance(found, DataError) or 0 < found.seconds < 1e7


def opener(contents: dict[str, bytes]):  # type: ignore[no-untyped-def]
    @contextmanager
    def open_header(location: str) -> Iterator[BinaryIO]:
        yield io.BytesIO(contents[location])

    return open_header


def test_many_in_order_with_faults_in_their_place(tmp_path: Path) -> None:
    paths = []
    for number in range(1, 60):
        samples = SPEECH[: 160 * number] if number % 7 else SPEECH[:0]
        paths.append(written(tmp_path, f"{number}.wav", synth.encoded(samples, 16000)))
    found = list(read_headers([*paths, str(tmp_path / "no.wav")], threads=3))
    assert len(found) == 60
    for number, header in enumerate(found[:-1], 1):
        if number % 7:
            assert header == Header(number / 100, 16000, 1, "WAV PCM_16")
        else:
            assert isinstance(header, EmptyAudioError)
    assert isinstance(found[-1], MissingAudioError)


def test_they_are_read_at_once() -> None:
    """Four threads: each waits until all four have come."""
    together = threading.Barrier(4, timeout=30)

    @contextmanager
    def open_header(location: str) -> Iterator[BinaryIO]:
        together.wait()
        yield io.BytesIO(made("wav"))

    assert len(list(read_headers("abcdefgh", 4, open_header=open_header))) == 8


def test_only_some_are_read_ahead() -> None:
    asked: list[str] = []

    @contextmanager
    def open_header(location: str) -> Iterator[BinaryIO]:
        asked.append(location)
        yield io.BytesIO(made("wav"))

    headers = read_headers(map(str, range(10_000)), 2, open_header=open_header)
    next(headers)
    headers.close()  # type: ignore[attr-defined]
    assert 1 <= len(asked) <= 40


def test_a_disk_that_fails_is_no_fault_of_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(stream: BinaryIO, size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(decoders.containers, "inspect", fail)
    with pytest.raises(DiskError, match=r"a\.wav cannot be read \(Input/output error\): check the disk"):
        list(read_headers([written(tmp_path, "a.wav", made("wav"))]))


def test_real_speech(librispeech: Path) -> None:
    paths = sorted(map(str, librispeech.glob("test-other/*/*/*.flac")))
    headers = list(read_headers(paths))
    assert len(headers) == 60
    for path, header in list(zip(paths, headers, strict=True))[::10]:
        assert isinstance(header, Header)
        assert header.seconds == len(audio.decode(path, AudioConfig()).samples) / 16000
