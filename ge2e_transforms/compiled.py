"""How the hot loops are compiled: by Numba, when they are first called, and kept for later processes.

Without `fastmath` the compiler neither reorders sums nor fuses a product with a sum, so values do not depend on the
CPU. It must not know what is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}
_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """What other code calls. It is kept beside its source, or in the user's cache, with the CPU it was made for."""
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither may be written: each process compiles for itself, for some seconds
        return part(function)


def part(function: _F) -> _F:
    """A part of what is compiled, and kept with it."""
    return numba.njit(**_OPTIONS)(function)  # type: ignore[no-any-return]
