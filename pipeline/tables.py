"""What Commit publishes beside the shards: index of a split, speakers, ledger, statistics. Pure, but for `write_index`.

Tables by `schema`, lengths in frames and seconds of features. It must not know where a dataset lies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ge2e_transforms import schema
from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import LedgerRow
from pipeline.layers import Layer, concatenated, join, session_names

# Read from the index of each shard: the sampler's integers, and what speakers are summed up by.
SHARD_COLUMNS = (*schema.SAMPLER_COLUMNS, "speaker_id", "session_id", "source")


def split_tables(
    shards: Iterable[pa.Table | None], split: str, recipe: Recipe, *, layered: bool = False
) -> tuple[pa.Table, pa.Table]:
    """Index and speakers of a split from the indexes of its shards (None for a shard without records).

    A large speaker lies in several shards, each of which counts its utterances and sessions from 0: here
    they are numbered through. Shards are taken one after the other, and their text is let go once its speakers are
    summed up: what is kept of a record are the 29 bytes of the index. `layered`: shards of several jobs, so that
    speakers may return after others; the names of all sessions are kept too, then.
    """
    indexes: list[pa.Table] = []
    speakers, layers = [schema.speakers_schema().empty_table()], []
    for part in _whole_speakers(shards):
        numbered = number_through(part)
        index = numbered.select(schema.SPLIT_COLUMNS).cast(schema.split_index_schema())
        people = speaker_table(numbered, split, recipe)
        if layered:
            layers.append(Layer(index, people, session_names(numbered)))
        else:
            indexes.append(index)
            speakers.append(people)
    if layers:
        indexes, joined = join(layers)
        speakers.append(joined)
    return concatenated(indexes), pa.concat_tables(speakers)


def _whole_speakers(shards: Iterable[pa.Table | None]) -> Iterator[pa.Table]:
    """The indexes of shards, with their number; those of shards that share a speaker are joined."""
    held: list[pa.Table] = []
    for number, table in enumerate(shards):
        if table is None:
            continue
        # Parts of a speaker lie in shards that follow each other; each holds the speaker at all speeds.
        if held and not len(np.intersect1d(held[-1]["label"].to_numpy(), table["label"].to_numpy())):
            yield pa.concat_tables(held)
            held = []
        held.append(table.add_column(0, "shard", pa.array(np.full(len(table), number, dtype=np.int32))))
    if held:
        yield pa.concat_tables(held)


def write_index(index: pa.Table, path: Path) -> None:
    """A split's index as an Arrow file, uncompressed and in one batch, so that readers map it into memory as it is."""
    with path.open("wb") as sink, pa.ipc.new_file(sink, index.schema) as writer:
        writer.write_table(index, max_chunksize=max(1, len(index)))


def number_through(index: pa.Table) -> pa.Table:
    """Makes `utterance_index` and `session_index` dense within speakers that lie in more than one shard."""
    label, shard = (index[name].to_numpy() for name in ("label", "shard"))
    if shard[0] == shard[-1]:  # nearly always
        return index
    places, counts = np.unique(np.unique(np.stack([label, shard]), axis=1)[0], return_counts=True)
    cut = places[counts > 1]
    if not len(cut):
        return index
    utterance, session = (index[name].to_numpy().copy() for name in ("utterance_index", "session_index"))
    for speaker in cut:
        rows = np.flatnonzero(label == speaker)
        utterance[rows] = _dense(list(zip(shard[rows].tolist(), utterance[rows].tolist(), strict=True)))
        session[rows] = _dense(index["session_id"].take(pa.array(rows)).to_pylist())
    for name, values in (("utterance_index", utterance), ("session_index", session)):
        index = index.set_column(index.column_names.index(name), name, pa.array(values.astype(np.int32)))
    return index


def _dense(keys: Sequence[Any]) -> list[int]:
    """Numbers from 0 in the order of first appearance."""
    numbers: dict[Any, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def speaker_table(index: pa.Table, split: str, recipe: Recipe) -> pa.Table:
    """One row a speaker, sorted by label."""
    groups = index.group_by(["label", "speaker_id"], use_threads=False).aggregate(
        [
            ("source", "min"),
            ("utterance_index", "max"),
            ("session_index", "max"),
            ("frames", "sum"),
            ("frames", "count"),
        ]
    )
    groups = groups.sort_by("label")
    frames, records = (groups[name].to_pylist() for name in ("frames_sum", "frames_count"))
    columns = {
        "speaker_id": groups["speaker_id"],
        "label": groups["label"],
        "split": pa.array([split] * len(groups)),
        "source": groups["source_min"],
        "utterances": groups["utterance_index_max"].to_numpy().astype(np.int64) + 1,
        "sessions": groups["session_index_max"].to_numpy().astype(np.int64) + 1,
        "frames": frames,
        "seconds": list(map(recipe.seconds, frames, records)),
    }
    return pa.table(columns).cast(schema.speakers_schema())


def ledger_table(rows: Iterable[LedgerRow]) -> pa.Table:
    """The ledger in the order of the manifests."""
    ordered = sorted(rows, key=lambda row: (row.manifest, row.position))
    return pa.Table.from_pylist([row._asdict() for row in ordered], schema=schema.ledger_schema())


def feature_statistics(done: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Per-bin mean and standard deviation over all frames, summed in shard order."""
    frames, sums, squares = 0, np.zeros(1), np.zeros(1)
    for part in _with_frames(done):
        frames += part["frames"]
        sums, squares = sums + np.array(part["sums"]), squares + np.array(part["squares"])
    if not frames:
        return {"frames": 0, "mean": [], "std": []}
    mean = sums / frames
    std = np.sqrt(np.maximum(squares / frames - np.square(mean), 0))
    return {"frames": frames, "mean": mean.tolist(), "std": std.tolist()}


def _with_frames(done: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (entry["statistics"] for entry in done if entry["statistics"]["frames"])


def add_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Counts by reason, added up and sorted by reason."""
    total: Counter[str] = Counter()
    for entry in counts:
        total.update(entry)
    return dict(sorted(total.items()))


def split_counts(done: Sequence[dict[str, Any]], speakers: pa.Table, recipe: Recipe) -> dict[str, Any]:
    """What metadata says of one split."""
    names = ("utterances", "records", "frames")
    counts = {name: sum(entry[name] for entry in done) for name in names}
    seconds = recipe.seconds(counts["frames"], counts["records"])
    return {"speakers": len(speakers), **counts, "seconds": round(seconds, 3), "shards": len(done)}
