"""The checker finds every way in which a batch could break its promise, and a sound dataset passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_dataset import speakers, write_dataset

from ge2e_transforms import BatchLoader
from ge2e_transforms.errors import CorruptRecordError, SamplingError
from ge2e_transforms.sampling import Plan, Sampler
from ge2e_transforms.verify_batches import verify_epoch
from pipeline.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore:an epoch of split")
OPTIONS: dict[str, Any] = {"speakers_per_batch": 3, "utterances_per_speaker": 2, "speakers": "proportional"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), {"train": speakers("a", 9, 0, 5)}, shards=4)


@pytest.mark.parametrize("options", [{}, {"locality": 2}, {"crop_frames": (50, 121, 1)}, {"distinct": "strict"}])
def test_a_sound_dataset_passes(root: Path, options: dict[str, Any]):
    loader = BatchLoader(root, **{**OPTIONS, **options})
    for epoch in range(3):
        report = verify_epoch(loader.stream("train"), epoch, read=4)
        coverage = loader.coverage(epoch=epoch)
        assert (report.batches, report.crops, report.read) == (coverage["batches"], coverage["used"], 4)
        assert 3 <= report.speakers <= 9
        assert report.repeated_utterances <= coverage["repeated_utterances"]


def twice(plan: Plan) -> None:
    plan.labels[1, 0] = plan.labels[1, 1]


def stranger(plan: Plan) -> None:
    plan.records[2, 0] = plan.records[2, -1]


def beyond(plan: Plan) -> None:
    plan.starts[0, 0] = 10_000


def before(plan: Plan) -> None:
    plan.starts[0, 0] = -1


def again(plan: Plan) -> None:
    plan.records[0, 1], plan.starts[0, 1] = plan.records[0, 0], plan.starts[0, 0]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (twice, "a speaker is twice in a batch"),
        (stranger, "a crop is of another speaker than its label"),
        (beyond, "a crop lies outside of its record"),
        (before, "a crop lies outside of its record"),
        (again, "a crop comes twice"),
    ],
)
def test_a_broken_promise_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Plan], None], told: str
):
    plan = Sampler.plan

    def spoilt(self: Sampler, epoch: int, part: int = 0) -> Plan:
        made = plan(self, epoch, part)
        spoil(made)
        return made

    monkeypatch.setattr(Sampler, "plan", spoilt)
    with pytest.raises(SamplingError, match=rf"epoch 0, part 0: {told}.*SamplingOptions"):
        verify_epoch(BatchLoader(root, **OPTIONS).stream("train"), 0, read=0)


def test_batches_that_are_read_are_checked_as_they_come(root: Path, monkeypatch: pytest.MonkeyPatch):
    stream = BatchLoader(root, **OPTIONS).stream("train")
    batch = type(stream).batch
    for spoil, told in (
        (lambda x, y: (x[:, :, 1:], y), "examples have shape"),
        (lambda x, y: (x, np.roll(y, 1)), "labels are"),
        (lambda x, y: (np.where(x == x[0, 0, 0], np.nan, x), y), "a value is not finite"),
    ):
        monkeypatch.setattr(type(stream), "batch", lambda *a, spoil=spoil, **k: spoil(*batch(*a, **k)))
        with pytest.raises(SamplingError, match=f"epoch 1, batch 0: {told}"):
            verify_epoch(stream, 1, read=1)


def test_the_command_prints_what_an_epoch_uses(root: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["verify-batches", str(root), "-n", "3", "-m", "2", "--epochs", "2", "--set", "speakers=proportional"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "split 'train': every batch has 3 different speakers x 2 crops of their own" in text
    for name in ("repeated utterances", "left for later epochs", "speakers met", "epochs for all", "used"):
        assert name in text
    assert main(["verify-batches", str(root), "-n", "3", "-m", "6"]) == 0
    assert "warning: an epoch of split 'train' takes" in capsys.readouterr().out.replace("\n", " ")
    assert main(["verify-batches", str(root), "-n", "30"]) == 1
    assert "Largest N for M=3: 9" in capsys.readouterr().err


def test_the_command_takes_every_option_of_the_loader(root: Path, capsys: pytest.CaptureFixture[str]):
    settings = [
        word for text in ("distinct=strict", "crop_frames=[60,90,10]", "locality=2") for word in ("--set", text)
    ]
    assert main(["verify-batches", str(root), "-n", "2", "-m", "2", *settings]) == 0
    assert main(["verify-batches", str(root), "--set", "distinkt=strict"]) == 1
    assert "did you mean 'distinct'?" in capsys.readouterr().err


def test_damage_is_found_by_reading(tmp_path: Path):
    write_dataset(tmp_path, {"train": speakers("a", 9, 0, 5)}, shards=1)
    path = next(tmp_path.glob("train/*.tfrecord"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    stream = BatchLoader(tmp_path, **OPTIONS).stream("train")
    assert verify_epoch(stream, 0, read=0).read == 0
    with pytest.raises(CorruptRecordError, match="utterance"):
        verify_epoch(stream, 0, read=10_000)
