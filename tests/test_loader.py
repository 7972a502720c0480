"""Batches from a folder: shapes, promises, NumPy and tf.data alike, streamed, and errors that help."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import subprocess
import sys
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_dataset import DEFAULT, marked, speakers, write_dataset, write_twins

from ge2e_transforms import BatchLoader, GE2EDatasetLoader, MelAugment, SpecAugment, loader_options, tf_reader
from ge2e_transforms.errors import ConfigError, CorruptRecordError, DatasetError, MissingExtraError, SamplingError
from ge2e_transforms.loader_options import LoaderOptions
from ge2e_transforms.stream import Batch, Position, Stream
from ge2e_transforms.supply import SamplingOptions

BINS = DEFAULT.n_bins


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 train speakers, 3 test speakers, 4 utterances each; metadata says 4 x 3."""
    splits = {"train": speakers("a", 9, 0, 4), "test": speakers("b", 3, 36, 4)}
    return write_dataset(tmp_path_factory.mktemp("dataset"), splits, shards=3)


def check_batch(examples: npt.NDArray[Any], labels: npt.NDArray[Any], n: int, m: int) -> set[float]:
    """N different speakers x M, of M utterances, every crop as stored; returns what names each crop."""
    assert examples.shape == (n * m, BINS, 121)
    assert examples.dtype == np.float32
    assert labels.shape == (n * m,)
    assert labels.dtype == np.int64
    runs = labels.reshape(n, m)
    assert np.all(runs == runs[:, :1])
    assert len(set(runs[:, 0].tolist())) == n
    corner = examples[:, 0, 0]
    records = corner.astype(np.int64) // 2048
    assert np.array_equal(records // 4, labels)  # both are numbered on from split to split
    assert all(len(set(group.tolist())) == m for group in records.reshape(n, m))
    expected = corner[:, None, None] + np.arange(BINS)[:, None] / 64 + np.arange(121)
    assert np.array_equal(examples, expected)
    return set(corner.tolist())


def test_the_notebook(root: Path):
    dataset_loader = GE2EDatasetLoader(root_dir=str(root))
    metadata = dataset_loader.get_metadata()
    assert metadata["feature_shape"] == [40, 121]
    assert metadata["speaker_id_mapping"] == {
        **{f"test/a{s}": s for s in range(9)},
        **{f"test/b{s}": 9 + s for s in range(3)},
    }
    train = dataset_loader.get_train_dataset()
    examples, labels = next(iter(train))
    check_batch(examples.numpy(), labels.numpy(), 4, 3)
    with pytest.warns(UserWarning, match="N=3 speakers instead of 4") as warned:
        test = dataset_loader.get_test_dataset()
    assert [warning.filename for warning in warned] == [__file__]
    examples, labels = next(iter(test))
    check_batch(examples.numpy(), labels.numpy(), 3, 3)
    assert set(labels.numpy().tolist()) == {9, 10, 11}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_twins(tmp_path_factory.mktemp("twins"))


@pytest.mark.filterwarnings("ignore:an epoch of split")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layout": "time_mel"},
        {"check_crc": "always", "short": "pad"},
        {"check_crc": "never", "crop_frames": (60, 180, 7)},
        {"locality": 2},
        {"locality": 2, "layout": "time_mel"},
        {"normalize": "dataset"},
        {"normalize": "utterance", "layout": "time_mel"},
        {"normalize": "crop", "spec_augment": SpecAugment()},
        {"normalize": "crop", "mel_augment": MelAugment(gain_db=(-6, 6), equalizer_db=(-6, 6))},
    ],
)
def test_batches_of_halves_are_those_of_floats_with_the_same_values(
    twins: tuple[Path, Path], options: dict[str, Any]
) -> None:
    loaders = [BatchLoader(root, speakers_per_batch=4, utterances_per_speaker=3, seed=5, **options) for root in twins]
    halves, floats = (list(loader.batches(epochs=2)) for loader in loaders)
    assert len(halves) > 4
    for (examples, labels), (wanted, wanted_labels) in zip(halves, floats, strict=True):
        assert examples.dtype == np.float32
        assert np.array_equal(examples, wanted)
        assert np.array_equal(labels, wanted_labels)


def test_fewer_speakers_are_said_once(root: Path):
    batch_loader = BatchLoader(root)
    with pytest.warns(UserWarning, match="'test' has 3 speakers with 3 crops or more"):
        first = list(batch_loader.batches("test"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = list(batch_loader.batches("test"))
    assert len(first) == len(again) == batch_loader.batches_per_epoch("test") > 0


def test_every_batch_of_three_epochs(root: Path):
    batch_loader = BatchLoader(root, seed=5, speakers="proportional")
    for epoch in range(3):
        seen: list[float] = []
        for examples, labels in batch_loader.batches(start=(epoch, 0)):
            seen += check_batch(examples, labels, 4, 3)
        assert len(seen) == len(set(seen)) == batch_loader.coverage()["used"]


def test_tf_data_gives_the_same_batches_in_the_same_order(root: Path):
    options = {"speakers_per_batch": 3, "utterances_per_speaker": 4, "seed": 9}
    arrays = list(BatchLoader(root, **options).batches(epochs=3))
    dataset = GE2EDatasetLoader(root, **options).get_train_dataset(epochs=3)
    for _ in range(2):  # iterating again starts again
        tensors = list(dataset)
        assert len(tensors) == len(arrays)
        for (examples, labels), (wanted, wanted_labels) in zip(tensors, arrays, strict=True):
            assert np.array_equal(examples.numpy(), wanted)
            assert np.array_equal(labels.numpy(), wanted_labels)


def test_tf_data_knows_shapes_and_length(root: Path):
    import tensorflow as tf

    dataset_loader = GE2EDatasetLoader(root, crop_frames=90)
    steps = dataset_loader.batches_per_epoch()
    dataset = dataset_loader.get_train_dataset()
    assert dataset.element_spec == (tf.TensorSpec((12, 40, 90), tf.float32), tf.TensorSpec((12,), tf.int64))
    assert int(dataset.cardinality()) == len(list(dataset)) == steps
    assert int(dataset_loader.get_train_dataset(epochs=5).cardinality()) == 5 * steps
    endless = dataset_loader.get_train_dataset(epochs=None)
    assert int(endless.cardinality()) == tf.data.INFINITE_CARDINALITY
    assert len(list(endless.take(2 * steps + 1))) == 2 * steps + 1


def test_tf_data_is_streamed(root: Path, monkeypatch: pytest.MonkeyPatch):
    made = []
    batch = Stream.batch

    def counting(self: Stream, place: Position, go_on: bool = False) -> Batch:
        made.append(place)
        return batch(self, place, go_on)

    monkeypatch.setattr(Stream, "batch", counting)
    dataset = GE2EDatasetLoader(root).get_train_dataset(epochs=1000)
    assert made == []
    iterator = iter(dataset)
    for _ in range(3):
        next(iterator)
    assert len(made) <= 3 + 2 * (tf_reader._IN_WORK + tf_reader._READY)


def test_batches_follow_from_seed_and_epoch(root: Path):
    one = list(BatchLoader(root, seed=1).batches(epochs=2))
    steps = len(one) // 2
    late = list(BatchLoader(root, seed=1).batches(start=(1, 0)))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(one[steps:], late, strict=True))
    other = list(BatchLoader(root, seed=2).batches())
    assert not all(np.array_equal(a[0], b[0]) for a, b in zip(one[:steps], other, strict=True))
    assert not all(np.array_equal(a[0], b[0]) for a, b in zip(one[:steps], one[steps:], strict=True))


def test_endless_batches_go_on_with_the_next_epoch(root: Path):
    batch_loader = BatchLoader(root)
    steps = batch_loader.batches_per_epoch()
    endless = list(itertools.islice(batch_loader.batches(epochs=None, start=(2, 0)), 2 * steps))
    counted = batch_loader.batches(epochs=2, start=(2, 0))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(endless, counted, strict=True))


def test_n_that_was_asked_for_is_never_lowered(root: Path):
    batch_loader = BatchLoader(root, speakers_per_batch=4)
    assert next(batch_loader.batches())[1].shape == (12,)
    with pytest.raises(SamplingError, match="Largest N for M=3: 3; largest M for N=4: none"):
        batch_loader.batches("test")


def test_m_that_nobody_has_is_refused(root: Path):
    with pytest.raises(SamplingError, match=r"0 can give 100.*Largest N for M=100: none; largest M for N=4: "):
        GE2EDatasetLoader(root, utterances_per_speaker=100).get_train_dataset()


def test_rich_speakers_that_wait_are_said(tmp_path: Path):
    """Four speakers with one group of 3 and two with ten: an epoch is one batch."""
    few = {f"p{s}": [[marked(4 * s + u, 130)] for u in range(3)] for s in range(4)}
    rich = {f"r{s}": [[marked(4 * s + u, 1210)] for u in range(3)] for s in range(2)}
    write_dataset(tmp_path, {"train": few | rich})
    with pytest.warns(UserWarning, match=r"takes 12 of 72 crops and leaves 54 to later epochs \(about 10 for all\)"):
        BatchLoader(tmp_path).batches()


def test_a_split_that_is_not_there(root: Path):
    with pytest.raises(DatasetError, match="no split 'valid': it has train, test"):
        GE2EDatasetLoader(root).get_valid_dataset()


def test_validation_is_epoch_0_every_time(tmp_path: Path):
    write_dataset(tmp_path, {"train": speakers("a", 4, 0, 4), "valid": speakers("b", 4, 16, 4)})
    dataset_loader = GE2EDatasetLoader(tmp_path)
    expected = list(BatchLoader(tmp_path).batches("valid"))
    for _ in range(2):
        for (examples, _), (wanted, _) in zip(dataset_loader.get_valid_dataset(), expected, strict=True):
            assert np.array_equal(examples.numpy(), wanted)


@pytest.mark.parametrize(
    ("name", "value"), [("seed", None), ("crop_frames", 0), ("speakers", "all"), ("short", "cut"), ("distinct", "")]
)
def test_options_are_checked_at_once(root: Path, name: str, value: Any):
    with pytest.raises(ConfigError, match=f"{name}="):
        BatchLoader(root, **{name: value})


def test_an_option_that_there_is_not_is_refused_with_the_one_meant(root: Path):
    with pytest.raises(ConfigError, match="no option 'normalise': did you mean 'normalize'"):
        BatchLoader(root, normalise="crop")  # type: ignore[call-arg]


def test_every_option_belongs_to_one_part_and_is_told_in_the_docstring():
    parts = [{f.name for f in dataclasses.fields(kind)} for kind in (SamplingOptions, *loader_options._KINDS)]
    for option in LoaderOptions.__annotations__:
        assert sum(loader_options._RENAMED.get(option, option) in part for part in parts) == 1, option
        assert f"{option}=" in str(BatchLoader.__doc__), option


def test_other_values_are_checked_before_the_first_batch(root: Path):
    for epochs in (0, -1, 1.5):
        with pytest.raises(ConfigError, match="epochs="):
            BatchLoader(root).batches(epochs=epochs)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="epochs="):
            GE2EDatasetLoader(root).get_train_dataset(epochs=epochs)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="normalize='max'"):
        BatchLoader(root, normalize="max").batches()


def test_a_folder_without_a_dataset(tmp_path: Path):
    with pytest.raises(DatasetError, match="no complete dataset"):
        BatchLoader(tmp_path)


def test_metadata_is_a_copy(root: Path):
    batch_loader = BatchLoader(root)
    batch_loader.get_metadata()["feature_shape"][1] = 7
    assert batch_loader.get_metadata()["feature_shape"] == [40, 121]


def test_damage_stops_tf_data_with_the_place(tmp_path: Path):
    import tensorflow as tf

    write_dataset(tmp_path, {"train": speakers("a", 4, 0, 4)}, shards=1)
    dataset = GE2EDatasetLoader(tmp_path).get_train_dataset()
    batches = BatchLoader(tmp_path).batches()
    path = next(tmp_path.glob("train/*.tfrecord"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CorruptRecordError, match=r"\.tfrecord at offset"):
        list(batches)
    with pytest.raises(tf.errors.OpError, match=r"\.tfrecord at offset"):
        list(dataset)


def test_reading_needs_neither_tensorflow_nor_audio_libraries(root: Path):
    program = (
        "import sys; from ge2e_transforms import BatchLoader, GE2EDatasetLoader\n"
        f"examples, labels = next(GE2EDatasetLoader({str(root)!r}).batches())\n"
        "heavy = {'tensorflow', 'torch', 'librosa', 'scipy', 'apache_beam', 'soundfile', 'soxr'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_datasets_that_are_gone_leave_no_stream_behind(root: Path) -> None:
    """TensorFlow keeps the function of a numpy_function for ever, and with it kept files, index and plans."""
    streams = []
    for _ in range(3):
        loader = GE2EDatasetLoader(root)
        batches = loader.get_train_dataset()
        streams.append(weakref.ref(batches.ge2e_stream))
        iterator = iter(batches.map(lambda examples, labels: labels))
        del loader, batches
        gc.collect()
        assert len(next(iterator)) == 12  # an iterator keeps what it reads from
        del iterator
    gc.collect()
    assert [stream() for stream in streams] == [None] * 3


def test_speakers_that_are_left_out_and_repetitions_are_said(tmp_path: Path) -> None:
    """README's defaults left 29 of 251 speakers out of every epoch without a word."""
    some = speakers("a", 4, 0, 4)
    some["test/a9"] = some["test/a0"][:1]
    folder = write_dataset(tmp_path, {"train": some})
    with pytest.warns(
        UserWarning, match=r"leaves out 1 of 5 speakers, who hold fewer than \d+ crops: under_m='repeat'"
    ):
        next(BatchLoader(folder, utterances_per_speaker=3, speakers_per_batch=2, crop_frames=121).batches())
    with pytest.warns(UserWarning, match=r"takes \d+ crops from an utterance that its group of 6 holds already"):
        next(BatchLoader(folder, utterances_per_speaker=6, speakers_per_batch=2, crop_frames=20).batches())


def test_a_dataset_without_tensorflow_names_the_extra(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingExtraError, match=r"TensorFlow.* pip install 'ge2e-features\[tf\]'"):
        GE2EDatasetLoader(root).get_train_dataset()
