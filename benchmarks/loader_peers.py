"""The contestants of `loader.py`, each by the way that its own documentation gives for speed.

`CONTESTANTS` lists them by name. `open_it(folder)` of one returns a function: pass number -> iterator over one epoch
of batches, arrays or tensors of 640 windows (the last may be smaller). What it opens is opened once; libraries are
imported before the clock runs.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from loader_data import BATCH, SHAPE, M, N

Passes = Callable[[int], Iterator[Any]]

# Serialized records that the naive way shuffles within: 40 speakers' worth.
_SHUFFLE = 4096
# Batches that Grain's threads have ready.
_GRAIN_READY = 4
_WORKERS = 2


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One row of the table.

    Attributes:
        title: for the table.
        data: name of its format in `loader_data.FORMATS`.
        exact: whether every batch is N speakers x M windows, drawn anew each epoch.
        modules: imported before the clock runs.
        open_it: see the head of this file.
    """

    title: str
    data: str
    exact: bool
    modules: tuple[str, ...]
    open_it: Callable[[Path], Passes]

    def load(self) -> None:
        """Imports what it needs."""
        for module in self.modules:
            importlib.import_module(module)


def scan(folder: Path) -> Passes:
    """Serialized records, unparsed, one file after the other: what tf.data can read at most."""
    import tensorflow as tf

    records = tf.data.TFRecordDataset(_records(folder), buffer_size=1 << 20).batch(BATCH).prefetch(2)
    return lambda _: iter(records)


def scan_parse(folder: Path) -> Passes:
    """Parsing a whole batch at once, on all cores, is several times as fast as record by record."""
    import tensorflow as tf

    records = tf.data.TFRecordDataset(_records(folder), buffer_size=1 << 20)
    batches = records.batch(BATCH).map(_parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
    return lambda _: iter(batches)


def naive(folder: Path) -> Passes:
    """All files in turn through a shuffle buffer of serialized records. No promise on speakers."""
    import tensorflow as tf

    names = _records(folder)
    records = tf.data.Dataset.from_tensor_slices(names).interleave(
        functools.partial(tf.data.TFRecordDataset, buffer_size=1 << 20),
        cycle_length=len(names),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=False,
    )
    shuffled = records.shuffle(_SHUFFLE, seed=0).batch(BATCH)
    batches = shuffled.map(_parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
    return lambda _: iter(batches)


def _records(folder: Path) -> list[str]:
    return sorted(map(str, folder.rglob("*.tfrecord")))


def _parse(records: Any) -> Any:
    import tensorflow as tf

    number = tf.io.FixedLenFeature([], tf.int64)
    spec = {"spectrogram/values": tf.io.FixedLenFeature(SHAPE, tf.float32), "speaker/mapped_id": number}
    return tf.io.parse_example(records, spec)["spectrogram/values"]


def _grain(folder: Path) -> Any:
    """Windows of all files in one random order, by random access."""
    import grain

    source = grain.sources.ArrayRecordDataSource(sorted(map(str, folder.glob("*.array_record"))))
    return grain.MapDataset.source(source).shuffle(seed=0).map(_window)


def grain_threads(folder: Path) -> Passes:
    """16 threads read single windows ahead, 500 of them, after which they are batched: Grain's defaults."""
    import grain

    batches = _grain(folder).to_iter_dataset(grain.ReadOptions(num_threads=16, prefetch_buffer_size=500)).batch(BATCH)
    return lambda _: iter(batches)


def grain_batched(folder: Path) -> Passes:
    """Batched before the threads, of which there is one (measured: two are slower, sixteen a third as fast)."""
    import grain

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_GRAIN_READY)
    batches = _grain(folder).batch(BATCH).to_iter_dataset(options)
    return lambda _: iter(batches)


def grain_processes(folder: Path) -> Passes:
    """Two worker processes that hand batches over in shared memory."""
    import grain

    read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_GRAIN_READY)
    workers = grain.MultiprocessingOptions(num_workers=_WORKERS, per_worker_buffer_size=_GRAIN_READY)
    batches = _grain(folder).batch(BATCH).to_iter_dataset(read).mp_prefetch(workers)
    return lambda _: iter(batches)


def array_record(folder: Path) -> Passes:
    """ArrayRecord without Grain: one call for all records of a batch, in a random order."""
    import grain

    source = grain.sources.ArrayRecordDataSource(sorted(map(str, folder.glob("*.array_record"))))

    def one_pass(number: int) -> Iterator[Any]:
        order = np.random.default_rng(number).permutation(len(source)).tolist()
        for first in range(0, len(order), BATCH):
            yield np.stack([_window(data) for data in source.__getitems__(order[first : first + BATCH])])

    return one_pass


def _window(data: bytes) -> Any:
    return np.frombuffer(data, dtype=np.float32).reshape(SHAPE)


def webdataset(folder: Path, workers: int = 0) -> Passes:
    """Tar files one after the other, no decoding but `np.frombuffer`, batched before the DataLoader."""
    import webdataset as wds

    names = sorted(map(str, folder.glob("*.tar")))
    samples = wds.WebDataset(names, shardshuffle=False, empty_check=False, handler=wds.handlers.reraise_exception)
    batches = samples.map(_tar_window).batched(BATCH, collation_fn=np.stack, partial=True)
    if not workers:
        return lambda _: iter(batches)
    loader = wds.WebLoader(batches, batch_size=None, num_workers=workers, persistent_workers=True)
    return lambda _: iter(loader)


def _tar_window(sample: dict[str, Any]) -> Any:
    return _window(sample["f32"])


def mds(folder: Path, workers: int = 0) -> Passes:
    """Local shards in its own shuffled order, through its DataLoader."""
    from streaming import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(local=str(folder), batch_size=BATCH, shuffle=True, num_canonical_nodes=1)
    loader = StreamingDataLoader(
        dataset, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0, collate_fn=_stack_tensors
    )
    return lambda _: iter(loader)


def _stack_tensors(samples: list[dict[str, Any]]) -> Any:
    import torch

    return torch.from_numpy(np.stack([_window(sample["window"]) for sample in samples]))


def mds_random(folder: Path) -> Passes:
    """Windows by number in a random order, in this process: no iterator, no worker."""
    from streaming import LocalDataset

    dataset = LocalDataset(str(folder))

    def one_pass(number: int) -> Iterator[Any]:
        order = np.random.default_rng(number).permutation(len(dataset)).tolist()
        for first in range(0, len(order), BATCH):
            yield np.stack([_window(dataset[place]["window"]) for place in order[first : first + BATCH]])

    return one_pass


_OURS = (N, M, SHAPE[0])


def ours_numpy(folder: Path, **options: Any) -> Passes:
    from ge2e_transforms import BatchLoader

    loader = BatchLoader(folder, *_OURS, speakers="proportional", **options)
    return lambda number: (examples for examples, _ in loader.batches("train", epochs=1, start=(number, 0)))


def ours_tf(folder: Path, **options: Any) -> Passes:
    from ge2e_transforms import GE2EDatasetLoader

    loader = GE2EDatasetLoader(folder, *_OURS, speakers="proportional", **options)
    return lambda number: (examples for examples, _ in loader.get_train_dataset(epochs=1, start=(number, 0)))


def ours_torch(folder: Path, workers: int, **options: Any) -> Passes:
    """One endless stream, so that workers live on from epoch to epoch, as they do in training."""
    from torch.utils.data import DataLoader

    from ge2e_transforms import BatchLoader

    loader = BatchLoader(folder, *_OURS, speakers="proportional", **options)
    dataset = loader.torch_dataset("train", epochs=None)
    stream = iter(DataLoader(dataset, batch_size=None, num_workers=workers))
    in_epoch = loader.batches_per_epoch("train")
    return lambda _: (examples for examples, _ in itertools.islice(stream, in_epoch))


_TF, _TORCH, _US = ("tensorflow",), ("torch.utils.data",), "ge2e_transforms.loader"

CONTESTANTS: dict[str, Contestant] = {
    "scan": Contestant("TFRecordDataset, unparsed", "ours", False, _TF, scan),
    "scan_parse": Contestant("TFRecordDataset + parse_example", "ours", False, _TF, scan_parse),
    "naive": Contestant("interleave + shuffle + parse_example", "ours", False, _TF, naive),
    "grain_threads": Contestant("Grain, 16 threads (its defaults)", "array_record", False, ("grain",), grain_threads),
    "grain_batched": Contestant("Grain, 1 thread, batched first", "array_record", False, ("grain",), grain_batched),
    "grain_processes": Contestant("Grain, 2 processes", "array_record", False, ("grain",), grain_processes),
    "array_record": Contestant("ArrayRecord, batched random reads", "array_record", False, ("grain",), array_record),
    "webdataset": Contestant("WebDataset", "webdataset", False, ("webdataset",), webdataset),
    "webdataset_2": Contestant(
        "WebDataset, 2 workers", "webdataset", False, ("webdataset",), functools.partial(webdataset, workers=_WORKERS)
    ),
    "mds": Contestant("Mosaic Streaming", "mds", False, ("streaming",), mds),
    "mds_2": Contestant(
        "Mosaic Streaming, 2 workers", "mds", False, ("streaming",), functools.partial(mds, workers=_WORKERS)
    ),
    "mds_random": Contestant("Mosaic Streaming, random access", "mds", False, ("streaming",), mds_random),
    "ours_tf": Contestant("ours, tf.data", "ours", True, (*_TF, _US), ours_tf),
    "ours_numpy": Contestant(
        "ours, NumPy, check_crc='first'", "ours", True, (_US,), functools.partial(ours_numpy, check_crc="first")
    ),
    "ours_numpy_always": Contestant(
        "ours, NumPy, check_crc='always'", "ours", True, (_US,), functools.partial(ours_numpy, check_crc="always")
    ),
    "ours_numpy_never": Contestant(
        "ours, NumPy, check_crc='never'", "ours", True, (_US,), functools.partial(ours_numpy, check_crc="never")
    ),
    "ours_time_mel": Contestant(
        "ours, NumPy, layout='time_mel'", "ours", True, (_US,), functools.partial(ours_numpy, layout="time_mel")
    ),
    "ours_time_mel_always": Contestant(
        "ours, NumPy, layout='time_mel', check_crc='always'",
        "ours",
        True,
        (_US,),
        functools.partial(ours_numpy, layout="time_mel", check_crc="always"),
    ),
    "ours_time_mel_never": Contestant(
        "ours, NumPy, layout='time_mel', check_crc='never'",
        "ours",
        True,
        (_US,),
        functools.partial(ours_numpy, layout="time_mel", check_crc="never"),
    ),
    "ours_locality": Contestant(
        "ours, NumPy, locality=4", "ours", True, (_US,), functools.partial(ours_numpy, locality=4)
    ),
    "ours_torch": Contestant("ours, torch", "ours", True, (*_TORCH, _US), functools.partial(ours_torch, workers=0)),
    "ours_torch_2": Contestant(
        "ours, torch, 2 workers", "ours", True, (*_TORCH, _US), functools.partial(ours_torch, workers=_WORKERS)
    ),
}
