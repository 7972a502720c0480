"""Every float16 becomes the float32 that NumPy makes of it, wherever it stands in an array."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ge2e_transforms.half_floats import widen

EVERY = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def check(halves):
    target = np.full(halves.shape, 7, dtype=np.float32)
    widen(halves, target)
    assert target.tobytes() == halves.astype(np.float32).tobytes()  # NaN, and the sign of zero, too


def test_every_half():
    check(EVERY)
    check(EVERY.reshape(64, 32, 32))
    for value in EVERY[:: 1 << 10]:  # among normal numbers, none of which must hide it
        check(np.array([[-3.25, value, 1.5]], dtype=np.float16))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (1, 1, 1)])
def test_arrays_of_any_size(shape):
    check(np.full(shape, -2.5, dtype=np.float16))


@settings(max_examples=50, deadline=None)
@given(npst.arrays(np.float16, npst.array_shapes(max_dims=3, max_side=9), elements=st.floats(width=16)))
def test_arrays_of_any_values(halves):
    check(halves)


def test_threads_that_take_small_numbers_for_zero():
    """TensorFlow sets its own threads so."""
    tf = pytest.importorskip("tensorflow")

    def widened(_):
        target = np.empty(len(EVERY), dtype=np.float32)
        widen(EVERY, target)
        return target

    def tiny(_):
        return np.float32([2.0**-130]) * np.float32(2.0**112)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(tiny, 0).result() > 0
    threads = tf.data.Dataset.range(1).map(lambda i: [tf.numpy_function(f, [i], tf.float32) for f in (widened, tiny)])
    ((found, flushed),) = threads.as_numpy_iterator()
    assert flushed == 0  # or this proves nothing
    assert found.tobytes() == EVERY.astype(np.float32).tobytes()
