"""Opens a dataset folder: metadata, speakers, indexes. What is incomplete or of another format is refused.

Imports NumPy and pyarrow only. It must not know how batches are made.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ge2e_transforms import metadata as metadata_file
from ge2e_transforms import schema
from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import DatasetError
from ge2e_transforms.files import Cache, Folder, open_folder
from ge2e_transforms.records import DTYPES, crc32c_of
from ge2e_transforms.shard_files import READERS, LocalShards, StoreShards, open_shards
from ge2e_transforms.split_index import SplitIndex


class Dataset:
    """A complete dataset on a local disk or on a store.

    Attributes:
        folder: its files.
        root: its folder as a path, or the URL of a store.
        metadata: content of `metadata.json`.
        recipe: what its features were made by.
    """

    def __init__(self, folder: Folder, metadata: dict[str, Any]) -> None:
        self.folder = folder
        self.root: Any = Path(folder.root) if folder.is_local else folder.root
        self.metadata = metadata
        self.recipe = Recipe.from_dict(metadata["recipe"])

    @classmethod
    def open(cls, root_dir: str | Path, cache: Cache | None = None) -> Dataset:
        """Opens a folder, or `gs://` or `s3://`; see `files.Cache` for copies of what is on a store.

        Raises:
            DatasetError: no `metadata.json` (so not complete), not one of ours, of another format, or with values that
                no writer gives.
        """
        folder = open_folder(root_dir, cache)
        path = folder.where(schema.METADATA_FILE)
        size = folder.size(schema.METADATA_FILE)
        if size is None:
            missing = folder.is_local and not Path(folder.root).exists()
            state = "the folder does not exist" if missing else "it holds no metadata.json"
            raise DatasetError(
                f"no complete dataset at {root_dir}: {state}. metadata.json is written last, so a job that was stopped "
                "leaves none: run the same `ge2e run` command again, or check the path"
            )
        if size > metadata_file.MAX_BYTES:
            raise DatasetError(f"{path}: expected at most {metadata_file.MAX_BYTES} bytes, got {size}: not one of ours")
        metadata = metadata_file.parse(folder.read(schema.METADATA_FILE), path)
        dataset = cls(folder, metadata)
        dataset._check_recipe(path)
        return dataset

    def _check_recipe(self, where: str) -> None:
        """What metadata repeats of its recipe, and readers rely on."""
        recipe, metadata = self.recipe, self.metadata
        expected = {"feature_shape": recipe.feature_shape, "segments": recipe.segment.segments, "dtype": recipe.dtype}
        for name, value in expected.items():
            if metadata[name] != value:
                raise DatasetError(
                    f"{where}: expected {name} to be {value!r}, as by the recipe, got {metadata[name]!r}: the file was "
                    "changed"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        return Dataset, (self.folder, self.metadata)

    @property
    def splits(self) -> list[str]:
        """Names of the splits, train first."""
        return list(self.metadata["splits"])

    @property
    def augmented(self) -> bool:
        """Whether it may hold copies of utterances."""
        return "augmentation" in self.metadata

    def statistics(self, advice: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Mean and deviation of all train frames, `[bins]` each.

        Raises:
            DatasetError: there is no train frame; the message ends with the advice.
        """
        stored = self.metadata["statistics"]
        if not stored["frames"]:
            raise DatasetError(f"{self.root} has no statistics, as it has no train frames: {advice}")
        return np.array(stored["mean"], dtype=np.float64), np.array(stored["std"], dtype=np.float64)

    def shards(self, split: str) -> list[dict[str, Any]]:
        """What metadata says of each shard of a split, in order.

        Raises:
            DatasetError: the dataset has no such split.
        """
        if split not in self.metadata["shards"]:
            raise DatasetError(f"{self.root} has no split {split!r}: it has {', '.join(self.splits)}")
        entries: list[dict[str, Any]] = self.metadata["shards"][split]
        return entries

    def held_shards(self) -> list[tuple[str, int]]:
        """(split, number) of every shard that holds records, split by split, in order."""
        return [(split, n) for split in self.splits for n, entry in enumerate(self.shards(split)) if entry["records"]]

    def shard_names(self, split: str) -> list[str]:
        """Record files of a split, relative to the folder, in order. A shard without records has none."""
        return [schema.shard_files(entry["base"])[0] for entry in self.shards(split)]

    def check_shards(self, split: str) -> None:
        """Looks at the size of every record file of a split.

        Raises:
            DatasetError: a file is missing or not as long as metadata says.
        """
        entries = [entry for entry in self.shards(split) if entry["records"]]
        names = [schema.shard_files(entry["base"])[0] for entry in entries]
        for name, entry, size in zip(names, entries, self.folder.sizes(names), strict=True):
            self._refuse_size(name, entry["records_bytes"], size)

    def open_shards(self, split: str, readers: int = READERS) -> LocalShards | StoreShards:
        """Record files of a split for positional reads, numbered in order."""
        sizes = [entry["records_bytes"] for entry in self.shards(split)]
        return open_shards(self.folder, self.shard_names(split), sizes, readers)

    def shard_paths(self, split: str) -> list[Path]:
        """Record files of a split on the local disk, checked as by `check_shards`."""
        self.require_local()
        self.check_shards(split)
        return [self.root / name for name in self.shard_names(split)]

    def require_local(self) -> None:
        """Refuses a dataset on a store to what reads all of it.

        Raises:
            DatasetError: the dataset is on a store.
        """
        if not self.folder.is_local:
            raise DatasetError(f"{self.root} is on a store: this reads every byte, so copy the dataset first")

    def index(self, split: str) -> SplitIndex:
        """Integers of all records of a split.

        Raises:
            DatasetError: no such split, or the file is not what metadata says (its crc32c is compared).
        """
        shards, entry = self.shards(split), self.metadata["splits"][split]["index"]
        self._refuse_size(entry["path"], entry["bytes"], self.folder.size(entry["path"]))
        path = self.folder.local(entry["path"], entry["bytes"])
        with path.open("rb") as stream:
            crc = crc32c_of(stream)
        where = self.folder.where(entry["path"])
        if crc != entry["crc32c"]:
            raise DatasetError(
                f"{where}: expected crc32c {entry['crc32c']}, got {crc}: the file was changed or damaged"
            )
        table = _map_table(path, where)
        rows = sum(shard["records"] for shard in shards)
        if not len(table) == rows == entry["rows"] or table.schema != schema.split_index_schema():
            raise DatasetError(
                f"{where}: expected {rows} rows of {', '.join(schema.SPLIT_COLUMNS)}, as the shards in metadata.json "
                f"hold, got {len(table)} of {', '.join(table.column_names)}: the files are of different datasets"
            )
        columns = {name: table[name].to_numpy() for name in schema.SPLIT_COLUMNS}  # of one batch: not copied
        row_bytes = self.metadata["feature_shape"][0] * DTYPES[self.metadata["dtype"]].itemsize
        index = SplitIndex(columns, shards, row_bytes)
        if np.any(index["offset"][index.first_rows[:-1][np.diff(index.first_rows) > 0]]):
            raise DatasetError(
                f"{where}: expected offset 0 in the first row of every shard, as metadata.json counts them: the files "
                "are of different datasets"
            )
        self._check_frames(index, shards, where)
        return index

    def _check_frames(self, index: SplitIndex, shards: Sequence[dict[str, Any]], where: str) -> None:
        """Frames bound what is planned and held in memory, so they are added up before anything is done with them."""
        held = np.flatnonzero(np.diff(index.first_rows))
        sums = np.add.reduceat(index["frames"], index.first_rows[held], dtype=np.int64) if len(held) else held
        stated = [shards[number]["frames"] for number in held.tolist()]
        lowest = [int(index[name].min(initial=0)) for name in ("frames", "label", "utterance_index", "session_index")]
        if sums.tolist() != stated or min(lowest) < 0:
            raise DatasetError(
                f"{where}: expected frames that add up to those of the shards in metadata.json, and no negative "
                "number: the files are of different datasets, or damaged"
            )

    def shard_index(self, split: str, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The index of one shard, with the columns for people too.

        Raises:
            DatasetError: no such split, or the file is not what metadata says (its sha256 is compared).
        """
        entry, fields = self.shards(split)[shard], schema.index_schema(self.recipe.n_bins, self.augmented)
        if columns is not None:
            fields = pa.schema([fields.field(name) for name in columns])
        if not entry["records"]:
            return fields.empty_table()
        name = schema.shard_files(entry["base"])[1]
        said = {"bytes": entry["index_bytes"], "sha256": entry.get("index_sha256"), "rows": entry["records"]}
        return self._table({"path": name, **said}, fields, columns)

    @functools.cached_property
    def speakers(self) -> pa.Table:
        """One row a speaker: `schema.speakers_schema()`."""
        return self._table(self.metadata["speakers"], schema.speakers_schema())

    def ledger(self) -> pa.Table:
        """One row for each manifest row that was not written, with the reason."""
        return self._table(self.metadata["ledger"], schema.ledger_schema())

    def _table(self, entry: dict[str, Any], fields: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
        """A table that metadata describes, checked: its checksum, types of columns, and nulls where there are none."""
        self._refuse_size(entry["path"], entry["bytes"], self.folder.size(entry["path"]))
        where, content = self.folder.where(entry["path"]), self.folder.read(entry["path"])
        if (found := hashlib.sha256(content).hexdigest()) != entry["sha256"]:
            raise DatasetError(
                f"{where}: expected sha256 {entry['sha256']}, got {found}: the file was changed or damaged"
            )
        try:
            file = pq.ParquetFile(pa.BufferReader(content))
            table = file.read(columns=None if columns is None else list(columns))
            table.validate(full=True)
            names = table.column_names  # those that are no text fail here
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{where} cannot be read as Parquet ({error}): the file is damaged") from error
        if len(table) != entry["rows"]:
            raise DatasetError(f"{where}: expected {entry['rows']} rows, got {len(table)}: the file is damaged")
        for wanted in fields:
            found_at = table.schema.get_all_field_indices(wanted.name)
            if len(found_at) != 1 or table.schema.field(found_at[0]).type != wanted.type:
                raise DatasetError(
                    f"{where}: expected a column {wanted.name} of {wanted.type}, got {names}: the file is damaged"
                )
            if not wanted.nullable and table[wanted.name].null_count:
                raise DatasetError(f"{where}: expected a value in each row of {wanted.name}: the file is damaged")
        return table

    def _refuse_size(self, name: str, expected: int, got: int | None) -> None:
        if got is None:
            raise DatasetError(
                f"{self.folder.where(name)} is missing, although metadata.json lists it: was the folder copied while "
                "it was written, or copied in part? Copy it again, or run `ge2e run` again"
            )
        if got != expected:
            raise DatasetError(
                f"{self.folder.where(name)}: expected {expected} bytes, got {got}: the file was changed or cut off"
            )


def sha256_of(stream: BinaryIO) -> str:
    """Checksum of what is left in a stream, 64 hex digits."""
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _map_table(path: Path, where: str) -> pa.Table:
    """An uncompressed Arrow file, mapped into memory."""
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate()  # that no column ends before its rows do
        table.column_names  # noqa: B018  # names that are no text fail here
        return table
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{where} cannot be read as an Arrow file ({error}): the file is damaged") from error


def speaker_id_mapping(dataset: Dataset) -> dict[str, int]:
    """Label of every speaker, by `namespace/speaker_id`."""
    table = dataset.speakers
    return dict(zip(table["speaker_id"].to_pylist(), np.asarray(table["label"]).tolist(), strict=True))


def speaker_names(dataset: Dataset, labels: Sequence[int]) -> list[str]:
    """The speaker, as `namespace/speaker_id`, of each label.

    Raises:
        DatasetError: the speakers table lacks a label that the index has.
    """
    names = {label: name for name, label in speaker_id_mapping(dataset).items()}
    if lacking := [label for label in labels if label not in names]:
        raise DatasetError(
            f"{dataset.folder.where(dataset.metadata['speakers']['path'])}: expected a speaker of label {lacking[0]}, "
            "which the index has, got none: the files are of different datasets"
        )
    return [names[label] for label in labels]
