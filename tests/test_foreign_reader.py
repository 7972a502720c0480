"""Datasets of every form, read by a reader that was written from docs/format.md and knows nothing of this project."""

from __future__ import annotations

import ast
import json
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import augmented
import foreign_checks
import foreign_reader
import jobs
import pytest
import synth

from ge2e_transforms.config import PRESETS
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.planning import PlanConfig
from pipeline.commit import commit

pytestmark = pytest.mark.usefixtures("unsynced")

DEFAULT = PRESETS["ge2e"]
FORMS: dict[str, dict[str, Any]] = {
    "utterances": {},
    "windows": {"segments": "windows"},
    "float16": {"dtype": "float16"},
    "raw": {"features": "raw"},
}
ALLOWED = {"__future__", "collections", "json", "pathlib", "pyarrow", "struct", "typing"}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory, unsynced: None) -> dict[str, Path]:
    """A dataset of each form, of three speakers in two splits; and one with copies of utterances."""
    root = tmp_path_factory.mktemp("foreign")
    manifest = synth.small_corpus(root / "corpus", speakers=3, utterances=2, seconds=2.4, test_speakers=1)
    for form, changes in FORMS.items():
        plan = PlanConfig(min_shards=2)
        config = jobs.job(root / form, manifest, recipe=DEFAULT.replace(**changes), plan=plan)
        planned = jobs.write_all(config)
        commit(config, planned.plan, planned.rejected)
    augmented.small(root / "copies", "room: {manifest: rooms.csv}\nspeed: [0.9]", speakers=2)
    return {form: root / form for form in FORMS} | {"copies": root / "copies" / "dataset"}


def index_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of the indexes of all shards, in order."""
    dataset, shards = Dataset.open(folder), jobs.metadata_of(folder)["shards"]
    numbers = [(split, n) for split, entries in shards.items() for n, entry in enumerate(entries) if entry["records"]]
    return [row for split, number in numbers for row in dataset.shard_index(split, number).to_pylist()]


@pytest.mark.parametrize("form", [*FORMS, "copies"])
def test_a_reader_by_the_page_reads_what_ours_reads(datasets: dict[str, Path], form: str) -> None:
    found = foreign_checks.read_and_check(datasets[form])
    records = [record for split in jobs.metadata_of(datasets[form])["splits"] for record in found[split]]
    assert [record.row for record in records] == index_rows(datasets[form])
    ours = list(jobs.stored_records(datasets[form]))
    assert len(records) == len(ours) >= 3
    assert set(found) == {"train", "test"}
    for record, (values, fields, _) in zip(records, ours, strict=True):
        text = {name: value.decode() if isinstance(value, bytes) else value for name, value in record.fields.items()}
        assert text.pop("spectrogram/dtype") == {"f": str(values.dtype), "i": "pcm16"}[values.dtype.kind]
        assert text == fields
        assert record.shape == values.shape
        kind = foreign_reader.TYPES[record.fields["spectrogram/dtype"].decode()]
        assert struct.pack(f"<{len(record.values)}{kind}", *record.values) == values.tobytes()


def test_forms_differ_as_the_page_says(datasets: dict[str, Path]) -> None:
    found = {form: foreign_reader.read(folder)["train"] for form, folder in datasets.items()}
    assert {record.shape for record in found["windows"]} == {(121, 40)}
    assert {record.shape[1] for record in found["raw"]} == {1}
    for wide, narrow in zip(found["utterances"], found["float16"], strict=True):
        halves = f"<{len(wide.values)}e"
        assert narrow.values == struct.unpack(halves, struct.pack(halves, *wide.values))
    done = {record.fields["utterance/augmentation"] for record in found["copies"]}
    assert done == {b"", b"room", b"speed0.9", b"speed0.9+room"}


def copied(folder: Path, target: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of a dataset, and its metadata."""
    for path in folder.rglob("*.*"):
        (target / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        (target / path.relative_to(folder)).write_bytes(path.read_bytes())
    return target, jobs.metadata_of(target)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("ending", ["tfrecord", "index.parquet", "arrow"])
def test_a_flipped_byte_of_any_file_is_noticed(datasets: dict[str, Path], tmp_path: Path, ending: str) -> None:
    folder, _ = copied(datasets["float16"], tmp_path / "copy")
    damaged = next(folder.glob(f"test/*.{ending}"))
    flip(damaged, damaged.stat().st_size // 2)
    with pytest.raises(foreign_reader.DamageError):
        foreign_checks.read_and_check(folder)


@pytest.mark.parametrize(("place", "what"), [(3, "length"), (10, "length"), (12, "data"), (5000, "data"), (-2, "data")])
def test_the_checksums_of_a_record_are_what_notices(
    datasets: dict[str, Path], tmp_path: Path, place: int, what: str
) -> None:
    """The reader looks at no checksum of a file."""
    folder, metadata = copied(datasets["float16"], tmp_path / "copy")
    shard = metadata["shards"]["test"][0]
    damaged = folder / f"{shard['base']}.tfrecord"
    flip(damaged, place)
    with pytest.raises(foreign_reader.DamageError, match=f"^{what} of a record$"):
        foreign_reader.read(folder)


def test_metadata_of_other_values_is_refused(datasets: dict[str, Path], tmp_path: Path) -> None:
    folder, metadata = copied(datasets["raw"], tmp_path / "copy")
    (folder / "metadata.json").write_text(json.dumps({**metadata, "next_label": metadata["next_label"] + 1}))
    with pytest.raises(foreign_reader.DamageError, match=r"metadata\.json"):
        foreign_checks.read_and_check(folder)


@pytest.mark.parametrize(
    ("module", "beside"), [(foreign_reader, set()), (foreign_checks, {"foreign_reader", "hashlib"})]
)
def test_the_reader_is_foreign(module: ModuleType, beside: set[str]) -> None:
    tree = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= ALLOWED | beside
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"__import__", "exec", "eval"}
