"""containers: what is recognised, what counts as complete, and what is repaired, on made and damaged files."""

from __future__ import annotations

import functools
import io
import struct
from pathlib import Path

import pytest
import synth

from ge2e_transforms import containers
from ge2e_transforms.containers import Container, inspect, sniff
from ge2e_transforms.errors import CorruptAudioError, TruncatedAudioError

# Format and subtype for libsndfile, and the kind that must be found.
WRITTEN = {
    "wav": ("WAV", "PCM_16", "wav"),
    "wavex": ("WAVEX", "PCM_24", "wav"),
    "rf64": ("RF64", "PCM_16", "wav"),
    "w64": ("W64", "PCM_16", "w64"),
    "caf": ("CAF", "PCM_16", "caf"),
    "aiff": ("AIFF", "PCM_16", "aiff"),
    "au": ("AU", "PCM_16", "au"),
    "nist": ("NIST", "PCM_16", "nist"),
    "flac": ("FLAC", "PCM_16", "flac"),
    "vorbis": ("OGG", "VORBIS", "ogg"),
    "opus": ("OGG", "OPUS", "ogg"),
    "mp3": ("MP3", "MPEG_LAYER_III", "mp3"),
}
# Those whose length is looked at here; libsndfile itself notices that a FLAC is cut.
CHECKED = [name for name in WRITTEN if name != "flac"]


@functools.cache
def made(name: str, seconds: float = 1.0) -> bytes:
    return synth.encoded(synth.speechlike(1, seconds), 16000, *WRITTEN[name][:2])


@functools.cache
def made_av(ending: str, codec: str, folder: Path) -> bytes:
    return synth.write_av(folder / f"a.{ending}", synth.speechlike(1, 1.0, 48000), 48000, codec).read_bytes()


@pytest.fixture(scope="module")
def av_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("av")


def look(data: bytes) -> Container:
    return inspect(io.BytesIO(data), len(data))


def patched(data: bytes, position: int, value: bytes) -> bytes:
    return data[:position] + value + data[position + len(value) :]


@pytest.mark.parametrize("name", WRITTEN)
def test_complete_files_are_named_and_left_as_they_are(name: str) -> None:
    assert look(made(name)) == Container(WRITTEN[name][2])


@pytest.mark.parametrize(("ending", "codec", "kind"), [("m4a", "aac", "mp4"), ("webm", "libopus", "matroska")])
def test_containers_of_pyav(ending: str, codec: str, kind: str, av_folder: Path) -> None:
    data = made_av(ending, codec, av_folder)
    assert look(data) == Container(kind)
    for cut in (60, len(data) // 2, len(data) - 1):
        with pytest.raises(TruncatedAudioError):
            look(data[:cut])


@pytest.mark.parametrize(
    "head", [b"", b"RIFF", b"RIFF\0\0\0\0AVI ", b"hello, world", b"\xff\xf1\x50\x80", b"\xff\xff\xff\xff", b"\0" * 16]
)
def test_what_is_no_known_container(head: bytes) -> None:
    assert sniff(head) == ""


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize("missing", [1, 2, 100, 0.5, 0.9])
def test_a_missing_end_is_noticed(name: str, missing: float) -> None:
    data = made(name)
    with pytest.raises(TruncatedAudioError):
        look(data[: len(data) - int(missing if missing >= 1 else missing * len(data))])


def test_messages_say_what_is_needed_and_what_is_there() -> None:
    data = made("wav")
    with pytest.raises(TruncatedAudioError, match="byte 36 needs 32044 bytes, the file has 20000: its end is missing"):
        look(data[:20000])


@pytest.mark.parametrize("size", [0x7FFF0000, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_wav_of_unknown_size_is_complete(size: int) -> None:
    assert look(patched(made("wav"), 40, struct.pack("<I", size))) == Container("wav")


@pytest.mark.parametrize("size", [0x7FFEFFFF, 0x80000001, 4_000_000_000, 0xFFFEFFFF])
def test_wav_beside_the_unknown_sizes_is_truncated(size: int) -> None:
    """All from 0x7fff0000 on counted as unknown, so the start of a recording of 2 to 4 GB was taken for a whole one."""
    with pytest.raises(TruncatedAudioError):
        look(patched(made("wav"), 40, struct.pack("<I", size)))


@pytest.mark.parametrize(("name", "mark", "offset"), [("w64", b"data\xf3", 16), ("caf", b"data", 4)])
def test_long_chunks_of_unknown_size_are_complete(name: str, mark: bytes, offset: int) -> None:
    data = made(name)
    assert look(patched(data, data.index(mark) + offset, b"\xff" * 8)[:-500]) == Container(name)


def test_wav_of_size_0_with_samples_is_given_a_size() -> None:
    data = patched(made("wav"), 40, bytes(4))
    assert look(data) == Container("wav", data[:40] + b"\xff\xff\xff\xff", 44)


@pytest.mark.parametrize("behind", [b"", b"LIST\4\0\0\0abcd"])
def test_wav_of_size_0_without_samples_is_left_as_it_is(behind: bytes) -> None:
    assert look(made("wav")[:40] + bytes(4) + behind) == Container("wav")


@pytest.mark.parametrize("behind", [b"\0", b"x", b"LIST\4\0\0\0abcd", b"LIST\xff\xff\0\0abcd"])
def test_what_stands_behind_the_samples_does_not_matter(behind: bytes) -> None:
    assert look(made("wav") + behind) == Container("wav")


def test_chunks_of_odd_length_are_padded() -> None:
    data = made("wav")
    extra = b"note" + struct.pack("<I", 3) + b"abc\0"
    assert look(data[:36] + extra + data[36:]) == Container("wav")
    with pytest.raises(TruncatedAudioError, match="byte 48 "):
        look((data[:36] + extra + data[36:])[:-1])


def test_wav_without_samples_chunk_is_left_to_the_decoder() -> None:
    assert look(b"RIFF\x04\0\0\0WAVE") == Container("wav")


def test_rf64_takes_its_size_from_the_long_field() -> None:
    data = made("rf64")
    assert data[12:16] == b"ds64"
    assert struct.unpack("<Q", data[28:36]) == (32000,)
    assert look(patched(data, 28, struct.pack("<Q", 31999))) == Container("wav")
    with pytest.raises(TruncatedAudioError):
        look(patched(data, 28, struct.pack("<Q", 32001)))


def test_nist_with_compressed_samples_is_not_measured() -> None:
    header = b"NIST_1A\n   1024\nsample_count -i 90000\nsample_n_bytes -i 2\nchannel_count -i 1\n"
    coded = header + b"sample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"
    assert look(coded.ljust(2000)) == Container("nist")
    with pytest.raises(TruncatedAudioError):
        look((header + b"sample_coding -s3 pcm\nend_head\n").ljust(2000))


def pages(data: bytes) -> list[bytes]:
    starts = [at for at in range(len(data)) if data.startswith(b"OggS", at)]
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def test_ogg_checksum_is_that_of_rfc_3533() -> None:
    page = pages(made("opus"))[0]
    bits = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        bits ^= byte << 24
        for _ in range(8):
            bits = bits << 1 ^ (0x104C11DB7 if bits >> 31 else 0)
    assert bits == int.from_bytes(page[22:26], "little") == containers._ogg_checksum(page)


def test_ogg_damage_is_noticed_anywhere() -> None:
    data = made("opus")
    for position in range(4, len(data), 97):
        with pytest.raises((CorruptAudioError, TruncatedAudioError)):
            look(patched(data, position, bytes([data[position] ^ 0x10])))


def test_ogg_without_one_of_its_pages() -> None:
    parts = pages(made("opus", 4.0))
    assert len(parts) >= 5
    with pytest.raises(CorruptAudioError, match=r"page 3 is missing"):
        look(b"".join(parts[:3] + parts[4:]))
    with pytest.raises(TruncatedAudioError, match="no Ogg page is marked as the last"):
        look(b"".join(parts[:-1]))


def test_ogg_may_be_followed_by_something_else() -> None:
    assert look(made("opus") + b"TAG" + bytes(125)) == Container("ogg")
    with pytest.raises(CorruptAudioError, match="no Ogg page where one should be"):
        parts = pages(made("opus", 4.0))
        look(b"".join([*parts[:2], b"junk", *parts[2:]]))


def test_mp4_without_its_index(av_folder: Path) -> None:
    data = made_av("m4a", "aac", av_folder)
    at = data.index(b"moov")
    with pytest.raises(TruncatedAudioError, match="no 'moov' box"):
        look(data[: at - 4])
    with pytest.raises(TruncatedAudioError, match="no 'moov' box"):
        look(patched(data, at, b"free"))


def test_mp4_boxes_of_long_and_open_length() -> None:
    long_box = struct.pack(">I4sQ", 1, b"mdat", 116) + bytes(100)
    start, index = b"\0\0\0\x10ftypM4A \0\0\0\0", b"\0\0\0\x08moov"
    assert look(start + long_box + index) == Container("mp4")
    assert look(start + index + b"\0\0\0\0mdat" + bytes(50)) == Container("mp4")
    with pytest.raises(TruncatedAudioError, match="byte 24 needs 140 bytes, the file has 139"):
        look((start + index + long_box)[:-1])


def test_matroska_of_unknown_length_is_complete(av_folder: Path) -> None:
    data = made_av("webm", "libopus", av_folder)
    at = data.index(b"\x18\x53\x80\x67") + 4
    assert data[at] == 1  # a length of eight bytes
    assert look(patched(data, at, b"\x01" + b"\xff" * 7)[:-500]) == Container("matroska")


def first_frame(data: bytes) -> int:
    frame = containers._mpeg_frame(data[:4])
    assert frame is not None
    return frame.length


@pytest.mark.parametrize(
    ("header", "length"),
    [  # rate, kbit/s and padding by hand from ISO 11172-3 and 13818-3
        ("fffb9064", 417),  # MPEG 1, 44.1 kHz, 128
        ("fffb9264", 418),  # the same, padded
        ("fffbe464", 960),  # 48 kHz, 320
        ("fff388c4", 288),  # MPEG 2, 16 kHz, 64
        ("ffe348c4", 288),  # MPEG 2.5, 8 kHz, 32
    ],
)
def test_length_of_mpeg_frames(header: str, length: int) -> None:
    assert first_frame(bytes.fromhex(header)) == length


@pytest.mark.parametrize("header", ["fff19064", "fffd9064", "fffb0064", "fffbf064", "fffb9c64", "ffea9064"])
def test_what_is_no_mpeg_layer_iii_frame(header: str) -> None:
    assert containers._mpeg_frame(bytes.fromhex(header)) is None


def test_mp3_without_a_stated_length_is_told_it() -> None:
    data = made("mp3")
    frames = struct.unpack(">I", data[21:25])[0]
    assert data[13:17] in (b"Xing", b"Info")
    bare = data[first_frame(data) :]
    found = look(bare)
    assert (found.kind, found.skip) == ("mp3", 0)
    assert found.head[13:25] == b"Info" + struct.pack(">II", 1, frames)
    assert len(found.head) == first_frame(found.head)


@pytest.mark.parametrize("behind", [b"TAG" + bytes(125), b"APETAGEX" + bytes(200)])
def test_mp3_may_be_followed_by_tags(behind: bytes) -> None:
    assert look(made("mp3") + behind) == Container("mp3")


def test_mp3_behind_an_id3_tag() -> None:
    tag = b"ID3\x04\0\0\0\0\x01\x02" + bytes(130)
    assert look(tag + made("mp3")) == Container("mp3")
    assert look(tag + made("flac")) == Container("flac")
    with pytest.raises(TruncatedAudioError, match="the ID3 tag needs 140 bytes"):
        look(tag[:100])
    with pytest.raises(TruncatedAudioError, match="MP3 frame"):
        look(tag + made("mp3")[:-1])


@pytest.mark.parametrize("between", [b"", b"ID3\x04\0\0\0\0\0\x05" + bytes(5)])
def test_mp3_files_put_together_are_told_their_whole_length(between: bytes) -> None:
    data = made("mp3")
    frames = struct.unpack(">I", data[21:25])[0]
    found = look(data + between + data)
    assert found.skip == first_frame(data)
    assert found.head[17:25] == struct.pack(">II", 1, 2 * frames + 1)  # the second tag is a frame too


def test_mp3_with_whole_frames_missing_or_damaged() -> None:
    data = made("mp3")
    starts = [0]
    while starts[-1] < len(data):
        starts.append(starts[-1] + first_frame(data[starts[-1] :]))
    with pytest.raises(TruncatedAudioError, match="the header says"):
        look(data[: starts[-4]])
    middle = starts[len(starts) // 2]
    with pytest.raises(CorruptAudioError, match=f"stop at byte {middle} and go on at byte {middle + 7}"):
        look(data[:middle] + b"damaged" + data[middle:])


def test_many_chunks_end_the_search() -> None:
    chunks = b"RIFF\xff\xff\xff\x7fWAVE" + b"abcd\0\0\0\0" * (containers._MAX_CHUNKS + 1)
    with pytest.raises(TruncatedAudioError, match="the header"):
        look(chunks)
