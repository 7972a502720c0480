"""Where records lie by the integers of an index, and that none leads out of its shard."""

from __future__ import annotations

import numpy as np
import pytest

from ge2e_transforms.errors import CorruptRecordError
from ge2e_transforms.split_index import SplitIndex

# Records of 3, 2 | none | 4, 1, 1 rows of 5 bytes.
BY_HAND = {"offset": [0, 40, 0, 50, 81], "frames": [3, 2, 4, 1, 1]}
SHARDS_BY_HAND = [
    {"records": 2, "records_bytes": 77},
    {"records": 0, "records_bytes": 0},
    {"records": 3, "records_bytes": 111},
]


def test_places_follow_from_the_shards_and_the_offset_of_the_next_record():
    columns = {"offset": np.array(BY_HAND["offset"]), "frames": np.array(BY_HAND["frames"], dtype=np.int32)}
    index = SplitIndex(columns, SHARDS_BY_HAND, row_bytes=5)
    assert len(index) == 5
    assert index.first_rows.tolist() == [0, 2, 2, 5]
    assert index.shard(np.arange(5)).tolist() == [0, 0, 2, 2, 2]
    places = index.places(np.arange(5))
    assert places.shard.tolist() == [0, 0, 2, 2, 2]
    assert places.offset.tolist() == [0, 40, 0, 50, 81]
    assert places.length.tolist() == [40, 37, 50, 31, 30]
    # The values end 4 bytes, a checksum, before the record does.
    assert places.payload.tolist() == [40 - 4 - 15, 77 - 4 - 10, 50 - 4 - 20, 81 - 4 - 5, 111 - 4 - 5]
    assert {array.dtype for array in places} == {np.dtype(np.int64)}


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_places_of_any_rows_in_any_order(kind):
    index = SplitIndex({name: np.array(values) for name, values in BY_HAND.items()}, SHARDS_BY_HAND, row_bytes=5)
    places = index.places(np.array([4, 1, 1, 2], dtype=kind))
    assert [values.tolist() for values in places] == [
        [2, 0, 0, 2],
        [81, 40, 40, 0],
        [30, 37, 37, 50],
        [102, 63, 63, 26],
    ]
    assert [len(values) for values in index.places(np.zeros(0, dtype=kind))] == [0, 0, 0, 0]


def test_places_and_lengths_beyond_2_gib():
    """`frames` has 32 bits, the bytes of a record may need more."""
    size = 3 << 30
    columns = {"offset": np.array([0, size]), "frames": np.array([2**20, 2**20], dtype=np.int32)}
    index = SplitIndex(columns, [{"records": 2, "records_bytes": 2 * size}], row_bytes=3000)
    assert index.places(np.arange(2)).payload.tolist() == [size - 4 - 3000 * 2**20, 2 * size - 4 - 3000 * 2**20]


@pytest.mark.parametrize("offset", [-1, 20, 60, 1 << 62])
def test_a_record_without_room_is_refused_before_it_is_read(offset):
    """A read of as many bytes was asked for, or of bytes of another record."""
    columns = {"offset": np.array([0, offset, 0, 50, 81]), "frames": np.array(BY_HAND["frames"], dtype=np.int32)}
    index = SplitIndex(columns, SHARDS_BY_HAND, row_bytes=5)
    with pytest.raises(CorruptRecordError, match=r"row [01] of a split's index says .* no room before the next record"):
        index.places(np.arange(2))
    assert index.places(np.arange(2, 5)).offset.tolist() == [0, 50, 81]
