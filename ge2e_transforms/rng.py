"""Counter-based random numbers, the same on every machine and in every version of NumPy.

Splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014): output i of
the stream of a key is a 64-bit mix of `key + (i + 1) * golden`, so any output is had without those before it.
NumPy promises its own streams only within one build. Integer operations only; nothing is rounded. Keys and outputs are
uint64. It must not know what is drawn.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)  # variant 13 of Stafford's mixers, as in the paper
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK = 0xFFFFFFFFFFFFFFFF


def derive(key: int | Bits, *ids: int | npt.NDArray[np.integer]) -> Bits:
    """Random bits that belong to a key and a path of ids: `derive(seed, stream, epoch, speaker)`.

    For one key and path, different last ids (from 0) always give different bits.

    Args:
        key: 64 bits, or an array of them.
        ids: at least one integer or integer array, each in [0, 2^63); they broadcast with the key.

    Returns:
        uint64, uniform over all 64 bits; a single number is an array of shape `[1]`.
    """
    bits = np.atleast_1d(np.asarray(key & _MASK if isinstance(key, int) else key, dtype=np.uint64))
    for ident in ids:
        bits = _mix(bits + (np.atleast_1d(np.asarray(ident)).astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return bits


def random_bits(key: int, count: int) -> Bits:
    """The first `count` outputs, uint64 `[count]`, of the splitmix64 stream seeded with `key`."""
    return derive(key, np.arange(count))


def below(bits: Bits, bound: int | npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Uniform integers in [0, bound), int64, by multiply and shift of the upper 32 bits.

    `bound` is in [1, 2^31]; no number is more than bound / 2^32 (relative) too likely.
    """
    product = (bits >> np.uint64(32)) * np.asarray(bound).astype(np.uint64)
    return (product >> np.uint64(32)).astype(np.int64)


def fraction(bits: Bits) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), float64, of the upper 53 bits: as many as it holds."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(bits: Bits) -> Bits:
    """A bijection of 64 bits in which every input bit reaches every output bit. Works in place."""
    bits ^= bits >> np.uint64(30)
    bits *= _MIX_1
    bits ^= bits >> np.uint64(27)
    bits *= _MIX_2
    bits ^= bits >> np.uint64(31)
    return bits
