"""The encoder of the training example: its normalisation, its windows, and what it refuses."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import small_dataset
from encoder import About, Encoder, EncoderError, Normalize, build_network, windows

from ge2e_transforms import PRESETS, BatchLoader

RECIPE = PRESETS["ge2e"]
ABOUT = About(RECIPE.fingerprint(), RECIPE.to_dict(), "crop", 20, 8, None, {})


@pytest.fixture(scope="module")
def encoder():
    return Encoder(build_network(Normalize("crop"), 40, layers=1, units=8, embedding=8), ABOUT)


def test_it_normalises_as_the_loader_does(tmp_path):
    draws = np.random.default_rng(0)
    spoken = {f"test/s{s}": [[draws.normal(-3, 2, (90, 40)).astype(np.float32)] for _ in range(3)] for s in range(4)}
    for utterances in spoken.values():
        utterances[0][0][:, 5] = -3.25  # a band that says nothing
    dataset = small_dataset.write_dataset(tmp_path / "features", {"train": spoken})
    statistics = BatchLoader(dataset).get_metadata()["statistics"]
    for how in ("none", "dataset", "crop"):
        stored, expected = (
            next(BatchLoader(dataset, crop_frames=30, layout="time_mel", normalize=name).batches())[0]
            for name in ("none", how)
        )
        layer = Normalize(how, statistics["mean"], statistics["std"])
        np.testing.assert_allclose(np.asarray(layer(stored)), expected, atol=2e-5)


def test_a_band_on_the_floor_of_its_logarithm_is_normalised_exactly():
    """log10(power + 1e-6) of next to nothing: float32 has no more than some thousand steps for what it varies by."""
    draws = np.random.default_rng(0)
    features = np.log10(draws.exponential(2e-9, (5, 121, 40)) + 1e-6).astype(np.float32)
    exact = features.astype(np.float64)
    exact = (exact - exact.mean(axis=1, keepdims=True)) / exact.std(axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(Normalize("crop")(features)), exact, atol=2e-5)


def test_embeddings_have_length_1_and_are_the_mean_of_windows(encoder):
    features = np.random.default_rng(1).normal(-3, 1, (57, 40)).astype(np.float32)
    found = encoder.embed(features)
    assert found.shape == (8,) and found.dtype == np.float32
    assert np.linalg.norm(found) == pytest.approx(1)
    starts = (0, 9, 18, 27, 37)  # 4 steps of half a window or less from 0 to 57 - 20
    single = np.stack([encoder.embed(features[start : start + 20]) for start in starts])
    mean = single.mean(axis=0)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.parametrize("rows", [1, 7, 19, 20, 21, 30, 31, 40, 41, 333])
def test_windows_cover_an_utterance(rows):
    features = np.repeat(np.arange(rows, dtype=np.float32)[:, None], 3, axis=1)
    found = windows(features, 20)
    assert found.shape[1:] == (20, 3) and found.dtype == np.float32
    assert set(found.ravel()) == set(range(rows))
    first = found[:, 0, 0]
    assert (np.diff(first) <= 10).all() and (np.diff(first) > 0).all()
    if rows <= 20:
        assert found[0, :, 0].tolist() == [row % rows for row in range(20)]


def test_a_long_utterance_is_embedded_in_parts(encoder):
    """More windows than go together, and the last part shorter."""
    features = np.random.default_rng(2).normal(-3, 1, (1400, 40)).astype(np.float32)
    whole = np.asarray(encoder.network(windows(features, 20))).mean(axis=0)
    np.testing.assert_allclose(encoder.embed(features), whole / np.linalg.norm(whole), atol=1e-5)


def test_it_is_what_it_was_after_saving(encoder, tmp_path):
    about = dataclasses.replace(ABOUT, threshold=0.625)
    Encoder(encoder.network, about).save(tmp_path)
    again = Encoder.load(tmp_path)
    assert again.about == about
    features = np.random.default_rng(3).normal(-3, 1, (50, 40)).astype(np.float32)
    np.testing.assert_array_equal(again.embed(features), encoder.embed(features))


def test_another_recipe_is_refused():
    other = RECIPE.replace(window_ms=20.0).fingerprint()
    with pytest.raises(EncoderError, match=f"features cannot be used .*expected the recipe {ABOUT.fingerprint[:12]}"):
        ABOUT.check(other, "features")
    ABOUT.check(RECIPE.fingerprint(), "features")


def test_an_encoder_of_a_version_that_computes_otherwise_is_refused():
    """The recipe is the same text, but its fingerprint is of another RECIPE_VERSION."""
    old = dataclasses.replace(ABOUT, fingerprint="0" * 64)
    with pytest.raises(EncoderError, match="this version of ge2e-features cannot be used with this encoder"):
        old.extractor()
    assert ABOUT.extractor().recipe == RECIPE


def test_what_is_no_encoder_is_told(encoder, tmp_path):
    with pytest.raises(EncoderError, match=r"holds no encoder: .* got no encoder.keras and no encoder.json"):
        Encoder.load(tmp_path)
    encoder.save(tmp_path)
    (tmp_path / "encoder.json").write_text(json.dumps({"fingerprint": "x"}))
    with pytest.raises(EncoderError, match=r"encoder.json does not describe an encoder"):
        Encoder.load(tmp_path)
    with pytest.raises(ValueError, match="normalize='batch' cannot be used"):
        Normalize("batch")
