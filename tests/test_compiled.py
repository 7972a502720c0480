"""Compiled code where it may be kept, and where not."""

from __future__ import annotations

import numba.core.caching

from ge2e_transforms.compiled import compiled


def doubled(value: float) -> float:
    return 2 * value


def test_it_is_kept_where_it_may_be() -> None:
    function = compiled(doubled)
    assert function(3.0) == 6.0
    assert type(function._cache).__name__ == "FunctionCache"  # type: ignore[attr-defined]


def test_it_works_where_no_folder_may_be_written(monkeypatch) -> None:
    """As in a container whose files belong to another user: Numba refuses to compile what it could not keep."""

    def refuse(*_: object) -> None:
        raise RuntimeError("cannot cache function 'doubled': no locator available for file")

    monkeypatch.setattr(numba.core.caching.FunctionCache, "__init__", refuse)
    function = compiled(doubled)
    assert function(3.0) == 6.0
    assert type(function._cache).__name__ == "NullCache"  # type: ignore[attr-defined]
