"""Positional reads give the same bytes from a disk, a store and a cache; damage is told by name and place."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3_server
from s3_server import BUCKET, S3Server

from ge2e_transforms import shard_files, stores
from ge2e_transforms.errors import ConfigError, CorruptRecordError, DatasetError
from ge2e_transforms.files import Cache, StoreFolder, open_folder
from ge2e_transforms.shard_files import LocalShards, StoreShards, open_shards

ROOT = Path(__file__).parent.parent
SIZES = [50_000, 3, 81_234]
NAMES = [f"train/{number}.tfrecord" for number in range(len(SIZES))]
CONTENT = [np.random.default_rng(number).bytes(size) for number, size in enumerate(SIZES)]
URL = f"s3://{BUCKET}/data"

Shards = LocalShards | StoreShards


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server.s3_server() as running:
        for name, content in zip(NAMES, CONTENT, strict=True):
            running.put(f"data/{name}", content)
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, in the environment; one try of the client and no pauses, so that no test waits."""
    monkeypatch.setattr(stores, "_CLIENT_TRIES", 1)
    monkeypatch.setattr(stores, "_PAUSES_S", (0.0, 0.0, 0.0))
    yield from s3_server.in_environment(server, monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name, content in zip(NAMES, CONTENT, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def open_kind(kind: str, root: Path, **options: Any) -> Shards:
    caches = {"cache": 1 << 20, "small cache": 60_000}
    cache = Cache(root.parent / "cache", caches[kind]) if kind in caches else None
    return open_shards(open_folder(root if kind == "local" else URL, cache), NAMES, SIZES, **options)


def places(count: int, seed: int = 0) -> list[tuple[int, int, int]]:
    """Random (number, offset, length), some of them empty and some up to the end of a file."""
    rng = np.random.default_rng(seed)
    found = []
    for number in rng.integers(0, len(SIZES), count).tolist():
        first, last = sorted(rng.integers(0, SIZES[number], 2, endpoint=True).tolist())
        found.append((number, first, last - first))
    return found


def expected(where: Sequence[tuple[int, int, int]]) -> list[bytes]:
    return [CONTENT[number][offset : offset + length] for number, offset, length in where]


def read_into(shards: Shards, where: Sequence[tuple[int, int, int]]) -> list[bytes]:
    targets = [bytearray(length) for _, _, length in where]
    shards.read_into([place[:2] for place in where], [memoryview(target) for target in targets])
    return [bytes(target) for target in targets]


@pytest.mark.parametrize("kind", ["local", "s3", "cache", "small cache"])
def test_all_kinds_of_shards_give_the_same_bytes(kind: str, root: Path, s3: S3Server):
    where = places(60)
    shards = open_kind(kind, root)
    assert isinstance(shards, LocalShards if kind == "local" else StoreShards)
    for reader in (shards, pickle.loads(pickle.dumps(shards))):
        assert read_into(reader, where) == expected(where)
        assert list(reader.read(where)) == expected(where)
        for number, size in enumerate(SIZES):
            target = np.zeros(size, dtype=np.uint8)
            reader.read_whole(number, memoryview(target).cast("B"))
            assert target.tobytes() == CONTENT[number]
        assert list(reader.read([])) == []


@pytest.mark.parametrize("kind", ["local", "s3", "cache"])
def test_threads_may_read_at_once(kind: str, root: Path, s3: S3Server):
    shards, wrong = open_kind(kind, root, readers=4), []

    def read(seed: int) -> None:
        where = places(20, seed)
        if list(shards.read(where)) != expected(where):
            wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("kind", ["local", "s3", "cache"])
def test_a_read_beyond_the_end_is_told_with_its_offset(kind: str, root: Path, s3: S3Server):
    shards = open_kind(kind, root)
    for offset, got in ((49_990, 10), (50_000, 0), (60_000, 0)):
        message = rf"0.tfrecord at offset {offset}: expected 20 bytes, got {got}: the file is cut off"
        with pytest.raises(CorruptRecordError, match=message):
            read_into(shards, [(2, 5, 5), (0, offset, 20), (2, 5, 5)])
        with pytest.raises(CorruptRecordError, match=message):
            list(shards.read([(0, offset, 20)]))
    with pytest.raises(CorruptRecordError, match=r"1.tfrecord at offset 0: expected 4 bytes, got 3"):
        shards.read_whole(1, memoryview(bytearray(4)))


def test_a_missing_file_is_told(root: Path, s3: S3Server):
    for folder in (open_folder(root), open_folder(URL)):
        shards = open_shards(folder, [NAMES[0], "train/none"], [SIZES[0], 100])
        assert list(shards.read([(0, 1, 2)])) == [CONTENT[0][1:3]]
        with pytest.raises(DatasetError, match=r"train/none cannot be read.*Was the dataset moved or removed while"):
            list(shards.read([(1, 7, 1)]))
        with pytest.raises(DatasetError, match=r"train/none cannot be read"):
            shards.read_whole(1, memoryview(bytearray(100)))


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path):
    """Opening one for reading waits until somebody opens it for writing."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DatasetError, match="pipe cannot be read at offset 5: "):
        list(LocalShards([tmp_path / "pipe"]).read([(0, 5, 10)]))


def test_each_place_needs_its_target(root: Path):
    with pytest.raises(ValueError, match="zip"):
        open_kind("local", root).read_into([(0, 0)], [])
    with pytest.raises(ConfigError, match=r"sizes=1 cannot be used: expected one for each of 2 names"):
        open_shards(open_folder(root), NAMES[:2], [1])


# Local files.


def open_files(folder: Path) -> int:
    """Descriptors of this process that point into a folder."""
    count = 0
    for entry in Path("/dev/fd").iterdir():
        try:
            count += str(folder.resolve()) in str(entry.resolve())
        except OSError:
            continue
    return count


def test_files_stay_open_up_to_a_limit_and_are_closed_with_the_object(tmp_path: Path):
    paths = [tmp_path / f"{number}" for number in range(6)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number] * 10))
    shards = LocalShards(paths)
    kept = LocalShards._kept_open
    shards._most = kept + 4
    where = [(number, 7, 3) for number in range(6)]
    for _ in range(2):
        assert read_into(shards, where) == list(shards.read(where)) == [bytes([number] * 3) for number in range(6)]
    copy = pickle.loads(pickle.dumps(shards))
    assert LocalShards._kept_open == kept + 4
    if open_files(tmp_path) == 0:
        pytest.skip("this system does not show which files are open")
    assert open_files(tmp_path) == 4
    del shards
    assert open_files(tmp_path) == 0
    assert LocalShards._kept_open == kept
    assert list(copy.read([(5, 0, 1)])) == [b"\5"]


def test_a_file_that_was_removed_is_read_while_it_is_open(root: Path):
    shards = open_kind("local", root)
    list(shards.read([(0, 0, 1)]))
    for name in NAMES:
        (root / name).unlink()
    assert list(shards.read([(0, 5, 9)])) == [CONTENT[0][5:14]]
    with pytest.raises(DatasetError, match=r"2.tfrecord cannot be read at offset 11: .*No such file"):
        list(shards.read([(2, 11, 1)]))


def test_large_files_are_read_in_pieces(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shard_files, "_READ_BYTES", 7000)
    target = bytearray(SIZES[2])
    open_kind("local", root).read_whole(2, memoryview(target))
    assert target == CONTENT[2]


FORKED = """
import os, sys
from pathlib import Path
from ge2e_transforms.shard_files import LocalShards
shards = LocalShards([Path(sys.argv[1])])
before = list(shards.read([(0, 0, 9)]))
LocalShards._lock.acquire()  # as another thread may have
child = os.fork()
if child == 0:
    status = 1
    try:
        fresh = LocalShards([Path(sys.argv[1])])
        status = int(not before == list(shards.read([(0, 0, 9)])) == list(fresh.read([(0, 0, 9)])))
    finally:
        os._exit(status)
sys.exit(os.waitpid(child, 0)[1])
"""


def test_local_files_may_be_read_in_a_fork(root: Path):
    command = [sys.executable, "-c", FORKED, str(root / NAMES[0])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# Stores.


def test_reads_of_a_store_are_in_flight_together(s3: S3Server, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(s3.proxy, "latency_s", 0.05)
    shards = open_kind("s3", root, readers=40)
    where = [(number % 3, number % 3, 1) for number in range(200)]
    assert read_into(shards, where) == expected(where)
    assert 30 <= s3.proxy.most_at_once <= 40  # more than the 25 of a client as Arrow makes it
    assert len(s3.proxy.requests) == 200 + len(SIZES)  # each file is opened once


def test_no_more_readers_than_asked_for(s3: S3Server, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(s3.proxy, "latency_s", 0.01)
    assert list(open_kind("s3", root, readers=2).read(places(30))) == expected(places(30))
    assert s3.proxy.most_at_once == 2
    for readers in (0, 257, 1.5):
        with pytest.raises(ConfigError, match=rf"readers={readers} cannot be used: expected an integer from 1 to 256"):
            open_kind("s3", root, readers=readers)


def test_whole_files_are_read_in_parallel_ranges(s3: S3Server, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stores, "RANGE_BYTES", 10_000)
    monkeypatch.setattr(s3.proxy, "latency_s", 0.05)
    target = bytearray(SIZES[2])
    open_kind("s3", root).read_whole(2, memoryview(target))
    assert target == CONTENT[2]
    assert sum(bool(request.range) for request in s3.proxy.requests) == 9
    assert s3.proxy.most_at_once >= 4


def test_files_of_a_store_beyond_the_limit_are_opened_again(s3: S3Server, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shard_files, "_MOST_OPEN_STORE", 1)
    shards = open_kind("s3", root, readers=1)
    for _ in range(2):
        assert list(shards.read([(0, 0, 1), (2, 0, 1)])) == [CONTENT[0][:1], CONTENT[2][:1]]
    assert sum(request.method == "HEAD" for request in s3.proxy.requests) == 4


def test_errors_that_pass_are_not_seen(s3: S3Server, root: Path):
    shards = open_kind("s3", root, readers=1)
    for order in ("fail_next", "cut_next"):
        setattr(s3.proxy, order, 3)
        assert list(shards.read([(0, 5, 500)])) == [CONTENT[0][5:505]]
        setattr(s3.proxy, order, 3)
        target = bytearray(SIZES[2])
        shards.read_whole(2, memoryview(target))
        assert target == CONTENT[2]


def test_errors_that_stay_are_told_and_no_target_is_written_afterwards(s3: S3Server, root: Path):
    shards = open_kind("s3", root, readers=8)
    list(shards.read([(0, 0, 1)]))
    s3.proxy.fail_next = 1000
    with pytest.raises(DatasetError, match=r"0.tfrecord cannot be read: AWS Error .*Check the endpoint") as caught:
        list(shards.read([(0, number, 100) for number in range(50)]))
    assert s3_server.SECRET_KEY not in str(caught.value)
    asked = len(s3.proxy.requests)
    s3.proxy.fail_next = 0
    assert list(shards.read([(0, 3, 10)])) == [CONTENT[0][3:13]]  # and it goes on afterwards
    assert len(s3.proxy.requests) == asked + 1


def test_a_file_of_another_size_than_the_index_says_is_told(s3: S3Server, root: Path):
    shards = open_shards(open_folder(URL), NAMES, [SIZES[0] + 1, *SIZES[1:]])
    with pytest.raises(CorruptRecordError, match=r"s3://corpus/data/train/0.tfrecord: expected 50001 bytes, got 50000"):
        list(shards.read([(0, 0, 1)]))


def test_what_fits_in_the_cache_is_fetched_once_and_whole(s3: S3Server, root: Path):
    where = [(number, number, 2) for number in (0, 1, 2)] * 5
    cache = Cache(root.parent / "cache", 60_000)  # for the first two
    for requests_of_cached in ({"/corpus/data/train/0.tfrecord", "/corpus/data/train/1.tfrecord"}, set()):
        s3.proxy.reset()
        assert list(open_shards(StoreFolder(URL, cache), NAMES, SIZES).read(where)) == expected(where)
        paths = [request.path for request in s3.proxy.requests if request.method == "GET"]
        assert paths.count("/corpus/data/train/2.tfrecord") == 5
        assert set(paths) - {"/corpus/data/train/2.tfrecord"} == requests_of_cached
        assert len(paths) == 5 + len(requests_of_cached)


def test_threads_end_with_the_object(s3: S3Server, root: Path):
    def reading() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("ge2e-read")]

    gc.collect()
    for thread in reading():
        thread.join(10)
    shards = open_kind("s3", root, readers=3)
    assert reading() == []
    list(shards.read(places(20)))
    threads = reading()
    assert 1 <= len(threads) <= 3
    del shards
    gc.collect()
    for thread in threads:
        thread.join(10)
    assert reading() == []


def test_a_fork_reads_what_is_in_the_cache_and_refuses_the_rest(s3: S3Server, root: Path):
    program = (
        "import os, sys\n"
        "from ge2e_transforms.errors import DatasetError\n"
        "from ge2e_transforms.files import Cache, open_folder\n"
        "from ge2e_transforms.shard_files import open_shards\n"
        f"folder = open_folder({URL!r}, Cache(sys.argv[1], 60_000))\n"
        f"shards = open_shards(folder, {NAMES!r}, {SIZES!r})\n"
        "first = list(shards.read([(0, 0, 9), (2, 0, 9)]))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    status = 1\n"
        "    try:\n"
        "        assert list(shards.read([(0, 0, 9)])) == first[:1]\n"
        "        list(shards.read([(2, 0, 9)]))\n"
        "    except DatasetError as error:\n"
        "        status = int('forkserver' not in str(error))\n"
        "    finally:\n"
        "        os._exit(status)\n"
        "sys.exit(os.waitpid(child, 0)[1])\n"
    )
    command = [sys.executable, "-c", program, str(root.parent / "cache")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_shards_on_gs(monkeypatch: pytest.MonkeyPatch, root: Path):
    monkeypatch.setattr(stores, "RANGE_BYTES", 10_000)
    with s3_server.gcs_emulator() as endpoint:
        for name, content in zip(NAMES, CONTENT, strict=True):
            s3_server.put_gcs(endpoint, f"data/{name}", content)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        shards = open_shards(open_folder(f"gs://{BUCKET}/data"), NAMES, SIZES, readers=8)
        assert list(shards.read(places(30))) == expected(places(30))
        target = bytearray(SIZES[2])
        shards.read_whole(2, memoryview(target))
        assert target == CONTENT[2]
        assert os.environ["STORAGE_EMULATOR_HOST"] == endpoint
