"""Recordings come in order, many at once, within a bound, and whatever goes wrong belongs to one of them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ge2e_transforms.errors import MissingAudioError
from ge2e_transforms.read_ahead import ReadAhead

LIMIT_S = 30


class Object:
    """A file of a store."""

    def __init__(self, store: Store, name: str) -> None:
        self.size, self._store, self._name = store.sizes[name], store, name

    def read(self) -> bytes:
        return self._store.read(self._name)


class Store:
    """Objects by name; reads wait at a gate, where the test sees how many have come."""

    def __init__(self, sizes: dict[str, int], open_gate: bool = True) -> None:
        self.sizes, self.opened, self.read_names = sizes, [], []
        self.gate = threading.Event()
        if open_gate:
            self.gate.set()
        self.changed = threading.Condition()
        self.inside = self.most_inside = self.held = 0
        self.broken: set[str] = set()

    def open(self, name: str) -> Object:
        with self.changed:
            self.opened.append(name)
        if name not in self.sizes:
            raise MissingAudioError(name)
        return Object(self, name)

    def read(self, name: str) -> bytes:
        with self.changed:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            self.held += self.sizes[name]
            self.changed.notify_all()
        assert self.gate.wait(LIMIT_S)
        with self.changed:
            self.inside -= 1
            self.read_names.append(name)
        if name in self.broken:
            raise OSError(f"{name}: the network is down")
        return name.encode()

    def wait_inside(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.inside == count, LIMIT_S)


def names(count: int) -> list[str]:
    return [f"{number:03d}" for number in range(count)]


def test_all_come_in_order() -> None:
    order = names(200)
    store = Store(dict.fromkeys(order, 10))
    with ReadAhead(store.open, order, reads=8) as take:
        assert [take(name) for name in order] == [name.encode() for name in order]
    assert sorted(store.read_names) == order


def test_many_are_read_at_once() -> None:
    order = names(40)
    store = Store(dict.fromkeys(order, 10), open_gate=False)
    with ReadAhead(store.open, order, reads=16) as take:
        store.wait_inside(16)
        store.gate.set()
        assert [take(name) for name in order] == [name.encode() for name in order]
    assert store.most_inside == 16


def test_bytes_are_bounded_and_the_next_one_is_never_kept_out() -> None:
    order = names(30)
    store = Store(dict.fromkeys(order, 100), open_gate=False)
    with ReadAhead(store.open, order, reads=16, most_bytes=350) as take:
        store.wait_inside(3)
        assert store.held == 300
        store.gate.set()
        taken = 0
        for name in order:
            assert take(name) == name.encode()
            taken += 100
            with store.changed:
                assert store.held - taken <= 350
    assert sorted(store.read_names) == order


def test_one_larger_than_the_bound_is_read_alone() -> None:
    order = names(6)
    store = Store({name: 1000 if name == "003" else 10 for name in order})
    with ReadAhead(store.open, order, reads=4, most_bytes=100) as take:
        assert [take(name) for name in order] == [name.encode() for name in order]


def test_faults_belong_to_their_recording() -> None:
    order = names(12)
    store = Store({name: 10 for name in order if name != "004"})
    store.broken = {"007"}
    got: list[Any] = []
    with ReadAhead(store.open, order, reads=4) as take:
        for name in order:
            try:
                got.append(take(name))
            except (MissingAudioError, OSError) as error:
                got.append(type(error))
    assert got[4] is MissingAudioError
    assert got[7] is OSError
    assert [entry for entry in got if isinstance(entry, bytes)] == [
        n.encode() for n in order if n not in ("004", "007")
    ]


def test_a_read_that_failed_can_be_tried_again() -> None:
    store = Store({"a": 1, "b": 1})
    store.broken = {"a"}
    with ReadAhead(store.open, ["a", "b"]) as take:
        with pytest.raises(OSError, match="down"):
            take("a")
        store.broken = set()
        assert take("a") == b"a"
        assert take("b") == b"b"


def test_what_is_passed_over_or_out_of_order() -> None:
    order = names(50)
    store = Store(dict.fromkeys([*order, "other"], 60))
    with ReadAhead(store.open, order, reads=4, most_bytes=100) as take:
        assert take("other") == b"other"
        for name in order[::7]:
            assert take(name) == name.encode()
        assert take("001") == b"001"  # gone by: read anew
    assert store.read_names.count("001") == 2


def test_one_location_as_often_as_it_stands_in_the_order() -> None:
    store = Store({"a": 5, "b": 5})
    with ReadAhead(store.open, ["a", "b", "a"]) as take:
        assert [take(name) for name in "aba"] == [b"a", b"b", b"a"]
    assert sorted(store.opened) == ["a", "a", "b"]


def test_leaving_early_ends_all_threads() -> None:
    order = names(500)
    store = Store(dict.fromkeys(order, 60))
    before = threading.active_count()
    with pytest.raises(KeyError), ReadAhead(store.open, order, reads=4, most_bytes=100) as take:
        assert take("000") == b"000"
        raise KeyError
    assert threading.active_count() == before
    assert len(store.opened) < 30
