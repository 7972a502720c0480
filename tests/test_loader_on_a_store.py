"""Batches straight from an object store: the same as from the disk, with the reads of a batch under way at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3_server
from s3_server import BUCKET, S3Server
from small_dataset import RAW, raw_speakers, speakers, write_dataset, write_twins

from ge2e_transforms import BatchLoader, GE2EDatasetLoader, WaveformAugment
from ge2e_transforms.errors import CorruptRecordError, DatasetError

pytestmark = pytest.mark.filterwarnings("ignore:an epoch of split")
OPTIONS: dict[str, Any] = {"speakers_per_batch": 5, "utterances_per_speaker": 4, "speakers": "proportional"}
URL = f"s3://{BUCKET}/data"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), {"train": speakers("a", 9, 0, 6)}, shards=4)


@pytest.fixture(scope="module")
def store(root: Path) -> Iterator[S3Server]:
    with s3_server.s3_server() as server:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                server.put(f"data/{path.relative_to(root)}", path.read_bytes())
        yield server


@pytest.fixture
def s3(store: S3Server, monkeypatch: pytest.MonkeyPatch) -> Generator[S3Server, None, None]:
    yield from s3_server.in_environment(store, monkeypatch)


def same(one: Any, other: Any) -> int:
    count = 0
    for (examples, labels), (wanted, wanted_labels) in zip(one, other, strict=True):
        assert np.array_equal(examples, wanted)
        assert np.array_equal(labels, wanted_labels)
        count += 1
    return count


@pytest.mark.parametrize("options", [{}, {"check_crc": "always"}, {"check_crc": "never", "normalize": "utterance"}])
def test_batches_of_a_store_are_those_of_the_disk(s3: S3Server, root: Path, options: dict[str, Any]):
    stored = BatchLoader(URL, **OPTIONS, **options).batches(epochs=2, start=(1, 1))
    assert same(stored, BatchLoader(root, **OPTIONS, **options).batches(epochs=2, start=(1, 1))) > 3


@pytest.mark.parametrize("options", [{"layout": "time_mel"}, {"locality": 2}])
def test_halves_of_a_store(s3: S3Server, tmp_path: Path, options: dict[str, Any]):
    half, full = write_twins(tmp_path)
    for path in filter(Path.is_file, half.rglob("*")):
        s3.put(f"halves/{path.relative_to(half)}", path.read_bytes())
    stored = BatchLoader(f"s3://{BUCKET}/halves", **OPTIONS, **options).batches()
    assert same(stored, BatchLoader(full, **OPTIONS, **options).batches()) > 1


def test_waveforms_and_noise_of_a_store(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By a worker process, which opens the store for itself; here all crops of a batch are read at once."""
    raw = write_dataset(tmp_path, {"train": raw_speakers("a", 10)}, RAW)
    for path in filter(Path.is_file, raw.rglob("*")):
        s3.put(f"raw/{path.relative_to(raw)}", path.read_bytes())
    url, options = f"s3://{BUCKET}/raw", {**OPTIONS, "speakers_per_batch": 10, "features": "logmel"}
    wanted = list(BatchLoader(raw, waveform_transform=WaveformAugment(noise=raw), **options).batches())
    augment = WaveformAugment(noise=url)
    assert same(BatchLoader(url, waveform_transform=augment, workers=1, **options).batches(), wanted) >= 1
    here = BatchLoader(url, waveform_transform=augment, **options).batches()
    monkeypatch.setattr(s3.proxy, "latency_s", 0.05)
    s3.proxy.reset()
    assert same([next(here)], wanted[:1]) == 1
    assert s3.proxy.most_at_once >= 25  # of 40; and of noise half as many


def test_the_reads_of_a_batch_are_under_way_at_once(s3: S3Server, root: Path, monkeypatch: pytest.MonkeyPatch):
    loader = BatchLoader(URL, check_crc="never", **OPTIONS)
    loader.stream("train")
    monkeypatch.setattr(s3.proxy, "latency_s", 0.05)
    s3.proxy.reset()
    assert same([next(loader.batches())], [next(BatchLoader(root, **OPTIONS).batches())]) == 1
    assert s3.proxy.most_at_once >= 15  # 20 crops, and at first four files to open


def test_windows_are_read_by_few_large_requests(s3: S3Server, root: Path):
    options = {**OPTIONS, "speakers_per_batch": 3, "locality": 2}
    loader = BatchLoader(URL, **options)
    loader.stream("train")
    s3.proxy.reset()
    assert same(loader.batches(), BatchLoader(root, **options).batches()) > 2
    gets = [request for request in s3.proxy.requests if request.method == "GET" and request.path.endswith("tfrecord")]
    assert len(gets) <= 2 * 4  # each shard once, and the first ones of the next epoch's windows
    windows = loader.stream("train")._examples._windows
    assert windows is not None
    windows._reader.shutdown()  # a window that is still being read would be a request of the next test


def test_an_index_is_one_object_and_a_cache_saves_all_that_fits(s3: S3Server, root: Path, tmp_path: Path):
    options = {**OPTIONS, "cache_dir": tmp_path / "cache", "cache_gib": 1}
    expected = list(BatchLoader(root, **OPTIONS).batches())
    s3.proxy.reset()
    assert same(BatchLoader(URL, **options).batches(), expected) > 2
    assert sum(request.method == "GET" and "index-" in request.path for request in s3.proxy.requests) == 1
    s3.proxy.reset()
    assert same(BatchLoader(URL, **options).batches(), expected) > 2
    assert {request.path for request in s3.proxy.requests if request.method == "GET"} <= {
        f"/{BUCKET}/data/metadata.json",
        f"/{BUCKET}",  # listings, for the sizes of the shards
        f"/{BUCKET}/",
    }


def test_tensorflow_and_torch_read_from_a_store(s3: S3Server, root: Path, torch: Any):
    expected = list(BatchLoader(root, **OPTIONS).batches())
    tensors = GE2EDatasetLoader(URL, **OPTIONS).get_train_dataset()
    assert same(((examples.numpy(), labels.numpy()) for examples, labels in tensors), expected) > 2
    batches = BatchLoader(URL, **OPTIONS).torch_dataset()
    feed = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=2, multiprocessing_context="forkserver")
    assert same(((examples.numpy(), labels.numpy()) for examples, labels in feed), expected) > 2


def test_whole_utterances_and_labels_come_from_a_store(s3: S3Server, root: Path):
    for one, other in zip(BatchLoader(URL).utterances("train"), BatchLoader(root).utterances("train"), strict=True):
        assert (one.utterance_id, one.speaker_id, one.frames) == (other.utterance_id, other.speaker_id, other.frames)
        assert np.array_equal(one.values, other.values)
    assert BatchLoader(URL).utterance("u3", "test/a2").frames == BatchLoader(root).utterance("u3", "test/a2").frames


def test_damage_and_what_is_missing_on_a_store_is_told(s3: S3Server, root: Path):
    metadata = json.loads((root / "metadata.json").read_text())
    base = metadata["shards"]["train"][0]["base"]
    content = bytearray((root / f"{base}.tfrecord").read_bytes())
    content[len(content) // 2] ^= 1
    for path in sorted(root.rglob("*")):
        if path.is_file():
            s3.put(f"damaged/{path.relative_to(root)}", path.read_bytes())
    s3.put(f"damaged/{base}.tfrecord", bytes(content))
    with pytest.raises(CorruptRecordError, match=rf"s3://{BUCKET}/damaged/{base}.tfrecord at offset \d+, utterance"):
        list(BatchLoader(f"s3://{BUCKET}/damaged", **OPTIONS).batches())
    with pytest.raises(DatasetError, match=rf"no complete dataset at s3://{BUCKET}/nothing"):
        BatchLoader(f"s3://{BUCKET}/nothing")


def test_verify_asks_for_a_copy(s3: S3Server):
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "verify", URL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"{URL} is on a store: this reads every byte, so copy the dataset first" in done.stderr
