"""Objects of a store: whole, by ranges and written, and what is told when that fails."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import s3_server
from s3_server import BUCKET, S3Server, noise

from ge2e_transforms import stores
from ge2e_transforms.stores import Store, StoreError, locate

CONTENT = {"in/a": noise(70_001), "in/b": noise(300), "in/deep/c": b"c", "in/empty": b""}


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server.s3_server() as running:
        for name, content in CONTENT.items():
            running.put(name, content)
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    monkeypatch.setattr(stores, "_CLIENT_TRIES", 1)
    monkeypatch.setattr(stores, "_PAUSES_S", (0.0, 0.0))
    yield from s3_server.in_environment(server, monkeypatch)


@pytest.fixture(scope="module")
def gcs() -> Iterator[str]:
    with s3_server.gcs_emulator() as endpoint:
        for name, content in CONTENT.items():
            if content:
                s3_server.put_gcs(endpoint, name, content)
        yield endpoint


@pytest.fixture(params=["s3", "gs"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "gs":
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", request.getfixturevalue("gcs"))
    else:
        request.getfixturevalue("s3")
    return Store(request.param, BUCKET)


def path(name: str) -> str:
    return f"{BUCKET}/{name}"


def test_what_is_there(store: Store) -> None:
    assert store.size(path("in/a")) == 70_001
    assert store.size(path("in/none")) is None
    assert store.size(path("in")) is None  # a folder is no object
    info = store.info(path("in/b"))
    assert info is not None and info[0] == 300 and info[1] > 1.7e18
    assert store.sizes(path("in")).keys() - {path("in/empty")} == {path("in/a"), path("in/b")}
    assert store.sizes(path("in"), deep=True)[path("in/deep/c")] == 1
    assert store.sizes(path("nothing")) == {}


@pytest.mark.parametrize("name", ["in/a", "in/b"])
def test_an_object_by_ranges_and_whole(store: Store, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = CONTENT[name]
    opened = store.open(path(name))
    assert opened.size == len(content)
    assert opened.read_at(100, 150) == content[100:250]
    assert opened.read_at(len(content) - 3, 10) == content[-3:]
    assert opened.read_at(len(content) + 5, 10) == b""
    assert store.read(path(name)) == content
    monkeypatch.setattr(stores, "RANGE_BYTES", 10_000)
    assert store.read(path(name)) == content
    with store.open(path(name)).stream() as stream:
        assert stream.read(5) == content[:5]
        stream.seek(-7, 2)
        assert stream.read() == content[-7:]
        stream.seek(0)
        assert hashlib.file_digest(stream, "sha256").digest() == hashlib.sha256(content).digest()


def test_what_is_packed_stays_as_it_is(store: Store) -> None:
    """Arrow packs and unpacks by the ending of a name unless it is told not to."""
    packed = gzip.compress(b"a,b\n1,2\n" * 1000)
    store.write(path("out/rows.csv.gz"), lambda: [packed])
    assert store.read(path("out/rows.csv.gz")) == packed
    with store.open(path("out/rows.csv.gz")).stream() as stream, gzip.open(stream) as text:
        assert text.readline() == b"a,b\n"
        assert len(text.readlines()) == 1999


def test_an_object_that_is_not_there(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.open(path("in/none"))
    with pytest.raises(FileNotFoundError):
        store.read(path("in/none"))
    store.remove(path("in/none"))  # gone already


@pytest.mark.parametrize(
    "parts", [[b"x"], [noise(9_000_000), noise(6_000_000), b"end"], []], ids=["one", "many", "none"]
)
def test_written_read_replaced_removed(store: Store, parts: list[bytes]) -> None:
    where = path("out/object")
    store.write(where, lambda: parts)
    assert store.read(where) == b"".join(parts)
    store.write(where, lambda: [b"another"])
    assert store.read(where) == b"another"
    store.remove(where)
    assert store.size(where) is None


def test_an_upload_that_fails_half_way_leaves_no_object(s3: S3Server) -> None:
    """Closing an upload after an error must not publish what has arrived."""
    parts = [noise(9_000_000), noise(9_000_000), noise(9_000_000)]
    uploads: list[int] = []

    def content() -> Iterator[bytes]:
        uploads.append(1)
        yield parts[0]
        yield parts[1]
        s3.proxy.fail_next = 1000  # the store is gone
        yield parts[2]

    store = Store("s3", BUCKET)
    with pytest.raises(StoreError, match=r"s3://corpus/out/half cannot be written: .*Check the endpoint") as caught:
        store.write(path("out/half"), content)
    assert not caught.value.final
    assert len(uploads) == 3  # two more tries
    s3.proxy.reset()
    assert store.size(path("out/half")) is None
    store.write(path("out/half"), lambda: parts)
    assert store.read(path("out/half")) == b"".join(parts)


def test_an_upload_passes_over_short_failures(s3: S3Server) -> None:
    s3.proxy.fail_next = 2
    Store("s3", BUCKET).write(path("out/late"), lambda: [b"late"])
    s3.proxy.reset()
    assert Store("s3", BUCKET).read(path("out/late")) == b"late"


def test_a_small_object_is_one_request_and_a_look(s3: S3Server) -> None:
    store = Store("s3", BUCKET)
    store.client()
    s3.proxy.reset()
    store.write(path("out/small"), lambda: [b"{}"])
    assert [request.method for request in s3.proxy.requests] == ["PUT", "HEAD"]
    s3.proxy.reset()
    store.read(path("in/b"))
    assert [request.method for request in s3.proxy.requests] == ["HEAD", "GET"]


def test_a_bucket_that_is_not_there_is_final(s3: S3Server) -> None:
    with pytest.raises(StoreError, match="NO_SUCH_BUCKET") as caught:
        Store("s3", "elsewhere").write("elsewhere/x", lambda: [b"x"])
    assert caught.value.final


def test_one_store_for_each_bucket() -> None:
    found, other = locate("s3://corpus/a/b.csv"), locate("s3://corpus/c")
    assert found is not None and other is not None
    assert found[1] == "corpus/a/b.csv"
    assert found[0] is other[0]
    for local in ("/data/x", "x", "memory://b/x", "hdfs://host/x", "s3:/x"):
        assert locate(local) is None


def test_an_endpoint_that_changes_gets_a_new_client(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that are pointed at another store later must not go on with the first one."""
    store = Store("s3", BUCKET)
    first: Any = store.client()
    assert store.client() is first
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint.replace("127.0.0.1", "localhost"))
    assert store.client() is not first
    assert store.size(path("in/b")) == 300


def test_what_an_object_is_called_does_not_make_trouble_final(s3: S3Server) -> None:
    """Errors quote the name, in which a word such as TOKEN was taken for a refusal."""
    s3.proxy.fail_next = 2
    with pytest.raises(FileNotFoundError):  # the third try is answered
        Store("s3", BUCKET).read(path("in/INVALID TOKEN.wav"))
    assert s3.proxy.fail_next == 0


def test_threads_that_begin_at_once_share_one_client(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them made its own, one after the other, which took seconds at the start of every shard's reading."""
    made: list[str] = []
    connect = stores._connect

    def counted(scheme: str, bucket: str) -> Any:
        made.append(bucket)
        return connect(scheme, bucket)

    monkeypatch.setattr(stores, "_connect", counted)
    store, start = Store("s3", BUCKET), threading.Barrier(16)

    def size(_: int) -> int | None:
        start.wait(30)
        return store.size(path("in/b"))

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(size, range(16))) == [300] * 16
    assert made == [BUCKET]
