"""A small speaker encoder for `sampling_worth.py`: how it is trained, and the scores of trials by it.

Two convolutions over time, mean and deviation over the window, a projection: it sees levels and how bands move. Loss,
normalisation and windows of a test utterance are those of `examples/train_ge2e`.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from sampling_batches import Batches, M, N
from sampling_corpus import BANDS, CROP

from ge2e_transforms import BatchLoader
from ge2e_transforms.trials import Trials

_CHANNELS, _EMBEDDING = 64, 32
_RATE = 1e-3  # Adam's default; by a cosine to nothing at the last step, so that the last step needs no choosing
_TOGETHER = 4096  # windows embedded at once
_LEAST_VARIANCE = 1e-5  # a root has no slope at nothing

Values = npt.NDArray[np.float32]


def example(name: str) -> ModuleType:
    """A module of the training example."""
    folder = str(Path(__file__).resolve().parent.parent / "examples" / "train_ge2e")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def network(root: Path, seed: int) -> Any:
    """An untrained encoder: the same weights for the same seed."""
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(seed)
    statistics = BatchLoader(root).get_metadata()["statistics"]
    features = keras.Input((None, BANDS))
    hidden = example("encoder").Normalize("dataset", statistics["mean"], statistics["std"])(features)
    hidden = layers.Conv1D(_CHANNELS, 5, strides=2, activation="relu")(hidden)
    hidden = layers.Conv1D(_CHANNELS, 3, activation="relu")(hidden)
    deviation = ops.sqrt(ops.var(hidden, 1) + _LEAST_VARIANCE)
    pooled = ops.concatenate([ops.mean(hidden, 1), deviation], -1)
    return keras.Model(features, layers.UnitNormalization()(layers.Dense(_EMBEDDING)(pooled)))


def train(encoder: Any, batches: Batches, steps: int) -> list[float]:
    """Trains an encoder on so many batches. Returns the loss of each."""
    import keras
    import tensorflow as tf

    loss = example("ge2e_loss").GE2ELoss(M)
    loss.build((N * M, _EMBEDDING))
    weights = encoder.trainable_variables + loss.trainable_variables
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(_RATE, steps))
    adam.build(weights)

    def step(examples: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(encoder(examples, training=True))
        adam.apply(tape.gradient(value, weights), weights)
        return value

    compiled: Any = tf.function(step)
    return [float(compiled(examples)) for examples, _ in itertools.islice(batches, steps)]


class Test:
    """Windows of all utterances that trials use, so that they are read and cut once for all encoders."""

    def __init__(self, root: Path, trials: Trials) -> None:
        self._trials = trials
        loader = BatchLoader(root, layout="time_mel")
        spoken = {(one.speaker_id, one.utterance_id): one.values for one in loader.utterances("test")}
        windows = [example("encoder").windows(spoken[name], CROP) for name in trials.utterances]
        self._windows = np.concatenate(windows)
        self._first = np.cumsum([0, *map(len, windows[:-1])])

    def scores(self, encoder: Any) -> Values:
        """The cosine of each trial, float32 `[trials]`: of an utterance the mean over its windows."""
        sums = np.add.reduceat(np.concatenate(list(self._embedded(encoder))), self._first)
        means = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        scores: Values = (means[self._trials.enrol] * means[self._trials.test]).sum(axis=1)
        return scores

    def _embedded(self, encoder: Any) -> Iterator[Values]:
        for first in range(0, len(self._windows), _TOGETHER):
            yield np.asarray(encoder(self._windows[first : first + _TOGETHER]))
