"""Presets and the real things: within the bounds of `benchmarks/presets.py`, and what docs/presets.md says of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import synth
from programs import FOLDER, load

from ge2e_transforms import filterbank
from ge2e_transforms.config import PRESETS
from ge2e_transforms.errors import EmptyAudioError
from ge2e_transforms.extractor import FeatureExtractor
from ge2e_transforms.features import FeatureKernel
from ge2e_transforms.reading import silence

KALDI, RTVC = PRESETS["kaldi"], PRESETS["rtvc"]
PAGE = FOLDER.parent / "docs" / "presets.md"
FOUND: dict[str, Any] = json.loads((FOLDER / "results" / "presets.json").read_text())["presets"]


@pytest.fixture(scope="module")
def program() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        return load("presets")


@pytest.mark.parametrize("name", PRESETS)
def test_speech_is_within_the_bound(name: str, program: ModuleType, librispeech: Path) -> None:
    paths = [str(path) for path in sorted(librispeech.rglob("*.flac"))[::100]]
    assert len(paths) == 4
    found = program.difference(program.PRESETS[name], paths)
    assert found["values"] > 10_000
    assert found["largest_difference"] <= program.PRESETS[name].bound
    assert found["all_but_one_in_10000"] <= program.PRESETS[name].usual


@pytest.mark.filterwarnings("ignore:n_fft=", "ignore::DeprecationWarning")  # librosa, of a short signal and at import
@pytest.mark.parametrize("name", PRESETS)
def test_signals_that_are_hard_to_agree_on_are_within_it_too(name: str, program: ModuleType, tmp_path: Path) -> None:
    for case, samples in program.hard_signals().items():
        soundfile.write(tmp_path / "case.wav", samples, 16000, subtype="FLOAT")
        found = program.difference(program.PRESETS[name], [str(tmp_path / "case.wav")])
        assert found["largest_difference"] <= program.PRESETS[name].limit(case), case


def test_the_page_has_the_figures_of_the_result(program: ModuleType) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert program.shown(FOUND) in text
    assert program.bounds() in text
    assert f"its largest value here is {FOUND['rtvc']['cases']['speech']['largest_value']:.0f}." in text
    assert set(FOUND) == set(program.PRESETS)
    assert all(goal.met for name, row in FOUND.items() for goal in program._goals(name, row))


def test_the_page_speaks_of_all_presets() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"## {name}\n" in text for name in PRESETS)


# Kaldi's frames, whatever FFT and window.


def plain_kaldi(samples: Any, recipe: Any) -> Any:
    """Mel power in float64, by definition."""
    config, length = recipe.feature, recipe.window_samples
    count = max(0, 1 + (len(samples) - length) // recipe.hop_samples)
    frames = np.stack([samples[n * recipe.hop_samples :][:length] for n in range(count)]).astype(np.float64) * 32768
    if config.frame_dc:
        frames -= frames.mean(axis=1, keepdims=True)
    if config.pre_emphasis_in == "frame":
        frames = frames - config.pre_emphasis * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames *= filterbank.window(config.window, length, config.window_form)
    filters = filterbank.mel_filters(
        16000, config.n_fft, config.n_mels, config.f_min_hz, recipe.f_max_hz, scale=config.mel_scale, norm="none"
    )
    return np.abs(np.fft.rfft(frames, config.n_fft)) ** 2 @ filters.T.astype(np.float64)


CHANGES: list[dict[str, Any]] = [
    {},
    {"frame_dc": False},
    {"pre_emphasis": 0},
    {"frame_dc": False, "pre_emphasis": 0},
    {"window_ms": 24.9375},  # an odd number of samples
    {"window_ms": 24.9375, "frame_dc": False, "pre_emphasis": 0},
    {"n_fft": 1024, "window_ms": 24.9375},
    {"n_fft": 400},
    {"n_fft": 400, "frame_dc": False, "pre_emphasis": 0},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("length", [400, 401, 560, 16000])
def test_frames_of_whole_windows_are_those_of_the_definition(changes: dict[str, Any], length: int) -> None:
    recipe = KALDI.replace(log="none", n_mels=20, **changes)
    samples = synth.speechlike(5, 1.0)[-length:] + np.float32(0.01)
    # Lies before what must not be read.
    around = np.concatenate([samples, np.full(8, np.nan, dtype=np.float32)])
    found, expected = FeatureKernel(recipe)(around[:length]), plain_kaldi(samples, recipe)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * expected.max()


def test_a_crop_of_a_recording_has_the_frames_that_the_whole_has() -> None:
    samples = synth.speechlike(6, 2.0)
    whole = FeatureKernel(KALDI)(samples)
    part = FeatureKernel(KALDI)(samples[160 * 17 : 160 * 17 + 400 + 160 * 49])
    assert np.array_equal(part, whole[17:67])


def test_kaldis_windows_and_masks_count_by_the_window() -> None:
    samples = synth.tone(300, 4.1)
    windows = FeatureExtractor(KALDI.replace(segments="windows")).extract(samples).segments
    assert [(window.values.shape, window.start) for window in windows] == [((200, 80), 0), ((200, 80), 32240)]
    with pytest.raises(EmptyAudioError, match="399 samples hold no frame"):
        FeatureExtractor(KALDI).extract(samples[:399], keep_all=True)
    # 0.5 s of silence, 1 s of tone, 0.5 s of silence: frames whose middle, 200 samples on, is voiced.
    gap = np.zeros(8192, dtype=np.float32)
    spoken = np.concatenate([gap, samples[:16384], gap])
    (segment,) = FeatureExtractor(KALDI.replace(voice="mask")).extract(spoken).segments
    first, end = segment.start, segment.start + segment.samples
    middles = 160 * np.arange(1 + (len(spoken) - 400) // 160) + 200
    inside = (middles >= first) & (middles < end)
    assert np.array_equal(segment.values, FeatureKernel(KALDI)(spoken)[inside])
    assert 7000 < first < 8192 and 24576 < end < 26000


def test_dither_is_added_before_a_frame_is_conditioned() -> None:
    samples = synth.speechlike(7, 1.0)
    plain, noisy = (
        FeatureExtractor(KALDI.replace(dither=dither)).extract(samples, utterance_id="u").segments[0].values
        for dither in (0, 1)
    )
    assert plain.shape == noisy.shape
    assert not np.array_equal(plain, noisy)


# Level.


def test_rtvc_raises_quiet_speech_and_leaves_loud_speech() -> None:
    recipe = RTVC.replace(voice="none")
    samples = synth.speechlike(8, 2.0)
    loudness = 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))

    def gain(factor: float) -> float:
        return FeatureExtractor(recipe).extract(samples * np.float32(factor)).gain_db

    assert -30 < loudness < -10
    assert gain(1) == 0
    assert abs(gain(2.0**-5) - (-30 - loudness + 20 * np.log10(2**5))) < 1e-3


# What is stored for silence.


@pytest.mark.parametrize(
    ("name", "expected"),
    [("librosa", -100.0), ("kaldi", float(np.float32(np.log(2.0**-23)))), ("rtvc", 0.0), ("ge2e", -6.0)],
)
def test_digital_silence_is_at_the_floor_and_padding_is_the_same(name: str, expected: float) -> None:
    recipe = PRESETS[name]
    found = FeatureKernel(recipe)(np.zeros(16000, dtype=np.float32))
    assert set(found.ravel().tolist()) == {expected}
    assert np.allclose(silence(recipe), expected, rtol=1e-6)


def test_decibels_are_ten_times_the_logarithm() -> None:
    samples = synth.speechlike(9, 1.0)
    tens, decibels = (FeatureKernel(PRESETS["librosa"].replace(log=log))(samples) for log in ("log10", "db"))
    assert np.abs(10.0 * tens - decibels).max() < 1e-5
