"""Index arrays without a dataset behind them, and what the tests of planning count in batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ge2e_transforms.rng import derive

Ints = npt.NDArray[np.int64]
# One speaker: utterances, each a list of the frames of its records.
Speaker = Sequence[Sequence[int]]


def index_of(speakers: Sequence[Speaker], utterances_per_session: int = 2) -> dict[str, Ints]:
    """Index of speakers with labels 10, 13, 16, ...; utterances u of a session have the same u // per session."""
    rows = [
        (frames, 10 + 3 * number, utterance, utterance // utterances_per_session)
        for number, speaker in enumerate(speakers)
        for utterance, records in enumerate(speaker)
        for frames in records
    ]
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return dict(zip(("frames", "label", "utterance_index", "session_index"), columns, strict=True))


def pareto(count: int, exponent: float, most: int, key: int = 5) -> Ints:
    """Integers in [1, most], Pareto-distributed."""
    uniform = (derive(key, np.arange(count)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.minimum(most, (1 - uniform) ** (-1 / exponent)).astype(np.int64)


def met(speakers: Ints) -> float:
    """Different other speakers that a speaker meets, mean over speakers, from ids `[B, N]`."""
    names, ids = np.unique(speakers, return_inverse=True)
    present = np.zeros((len(names), len(speakers)), dtype=np.float32)
    present[ids.reshape(speakers.shape), np.arange(len(speakers))[:, None]] = 1
    together = present @ present.T > 0
    return float((together.sum() - len(names)) / len(names))


def met_by_chance(speakers: Ints, seed: int) -> float:
    """The same for the same groups in random places, where a speaker may come twice into a batch."""
    return met(np.random.default_rng(seed).permutation(speakers.ravel()).reshape(speakers.shape))
