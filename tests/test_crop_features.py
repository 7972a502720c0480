"""Features of crops that are read from waveforms equal those of `FeatureExtractor`, with shapes known before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_dataset import RAW, raw_speakers, speakers, write_dataset

from ge2e_transforms import PRESETS, BatchLoader, FeatureExtractor, GE2EDatasetLoader, MelAugment, Recipe, SpecAugment
from ge2e_transforms.config import n_frames, samples_for
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.extractor import dither_seed
from ge2e_transforms.mel_augment import MelAugmenter
from ge2e_transforms.rng import derive

pytestmark = pytest.mark.filterwarnings("ignore:an epoch of split")
OPTIONS: dict[str, Any] = {"speakers_per_batch": 3, "utterances_per_speaker": 2, "speakers": "proportional", "seed": 7}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("raw"), {"train": raw_speakers("a", 7)}, RAW, shards=2)


def open_loader(root: Path, **options: Any) -> BatchLoader:
    return BatchLoader(root, **{**OPTIONS, "features": "logmel", **options})


def alone(recipe: Recipe, crop: npt.NDArray[np.float32], utterance_id: str = "") -> npt.NDArray[np.float32]:
    """What the extractor gives of a crop that is all voice."""
    extractor = FeatureExtractor(recipe.replace(voice="none", min_utterance_ms=0, segments="utterance"))
    return extractor.joined(extractor.extract(crop, utterance_id=utterance_id, keep_all=True))


# The extractor.


@pytest.mark.parametrize(
    "changes", [{}, {"features": "mfcc", "dither": 1.0, "pre_emphasis": 0.97}, {"level_dbfs": -3.0}]
)
@pytest.mark.parametrize("preset", list(PRESETS))
def test_features_of_crops_are_those_of_the_extractor(preset: str, changes: dict[str, Any]) -> None:
    if preset == "rtvc" and changes.get("features") == "mfcc":
        changes = {"dither": 2.0}  # which has no logarithm
    recipe = PRESETS[preset].replace(**changes)
    rng = np.random.default_rng(1)
    for samples in (4800, 4097, 3000):
        crops = rng.normal(0.01, rng.uniform(0.001, 0.4, (4, 1)), (4, samples)).clip(-1, 1).astype(np.float32)
        names = [f"utterance {number}" for number in range(4)]
        seeds = np.array([dither_seed(name) for name in names], np.uint64)
        found = FeatureExtractor(recipe).of_crops(crops, seeds)
        for crop, name, features in zip(crops, names, found, strict=True):
            assert np.array_equal(features, alone(recipe, crop, name))


def test_a_silent_crop_gives_the_floor_and_does_not_disturb_others() -> None:
    crops = np.zeros((3, 4800), np.float32)
    crops[1] = np.random.default_rng(2).normal(0, 0.1, 4800)
    found = FeatureExtractor(PRESETS["ge2e"]).of_crops(crops, np.zeros(3, np.uint64))
    assert np.array_equal(found[[0, 2]], np.full((2, 31, 40), -6, np.float32))
    assert np.array_equal(found[1], alone(PRESETS["ge2e"], crops[1]))


@pytest.mark.parametrize("preset", list(PRESETS))
def test_samples_for_are_the_fewest_that_give_so_many_frames(preset: str) -> None:
    recipe = PRESETS[preset]
    for frames in (1, 2, 121, 200):
        samples = samples_for(frames, recipe)
        assert (n_frames(samples, recipe), n_frames(samples - 1, recipe)) == (frames, frames - 1)
    assert samples_for(recipe.crop_frames, recipe) <= recipe.crop_samples


# The loader.


@pytest.mark.parametrize("layout", ["mel_time", "time_mel"])
@pytest.mark.parametrize("short", ["repeat", "pad"])
@pytest.mark.parametrize("features", ["logmel", "mfcc"])
def test_batches_are_the_features_of_the_waveforms_there(root: Path, features: str, layout: str, short: str) -> None:
    """By default, and where crops are longer than some records."""
    for frames, samples in ((None, 4800), (80, 12640)):
        loader = open_loader(root, features=features, layout=layout, short=short, crop_frames=frames)
        plain = open_loader(root, features=None, short=short, crop_frames=samples)
        delivered = Recipe.from_dict(loader.get_metadata()["recipe"])
        assert delivered == RAW.replace(features=features)
        for (examples, labels), (waveforms, wanted) in zip(loader.batches(), plain.batches(), strict=True):
            assert np.array_equal(labels, wanted) and waveforms.shape[1:] == (1, samples)
            assert loader.stream("train").shape == examples.shape
            for example, waveform in zip(examples, waveforms, strict=True):
                there = example.T if layout == "mel_time" else example
                assert np.array_equal(there, alone(delivered, waveform[0]))


def test_windows_of_shards_give_the_same(root: Path) -> None:
    local = list(open_loader(root, locality=1).batches())
    plain = list(open_loader(root, locality=1, features=None, crop_frames=4800).batches())
    for (examples, labels), (waveforms, wanted) in zip(local, plain, strict=True):
        assert np.array_equal(labels, wanted)
        assert np.array_equal(examples[0].T, alone(RAW.replace(features="logmel"), waveforms[0, 0]))


def test_metadata_speaks_of_what_is_delivered(root: Path) -> None:
    metadata = open_loader(root).get_metadata()
    assert [metadata[name] for name in ("feature_shape", "features", "dtype")] == [[40, 31], "logmel", "float32"]
    assert metadata["statistics"]["mean"] == []
    assert FeatureExtractor.from_metadata(metadata).recipe.feature.features == "logmel"
    assert open_loader(root, features=None).get_metadata()["feature_shape"] == [1, 4800]


def test_lengths_are_counted_in_frames(root: Path) -> None:
    loader = GE2EDatasetLoader(root, features="logmel", **{**OPTIONS, "crop_frames": (20, 31, 5)})
    assert loader.get_train_dataset().element_spec[0].shape.as_list() == [6, 40, None]
    assert {examples.shape[2] for examples, _ in loader.batches(epochs=3)} == {20, 25, 30}
    fixed = GE2EDatasetLoader(root, features="mfcc", **OPTIONS).get_train_dataset()
    assert fixed.element_spec[0].shape.as_list() == [6, 20, 31]
    for examples, _ in fixed.take(2):
        assert examples.shape == (6, 20, 31)


def test_crops_are_normalised_and_masked_as_features(root: Path) -> None:
    plain, _ = next(open_loader(root).batches())
    normal, _ = next(open_loader(root, normalize="crop").batches())
    expected = (plain - plain.mean(axis=2, keepdims=True)) / plain.std(axis=2, keepdims=True)
    np.testing.assert_allclose(normal, expected, atol=2e-4)
    masked, _ = next(open_loader(root, normalize="crop", spec_augment=SpecAugment(time_fraction=0.5)).batches())
    hidden = masked != normal
    assert 0.05 < hidden.mean() < 0.7 and not masked[hidden].any()


def test_computed_log_mels_are_augmented_as_stored_ones_are(root: Path) -> None:
    plain, _ = next(open_loader(root).batches())
    augment = MelAugment(gain_db=(3, 9))
    louder, _ = next(open_loader(root, mel_augment=augment).batches())
    expected = plain.copy()
    keys = derive(7, 102, 0, 0, np.arange(len(plain)))
    MelAugmenter(augment, RAW.replace(features="logmel"), "mel_time").apply(expected, keys)
    assert np.array_equal(louder, expected) and (louder != plain).mean() > 0.9
    normal, _ = next(open_loader(root, mel_augment=augment, normalize="crop").batches())
    np.testing.assert_allclose(normal.mean(axis=2), 0, atol=1e-3)
    with pytest.raises(ConfigError, match="features"):
        open_loader(root, features=None, mel_augment=augment).batches()


def test_dither_follows_from_the_slot(tmp_path: Path) -> None:
    root = write_dataset(tmp_path, {"train": raw_speakers("a", 5)}, RAW.replace(dither=50.0))
    batches = list(open_loader(root).batches())
    again = list(open_loader(root).batches(start=(0, 2)))
    assert all(np.array_equal(one, other) for (one, _), (other, _) in zip(batches[2:], again, strict=True))
    same_crops = [open_loader(root, seed=7).batches(start=(epoch, 0)) for epoch in (0, 1)]
    assert not np.array_equal(next(same_crops[0])[0], next(same_crops[1])[0])
    silent = {f"s{i}": [[np.zeros((5000, 1), np.int16)]] * 2 for i in range(3)}
    write_dataset(tmp_path / "silent", {"train": silent}, RAW.replace(dither=50.0))
    examples, _ = next(open_loader(tmp_path / "silent").batches())
    assert len(np.unique(examples[:, 0, 5])) == 6  # no two slots have the same


def test_a_state_does_not_mind_what_is_made_of_the_crops(root: Path) -> None:
    state = open_loader(root).batches(start=(0, 3)).state_dict()
    iterator = open_loader(root, features=None, crop_frames=4800).batches()
    iterator.load_state_dict(state)
    assert iterator.state_dict() == state


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"features": "raw"}, "features='raw' cannot be used: expected None, 'logmel' or 'mfcc'"),
        ({"waveform_transform": 3}, "waveform_transform=3 cannot be used"),
        ({"normalize": "dataset"}, "normalize='dataset' cannot be used with features.*as stored. Use 'crop'"),
        ({"normalize": "utterance"}, "normalize='utterance' cannot be used"),
        ({"features": None, "waveform_transform": abs, "normalize": "dataset"}, "normalize='dataset' cannot be used"),
        ({"spec_augment": SpecAugment()}, "spec_augment cannot be used with features and normalize='none'"),
        ({"crop_frames": 0}, "crop_frames=0"),
        ({"crop_frames": (30, 20, 5)}, "shortest <= longest"),
    ],
)
def test_what_does_not_fit_is_refused(root: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        open_loader(root, **options).batches()


def test_features_are_of_waveforms_and_of_crops(root: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, {"train": speakers("a", 4, 0, 4)})
    with pytest.raises(
        ConfigError, match=r"features=.logmel. cannot be used with a dataset of logmel: .* --features raw"
    ):
        BatchLoader(tmp_path, features="logmel")
    with pytest.raises(ConfigError, match="waveform_transform cannot be used with a dataset of logmel"):
        BatchLoader(tmp_path, waveform_transform=abs)
    with pytest.raises(ConfigError, match="read whole utterances by a loader without them"):
        open_loader(root).utterance("u0", "test/a0")
