"""Batches of exactly N speakers x M utterances from a dataset folder: as NumPy arrays, or as a tf.data.Dataset.

Batch i of epoch e follows from (dataset, options, e, i) alone: there is no shuffle buffer and no state. TensorFlow is
imported when a tf.data.Dataset is asked for, and not before.
"""

from __future__ import annotations

import copy
import itertools
import threading
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ge2e_transforms.checks import check_integer
from ge2e_transforms.dataset import Dataset, speaker_id_mapping
from ge2e_transforms.errors import DatasetError, MissingExtraError
from ge2e_transforms.reading import CropReader
from ge2e_transforms.sampling import Plan, Sampler
from ge2e_transforms.schema import TRAIN_SPLIT
from ge2e_transforms.supply import SamplingOptions, Supply

if TYPE_CHECKING:
    import tensorflow as tf

Batch: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]

# Plans kept: of the epoch in progress, and of the next one that prefetching has come to.
_PLANS = 2
# Batches that tf.data has in work and ready. More do not help: what is not a read holds Python's lock.
_TF_PARALLEL, _TF_READY = 2, 2


class _Stream:
    """All batches of one split, by epoch and number. Safe to call from several threads at once.

    Args:
        dataset: an open dataset.
        split: its name.
        options: as asked for.
        fewer: whether N may be lowered to the number of speakers that the split has.
        normalize: see `CropReader`.
    """

    def __init__(self, dataset: Dataset, split: str, options: SamplingOptions, fewer: bool, normalize: str) -> None:
        supply = Supply(dataset.index(split), options)
        n = options.speakers_per_batch
        if fewer and 0 < supply.eligible < n:
            warnings.warn(
                f"split {split!r} has {supply.eligible} speakers with {options.utterances_per_speaker} crops or more: "
                f"its batches have N={supply.eligible} speakers instead of {n}",
                stacklevel=4,
            )
            n = supply.eligible
        self.sampler = Sampler(supply, n)
        _say_what_is_left(split, self.sampler.coverage(), options)
        self._reader = CropReader(dataset, split, options.crop_frames, options.short, normalize)
        self._plans: dict[int, Plan] = {}
        self._lock = threading.Lock()

    def batch(self, epoch: int, number: int) -> Batch:
        """Examples float32 `[N*M, bins, crop_frames]` and labels int64 `[N*M]` of one batch."""
        plan = self._plan(epoch)
        return self._reader.read(plan.records[number], plan.starts[number]), plan.batch_labels(number)

    def _plan(self, epoch: int) -> Plan:
        with self._lock:
            if epoch not in self._plans:
                while len(self._plans) >= _PLANS:
                    del self._plans[min(self._plans)]
                self._plans[epoch] = self.sampler.plan(epoch)
            return self._plans[epoch]


def _say_what_is_left(split: str, coverage: dict[str, int], options: SamplingOptions) -> None:
    used, later, epochs = (coverage[name] for name in ("used", "left_for_later_epochs", "epochs_for_all"))
    left_out = coverage["speakers"] - coverage["eligible_speakers"]
    notes = []
    if left_out:
        notes.append(
            f"leaves out {left_out} of {coverage['speakers']} speakers, who hold fewer than "
            f"{options.utterances_per_speaker} crops: under_m='repeat' takes them"
        )
    if coverage["repeated_utterances"]:
        notes.append(
            f"takes {coverage['repeated_utterances']} crops from an utterance that its group of "
            f"{options.utterances_per_speaker} holds already, as speakers have too few: "
            "distinct='strict' leaves them out"
        )
    if later > used:
        more = "fewer speakers_per_batch" + (", or speakers='proportional'" if options.exponent < 1 else "")
        notes.append(
            f"takes {used} of {coverage['slots']} crops and leaves {later} to later epochs (about {epochs} for all), "
            f"since speakers with much speech give no more than the others: for more in an epoch {more}"
        )
    for note in notes:
        warnings.warn(f"an epoch of split {split!r} {note}", stacklevel=5)


class BatchLoader:
    """Reads a dataset as NumPy batches of N different speakers x M crops.

    An epoch takes each speaker's quota of crops (`speakers`) in random order; the next epoch goes on with others. No
    crop comes twice in an epoch, and no speaker twice in a batch. `coverage` says what an epoch uses and leaves.

    Args:
        root_dir: folder of a finished dataset.
        speakers_per_batch: N; default that of the metadata, or all speakers of a split that has fewer (with a warning).
        utterances_per_speaker: M; default that of the metadata.
        crop_frames: length of a crop in stored rows; default that of the metadata's `feature_shape`.
        seed: integer; other seeds give other batches.
        distinct, speakers, short, under_m: see `SamplingOptions`.
        normalize: 'none', or zero mean and unit deviation per bin by the train split's statistics ('dataset'), within
            each crop ('crop'), or by those of the whole record ('utterance').

    Raises:
        ConfigError: an option has a value that cannot be used.
        DatasetError: the folder holds no complete dataset.
    """

    def __init__(
        self,
        root_dir: str | Path,
        speakers_per_batch: int | None = None,
        utterances_per_speaker: int | None = None,
        crop_frames: int | None = None,
        seed: int = 0,
        distinct: str = "prefer",
        speakers: str | float = "uniform",
        short: str = "repeat",
        under_m: str = "drop",
        normalize: str = "none",
    ) -> None:
        self._dataset = Dataset.open(root_dir)
        metadata = self._dataset.metadata

        def default(value: int | None, stored: int) -> int:
            return stored if value is None else value

        self._options = SamplingOptions(
            speakers_per_batch=default(speakers_per_batch, metadata["speakers_per_batch"]),
            utterances_per_speaker=default(utterances_per_speaker, metadata["utterances_per_speaker"]),
            crop_frames=default(crop_frames, metadata["feature_shape"][1]),
            seed=seed,
            distinct=distinct,
            speakers=speakers,
            short=short,
            under_m=under_m,
        )
        self._fewer = speakers_per_batch is None
        self._normalize = normalize
        self._streams: dict[str, _Stream] = {}

    def get_metadata(self) -> dict[str, Any]:
        """A copy of the dataset's metadata, with `speaker_id_mapping`: label by `namespace/speaker_id`."""
        return {**copy.deepcopy(self._dataset.metadata), "speaker_id_mapping": speaker_id_mapping(self._dataset)}

    def batches(self, split: str = TRAIN_SPLIT, epochs: int | None = 1, epoch: int = 0) -> Iterator[Batch]:
        """Yields (examples, labels), `epochs` epochs (None: without end) from number `epoch` on.

        Examples are float32 `[N*M, bins, crop_frames]`, labels int64 `[N*M]` in runs of M.

        Raises:
            SamplingError: the split has fewer than N speakers with M crops.
            DatasetError: no such split, or its files are not as the metadata says.
            CorruptRecordError: a file ends before a crop does.
        """
        stream = self._stream(split)
        _check_epochs(epochs)
        numbers = itertools.count(epoch) if epochs is None else range(epoch, epoch + epochs)
        in_epoch = range(stream.sampler.batches_per_epoch)
        return (stream.batch(number, i) for number in numbers for i in in_epoch)

    def batches_per_epoch(self, split: str = TRAIN_SPLIT) -> int:
        """Batches of one epoch, the same in every epoch."""
        return self._stream(split).sampler.batches_per_epoch

    def coverage(self, split: str = TRAIN_SPLIT) -> dict[str, int]:
        """What an epoch uses and leaves, and what was relaxed; see `Sampler.coverage`."""
        return self._stream(split).sampler.coverage()

    def _stream(self, split: str) -> _Stream:
        if split not in self._streams:
            self._streams[split] = _Stream(self._dataset, split, self._options, self._fewer, self._normalize)
        return self._streams[split]


def _check_epochs(epochs: int | None) -> None:
    if epochs is not None:
        check_integer("epochs", epochs, 1, 1 << 31)


class GE2EDatasetLoader(BatchLoader):
    """The batches of `BatchLoader` as `tf.data.Dataset`s, one element a batch. Same arguments.

    Elements are (examples float32 `[N*M, bins, crop_frames]`, labels int64 `[N*M]` in runs of M). Their shapes are
    known beforehand, and so is their number. They are made a few ahead; iterating a dataset again starts again.
    """

    def get_train_dataset(self, epochs: int | None = 1) -> tf.data.Dataset:
        """Train batches of `epochs` epochs, one after the other (None: without end)."""
        return self._tf_dataset(self._stream("train"), epochs)

    def get_valid_dataset(self) -> tf.data.Dataset:
        """Validation batches: epoch 0, the same every time."""
        return self._tf_dataset(self._stream("valid"), 1)

    def get_test_dataset(self) -> tf.data.Dataset:
        """Test batches: epoch 0, the same every time."""
        return self._tf_dataset(self._stream("test"), 1)

    def _tf_dataset(self, stream: _Stream, epochs: int | None) -> tf.data.Dataset:
        try:
            import tensorflow as tf
        except ModuleNotFoundError as error:
            raise MissingExtraError("TensorFlow, which a tf.data.Dataset needs,", "tf") from error
        _check_epochs(epochs)
        in_epoch = stream.sampler.batches_per_epoch
        size = stream.sampler.speakers_per_batch * self._options.utterances_per_speaker
        shape = (size, self._dataset.metadata["feature_shape"][0], self._options.crop_frames)

        # TensorFlow keeps the function of a numpy_function for the life of the process. So the function only refers to
        # the stream weakly, and the dataset, which those made from it and their iterators keep, holds it.
        reference = weakref.ref(stream)

        def read(number: npt.NDArray[np.int64]) -> Batch:
            alive = reference()
            if alive is None:
                raise DatasetError("the tf.data.Dataset that these batches come from is gone: keep it while reading")
            return alive.batch(*divmod(int(number), in_epoch))

        def fetch(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            examples, labels = tf.numpy_function(read, [number], (tf.float32, tf.int64), stateful=False)
            return tf.ensure_shape(examples, shape), tf.ensure_shape(labels, shape[:1])

        numbers = tf.data.Dataset.counter() if epochs is None else tf.data.Dataset.range(epochs * in_epoch)
        batches = numbers.map(fetch, num_parallel_calls=_TF_PARALLEL, deterministic=True)
        ready = batches.prefetch(_TF_READY)
        ready.ge2e_stream = stream
        return ready
