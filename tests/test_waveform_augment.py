"""Noise at the ratio that was asked for, rooms by convolution; all by the key of a crop, whenever it is read."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.signal
from small_dataset import RAW, raw_speakers, write_dataset

from ge2e_transforms import BatchLoader, WaveformAugment
from ge2e_transforms.errors import ConfigError, DatasetError
from ge2e_transforms.rng import random_bits
from ge2e_transforms.schema import PCM16_SCALE
from ge2e_transforms.stream import Batch

pytestmark = pytest.mark.filterwarnings("ignore:an epoch of split")
OPTIONS: dict[str, Any] = {"speakers_per_batch": 3, "utterances_per_speaker": 2, "speakers": "proportional", "seed": 7}
ROOM = RAW.replace(voice="none", min_utterance_ms=0)
KEYS = random_bits(3, 40)
Waveforms = npt.NDArray[np.float32]


def records(*values: Any) -> dict[str, Any]:
    """A split of one record a speaker."""
    return {"train": {f"test/r{number}": [[value[:, None]]] for number, value in enumerate(values)}}


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("noise"), {"train": raw_speakers("n", 3, seed=5)}, RAW)


def response(length: int, direct: int, seed: int) -> npt.NDArray[np.int16]:
    """Faint noise, a direct path, and a tail that fades."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 6000, length) * np.exp(-5 * np.arange(length) / length)
    values[:direct] /= 100
    values = np.clip(np.rint(values), -20000, 20000)
    values[direct] = -32000
    return values.astype(np.int16)


RESPONSES = [response(700, 30, 1), response(9000, 250, 2), response(2000, 0, 3)]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("rooms"), records(*RESPONSES), ROOM, shards=1)


def speech(n: int = 40, samples: int = 4800) -> Waveforms:
    rng = np.random.default_rng(4)
    return (rng.normal(0, 1, (n, samples)) * rng.uniform(0.001, 0.3, (n, 1))).astype(np.float32)


def power(waveforms: Waveforms) -> npt.NDArray[np.float64]:
    return np.square(waveforms.astype(np.float64)).mean(axis=1)


def applied(augment: WaveformAugment, waveforms: Waveforms, keys: Any = KEYS) -> Waveforms:
    return augment.bind(RAW)(waveforms.copy(), keys)


# Noise.


def test_noise_is_as_loud_as_asked_for(noise: Path) -> None:
    clean = speech()
    for ratio in (-10.0, 0.0, 15.0):
        added = applied(WaveformAugment(noise=noise, snr_db=(ratio, ratio), noise_share=1), clean) - clean
        np.testing.assert_allclose(10 * np.log10(power(clean) / power(added)), ratio, atol=0.1)
    added = applied(WaveformAugment(noise=noise, snr_db=(3.0, 9.0), noise_share=1), clean) - clean
    drawn = 10 * np.log10(power(clean) / power(added))
    assert 3 <= drawn.min() < 4.5 and 7.5 < drawn.max() <= 9
    assert np.abs(np.corrcoef(added[:12])[np.triu_indices(12, 1)]).max() < 0.2  # no two have the same noise


def test_a_share_of_the_crops_gets_noise(noise: Path) -> None:
    clean, keys = speech(400, 200), random_bits(8, 400)
    changed = (applied(WaveformAugment(noise=noise, noise_share=0.3), clean, keys) != clean).any(axis=1)
    assert 80 < changed.sum() < 160
    assert not (applied(WaveformAugment(noise=noise, noise_share=0), clean, keys) != clean).any()


def test_silence_never_becomes_nan(tmp_path: Path, noise: Path, rooms: Path) -> None:
    silent = np.zeros((40, 4800), np.float32)
    assert not applied(WaveformAugment(noise=noise, rooms=rooms, noise_share=1, room_share=1), silent).any()
    write_dataset(tmp_path, records(np.zeros(6000, np.int16)), ROOM, shards=1)
    clean = speech()
    assert np.array_equal(applied(WaveformAugment(noise=tmp_path, noise_share=1), clean), clean)
    assert np.isfinite(applied(WaveformAugment(rooms=tmp_path, room_share=1), clean)).all()


# Rooms.


def test_a_room_is_the_convolution_from_its_direct_path_on(rooms: Path) -> None:
    clean = speech()
    wet = applied(WaveformAugment(rooms=rooms, room_share=1), clean)
    np.testing.assert_allclose(power(wet), power(clean), rtol=1e-4)
    taken = []
    for dry, found in zip(clean, wet, strict=True):
        errors = []
        for stored in RESPONSES:
            tail = stored[np.abs(stored.astype(int)).argmax() :] / PCM16_SCALE
            wanted = scipy.signal.fftconvolve(dry.astype(np.float64), tail)[: len(dry)]
            wanted *= np.sqrt(power(dry[None])[0] / power(wanted[None].astype(np.float32))[0])
            errors.append(np.abs(found - wanted).max() / np.abs(wanted).max())
        taken.append(int(np.argmin(errors)))
        assert min(errors) < 2e-5
    assert set(taken) == {0, 1, 2}


def test_a_share_of_the_crops_is_put_into_a_room(rooms: Path) -> None:
    clean, keys = speech(400, 200), random_bits(9, 400)
    changed = (applied(WaveformAugment(rooms=rooms, room_share=0.5), clean, keys) != clean).any(axis=1)
    assert 150 < changed.sum() < 250


# Draws.


def test_what_becomes_of_a_crop_follows_from_its_key(noise: Path, rooms: Path) -> None:
    augment = WaveformAugment(noise=noise, rooms=rooms, noise_share=0.7, room_share=0.6)
    clean = speech()
    together = applied(augment, clean)
    assert np.array_equal(together, applied(pickle.loads(pickle.dumps(augment)), clean))
    for part in (slice(7, 8), slice(11, 16), slice(0, 39)):
        assert np.array_equal(applied(augment, clean[part], KEYS[part]), together[part])
    assert not np.array_equal(applied(augment, clean, random_bits(99, 40)), together)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("raw"), {"train": raw_speakers("a", 9)}, RAW, shards=2)


def same(one: Any, other: Any) -> int:
    count = 0
    for (examples, labels), (wanted, wanted_labels) in itertools.zip_longest(one, other, fillvalue=((), ())):
        assert np.array_equal(examples, wanted) and np.array_equal(labels, wanted_labels)
        count += 1
    return count


@pytest.mark.parametrize("features", [None, "logmel"])
def test_batches_are_the_same_wherever_they_are_made(
    torch: Any, root: Path, noise: Path, rooms: Path, features: str | None
) -> None:
    def open_loader(**options: Any) -> BatchLoader:
        augment = WaveformAugment(noise=noise, rooms=rooms, noise_share=0.7, room_share=0.6)
        return BatchLoader(root, features=features, waveform_transform=augment, **{**OPTIONS, **options})

    whole: list[Batch] = list(open_loader().batches(epochs=2))
    plain, _ = next(BatchLoader(root, features=features, **OPTIONS).batches())
    assert whole[0][0].shape == plain.shape
    assert 1 < sum((one != other).any() for one, other in zip(whole[0][0], plain, strict=True)) <= 6
    steps = open_loader().steps_per_epoch
    assert same(open_loader().batches(start=(1, 3)), whole[steps + 3 :]) == steps - 3
    hosts = [open_loader(host_index=index, host_count=2) for index in range(2)]
    turns = zip(*(host.batches() for host in hosts), strict=True)
    assert same((batch for turn in turns for batch in turn), whole[: steps // 2 * 2]) > 4
    pairs = [open_loader(host_index=i, host_count=3, global_batch=True, speakers_per_batch=1) for i in range(3)]
    joined = zip(*(host.batches() for host in pairs), strict=True)
    assert same((map(np.concatenate, zip(*parts, strict=True)) for parts in joined), whole[:steps]) == steps
    feed = torch.utils.data.DataLoader(open_loader().torch_dataset(epochs=2), batch_size=None, num_workers=2)
    assert same(((examples.numpy(), labels.numpy()) for examples, labels in feed), whole) == 2 * steps


# Refusals.


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, r"noise, rooms=\(None, None\) cannot be used: expected the folder of a dataset"),
        ({"noise": "x", "snr_db": 5.0}, r"snr_db=5.0 cannot be used: expected \(lowest, highest\) in dB"),
        ({"noise": "x", "snr_db": (9, 3)}, "lowest <= highest"),
        ({"noise": "x", "snr_db": (0, 900)}, "snr_db=900"),
        ({"noise": "x", "noise_share": 1.5}, "noise_share=1.5"),
        ({"rooms": "x", "room_share": -1}, "room_share=-1"),
    ],
)
def test_options_are_checked(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        WaveformAugment(**options)


def test_datasets_that_do_not_fit_are_refused_before_the_first_batch(root: Path, noise: Path, tmp_path: Path) -> None:
    def batches(**options: Any) -> None:
        BatchLoader(root, waveform_transform=WaveformAugment(**options), **OPTIONS).batches()

    with pytest.raises(DatasetError, match="no complete dataset"):
        batches(noise=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"holds no responses of rooms .* voice \('join', not 'none'\)"):
        batches(rooms=noise)
    write_dataset(tmp_path, records(np.ones(100, np.int16)), ROOM.replace(sample_rate_hz=8000), shards=1)
    with pytest.raises(ConfigError, match=r"sample_rate_hz \(8000, not 16000\)"):
        batches(rooms=tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be mixed .* sample_rate_hz \(8000, not 16000\)\. Make it"):
        batches(noise=tmp_path)


def test_noise_of_other_filters_is_the_same_noise(noise: Path) -> None:
    """Samples do not depend on what would be made of them."""
    other = RAW.replace(n_mels=80, log="ln")
    assert np.array_equal(
        WaveformAugment(noise=noise).bind(other)(speech(), KEYS), applied(WaveformAugment(noise=noise), speech())
    )
