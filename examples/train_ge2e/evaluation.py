"""Evaluates an encoder on the trials of a dataset: embeddings, cosine scores, and what these are worth.

It writes `results.json`, `scores.txt`, `det.png` and `embeddings.png`. Features are float32 `[frames, bands]`,
embeddings `[utterances, size]` of length 1, rates in [0, 1]. It must not know how an encoder was trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from encoder import ABOUT_FILE, About, Encoder, EncoderError, write_whole
from pictures import draw_det, draw_embeddings
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scores import (
    P_TARGET,
    RULE_OF_30,
    EqualErrorRate,
    Interval,
    eer_interval,
    equal_error_rate,
    error_rates,
    min_dcf,
    speaker_pairs,
    supports_dcf,
)

from ge2e_transforms import BatchLoader
from ge2e_transforms.errors import StorageError
from ge2e_transforms.trials import Trials

Values = npt.NDArray[np.float32]

RESULTS_FILE, SCORES_FILE, DET_FILE, EMBEDDINGS_FILE = "results.json", "scores.txt", "det.png", "embeddings.png"
# Trials whose embeddings are copied at once: 32 MiB of 64 numbers each.
_TOGETHER = 1 << 16


@dataclass(frozen=True)
class Settings:
    """How an encoder is evaluated.

    Attributes:
        split: that trials are drawn from.
        trials: a list of trials in the form of VoxCeleb or of Kaldi, over all splits; None draws them.
        per_speaker: most target trials of a speaker that are drawn.
        cross_session: whether drawn target trials pair two sessions.
        seed: of trials, resamples and pictures.
        p_target: prior of a target trial for minDCF.
    """

    split: str = "test"
    trials: str | Path | None = None
    per_speaker: int = 100
    cross_session: bool = True
    seed: int = 0
    p_target: float = P_TARGET


@dataclass(frozen=True)
class Results:
    """What `results.json` holds; rates are in [0, 1].

    Attributes:
        dataset: folder, as given.
        trials: where they are from.
        targets, non_targets: numbers of trials.
        speakers, utterances: numbers of those that the trials use.
        eer: equal error rate.
        threshold: cosine at the EER, from which on two utterances are taken for one speaker's.
        eer_interval: 95 % interval over speakers, or None.
        eer_interval_missing: why there is none, else ''.
        p_target: prior of a target trial of `min_dcf`; both costs are 1.
        min_dcf: least detection cost, 1 for rejecting all; None where the trials are too few for one.
        min_dcf_threshold: cosine of that cost, or None.
        min_dcf_missing: why there is none, else ''.
        notes: of what rests on few errors.
    """

    dataset: str
    trials: str
    targets: int
    non_targets: int
    speakers: int
    utterances: int
    eer: float
    threshold: float
    eer_interval: Interval | None
    eer_interval_missing: str
    p_target: float
    min_dcf: float | None
    min_dcf_threshold: float | None
    min_dcf_missing: str
    notes: tuple[str, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def evaluate(
    encoder_folder: str | Path,
    dataset: str | Path,
    output: str | Path,
    settings: Settings,
    store_threshold: bool = False,
) -> Results:
    """Evaluates the encoder of a folder on a dataset; what the command line calls.

    Args:
        encoder_folder: the output of a training.
        dataset: folder or URL of a dataset in utterance form, of the recipe that the encoder was trained on.
        output: folder for the results; it is made.
        settings: which trials, and what is computed of them.
        store_threshold: writes the threshold at the EER into the encoder's `encoder.json`.

    Raises:
        EncoderError: no such encoder, or a dataset that it was not trained for.
        Ge2eError: the dataset, its trials or an option cannot be used.
    """
    encoder = Encoder.load(encoder_folder)
    loader = open_dataset(encoder, dataset)
    trials, source = _trials(loader, settings)
    results = evaluate_trials(encoder, loader, trials, output, settings, source, str(dataset))
    if store_threshold:
        write_threshold(encoder_folder, results.threshold)
    return results


def open_dataset(encoder: Encoder, dataset: str | Path) -> BatchLoader:
    """A loader of a dataset, which must be of the features that the encoder was trained on.

    Raises:
        EncoderError: it is of waveforms, or of another recipe.
        DatasetError: there is no dataset.
    """
    loader = BatchLoader(dataset, layout="time_mel")
    metadata = loader.get_metadata()
    if metadata["features"] == "raw":
        raise EncoderError(
            f"{dataset} cannot be evaluated: expected features of the recipe {encoder.about.fingerprint[:12]}, got "
            "waveforms (features 'raw'). Make a dataset with the encoder's recipe, the key 'recipe' of its "
            f"{ABOUT_FILE}"
        )
    encoder.about.check(metadata["fingerprint"], str(dataset))
    return loader


def _trials(loader: BatchLoader, settings: Settings) -> tuple[Trials, str]:
    """The trials, and what the results say of where they are from."""
    split, per_speaker, seed = settings.split, settings.per_speaker, settings.seed
    if settings.trials is not None:
        return loader.trials(settings.trials), str(settings.trials)
    pairs = "of two sessions" if settings.cross_session else "of one session or two"
    source = f"drawn from split {split!r}, at most {per_speaker} target trials a speaker, {pairs}, seed {seed}"
    return loader.verification_trials(split, per_speaker, seed, settings.cross_session), source


def evaluate_trials(
    encoder: Encoder,
    loader: BatchLoader,
    trials: Trials,
    output: str | Path,
    settings: Settings,
    source: str = "as given",
    dataset: str = "",
) -> Results:
    """Embeds each utterance of the trials once, scores them by cosine, and writes all files.

    Args:
        encoder: of the recipe of the loader's dataset.
        loader: with `layout='time_mel'`, as `open_dataset` gives it.
        trials: over utterances of the loader.
        output: folder for the results; it is made.
        settings: what is computed of them.
        source: what the results say of the trials.
        dataset: what the results say of the dataset.
    """
    supports_dcf(1, 1, settings.p_target)  # an option that cannot be used is told before the long part
    speakers = np.array([speaker for speaker, _ in trials.utterances], dtype=object)
    pairs = speaker_pairs(trials.same, speakers[trials.enrol], speakers[trials.test])
    folder = _made(output)
    embeddings = embed(encoder, loader, trials)
    scored = cosines(embeddings, trials)
    results = measure(scored, trials.same, pairs, len(trials.utterances), settings)
    results = replace(results, dataset=dataset, trials=source)
    _write_scores(folder / SCORES_FILE, scored, trials)
    eer = EqualErrorRate(results.eer, results.threshold)
    draw_det(folder / DET_FILE, error_rates(scored, trials.same), eer, results.targets, results.non_targets)
    draw_embeddings(folder / EMBEDDINGS_FILE, embeddings, speakers.tolist(), settings.seed)
    write_whole(folder / RESULTS_FILE, results.to_json() + "\n")
    return results


def embed(encoder: Encoder, loader: BatchLoader, trials: Trials) -> Values:
    """Embeddings `[utterances, size]` of the utterances of the trials, each read and embedded once.

    Raises:
        EncoderError: embeddings that are no finite numbers.
    """
    console = Console(stderr=True)
    embeddings = np.empty((len(trials.utterances), encoder.about.embedding), np.float32)

    def features() -> Iterator[Values]:
        for speaker, utterance in trials.utterances:
            yield loader.utterance(utterance, speaker).values

    found = encoder.embed_all(features())
    shown = track(found, "embedding", len(embeddings), console=console, disable=not console.is_terminal)
    for number, embedding in enumerate(shown):
        embeddings[number] = embedding
    if bad := np.flatnonzero(~np.isfinite(embeddings).all(axis=1)).tolist():
        raise EncoderError(
            f"{len(bad)} of {len(embeddings)} utterances get no finite embedding, first "
            f"{'/'.join(trials.utterances[bad[0]])}: did the training diverge?"
        )
    return embeddings


def cosines(embeddings: Values, trials: Trials) -> Values:
    """Scores `[n]` in [-1, 1] of trials over embeddings `[utterances, size]` of length 1."""
    scored = np.empty(len(trials), np.float32)
    for first in range(0, len(trials), _TOGETHER):
        some = slice(first, first + _TOGETHER)
        scored[some] = np.einsum("ns,ns->n", embeddings[trials.enrol[some]], embeddings[trials.test[some]])
    return scored


def write_threshold(encoder_folder: str | Path, threshold: float) -> None:
    """Writes a cosine into `encoder.json`, whole or not at all; the network is left alone."""
    path = Path(encoder_folder) / ABOUT_FILE
    about = About.from_json(path.read_bytes(), str(path))
    write_whole(path, replace(about, threshold=threshold).to_json() + "\n")


def measure(
    scored: npt.NDArray[Any],
    same: npt.NDArray[np.bool_],
    pairs: npt.NDArray[np.int64],
    utterances: int,
    settings: Settings,
) -> Results:
    """What scores `[n]` are worth, of trials `[n]` between the speakers `pairs` `[2, n]`; not where they are from."""
    p_target = settings.p_target
    targets, non_targets = int(same.sum()), int((~same).sum())
    eer = equal_error_rate(scored, same)
    interval, no_interval = eer_interval(scored, same, pairs[0], pairs[1], seed=settings.seed)
    no_cost = supports_dcf(targets, non_targets, p_target)
    cost = None if no_cost else min_dcf(scored, same, p_target=p_target)
    errors = {"the EER": (eer.rate * targets, eer.rate * non_targets)}
    if cost is not None:
        errors["minDCF"] = (cost.miss * targets, cost.false_alarm * non_targets)
    return Results(
        dataset="",
        trials="",
        targets=targets,
        non_targets=non_targets,
        speakers=int(pairs.max()) + 1,
        utterances=utterances,
        eer=eer.rate,
        threshold=eer.threshold,
        eer_interval=interval,
        eer_interval_missing=no_interval,
        p_target=p_target,
        min_dcf=None if cost is None else cost.cost,
        min_dcf_threshold=None if cost is None else cost.threshold,
        min_dcf_missing=no_cost,
        notes=tuple(note for what, made in errors.items() if (note := _of_few_errors(what, *made))),
    )


def _of_few_errors(what: str, misses: float, false_alarms: float) -> str:
    """What to say of a figure that fewer than 30 errors of a kind make; see `RULE_OF_30`."""
    if min(misses, false_alarms) >= RULE_OF_30:
        return ""
    return (
        f"{what} rests on {misses:.0f} misses and {false_alarms:.0f} false alarms: with fewer than {RULE_OF_30} of "
        "each it is rough, and an interval may be too narrow"
    )


def print_results(results: Results, console: Console | None = None) -> None:
    """A small table, with what is missing or rough and why below it."""
    table = Table(show_header=False)
    table.add_row("trials", f"{results.targets:,} target, {results.non_targets:,} non-target")
    table.add_row("of", f"{results.speakers:,} speakers, {results.utterances:,} utterances")
    of = results.eer_interval
    table.add_row("EER", f"{100 * results.eer:.2f} %" + (f" ({100 * of.low:.2f} to {100 * of.high:.2f})" if of else ""))
    table.add_row("threshold", f"{results.threshold:.3f}")
    cost = "none" if results.min_dcf is None else f"{results.min_dcf:.3f}"
    table.add_row(f"minDCF, p_target {results.p_target:g}", cost)
    console = console or Console()
    console.print(table)
    for line in (results.eer_interval_missing, results.min_dcf_missing, *results.notes):
        if line:
            console.print(f"- {line}", markup=False, highlight=False)


def _write_scores(path: Path, scored: Values, trials: Trials) -> None:
    """Lines `score label enrol test`, with tabs between them, as ids may hold spaces."""
    names = ["/".join(names) for names in trials.utterances]
    columns = (column.tolist() for column in (scored, trials.same, trials.enrol, trials.test))
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for score, same, enrol, test in zip(*columns, strict=True):
            stream.write(f"{score:.9g}\t{same:d}\t{names[enrol]}\t{names[test]}\n")


def _made(output: str | Path) -> Path:
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Results of another evaluation must not stand beside the files of one that was broken off.
        (folder / RESULTS_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be a folder for results: {error}") from error
    return folder
