"""`verify` of the training example: two recordings by the features that an encoder was trained on, and no others.

The networks are untrained, so nothing is said of accuracy: what is tested is what they are given and who may ask.
"""

from __future__ import annotations

import dataclasses
import json
import shutil

import litert_model
import numpy as np
import pytest
import saved_model
import small_dataset
import synth
import tensorflow as tf
from encoder import ABOUT_FILE, NETWORK_FILE, About, Encoder, EncoderError, Normalize, build_network
from verification import Verdict, load_encoder, verify

from ge2e_transforms import PRESETS, FeatureExtractor, features_of_file
from ge2e_transforms.errors import (
    ConfigError,
    DatasetError,
    MissingAudioError,
    NotAudioError,
    SilentAudioError,
    TooShortError,
)

RECIPE = PRESETS["ge2e"]
ABOUT = About(RECIPE.fingerprint(), RECIPE.to_dict(), "crop", 30, 8, 0.5, {})
FORMS = ("folder", "saved_model", "encoder.tflite")


def encoder_of(preset: str, frames: int = 30) -> Encoder:
    recipe = PRESETS[preset]
    network = build_network(Normalize("crop"), recipe.n_bins, layers=1, units=4, embedding=8)
    about = dataclasses.replace(ABOUT, fingerprint=recipe.fingerprint(), recipe=recipe.to_dict(), crop_frames=frames)
    return Encoder(network, about)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """One network in each of its forms."""
    root = tmp_path_factory.mktemp("encoders")
    encoder = encoder_of("ge2e")
    encoder.save(root / "folder")
    saved_model.write(encoder.network, encoder.about, root / "saved_model")
    (root / "encoder.tflite").write_bytes(litert_model.convert(encoder.network, encoder.about))
    return root


@pytest.fixture(scope="module")
def encoder(encoders):
    return load_encoder(encoders / "folder")


def crowd(seed: int, seconds: float, rate: int):
    """Several voices at once, so that there are stretches without a pause, in which windows of `seed` fit."""
    return np.mean([synth.speechlike(10 * seed + number, seconds, rate) for number in range(8)], axis=0)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    root = tmp_path_factory.mktemp("sounds")
    synth.write(root / "a.wav", crowd(1, 2.0, 16000), 16000)
    synth.write(root / "b.flac", crowd(2, 1.7, 22050), 22050)
    synth.write(root / "silent.wav", np.zeros(16000, np.float32), 16000)
    synth.write(root / "short.wav", synth.speechlike(1, 0.2), 16000)
    (root / "text.wav").write_text("no sound at all")
    return root


def cosine(encoder: Encoder, *files) -> float:
    """By the functions that a reader of the guide would call."""
    extractor = FeatureExtractor.from_metadata({"recipe": encoder.about.recipe})
    a, b = (encoder.embed(features_of_file(file, extractor)) for file in files)
    return float(np.dot(a, b))


# What is found.


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_one_verdict(form, encoders, encoder, sounds):
    files = (sounds / "a.wav", sounds / "b.flac")
    expected = cosine(encoder, *files)
    found = verify(encoders / form, *files)
    assert found.cosine == pytest.approx(expected, abs=1e-5)
    assert (found.file_a, found.file_b, found.threshold) == (*map(str, files), 0.5)
    assert verify(str(encoders / form), *map(str, files)) == found


def test_the_threshold_decides(encoder, sounds):
    files = (sounds / "a.wav", sounds / "b.flac")
    found = cosine(encoder, *files)
    assert verify(encoder, *files, threshold=found - 1e-3).same
    assert not verify(encoder, *files, threshold=found + 1e-3).same
    assert verify(encoder, *files, threshold=-1).same
    assert verify(encoder, *files).same == (found >= 0.5)
    assert verify(encoder, sounds / "a.wav", sounds / "a.wav", threshold=0.9999).same


def test_a_verdict_as_text():
    assert str(Verdict("a.wav", "b.wav", 0.625, 0.625)) == (
        "same speaker: cosine 0.6250 >= threshold 0.6250, a.wav and b.wav"
    )
    assert str(Verdict("a.wav", "b.wav", -0.1, 0.625)) == (
        "different speakers: cosine -0.1000 < threshold 0.6250, a.wav and b.wav"
    )


@pytest.mark.parametrize("preset", ["kaldi", "seed"])
def test_features_are_of_the_recipe_of_the_encoder(preset, sounds):
    """Of another size (`kaldi`), and windows (`seed`)."""
    files = (sounds / "a.wav", sounds / "b.flac")
    other = encoder_of(preset, PRESETS[preset].crop_frames)
    assert verify(other, *files).cosine == pytest.approx(cosine(other, *files), abs=1e-6)


def test_two_recordings_of_speech(encoders, encoder, librispeech):
    speakers = sorted((librispeech / "test-other").iterdir())[:2]
    files = [min(speaker.rglob("*.flac")) for speaker in speakers]
    expected = cosine(encoder, *files)
    for form in FORMS:
        assert verify(encoders / form, *files).cosine == pytest.approx(expected, abs=1e-5)


# What is refused.


def test_there_must_be_a_threshold(encoder, sounds):
    files = (sounds / "a.wav", sounds / "b.flac")
    fresh = Encoder(encoder.network, dataclasses.replace(encoder.about, threshold=None))
    with pytest.raises(EncoderError, match=r"has no threshold: .*`evaluate --store_threshold`.* with --threshold"):
        verify(fresh, *files)
    assert verify(fresh, *files, threshold=0.25).threshold == 0.25
    for threshold in (1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"threshold=.* expected a number in \[-1, 1\]"):
            verify(fresh, *files, threshold=threshold)


def test_another_recipe_is_refused(encoder, sounds, tmp_path):
    files = (sounds / "a.wav", sounds / "b.flac")
    spoken = {"train": small_dataset.speakers("s", 4, 0, 3)}
    same = small_dataset.write_dataset(tmp_path / "same", spoken)
    other = small_dataset.write_dataset(tmp_path / "other", spoken, RECIPE.replace(level_dbfs=None))
    assert verify(encoder, *files, dataset=same).cosine == verify(encoder, *files).cosine
    with pytest.raises(
        EncoderError, match=rf"the dataset {other} cannot be used with this encoder: expected the recipe"
    ):
        verify(encoder, *files, dataset=other)
    with pytest.raises(DatasetError, match="no complete dataset at"):
        verify(encoder, *files, dataset=tmp_path / "none")


def test_features_that_this_version_computes_otherwise_are_refused(encoder, sounds):
    old = Encoder(encoder.network, dataclasses.replace(encoder.about, fingerprint="0" * 64))
    with pytest.raises(EncoderError, match="the features of this version of ge2e-features cannot be used"):
        verify(old, sounds / "a.wav", sounds / "b.flac")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("silent.wav", SilentAudioError),
        ("short.wav", TooShortError),
        ("text.wav", NotAudioError),
        ("none.wav", MissingAudioError),
    ],
)
def test_recordings_that_cannot_be_used_are_named(name, error, encoder, sounds):
    for files in ((sounds / name, sounds / "a.wav"), (sounds / "a.wav", sounds / name)):
        with pytest.raises(error) as raised:
            verify(encoder, *files)
        assert str(raised.value).count(str(sounds / name)) == 1


def test_an_encoder_that_gives_no_numbers_is_refused(sounds):
    broken = encoder_of("ge2e")
    broken.network.set_weights([np.full_like(weights, np.nan) for weights in broken.network.get_weights()])
    with pytest.raises(EncoderError, match=r"embeddings that are no numbers \(nan\)"):
        verify(broken, sounds / "a.wav", sounds / "b.flac")


def test_a_network_must_fit_its_recipe(encoders, encoder, tmp_path):
    raw, mfcc = (RECIPE.replace(features=kind) for kind in ("raw", "mfcc"))
    for recipe, expected in (
        (raw, r"\[30, 1\] of raw"),
        (mfcc, r"\[30, 20\] of mfcc"),
        (PRESETS["kaldi"], r"\[30, 80\]"),
    ):
        Encoder(encoder.network, dataclasses.replace(ABOUT, recipe=recipe.to_dict())).save(tmp_path / "folder")
        with pytest.raises(EncoderError, match=rf"expected a network of windows {expected}.* got one of \[None, 40\]"):
            load_encoder(tmp_path / "folder")
    content = (encoders / "encoder.tflite").read_bytes()
    longer = litert_model.with_about(stripped(content), dataclasses.replace(ABOUT, crop_frames=31))
    (tmp_path / "longer.tflite").write_bytes(longer)
    with pytest.raises(EncoderError, match=r"windows \[31, 40\] of logmel.* got one of \[30, 40\]"):
        load_encoder(tmp_path / "longer.tflite")


def stripped(content: bytes) -> bytes:
    """A LiteRT file without its metadata, as any converter writes it."""
    model = litert_model.flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    model.metadata = None
    return bytes(litert_model.flatbuffer_utils.convert_object_to_bytearray(model))


def test_a_file_that_is_no_encoder_is_told(encoders, tmp_path):
    path = tmp_path / "encoder.tflite"
    content = (encoders / "encoder.tflite").read_bytes()
    for damaged, expected in (
        (b"", "is no LiteRT file"),
        (b"RIFF....WAVE", "is no LiteRT file: expected b'TFL3' at byte 4"),
        (content[:200], "is damaged|does not say|cannot be run"),
        (content[: len(content) // 2], "is damaged|does not say|cannot be run"),
        (content[:8] + bytes(len(content) - 8), "is damaged|does not say|cannot be run"),
        (stripped(content), "does not say which features it was trained on: expected metadata named 'ge2e_encoder'"),
        (content.replace(b'"fingerprint"', b'"fingerprinx"'), "does not describe an encoder"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(EncoderError, match=rf"encoder\.tflite ({expected})"):
            load_encoder(path)


def test_a_saved_model_that_is_no_encoder_is_told(encoders, tmp_path):
    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / "other"))
    with pytest.raises(EncoderError, match=r"other is a SavedModel of something else: expected the signatures 'about'"):
        load_encoder(tmp_path / "other")
    for file, size in (
        ("saved_model.pb", 1000),
        ("variables/variables.index", 10),
        ("variables/variables.index", None),
    ):
        shutil.copytree(encoders / "saved_model", tmp_path / "damaged", dirs_exist_ok=True)
        path = tmp_path / "damaged" / file
        path.write_bytes(path.read_bytes()[:size]) if size else path.unlink()
        with pytest.raises(EncoderError, match=r"damaged cannot be read: .* Export the encoder again"):
            load_encoder(tmp_path / "damaged")


def test_a_folder_that_is_no_encoder_is_told(encoders, tmp_path):
    with pytest.raises(EncoderError, match=r"holds no encoder: .*no encoder\.keras"):
        load_encoder(tmp_path)
    with pytest.raises(EncoderError, match=r"none holds no encoder"):
        load_encoder(tmp_path / "none")
    shutil.copy(encoders / "folder" / ABOUT_FILE, tmp_path)
    whole = (encoders / "folder" / NETWORK_FILE).read_bytes()
    for content in (b"", whole[:1000], b"PK" + bytes(100)):
        (tmp_path / NETWORK_FILE).write_bytes(content)
        with pytest.raises(EncoderError, match=r"encoder\.keras cannot be read"):
            load_encoder(tmp_path)
    about = json.loads((tmp_path / ABOUT_FILE).read_text())
    assert about["fingerprint"] == RECIPE.fingerprint()
