"""The batches as `tf.data.Dataset`s. TensorFlow is imported when one is asked for, and not before.

It must not know how a batch is planned or read.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ge2e_transforms.errors import DatasetError, MissingExtraError
from ge2e_transforms.loader import BatchLoader, check_epochs
from ge2e_transforms.stream import Batch, Position, Stream

if TYPE_CHECKING:
    import tensorflow as tf

# Batches that tf.data has in work and ready. Without worker processes more do not help: what is not a read holds
# Python's lock.
_IN_WORK, _READY = 2, 2


class GE2EDatasetLoader(BatchLoader):
    """The batches of `BatchLoader` as a `tf.data.Dataset`, one element a batch. Same arguments.

    Elements are (examples float32 `[N*M, bins, rows]`, labels `[N*M]` in runs of M). Their shapes are known beforehand
    (the rows are not with a range of `crop_frames`), and so is their number. They are made a few ahead; iterating a
    dataset again starts again.
    """

    def get_train_dataset(self, epochs: int | None = 1, start: tuple[int, int] = (0, 0)) -> tf.data.Dataset:
        """Train batches of `epochs` epochs, one after the other (None: without end).

        `start` = (epoch, step) goes on where a run was stopped, without reading what came before.

        Raises:
            MissingExtraError: TensorFlow is not installed; all else as `BatchLoader.batches`.
        """
        return self._dataset_of("train", epochs, start)

    def get_valid_dataset(self) -> tf.data.Dataset:
        """Validation batches: epoch 0, the same every time."""
        return self._dataset_of("valid", 1, (0, 0))

    def get_test_dataset(self) -> tf.data.Dataset:
        """Test batches: epoch 0, the same every time."""
        return self._dataset_of("test", 1, (0, 0))

    def _dataset_of(self, split: str, epochs: int | None, start: tuple[int, int]) -> tf.data.Dataset:
        check_epochs(epochs)
        stream = self.stream(split)
        return tf_dataset(stream, epochs, stream.start(start))


def tf_dataset(stream: Stream, epochs: int | None, start: Position) -> tf.data.Dataset:
    """The batches of `epochs` epochs from a place on, None for no end; MissingExtraError without TensorFlow."""
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise MissingExtraError("TensorFlow, which a tf.data.Dataset needs,", "tf") from error
    kind = tf.string if stream.labels_are_text else tf.int64
    shape = stream.shape

    # TensorFlow keeps the function of a numpy_function for the life of the process. So the function only refers to
    # the stream weakly, and the dataset, which those made from it and their iterators keep, holds it.
    reference = weakref.ref(stream)

    def read(step: npt.NDArray[np.int64]) -> Batch:
        alive = reference()
        if alive is None:
            raise DatasetError("the tf.data.Dataset that these batches come from is gone: keep it while reading")
        return alive.batch_after(start, int(step), epochs)

    def fetch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        examples, labels = tf.numpy_function(read, [step], (tf.float32, kind), stateful=False)
        return tf.ensure_shape(examples, shape), tf.ensure_shape(labels, shape[:1])

    counter = tf.data.Dataset.counter()
    steps = counter if epochs is None else tf.data.Dataset.range(stream.steps(start, epochs))
    in_work = max(_IN_WORK, stream.ahead)
    ready = steps.map(fetch, num_parallel_calls=in_work, deterministic=True).prefetch(_READY)
    ready.ge2e_stream = stream
    return ready
