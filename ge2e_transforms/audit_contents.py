"""What `audit` keeps of the indexes of all shards: a hash for each utterance, and who speaks where.

Of a dataset with augmentation only the utterances as they were spoken: what was made of them is no leak and no double,
and would repeat what is found of them. It must not know what is looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ge2e_transforms.dataset import Dataset
from ge2e_transforms.runs import Ints, changes

# What every look at an utterance needs.
IDENTITY = ("label", "utterance_index", "speaker_id", "source")
# Indexes of shards that are read at once.
_READERS = 16


class Contents:
    """What the indexes of all shards hold.

    Attributes:
        places: shards with records, in order.
        hashes: int64 `[utterances]`, `audio_hash` in the order of places and records.
        first: int64 `[places + 1]`, the first utterance of each place, and last their number.
        speakers: string array, each once.
        people: one row for each place, speaker and source, by rising place: `place`, `speaker_id`, `source`,
            `utterances`.
        code: int64, the number in `speakers` of each row of people.
        told: one row for each split, speaker and source: `split`, `speaker_id`, `source`, `code`, `detail`.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.places = dataset.held_shards()
        parts, people = [np.empty(0, dtype=np.int64)], [_no_people()]
        for number, table in enumerate(self.heads(range(len(self.places)), (*IDENTITY, "audio_hash"))):
            parts.append(table["audio_hash"].to_numpy())
            counts = table.group_by(["speaker_id", "source"], use_threads=False).aggregate([([], "count_all")])
            place = pa.array(np.full(len(counts), number, dtype=np.int32))
            people.append(pa.table([place, *counts.columns], schema=_no_people().schema))
        self.first = np.cumsum([len(part) for part in parts], dtype=np.int64)
        self.hashes = np.concatenate(parts)
        self.people = pa.concat_tables(people)
        self.speakers = pc.unique(self.people["speaker_id"])
        self.code = codes(self.people["speaker_id"])
        self.told = self._told()

    def heads(self, numbers: Sequence[int], columns: Sequence[str]) -> Iterator[pa.Table]:
        """The first record of each utterance of some places, with the columns asked for."""
        more = ("augmentation",) if self.dataset.augmented else ()

        def read(number: int) -> pa.Table:
            table = self.dataset.shard_index(*self.places[number], (*columns, *more))
            if more:  # what is neither a copy nor at another speed
                table = table.filter(pc.equal(table["augmentation"], "")).select(columns)
            label, utterance = (table[name].to_numpy() for name in IDENTITY[:2])
            return table.take(pa.array(np.flatnonzero(changes(label, utterance))))

        with ThreadPoolExecutor(_READERS) as pool:
            for start in range(0, len(numbers), _READERS):
                yield from pool.map(read, numbers[start : start + _READERS])

    def split_of(self, number: int) -> str:
        """Split of the place of this number."""
        return self.places[number][0]

    def _told(self) -> pa.Table:
        splits = pa.array(list(map(self.split_of, range(len(self.places)))), pa.string())
        people = self.people.append_column("split", splits.take(self.people["place"]))
        people = people.append_column("code", pa.array(self.code))
        keys = ["split", "speaker_id", "source", "code"]
        told = people.group_by(keys, use_threads=False).aggregate([("utterances", "sum")])
        count = pc.cast(told["utterances_sum"], pa.string())
        return told.select(keys).append_column("detail", pc.binary_join_element_wise(count, "utterance(s)", " "))


def _no_people() -> pa.Table:
    kinds = {"place": pa.int32(), "speaker_id": pa.string(), "source": pa.string(), "utterances": pa.int64()}
    return pa.schema(kinds.items()).empty_table()


def codes(column: pa.ChunkedArray) -> Ints:
    """A number for each value, from 0 in the order of first appearance."""
    chunks = column.dictionary_encode().chunks
    return np.concatenate([np.empty(0, dtype=np.int64), *(chunk.indices.to_numpy() for chunk in chunks)])
