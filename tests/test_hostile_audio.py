"""Files made to harm: each is a named fault, or a recording of bounded length, and takes bounded memory, also in C.

They are decoded in a child process, whose high-water mark the system counts.
"""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import synth

from ge2e_transforms import audio
from ge2e_transforms.config import AudioConfig
from ge2e_transforms.decoders import Encoded
from ge2e_transforms.errors import DataError, TruncatedAudioError
from ge2e_transforms.isolated import IsolatedDecoder, memory_limit

CONFIG = AudioConfig()
GB4 = 4_000_000_000
# MiB: of a block of samples, and of what is refused before anything is decoded.
BLOCK, NOTHING = 64, 4


class Watched:
    """A decoder in a child, and how much more memory the child takes at most for one recording."""

    def __init__(self, decoder: IsolatedDecoder) -> None:
        self._decoder = decoder
        self.load(synth.encoded(synth.tone(440, 0.1), 16000, "OGG", "VORBIS"))
        self.load(b"no audio, which loads PyAV")

    def load(self, data: bytes) -> tuple[str, float]:
        """Reason of the ledger, or the seconds of a recording, and MiB."""
        before = self._reset() if self._decoder._child else 0
        try:
            found = f"{len(self._decoder.load(data, CONFIG)) / CONFIG.sample_rate_hz:.1f} s"
        except DataError as error:
            assert error.stage == "decode"
            found = error.reason
        return found, (self._status("VmHWM") - before) / 1024

    def _reset(self) -> int:
        assert self._decoder._child is not None
        Path(f"/proc/{self._decoder._child.pid}/clear_refs").write_text("5")
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        assert self._decoder._child is not None
        lines = Path(f"/proc/{self._decoder._child.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with IsolatedDecoder() as decoder:
        yield Watched(decoder)


def patched(data: bytes, position: int, value: bytes) -> bytes:
    return data[:position] + value + data[position + len(value) :]


def crc(data: bytes, bits: int, polynomial: int) -> bytes:
    table = crc_table(bits, polynomial)
    value = 0
    for byte in data:
        value = (value << 8 & (1 << bits) - 1) ^ table[value >> (bits - 8) ^ byte]
    return value.to_bytes(bits // 8, "big")


@functools.cache
def crc_table(bits: int, polynomial: int) -> list[int]:
    table = []
    for value in range(256):
        value <<= bits - 8
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value >> (bits - 1) else 0)) & (1 << bits) - 1
        table.append(value)
    return table


@functools.cache
def silent_flac(hours: float) -> bytes:
    """16 kHz, 16 bit, frames of one constant: 14 bytes for 8,192 samples (RFC 9639)."""
    block, rate = 8192, 16000
    count = round(hours * 3600 * rate / block)
    frames = []
    for number in range(count):
        head = b"\xff\xf8\xd5\x08" + chr(number).encode("utf-8", "surrogatepass")
        head += crc(head, 8, 0x07)
        frame = head + b"\0\0\0"  # a constant subframe of value 0
        frames.append(frame + crc(frame, 16, 0x8005))
    samples = count * block
    packed = (rate << 44 | 0 << 41 | 15 << 36 | samples).to_bytes(8, "big")
    info = struct.pack(">HH", block, block) + bytes(6) + packed + bytes(16)
    return b"fLaC\x80\0\0\x22" + info + b"".join(frames)


def wav(channels: int = 1, rate: int = 16000, kind: int = 1, bits: int = 16, samples: bytes = bytes(32000)) -> bytes:
    width = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * width & 0xFFFFFFFF, width & 0xFFFF, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


@functools.cache
def made(format: str, subtype: str | None = None) -> bytes:
    return synth.encoded(synth.speechlike(1, 1.0), 16000, format, subtype)


def behind(data: bytes, mark: bytes, offset: int, value: bytes) -> bytes:
    """With other bytes, so many behind a mark."""
    return patched(data, data.index(mark) + offset, value)


def unstated(flac: bytes) -> bytes:
    return patched(flac, 21, bytes([flac[21] & 0xF0]) + bytes(4))


def flac_rate(rate: int) -> bytes:
    packed = int.from_bytes(made("FLAC")[18:26], "big") & (1 << 44) - 1 | rate << 44
    return patched(made("FLAC"), 18, packed.to_bytes(8, "big"))


def nist(field: str, value: int) -> bytes:
    head, samples = made("NIST")[:1024], made("NIST")[1024:]
    start = head.index(f"{field} -i ".encode()) + len(field) + 4
    text = head[:start] + str(value).encode() + head[head.index(b"\n", start) :]
    return text[:1024].ljust(1024, b"\0") + samples


def ogg(name: str, mark: bytes, offset: int, value: bytes) -> bytes:
    """With other bytes in the first page, and its checksum."""
    data = bytearray(behind(made("OGG", name), mark, offset, value))
    segments = 27 + data[26]
    data[22:26] = bytes(4)
    data[22:26] = crc(bytes(data[: segments + sum(data[27:segments])]), 32, 0x04C11DB7)[::-1]
    return bytes(data)


# What is decoded, what it must end as, and the most MiB that it may take.
CASES: dict[str, tuple[Callable[[], bytes], str, int]] = {
    "1 MB of FLAC that are 10 hours": (lambda: silent_flac(10), "over_limit", NOTHING),
    "10 hours that the header does not state": (lambda: unstated(silent_flac(10)), "over_limit", BLOCK + NOTHING),
    "10 hours, half of them there": (lambda: silent_flac(10)[:500_000], "over_limit", NOTHING),
    "wav of 4 GB": (lambda: patched(wav(), 40, struct.pack("<I", GB4)), "truncated", NOTHING),
    "wav of 1.9 GB": (lambda: patched(wav(), 40, struct.pack("<I", 1_900_000_000)), "truncated", NOTHING),
    "wav of 4 GB less a byte, as of a pipe": (lambda: patched(wav(), 40, b"\xff" * 4), "1.0 s", NOTHING),
    "rf64 of 4 GB": (lambda: patched(made("RF64"), 28, struct.pack("<Q", GB4)), "truncated", NOTHING),
    "rf64 of 2^64 bytes": (lambda: patched(made("RF64"), 28, b"\xff" * 8), "corrupt", NOTHING),
    "w64 of 4 GB": (lambda: behind(made("W64"), b"data\xf3", 16, struct.pack("<Q", GB4)), "truncated", NOTHING),
    "w64 with a chunk of 2^64 bytes": (lambda: behind(made("W64"), b"fmt ", 16, b"\xff" * 8), "truncated", NOTHING),
    "caf of 4 GB": (lambda: behind(made("CAF"), b"data", 4, struct.pack(">Q", GB4)), "truncated", NOTHING),
    "aiff of 4 GB": (lambda: behind(made("AIFF"), b"SSND", 4, struct.pack(">I", GB4)), "truncated", NOTHING),
    "au of 4 GB": (lambda: patched(made("AU"), 8, struct.pack(">I", GB4)), "truncated", NOTHING),
    "nist of 4 GB": (lambda: nist("sample_count", GB4 // 2), "truncated", NOTHING),
    "mp3 of 10 hours": (lambda: patched(made("MP3"), 21, struct.pack(">I", 1_000_000)), "truncated", NOTHING),
    "mp3 with a tag of 256 MB": (lambda: b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + made("MP3"), "truncated", NOTHING),
    "vorbis of 255 channels": (lambda: ogg("VORBIS", b"\x01vorbis", 11, b"\xff"), "over_limit", NOTHING),
    "opus of 255 channels": (lambda: ogg("OPUS", b"OpusHead", 9, b"\xff"), "corrupt", NOTHING),
    "wav of 255 channels": (lambda: wav(channels=255, samples=bytes(51000)), "over_limit", NOTHING),
    "wav of 65535 channels": (lambda: wav(channels=65535, samples=bytes(131070)), "corrupt", NOTHING),
    "wav of no channel": (lambda: wav(channels=0), "corrupt", NOTHING),
    "aiff of 255 channels": (lambda: behind(made("AIFF"), b"COMM", 8, b"\0\xff"), "over_limit", NOTHING),
    "au of 255 channels": (lambda: patched(made("AU"), 20, struct.pack(">I", 255)), "over_limit", NOTHING),
    "nist of 255 channels": (lambda: nist("channel_count", 255), "truncated", NOTHING),
    "wav at 0 Hz": (lambda: wav(rate=0), "corrupt", NOTHING),
    "wav at 1 Hz": (lambda: wav(rate=1), "over_limit", NOTHING),
    "wav at 1 Hz that is short enough": (lambda: wav(rate=1, samples=bytes(1180)), "590.0 s", 2 * BLOCK),
    "wav at 4 GHz": (lambda: wav(rate=GB4), "corrupt", NOTHING),
    "wav at 2 GHz": (lambda: wav(rate=2_000_000_000), "over_limit", NOTHING),
    "aiff at 0 Hz": (lambda: behind(made("AIFF"), b"COMM", 16, bytes(10)), "over_limit", NOTHING),
    "aiff at 4 GHz": (lambda: behind(made("AIFF"), b"COMM", 16, b"\x40\x1e\xee\x6b\x28"), "over_limit", NOTHING),
    "au at 0 Hz": (lambda: patched(made("AU"), 16, bytes(4)), "corrupt", NOTHING),
    "au at 4 GHz": (lambda: patched(made("AU"), 16, struct.pack(">I", GB4)), "corrupt", NOTHING),
    "nist at 0 Hz": (lambda: nist("sample_rate", 0), "corrupt", NOTHING),
    "nist at 4 GHz": (lambda: nist("sample_rate", GB4), "corrupt", NOTHING),
    "flac at 0 Hz": (lambda: flac_rate(0), "corrupt", NOTHING),
    "flac at 1 MHz": (lambda: flac_rate(0xFFFFF), "over_limit", NOTHING),
    "vorbis at 0 Hz": (lambda: ogg("VORBIS", b"\x01vorbis", 12, bytes(4)), "corrupt", NOTHING),
    "vorbis at 4 GHz": (lambda: ogg("VORBIS", b"\x01vorbis", 12, struct.pack("<I", GB4)), "corrupt", NOTHING),
}


@pytest.mark.parametrize("name", CASES)
def test_a_header_that_lies(name: str, watched: Watched) -> None:
    make, outcome, most = CASES[name]
    found, mib = watched.load(make())
    assert found == outcome
    assert mib <= most


def test_ten_hours_of_silence_are_a_megabyte() -> None:
    data = silent_flac(10)
    assert 900_000 < len(data) < 1_050_000
    samples = audio.load(silent_flac(0.1), CONFIG)
    assert not samples.any()
    assert abs(len(samples) - 360 * 16000) < 8192


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("format", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF"])
def test_floats_that_are_no_numbers(format: str, subtype: str, value: float, watched: Watched) -> None:
    data = synth.encoded(np.array([0, value, 0.5] * 1000), 16000, format, subtype)
    found, mib = watched.load(data)
    assert found == "non_finite"
    assert mib <= NOTHING


# Format and subtype, or the codec of PyAV; whether every damage is noticed, as all of it has checksums.
FORMATS = {
    "wav": ("WAV", "PCM_16", False),
    "rf64": ("RF64", "PCM_16", False),
    "w64": ("W64", "PCM_16", False),
    "caf": ("CAF", "PCM_16", False),
    "aiff": ("AIFF", "PCM_16", False),
    "au": ("AU", "PCM_16", False),
    "nist": ("NIST", "PCM_16", False),
    "flac": ("FLAC", "PCM_16", False),
    "vorbis": ("OGG", "VORBIS", True),
    "opus": ("OGG", "OPUS", True),
    "mp3": ("MP3", "MPEG_LAYER_III", False),
    "m4a": ("", "aac", False),
    "webm": ("", "libopus", False),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    folder = tmp_path_factory.mktemp("av")

    @functools.cache
    def make(name: str) -> bytes:
        format, codec, _ = FORMATS[name]
        if format:
            return made(format, codec)
        return synth.write_av(folder / f"a.{name}", synth.speechlike(2, 1.0, 48000), 48000, codec).read_bytes()

    return make


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_end_is_no_recording(name: str, whole: Callable[[str], bytes], watched: Watched) -> None:
    """A W64 was a shorter recording, and a CAF if little was missing."""
    data = whole(name)
    assert watched.load(data)[0] == "1.0 s"
    for part in (0.05, 0.3, 0.6, 0.99):
        found, mib = watched.load(data[: int(part * len(data))])
        assert found == "truncated", part
        assert mib <= NOTHING


@pytest.mark.parametrize("name", FORMATS)
def test_flipped_bits_are_a_fault_or_a_recording_no_longer_than_allowed(
    name: str, whole: Callable[[str], bytes], watched: Watched
) -> None:
    data, draw = whole(name), random.Random(name)
    # Headers, where a bit does most, and anywhere.
    places = [draw.randrange(min(len(data), 128)) for _ in range(16)] + [draw.randrange(len(data)) for _ in range(16)]
    for place in places:
        found, mib = watched.load(patched(data, place, bytes([data[place] ^ 1 << draw.randrange(8)])))
        if found.endswith(" s"):
            assert not FORMATS[name][2], place
            assert 0 < float(found[:-2]) <= CONFIG.max_seconds
        assert mib <= 3 * BLOCK


def test_a_long_file_whose_header_leads_to_where_no_file_ends_is_truncated(tmp_path: Path) -> None:
    """The system's refusal to go there was taken for a disk that fails: it ended the job after three tries."""
    path = tmp_path / "a.mkv"
    with path.open("wb") as file:
        file.write(b"\x1a\x45\xdf\xa3\x01" + b"\xfe" * 7)
        file.truncate(audio._WHOLE_FILE + 1)  # longer files are read piece by piece
    with pytest.raises(TruncatedAudioError):
        audio.decode(str(path), CONFIG)


def test_a_decoder_that_is_led_to_where_no_file_ends_finds_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav())
    with path.open("rb") as raw, Encoded(raw) as stream:
        for place in (1 << 60, 1 << 70):
            assert stream.seek(place) >= 1 << 60
            assert stream.read(10) == b""
        assert stream.seek(0) == 0
        assert stream.read(4) == b"RIFF"


@pytest.mark.parametrize("name", ["flac", "m4a"])
def test_the_childs_limit_of_memory_is_enough_for_what_the_recipe_allows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks, their sum, a channel and what is resampled from it, of a recording that is as large as it may be."""
    monkeypatch.setattr("ge2e_transforms.isolated.memory_limit", lambda *facts: memory_limit(*facts) - (350 << 20))
    samples = np.tile(synth.speechlike(1, 10.0, 48000), 2)
    stereo = np.stack([samples, samples], axis=1)
    if name == "flac":
        data = unstated(synth.encoded(stereo, 48000, "FLAC"))
    else:
        data = synth.write_av(tmp_path / "a.m4a", stereo, 48000).read_bytes()
    config = AudioConfig(max_decoded_mib=7.4, max_seconds=21)  # 7.3 MiB of 20 s
    with IsolatedDecoder() as decoder:
        assert decoder.load(data, config).tobytes() == audio.load(data, config).tobytes()
