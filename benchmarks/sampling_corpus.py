"""A corpus of known factors for `sampling_worth.py`: features of speakers, sessions and channels, and no audio.

A row stands for 30 ms, so that a window of 40 rows is 1.2 s and an utterance 6 to 7 s. Row t of an utterance in session
s of speaker k is, over the bands,

    static_k + channel_s + session_s + loadings (I + modulation_k) content_t + level_s noise_t

Static parts, channels and sessions are smooth curves over the bands (cosines). A session has one of `CHANNELS`
channels, drawn anew for each. `content` is what is spoken: a Gaussian process that all speakers share; how it moves the
bands is the speaker's own (`modulation`), so that a speaker is more than a mean.

Where the sizes come from. The variance of a band within an utterance is 1. Measured on the log-mels of 311 LibriSpeech
utterances (preset ge2e, `sampling_sizes.py`): means of utterances of different speakers vary by 0.11 of it, those of
one session by 0.03, which leaves 0.08 to speakers and sessions; 30 ms apart, bands correlate by 0.69; deviations of a
band differ between speakers by 0.14 of their mean; six directions hold 88 % of the variance of means. That speech has
one session a speaker, so how the 0.08 is shared is not known: one half is the speaker's here, the other half is the
session's, most of it the channel's. Channels and sessions have the four smoothest curves only (microphones and rooms
are smooth), speakers eight.

How much speech speakers have follows Pareto's law with the exponent of the 80-20 rule, cut at a largest count.
All utterances give five windows and no more, so that all speakers can fill one quota and fixed cliques are possible.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.signal
from loader_data import import_small_dataset

BANDS = 20
CROP = 40
# Of an utterance; each of these lengths holds five crops.
_ROWS = (5 * CROP, 6 * CROP)
CHANNELS = 40
# Of static parts, channels and sessions together; and how much channels have of what they and sessions have.
OFFSETS_VARIANCE, CHANNELS_SHARE = 0.08, 0.625
NOISE_VARIANCE = 0.1
# Of content from row to row; noise takes some of it from the bands.
CORRELATION = 0.75
# With what noise adds, deviations of bands differ between speakers by 0.13 of their mean.
_MODULATION = 0.16
_CURVES, _SMOOTH_CURVES = 8, 4
FEWEST, MOST = 4, 150
_PARETO = 1.16  # 20 % of the speakers have 80 %, were there no largest count
_PER_SESSION = 3
_TEST_SESSIONS, TEST_PER_SESSION = 6, 2
_SHARDS = 8

Values = npt.NDArray[np.float32]


class Factors(NamedTuple):
    """How much sessions differ.

    Attributes:
        sessions_share: what channels and sessions have of `OFFSETS_VARIANCE`, 0 to 1; the rest is the speakers'.
        noise_spread: deviation of the logarithm of a session's level of noise.
    """

    sessions_share: float = 0.5
    noise_spread: float = 0.3


FACTORS = Factors()


class World(NamedTuple):
    """What all speakers share.

    Attributes:
        curves: float32 `[8, bands]`, cosines. The mean square of each is its part of the variance, in sum 1.
        channels: float32 `[channels, bands]`.
        speakers, sessions: variances of static parts, and of sessions beside their channels.
        noise_spread: see `Factors`.
    """

    curves: Values
    channels: Values
    speakers: float
    sessions: float
    noise_spread: float


class Speaker(NamedTuple):
    """Utterances float16 `[rows, bands]` in the order of their files, session by session, and the session of each."""

    utterances: list[npt.NDArray[np.float16]]
    sessions: list[int]


def world(seed: int, factors: Factors = FACTORS) -> World:
    rng = np.random.default_rng([seed, 0])
    order = np.arange(_CURVES)[:, None]
    curves = np.cos(np.pi * order * (np.arange(BANDS) + 0.5) / BANDS) * np.where(order, np.sqrt(2), 1)
    # Parts of the variance as the eigenvalues of means of utterances fall (docstring of this module).
    part = (order + 1.0) ** -1.5
    curves = (curves * np.sqrt(part / part.sum())).astype(np.float32)
    both = OFFSETS_VARIANCE * factors.sessions_share
    channels = _smooth(curves, both * CHANNELS_SHARE, CHANNELS, rng)
    return World(curves, channels, OFFSETS_VARIANCE - both, both * (1 - CHANNELS_SHARE), factors.noise_spread)


def _smooth(curves: Values, variance: float, count: int, rng: np.random.Generator) -> Values:
    """Random curves `[count, bands]` of the smoothest cosines alone, of this variance in the mean over the bands."""
    some = curves[:_SMOOTH_CURVES]
    scale = np.sqrt(variance / np.square(some).mean(axis=1).sum())
    drawn: Values = rng.standard_normal((count, _SMOOTH_CURVES), dtype=np.float32) @ some * np.float32(scale)
    return drawn


def speaker(shared: World, counts: list[int], rng: np.random.Generator) -> Speaker:
    """A speaker with so many utterances in each session."""
    static = rng.standard_normal(_CURVES, dtype=np.float32) @ shared.curves * np.float32(np.sqrt(shared.speakers))
    moved = np.eye(_CURVES) + _MODULATION * rng.standard_normal((_CURVES, _CURVES))
    moved *= np.sqrt((1 - NOISE_VARIANCE) / (1 + _CURVES * _MODULATION**2))
    loadings = moved.astype(np.float32) @ shared.curves
    sessions = _smooth(shared.curves, shared.sessions, len(counts), rng)
    sessions += static + shared.channels[rng.integers(CHANNELS, size=len(counts))]
    levels = np.sqrt(NOISE_VARIANCE) * np.exp(shared.noise_spread * rng.standard_normal(len(counts)))
    session = np.repeat(np.arange(len(counts)), counts).tolist()
    return Speaker([_utterance(loadings, sessions[s], levels[s], rng) for s in session], session)


def _utterance(loadings: Values, offset: Values, level: float, rng: np.random.Generator) -> npt.NDArray[np.float16]:
    rows = int(rng.integers(*_ROWS))
    drawn = rng.standard_normal((rows, _CURVES), dtype=np.float32)
    drawn[1:] *= np.sqrt(1 - CORRELATION**2)  # the first row has the variance of all
    content = scipy.signal.lfilter([1.0], [1.0, -CORRELATION], drawn, axis=0)
    noise = rng.standard_normal((rows, BANDS), dtype=np.float32)
    return np.asarray(offset + content @ loadings + level * noise, dtype=np.float16)


def train_counts(rng: np.random.Generator) -> list[int]:
    """Utterances of each session of a speaker of the train split: about three a session, two sessions or more."""
    count = int(min(MOST, FEWEST * (1 - rng.random()) ** (-1 / _PARETO)))
    return [len(part) for part in np.array_split(np.arange(count), max(2, round(count / _PER_SESSION)))]


def speakers(split: str, count: int, seed: int, factors: Factors = FACTORS) -> dict[str, Speaker]:
    """Speakers of the split 'train' or 'test' by name; the same at every call."""
    shared, found = world(seed, factors), {}
    for number in range(count):
        rng = np.random.default_rng([seed, 1 + (split == "test"), number])
        counts = train_counts(rng) if split == "train" else [TEST_PER_SESSION] * _TEST_SESSIONS
        found[f"simulated/{split}{number:05d}"] = speaker(shared, counts, rng)
    return found


def write(root: Path, train: int, test: int, seed: int = 0, factors: Factors = FACTORS) -> Path:
    """Simulates so many speakers and writes them as a dataset in utterance form. Returns `root`."""
    from ge2e_transforms.config import PRESETS

    recipe = PRESETS["ge2e"].replace(
        n_mels=BANDS, dtype="float16", hop_ms=30.0, window_ms=30.0, crop_ms=30.0 * (CROP - 1)
    )
    drawn = {"train": speakers("train", train, seed, factors), "test": speakers("test", test, seed, factors)}
    splits = {
        split: {name: [[values] for values in one.utterances] for name, one in some.items()}
        for split, some in drawn.items()
    }
    sessions = {name: one.sessions for some in drawn.values() for name, one in some.items()}
    written: Path = import_small_dataset().write_dataset(root, splits, recipe, _SHARDS, sessions=sessions)
    return written
