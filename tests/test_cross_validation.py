"""What `benchmarks/cross_validation.py` does to pieces of utterances, and how it pools the trials of folds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import cross_validation as cv

from ge2e_transforms import PRESETS, FeatureExtractor

EXTRACTOR = FeatureExtractor(PRESETS["ge2e"])


def test_a_filter_stays_within_6_db_and_a_gain_within_20():
    wave = np.random.default_rng(0).normal(0, 0.1, 160_000).astype(np.float32)
    for seed in range(5):
        changed = cv.filtered(wave, 16000, np.random.default_rng(seed))
        assert changed.dtype == np.float32 and len(changed) == len(wave)
        np.testing.assert_array_equal(np.rint(changed * 32768), changed * 32768)
        powers = [np.abs(np.fft.rfft(x.reshape(-1, 1000), axis=1)) ** 2 for x in (wave, changed)]
        decibels = 10 * np.log10(powers[1].mean(axis=0) / powers[0].mean(axis=0))[8:-8]
        assert decibels.max() - decibels.min() <= 12.5
        assert decibels.min() >= -26.5 and decibels.max() <= 6.5
        assert np.ptp(decibels) > 2


def test_perturbed_log_mels_have_a_gain_for_each_band():
    features = np.random.default_rng(0).uniform(0, 3, (50, 40)).astype(np.float32)
    one, again, other = (cv.perturbed(features, np.random.default_rng(seed), EXTRACTOR) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.1
    change = 10 * (one - features)
    assert np.ptp(change, axis=0).max() < 0.1  # the same in all frames; the floor is far below
    assert change.min() >= -26 and change.max() <= 6


def test_trials_of_folds_are_pooled():
    """Scores of two folds whose speakers do not meet; equal error rates by hand."""
    sys.path.insert(0, str(cv.EXAMPLE))
    draws = np.random.default_rng(0)

    def pieces(fold):
        speakers = [f"{fold}-{speaker}" for speaker in range(4) for _ in range(4)]
        return [cv.Piece(name, dict.fromkeys(cv.CONDITIONS, draws.normal(size=(9, 3)))) for name in speakers]

    def perfect(named):
        """Embeddings that say who speaks."""
        who = {id(piece.features["clean"]): int(piece.speaker[-1]) for piece in named}
        return lambda features: np.eye(4)[[who[id(one)] for one in features]]

    def useless(features):
        return np.ones((len(features), 4)) / 2

    folds = []
    for fold in range(2):
        tested = pieces(fold)
        systems = {cv.ENCODER: perfect(tested), cv.LDA: useless}
        folds.append({cv._SUBSET: {name: cv.trials(tested, embed) for name, embed in systems.items()}})
    found = cv.pooled(folds)["clean"]
    assert (found["targets"], found["non_targets"]) == (2 * 4 * 6, 2 * 16 * 6)
    assert found[cv.ENCODER]["eer"] == 0 and found[cv.LDA]["eer"] == pytest.approx(50)
    assert found["differences"][cv.LDA]["interval"] == pytest.approx([-50, -50])
    assert found[cv.LDA]["folds"] == [50, 50]


def test_an_utterance_in_four_pieces(librispeech):
    import timing

    row = next(row for row in timing.speech(librispeech) if row.subset == "train-clean-100")
    features = cv.features_of(row, EXTRACTOR)
    pieces = cv.pieces_of(row, features, EXTRACTOR, 4)
    np.testing.assert_array_equal(np.concatenate([piece.features["clean"] for piece in pieces]), features)
    assert {piece.speaker for piece in pieces} == {row.speaker_id}
    lines = [piece.features["perturbed"].mean(axis=0) - piece.features["clean"].mean(axis=0) for piece in pieces]
    assert np.abs(lines[0] - lines[1]).max() > 0.05  # each over a line of its own
    assert all(piece.features["filtered"].shape[1] == 40 for piece in pieces)
