"""Checks of option values: what does not pass is a `ConfigError` that quotes the value and says what was expected.

They must not know what any option means.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ge2e_transforms.errors import ConfigError


def check(ok: bool, name: str, value: object, expected: str) -> None:
    """Refuses a value that was found wanting.

    >>> check(False, "n_fft", 511, "an even number")
    Traceback (most recent call last):
    ge2e_transforms.errors.ConfigError: n_fft=511 cannot be used: expected an even number
    """
    if not ok:
        raise ConfigError(f"{name}={value!r} cannot be used: expected {expected}")


def check_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuses what is none of the allowed."""
    check(value in allowed, name, value, "one of " + ", ".join(allowed))


def check_number(name: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    """Refuses a number outside of [low, high], or (low, high] with `open_low`; NaN too."""
    bracket = "(" if open_low else "["
    inside = low < value <= high if open_low else low <= value <= high
    check(inside, name, value, f"a number in {bracket}{low:g}, {high:g}]")


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Refuses what is not an integer in [low, high), NumPy's integers included."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    check(whole and low <= value < high, name, value, f"an integer from {low} to {high - 1}")  # type: ignore[operator]


def refuse_unknown(name: str, values: object, known: set[str]) -> None:
    """Refuses what is no dict, or has other keys than the known ones."""
    expected = f"an object with some of the fields {', '.join(sorted(known))}"
    check(isinstance(values, dict), name, values, expected)
    unknown = sorted(set(values) - known, key=str)  # type: ignore[call-overload]
    check(not unknown, name, unknown, expected)


class Stage:
    """Base of frozen dataclasses of options: types first, so that 25 and 25.0 are one value and one fingerprint.

    Raises:
        ConfigError: a value of another type than the field has, or one that `_check_values` of the class refuses.
    """

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, entry.name)
            kinds = _KINDS[str(entry.type)]
            if float in kinds and (type(value) is float or (type(value) is int and abs(value) <= 1 << 53)):
                value = value + 0.0  # 25 becomes 25.0 and -0.0 becomes 0.0
                object.__setattr__(self, entry.name, value)
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            check(type(value) in kinds, entry.name, value, f"a value of type {names}")
        self._check_values()

    def _check_values(self) -> None:
        raise NotImplementedError


_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float,),
    "float | None": (float, type(None)),
    "bool": (bool,),
    "str": (str,),
    "str | int": (str, int),
}
