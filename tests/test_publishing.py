"""What stands in a folder is replaced only while it is what was read, on each kind of place."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import s3_server
from jobs import files_in
from memory_store import MemoryStore
from s3_server import BUCKET, Proxy, S3Server, serving

from ge2e_transforms import stores
from ge2e_transforms.errors import CommitError, PlanError, StorageError
from ge2e_transforms.schema import FORMAT, FORMAT_VERSION
from ge2e_transforms.stores import StoreError
from pipeline import conditional, publishing, storage
from pipeline.file_systems import version_of

OURS, THEIRS = "01234567", "89abcdef"


def dataset(generation: str, **fields: Any) -> dict[str, Any]:
    return {"format": FORMAT, "format_version": FORMAT_VERSION, "generation": generation, **fields}


def encoded(metadata: dict[str, Any]) -> bytes:
    return json.dumps(metadata, indent=1).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server.s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    with s3_server.gcs_emulator() as endpoint:
        yield endpoint


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    monkeypatch.setattr(conditional, "_PAUSES_S", (0.0, 0.0))
    yield from s3_server.in_environment(server, monkeypatch)


@pytest.fixture
def gs(emulator: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(conditional, "_PAUSES_S", (0.0, 0.0))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    return emulator


@pytest.fixture(params=["local", "no locks", "s3", "gs", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty folder on each kind of place."""
    if request.param == "memory":
        MemoryStore.clear()
        return "memory://b/out"
    if request.param in ("s3", "gs"):
        request.getfixturevalue(request.param)
        return f"{request.param}://{BUCKET}/{tmp_path.name}"
    if request.param == "no locks":
        monkeypatch.setattr(fcntl, "flock", without_locks)
    return str(tmp_path)


def without_locks(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


# What is read.


def test_metadata_of_ours_and_the_version_of_its_bytes(tmp_path: Path) -> None:
    assert publishing.read(str(tmp_path)) == ({}, None)
    (tmp_path / "metadata.json").write_bytes(encoded(dataset(OURS)))
    found = publishing.read(str(tmp_path))
    assert found.metadata["generation"] == OURS
    assert found.version == version_of(encoded(dataset(OURS)))
    (tmp_path / "metadata.json").write_bytes(encoded(dataset(OURS)) + b" ")
    assert publishing.read(str(tmp_path)).version != found.version


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"format": "other"}', b"\xff\xfe\x00"])
def test_a_metadata_file_of_others_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    """It was only found out at commit, after all the work."""
    (tmp_path / "metadata.json").write_bytes(content)
    with pytest.raises(PlanError, match=r"metadata.json was not written by this program.*choose another --output"):
        publishing.read(str(tmp_path))


@pytest.mark.parametrize("version", [FORMAT_VERSION - 1, FORMAT_VERSION + 1, None])
def test_a_dataset_of_another_format_version_is_not_replaced(tmp_path: Path, version: int | None) -> None:
    (tmp_path / "metadata.json").write_text(json.dumps({**dataset(OURS), "format_version": version}))
    with pytest.raises(PlanError, match=f"has format version {version}, expected {FORMAT_VERSION}: choose another"):
        publishing.read(str(tmp_path))


# What is replaced, on every kind of place.


def test_published_and_replaced(output: str) -> None:
    publishing.write(output, dataset(OURS), None)
    found = publishing.read(output)
    publishing.write(output, dataset(THEIRS), found.version)
    assert publishing.read(output).metadata["generation"] == THEIRS
    assert storage.read_bytes(storage.join(output, "metadata.json")) == encoded(dataset(THEIRS))


@pytest.mark.parametrize("before", [None, "fedcba98"], ids=["empty", "overwrite"])
def test_what_another_job_published_between_read_and_write_stands(output: str, before: str | None) -> None:
    if before:
        publishing.write(output, dataset(before), None)
    version = publishing.read(output).version
    publishing.write(output, dataset(THEIRS), version)
    for _ in range(2):
        with pytest.raises(
            CommitError, match=rf"generation {THEIRS} in .* while this one \(generation {OURS}\).*again"
        ):
            publishing.write(output, dataset(OURS), version)
    assert publishing.read(output).metadata["generation"] == THEIRS


def test_a_dataset_that_was_removed_meanwhile_is_no_dataset_to_replace(output: str) -> None:
    publishing.write(output, dataset(THEIRS), None)
    version = publishing.read(output).version
    storage.remove([storage.join(output, "metadata.json")])
    with pytest.raises(CommitError, match="generation None"):
        publishing.write(output, dataset(OURS), version)


def test_an_equal_job_has_published_for_both(output: str) -> None:
    publishing.write(output, dataset(OURS, token="first", cpus=["a"], rows=1), None)
    publishing.write(output, dataset(OURS, token="second", cpus=["b"], rows=1), None)
    assert publishing.read(output).metadata["token"] == "first"
    with pytest.raises(CommitError):
        publishing.write(output, dataset(OURS, token="second", rows=2), None)  # the same plan, but other audio


def test_what_stands_already_may_be_written_again(output: str) -> None:
    """As when Commit is tried again after it has published."""
    for _ in range(2):
        publishing.write(output, dataset(OURS), None)
    assert publishing.read(output).version == version_of(encoded(dataset(OURS)))


# At the moment of the replacement itself.


def put(path: Path, generation: str) -> None:
    path.write_bytes(encoded(dataset(generation)))


@pytest.mark.parametrize(
    ("before", "locks"),
    [(None, True), ("fedcba98", True), (None, False)],
    ids=["empty", "overwrite", "empty, no locks"],
)
def test_exactly_one_of_many_at_once_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None, locks: bool
) -> None:
    if not locks:
        monkeypatch.setattr(fcntl, "flock", without_locks)
    if before:
        put(tmp_path / "metadata.json", before)
    version, start = publishing.read(str(tmp_path)).version, threading.Barrier(8)

    def publish(number: int) -> int | None:
        start.wait(30)
        with contextlib.suppress(CommitError):
            publishing.write(str(tmp_path), dataset(f"{number:08d}"), version)
            return number
        return None

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(publish, range(8)) if number is not None]
    assert [f"{number:08d}" for number in winners] == [publishing.read(str(tmp_path)).metadata["generation"]]
    assert files_in(tmp_path) == {"metadata.json"}


def test_the_comparison_is_made_under_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def slow(descriptor: int, operation: int) -> None:
        put(tmp_path / "metadata.json", THEIRS)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    with pytest.raises(CommitError, match=THEIRS):
        publishing.write(str(tmp_path), dataset(OURS), None)


def test_a_process_forked_meanwhile_does_not_keep_the_folder_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds a copy of the descriptor, which closing ours leaves locked."""
    flock, copies = fcntl.flock, []

    def copied(descriptor: int, operation: int) -> None:
        copies.append(os.dup(descriptor))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", copied)
    publishing.write(str(tmp_path), dataset(OURS), None)
    other = os.open(tmp_path, os.O_RDONLY)
    flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert copies
    for descriptor in (*copies, other):
        os.close(descriptor)


def test_a_first_file_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def late(source: Path, target: str) -> None:
        put(tmp_path / "metadata.json", THEIRS)
        link(source, target)

    monkeypatch.setattr(fcntl, "flock", without_locks)
    monkeypatch.setattr(os, "link", late)
    with pytest.raises(CommitError, match=THEIRS):
        publishing.write(str(tmp_path), dataset(OURS), None)


def test_a_race_that_cannot_be_seen_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(source: Path, target: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    publishing.write(str(tmp_path), dataset(OURS), None)
    assert not caplog.records
    publishing.write(str(tmp_path), dataset(THEIRS), publishing.read(str(tmp_path)).version)
    monkeypatch.setattr(os, "link", refused)
    (tmp_path / "metadata.json").unlink()
    publishing.write(str(tmp_path), dataset(OURS), None)
    expected = f"{tmp_path}/metadata.json: another job that publishes at this moment is not noticed: the file system"
    assert [record.getMessage()[: len(expected)] for record in caplog.records] == [expected] * 2


# A proxy in this process before a store, the URL of an object, and what writes it past the proxy.
Hooked = tuple[Proxy, str, Callable[[bytes], None]]


@pytest.fixture(params=["s3", "gs"])
def hooked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hooked]:
    """Only the providers' clients may pass this proxy: Arrow's of gs:// holds Python's lock while it waits."""
    key = f"{tmp_path.name}/metadata.json"
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        yield s3.proxy, f"s3://{BUCKET}/{key}", lambda content: s3.put(key, content)
        return
    endpoint = request.getfixturevalue("gs")
    host, _, port = endpoint.removeprefix("http://").partition(":")
    proxy = Proxy((host, int(port)))
    with serving(proxy):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.endpoint)
        yield proxy, f"gs://{BUCKET}/{key}", lambda content: s3_server.put_gcs(endpoint, key, content)


def at_first_write(proxy: Proxy, act: Callable[[], object]) -> None:
    """Acts once, when a write has come to the store and is not yet carried out."""
    left = [act]

    def before(request: s3_server.Request) -> str | None:
        if request.method in ("PUT", "POST") and left:
            left.pop()()
        return None

    proxy.before = before


def replace(url: str, content: bytes, expected: bytes | None) -> bool:
    return conditional.replace(url, content, lambda standing: standing == expected)


@pytest.mark.parametrize("before", [None, b"of before"], ids=["empty", "overwrite"])
def test_a_write_that_another_overtakes_is_refused_by_the_store(hooked: Hooked, before: bytes | None) -> None:
    proxy, url, put = hooked
    if before:
        put(before)
    at_first_write(proxy, lambda: put(b"theirs"))
    assert not replace(url, b"ours", before)
    proxy.reset()
    assert not replace(url, b"ours", before)
    assert [request.method for request in proxy.requests].count("GET") == len(proxy.requests)
    assert replace(url, b"ours", b"theirs")


def test_a_write_whose_answer_was_lost_is_not_taken_for_anothers(hooked: Hooked) -> None:
    proxy, url, _ = hooked
    proxy.lose_next = 1
    assert replace(url, b"ours", None)
    assert proxy.lose_next == 0
    assert len([request for request in proxy.requests if request.method in ("PUT", "POST")]) == 1
    proxy.lose_next = 1
    assert replace(url, b"ours, newer", b"ours")
    assert replace(url, b"ours, newer", b"ours")


@pytest.mark.parametrize("status", [429, 500, 503, 409])
def test_short_failures_are_passed_over(hooked: Hooked, status: int) -> None:
    proxy, url, _ = hooked
    proxy.fail_with, proxy.fail_next = status, 1
    at_first_write(proxy, lambda: setattr(proxy, "fail_next", 1))
    assert replace(url, b"ours", None)
    assert proxy.fail_next == 0
    proxy.cut_next = 1
    assert not replace(url, b"theirs", b"an older one")
    assert proxy.cut_next == 0


def test_a_store_that_stays_away_or_refuses_is_told(hooked: Hooked) -> None:
    proxy, url, _ = hooked
    for status, final in ((503, False), (403, True)):
        proxy.fail_with, proxy.fail_next = status, 100
        with pytest.raises(StoreError, match=f"{url} cannot be written: .*{status}|Check the endpoint") as caught:
            replace(url, b"ours", None)
        assert caught.value.final is final
        assert proxy.endpoint in str(caught.value)
    proxy.reset()
    with pytest.raises(StoreError) as caught:
        replace(url.replace(BUCKET, "elsewhere"), b"ours", None)
    assert caught.value.final


@pytest.mark.parametrize("module", ["boto3", "google.cloud.storage"])
def test_without_the_providers_client_it_is_compared_and_written_with_a_warning(
    module: str, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scheme = "s3" if module == "boto3" else "gs"
    request.getfixturevalue(scheme)
    output = f"{scheme}://{BUCKET}/{tmp_path.name}"
    request.getfixturevalue("monkeypatch").setitem(sys.modules, module, None)
    publishing.write(output, dataset(THEIRS), None)
    (record,) = caplog.records
    extra = "s3" if scheme == "s3" else "gcp"
    assert f"{output}/metadata.json: another job that publishes at this moment is not noticed" in record.getMessage()
    assert f"pip install 'ge2e-features[{extra}]'" in record.getMessage()
    with pytest.raises(CommitError, match=THEIRS):
        publishing.write(output, dataset(OURS), None)


def test_a_store_without_conditional_writes_is_written_to_with_a_warning(
    s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown() -> None:
        s3.proxy.fail_with, s3.proxy.fail_next = 501, 1

    at_first_write(s3.proxy, unknown)
    output = f"s3://{BUCKET}/{tmp_path.name}"
    publishing.write(output, dataset(OURS), None)
    assert "the store knows no conditional writes" in caplog.text
    assert publishing.read(output).metadata["generation"] == OURS


def test_credentials_of_a_profile_are_found_and_none_is_told(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow's client reads profiles: a job whose shards it wrote must not fail with its last file."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it keeps what it has found
    output = f"s3://{BUCKET}/{tmp_path.name}"
    with pytest.raises(StorageError, match=r"metadata.json cannot be written: .*credentials"):
        publishing.write(output, dataset(OURS), None)
    keys = f"aws_access_key_id = {s3_server.ACCESS_KEY}\naws_secret_access_key = {s3_server.SECRET_KEY}\n"
    (tmp_path / "credentials").write_text(f"[default]\n{keys}")
    publishing.write(output, dataset(OURS), None)


def test_the_clients_go_where_arrows_do(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_REGION", "eu-south-1")
    assert stores.region(BUCKET) == "eu-south-1"
    assert replace(f"s3://{BUCKET}/{tmp_path.name}/x", b"ours", None)
    assert s3.proxy.requests[-1].path == f"/{BUCKET}/{tmp_path.name}/x"
