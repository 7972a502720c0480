"""Small sounds and an `augment.yaml` for all tests, and datasets that hold copies of utterances.

Everything follows from its arguments, as in `synth`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jobs
import numpy as np
import synth

from ge2e_transforms.dataset import Dataset
from ge2e_transforms.planning import PlanConfig
from pipeline.augment_file import read_augmentation
from pipeline.commit import commit

RATE = 16000
# One copy of each kind, but two by codecs, and one more speed.
EVERYTHING = """
noise: {manifest: sounds.csv, subset: noise}
music: {manifest: sounds.csv, subset: music}
babble: {manifest: sounds.csv, subset: speech, talkers: [2, 3]}
room: {manifest: rooms.csv}
codec: {copies: 2}
speed: [0.9]
"""


def sounds(folder: Path, text: str = EVERYTHING, broken: int = 0) -> Path:
    """Four recordings of noise, music and speech each, two rooms, and the `augment.yaml` of this text; gives its path.

    The first so many recordings of noise are no audio.
    """
    rng = np.random.default_rng(0)
    rows = []
    for number in range(4):
        made = {
            "noise": 0.1 * rng.standard_normal(RATE * (1 + number)),
            "music": sum(synth.tone(freq, 2.0, RATE, 0.1) for freq in rng.uniform(100, 3000, 3)),
            "speech": synth.speechlike(500 + number, 2.5, RATE),
        }
        for subset, samples in made.items():
            rows.append((f"{subset}{number}.wav", f"{subset}{number}", subset))
            synth.write(folder / rows[-1][0], samples, RATE)
    for number in range(broken):
        (folder / f"noise{number}.wav").write_bytes(b"no audio")
    for number in range(2):
        response = rng.standard_normal(RATE // 5) * np.exp(-np.arange(RATE // 5) / 600)
        response[:30], response[30] = 0, 4
        synth.write(folder / f"room{number}.wav", 0.1 * response, RATE)
    jobs.write_rows(folder / "sounds.csv", rows, "audio_path,speaker_id,subset")
    rooms = [(f"room{number}.wav", f"room{number}") for number in range(2)]
    jobs.write_rows(folder / "rooms.csv", rooms)
    path = folder / "augment.yaml"
    path.write_text(text)
    return path


def write(output: Path, manifest: Path, augment: Path, **fields: Any) -> Dataset:
    """The dataset of a manifest with the copies that an `augment.yaml` asks for, made without Beam."""
    fields = {"plan": PlanConfig(min_shards=2), **fields}
    config = jobs.job(output, manifest, augmentation=read_augmentation(str(augment)), **fields)
    planned = jobs.write_all(config)
    commit(config, planned.plan, planned.rejected)
    return Dataset.open(output)


def small(folder: Path, text: str = EVERYTHING, broken: int = 0, speakers: int = 4, **fields: Any) -> Dataset:
    """A dataset in `folder/dataset` of some speakers with two utterances each, the last of whom is in split test."""
    manifest = synth.small_corpus(folder / "corpus", speakers, 2, 1.4, test_speakers=1)
    (folder / "sounds").mkdir()
    return write(folder / "dataset", manifest, sounds(folder / "sounds", text, broken), **fields)
