"""The GE2E loss of the training example against plain NumPy, finite differences, and what the paper says of it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from ge2e_loss import FORMS, GE2ELoss, cosines

SPEAKERS, UTTERANCES, SIZE = 5, 3, 8


def embeddings(seed=0, spread=1.0):
    """`[N*M, D]` of length 1, in runs of M around one direction a speaker."""
    draws = np.random.default_rng(seed)
    centres = np.repeat(draws.normal(size=(SPEAKERS, SIZE)), UTTERANCES, axis=0)
    values = centres + spread * draws.normal(size=centres.shape)
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def plain_loss(values, form, scale, offset):
    """Equations 1 to 9 of the paper, one utterance after the other, in float64."""
    e = values.astype(np.float64).reshape(SPEAKERS, UTTERANCES, -1)

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    losses = []
    for j in range(SPEAKERS):
        for i in range(UTTERANCES):
            s = np.empty(SPEAKERS)
            for k in range(SPEAKERS):
                among = [e[k, m] for m in range(UTTERANCES) if k != j or m != i]
                s[k] = scale * cosine(e[j, i], np.mean(among, axis=0)) + offset
            if form == "softmax":
                losses.append(-s[j] + np.log(np.exp(s).sum()))
            else:
                sigmoid = 1 / (1 + np.exp(-s))
                losses.append(1 - sigmoid[j] + max(sigmoid[k] for k in range(SPEAKERS) if k != j))
    return np.mean(losses)


def layer(form, scale=10.0, offset=-5.0):
    loss = GE2ELoss(UTTERANCES, form)
    loss.build((None, SIZE))
    loss.scale.assign(scale)
    loss.offset.assign(offset)
    return loss


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("scale", "offset"), [(10.0, -5.0), (1.5, 0.3), (40.0, -20.0)])
def test_the_loss_is_that_of_the_paper(form, scale, offset):
    for seed in range(3):
        values = embeddings(seed)
        found = float(layer(form, scale, offset)(values))
        assert found == pytest.approx(plain_loss(values, form, scale, offset), rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_finite_differences(form):
    """Of embeddings (which are a variable of their own, not kept on the sphere), scale and offset."""
    values, loss = tf.Variable(embeddings(4)), layer(form)
    with tf.GradientTape() as tape:
        result = loss(values)
    of_values, of_scale, of_offset = tape.gradient(result, [values, loss.scale.value, loss.offset.value])

    def difference(change):
        return (change(1e-5) - change(-1e-5)) / 2e-5

    for place in ((0, 0), (4, 2), (7, 5), (14, 7)):

        def moved(step, place=place):
            # Centroids are of unit length, the utterance itself is not: as in the layer, which expects length 1.
            changed = values.numpy().astype(np.float64)
            changed[place] += step
            return plain_of_free_vectors(changed, form)

        assert of_values.numpy()[place] == pytest.approx(difference(moved), abs=2e-4)
    at = values.numpy()
    assert float(of_scale) == pytest.approx(difference(lambda d: plain_loss(at, form, 10 + d, -5)), abs=1e-4)
    assert float(of_offset) == pytest.approx(difference(lambda d: plain_loss(at, form, 10, -5 + d)), abs=1e-4)


def plain_of_free_vectors(values, form):
    """As `plain_loss`, but a cosine is taken of vectors that are said to have length 1."""
    e = values.reshape(SPEAKERS, UTTERANCES, -1)
    losses = []
    for j, i in np.ndindex(SPEAKERS, UTTERANCES):
        among = [[e[k, m] for m in range(UTTERANCES) if (k, m) != (j, i)] for k in range(SPEAKERS)]
        centres = [np.sum(vectors, axis=0) for vectors in among]
        s = np.array([10 * (e[j, i] @ c) / np.linalg.norm(c) - 5 for c in centres])
        sigmoid = 1 / (1 + np.exp(-s))
        softmax = np.log(np.exp(s).sum()) - s[j]
        losses.append(softmax if form == "softmax" else 1 - sigmoid[j] + np.delete(sigmoid, j).max())
    return np.mean(losses)


def test_an_utterance_is_left_out_of_its_own_centroid():
    """With all utterances of a speaker but one alike, that one sees the others only."""
    values = np.eye(SIZE, dtype=np.float32)[[0, 0, 1, 2, 2, 2]]
    found = np.asarray(cosines(values, 3))
    assert found[0, 2, 0] == pytest.approx(0)  # e_1 against two of e_0
    assert found[0, 0, 0] == pytest.approx(1 / np.sqrt(2))  # e_0 against e_0 and e_1
    assert found[1, 0, 1] == pytest.approx(1)
    assert found[1, 0, 0] == pytest.approx(0)


@pytest.mark.parametrize("form", FORMS)
def test_well_parted_speakers_have_less_loss_than_speakers_that_are_mixed(form):
    values = embeddings(1, spread=0.1)
    mixed = values.reshape(SPEAKERS, UTTERANCES, -1).transpose(1, 0, 2).reshape(values.shape)
    assert float(layer(form)(values)) < 0.3 < float(layer(form)(mixed))


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_speakers_and_of_their_utterances_does_not_matter(form):
    values = embeddings(2).reshape(SPEAKERS, UTTERANCES, SIZE)
    draws = np.random.default_rng(0)
    moved = values[draws.permutation(SPEAKERS)][:, draws.permutation(UTTERANCES)]
    flat = (-1, SIZE)
    assert float(layer(form)(values.reshape(flat))) == pytest.approx(float(layer(form)(moved.reshape(flat))), rel=1e-5)


def test_the_scale_stays_positive():
    """Section 2.1: w > 0, as a larger cosine must not mean less similarity."""
    loss = layer("softmax", scale=1e-3)
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build(loss.trainable_variables)
    optimizer.apply_gradients([(tf.constant(5.0), loss.scale), (tf.constant(0.0), loss.offset)])
    assert 0 < float(loss.scale) < 1e-3


def test_utterances_that_cancel_each_other_out_have_a_loss_and_gradients():
    values = tf.Variable(np.array([[1, 0], [-1, 0], [0, 1], [0, 1], [1, 0], [1, 0]], dtype=np.float32))
    loss = GE2ELoss(2)
    with tf.GradientTape() as tape:
        result = loss(values)
    assert np.isfinite(float(result)) and np.isfinite(tape.gradient(result, values).numpy()).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_loss_is_what_it_was_after_it_was_written_down(form):
    loss = GE2ELoss(4, form)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert (again.utterances_per_speaker, again.form) == (4, form)


def test_what_cannot_be_used_is_told():
    with pytest.raises(ValueError, match="utterances_per_speaker=1 cannot be used: expected 2 or more"):
        GE2ELoss(1)
    with pytest.raises(ValueError, match="form='triplet' cannot be used"):
        GE2ELoss(4, "triplet")
