"""Files come back byte for byte from a folder and from stores; copies keep their bound; errors say what to do."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3_server
from s3_server import BUCKET, S3Server, noise

from ge2e_transforms import stores
from ge2e_transforms.errors import ConfigError, CorruptRecordError, DatasetError, StorageError
from ge2e_transforms.files import Cache, StoreFolder, open_folder
from ge2e_transforms.stores import StoreError

ROOT = Path(__file__).parent.parent


CONTENT = {"metadata.json": b"{}\n", "train/a.tfrecord": noise(70_001), "train/b.tfrecord": noise(300), "empty": b""}


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server.s3_server() as running:
        for name, content in CONTENT.items():
            running.put(f"data/{name}", content)
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, in the environment; one try of the client and no pauses, so that no test waits."""
    monkeypatch.setattr(stores, "_CLIENT_TRIES", 1)
    monkeypatch.setattr(stores, "_PAUSES_S", (0.0, 0.0, 0.0))
    yield from s3_server.in_environment(server, monkeypatch)


def url(folder: str = "data") -> str:
    return f"s3://{BUCKET}/{folder}"


def local(root: Path) -> str:
    for name, content in CONTENT.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_folder_gives_its_files(kind: str, tmp_path: Path, s3: S3Server):
    root = local(tmp_path) if kind == "local" else url()
    folder = open_folder(root + "/" if kind == "s3" else Path(root))
    assert (folder.root, folder.is_local) == (root, kind == "local")
    assert folder.where("train/a.tfrecord") == f"{root}/train/a.tfrecord"
    assert [folder.size(name) for name in [*CONTENT, "none", "train"]] == [3, 70_001, 300, 0, None, None]
    assert folder.sizes(["train/b.tfrecord", "none", "metadata.json", "nowhere/x"]) == [300, None, 3, None]
    for again in (folder, pickle.loads(pickle.dumps(folder))):
        assert {name: again.read(name) for name in CONTENT} == CONTENT
        assert again.local("train/a.tfrecord", 70_001).read_bytes() == CONTENT["train/a.tfrecord"]
    with pytest.raises(DatasetError, match=r"/none cannot be read: .*[Nn]o such file.*\. Was the dataset moved"):
        folder.read("none")


def test_sizes_on_a_store_take_one_request_a_folder(s3: S3Server):
    folder = open_folder(url())
    assert folder.sizes(["train/a.tfrecord", "train/b.tfrecord"] * 50) == [70_001, 300] * 50
    assert len(s3.proxy.requests) == 1


def test_a_large_file_is_read_in_parallel_ranges(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(stores, "RANGE_BYTES", 10_000)
    monkeypatch.setattr(s3.proxy, "latency_s", 0.05)
    assert open_folder(url()).read("train/a.tfrecord") == CONTENT["train/a.tfrecord"]
    ranges = sorted(request.range for request in s3.proxy.requests if request.range)
    assert len(ranges) == 8
    assert "bytes=70000-70000" in ranges
    assert s3.proxy.most_at_once >= 4


def test_a_copy_without_a_cache_lives_as_long_as_its_folder(s3: S3Server):
    folder = open_folder(url())
    path = folder.local("train/b.tfrecord", 300)
    assert path.read_bytes() == CONTENT["train/b.tfrecord"]
    asked = len(s3.proxy.requests)
    assert folder.local("train/b.tfrecord", 300) == path
    assert len(s3.proxy.requests) == asked
    assert pickle.loads(pickle.dumps(folder)).local("train/b.tfrecord", 300) != path
    del folder
    assert not path.exists()


def test_a_copy_is_refused_if_the_file_has_another_size(s3: S3Server, tmp_path: Path):
    folder = StoreFolder(url(), Cache(tmp_path, 1 << 20))
    with pytest.raises(CorruptRecordError, match=r"s3://corpus/data/train/b.tfrecord: expected 299 bytes, got 300"):
        folder.local("train/b.tfrecord", 299)
    assert copies(tmp_path) == []


# The cache.


def copies(folder: Path) -> list[int]:
    return sorted(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def test_the_cache_is_filled_up_to_its_bound_and_no_further(s3: S3Server, tmp_path: Path):
    for number in range(5):
        s3.put(f"many/{number}", noise(1000, number))
    folder = StoreFolder(url("many"), Cache(tmp_path / "cache", 3500))
    found = [folder.cached(str(number), 1000) for number in range(5)]
    assert [path is not None for path in found] == [True, True, True, False, False]
    assert copies(tmp_path) == [1000] * 3
    # What does not fit has a private copy.
    private = folder.local("4", 1000)
    assert private.read_bytes() == noise(1000, 4)
    assert tmp_path not in private.parents


def test_a_second_reader_of_the_cache_asks_nothing(s3: S3Server, tmp_path: Path):
    cache = Cache(tmp_path, 1 << 20)
    open_folder(url(), cache).local("train/a.tfrecord", 70_001)
    s3.proxy.reset()
    assert open_folder(url(), cache).local("train/a.tfrecord", 70_001).read_bytes() == CONTENT["train/a.tfrecord"]
    program = (
        "import sys\nfrom ge2e_transforms.files import Cache, open_folder\n"
        "folder = open_folder(sys.argv[1], Cache(sys.argv[2], 1 << 20))\n"
        "print(len(folder.local('train/a.tfrecord', 70_001).read_bytes()))"
    )
    command = [sys.executable, "-c", program, url(), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "70001\n"
    assert s3.proxy.requests == []


def test_a_copy_of_the_wrong_size_is_replaced(s3: S3Server, tmp_path: Path):
    folder = open_folder(url(), Cache(tmp_path, 70_100))
    path = folder.local("train/a.tfrecord", 70_001)
    for content in (b"cut off", bytes(90_000)):
        path.write_bytes(content)
        assert folder.local("train/a.tfrecord", 70_001) == path
        assert path.read_bytes() == CONTENT["train/a.tfrecord"]


def test_datasets_share_a_cache_and_its_bound(s3: S3Server, tmp_path: Path):
    for name in "xyz":
        s3.put(f"{name}/file", name.encode() * 400)
    cache = Cache(tmp_path, 1000)
    found = [StoreFolder(url(name), cache).cached("file", 400) for name in "xyz"]
    assert [path and path.read_bytes()[:1] for path in found] == [b"x", b"y", None]


def test_readers_at_once_keep_the_bound_and_leave_no_half_copies(s3: S3Server, tmp_path: Path):
    for number in range(8):
        s3.put(f"many/{number}", noise(1000, number))
    cache = Cache(tmp_path, 4000)

    def fill() -> None:
        folder = StoreFolder(url("many"), cache)
        for number in range(8):
            if path := folder.cached(str(number), 1000):
                assert path.read_bytes() == noise(1000, number)

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fill()
    assert copies(tmp_path) == [1000] * 4


def test_half_copies_count_until_they_are_stale(s3: S3Server, tmp_path: Path):
    half = tmp_path / "killed.part"
    half.write_bytes(bytes(900))
    folder = StoreFolder(url(), Cache(tmp_path, 1000))
    assert folder.cached("train/b.tfrecord", 300) is None
    os.utime(half, (0, 0))
    assert folder.cached("train/b.tfrecord", 300) is not None
    assert not half.exists()


def test_a_disk_that_takes_no_copy_is_told(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int, content: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    folder = open_folder(url(), Cache(tmp_path, 1000))
    with pytest.raises(StorageError, match=r"train/b.tfrecord: .*No space left on device\. Free space on that disk"):
        folder.local("train/b.tfrecord", 300)
    assert copies(tmp_path) == []


def test_a_disk_that_takes_a_part_of_a_write_gets_the_rest(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, offset: write(file, content[:999], offset))
    folder = open_folder(url(), Cache(tmp_path, 1 << 20))
    assert folder.local("train/a.tfrecord", 70_001).read_bytes() == CONTENT["train/a.tfrecord"]


@pytest.mark.parametrize(
    ("folder", "size"), [("", 1), ("s3://bucket/cache", 1), (None, 1), ("x", 0), ("x", -1), ("x", 1.5), ("x", True)]
)
def test_a_cache_of_nonsense_is_refused(folder: Any, size: Any):
    with pytest.raises(ConfigError, match="cannot be used: expected"):
        Cache(folder, size)


# Errors.


def test_short_failures_of_a_store_pass_unnoticed(s3: S3Server):
    folder = open_folder(url())
    s3.proxy.fail_next = 3
    assert folder.size("train/b.tfrecord") == 300
    s3.proxy.fail_next = 3
    assert folder.read("train/b.tfrecord") == CONTENT["train/b.tfrecord"]
    s3.proxy.cut_next = 3
    assert folder.read("train/a.tfrecord") == CONTENT["train/a.tfrecord"]


def test_a_store_that_keeps_failing_is_told_with_all_but_the_credentials(s3: S3Server):
    folder = open_folder(url())
    s3.proxy.fail_next = 4
    with pytest.raises(DatasetError) as caught:
        folder.read("train/b.tfrecord")
    assert len(s3.proxy.requests) == 4
    text = str(caught.value)
    assert "s3://corpus/data/train/b.tfrecord cannot be opened: " in text
    assert f"503) during HeadObject operation: No response body.. Check the endpoint ({s3.endpoint})" in text
    assert "credentials and the network" in text
    for shown in (text, repr(caught.value), repr(folder), repr(vars(folder)), str(pickle.dumps(folder))):
        assert s3_server.SECRET_KEY not in shown
        assert s3_server.ACCESS_KEY not in shown


def test_secrets_that_a_client_repeats_are_masked(s3: S3Server):
    def refuse(_: Any) -> None:
        raise OSError(f"AWS Error INVALID_ACCESS_KEY_ID: no such key: {s3_server.ACCESS_KEY}")

    with pytest.raises(StoreError, match=r"no such key: \*\*\*\. Check") as caught:
        StoreFolder(url()).store.try_to("read", "x", refuse)
    assert caught.value.__cause__ is None


def test_refusals_are_not_tried_again(s3: S3Server):
    calls = []

    def refuse(_: Any) -> None:
        calls.append(1)
        raise OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body.")

    with pytest.raises(StoreError, match="ACCESS_DENIED"):
        StoreFolder(url()).store.try_to("opened", "x", refuse)
    assert len(calls) == 1


def test_nobody_at_the_endpoint_is_told(s3: S3Server, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as bound:  # bound, but nobody listens
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(DatasetError, match=r"s3://corpus/data/x cannot be looked up: .*NETWORK_CONNECTION"):
            open_folder(url()).size("x")


@pytest.mark.parametrize("form", ["AWS_ENDPOINT_URL", "no scheme", "no region", "AWS_REGION"])
def test_endpoint_and_region_come_from_the_environment(form: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch):
    if form == "AWS_ENDPOINT_URL":
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    if form == "no scheme":
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint.removeprefix("http://"))
        assert stores.endpoint("s3") == ("https", s3.endpoint.removeprefix("http://"))
        return
    if form != "AWS_ENDPOINT_URL":
        monkeypatch.delenv("AWS_DEFAULT_REGION")
    if form == "AWS_REGION":
        monkeypatch.setenv("AWS_REGION", "ap-south-2")
    folder = StoreFolder(url())
    assert folder.size("metadata.json") == 3
    expected = {"AWS_ENDPOINT_URL": "eu-north-1", "no region": "us-east-1", "AWS_REGION": "ap-south-2"}
    assert folder.store.client().region == expected[form]


@pytest.mark.parametrize("root", ["http://user:word@host/x", "hdfs://host/x", "S3://bucket/x", "file:///x"])
def test_other_schemes_are_refused(root: str):
    with pytest.raises(
        ConfigError, match=r"expected a local folder, gs://bucket/folder or s3://bucket/folder"
    ) as caught:
        open_folder(root)
    assert "word" not in str(caught.value)


@pytest.mark.parametrize("root", ["s3://", "gs:///folder", "s3://key:word@bucket/folder"])
def test_urls_without_bucket_or_with_credentials_are_refused(root: str):
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        open_folder(root)
    assert "word" not in str(caught.value)


def test_paths_are_local_and_urls_may_be_paths():
    for name in ("x", "/x/y", "a:b", "a:/b", "c/s3://d", "~x"):
        assert open_folder(name).is_local
    assert open_folder(Path("s3://bucket/folder")).root == "s3://bucket/folder"


def test_a_local_folder_needs_no_client_of_stores(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"123")
    program = (
        "import sys\nfrom ge2e_transforms.files import open_folder\n"
        "from ge2e_transforms.shard_files import open_shards\n"
        "folder = open_folder(sys.argv[1])\n"
        "assert folder.read('x') == next(open_shards(folder, ['x'], [3]).read([(0, 0, 3)]))\n"
        "print(sorted(name for name in sys.modules if name.startswith('pyarrow')))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"


FORKED = """
import os, sys, traceback
from ge2e_transforms.errors import DatasetError
from ge2e_transforms.files import Cache, open_folder
from ge2e_transforms.stores import StoreError
folder = open_folder(sys.argv[1], Cache(sys.argv[2], 1 << 20))
folder.local('train/b.tfrecord', 300)
child = os.fork()
if child == 0:
    status = 1
    try:
        assert len(folder.local('train/b.tfrecord', 300).read_bytes()) == 300
        folder.read('train/a.tfrecord')
    except DatasetError as error:
        print(error, flush=True)
        status = 0
    finally:
        os._exit(status)
sys.exit(os.waitpid(child, 0)[1])
"""


def test_a_fork_of_a_reader_of_s3_is_told_to_spawn(s3: S3Server, tmp_path: Path):
    command = [sys.executable, "-c", FORKED, url(), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "s3://corpus cannot be read in a forked process" in done.stdout
    assert "Start workers by 'spawn' or 'forkserver'" in done.stdout


# Google's store.


def test_gs_by_its_emulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(stores, "RANGE_BYTES", 10_000)
    with s3_server.gcs_emulator() as endpoint:
        for name in ("metadata.json", "train/a.tfrecord", "train/b.tfrecord"):
            s3_server.put_gcs(endpoint, f"data/{name}", CONTENT[name])
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        folder = open_folder(f"gs://{BUCKET}/data", Cache(tmp_path, 1 << 20))
        assert [folder.size(name) for name in ("train/a.tfrecord", "none")] == [70_001, None]
        assert folder.sizes(["train/b.tfrecord", "none"]) == [300, None]
        for name in ("metadata.json", "train/a.tfrecord"):
            assert folder.read(name) == CONTENT[name]
            assert folder.local(name, len(CONTENT[name])).read_bytes() == CONTENT[name]
        with pytest.raises(DatasetError, match=r"gs://corpus/data/none cannot be read: no such file"):
            folder.read("none")
