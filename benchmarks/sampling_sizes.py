"""How much features vary within utterances, within sessions and between speakers.

    python benchmarks/sampling_sizes.py FEATURES

FEATURES is the folder of a dataset of log-mels in utterance form. `sampling_corpus.py` takes its sizes from what this
says of real speech; of a simulated corpus it says whether they came out so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ge2e_transforms import BatchLoader, Recipe
from ge2e_transforms.dataset import Dataset

_APART_MS = 30.0
_DIRECTIONS = 6

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path)
    for name, value in sizes(parser.parse_args().features).items():
        print(f"{name}: {value:.3f}")


def sizes(root: Path) -> dict[str, float]:
    """Sizes of what utterances, sessions and speakers bring in.

    Returns:
        `between_speakers` and `between_utterances`: variances of the mean of a band, of one utterance each of all
        speakers, and of those of one session; both as parts of the variance within an utterance. `deviations`: how much
        the deviation of a band differs between speakers, as a part of its mean, without what differs between utterances
        of a session. `correlation`: of rows 30 ms apart. `six_directions`: their share of `between_speakers`.
    """
    mean, deviation, correlation, speaker, session = _utterances(root)
    first = np.unique(speaker, return_index=True)[1]
    within = float(np.square(deviation).mean())
    eigenvalues = np.linalg.eigvalsh(np.cov(mean[first].T))[::-1]
    relative = deviation / deviation.mean(axis=0)
    differ = relative[first].var(axis=0, ddof=1).mean() - _of_sessions(relative, session)
    return {
        "between_speakers": float(mean[first].var(axis=0, ddof=1).mean()) / within,
        "between_utterances": _of_sessions(mean, session) / within,
        "deviations": float(np.sqrt(max(0.0, differ))),
        "correlation": float(correlation.mean()),
        "six_directions": float(eigenvalues[:_DIRECTIONS].sum() / eigenvalues.sum()),
    }


def _utterances(root: Path) -> tuple[Floats, Floats, Floats, Ints, Ints]:
    """Mean and deviation `[utterances, bands]`, correlation, and numbers of speaker and session of each utterance."""
    dataset = Dataset.open(root, None)
    apart = round(_APART_MS / Recipe.from_dict(dataset.metadata["recipe"]).feature.hop_ms)
    loader, means, deviations, correlations, owners = BatchLoader(root, layout="time_mel"), [], [], [], []
    for split in dataset.splits:
        index = dataset.index(split)
        rows = np.stack([index[name] for name in ("label", "session_index", "utterance_index")], axis=1)
        new = np.append(True, np.any(rows[1:] != rows[:-1], axis=1))  # an utterance may be several records
        owners.append(rows[new, :2])
        for one in loader.utterances(split):
            mean = one.values.mean(axis=0, dtype=np.float64)
            centred = one.values - mean
            means.append(mean)
            deviations.append(np.sqrt(np.square(centred).mean(axis=0)))
            correlations.append(np.corrcoef(centred[apart:].ravel(), centred[:-apart].ravel())[0, 1])
    joined = np.concatenate(owners)
    session = np.unique(joined, axis=0, return_inverse=True)[1]
    return np.array(means), np.array(deviations), np.array(correlations), joined[:, 0], session


def _of_sessions(values: Floats, session: Ints) -> float:
    """Variance within sessions of `[utterances, bands]`, mean over sessions of two utterances or more and bands."""
    found = [values[session == number] for number in np.flatnonzero(np.bincount(session) > 1)]
    return float(np.mean([some.var(axis=0, ddof=1).mean() for some in found]))


if __name__ == "__main__":
    main()
