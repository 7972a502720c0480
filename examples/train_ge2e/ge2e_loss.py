"""The GE2E loss of Wan, Wang, Papir, Lopez Moreno, "Generalized End-to-End Loss for Speaker Verification", ICASSP 2018.

It takes embeddings `[N*M, D]` in the order of the loader's batches, runs of M of each of N speakers, and must not know
what computed them. Equations are numbered as in the paper.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

FORMS = ("softmax", "contrast")
# Where scale and offset start: section 2.1 of the paper ("a good choice of initial values"). The scale stays positive.
FIRST_SCALE, FIRST_OFFSET = 10.0, -5.0
_SMALLEST_SCALE = 1e-6
# Below this a centroid has no direction: M - 1 utterances that cancel each other out.
_SMALLEST_NORM = 1e-12


@keras.saving.register_keras_serializable("train_ge2e")
class GE2ELoss(keras.layers.Layer):
    """Mean loss of a batch, with the learnt scale w and offset b of equation 5.

    The paper sums over the batch (equation 10); the mean keeps a learning rate good for other N and M.

    Args:
        utterances_per_speaker: M, 2 or more: an utterance is left out of its own centroid.
        form: 'softmax' (equation 6) or 'contrast' (equation 7).

    Raises:
        ValueError: M below 2, or no such form.
    """

    def __init__(self, utterances_per_speaker: int, form: str = "softmax", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if utterances_per_speaker < 2:
            raise ValueError(
                f"utterances_per_speaker={utterances_per_speaker} cannot be used: expected 2 or more, as GE2E compares "
                "an utterance with the others of its speaker"
            )
        if form not in FORMS:
            raise ValueError(f"form={form!r} cannot be used: expected one of {FORMS}")
        self.utterances_per_speaker, self.form = utterances_per_speaker, form

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight(
            name="scale",
            initializer=keras.initializers.Constant(FIRST_SCALE),
            constraint=_positive,
        )
        self.offset = self.add_weight(name="offset", initializer=keras.initializers.Constant(FIRST_OFFSET))
        super().build(input_shape)

    def call(self, embeddings: Any) -> Any:
        """The mean loss, a float32 scalar, of embeddings `[N*M, D]` of length 1."""
        similarities = self.scale * cosines(embeddings, self.utterances_per_speaker) + self.offset
        return ops.mean(softmax_loss(similarities) if self.form == "softmax" else contrast_loss(similarities))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "utterances_per_speaker": self.utterances_per_speaker,
            "form": self.form,
        }


def cosines(embeddings: Any, utterances_per_speaker: int) -> Any:
    """Cosine of each utterance and each speaker's centroid: equations 1, 8 and 9 without scale and offset.

    Args:
        embeddings: `[N*M, D]` of length 1, in runs of M of a speaker.
        utterances_per_speaker: M.

    Returns:
        `[N, M, N]`: of utterance [j, i] and speaker k. For k = j the utterance is left out of the centroid, without
        which the loss would reward all utterances of a batch being one point.
    """
    m = utterances_per_speaker
    by_speaker = ops.reshape(embeddings, (-1, m, ops.shape(embeddings)[-1]))
    total = ops.sum(by_speaker, axis=1, keepdims=True)
    to_all = ops.einsum("jid,kd->jik", by_speaker, _of_length_1(total[:, 0]))
    to_own = ops.sum(by_speaker * _of_length_1((total - by_speaker) / (m - 1)), axis=-1, keepdims=True)
    return ops.where(_own(to_all), to_own, to_all)


def softmax_loss(similarities: Any) -> Any:
    """Equation 6 of each utterance, `[N, M]`, from similarities `[N, M, N]`."""
    return ops.logsumexp(similarities, axis=-1) - _to_own(similarities)


def contrast_loss(similarities: Any) -> Any:
    """Equation 7 of each utterance, `[N, M]`: its own centroid, and the nearest of the others."""
    others = ops.where(_own(similarities), -float("inf"), ops.sigmoid(similarities))
    return 1 - ops.sigmoid(_to_own(similarities)) + ops.max(others, axis=-1)


def _own(similarities: Any) -> Any:
    """Where `[N, M, N]` is of an utterance and its own speaker: bool `[N, 1, N]`."""
    return ops.expand_dims(ops.eye(ops.shape(similarities)[0], dtype="bool"), 1)


def _to_own(similarities: Any) -> Any:
    return ops.sum(ops.where(_own(similarities), similarities, 0.0), axis=-1)


def _of_length_1(vectors: Any) -> Any:
    return vectors / ops.maximum(ops.norm(vectors, axis=-1, keepdims=True), _SMALLEST_NORM)


def _positive(scale: Any) -> Any:
    return ops.maximum(scale, _SMALLEST_SCALE)
