"""What the sampling of the loader is worth for training, on a corpus of known factors.

    python benchmarks/sampling_worth.py [--seeds 0 1 2 3 4] [--steps 6000] [--only NAME ...] [--json FILE]

`sampling_corpus.py` simulates the speech (and says where its sizes come from), `sampling_batches.py` has the
conditions, `sampling_training.py` the encoder, `sampling_intervals.py` the statistics. For each seed and condition an
encoder is trained from the same first weights for the same number of steps, then the last one is measured: the equal
error rate of trials across sessions of speakers that no training saw. Nothing is chosen by these trials, neither steps
nor rates.

Differences are paired: same seed, same trials. Their intervals are over seeds (first weights, and draws of the loader)
and over test speakers, of one simulated corpus. Nine intervals are told: where nothing differs, one or
more of them leave out zero in about a third of such measurements.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sampling_corpus
import timing
from sampling_batches import CONDITIONS, DEFAULT, Batches, M, N, Speech, batches, facts
from sampling_intervals import Difference, difference, eer, resampled

from ge2e_transforms import BatchLoader
from ge2e_transforms.trials import Trials

# Of each test speaker, who has 60 pairs across sessions.
_TARGETS = 50
_LAST = 200  # steps that the loss is told of
# What a condition is compared with beside the default: what is like it but for the windows.
_ALSO_AGAINST = {"one file, frozen": "one file", "one file, frozen, proportional": "proportional"}
_FACTS = ("speakers", "utterances", "crops", "top_tenth", "of_one_file", "sessions", "partners")


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    if len(args.seeds) < 2:
        raise SystemExit(f"--seeds {args.seeds}: give two or more, as intervals are over seeds")
    names = [DEFAULT, *(name for name in CONDITIONS if name in (args.only or CONDITIONS) and name != DEFAULT)]
    with tempfile.TemporaryDirectory() as scratch:
        factors = sampling_corpus.Factors(args.sessions_share, args.noise_spread)
        root = sampling_corpus.write(Path(scratch), args.speakers, args.test_speakers, factors=factors)
        found = measure(root, names, args)
    print(_conditions_table(found), "\n")
    print(_differences_table(found))
    timing.save(args.json, {**timing.about(), **found}, [])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--speakers", type=int, default=94 * N, help=f"of the train split; a multiple of {N}")
    parser.add_argument("--test_speakers", type=int, default=250)
    for name, value in sampling_corpus.FACTORS._asdict().items():
        parser.add_argument(f"--{name}", type=float, default=value, help=f"see Factors in sampling_corpus.py; {value}")
    parser.add_argument("--draws", type=int, default=1000, help="of test speakers, for the intervals")
    parser.add_argument("--only", nargs="+", choices=list(CONDITIONS), metavar="NAME", help="only these conditions")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def measure(root: Path, names: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """Trains and measures all conditions; error rates are in percent."""
    from sampling_training import Test

    speech = Speech(root)
    trials = BatchLoader(root).verification_trials("test", _TARGETS)
    test = Test(root, trials)
    runs = [run for seed in args.seeds for run in _runs(root, speech, test, names, seed, args.steps)]
    scores = np.array([run.pop("scores") for run in runs]).reshape(len(args.seeds), len(names), -1)
    rates = 100 * np.array([[eer(own, trials.same, np.ones(len(trials))) for own in some] for some in scores])
    again = 100 * resampled(scores, trials, args.draws)
    rows = [
        {"condition": name, "eer_percent": rates[:, number].round(3).tolist(), **_means(runs, name)}
        for number, name in enumerate(names)
    ]
    keys = ("speakers", "test_speakers", "sessions_share", "noise_spread", "steps", "seeds", "draws")
    sizes = {key: getattr(args, key) for key in keys}
    return {
        **sizes,
        "speakers_per_batch": N,
        "utterances_per_speaker": M,
        "trials": len(trials),
        "corpus": corpus_facts(root, speech, trials),
        "conditions": rows,
        "differences": list(_differences(names, rates, again)),
        "rounds": runs,
    }


def _runs(
    root: Path, speech: Speech, test: Any, names: Sequence[str], seed: int, steps: int
) -> Iterator[dict[str, Any]]:
    """One run a condition: scores of the trials, loss, and what the batches held."""
    from sampling_training import network, train

    for name in names:
        began, encoder = time.perf_counter(), network(root, seed)
        found: list[Any] = []
        made = _noted(batches(root, speech, CONDITIONS[name], seed), speech, found)
        loss = float(np.mean(train(encoder, made, steps)[-_LAST:]))
        run = {"condition": name, "seed": seed, "loss": loss, **facts(speech, found), "scores": test.scores(encoder)}
        run["wall_s"] = time.perf_counter() - began
        print(f"seed {seed}: {name}: loss {loss:.3f}, {run['wall_s']:.0f} s", file=sys.stderr, flush=True)
        yield run


def _noted(made: Batches, speech: Speech, found: list[Any]) -> Batches:
    """The batches, and in `found` where the crops of each are from."""
    for examples, labels in made:
        found.append(speech.find(examples))
        yield examples, labels


def _means(runs: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    """What the batches of a condition held, in the mean over seeds."""
    own = [run for run in runs if run["condition"] == name]
    return {key: float(np.mean([run[key] for run in own])) for key in ("loss", *_FACTS)}


def _differences(
    names: Sequence[str], rates: npt.NDArray[np.float64], again: npt.NDArray[np.floating]
) -> Iterator[dict[str, Any]]:
    """Each condition against the default, and against what is like it."""
    pairs = [(name, DEFAULT) for name in names if name != DEFAULT]
    for one, other in pairs + [pair for pair in _ALSO_AGAINST.items() if set(pair) <= set(names)]:
        i, j = names.index(one), names.index(other)
        found = difference(rates[:, i], rates[:, j], again[:, :, i], again[:, :, j])
        yield {"condition": one, "against": other, "points": {**found._asdict(), "verdict": found.verdict}}


def corpus_facts(root: Path, speech: Speech, trials: Trials) -> dict[str, Any]:
    """How much speech there is and who has it, and how far features alone tell speakers apart.

    These are means, or means and logarithms of deviations, of each band over an utterance.
    """
    counts = np.sort(np.unique(speech.label, return_counts=True)[1])[::-1]
    spoken = list(BatchLoader(root, layout="time_mel").utterances("test"))
    number = {(one.speaker_id, one.utterance_id): place for place, one in enumerate(spoken)}
    at = np.array([number[name] for name in trials.utterances])
    means = np.array([one.values.mean(axis=0) for one in spoken])
    both = np.hstack([means, np.log([one.values.std(axis=0) for one in spoken])])
    return {
        "utterances": len(speech.label),
        "of_top_tenth": float(counts[: len(counts) // 10].sum() / counts.sum()),
        "features_eer_percent": {
            "means": _feature_rates(means, trials, at),
            "means and deviations": _feature_rates(both, trials, at),
        },
    }


def _feature_rates(vectors: npt.NDArray[np.float32], trials: Trials, at: npt.NDArray[np.int64]) -> dict[str, float]:
    """Error rates of cosines of standardised vectors `[utterances, features]`; `at` is where those of trials are.

    Across sessions they are of the trials. Within a session the targets are the utterances of one session, which stand
    side by side, and the non-targets those of the trials.
    """
    unit = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    first = np.arange(0, len(unit), sampling_corpus.TEST_PER_SESSION)
    across = (unit[at[trials.enrol]] * unit[at[trials.test]]).sum(axis=1)
    near = (unit[first] * unit[first + 1]).sum(axis=1)
    mixed = np.concatenate([near, across[~trials.same]])
    return {
        "across sessions": 100 * eer(across, trials.same, np.ones(len(across))),
        "within a session": 100 * eer(mixed, np.arange(len(mixed)) < len(near), np.ones(len(mixed))),
    }


def _conditions_table(found: dict[str, Any]) -> str:
    head = ["condition", *(f"seed {seed}" for seed in found["seeds"]), "mean EER %", "loss", *_FACTS]
    rows = [
        (
            row["condition"],
            *(f"{rate:.2f}" for rate in row["eer_percent"]),
            f"{np.mean(row['eer_percent']):.2f}",
            f"{row['loss']:.2f}",
            *(f"{row[key]:,.0f}" if row[key] > 10 else f"{row[key]:.2f}" for key in _FACTS),
        )
        for row in found["conditions"]
    ]
    return timing.table(head, rows)


def _differences_table(found: dict[str, Any]) -> str:
    def line(row: dict[str, Any]) -> tuple[str, ...]:
        told = dict(row["points"])
        verdict, one = told.pop("verdict"), Difference(**told)
        interval = f"{one.mean:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"
        return row["condition"], row["against"], interval, f"{one.by_seeds:.2f}", f"{one.by_speakers:.2f}", verdict

    head = ["condition", "against", "points of EER [95 %]", "half by seeds", "half by speakers", "verdict"]
    return timing.table(head, map(line, found["differences"]))


if __name__ == "__main__":
    # One thread, so that the same seed gives the same encoder.
    os.environ.update(timing.single_threaded() | {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"})
    # The loader says for each seed and condition that an epoch leaves speech to later ones: that is what is measured.
    warnings.filterwarnings("ignore", "an epoch of split", UserWarning)
    main()
