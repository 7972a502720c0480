"""Copies of an utterance: their SNR, level, place and peak, and that draws belong to the utterance alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.signal
import soundfile
from synth import speechlike, tone, write

from ge2e_transforms import audio, voice
from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.config import PRESETS, Recipe
from ge2e_transforms.copies import Copies, MadeCopy
from ge2e_transforms.errors import NoiseError
from ge2e_transforms.extractor import Extraction, FeatureExtractor
from ge2e_transforms.sounds import Sounds
from ge2e_transforms.utterance import Utterance

RATE = 16000
Samples = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six noises of 0.5 to 5.5 s, six voices, six rooms."""
    root = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for number in range(6):
        sound = 0.1 * rng.standard_normal(round(RATE * (0.5 + number))) + 0.05
        write(root / f"noise{number}.wav", sound.astype(np.float32), RATE, subtype="FLOAT")
        write(root / f"voice{number}.wav", speechlike(number, 3.0), RATE, subtype="FLOAT")
        decay = rng.standard_normal(4000) * np.exp(-np.arange(4000) / 700)
        decay[60] = 6
        write(root / f"room{number}.wav", decay.astype(np.float32), RATE, subtype="FLOAT")
    return root


def listed(folder: Path, prefix: str, count: int = 6) -> list[Utterance]:
    names = [f"{prefix}{number}.wav" for number in range(count)]
    return [Utterance(str(folder / name), name, "n", name, "n") for name in names]


def copies(folder: Path, recipe: Recipe = PRESETS["ge2e"], **config: Any) -> Copies:
    rows = {"noise": listed(folder, "noise"), "babble": listed(folder, "voice"), "room": listed(folder, "room")}
    manifests = {
        kind: {"manifest": "m", **config[kind]} if kind != "codec" else config[kind]
        for kind in config
        if kind not in ("seed", "speed")
    }
    made = Augmentation.from_dict({**config, **manifests})
    return Copies(made, Sounds(rows, recipe.audio, lambda location: location, 1 << 28), recipe)


def extracted(samples: Samples, recipe: Recipe = PRESETS["ge2e"]) -> Extraction:
    return FeatureExtractor(recipe).extract(samples)


def make(found: Copies, samples: Samples, name: str = "s/u", recipe: Recipe = PRESETS["ge2e"]) -> list[MadeCopy]:
    return list(found.made(name, samples, extracted(samples, recipe).voiced, audio.load))


def voiced_power(samples: npt.NDArray[Any], extraction: Extraction) -> float:
    """Mean square of the voiced part, less the mean of all, in float64."""
    exact = samples.astype(np.float64) - samples.astype(np.float64).mean()
    spans = extraction.voiced.intervals.tolist()
    return float(np.mean(np.square(np.concatenate([exact[start:end] for start, end in spans]))))


@pytest.mark.parametrize("kind", ["noise", "babble"])
@pytest.mark.parametrize("preset", ["ge2e", "kaldi", "seed"])
def test_the_snr_asked_for_is_the_snr_of_the_voiced_part(folder: Path, kind: str, preset: str) -> None:
    recipe = PRESETS[preset]
    speech = 0.3 * speechlike(20, 3.0)
    extraction = extracted(speech, recipe)
    for snr_db in (-3.0, 0.0, 12.5):
        found = copies(folder, recipe, **{kind: {"snr_db": snr_db}})
        for name in ("a", "b", "c"):
            (copy,) = found.made(name, speech, extraction.voiced, audio.load)
            assert copy.snr_db == snr_db and copy.kind == kind and copy.name == f"{kind}1"
            assert np.abs(copy.samples).max() < 0.99  # not scaled down
            added = copy.samples.astype(np.float64) - speech
            measured = 10 * np.log10(voiced_power(speech, extraction) / voiced_power(added, extraction))
            assert measured == pytest.approx(snr_db, abs=0.1)


def test_ratios_are_drawn_from_the_range(folder: Path) -> None:
    found = copies(folder, noise={"snr_db": [2, 8]})
    speech = speechlike(21, 1.0)
    ratios = [make(found, speech, f"u{number}")[0].snr_db or 0 for number in range(60)]
    assert 2 <= min(ratios) < 2.7 and 7.3 < max(ratios) < 8


def test_draws_belong_to_the_utterance_and_the_copy(folder: Path) -> None:
    config: dict[str, Any] = {"noise": {"copies": 2}, "babble": {}, "room": {"copies": 2}, "codec": {"copies": 2}}
    speech = speechlike(22, 1.5)
    first, again = make(copies(folder, **config), speech, "s/u"), make(copies(folder, **config), speech, "s/u")
    assert [copy.name for copy in first] == ["noise1", "noise2", "babble1", "room1", "room2", "codec1", "codec2"]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)
    used = copies(folder, **config)
    make(used, speechlike(23, 0.7), "another")  # what was made before does not matter
    for one, other in zip(first, make(used, speech, "s/u"), strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)
    # Nor do other copies that are asked for.
    (alone,) = make(copies(folder, room={}), speech, "s/u")
    np.testing.assert_array_equal(alone.samples, first[3].samples)
    for changed in (
        make(copies(folder, **config), speech, "s/v"),
        make(copies(folder, **config, seed=1), speech, "s/u"),
    ):
        assert not np.array_equal(changed[0].samples, first[0].samples)
    assert not np.array_equal(first[0].samples, first[1].samples)


def test_every_sound_and_every_place_is_drawn(folder: Path) -> None:
    found = copies(folder, noise={"snr_db": -60.0})  # so loud that only the noise is heard
    speech = speechlike(24, 0.6)
    made = [make(found, speech, f"u{number}")[0].samples for number in range(40)]
    assert len({round(float(samples[0]), 5) for samples in made}) > 35
    spoken, seen = np.zeros(6), set()
    for samples in made:
        shape = (samples - samples.mean()) / np.linalg.norm(samples - samples.mean())
        for sound in range(6):
            noise, _ = soundfile.read(folder / f"noise{sound}.wav", dtype="float32")
            whole = np.tile(noise - noise.mean(), 3)
            spoken[sound] = scipy.signal.fftconvolve(whole, shape[::-1], "valid").max() / np.std(whole)
        seen.add(int(np.argmax(spoken)))
        assert spoken.max() == pytest.approx(np.sqrt(len(shape)), rel=0.1)
    assert seen == set(range(6))


def test_sound_that_is_only_heard_in_pauses_is_drawn_again(tmp_path: Path) -> None:
    """To be heard where the voice is it would have drowned all else, and the level of the copy with it."""
    sound = (1e-5 * np.random.default_rng(1).standard_normal(8 * RATE)).astype(np.float32)
    sound[3 * RATE : 3 * RATE + 1600] = tone(1000, 0.1)
    write(tmp_path / "noise0.wav", sound, RATE, subtype="FLOAT")
    write(tmp_path / "noise1.wav", speechlike(3, 4.0), RATE, subtype="FLOAT")
    speech = speechlike(40, 3.0)
    speech[RATE : 2 * RATE] *= 1e-4
    extraction = extracted(speech)
    for number in range(30):
        recipe = PRESETS["ge2e"]
        config = Augmentation.from_dict({"noise": {"manifest": "m", "snr_db": 0}})
        sounds = Sounds({"noise": listed(tmp_path, "noise", 2)}, recipe.audio, str, 1 << 28)
        (copy,) = Copies(config, sounds, recipe).made(f"u{number}", speech, extraction.voiced, audio.load)
        found = FeatureExtractor(recipe).extract(copy.samples, voiced=extraction.voiced)
        levelled = voiced_power(copy.samples, extraction) * 10 ** (found.gain_db / 10)
        assert 10 * np.log10(levelled) == pytest.approx(-30, abs=0.05)


@pytest.mark.parametrize("preset", ["ge2e", "kaldi", "rtvc"])
def test_a_room_leaves_the_power_of_the_voice(folder: Path, preset: str) -> None:
    recipe = PRESETS[preset]
    speech = 0.3 * speechlike(25, 2.5)
    extraction = extracted(speech, recipe)
    (copy,) = copies(folder, recipe, room={}).made("u", speech, extraction.voiced, audio.load)
    assert copy.samples.shape == speech.shape and copy.snr_db is None
    ratio_db = 10 * np.log10(voiced_power(copy.samples, extraction) / voiced_power(speech, extraction))
    assert ratio_db == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("features", ["logmel", "raw"])
def test_levels_of_copies_are_those_of_the_recipe(folder: Path, features: str) -> None:
    recipe = PRESETS["ge2e"].replace(features=features)
    extractor = FeatureExtractor(recipe)
    speech = 0.02 * speechlike(26, 3.0)
    clean = extractor.extract(speech)
    made = copies(folder, recipe, noise={"snr_db": 5.0}, babble={"snr_db": 5.0}, room={}, codec={})
    for copy in made.made("u", speech, clean.voiced, audio.load):
        found = extractor.extract(copy.samples, voiced=clean.voiced)
        levelled = voiced_power(copy.samples, clean) * 10 ** (found.gain_db / 10)
        assert 10 * np.log10(levelled) == pytest.approx(-30, abs=0.01)
        assert [segment.start for segment in found.segments] == [segment.start for segment in clean.segments]
        assert [len(segment.values) for segment in found.segments] == [len(s.values) for s in clean.segments]
        np.testing.assert_array_equal(found.voiced.intervals, clean.voiced.intervals)


def test_noise_does_not_count_as_voice(folder: Path) -> None:
    speech = speechlike(27, 3.0)
    extractor = FeatureExtractor(PRESETS["ge2e"])
    clean = extractor.extract(speech)
    (copy,) = make(copies(folder, noise={"snr_db": 0.0}), speech)
    alone = extractor.extract(copy.samples)
    assert alone.voiced_fraction > clean.voiced_fraction + 0.1  # what would happen
    assert extractor.extract(copy.samples, voiced=clean.voiced).voiced_fraction == clean.voiced_fraction


def test_nothing_clips(folder: Path) -> None:
    speech = 2.4 * speechlike(28, 1.0)  # peak 0.96
    found = copies(folder, noise={"snr_db": -10.0}, babble={"snr_db": -10.0}, room={}, codec={"copies": 4})
    for copy in make(found, speech):
        assert np.abs(copy.samples).max() <= 32767 / 32768
        assert np.count_nonzero(np.abs(copy.samples) >= 32766 / 32768) < 4


def test_a_damaged_sound_is_told_and_another_drawn(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "noise0.wav").write_bytes(b"RIFF no more")
    rows = [listed(tmp_path, "noise", 1)[0], listed(folder, "noise", 2)[1]]
    recipe = PRESETS["ge2e"]
    config = Augmentation.from_dict({"noise": {"manifest": "m"}})
    found = Copies(config, Sounds({"noise": rows}, recipe.audio, lambda x: x, 1 << 28), recipe)
    speech = speechlike(29, 1.0)
    made = [make(found, speech, f"u{number}") for number in range(12)]
    assert all(len(copies) == 1 for copies in made)
    ((location, fault),) = found.faults.items()
    assert location == str(tmp_path / "noise0.wav") and "noise0.wav" in fault
    again = Copies(config, Sounds({"noise": rows}, recipe.audio, lambda x: x, 1 << 28), recipe)
    for number, (copy,) in enumerate(made):
        np.testing.assert_array_equal(make(again, speech, f"u{number}")[0].samples, copy.samples)


@pytest.mark.parametrize("kind", ["noise", "room"])
def test_a_list_of_nothing_that_can_be_used_ends_the_job(tmp_path: Path, kind: str) -> None:
    write(tmp_path / f"{kind}0.wav", np.zeros(16000, np.float32), RATE)
    recipe = PRESETS["ge2e"]
    config = Augmentation.from_dict({kind: {"manifest": "m"}})
    found = Copies(config, Sounds({kind: listed(tmp_path, kind, 1)}, recipe.audio, lambda x: x, 1 << 28), recipe)
    with pytest.raises(NoiseError, match=rf"of 100 recordings .* augment\.{kind} none can be used"):
        make(found, speechlike(30, 1.0))


@pytest.mark.parametrize("kind", ["noise", "babble", "room"])
def test_a_sound_that_is_not_there_ends_the_job(tmp_path: Path, kind: str) -> None:
    recipe = PRESETS["ge2e"]
    config = Augmentation.from_dict({kind: {"manifest": "m"}})
    found = Copies(config, Sounds({kind: listed(tmp_path, kind, 1)}, recipe.audio, lambda x: x, 1 << 28), recipe)
    with pytest.raises(NoiseError, match=rf"augment\.{kind} names a recording that cannot be opened: .*{kind}0\.wav"):
        make(found, speechlike(31, 1.0))


def test_voice_intervals_are_those_of_the_clean_utterance(folder: Path) -> None:
    speech = speechlike(32, 2.0)
    clean = FeatureExtractor(PRESETS["ge2e"]).extract(speech)
    assert clean.voiced.length == int(np.sum(np.diff(clean.voiced.intervals, axis=1)))
    assert voice.join(speech, clean.voiced.intervals.tolist()).shape == (clean.voiced.length,)
