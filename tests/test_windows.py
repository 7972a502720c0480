"""Windows of shards in memory: the right bytes, few at a time, errors where they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ge2e_transforms.errors import DatasetError
from ge2e_transforms.shard_files import LocalShards
from ge2e_transforms.windows import Window, Windows

CONTENT = [bytes((number * 50 + i) % 251 for i in range(100 + number)) for number in range(8)]
SIZES = [len(content) for content in CONTENT]


@pytest.fixture
def files(tmp_path: Path) -> LocalShards:
    paths = []
    for number, content in enumerate(CONTENT):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(content)
    return LocalShards(paths)


def test_bytes_come_from_memory(files: LocalShards):
    window = Window(files, SIZES, [3, 5], [])
    for path in files.paths:
        path.write_bytes(b"other")
    targets = [memoryview(bytearray(7)), memoryview(bytearray(2))]
    window.read_into([(5, 10), (3, 101)], targets)
    assert [bytes(target) for target in targets] == [CONTENT[5][10:17], CONTENT[3][101:103]]
    assert list(window.read([(3, 0, 4), (5, 99, 6)])) == [CONTENT[3][:4], CONTENT[5][99:105]]


def test_the_next_window_is_read_ahead_and_each_once(files: LocalShards, monkeypatch: pytest.MonkeyPatch):
    read: list[int] = []
    original = LocalShards.read_whole

    def counting(self: LocalShards, number: int, target: memoryview) -> None:
        read.append(number)
        original(self, number, target)

    monkeypatch.setattr(LocalShards, "read_whole", counting)
    windows = Windows(files, SIZES)
    order: Sequence[Sequence[int]] = [[0, 1], [2, 3], [4, 5], [6, 7]]
    for current, following in zip(order, [*order[1:], order[0]], strict=True):
        for _ in range(3):
            window = windows.get(current, following)
            assert list(window.read([(current[0], 0, 5)])) == [CONTENT[current[0]][:5]]
        assert len(windows._held) <= 3
    windows.get([0, 1], [2, 3])
    assert read[:8] == list(range(8))


def test_a_shard_that_is_gone_is_told_to_who_asks_for_it(files: LocalShards):
    files.paths[2].unlink()
    windows = Windows(files, SIZES)
    windows.get([0, 1], [2, 3])
    with pytest.raises(DatasetError, match="2 cannot be read"):
        windows.get([2, 3], [4, 5])
