"""Where libsndfile 1.2 (or SoundFile around it) goes wrong without a word, and what we give instead."""

from __future__ import annotations

import numpy as np
import pytest
import synth

from ge2e_transforms import containers
from ge2e_transforms.audio import decode
from ge2e_transforms.config import AudioConfig
from ge2e_transforms.errors import CorruptAudioError

CONFIG = AudioConfig()


def test_mp3_of_variable_bitrate_without_a_header_is_not_cut_by_an_estimate() -> None:
    """Takes the bitrate of the first frame for that of all: it returned 149,328 of 321,408 samples."""
    loud, quiet = synth.speechlike(1, 4.0), 1e-3 * synth.speechlike(2, 16.0)
    data = synth.encoded(np.concatenate([loud, quiet]), 16000, "MP3")
    frame = containers._mpeg_frame(data[:4])
    assert frame is not None
    assert data[frame.tag : frame.tag + 4] == b"Xing"
    found = decode(data[frame.length :], CONFIG).samples
    # The decoder's delay is no longer stated either, so up to two frames more come out.
    assert 0 <= len(found) - 20 * 16000 <= 2 * 576
    assert np.abs(found[: 4 * 16000]).max() > 100 * np.abs(found[5 * 16000 :]).max()


def test_constant_bitrate_behind_an_id3_tag_is_not_called_damaged() -> None:
    """Counts the tag as frames: it stated 324,700 samples where 321,408 can be decoded."""
    data = synth.encoded(synth.speechlike(1, 2.0), 16000, "MP3")
    frame = containers._mpeg_frame(data[:4])
    assert frame is not None
    bare = data[frame.length :]
    tagged = b"ID3\x04\0\0\0\0\x10\0" + bytes(2048) + bare
    assert np.array_equal(decode(tagged, CONFIG).samples, decode(bare, CONFIG).samples)


def test_ogg_pages_that_fail_their_checksum_are_not_left_out() -> None:
    """Returned 48,640 of 64,000 samples, the others spliced, for one changed bit."""
    data = bytearray(synth.encoded(synth.speechlike(1, 4.0), 16000, "OGG", "VORBIS"))
    data[len(data) // 2] ^= 1
    with pytest.raises(CorruptAudioError, match="fails its checksum"):
        decode(bytes(data), CONFIG)


def test_flac_of_unknown_length_can_be_read() -> None:
    """SoundFile seeks to where it is after each read, which fails at the end of such a file."""
    data = bytearray(synth.encoded(synth.speechlike(1, 1.0), 16000, "FLAC"))
    expected = decode(bytes(data), CONFIG).samples
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    assert np.array_equal(decode(bytes(data), CONFIG).samples, expected)


def test_mp3_does_not_depend_on_the_blocks_it_is_read_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seek makes an MP3 decoder start anew: samples behind each block differed in their last bits."""
    data = synth.encoded(synth.speechlike(1, 3.0), 16000, "MP3")
    expected = decode(data, CONFIG).samples
    monkeypatch.setattr("ge2e_transforms.decoders._BLOCK", 999)
    assert np.array_equal(decode(data, CONFIG).samples, expected)
