"""What a job that adds to a dataset (`ge2e add`, `ge2e retry`) reads of the one that stands.

Tables, as they were published: speakers, ledger, indexes of shards. It must not know records: none is read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import LedgerRow, PlanError
from ge2e_transforms.planning import Plan
from ge2e_transforms.schema import shard_files
from ge2e_transforms.standing import Growth, KnownSpeaker, Standing
from ge2e_transforms.utterance import Utterance
from pipeline import storage


def growth_of(output: str, kind: str, metadata: Mapping[str, Any]) -> Growth:
    """What `kind` of job adds to."""
    table = _speakers(output, metadata["speakers"]["path"])
    columns = (table[name].to_pylist() for name in ("speaker_id", "split", "label"))
    known = {speaker: KnownSpeaker(split, label) for speaker, split, label in zip(*columns, strict=True)}
    return Growth(kind, Standing.of(metadata), known)


def known_of(
    output: str, plan: Plan, split: str, rows: Iterable[Utterance]
) -> tuple[dict[str, int], dict[str, set[str]]]:
    """Labels, and ids of utterances, of those speakers of some rows that stand in the dataset already."""
    if plan.grows is None:
        return {}, {}
    table = _speakers(output, plan.grows.speakers_file)
    speakers = texts({row.speaker_key for row in rows})
    table = table.filter(pc.is_in(table["speaker_id"], speakers))
    labels = dict(zip(table["speaker_id"].to_pylist(), table["label"].to_pylist(), strict=True))
    present: dict[str, set[str]] = {}
    for base in plan.grows.shards_of(split, labels.values()):
        index = read_table(storage.join(output, shard_files(base)[1]), "speaker_id", "utterance_id")
        index = index.filter(pc.is_in(index["speaker_id"], speakers))
        for speaker, utterance in zip(*(index[name].to_pylist() for name in index.column_names), strict=True):
            present.setdefault(speaker, set()).add(utterance)
    return labels, present


def speakers_of(output: str, metadata: Mapping[str, Any]) -> set[str]:
    """All speakers of a dataset, as `namespace/speaker_id`."""
    return set(_speakers(output, metadata["speakers"]["path"])["speaker_id"].to_pylist())


def ledger_of(output: str, metadata: Mapping[str, Any]) -> list[LedgerRow]:
    """The ledger of the dataset that stands."""
    table = read_table(storage.join(output, metadata["ledger"]["path"]), *LedgerRow._fields)
    return [LedgerRow(**row) for row in table.to_pylist()]


def retryable(ledger: Iterable[LedgerRow]) -> list[LedgerRow]:
    """Rows that another attempt may write: rejected for their audio, not for what the manifest says."""
    return [row for row in ledger if row.kind == "rejected" and row.stage != "manifest"]


def refuse_other_recipe(output: str, metadata: Mapping[str, Any], recipe: Recipe) -> None:
    """Raises PlanError if a dataset was made by another recipe, or by another version of this program's."""
    if metadata["fingerprint"] == recipe.fingerprint():
        return
    stood, asked = metadata["recipe"], recipe.to_dict()
    names = [f"{part}.{name}" for part in asked for name in asked[part] if asked[part][name] != stood[part].get(name)]
    why = f"they differ in {', '.join(names)}" if names else "a version of ge2e-features with another recipe made it"
    raise PlanError(
        f"{output} was made by another recipe (fingerprint {metadata['fingerprint'][:8]}) than this one "
        f"({recipe.fingerprint()[:8]}): {why}. A dataset has one recipe: leave these options out, or write the new "
        "manifests to another folder"
    )


def refuse_other_copies(output: str, metadata: Mapping[str, Any], augmented: str) -> None:
    """Raises PlanError if copies of a dataset were drawn otherwise than by the augmentation of this fingerprint."""
    stood = metadata.get("augmentation", {}).get("fingerprint", "")
    if stood != augmented:
        raise PlanError(
            f"{output} was augmented otherwise (fingerprint {stood[:8] or 'none'}) than these rows would be "
            f"({augmented[:8] or 'none'}): a dataset has one augmentation. Were the manifests of noise or rooms that "
            "it names changed or moved since? Put them back, or write the new rows to another folder"
        )


def texts(values: Iterable[str]) -> pa.Array:
    """A set of texts, to look up in a column."""
    return pa.array(sorted(values), pa.string())


def read_table(path: str, *columns: str) -> pa.Table:
    """Some columns of a Parquet file (all, if none is named), wherever it lies."""
    with storage.reading(path) as stream:
        return pq.read_table(pa.BufferReader(stream.read()), columns=list(columns) or None)


@functools.lru_cache(maxsize=1)  # each shard of a worker asks for it
def _speakers(output: str, name: str) -> pa.Table:
    return read_table(storage.join(output, name), "speaker_id", "split", "label")
