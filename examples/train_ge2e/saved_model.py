"""An encoder as a TensorFlow SavedModel: what TensorFlow runs without Keras and without this project.

Signature `embed`: `features`, float32 `[batch, frames, bands]`, not normalised, to `embedding`, `[batch, embedding]`
of length 1. Signature `about`: nothing to `about`, the text of `About` as a string, so that it cannot be lost.

It must not know what the network is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from encoder import About, EncoderError, Values

# The file by which a folder is known as a SavedModel.
MODEL_FILE = "saved_model.pb"


def write(network: Any, about: About, folder: Path) -> None:
    """A Keras network of `build_network` as a SavedModel."""
    module, text = tf.Module(), about.to_json()
    module.network = network
    features = tf.TensorSpec([None, *network.input_shape[1:]], tf.float32, name="features")
    embed = tf.function(lambda features: {"embedding": network(features)}, input_signature=[features])
    tell = tf.function(lambda: {"about": tf.constant(text)}, input_signature=[])
    tf.saved_model.save(module, str(folder), signatures={"embed": embed, "about": tell})


def read(folder: Path) -> tuple[About, Callable[[Values], Any], tuple[int | None, ...]]:
    """What it says of itself, what it computes, and the shape of the features it takes.

    Raises:
        EncoderError: it is damaged, or of something else.
    """
    try:
        loaded = tf.saved_model.load(str(folder))
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        reason = str(error).partition("\n")[0]
        raise EncoderError(f"{folder} cannot be read: {reason}. Export the encoder again") from error
    missing = {"embed", "about"} - set(loaded.signatures)
    if missing:
        raise EncoderError(
            f"{folder} is a SavedModel of something else: expected the signatures 'about' and 'embed', got "
            f"{sorted(loaded.signatures)}. Give a folder that `export` has written"
        )
    embed = loaded.signatures["embed"]
    about = About.from_json(loaded.signatures["about"]()["about"].numpy(), str(folder))
    shape = tuple(embed.structured_input_signature[1]["features"].shape)

    def network(features: Values) -> Any:
        # With what was loaded, whose variables would go with it.
        return loaded.signatures["embed"](features=tf.constant(features))["embedding"]

    return about, network, shape
