"""Files whole or not at all, locally and on a store, and no name that is taken for a pattern."""

from __future__ import annotations

import gzip
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from jobs import files_in
from memory_store import MemoryStore

from ge2e_transforms.errors import ConfigError
from pipeline import storage


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[MemoryStore]:
    """An empty store; `tmp_path` is the scratch disk."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    MemoryStore.clear()
    return MemoryStore


@pytest.mark.parametrize(
    ("path", "local"),
    [("/data/x", True), ("x", True), ("gs://bucket/x", False), ("s3://bucket/x", False), ("C:\\x", True)],
)
def test_what_is_local(path: str, local: bool) -> None:
    assert storage.is_local(path) is local


def test_join(store: type[MemoryStore]) -> None:
    assert storage.join("/data/out", "train/a.tfrecord") == "/data/out/train/a.tfrecord"
    assert storage.join("memory://bucket/out", "train/a.tfrecord") == "memory://bucket/out/train/a.tfrecord"


def test_building_publishes_all_files_and_makes_their_folder(tmp_path: Path) -> None:
    finals = [tmp_path / "new" / "train" / name for name in ("a", "b")]
    with storage.building(*map(str, finals)) as (first, second):
        first.write_bytes(b"one")
        second.write_bytes(b"two")
        assert first.parent == finals[0].parent  # so that a rename is enough
        assert not any(final.exists() for final in finals)
    assert [final.read_bytes() for final in finals] == [b"one", b"two"]
    assert files_in(tmp_path) == {"new/train/a", "new/train/b"}


def test_building_replaces_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a longer text than the new one")
    with storage.building(str(tmp_path / "a")) as (path,):
        path.write_bytes(b"new")
        assert (tmp_path / "a").read_bytes() == b"a longer text than the new one"
    assert (tmp_path / "a").read_bytes() == b"new"


def test_building_that_fails_publishes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(KeyError), storage.building(str(tmp_path / "a"), str(tmp_path / "b")) as (first, second):
        first.write_bytes(b"new")
        second.write_bytes(b"new")
        raise KeyError
    assert files_in(tmp_path) == {"a"}
    assert (tmp_path / "a").read_bytes() == b"old"


def test_building_whose_second_publication_fails_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()  # a file cannot replace a folder
    with pytest.raises(OSError), storage.building(str(tmp_path / "a"), str(tmp_path / "b")) as (first, second):
        first.write_bytes(b"new")
        second.write_bytes(b"new")
    assert files_in(tmp_path) == {"a"}


def test_an_empty_file_is_not_published_and_takes_away_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"of an attempt when there was something to write")
    with storage.building(*(str(tmp_path / name) for name in "abc")) as paths:
        paths[0].write_bytes(b"")
        paths[1].write_bytes(b"")
        paths[2].write_bytes(b"x")
    assert files_in(tmp_path) == {"c"}


def test_write_bytes(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "new" / "a"), b"one")
    storage.write_bytes(str(tmp_path / "new" / "a"), b"2")
    assert files_in(tmp_path) == {"new/a"}
    assert storage.read_bytes(str(tmp_path / "new" / "a")) == b"2"


def test_a_store_gets_whole_objects_under_their_final_names(store: type[MemoryStore], tmp_path: Path) -> None:
    store.objects["memory://b/out/b"] = b"old"
    with storage.building("memory://b/out/a", "memory://b/out/b", "memory://b/out/c") as (first, second, third):
        first.write_bytes(b"one" * 1000)
        second.write_bytes(b"")
        third.write_bytes(b"three")
        assert store.uploads == []
        assert first.is_relative_to(tmp_path)
    assert store.objects == {"memory://b/out/a": b"one" * 1000, "memory://b/out/c": b"three"}
    assert store.uploads == ["memory://b/out/a", "memory://b/out/c"]
    assert list(tmp_path.iterdir()) == []


def test_a_failed_block_uploads_nothing(store: type[MemoryStore], tmp_path: Path) -> None:
    with pytest.raises(KeyError), storage.building("memory://b/a") as (path,):
        path.write_bytes(b"half")
        raise KeyError
    assert store.objects == {}
    assert list(tmp_path.iterdir()) == []


def test_expand_sorts_and_finds_nothing_without_error(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.txt"):
        (tmp_path / name).touch()
    assert storage.expand(f"{tmp_path}/*.csv") == [f"{tmp_path}/a.csv", f"{tmp_path}/b.csv"]
    assert storage.expand(f"{tmp_path}/a.csv") == [f"{tmp_path}/a.csv"]
    assert storage.expand(f"{tmp_path}/[bc].*") == [f"{tmp_path}/b.csv", f"{tmp_path}/c.txt"]
    assert storage.expand(f"{tmp_path}/*.json") == []
    assert storage.expand(f"{tmp_path}/nothing/a.csv") == []


def test_brackets_in_a_folder_are_no_glob(tmp_path: Path) -> None:
    """Beam's match and delete would look at run1 here."""
    ours, other = tmp_path / "run[1]" / "a.csv", tmp_path / "run1" / "a.csv"
    for path in (ours, other):
        path.parent.mkdir()
    other.write_bytes(b"other")
    assert storage.size(str(ours)) is None
    ours.write_bytes(b"ours!!")
    assert storage.size(str(ours)) == 6
    assert storage.expand(str(ours)) == [str(ours)]
    storage.remove([str(ours)])
    assert not ours.exists()
    assert other.read_bytes() == b"other"


def test_size_and_exists(tmp_path: Path, store: type[MemoryStore]) -> None:
    (tmp_path / "a").write_bytes(b"1234")
    store.objects["memory://b/a"] = b"12345"
    assert storage.size(str(tmp_path / "a")) == 4
    assert storage.size(str(tmp_path / "b")) is None
    assert storage.size("memory://b/a") == 5
    assert storage.size("memory://b/b") is None
    assert storage.exists("memory://b/a") and not storage.exists("memory://b/b")
    assert storage.exists(str(tmp_path / "a")) and not storage.exists(str(tmp_path / "b"))


def test_remove_does_not_mind_what_is_gone(tmp_path: Path, store: type[MemoryStore]) -> None:
    (tmp_path / "a").touch()
    store.objects.update({"memory://b/a": b"1", "memory://b/kept": b"2"})
    storage.remove([str(tmp_path / "gone"), str(tmp_path / "a")])
    storage.remove(["memory://b/gone", "memory://b/a"])
    storage.remove([])
    assert list(tmp_path.iterdir()) == []
    assert store.objects == {"memory://b/kept": b"2"}


def test_reading_leaves_compression_alone(tmp_path: Path) -> None:
    packed = gzip.compress(b"text", mtime=0)
    (tmp_path / "a.csv.gz").write_bytes(packed)
    assert storage.read_bytes(str(tmp_path / "a.csv.gz")) == packed


def test_leftovers_are_of_dead_processes_or_a_day_old(tmp_path: Path) -> None:
    """All temporary files were removed, those of attempts that were still writing too."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = platform.node()
    dead, alive, far = (f"{name}-{'0' * 32}" for name in (f"{host}-{ended.pid}", f"{host}-{os.getpid()}", "far-away-1"))
    for name in (f"a.tmp-{dead}", f"b.tmp-{alive}", f"c.tmp-{far}", "d.tmp-x", f"e.tmp-{dead}.txt", "f"):
        (tmp_path / name).touch()
    with storage.building(str(tmp_path / "g")) as (path,):
        path.touch()
        assert storage.leftovers(str(tmp_path)) == [f"{tmp_path}/a.tmp-{dead}"]
        assert storage.final_of(path.name) == "g"
    assert [storage.final_of(name) for name in ("d.tmp-x", f"e.tmp-{dead}.txt", "f", "")] == [""] * 4
    two_days_ago = time.time() - 2 * 86400
    for path in tmp_path.iterdir():
        os.utime(path, (two_days_ago, two_days_ago))
    names = {Path(path).name[0] for path in storage.leftovers(str(tmp_path))}
    assert names == {"a", "b", "c"}  # another program's names are left alone, however old
    assert storage.leftovers(str(tmp_path / "nothing")) == []
    assert storage.leftovers("memory://b") == []


def test_prepare_makes_the_folder_or_says_why_not(tmp_path: Path, store: type[MemoryStore]) -> None:
    storage.prepare(str(tmp_path / "deep" / "out"))
    storage.prepare(str(tmp_path / "deep" / "out"))
    assert (tmp_path / "deep" / "out").is_dir()
    storage.prepare("memory://b/out")
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / "file" / "out", "nosuch://b/out"):
        with pytest.raises(ConfigError, match=r"no dataset can be written to .*: expected a folder"):
            storage.prepare(str(wrong))


def test_checksum_of_a_file_longer_than_a_block(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert storage.sha256(str(tmp_path / "file")) == hashlib.sha256(content).hexdigest()
