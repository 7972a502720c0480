"""Loads one train batch of a dataset by tf.data, says what it holds, and draws it.

    python examples/show_batch.py demo/features
    python examples/show_batch.py demo/features --picture batch.png

The picture has a row for each speaker and a column for each of their utterances. Examples are float32
`[N*M, bins, frames]`. It must not know the files of a dataset: the loader reads them.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ge2e_transforms import GE2EDatasetLoader
from ge2e_transforms.config import Recipe
from ge2e_transforms.errors import Ge2eError
from ge2e_transforms.feature_kinds import FEATURE_KINDS

MOST_ROWS, MOST_COLUMNS = 16, 8  # of the picture; a larger batch could not be told apart
SCALE = {"log10": "log10 power", "ln": "ln power", "none": "power"}


def speaker_runs(labels: npt.NDArray[np.int64], speakers: dict[str, int]) -> list[tuple[str, int, int]]:
    """Speaker, label and length of each run of equal labels, in order; `speakers` gives the label of each."""
    names = {label: speaker for speaker, label in speakers.items()}
    return [(names[label], label, len(list(run))) for label, run in itertools.groupby(labels.tolist())]


def describe(examples: npt.NDArray[np.float32], runs: list[tuple[str, int, int]]) -> str:
    """Shape and type of the batch, and one line for each speaker."""
    lines = [f"examples {examples.shape} {examples.dtype}"]
    lines += [f"  label {label:>4} x {length}   speaker {speaker}" for speaker, label, length in runs]
    return "\n".join(lines)


def draw(
    examples: npt.NDArray[np.float32], runs: list[tuple[str, int, int]], recipe: Recipe, title: str, path: Path
) -> None:
    """Draw a batch `[N*M, bins, frames]`, whose speakers have M examples each, with one colour scale for all."""
    import matplotlib

    matplotlib.use("Agg")  # draws into a file, so no display is needed
    from matplotlib import pyplot

    per_speaker = runs[0][2]
    rows, columns = min(len(runs), MOST_ROWS), min(per_speaker, MOST_COLUMNS)
    width, height = 2 + 2.6 * columns, 1.3 + 1.3 * rows
    figure, axes = pyplot.subplots(rows, columns, sharex=True, sharey=True, squeeze=False, figsize=(width, height))
    # In inches, so that it fits any number of rows; matplotlib's own layouts take seconds for so many axes.
    figure.subplots_adjust(0.7 / width, 0.6 / height, 1 - 1.3 / width, 1 - 0.7 / height, wspace=0.08, hspace=0.45)
    _, bins, frames = examples.shape
    seconds = frames * recipe.row_samples / recipe.audio.sample_rate_hz
    for (row, column), axis in np.ndenumerate(axes):
        image = axis.imshow(
            examples[row * per_speaker + column],
            origin="lower",  # low frequencies at the bottom
            aspect="auto",
            extent=(0, seconds, 0, bins),
            vmin=examples.min(),
            vmax=examples.max(),
        )
    for axis, (speaker, label, _) in zip(axes[:, 0], runs, strict=False):
        axis.set_title(f"{speaker} (label {label})", loc="left", fontsize=9)
        axis.set_ylabel(FEATURE_KINDS[recipe.feature.features].axis, fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("seconds", fontsize=8)
    figure.suptitle(title, y=1 - 0.2 / height)
    scale = SCALE[recipe.feature.log] if recipe.feature.features == "logmel" else "value"
    figure.colorbar(image, cax=figure.add_axes((1 - 1.0 / width, 0.25, 0.2 / width, 0.5)), label=scale)
    figure.savefig(path, dpi=110)


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Leaves out what native code prints, too."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def show(dataset: str, picture: Path | None) -> None:
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"  # what is said, not where in the code
    loader = GE2EDatasetLoader(root_dir=dataset)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # one batch needs no GPU, and TensorFlow would fill its memory
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silent_stderr():  # what TensorFlow says of CPU and GPU before it looks at its log level
        import tensorflow  # noqa: F401
    metadata: dict[str, Any] = loader.get_metadata()
    examples, labels = next(loader.get_train_dataset().as_numpy_iterator())
    runs = speaker_runs(labels, metadata["speaker_id_mapping"])
    print(describe(examples, runs))
    if picture is not None:
        recipe = Recipe.from_dict(metadata["recipe"])
        title = f"one batch of {dataset}: {len(runs)} speakers x {runs[0][2]} utterances"
        draw(examples, runs, recipe, title, picture)
        print(f"picture: {picture}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Load one train batch of a dataset, and draw it.")
    parser.add_argument("dataset", help="folder that `ge2e run` has written")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the batch into this file")
    options = parser.parse_args(argv)
    try:
        show(options.dataset, options.picture)
    except Ge2eError as error:
        print(f"show_batch: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
