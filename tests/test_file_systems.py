"""Files on a store as the pipeline uses them: globs, states, publication, and refusals that are told at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import s3_server
from s3_server import BUCKET, S3Server

from ge2e_transforms import stores
from ge2e_transforms.errors import ConfigError, StorageError
from pipeline import storage

NAMES = ("lists/a.csv", "lists/b.csv", "lists/b.csv.gz", "lists/deep/c.csv", "other/d.csv")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server.s3_server() as running:
        for name in NAMES:
            running.put(name, name.encode())
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    monkeypatch.setattr(stores, "_CLIENT_TRIES", 1)
    monkeypatch.setattr(stores, "_PAUSES_S", ())
    yield from s3_server.in_environment(server, monkeypatch)


def url(name: str) -> str:
    return f"s3://{BUCKET}/{name}"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("lists/*.csv", ["lists/a.csv", "lists/b.csv"]),
        ("lists/b.*", ["lists/b.csv", "lists/b.csv.gz"]),
        ("lists/[ac].csv", ["lists/a.csv"]),
        ("lists/**.csv", ["lists/a.csv", "lists/b.csv", "lists/deep/c.csv"]),
        ("*/?.csv", ["lists/a.csv", "lists/b.csv", "other/d.csv"]),
        ("lists/a.csv", ["lists/a.csv"]),
        ("lists/x*.csv", []),
        ("lists/none.csv", []),
    ],
)
def test_globs(s3: S3Server, pattern: str, expected: list[str]) -> None:
    assert storage.expand(url(pattern)) == [url(name) for name in expected]


def test_a_name_with_brackets_that_is_there_is_no_glob(s3: S3Server) -> None:
    s3.put("lists/run[1].csv", b"x")
    assert storage.expand(url("lists/run[1].csv")) == [url("lists/run[1].csv")]
    s3.delete("lists/run[1].csv")


def test_what_is_there(s3: S3Server) -> None:
    assert storage.size(url("lists/a.csv")) == len("lists/a.csv")
    assert storage.exists(url("lists/a.csv")) and not storage.exists(url("lists/none"))
    assert storage.size(url("lists")) is None
    assert storage.read_bytes(url("other/d.csv")) == b"other/d.csv"
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(url("lists/none"))


def test_a_state_changes_with_the_file(s3: S3Server) -> None:
    assert storage.state(url("new/a")) is None
    storage.write_bytes(url("new/a"), b"one")
    before = storage.state(url("new/a"))
    assert before is not None and before[0] == 3
    storage.write_bytes(url("new/a"), b"longer")
    assert storage.state(url("new/a")) != before
    storage.remove([url("new/a"), url("new/gone")])
    assert storage.state(url("new/a")) is None


def test_building_publishes_what_is_not_empty(s3: S3Server, tmp_path: Path) -> None:
    s3.put("built/b", b"of before")
    with storage.building(url("built/a"), url("built/b")) as (first, second):
        first.write_bytes(b"one")
        second.write_bytes(b"")
        assert storage.size(url("built/a")) is None
    assert storage.read_bytes(url("built/a")) == b"one"
    assert storage.size(url("built/b")) is None
    with pytest.raises(KeyError), storage.building(url("built/c")) as (path,):
        path.write_bytes(b"half")
        raise KeyError
    assert storage.size(url("built/c")) is None


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("s3://elsewhere/features", "there is no bucket 'elsewhere'"),
        (f"s3://{BUCKET}", "or no folder in it is named"),
        (f"s3://{BUCKET}/", "or no folder in it is named"),
        ("s3:///features", "there is no bucket ''"),
    ],
)
def test_outputs_that_cannot_be(s3: S3Server, output: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"no dataset can be written to {output} .*{message}"):
        storage.prepare(output)
    storage.prepare(url("features"))


def test_a_refusal_is_told_and_trouble_may_pass(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a runner tries again must not end the job for good; what it cannot mend must."""
    s3.proxy.fail_next = 1
    with pytest.raises(stores.StoreError) as caught:
        storage.size(url("lists/a.csv"))
    assert not caught.value.final and not isinstance(caught.value, StorageError)

    def denied(self: stores.Store, path: str) -> None:
        raise stores.StoreError("ACCESS_DENIED: check the credentials", final=True)

    monkeypatch.setattr(stores.Store, "size", denied)
    with pytest.raises(StorageError, match="ACCESS_DENIED: check the credentials"):
        storage.size(url("lists/a.csv"))
