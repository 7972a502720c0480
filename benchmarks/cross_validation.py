"""A speaker encoder trained on real speech, on speakers that it never heard, beside a baseline without a network.

    python benchmarks/cross_validation.py ../shared/data [--json FILE]

Cross-validation with five folds of speakers within LibriSpeech's train-clean-100, by the programs that anyone runs: for
each fold `ge2e run` makes a dataset of all other speakers and `examples/train_ge2e train` an encoder of it, with the
arguments in TRAIN, and its last step counts. Speakers whose utterance has 8 s of speech or more take part in the test:
it is cut in four, and all pairs of pieces of a fold are trials. The pieces of a speaker are of one recording, so clean
trials measure the room and the microphone as much as the voice. Therefore pieces are also tried as if each had come
over a line of its own:

- perturbed: an equaliser (-6 to 6 dB at five bands) and a gain (-20 to 0 dB) on its log-mels, drawn for each piece: the
  kind of `MelAugment` that is trained with, at places that were not seen;
- filtered: the quarter of the waveform through a filter (-6 to 6 dB at seven octaves) and a gain (-20 to 0 dB), rounded
  to 16 bits, and then by the `FeatureExtractor`: of another kind than in training, and the level is set again.

The baseline is linear discriminant analysis (LDA) of the mean and deviation of each band over a piece, once of clean
pieces of the speakers that the encoder is trained on, and once with ten perturbed copies of them.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import timing

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "train_ge2e"
FOLDS, PARTS, SEED = 5, 4, 0
# Each piece has 2 s of speech or more: rows of 10 ms.
_PIECE = 200
_SUBSET, _OTHERS = "train-clean-100", "test-other"
# Arguments of every training: 16 speakers x 4 crops of 121 frames, two layers of 128, an embedding of 64.
TRAIN = (
    "--steps 1500 --learning_rate 0.003 --speakers_per_batch 16 --utterances_per_speaker 4 --crop_frames 121 "
    "--layers 2 --units 128 --embedding 64 --equalizer_db -6 6 --gain_db -20 0"
)
_EQUALIZER_DB, _GAIN_DB = (-6.0, 6.0), (-20.0, 0.0)
_OCTAVES_HZ = (125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0)
_COPIES = 10
CONDITIONS = ("clean", "perturbed", "filtered")
ENCODER, LDA, LDA_PERTURBED = "encoder", "LDA", "LDA, perturbed training"

if TYPE_CHECKING:
    from ge2e_transforms import FeatureExtractor
    from ge2e_transforms.utterance import Utterance

Values = npt.NDArray[np.float32]
# From features of pieces to embeddings `[pieces, size]` of length 1.
Embed = Callable[[list[Values]], npt.NDArray[Any]]


@dataclass(frozen=True)
class Piece:
    """A part of an utterance: its speaker, and features `[frames, bands]` by condition."""

    speaker: str
    features: dict[str, Values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, help="folder of LibriSpeech: train-clean-100 and test-other")
    parser.add_argument("--folds", type=int, default=FOLDS, help="only the first so many of the five")
    parser.add_argument("--train", default="", metavar="FLAGS", help="in one word, after those of TRAIN: to compare")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    sys.path.insert(0, str(EXAMPLE))
    rows = [row for row in timing.speech(args.speech) if row.subset in (_SUBSET, _OTHERS)]
    flags = f"{TRAIN} {args.train}".split()
    with tempfile.TemporaryDirectory() as folder:
        folds = list(cross_validate(rows, Path(folder), args.folds, flags))
    report(folds, {"train": " ".join(flags)}, args.json)


def cross_validate(rows: Sequence[Utterance], work: Path, count: int, flags: list[str]) -> Iterable[dict[str, Any]]:
    """One fold after the other: its training, and the scores of all trials of the encoder and of the baselines."""
    from ge2e_transforms import PRESETS, FeatureExtractor

    extractor = FeatureExtractor(PRESETS["ge2e"])
    spoken = {row: features_of(row, extractor) for row in rows}
    long = [row for row in rows if row.subset == _SUBSET and len(spoken[row]) >= PARTS * _PIECE]
    order = np.random.default_rng(SEED).permutation(len(long))
    others = [piece for row in rows if row.subset == _OTHERS for piece in pieces_of(row, spoken[row], extractor, 1)]
    for number, members in enumerate(np.array_split(order, FOLDS)[:count]):
        held = {long[member] for member in members}
        trained_on = [row for row in rows if row.subset == _SUBSET and row not in held]
        print(f"fold {number + 1}: {len(trained_on)} speakers to train on, {len(held)} to test", flush=True)
        tested = [piece for row in sorted(held) for piece in pieces_of(row, spoken[row], extractor, PARTS)]
        trained = train(trained_on, work / str(number), flags)
        systems = {ENCODER: encoder_of(work / str(number)), **baselines(trained_on, spoken, extractor)}
        yield {
            "run": trained,
            _SUBSET: {name: trials(tested, embed) for name, embed in systems.items()},
            _OTHERS: {name: trials(others, embed) for name, embed in systems.items()},
        }


def features_of(row: Utterance, extractor: FeatureExtractor) -> Values:
    from ge2e_transforms import features_of_file

    features: Values = features_of_file(row.audio_path, extractor, utterance_id=row.utterance_id)
    return features


def pieces_of(row: Utterance, features: Values, extractor: FeatureExtractor, parts: int) -> list[Piece]:
    """An utterance in so many parts of equal length, each clean, perturbed and filtered by draws of its own."""
    from ge2e_transforms import audio

    samples = audio.load(row.audio_path, extractor.recipe.audio)
    rate = extractor.recipe.audio.sample_rate_hz
    pieces = []
    for number, (mels, wave) in enumerate(
        zip(np.array_split(features, parts), np.array_split(samples, parts), strict=True)
    ):
        draws = np.random.default_rng([int(row.speaker_id), number, *row.utterance_id.encode()])
        seen = {
            "clean": np.ascontiguousarray(mels),
            "perturbed": perturbed(mels, draws, extractor),
            "filtered": extractor(filtered(wave, rate, draws), rate, keep_all=True),
        }
        pieces.append(Piece(row.speaker_id, seen))
    return pieces


def perturbed(features: Values, draws: np.random.Generator, extractor: FeatureExtractor) -> Values:
    """Log-mels `[frames, bands]` after a drawn equaliser and gain."""
    change = _changer(extractor)
    changed: Values = features.copy()
    change(changed[None], draws.integers(1 << 63, size=1, dtype=np.uint64))
    return changed


@functools.lru_cache(maxsize=1)
def _changer(extractor: FeatureExtractor) -> Callable[[Values, npt.NDArray[np.uint64]], None]:
    from ge2e_transforms.mel_augment import MelAugment, MelAugmenter

    return MelAugmenter(MelAugment(equalizer_db=_EQUALIZER_DB, gain_db=_GAIN_DB), extractor.recipe, "time_mel").apply


def filtered(wave: Values, rate: int, draws: np.random.Generator) -> Values:
    """Samples after a drawn FIR filter and gain, as a 16-bit recording would hold them."""
    from scipy.signal import fftconvolve, firwin2

    gains = 10 ** (draws.uniform(*_EQUALIZER_DB, len(_OCTAVES_HZ)) / 20)
    taps = firwin2(513, [0.0, *_OCTAVES_HZ], [gains[0], *gains], fs=rate)
    changed = fftconvolve(wave, taps, "same") * 10 ** (draws.uniform(*_GAIN_DB) / 20)
    loudest = max(1.0, float(np.abs(changed).max()))  # it must not clip, which no filter would do
    rounded: Values = (np.rint(changed / loudest * 32767) / 32768).astype(np.float32)
    return rounded


def train(rows: Sequence[Utterance], work: Path, flags: list[str]) -> dict[str, float]:
    """A dataset of these speakers and an encoder of it, in `work/encoder`; seconds, and the share of waiting."""
    from training import read_steps

    work.mkdir()
    timing.write_rows(work / "train.csv", sorted(rows))
    timing.ge2e_run(work / "train.csv", work / "features", 2)
    program = [sys.executable, str(EXAMPLE), "train", str(work / "features"), "--output", str(work / "encoder")]
    # All cores, as a user has them: `watched` takes the threads of numeric libraries away.
    threads = {name: "" for name in timing.single_threaded() if name.endswith("_NUM_THREADS")}
    run = timing.watched([*program, *flags], threads).run
    steps = read_steps(work / "encoder")
    waited, trained = sum(step.waited_s for step in steps), sum(step.trained_s for step in steps)
    return {
        "program_s": run["wall_s"],
        "steps_s": waited + trained,
        "waiting": waited / (waited + trained),
        "steps": len(steps),
        "loss": float(np.mean([step.loss for step in steps[-100:]])),
    }


def encoder_of(work: Path) -> Embed:
    from encoder import Encoder

    encoder = Encoder.load(work / "encoder")
    return lambda features: np.stack(list(encoder.embed_all(features)))


def baselines(
    rows: Sequence[Utterance], spoken: dict[Utterance, Values], extractor: FeatureExtractor
) -> dict[str, Embed]:
    """LDA of clean pieces as long as those of the test, and of these with perturbed copies."""
    pieces = [
        (row.speaker_id, part)
        for row in sorted(rows)
        for part in np.array_split(spoken[row], max(2, len(spoken[row]) // _PIECE))
    ]
    draws = np.random.default_rng(SEED)
    copies = [(name, perturbed(part, draws, extractor)) for _ in range(_COPIES) for name, part in pieces]
    return {LDA: lda(pieces), LDA_PERTURBED: lda(pieces + copies)}


def lda(pieces: Sequence[tuple[str, Values]]) -> Embed:
    """What linear discriminant analysis of speakers makes of the moments of pieces."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis())  # as it comes: nothing is tuned
    model.fit([moments(part) for _, part in pieces], [name for name, _ in pieces])

    def embed(features: list[Values]) -> npt.NDArray[Any]:
        found = model.transform([moments(one) for one in features])
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))

    return embed


def moments(features: Values) -> npt.NDArray[Any]:
    """Mean and deviation of each band, `[2 * bands]`."""
    return np.concatenate([features.mean(axis=0), features.std(axis=0)])


def trials(pieces: Sequence[Piece], embed: Embed) -> dict[str, Any]:
    """Cosine of all pairs of pieces, by condition, with who speaks in both."""
    first, second = np.triu_indices(len(pieces), 1)
    names = np.array([piece.speaker for piece in pieces])
    found: dict[str, Any] = {"enrol": names[first], "test": names[second]}
    for condition in CONDITIONS:
        embeddings = embed([piece.features[condition] for piece in pieces])
        found[condition] = np.einsum("ij,ij->i", embeddings[first], embeddings[second])
    return found


def report(folds: Sequence[dict[str, Any]], about: dict[str, Any], path: Path | None) -> None:
    runs = [fold["run"] for fold in folds]
    head = ["fold", "whole program s", "steps", "s of them", "waiting for the loader", "last loss"]
    rows = [
        (n, f"{r['program_s']:.0f}", r["steps"], f"{r['steps_s']:.0f}", f"{r['waiting']:.1%}", f"{r['loss']:.3f}")
        for n, r in enumerate(runs, 1)
    ]
    print("\n" + timing.table(head, rows))
    found = pooled(folds)
    show(found)
    main_one = found["perturbed"]
    against = main_one["differences"][LDA]["interval"]
    goals = [
        timing.Goal("EER of the encoder, perturbed, %", main_one[ENCODER]["eer"], 10, at_most=True),
        timing.Goal("upper end of its difference to LDA, perturbed, %", against[1], 0, at_most=True),
        timing.Goal("training of a fold, whole program, s", max(run["program_s"] for run in runs), 300, at_most=True),
        timing.Goal("waiting for the loader, %", 100 * max(run["waiting"] for run in runs), 5, at_most=True),
    ]
    result = {**timing.about(**about), "training": runs, "conditions": found, _OTHERS: of_others(folds)}
    timing.save(path, result, goals)


def pooled(folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By condition: trials, EER and interval of each system over the trials of all folds, and differences, in %."""
    from scores import eer_interval, equal_error_rate

    systems = list(folds[0][_SUBSET])
    found: dict[str, Any] = {}
    for condition in CONDITIONS:
        scores, enrol, test = (
            {name: np.concatenate([fold[_SUBSET][name][key] for fold in folds]) for name in systems}
            for key in (condition, "enrol", "test")
        )
        who = enrol[ENCODER], test[ENCODER]
        same = who[0] == who[1]
        found[condition] = {"targets": int(same.sum()), "non_targets": int((~same).sum()), "differences": {}}
        for name in systems:
            interval = eer_interval(scores[name], same, *who)[0]
            each = [
                equal_error_rate(t[condition], t["enrol"] == t["test"]).rate for t in (f[_SUBSET][name] for f in folds)
            ]
            rate = equal_error_rate(scores[name], same).rate
            found[condition][name] = {
                "eer": 100 * rate,
                "interval": percent(interval),
                "folds": [round(100 * value, 2) for value in each],
            }
            if name != ENCODER:
                difference = eer_interval(scores[ENCODER], same, *who, baseline=scores[name])[0]
                gap = found[condition][ENCODER]["eer"] - 100 * rate
                found[condition]["differences"][name] = {"eer": gap, "interval": percent(difference)}
    return found


def of_others(folds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """EERs in % on test-other, by condition and system: the mean over the folds' encoders, and the extremes."""
    from scores import equal_error_rate

    found: dict[str, Any] = {}
    for condition in CONDITIONS:
        for name in folds[0][_OTHERS]:
            each = [t[condition] for t in (fold[_OTHERS][name] for fold in folds)]
            same = folds[0][_OTHERS][name]["enrol"] == folds[0][_OTHERS][name]["test"]
            rates = [100 * equal_error_rate(scores, same).rate for scores in each]
            found.setdefault(condition, {})[name] = {
                "eer": float(np.mean(rates)),
                "lowest": min(rates),
                "highest": max(rates),
            }
    print(f"\n{_OTHERS}: EER % (lowest to highest of {len(folds)} encoders)\n")
    rows = [
        (
            name,
            *(
                f"{found[c][name]['eer']:.1f} ({found[c][name]['lowest']:.1f}-{found[c][name]['highest']:.1f})"
                for c in found
            ),
        )
        for name in folds[0][_OTHERS]
    ]
    print(timing.table(["", *CONDITIONS], rows))
    return found


def percent(interval: Sequence[float] | None) -> list[float]:
    """Ends in %; without an interval (too few speakers) all is possible."""
    return [100 * end for end in interval] if interval else [-100.0, 100.0]


def show(found: dict[str, Any]) -> None:
    one = found[CONDITIONS[0]]
    print(f"\n{_SUBSET}: EER % [95 % interval by speakers], {one['targets']:,} target, {one['non_targets']:,} others\n")

    def text(value: dict[str, Any], sign: str = "") -> str:
        low, high = value["interval"]
        return f"{value['eer']:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"

    systems = [name for name in one if name in (ENCODER, LDA, LDA_PERTURBED)]
    rows = [(name, *(text(found[c][name]) for c in CONDITIONS)) for name in systems]
    rows += [
        (f"encoder - {n}", *(text(found[c]["differences"][n], "+") for c in CONDITIONS)) for n in one["differences"]
    ]
    print(timing.table(["", *CONDITIONS], rows))


if __name__ == "__main__":
    main()
