"""What decides bytes does not depend on the CPU: features as stored, copies of utterances, log-mels that are mixed."""

from __future__ import annotations

import platform

import cpus
import pytest

FEATURES = """
import hashlib
import numpy as np
from ge2e_transforms import FeatureExtractor, PRESETS
from ge2e_transforms.rng import random_bits
bits = (random_bits(2018, 3 * 22050) >> np.uint64(50)).astype(np.int64) - 8192
loudness = 10.0 ** -np.repeat(np.arange(27) % 5, 2450)
signal = (bits * loudness).astype(np.float32) / np.float32(32768)
def show(preset, changes):
    values = FeatureExtractor(PRESETS[preset].replace(**changes, crop_ms=100))(signal, 22050, "u")
    print(preset, values.shape, hashlib.sha256(values.tobytes()).hexdigest())
for preset in ("librosa", "kaldi", "rtvc", "wespeaker"):
    show(preset, {"min_utterance_ms": 0})
for preset in ("ge2e", "seed"):
    for changes in (
        {},
        {"voice": "mask", "pre_emphasis": 0.97, "dither": 1.0, "level_dbfs": -23.7},
        {"features": "mfcc", "top_db": 60},
        {"log": "ln", "floor": 1e-10, "mel_scale": "htk", "voice": "none", "window": "blackman"},
        {"features": "raw", "voice": "none"},
    ):
        show(preset, changes)
"""
MIXED = """
import hashlib
import numpy as np
from ge2e_transforms import PRESETS, rng
from ge2e_transforms.mel_augment import MelAugment
from ge2e_transforms.mel_mixing import MelMixing
options = MelAugment(gain_db=(-9, 9), tilt_db=(-9, 9), equalizer_db=(-9, 9))
for preset in ("ge2e", "kaldi", "rtvc"):
    recipe = PRESETS[preset]
    bands = recipe.feature.n_mels
    bits = rng.random_bits(5, 8 * bands * 31).reshape(8, bands, 31)
    # From the floor of each on.
    drawn = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-21)
    values = {"ge2e": drawn - np.float32(6), "kaldi": drawn - np.float32(4), "rtvc": drawn * drawn}[preset]
    keys = rng.random_bits(6, 4)
    noise = values[4:].copy()
    values = values[:4].copy()
    MelMixing(recipe).apply(values, 2, options.decibels(keys, bands), noise, np.arange(3), options.snr(keys[:3]))
    print(preset, hashlib.sha256(values.tobytes()).hexdigest())
"""
# Of each copy, and of speech at another speed. Not of MP3, whose encoder takes what a CPU has.
COPIES = """
import hashlib
import numpy as np
from ge2e_transforms import mixing
from ge2e_transforms.augmentation import Augmentation
from ge2e_transforms.config import PRESETS
from ge2e_transforms.copies import Copies
from ge2e_transforms.extractor import Voiced
from ge2e_transforms.sounds import Sounds
from ge2e_transforms.utterance import Utterance

def load(source, config, channel, name):
    bits = np.random.Generator(np.random.PCG64(int(name[1:]))).integers(-6000, 6000, 9000 + 2000 * int(name[1:]))
    return (bits / 32768 * np.linspace(1, 0.1, len(bits)) ** 3).astype(np.float32)

recipe = PRESETS["ge2e"]
rows = [Utterance(f"s{n}", f"s{n}", "n", f"s{n}", "n") for n in range(5)]
config = {**{kind: {"manifest": "m"} for kind in ("noise", "babble", "room")}, "codec": {"codecs": "telephone"}}
sounds = Sounds({"noise": rows, "babble": rows, "room": rows}, recipe.audio, str, 1 << 28)
speech = load("", None, None, "s11")
voiced = Voiced(np.array([[512, 20480], [21504, len(speech)]]), 0, 29000)
found = Copies(Augmentation.from_dict(config), sounds, recipe).made("u", speech, voiced, load)
for samples in [*(copy.samples for copy in found), mixing.at_speed(speech, 16000, 0.9)]:
    print(len(samples), hashlib.sha256(samples.tobytes()).hexdigest())
"""


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="the same bytes are promised for x86-64"
)
def test_bytes_do_not_depend_on_the_cpu(capfd: pytest.CaptureFixture[str]) -> None:
    code = FEATURES + MIXED + COPIES  # in one program, as most of the time is that of its start
    exec(code, {})
    expected = capfd.readouterr().out.splitlines()
    assert len(set(expected)) == 14 + 3 + 5
    assert cpus.lines_of(code) == [expected] * len(cpus.settings())
