"""Are two recordings of one speaker? By an encoder in any form, and by the features that it was trained on.

`load_encoder` finds out what a path is: the folder of a training run, a SavedModel, or a LiteRT file. It must
not know how an encoder was trained, nor the format of a recording.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import litert_model
import numpy as np
import saved_model
from encoder import About, Encoder, EncoderError, Values

from ge2e_transforms import FeatureExtractor, Recipe, features_of_file
from ge2e_transforms.checks import check_number
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import DataError


@dataclass(frozen=True)
class Verdict:
    """What was found of two recordings.

    Attributes:
        file_a, file_b: the recordings.
        cosine: of their embeddings, in [-1, 1].
        threshold: cosine from which on they are of one speaker.
    """

    file_a: str
    file_b: str
    cosine: float
    threshold: float

    @property
    def same(self) -> bool:
        return self.cosine >= self.threshold

    def __str__(self) -> str:
        """One line for the terminal."""
        found, sign = ("same speaker", ">=") if self.same else ("different speakers", "<")
        return (
            f"{found}: cosine {self.cosine:.4f} {sign} threshold {self.threshold:.4f}, {self.file_a} and {self.file_b}"
        )


def verify(
    encoder: Encoder | str | Path,
    file_a: str | Path,
    file_b: str | Path,
    threshold: float | None = None,
    dataset: str | Path | None = None,
) -> Verdict:
    """Compares two recordings, of any format that a job decodes.

    Args:
        encoder: one that is loaded, or what `load_encoder` takes.
        file_a: a recording.
        file_b: another one.
        threshold: cosine in [-1, 1] from which on they are of one speaker; that of the encoder by default.
        dataset: a dataset that the encoder must fit; nothing but its recipe is read.

    Raises:
        EncoderError: no threshold, features of another recipe, or an encoder that cannot be used.
        ConfigError: a threshold that is none.
        DatasetError: no dataset there.
        DataError: a recording that is missing, silent, too short, or cannot be decoded.
    """
    if not isinstance(encoder, Encoder):
        encoder = load_encoder(encoder)
    about = encoder.about
    threshold = _threshold(about, threshold)
    if dataset is not None:
        about.check(Dataset.open(dataset).metadata["fingerprint"], f"the dataset {dataset}")
    extractor = about.extractor()
    a, b = (_embedding(encoder, extractor, file) for file in (file_a, file_b))
    cosine = float(a @ b)
    if not np.isfinite(cosine):
        raise EncoderError(
            f"the encoder gives embeddings that are no numbers ({cosine}): it is damaged. Train it again"
        )
    return Verdict(str(file_a), str(file_b), cosine, threshold)


def load_encoder(path: str | Path) -> Encoder:
    """The encoder in the folder of a training run, in a SavedModel (or the folder of an export), or in a .tflite file.

    Raises:
        EncoderError: there is none, it is damaged, or it does not fit what it says of itself.
    """
    path = Path(path)
    if path.is_file():
        content = path.read_bytes()
        about = litert_model.about_in(content, str(path))
        return _fitting(about, *litert_model.network_of(content, str(path)), path)
    if (path / saved_model.MODEL_FILE).is_file():
        return _fitting(*saved_model.read(path), path)
    encoder = Encoder.load(path)
    return _fitting(encoder.about, encoder.network, encoder.network.input_shape, path)


def _fitting(about: About, network: Any, shape: tuple[int | None, ...], path: Path) -> Encoder:
    """Refuses a network that does not take windows of the features that it is said to be of."""
    recipe = Recipe.from_dict(about.recipe)
    expected = (about.crop_frames, recipe.n_bins)
    fits = len(shape) == 3 and all(got in (None, wanted) for got, wanted in zip(shape[1:], expected, strict=True))
    if not fits or recipe.feature.features == "raw":
        raise EncoderError(
            f"{path} cannot be used: expected a network of windows {list(expected)} of {recipe.feature.features}, as "
            f"its recipe gives them, got one of {list(shape[1:])}. Train on features that are frames by bands"
        )
    return Encoder(network, about)


def _threshold(about: About, given: float | None) -> float:
    if given is not None:
        check_number("threshold", given, -1, 1)
        return given
    if about.threshold is None:
        raise EncoderError(
            "the encoder has no threshold: expected the cosine from which on two recordings are of one speaker. Run "
            "`evaluate --store_threshold` (and export again), or give one with --threshold"
        )
    return about.threshold


def _embedding(encoder: Encoder, extractor: FeatureExtractor, file: str | Path) -> Values:
    try:
        return encoder.embed(features_of_file(file, extractor))
    except DataError as error:
        if str(file) in str(error):
            raise
        raise type(error)(f"{file}: {error}") from error
