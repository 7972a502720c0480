"""An encoder as a LiteRT (TensorFlow Lite) file: what phones and microcontrollers run, with what it says of itself.

The network takes one window, float32 `[1, crop_frames, bands]`. LSTM layers become the fused operation
UNIDIRECTIONAL_SEQUENCE_LSTM: Keras 3 alone gives a WHILE loop, which does not come to an end on a microcontroller
(tensorflow/tflite-micro, issue 3674). The fused one keeps its state from one window to the next, so whoever runs the
file must reset its variables before each window, as `network_of` does. It must not know how the network was trained.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from encoder import About, EncoderError, Values
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

# The metadata entry that names the buffer with the text of `About`.
METADATA = "ge2e_encoder"
# Where a file says that it is one, and what it says: the file identifier of TensorFlow Lite's schema.fbs.
_IDENTIFIER, _IDENTIFIED = b"TFL3", slice(4, 8)
_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


class FusedLSTM(keras.layers.LSTM):
    """An LSTM layer that the converter makes one operation of; it is known by the name of its function.

    It has what `build_network` uses of a layer: zeros as first state, Keras' activations, all outputs or the last.
    """

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:
        named = {"api_implements": f"lstm_{self.name}", "go_backwards": False, "time_major": False}
        fused = tf.function(_lstm, autograph=False, experimental_attributes=named)
        zeros = tf.zeros([tf.shape(sequences)[0], self.units])
        cell = self.cell
        weights = [tf.convert_to_tensor(weight) for weight in (cell.kernel, cell.recurrent_kernel, cell.bias)]
        outputs = fused(sequences, zeros, zeros, *weights)[1]
        return outputs if self.return_sequences else outputs[:, -1]


def _lstm(inputs: Any, hidden: Any, cell: Any, kernel: Any, recurrent: Any, bias: Any) -> tuple[Any, ...]:
    """Arguments and results as the converter expects them: last output, all outputs, last state, and a number."""

    def step(state: tuple[Any, Any], frame: Any) -> tuple[Any, Any]:
        gates = frame @ kernel + state[0] @ recurrent + bias
        enter, forget, new, leave = tf.split(gates, 4, axis=1)
        kept = tf.sigmoid(forget) * state[1] + tf.sigmoid(enter) * tf.tanh(new)
        return tf.sigmoid(leave) * tf.tanh(kept), kept

    outputs, cells = tf.scan(step, tf.transpose(inputs, [1, 0, 2]), (hidden, cell))
    return outputs[-1], tf.transpose(outputs, [1, 0, 2]), outputs[-1], cells[-1], tf.constant(1.0)


def convert(network: Any, about: About, quantize: bool = False) -> bytes:
    """The file of a Keras network of `build_network`, with `about` inside.

    Args:
        network: float32 `[batch, frames, bands]` to `[batch, embedding]`.
        about: what it says of itself.
        quantize: weights as int8 and computing in float32 ("dynamic range"): a quarter of the size, but no file for
            microcontrollers, whose FULLY_CONNECTED takes no mixture of types.
    """
    fused = keras.models.clone_model(network, clone_function=_fused)
    fused.set_weights(network.get_weights())
    # As constants: the converter leaves variables of Keras 3 to be initialised by whoever runs the file.
    values = [[v.numpy() for v in part] for part in (fused.trainable_variables, fused.non_trainable_variables)]
    window = tf.TensorSpec([1, about.crop_frames, network.input_shape[-1]], tf.float32, name="features")

    def embed(features: Any) -> dict[str, Any]:
        constants = [[tf.constant(value) for value in part] for part in values]
        return {"embedding": fused.stateless_call(*constants, features)[0]}

    function = tf.function(embed, input_signature=[window]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return with_about(converter.convert(), about)


def _fused(layer: Any) -> Any:
    kind = FusedLSTM if type(layer) is keras.layers.LSTM else type(layer)
    return kind.from_config(layer.get_config())


def with_about(content: bytes, about: About) -> bytes:
    """The same file with the text of `about` in a buffer that the metadata entry `METADATA` points at."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(about.to_json().encode(), np.uint8)
    entry.name, entry.buffer = METADATA, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def about_in(content: bytes, where: str) -> About:
    """Raises `EncoderError` where a file, which may be any, does not say what it was trained on."""
    return About.from_json(_text(content, where), where)


def _text(content: bytes, where: str) -> bytes:
    if content[_IDENTIFIED] != _IDENTIFIER:
        raise EncoderError(
            f"{where} is no LiteRT file: expected {_IDENTIFIER!r} at byte 4, got {content[_IDENTIFIED]!r}"
        )
    try:
        model = schema.Model.GetRootAs(content)
        for number in range(model.MetadataLength()):
            entry = model.Metadata(number)
            if entry.Name() == METADATA.encode():
                return bytes(model.Buffers(entry.Buffer()).DataAsNumpy())
    except (struct.error, IndexError, ValueError, AttributeError, TypeError) as error:
        raise EncoderError(f"{where} is damaged: {error}. Export the encoder again") from error
    raise EncoderError(
        f"{where} does not say which features it was trained on: expected metadata named {METADATA!r}, as `export` "
        "writes it. Export the encoder again, or give another file"
    )


def operations(content: bytes) -> list[str]:
    """Names of the operations that a file uses, sorted: what an interpreter must know; CUSTOM is what none does."""
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    return sorted({_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes})


def network_of(content: bytes, where: str) -> tuple[Callable[[Values], Values], tuple[int, ...]]:
    """What a file computes, from windows `[n, crop_frames, bands]` to embeddings, and the shape of its input.

    Raises:
        EncoderError: it is damaged, or not of one network.
    """
    try:
        interpreter = _interpreter(content)
        interpreter.allocate_tensors()
        run = interpreter.get_signature_runner()
        ((name, given),), (result,) = run.get_input_details().items(), run.get_output_details()
    except (ValueError, RuntimeError) as error:
        raise EncoderError(f"{where} cannot be run: {error}. Export the encoder again") from error

    def embed(features: Values) -> Values:
        embeddings = []
        for window in features:
            interpreter.reset_all_variables()
            embeddings.append(run(**{name: window[None]})[result][0])
        return np.stack(embeddings)

    return embed, tuple(given["shape"].tolist())


def _interpreter(content: bytes) -> Any:
    with warnings.catch_warnings():
        # TensorFlow asks for the package ai-edge-litert in its place, and goes on to bring its own.
        warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated", category=UserWarning)
        return tf.lite.Interpreter(model_content=content)
