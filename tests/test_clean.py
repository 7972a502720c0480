"""`ge2e clean`: what it takes from a folder, what it leaves, and when it refuses; on a disk and on stores."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
import s3_server
from jobs import files_in, metadata_of, run_command
from memory_store import MemoryStore
from s3_server import BUCKET
from small_dataset import GENERATION, speakers, write_dataset, write_metadata

from ge2e_transforms import schema, stores
from ge2e_transforms.errors import DatasetError
from pipeline import __main__ as program
from pipeline import clean as module
from pipeline import storage
from pipeline.clean import clean

OTHER = "89abcdef"
TOKEN = "0123456789abcdef"
# Of another generation, of killed programs, and of a split that is no more.
STALE = (
    f"train/features-{OTHER}-00000-of-00002.tfrecord",
    f"train/features-{OTHER}-00000-of-00002.index.parquet",
    f"train/features-{OTHER}-00000-of-00002.done.json",
    f"train/features-{GENERATION}-00000-of-00003.done.json",
    f"train/features-{GENERATION}-00001-of-00002.started.json",
    f"train/index-{OTHER}.arrow",
    f"valid/index-{OTHER}.parquet",
    f"speakers-{OTHER}.parquet",
    f"ledger-{OTHER}.parquet",
    f"failed-{TOKEN}.json",
    f"doctor-{TOKEN}.jsonl",
    f"doctor-{TOKEN * 2}.txt",
    "ge2e-progress.json",
)
# Nearly such names, and a user's own.
KEPT = (
    "notes.txt",
    "README.md",
    "failed-rows.json",
    "progress.json",
    "doctor-notes.txt",
    "speakers.parquet",
    f"speakers-{OTHER}.parquet.bak",
    f"backup/deep/speakers-{OTHER}.parquet",
    f"deep/train/features-{OTHER}-00000-of-00002.tfrecord",
    "train/utt.wav",
    f"train/features-{OTHER}-0-of-2.tfrecord",
    f"features-{OTHER}-00000-of-00002.tfrecord",
    f"backup/failed-{TOKEN}.json",
    f"_old/index-{OTHER}.arrow",
)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "run[1]"
    root.mkdir()
    made = write_dataset(root, {"train": speakers("a", 4, 0, 3), "test": speakers("b", 2, 50, 3)})
    metadata = metadata_of(made)
    metadata["ledger"] = {"path": schema.ledger_file(GENERATION), "rows": 0, "bytes": 0, "sha256": "0" * 64}
    for name in jobs.listed_files(metadata):
        (made / name).touch()  # done files and ledger, which readers do not need
    write_metadata(made, metadata)
    return made


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"12345")


def test_only_names_of_ours_that_are_not_listed_go(dataset: Path) -> None:
    before = files_in(dataset)
    put(dataset, *STALE, *KEPT)
    dry = clean(str(dataset), dry_run=True)
    assert (dry.names, dry.bytes) == (sorted(STALE), 5 * len(STALE))
    assert files_in(dataset) == before | {*STALE, *KEPT}
    assert clean(str(dataset)) == dry
    assert files_in(dataset) == before | set(KEPT)
    assert not (dataset / "valid").exists()  # left empty
    assert clean(str(dataset)).names == []


def test_temporary_files_of_the_dead_and_of_yesterday_go(dataset: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    before, host, end = files_in(dataset), platform.node(), "0" * 32
    dead = f".tmp-{host}-{ended.pid}-{end}"
    gone = {f"{name}{dead}" for name in ("metadata.json", f"speakers-{OTHER}.parquet", STALE[0], STALE[4], STALE[9])}
    old = f"train/index-{OTHER}.arrow.tmp-far-away-7-{end}"
    young = {f"{STALE[0]}.tmp-far-away-7-{end}", f"{STALE[0]}.tmp-{host}-{os.getpid()}-{end}"}
    notes = {f"notes.txt{dead}", f"train/utt.wav{dead}", f"deep/train/index-{OTHER}.arrow{dead}", "x.tmp-1"}
    put(dataset, *gone, old, *young, *notes)
    for name in (old, "x.tmp-1"):
        os.utime(dataset / name, (0, 0))
    assert set(clean(str(dataset)).names) == gone | {old}
    assert files_in(dataset) == before | young | notes


def test_folders_of_splits_that_were_replaced_go_if_they_are_empty(dataset: Path) -> None:
    """Commit removes the files of a dataset that it replaces, and left the folders of splits that are no more."""
    metadata = metadata_of(dataset)
    metadata["replaced"] = [f"{split}/index-{OTHER}.arrow" for split in ("dev", "gone", "notes")]
    write_metadata(dataset, metadata)
    for name in ("valid", "dev", "mine", "notes"):  # `valid` of a dataset that was replaced before that one
        (dataset / name).mkdir()
    put(dataset, "notes/today.txt")
    assert clean(str(dataset), dry_run=True).names == []
    assert (dataset / "valid").is_dir()
    assert clean(str(dataset)).names == []
    assert {path.name for path in dataset.iterdir() if path.is_dir()} == {"train", "test", "mine", "notes"}


def test_without_metadata_finished_shards_stay(tmp_path: Path) -> None:
    put(tmp_path, *STALE, "notes.txt")
    with pytest.raises(DatasetError, match=r"holds no metadata\.json.*same `ge2e run` command, or give --unfinished"):
        clean(str(tmp_path))
    assert files_in(tmp_path) == {*STALE, "notes.txt"}
    assert clean(str(tmp_path), unfinished=True, dry_run=True).names == sorted(STALE)
    assert clean(str(tmp_path), unfinished=True).names == sorted(STALE)
    assert files_in(tmp_path) == {"notes.txt"}
    with pytest.raises(DatasetError, match=r"holds no metadata\.json"):
        clean(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "was not written by this program"),
        ("{", "was not written by this program"),
        ('{"format": "other"}', "was not written by this program"),
        ('{"format": "ge2e-features", "format_version": 1}', "expected format version 3, got 1"),
        ('{"format": "ge2e-features", "format_version": 3, "shards": {}}', "ledger, speakers, splits missing"),
    ],
)
def test_metadata_that_cannot_be_used_removes_nothing(content: str, message: str, tmp_path: Path) -> None:
    put(tmp_path, *STALE)
    (tmp_path / "metadata.json").write_text(content)
    for unfinished in (False, True):
        with pytest.raises(DatasetError, match=message):
            clean(str(tmp_path), unfinished=unfinished)
    assert files_in(tmp_path) == {*STALE, "metadata.json"}


@pytest.mark.parametrize("wrong", [GENERATION[::-1], "not of ours"])
def test_damaged_metadata_removes_nothing(wrong: str, dataset: Path) -> None:
    """A shard whose name was damaged in it was not listed, and removed."""
    content = (dataset / "metadata.json").read_text()
    (dataset / "metadata.json").write_text(content.replace(GENERATION, wrong, 1))
    before = files_in(dataset)
    with pytest.raises(DatasetError, match=r"the checksum in it is of other values|a name that `ge2e run` gives"):
        clean(str(dataset))
    assert files_in(dataset) == before


@pytest.mark.parametrize("stands", [True, False])
def test_a_dataset_published_meanwhile_loses_nothing(
    stands: bool, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files were not listed in the metadata that was read first."""
    put(dataset, *STALE)
    path = dataset / "metadata.json"
    content = path.read_bytes()
    if not stands:
        path.unlink()
    listing = storage.listing

    def publish(folder: str) -> dict[str, int]:
        found = listing(folder)
        path.write_bytes(content + b"\n")
        return found

    monkeypatch.setattr(module.storage, "listing", publish)
    before = files_in(dataset)
    with pytest.raises(DatasetError, match=r"changed while the folder was listed: a job is running. Nothing was"):
        clean(str(dataset), unfinished=True)
    assert files_in(dataset) == before | {"metadata.json"}


def test_the_command(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(dataset, *STALE, *KEPT)

    def ge2e(*arguments: str) -> tuple[int, str, str]:
        status = program.main(["clean", str(dataset), *arguments])
        return (status, *capsys.readouterr())

    names = "\n".join(sorted(STALE))
    assert ge2e("--dry_run") == (0, f"{names}\nwould remove 13 files, 65 bytes\n", "")
    assert ge2e() == (0, "removed 13 files, 65 bytes\n", "")
    assert ge2e("--dry_run") == (0, "would remove 0 files, 0 bytes\n", "")
    (dataset / "metadata.json").unlink()
    status, text, errors = ge2e()
    assert (status, text) == (1, "")
    assert errors.startswith(f"ge2e: DatasetError: {dataset} holds no metadata.json")
    assert len(errors.splitlines()) == 1
    assert ge2e("--unfinished")[0] == 0
    assert files_in(dataset) == set(KEPT)


def test_a_relative_folder(dataset: Path) -> None:
    put(dataset, *STALE)
    ended = run_command("clean", os.path.relpath(dataset, jobs.ROOT))
    assert (ended.returncode, ended.stdout) == (0, "removed 13 files, 65 bytes\n"), ended.stderr


# Stores.


def check_on_a_store(url: str, dataset: Path, put: Callable[[str, bytes], Any]) -> None:
    own = files_in(dataset)
    for name in own:
        if content := (dataset / name).read_bytes():
            put(name, content)
    there = set(storage.listing(url))
    assert there == {name for name in own if (dataset / name).stat().st_size}
    kept = [name for name in KEPT if not name.startswith("deep/")]
    for name in (*STALE, *kept):
        put(name, b"12345")
    cleaned = clean(url + "/")
    assert (cleaned.names, cleaned.bytes) == (sorted(STALE), 5 * len(STALE))
    assert set(storage.listing(url)) == there | set(kept)
    assert clean(url).names == []
    storage.remove([f"{url}/metadata.json"])
    with pytest.raises(DatasetError, match=r"holds no metadata\.json"):
        clean(url)
    clean(url, unfinished=True)
    assert set(storage.listing(url)) == set(kept)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3_server.S3Server]:
    with s3_server.s3_server() as server:
        monkeypatch.setattr(stores, "_CLIENT_TRIES", 1)
        yield from s3_server.in_environment(server, monkeypatch)


def test_on_s3(s3: s3_server.S3Server, dataset: Path) -> None:
    check_on_a_store(f"s3://{BUCKET}/run/out", dataset, lambda name, content: s3.put(f"run/out/{name}", content))
    s3.put(f"run/out-2/{STALE[0]}", b"of another folder whose name begins alike")
    assert clean(f"s3://{BUCKET}/run/out", unfinished=True).names == []


def test_on_gs(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server.gcs_emulator() as endpoint:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        check_on_a_store(
            f"gs://{BUCKET}/run/out",
            dataset,
            lambda name, content: s3_server.put_gcs(endpoint, f"run/out/{name}", content),
        )


def test_on_other_file_systems_of_beam(dataset: Path) -> None:
    MemoryStore.clear()
    root = "memory://b/run/out"
    check_on_a_store(root, dataset, lambda name, content: MemoryStore.objects.update({f"{root}/{name}": content}))
