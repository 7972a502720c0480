"""tf.data gives the batches of the stream, from any step, with the right signature; and Keras trains on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_dataset import speakers, write_dataset, write_twins

from ge2e_transforms import BatchLoader, GE2EDatasetLoader, MelAugment, SpecAugment
from ge2e_transforms.stream import Position

pytestmark = pytest.mark.filterwarnings("ignore:an epoch of split")
FORMAT = Path(__file__).parent.parent / "docs" / "format.md"
OPTIONS: dict[str, Any] = {"speakers_per_batch": 3, "utterances_per_speaker": 2, "speakers": "proportional"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), {"train": speakers("a", 9, 0, 5)}, shards=4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"crop_frames": (60, 120, 30)},
        {"crop_frames": (60, 120, 30), "layout": "time_mel"},
        {"labels": "original"},
        {"labels": "dense", "normalize": "crop", "spec_augment": SpecAugment()},
        {"mel_augment": MelAugment(gain_db=(-6, 6)), "layout": "time_mel"},
        {"locality": 2},
        {"host_index": 1, "host_count": 2},
        {"host_index": 1, "host_count": 2, "global_batch": True},
        {"utterances_per_speaker": 1},
        {"batch_sources": "single", "distinct_sessions": True},
    ],
)
def test_tensors_are_the_arrays_of_the_stream(root: Path, options: dict[str, Any]):
    arrays = list(BatchLoader(root, **{**OPTIONS, **options}).batches(epochs=2, start=(1, 2)))
    dataset = GE2EDatasetLoader(root, **{**OPTIONS, **options}).get_train_dataset(epochs=2, start=(1, 2))
    assert int(dataset.cardinality()) == len(arrays)
    for (examples, labels), (wanted, wanted_labels) in zip(dataset, arrays, strict=True):
        assert dataset.element_spec[0].is_compatible_with(examples)
        assert np.array_equal(examples.numpy(), wanted)
        named = [name.decode() for name in labels.numpy()] if labels.dtype.name == "string" else labels.numpy()
        assert np.array_equal(named, wanted_labels)


def test_tensors_of_halves_are_the_floats_of_the_same_value(tmp_path: Path):
    """Small ones too, which threads of TensorFlow take for zero in arithmetic."""
    half, full = write_twins(tmp_path)
    tensors = GE2EDatasetLoader(half, **OPTIONS).get_train_dataset()
    for (examples, _), (wanted, _) in zip(tensors, BatchLoader(full, **OPTIONS).batches(), strict=True):
        assert examples.dtype.name == "float32"
        assert np.array_equal(examples.numpy(), wanted)


def test_the_document_shows_how_tensorflow_parses_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    half, _ = write_twins(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", FORMAT.read_text(encoding="utf-8"), flags=re.DOTALL)
    half.rename(tmp_path / "features")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block, "format.md", "exec"), names)
    found = [spectrogram.numpy() for spectrogram in names["spectrograms"]]
    stored = list(BatchLoader(tmp_path / "features", layout="time_mel").utterances("train"))
    assert len(found) == len(stored) == 64
    for spectrogram, whole in zip(found, stored, strict=True):
        assert spectrogram.dtype == np.float32
        assert np.array_equal(spectrogram, whole.values)


def test_lengths_that_differ_are_none_in_the_signature(root: Path):
    loader = GE2EDatasetLoader(root, crop_frames=(60, 120, 30), **OPTIONS)
    assert loader.get_train_dataset().element_spec[0].shape.as_list() == [6, 40, None]
    time_first = GE2EDatasetLoader(root, crop_frames=(60, 120, 30), layout="time_mel", **OPTIONS)
    assert time_first.get_train_dataset().element_spec[0].shape.as_list() == [6, None, 40]


def test_a_dataset_from_a_step_reads_nothing_before_it(root: Path, monkeypatch: pytest.MonkeyPatch):
    loader = GE2EDatasetLoader(root, **OPTIONS)
    stream = loader.stream("train")
    places: list[Position] = []
    batch = type(stream).batch
    monkeypatch.setattr(type(stream), "batch", lambda self, place, **k: places.append(place) or batch(self, place, **k))
    next(iter(loader.get_train_dataset(epochs=None, start=(7, 3))))
    assert min(places) == Position(7, 3)
    assert len(places) < 8


def test_keras_trains_by_steps_over_an_endless_dataset(root: Path):
    import keras

    loader = GE2EDatasetLoader(root, labels="dense", normalize="dataset", **OPTIONS)
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.layers.Input(loader.stream("train").shape[1:]),
            keras.layers.GlobalAveragePooling1D(data_format="channels_first"),
            keras.layers.Dense(len(loader.speaker_ids())),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(
        loader.get_train_dataset(epochs=None), steps_per_epoch=loader.steps_per_epoch, epochs=3, verbose=0
    )
    assert len(history.history["loss"]) == 3
    assert np.isfinite(history.history["loss"]).all()
    assert int(model.optimizer.iterations) == 3 * loader.steps_per_epoch
