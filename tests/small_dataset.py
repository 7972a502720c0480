"""Writes dataset folders with known values: real records and indexes, no audio and no pipeline."""

from __future__ import annotations

import hashlib
import itertools
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ge2e_transforms import schema
from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.metadata import checksum_of
from ge2e_transforms.planning import PlanConfig
from ge2e_transforms.records import encode_record
from pipeline.tables import split_tables, write_index

GENERATION = "0123abcd"
DEFAULT = PRESETS["ge2e"]
Values = npt.NDArray[Any]
# Utterances of one speaker, each the values of its records, `[rows, bins]`.
Speaker = Sequence[Sequence[Values]]


def marked(record: int, rows: int) -> npt.NDArray[np.float32]:
    """Values that tell where they are from: record * 2048 + row + bin / 64, exact in float32."""
    return (record * 2048 + np.arange(rows)[:, None] + np.arange(DEFAULT.n_bins) / 64).astype(np.float32)


def speakers(prefix: str, count: int, first: int, utterances: int) -> dict[str, Any]:
    """Speakers with `utterances` utterances of 130 to 400 rows; records are numbered on from `first`."""
    numbers = itertools.count(first)
    rows = [130 + 27 * (number % 11) for number in range(count * utterances)]
    marks = [marked(next(numbers), length) for length in rows]
    return {
        f"test/{prefix}{s}": [[values] for values in marks[s * utterances : (s + 1) * utterances]] for s in range(count)
    }


# Waveforms; crops of 0.3 s are 4,800 samples, or 31 frames.
RAW = DEFAULT.replace(features="raw", crop_ms=300.0)


def raw_speakers(prefix: str, count: int, utterances: int = 4, seed: int = 0) -> dict[str, Any]:
    """Speakers whose utterances are 0.3 to 1 s of noise with an offset, PCM16, each as loud as it likes."""
    rng = np.random.default_rng(seed)

    def utterance() -> list[Values]:
        values = rng.normal(20, rng.uniform(100, 3000), (int(rng.integers(4900, 16000)), 1))
        return [np.clip(np.rint(values), -32768, 32767).astype(np.int16)]

    return {f"test/{prefix}{speaker}": [utterance() for _ in range(utterances)] for speaker in range(count)}


def write_twins(root: Path, shards: int = 4) -> tuple[Path, Path]:
    """A dataset of float16 values, and one that holds the same values as float32.

    Sixteen train and three test speakers with four utterances of 30 to 400 rows. Some values are zero, or so small that
    their float16 is less than a normal number.
    """
    rng = np.random.default_rng(0)
    splits: dict[str, dict[str, list[list[Values]]]] = {}
    for split, count in (("train", 16), ("test", 3)):
        for speaker in range(count):
            values = [rng.normal(-3, 2, (int(rows), DEFAULT.n_bins)) for rows in rng.integers(30, 400, 4)]
            for part in values:
                part[::7, ::5] *= rng.choice([0, 2**-14, 2**-17], part[::7, ::5].shape)
            narrow = [[part.astype(np.float16)] for part in values]
            splits.setdefault(split, {})[f"test/{split}{speaker}"] = narrow
    wide = {
        split: {
            name: [[v.astype(np.float32) for v in records] for records in spoken] for name, spoken in speakers.items()
        }
        for split, speakers in splits.items()
    }
    half = write_dataset(root / "float16", splits, DEFAULT.replace(dtype="float16"), shards)
    return half, write_dataset(root / "float32", wide, DEFAULT, shards)


def write_dataset(
    root: Path,
    splits: dict[str, dict[str, Speaker]],
    recipe: Recipe = DEFAULT,
    shards: int = 2,
    speakers_per_batch: int = 4,
    utterances_per_speaker: int = 3,
    sessions: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """Writes `splits`, by name and speaker, in sorted order. Returns `root`.

    Two utterances are a session, unless `sessions` gives the number of the session of each, by speaker.
    """
    metadata: dict[str, Any] = {"splits": {}, "shards": {}}
    tables = []
    label = 0
    for split in sorted(splits, key=schema.split_key):
        names = sorted(splits[split])
        cuts = np.array_split(names, shards)
        metadata["shards"][split], indexes = [], []
        for number, cut in enumerate(cuts):
            base = schema.shard_base(split, GENERATION, number, shards)
            part = {name: splits[split][name] for name in cut.tolist()}
            entry, index = _write_shard(root, base, part, label, recipe, sessions or {})
            metadata["shards"][split].append(entry)
            indexes.append(index)
            label += len(part)
        index, speakers = split_tables(indexes, split, recipe)
        metadata["splits"][split] = {"index": _write_split_index(root, index, split)}
        tables.append(speakers)
    frames = [v for speaker in splits.get("train", {}).values() for records in speaker for v in records]
    entries = [entry for split in metadata["shards"].values() for entry in split if entry["records"]]
    metadata["files"] = [schema.shard_files(entry["base"])[0] for entry in entries]
    metadata |= _about(recipe, speakers_per_batch, utterances_per_speaker)
    metadata["statistics"] = _statistics(frames)
    metadata["speakers"] = _write_table(root, pa.concat_tables(tables), schema.speakers_file(GENERATION))
    write_metadata(root, metadata)
    return root


def write_metadata(root: Path, metadata: dict[str, Any]) -> None:
    """With the checksum of these values."""
    content = {**metadata, "checksum": checksum_of(metadata)}
    (root / schema.METADATA_FILE).write_text(json.dumps(content))


def _about(recipe: Recipe, speakers_per_batch: int, utterances_per_speaker: int) -> dict[str, Any]:
    return {
        "format": schema.FORMAT,
        "format_version": schema.FORMAT_VERSION,
        "fingerprint": recipe.fingerprint(),
        "feature_shape": recipe.feature_shape,
        "features": recipe.feature.features,
        "segments": recipe.segment.segments,
        "dtype": recipe.dtype,
        "speakers_per_batch": speakers_per_batch,
        "utterances_per_speaker": utterances_per_speaker,
        "batch_size": speakers_per_batch * utterances_per_speaker,
        "recipe": recipe.to_dict(),
        "plan": asdict(PlanConfig()),
        "datasets": ["test"],
    }


def _write_shard(
    root: Path,
    base: str,
    speakers: dict[str, Speaker],
    label: int,
    recipe: Recipe,
    sessions: Mapping[str, Sequence[int]],
) -> tuple[dict[str, Any], pa.Table | None]:
    rows: list[dict[str, Any]] = []
    content = bytearray()
    for rank, (name, utterances) in enumerate(speakers.items()):
        for number, records in enumerate(utterances):
            session = sessions[name][number] if name in sessions else number // 2
            for values in records:
                fields = {schema.KEY_SPEAKER: name, schema.KEY_LABEL: label + rank, schema.KEY_UTTERANCE: f"u{number}"}
                framed, payload = encode_record(values, fields)
                place = {"offset": len(content), "length": len(framed), "payload_offset": len(content) + payload}
                rows.append(place | _row(name, label + rank, number, session, values))
                content += framed
    if not rows:
        return {"base": base, "records": 0, "frames": 0, "records_bytes": 0, "index_bytes": 0}, None
    index = pa.Table.from_pylist(rows, schema=schema.index_schema(recipe.n_bins))
    path = root / schema.shard_files(base)[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    written = _write_table(root, index, schema.shard_files(base)[1])
    frames = sum(row["frames"] for row in rows)
    entry = {"base": base, "records": len(rows), "frames": frames, "records_bytes": len(content)}
    return entry | {"index_bytes": written["bytes"], "index_sha256": written["sha256"]}, index


def _row(name: str, label: int, utterance: int, session: int, values: Values) -> dict[str, Any]:
    exact = _exact(values)
    return {
        "frames": len(values),
        "label": label,
        "utterance_index": utterance,
        "session_index": session,
        "source_index": 0,
        "flags": 0,
        "speaker_id": name,
        "utterance_id": f"u{utterance}",
        "session_id": f"s{session}",
        "source": "test",
        "subset": "",
        "audio_path": "",
        "start": 0,
        "samples": 0,
        "voiced_fraction": 1.0,
        "gain_db": 0.0,
        "audio_hash": zlib.crc32(f"{name} {utterance}".encode()),
        "mean": exact.mean(axis=0),
        "deviation": exact.std(axis=0),
    }


def _exact(values: Values) -> npt.NDArray[np.float64]:
    return values.astype(np.float64) / (schema.PCM16_SCALE if values.dtype.kind == "i" else 1)


def _statistics(records: Sequence[Values]) -> dict[str, Any]:
    if not records:
        return {"split": "train", "frames": 0, "mean": [], "std": []}
    frames = sum(map(len, records))
    mean = sum(_exact(values).sum(axis=0) for values in records) / frames
    variance = sum(np.square(_exact(values) - mean).sum(axis=0) for values in records) / frames
    return {"split": "train", "frames": frames, "mean": mean.tolist(), "std": np.sqrt(variance).tolist()}


def _write_split_index(root: Path, index: pa.Table, split: str) -> dict[str, Any]:
    name = schema.split_index_file(split, GENERATION)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    write_index(index, root / name)
    content = (root / name).read_bytes()
    return _described(name, index, content) | {"crc32c": google_crc32c.value(content)}


def _write_table(root: Path, table: pa.Table, name: str) -> dict[str, Any]:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return _described(name, table, path.read_bytes())


def _described(name: str, table: pa.Table, content: bytes) -> dict[str, Any]:
    return {"path": name, "rows": len(table), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
