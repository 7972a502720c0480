"""Functions of waveforms that are applied to crops while they are read, and what is asked of them.

It must not know where crops come from, or what becomes of them. Waveforms are float32 `[n, samples]`, keys uint64
`[n]`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ge2e_transforms.checks import check
from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import ConfigError
from ge2e_transforms.rng import Bits

Waveforms: TypeAlias = npt.NDArray[np.float32]
WaveformTransform: TypeAlias = Callable[[Waveforms, Bits], Waveforms]


class Bindable(Protocol):
    """A transform that has to know what speech it is for."""

    def bind(self, recipe: Recipe) -> WaveformTransform:
        """The transform for speech of a recipe; asked once in each process, before its first crop."""


@dataclass(frozen=True)
class EachWaveform:
    """Makes a `waveform_transform` of a function of one waveform.

    The generator of a slot is seeded by the slot's key, so that its draws are the same whenever the batch is made.
    NumPy promises what a generator draws within one version of NumPy only.

    function: `function(waveform, rng)` gets float32 `[samples]`, which it may change, and a `numpy.random.Generator`;
        it returns `[samples]`. With worker processes it must be one of an imported module, or of a script.

    Raises:
        ConfigError: on construction: it cannot be called.
    """

    function: Callable[[Waveforms, np.random.Generator], npt.ArrayLike]

    def __post_init__(self) -> None:
        check(callable(self.function), "function", self.function, "function(waveform, rng)")

    def __call__(self, waveforms: Waveforms, keys: Bits) -> Waveforms:
        """Applies the function to each waveform: float32 `[n, samples]` and uint64 `[n]` to float32 `[n, samples]`.

        Raises:
            ConfigError: the function gave another shape.
        """
        changed = np.empty_like(waveforms)
        for waveform, target, key in zip(waveforms, changed, keys.tolist(), strict=True):
            found = np.asarray(self.function(waveform, np.random.Generator(np.random.PCG64(key))))
            if found.shape != target.shape:
                raise _wrong(self.function, f"shape {list(found.shape)}", f"a waveform of shape {list(target.shape)}")
            target[:] = found
        return changed


def bound(transform: WaveformTransform | Bindable, recipe: Recipe) -> WaveformTransform:
    """The transform for speech of a recipe: what its method `bind` gives, or itself where it has none."""
    made = transform.bind(recipe) if hasattr(transform, "bind") else transform
    check(callable(made), "waveform_transform", made, "transform(waveforms, keys)")
    return made


def transformed(transform: WaveformTransform, waveforms: Waveforms, keys: Bits) -> Waveforms:
    """What a transform makes of waveforms `[n, samples]` by keys `[n]`, one a waveform.

    Raises:
        ConfigError: that is not float32 of the same shape, or not finite.
    """
    found = transform(waveforms, keys)
    got = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
    wanted = f"float32 {list(waveforms.shape)}"
    if got != wanted:
        raise _wrong(transform, got, wanted)
    # A sum is cheaper than a look at each; it is not finite where one of them is not, and hardly ever else.
    if not np.isfinite(np.add.reduce(found, axis=None)) and not np.isfinite(found).all():
        raise _wrong(transform, "NaN or infinity", "finite samples")
    return found


def _wrong(transform: object, got: str, wanted: str) -> ConfigError:
    name = getattr(transform, "__qualname__", type(transform).__qualname__)
    return ConfigError(f"waveform_transform: {name} gave {got}; expected {wanted}")
