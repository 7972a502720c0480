"""Signals that are kept in the library: samples of codecs, and the digest of a recipe."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import cpus
import numpy as np
import pytest
from synth import encoded, tone, write, write_av

from ge2e_transforms import selftest
from ge2e_transforms.config import PRESETS, AudioConfig, Recipe
from ge2e_transforms.errors import CorruptAudioError, DataError, MissingAudioError, NotAudioError
from ge2e_transforms.utterance import Utterance

ROOT = Path(__file__).parent.parent
RATE = selftest.CODEC_RATE_HZ
ENCODERS = {
    "WAV": ("WAV", "PCM_16"),
    "FLAC": ("FLAC", "PCM_16"),
    "Vorbis": ("OGG", "VORBIS"),
    "Opus": ("OGG", "OPUS"),
    "MP3": ("MP3", None),
}


def test_every_codec_that_the_readme_names_is_tried() -> None:
    assert set(selftest.CODECS) == {"WAV", "FLAC", "Vorbis", "Opus", "MP3", "AAC"}


@pytest.mark.parametrize("codec", selftest.CODECS)
def test_kept_samples_decode(codec: str) -> None:
    assert len(selftest.decode_sample(codec)) == 16
    assert selftest.decode_sample(codec) == selftest.decode_sample(codec)


def test_lossless_samples_are_the_tone() -> None:
    digests = {codec: selftest.decode_sample(codec) for codec in selftest.CODECS}
    assert digests["WAV"] == digests["FLAC"]
    assert len(set(digests.values())) == 5


@pytest.mark.parametrize("codec", ENCODERS)
def test_what_is_encoded_anew_passes_the_same_check(codec: str) -> None:
    selftest.check_decoded(encoded(selftest.tone(), RATE, *ENCODERS[codec]), codec)


def test_aac_that_is_encoded_anew_passes_the_same_check(tmp_path: Path) -> None:
    samples = (selftest.tone() / 32768).astype(np.float32)
    selftest.check_decoded(write_av(tmp_path / "tone.m4a", samples, RATE).read_bytes(), "AAC")


@pytest.mark.parametrize("codec", ENCODERS)
def test_another_signal_or_rate_is_told(codec: str) -> None:
    with pytest.raises(CorruptAudioError, match=f"the sample of {codec} decodes to something else"):
        selftest.check_decoded(encoded(tone(330, 0.2), RATE, *ENCODERS[codec]), codec)
    with pytest.raises(CorruptAudioError, match="at 8000 Hz, expected 3200 at 16000 Hz"):
        selftest.check_decoded(encoded(selftest.tone()[::2], 8000, *ENCODERS[codec]), codec)
    with pytest.raises(DataError):
        selftest.check_decoded(b"no audio at all", codec)


def test_without_pyav_its_codec_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(NotAudioError, match=r"ge2e-features\[av\]"):
        selftest.decode_sample("AAC")
    selftest.decode_sample("MP3")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"features": "raw"},
        {"features": "mfcc"},
        {"segments": "windows"},
        {"voice": "mask", "dither": 1.0, "pre_emphasis": 0.97},
        {"channel": 3},
        {"sample_rate_hz": 8000},
        {"sample_rate_hz": 48000, "n_fft": 2048, "max_part_s": 1.2},
        {"sample_rate_hz": 1000, "n_fft": 32768, "center": False, "n_mels": 4, "crop_ms": 60000, "min_utterance_ms": 0},
    ],
)
def test_every_recipe_has_a_digest(fields: dict[str, object]) -> None:
    recipe = PRESETS["seed"].replace(**fields)
    digest = selftest.recipe_digest(recipe)
    assert digest == selftest.recipe_digest(recipe)
    assert len(digest) == 64


def test_the_digest_tells_recipes_apart() -> None:
    fields = ({}, {"n_mels": 41}, {"floor": 2e-6}, {"level_dbfs": -29.0}, {"top_db": 20.0}, {"remove_dc": False})
    assert len({selftest.recipe_digest(Recipe().replace(**each)) for each in fields}) == len(fields)


def test_the_signal_has_voice_and_pauses_and_is_exact() -> None:
    signal = selftest.speech(48000)
    np.testing.assert_array_equal(np.rint(signal * 32768), signal * 32768)
    assert 0.2 < np.abs(signal).max() < 1
    assert np.abs(signal.reshape(-1, 8000)[:, 6000:]).max() <= 32 / 32768


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="the same bytes are promised for x86-64"
)
def test_the_digest_does_not_depend_on_the_cpu() -> None:
    program = "from ge2e_transforms import PRESETS, selftest; print(selftest.recipe_digest(PRESETS['ge2e']))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | cpus.settings()[0],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == selftest.recipe_digest(PRESETS["ge2e"])


def test_the_speed_of_checksums_is_measured() -> None:
    assert selftest.crc_speed() > 0


def test_a_row_of_a_manifest_is_decoded_and_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(200, 2.0, 8000), 8000)
    row = Utterance(str(path), "s", "n", "u", "n")
    whole = selftest.decode_row(row, AudioConfig(), str)
    assert (whole.location, whole.seconds, len(whole.digest)) == (str(path), 2.0, 16)
    part = selftest.decode_row(row._replace(offset_s=0.5, duration_s=0.25), AudioConfig(), str)
    assert part.seconds == 0.25
    assert part.digest != whole.digest
    with pytest.raises(MissingAudioError):
        selftest.decode_row(row._replace(audio_path="/gone.wav"), AudioConfig(), str)
