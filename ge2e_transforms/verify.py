"""Re-reads a finished dataset and checks it: checksums, counts, index against records, values, splits.

`verify` stops at the first fault and says where it is. It must not use what the writer computes by (`shards`,
`shard_sums`, `sums`): a fault there would not be found.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ge2e_transforms import records, schema
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import CorruptRecordError, DatasetError
from ge2e_transforms.identity import Tombstones
from ge2e_transforms.metadata import require_complete
from ge2e_transforms.verify_index import check_copies, check_sha256, check_split

_NOTHING = hashlib.sha256().hexdigest()


@dataclass
class VerifyReport:
    """What was read, per split."""

    shards: Counter[str] = field(default_factory=Counter)
    records: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)


def verify(dataset: Dataset) -> VerifyReport:
    """Reads every byte of a dataset.

    Raises:
        DatasetError: the first fault, with file, offset and what was expected there.
    """
    dataset.require_local()
    report, statistics = VerifyReport(), _Statistics()
    _check_metadata(dataset)
    speakers = _check_speakers(dataset)
    for split in dataset.splits:
        tables = []
        for number, entry in enumerate(dataset.shards(split)):
            tables.append(_check_shard(dataset, split, number, entry, speakers, statistics))
            report.shards[split] += 1
            report.records[split] += entry["records"]
            report.bytes[split] += entry["records_bytes"]
        check_split(dataset, split, tables)
    statistics.check(dataset)
    _check_balance(dataset)
    if dataset.augmented:
        check_copies(dataset)
    return report


def _check_metadata(dataset: Dataset) -> None:
    """What metadata says twice, or what follows from another part of it, agrees."""
    metadata, recipe, where = dataset.metadata, dataset.recipe, dataset.root / schema.METADATA_FILE
    require_complete(metadata, str(where))
    shards = [entry for split in dataset.splits for entry in dataset.shards(split)]
    files = [schema.shard_files(entry["base"])[0] for entry in shards if entry["records"]]
    manifests, splits = metadata["manifests"], metadata["splits"]
    stated = {
        "recipe": (metadata["recipe"], recipe.to_dict()),
        "datasets": (metadata["datasets"], list(dict.fromkeys(metadata["datasets"]))),
        "split of the statistics": (metadata["statistics"]["split"], schema.TRAIN_SPLIT),
        "fingerprint": (metadata["fingerprint"], recipe.fingerprint()),
        "feature_shape": (metadata["feature_shape"], recipe.feature_shape),
        "features": (metadata["features"], recipe.feature.features),
        "segments": (metadata["segments"], recipe.segment.segments),
        "dtype": (metadata["dtype"], recipe.dtype),
        "batch_size": (metadata["batch_size"], metadata["speakers_per_batch"] * metadata["utterances_per_speaker"]),
        "files": (metadata["files"], files),
        "files_created": (metadata["files_created"], len(files)),
        "generation": ([metadata["generation"]], [step["generation"] for step in metadata["history"][-1:]]),
        "rows of the manifests": (sum(entry["rows"] for entry in manifests), metadata["counts"]["rows"]),
    }
    for name, entry in splits.items():
        seconds = round(recipe.seconds(entry["frames"], entry["records"]), 3)
        stated |= {f"shards of {name}": (entry["shards"], len(dataset.shards(name)))}
        stated |= {f"seconds of {name}": (entry["seconds"], seconds)}
    for name, (found, expected) in stated.items():
        if found != expected:
            raise DatasetError(f"{where}: expected {name} to be {expected!r}, got {found!r}: the file was changed")


@dataclass
class _Statistics:
    """Sums over the frames of the train split, to compare with the mean and deviation that metadata gives."""

    frames: int = 0
    sums: Any = 0.0
    squares: Any = 0.0

    def add(self, values: npt.NDArray[Any]) -> None:
        exact = _exact(values)
        self.frames += len(values)
        self.sums = self.sums + exact.sum(axis=0)
        self.squares = self.squares + np.square(exact).sum(axis=0)

    def check(self, dataset: Dataset) -> None:
        stated = dataset.metadata["statistics"]
        mean = self.sums / max(1, self.frames)
        std = np.sqrt(np.maximum(self.squares / max(1, self.frames) - np.square(mean), 0))
        found = {"frames": self.frames, "mean": mean, "std": std} if self.frames else {"frames": 0}
        for name, value in found.items():
            if np.shape(stated[name]) != np.shape(value) or not np.allclose(stated[name], value, rtol=1e-6, atol=1e-9):
                raise DatasetError(
                    f"{dataset.root / schema.METADATA_FILE}: {name} of the statistics does not agree with the records "
                    f"of the {schema.TRAIN_SPLIT} split: the file was changed"
                )


def _check_speakers(dataset: Dataset) -> dict[str, tuple[int, str]]:
    """Label and split of every speaker; each speaker and each label stands once."""
    entry = dataset.metadata["speakers"]
    place = dataset.root / entry["path"]
    check_sha256(place, entry["bytes"], entry["sha256"])
    table = dataset.speakers
    for name in ("speaker_id", "label"):
        doubled = [value for value, count in Counter(table[name].to_pylist()).items() if count > 1]
        if doubled:
            raise DatasetError(f"{place}: {name} {doubled[0]!r} stands more than once: splits are not disjoint")
    columns = [table[name].to_pylist() for name in ("speaker_id", "label", "split")]
    if erased := list(filter(Tombstones.of(dataset.metadata).hide, columns[0])):
        raise DatasetError(f"{place}: speaker {erased[0]!r} was erased, but is there")
    if (highest := max(columns[1], default=-1)) >= dataset.metadata["next_label"]:
        raise DatasetError(
            f"{place}: label {highest} is given, but {dataset.metadata['next_label']} is the next one by metadata.json"
        )
    return {speaker: (label, split) for speaker, label, split in zip(*columns, strict=True)}


def _check_shard(
    dataset: Dataset,
    split: str,
    number: int,
    entry: dict[str, Any],
    speakers: dict[str, tuple[int, str]],
    statistics: _Statistics,
) -> pa.Table:
    if not entry["records"]:
        _check_empty(dataset, entry)
        return dataset.shard_index(split, number)
    path, index_path = (dataset.root / name for name in schema.shard_files(entry["base"])[:2])
    check_sha256(path, entry["records_bytes"], entry["records_sha256"])
    check_sha256(index_path, entry["index_bytes"], entry["index_sha256"])
    index = dataset.shard_index(split, number)
    rows = index.to_pylist()
    _check_hashes(index_path, index)
    repeated = {**schema.REPEATED, **(schema.REPEATED_OF_COPIES if dataset.augmented else {})}
    frames, kind = 0, f"{dataset.recipe.n_bins} bins of {records.DTYPES[dataset.recipe.dtype]}"
    with path.open("rb") as stream:
        found = records.read_records(stream, str(path))
        for row, (offset, data) in zip(rows, found, strict=False):
            where = f"{path} at offset {offset}"
            values, fields = records.decode_example(data, where)
            _check_record(where, row, offset, data, values, (fields, repeated), kind)
            _check_speaker(where, row, split, speakers)
            _check_source(where, row, dataset.metadata["datasets"])
            _check_figures(where, row, values)
            frames += len(values)
            if split == schema.TRAIN_SPLIT:
                statistics.add(values)
        if stream.tell() != entry["records_bytes"]:
            raise DatasetError(
                f"{path}: {entry['records']} records end at {stream.tell()}, expected {entry['records_bytes']}"
            )
    labels = list(pc.min_max(index["label"]).as_py().values())
    for name, got in (("frames", frames), ("labels", labels)):
        if got != entry[name]:
            raise DatasetError(f"{path}: expected {name} {entry[name]}, got {got}")
    return index.select([*schema.SAMPLER_COLUMNS, "session_id"])


def _check_empty(dataset: Dataset, entry: dict[str, Any]) -> None:
    if {entry["records_sha256"], entry["index_sha256"]} != {_NOTHING} or entry["labels"]:
        where = dataset.root / schema.METADATA_FILE
        raise DatasetError(f"{where}: expected {entry['base']} to have the sha256 of no bytes: the file was changed")


def _check_hashes(index_path: Path, index: pa.Table) -> None:
    """The records of an utterance say the same of its samples."""
    label, utterance, found = (index[name].to_numpy() for name in ("label", "utterance_index", "audio_hash"))
    same = (label[1:] == label[:-1]) & (utterance[1:] == utterance[:-1])
    if len(wrong := np.flatnonzero(same & (found[1:] != found[:-1]))):
        row = int(wrong[0]) + 1
        raise DatasetError(
            f"{index_path}: audio_hash of row {row} is {found[row]}, of another record of the same utterance "
            f"{index['utterance_id'][row].as_py()!r} it is {found[row - 1]}: the file was changed"
        )


def _check_record(
    where: str,
    row: dict[str, Any],
    offset: int,
    data: bytes,
    values: npt.NDArray[Any],
    repeated: tuple[dict[str, str | int], dict[str, str]],
    kind: str,
) -> None:
    fields, keys = repeated
    payload = offset + records.HEADER_BYTES + len(data) - values.nbytes
    framed = records.HEADER_BYTES + len(data) + records.FOOTER_BYTES
    expected: dict[str, str | int] = {
        "offset": offset,
        "length": framed,
        "payload_offset": payload,
        "frames": len(values),
    }
    expected |= {name: fields.get(key, "missing") for name, key in keys.items()}
    for name, value in expected.items():
        if row[name] != value:
            raise CorruptRecordError(f"{where}: the index says {name}={row[name]!r}, the record {value!r}")
    if (found := f"{values.shape[1]} bins of {values.dtype}") != kind:
        raise CorruptRecordError(f"{where}: expected {kind}, got {found}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        place = np.argwhere(~np.isfinite(values))[0].tolist()
        raise CorruptRecordError(f"{where}: value {values[tuple(place)]} at [frame, bin] {place} is not finite")


def _check_speaker(where: str, row: dict[str, Any], split: str, speakers: dict[str, tuple[int, str]]) -> None:
    listed = speakers.get(row["speaker_id"])
    if listed != (row["label"], split):
        raise DatasetError(
            f"{where}: speaker {row['speaker_id']!r} has label {row['label']} in split {split!r} here, but "
            f"{listed} in the speakers table"
        )


def _check_figures(where: str, row: dict[str, Any], values: npt.NDArray[Any]) -> None:
    """Mean and deviation per bin, by which `normalize='utterance'` divides, are those of the record."""
    exact = _exact(values)
    mean = exact.mean(axis=0)
    for name, found in (("mean", mean), ("deviation", exact.std(axis=0))):
        # The writer takes them from sums of squares, of which the last digits cancel out.
        near = np.abs(np.array(row[name]) - found) <= 1e-5 * (1 + np.abs(mean) + np.abs(found))
        if not np.all(near):
            raise CorruptRecordError(
                f"{where}: the index says {name} {row[name][int(np.argmin(near))]} of bin {int(np.argmin(near))}, the "
                f"record {found[int(np.argmin(near))]}"
            )


def _exact(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Stored values as what they mean."""
    return values.astype(np.float64) / (schema.PCM16_SCALE if values.dtype.kind == "i" else 1)


def _check_source(where: str, row: dict[str, Any], sources: list[str]) -> None:
    number = row["source_index"]
    if not 0 <= number < len(sources) or sources[number] != row["source"]:
        raise DatasetError(
            f"{where}: the index says source {row['source']!r}, number {number}, of the datasets {sources} in "
            f"{schema.METADATA_FILE}"
        )


def _check_balance(dataset: Dataset) -> None:
    """Written + filtered + rejected = rows, and the ledger holds what metadata counts."""
    counts, entry = dataset.metadata["counts"], dataset.metadata["ledger"]
    check_sha256(dataset.root / entry["path"], entry["bytes"], entry["sha256"])
    ledger = dataset.ledger()
    for kind in ("filtered", "rejected"):
        reasons = ledger.filter(pc.equal(ledger["kind"], kind))["reason"].to_pylist()
        if dict(Counter(reasons)) != counts[kind]:
            raise DatasetError(f"metadata counts {kind} {counts[kind]}, the ledger holds {dict(Counter(reasons))}")
    written = sum(split["utterances"] for split in dataset.metadata["splits"].values())
    rows = counts["rows"] + counts.get("sped", 0)
    if (written, written + len(ledger)) != (counts["written"], rows):
        raise DatasetError(
            f"the sums do not balance: {rows} rows, {counts['written']} written, but {written} are there and "
            f"{len(ledger)} in the ledger"
        )
