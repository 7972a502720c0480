"""PyTorch gives the batches of the stream in their order, whatever the number and kind of worker processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_dataset import speakers, write_dataset, write_twins

from ge2e_transforms import BatchLoader, MelAugment, SpecAugment
from ge2e_transforms.errors import CorruptRecordError, MissingExtraError

pytestmark = pytest.mark.filterwarnings("ignore:an epoch of split")
OPTIONS: dict[str, Any] = {"speakers_per_batch": 3, "utterances_per_speaker": 2, "speakers": "proportional"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), {"train": speakers("a", 9, 0, 5)}, shards=4)


def read(torch: Any, loader: BatchLoader, workers: int, method: str | None = None, **where: Any) -> list[Any]:
    batches = loader.torch_dataset("train", **where)
    feed = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=workers, multiprocessing_context=method)
    return list(feed)


def check(got: list[Any], wanted: list[Any]) -> None:
    assert len(got) == len(wanted)
    for (examples, labels), (arrays, names) in zip(got, wanted, strict=True):
        assert np.array_equal(examples.numpy(), arrays)
        assert np.array_equal(labels if isinstance(labels, list) else labels.numpy(), names)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_workers_change_nothing(torch: Any, root: Path, workers: int):
    mel_augment = MelAugment(noise=root, gain_db=(-6, 6))
    loader = BatchLoader(root, spec_augment=SpecAugment(), mel_augment=mel_augment, **OPTIONS)
    wanted = list(loader.batches(epochs=3, start=(2, 4)))
    check(read(torch, loader, workers, epochs=3, start=(2, 4)), wanted)
    assert len(loader.torch_dataset(epochs=3, start=(2, 4))) == len(wanted)


def test_tensors_of_halves_are_the_floats_of_the_same_value(torch: Any, tmp_path: Path):
    half, full = write_twins(tmp_path)
    got = read(torch, BatchLoader(half, **OPTIONS), 1)
    assert {examples.dtype for examples, _ in got} == {torch.float32}
    check(got, list(BatchLoader(full, **OPTIONS).batches()))


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_may_be_started_in_any_way(torch: Any, root: Path, method: str):
    loader = BatchLoader(root, labels="original", locality=2, **OPTIONS)
    check(read(torch, loader, 2, method, epochs=2), list(loader.batches(epochs=2)))


def test_workers_share_one_plan(torch: Any, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    loader = BatchLoader(root, **OPTIONS)
    sampler = loader.stream("train").sampler
    plan = type(sampler).plan

    def counting(self: Any, epoch: int, part: int = 0) -> Any:
        (tmp_path / f"{epoch}-{len(list(tmp_path.iterdir()))}").touch()
        return plan(self, epoch, part)

    monkeypatch.setattr(type(sampler), "plan", counting)
    assert len(read(torch, loader, 3, "fork", epochs=2)) == 2 * loader.steps_per_epoch
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["0", "1"]


def test_batches_without_end_have_no_length(torch: Any, root: Path):
    batches = BatchLoader(root, **OPTIONS).torch_dataset(epochs=None)
    with pytest.raises(TypeError, match="no length"):
        len(batches)
    iterator = iter(batches)
    for _ in range(50):
        assert next(iterator)[0].shape == (6, 40, 121)


def test_damage_is_told_by_a_worker(torch: Any, tmp_path: Path):
    write_dataset(tmp_path, {"train": speakers("a", 4, 0, 4)}, shards=1)
    path = next(tmp_path.glob("train/*.tfrecord"))
    content = bytearray(path.read_bytes())
    for place in range(1000, len(content), 1000):
        content[place] ^= 1
    path.write_bytes(content)
    loader = BatchLoader(tmp_path, speakers_per_batch=4, utterances_per_speaker=2)
    with pytest.raises(CorruptRecordError, match=r"\.tfrecord at offset"):
        read(torch, loader, 1)


def test_torch_that_is_missing_is_named_with_its_extra(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "ge2e_transforms.torch_reader", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"PyTorch.* pip install 'ge2e-features\[torch\]'"):
        BatchLoader(root, **OPTIONS).torch_dataset()
