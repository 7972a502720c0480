"""float16 to float32 for arrays of a few hundred kilobytes, by vector operations.

NumPy's own cast goes value by value; here each step is one operation over the whole array. The result is equal to the
bit. It must not know what the values mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# The fraction of a float16 has 10 bits, that of a float32 has 23; their exponents count from -15 and from -127.
_SHIFT, _SCALE = np.int32(1 << (23 - 10)), np.float32(2.0 ** (127 - 15))
# Behind the shift: copies of the sign between the sign and the exponent.
_COPIES = np.int32(0b111 << 28)


def widen(halves: npt.NDArray[np.float16], target: npt.NDArray[np.float32]) -> None:
    """Writes the values of `halves` into `target`; both are C-contiguous and of one shape."""
    bits: npt.NDArray[Any] = target.view(np.int32)
    np.copyto(bits, halves.view("<i2"))
    np.multiply(bits, _SHIFT, out=bits)  # which is faster than a shift
    np.bitwise_and(bits, ~_COPIES, out=bits)
    # A float32 with the exponent of a float16 is 2^112 times too small.
    np.multiply(target, _SCALE, out=target)
    # Infinity and NaN have exponents of their own. Those with the exponent 0 are less than a float32 should be, and
    # threads of TensorFlow take such for 0. Without their sign, and 2^11 further on, all of these are below 2^12.
    special = halves.view("<u2") + halves.view("<u2")
    special += np.uint16(1 << 11)
    if special.size and special.min() < 1 << 12:
        places = np.flatnonzero(special < 1 << 12)
        target.reshape(-1)[places] = halves.reshape(-1)[places]
