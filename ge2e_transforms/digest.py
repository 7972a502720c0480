"""Whether two datasets are the same: one digest of the content whoever made it, and the difference of values.

It must not know how batches are made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ge2e_transforms import records, schema
from ge2e_transforms.config import canonical_json
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import DatasetError

# How far values may differ between datasets that other CPUs or decoders made, in units of the logarithm.
TOLERANCE = 1e-4
# What a record is, whatever its shard.
_IDENTITY = (schema.KEY_SPEAKER, schema.KEY_UTTERANCE, schema.KEY_START)


def digest(dataset: Dataset) -> str:
    """64 hex digits of all that does not name the run: recipe, shards, indexes, speakers, statistics.

    Equal for equal speech whichever runner, workers, order, folder or generation; versions, paths of
    manifests and the ledger's places are left out.
    """
    metadata = dataset.metadata
    names = ("records", "frames", "records_bytes", "records_sha256", "index_bytes", "index_sha256")
    content = {
        "format_version": metadata["format_version"],
        "recipe": metadata["recipe"],
        "feature_shape": metadata["feature_shape"],
        "datasets": metadata["datasets"],
        "counts": metadata["counts"],
        "statistics": metadata["statistics"],
        "speakers": metadata["speakers"]["sha256"],
        "indexes": {split: entry["index"]["sha256"] for split, entry in metadata["splits"].items()},
        "shards": {
            split: [{name: entry[name] for name in names} for entry in entries]
            for split, entries in metadata["shards"].items()
        },
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def compare(dataset: Dataset, other: Dataset) -> float:
    """Largest difference of any value of two datasets of the same recipe and rows, record by record in order.

    Their shards may differ, unless a speaker is cut in parts: that changes the order of the records. Of float16 one
    step is taken off: values that were almost equal may have been rounded to neighbours.

    Raises:
        DatasetError: other recipe or copies, or records that only one of them has or that differ in shape.
    """
    if dataset.recipe != other.recipe:
        raise DatasetError(f"{dataset.root} and {other.root} were made by different recipes")
    told = [data.metadata.get("augmentation", {}).get("fingerprint", "none")[:8] for data in (dataset, other)]
    if told[0] != told[1]:
        raise DatasetError(
            f"{dataset.root} and {other.root} were augmented otherwise (fingerprints {' and '.join(told)})"
        )
    if dataset.splits != other.splits:
        raise DatasetError(f"{dataset.root} has splits {dataset.splits}, {other.root} {other.splits}")
    largest = 0.0
    for split in dataset.splits:
        pairs = zip(_records(dataset, split), _records(other, split), strict=False)
        for (where, values, key), (other_where, other_values, other_key) in pairs:
            if key != other_key or values.shape != other_values.shape:
                raise DatasetError(
                    f"{where} holds {key} {values.shape}, {other_where} {other_key} {other_values.shape}"
                )
            difference = np.abs(values.astype(np.float64) - other_values)
            if values.dtype.kind == "i":
                difference /= schema.PCM16_SCALE
            if values.dtype == np.float16:
                step = np.spacing(np.maximum(np.abs(values), np.abs(other_values)))
                difference = np.maximum(difference - step, 0)
            largest = float(np.maximum(largest, difference.max(initial=0)))  # which keeps NaN
        counts = [data.metadata["splits"][split]["records"] for data in (dataset, other)]
        if counts[0] != counts[1]:
            raise DatasetError(f"split {split!r}: {counts[0]} records in {dataset.root}, {counts[1]} in {other.root}")
    return largest


def _records(dataset: Dataset, split: str) -> Iterator[tuple[str, npt.NDArray[Any], tuple[Any, ...]]]:
    """(place, values, identity) of every record of a split in order."""
    for path, entry in zip(dataset.shard_paths(split), dataset.shards(split), strict=True):
        if not entry["records"]:
            continue
        with path.open("rb") as stream:
            for offset, data in records.read_records(stream, str(path)):
                where = f"{path} at offset {offset}"
                values, fields = records.decode_example(data, where)
                yield where, values, tuple(fields[key] for key in _IDENTITY)
