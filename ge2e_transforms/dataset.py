"""Opens a dataset folder: metadata, speakers, indexes. What is incomplete or of another format is refused.

Imports NumPy and pyarrow only. It must not know how batches are made.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ge2e_transforms import schema
from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import DatasetError

# What no reader can do without.
_NEEDED = {"feature_shape", "recipe", "shards", "speakers", "splits", "statistics"}


class Dataset:
    """A complete dataset on a local disk.

    Attributes:
        root: its folder.
        metadata: content of `metadata.json`.
        recipe: what its features were made by.
    """

    def __init__(self, root: Path, metadata: dict[str, Any]) -> None:
        self.root = root
        self.metadata = metadata
        self.recipe = Recipe.from_dict(metadata["recipe"])

    @classmethod
    def open(cls, root_dir: str | Path) -> Dataset:
        """Opens a folder.

        Raises:
            DatasetError: no `metadata.json` (so not complete), not one of ours, or of a newer format.
        """
        if "://" in str(root_dir):
            raise DatasetError(f"{root_dir} is on a store: datasets are read from local folders; copy it first")
        root = Path(root_dir)
        path = root / schema.METADATA_FILE
        if not path.is_file():
            state = "the folder does not exist" if not root.exists() else "it holds no metadata.json"
            raise DatasetError(
                f"no complete dataset at {root}: {state}. metadata.json is written last, so a job that was stopped "
                "leaves none: run the same `ge2e run` command again, or check the path"
            )
        metadata = _read_metadata(path)
        if metadata.get("format") != schema.FORMAT:
            raise DatasetError(
                f"{path}: expected format {schema.FORMAT!r}, got {metadata.get('format')!r}: not one of ours"
            )
        if metadata.get("format_version") != schema.FORMAT_VERSION:
            raise DatasetError(
                f"{path}: expected format version {schema.FORMAT_VERSION}, got {metadata.get('format_version')!r}: "
                "read it with the version of ge2e-features that wrote it"
            )
        if missing := sorted(_NEEDED - metadata.keys()):
            raise DatasetError(f"{path}: {', '.join(missing)} missing: the file is damaged")
        return cls(root, metadata)

    @property
    def splits(self) -> list[str]:
        """Names of the splits, train first."""
        return list(self.metadata["splits"])

    def shards(self, split: str) -> list[dict[str, Any]]:
        """What metadata says of each shard of a split, in order.

        Raises:
            DatasetError: the dataset has no such split.
        """
        if split not in self.metadata["shards"]:
            raise DatasetError(f"{self.root} has no split {split!r}: it has {', '.join(self.splits)}")
        entries: list[dict[str, Any]] = self.metadata["shards"][split]
        return entries

    def shard_paths(self, split: str) -> list[Path]:
        """Record files of a split, numbered as in the index column `shard`.

        Raises:
            DatasetError: a file is missing or not as long as metadata says.
        """
        paths = []
        for entry in self.shards(split):
            path = self.root / schema.shard_files(entry["base"])[0]
            if entry["records"]:
                self._check_size(path, entry["records_bytes"])
            paths.append(path)
        return paths

    def index(self, split: str) -> dict[str, npt.NDArray[Any]]:
        """Integer columns of all records of a split: `shard` and `schema.SAMPLER_COLUMNS`, in record order."""
        self.shards(split)
        table = self._table(self.metadata["splits"][split]["index"])
        return {name: table[name].to_numpy() for name in schema.split_index_schema().names}

    def shard_index(self, split: str, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The index of one shard, with the columns for people too."""
        entry = self.shards(split)[shard]
        if not entry["records"]:
            return schema.index_schema(self.recipe.n_bins).empty_table()
        path = self.root / schema.shard_files(entry["base"])[1]
        self._check_size(path, entry["index_bytes"])
        return _read_table(path, columns)

    @functools.cached_property
    def speakers(self) -> pa.Table:
        """One row a speaker: `schema.speakers_schema()`."""
        return self._table(self.metadata["speakers"])

    def ledger(self) -> pa.Table:
        """One row for each manifest row that was not written, with the reason."""
        return self._table(self.metadata["ledger"])

    def _table(self, entry: dict[str, Any]) -> pa.Table:
        path = self.root / entry["path"]
        self._check_size(path, entry["bytes"])
        table = _read_table(path, None)
        if len(table) != entry["rows"]:
            raise DatasetError(f"{path}: expected {entry['rows']} rows, got {len(table)}: the file is damaged")
        return table

    def _check_size(self, path: Path, expected: int) -> None:
        try:
            got = path.stat().st_size
        except FileNotFoundError:
            raise DatasetError(
                f"{path} is missing, although metadata.json lists it: was the folder copied while it was written, "
                "or copied in part? Copy it again, or run `ge2e run` again"
            ) from None
        if got != expected:
            raise DatasetError(f"{path}: expected {expected} bytes, got {got}: the file was changed or cut off")


def sha256_of(stream: BinaryIO) -> str:
    """Checksum of what is left in a stream, 64 hex digits."""
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{path} is not JSON ({error}): the file is damaged") from error
    if not isinstance(metadata, dict):
        raise DatasetError(f"{path}: expected a JSON object, got {type(metadata).__name__}")
    return metadata


def _read_table(path: Path, columns: Sequence[str] | None) -> pa.Table:
    try:
        return pq.read_table(path, columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} cannot be read as Parquet ({error}): the file is damaged") from error


def speaker_id_mapping(dataset: Dataset) -> dict[str, int]:
    """Label of every speaker, by `namespace/speaker_id`."""
    table = dataset.speakers
    return dict(zip(table["speaker_id"].to_pylist(), np.asarray(table["label"]).tolist(), strict=True))
