"""The speaker encoder: log-mel frames to one embedding, with all that is needed to use it again.

Features are float32 `[frames, bands]`, as `FeatureExtractor` and the loader's `layout='time_mel'` give them, and not
normalised: that is the network's first layer. It must not know how the network is trained.
"""

from __future__ import annotations

import itertools
import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from ge2e_transforms import FeatureExtractor, Recipe
from ge2e_transforms.errors import StorageError

Values = npt.NDArray[np.float32]

NORMALIZATIONS = ("none", "dataset", "crop")
POOLINGS = ("mean", "last")
NETWORK_FILE, ABOUT_FILE = "encoder.keras", "encoder.json"
# Windows that are embedded at once, so that a long recording takes no more memory than a batch.
_TOGETHER = 64
# Deviations below this part of the mean are rounding: the same bound as the loader's.
_CONSTANT = 1e-6


class EncoderError(ValueError):
    """An encoder cannot be used as asked: no such file, or of another recipe."""


@dataclass(frozen=True)
class About:
    """What an encoder must say of itself; `encoder.json` beside the network, and inside of what is exported.

    Attributes:
        fingerprint: of the recipe of the features it was trained on, sha256.
        recipe: these features, as `Recipe.to_dict()`.
        normalize: 'none', 'dataset' or 'crop'; the numbers are in the network.
        crop_frames: rows of the windows it was trained on.
        embedding: size of an embedding.
        threshold: cosine from which on two utterances are of one speaker; None before it was evaluated.
        trained: what it was trained on and how, for the reader.
    """

    fingerprint: str
    recipe: dict[str, Any]
    normalize: str
    crop_frames: int
    embedding: int
    threshold: float | None
    trained: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> About:
        """Raises `EncoderError` for what is no such text."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise EncoderError(f"{where} does not describe an encoder: {error}. Train or export it again") from error

    def extractor(self) -> FeatureExtractor:
        """What turns speech into the features that the encoder knows.

        Raises:
            EncoderError: the installed version computes this recipe in another way.
        """
        recipe = Recipe.from_dict(self.recipe)
        self.check(recipe.fingerprint(), "the features of this version of ge2e-features")
        return FeatureExtractor(recipe)

    def check(self, fingerprint: str, what: str) -> None:
        """Refuses features of another recipe: an encoder gives numbers for them, too, which mean nothing."""
        if fingerprint != self.fingerprint:
            raise EncoderError(
                f"{what} cannot be used with this encoder: expected the recipe {self.fingerprint[:12]} that it was "
                f"trained on, got {fingerprint[:12]}. Make the features with its recipe (the key 'recipe' of "
                f"{ABOUT_FILE}, and inside of what is exported), or train an encoder on these"
            )


@keras.saving.register_keras_serializable("train_ge2e")
class Normalize(keras.layers.Layer):
    """(features - mean) / deviation of each band, of float32 `[batch, frames, bands]`.

    The same numbers as the loader's `normalize` option of this name.

    Args:
        how: 'none'; 'dataset': `mean` and `deviation` as given; 'crop': those of the window itself.
        mean, deviation: one number a band, for 'dataset'.
    """

    def __init__(
        self, how: str, mean: tuple[float, ...] = (), deviation: tuple[float, ...] = (), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if how not in NORMALIZATIONS:
            raise ValueError(f"normalize={how!r} cannot be used: expected one of {NORMALIZATIONS}")
        self.how, self.mean, self.deviation = how, tuple(mean), tuple(deviation)

    def call(self, features: Any) -> Any:
        if self.how == "none":
            return features
        if self.how == "dataset":
            first, mean, deviation = 0.0, np.array(self.mean, np.float32), np.array(self.deviation, np.float32)
        else:
            # Beside the first frame: else rounding of the mean is much of what a band on the floor of its logarithm
            # varies by, and each program that runs the network rounds in its own order.
            first = features[:, :1]
            features = features - first
            mean, deviation = ops.mean(features, 1, keepdims=True), ops.std(features, 1, keepdims=True)
        varies = deviation > _CONSTANT * ops.abs(first + mean)
        return ops.where(varies, (features - mean) / ops.where(varies, deviation, 1.0), 0.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "how": self.how, "mean": self.mean, "deviation": self.deviation}


def build_network(
    normalize: Normalize, bands: int, layers: int, units: int, embedding: int, pooling: str = "mean"
) -> Any:
    """A network from features `[batch, frames, bands]` to embeddings `[batch, embedding]` of length 1.

    LSTM layers and a projection, as Wan et al. 2018 have them, smaller. The projection takes the last layer's mean over
    all frames, or its last frame, as in the paper (`pooling='last'`).
    """
    features = keras.Input((None, bands), name="features")
    hidden = normalize(features)
    for number in range(1, layers + 1):
        all_frames = number < layers or pooling == "mean"
        hidden = keras.layers.LSTM(units, return_sequences=all_frames, name=f"lstm_{number}")(hidden)
    if pooling == "mean":
        hidden = keras.layers.GlobalAveragePooling1D(name="mean_over_frames")(hidden)
    projected = keras.layers.Dense(embedding, name="projection")(hidden)
    return keras.Model(features, keras.layers.UnitNormalization(name="embedding")(projected), name="speaker_encoder")


class Encoder:
    """A network with what it says of itself.

    Args:
        network: from `[batch, frames, bands]` to `[batch, embedding]`; Keras', or any function.
        about: what it was trained on.
    """

    def __init__(self, network: Any, about: About) -> None:
        self.network, self.about = network, about
        # Keras compiles it there; called as it is, an LSTM takes many times as long.
        self._call = getattr(network, "predict_on_batch", network)

    @classmethod
    def load(cls, folder: str | Path) -> Encoder:
        """Raises `EncoderError` where the folder holds no encoder, or one that is damaged."""
        folder = Path(folder)
        missing = [f"no {name}" for name in (NETWORK_FILE, ABOUT_FILE) if not (folder / name).is_file()]
        if missing:
            raise EncoderError(
                f"{folder} holds no encoder: expected {NETWORK_FILE} and {ABOUT_FILE}, got {' and '.join(missing)}. "
                "Give the --output folder of a training run that has ended"
            )
        about = About.from_json((folder / ABOUT_FILE).read_bytes(), str(folder / ABOUT_FILE))
        try:
            network = keras.saving.load_model(folder / NETWORK_FILE, compile=False)
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise EncoderError(f"{folder / NETWORK_FILE} cannot be read: {error}. Train the encoder again") from error
        return cls(network, about)

    def save(self, folder: str | Path) -> None:
        """The network, and then what says that it is there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.network.save(folder / NETWORK_FILE)
        write_whole(folder / ABOUT_FILE, self.about.to_json() + "\n")

    def embed(self, features: Values) -> Values:
        """The embedding `[embedding]`, of length 1, of an utterance `[frames, bands]`, or of its windows.

        The mean of those of its windows, each of length 1, as Wan et al. 2018 have it (section 3.3 and figure 5).
        """
        return next(self.embed_all([features]))

    def embed_all(self, utterances: Iterable[Values]) -> Iterator[Values]:
        """What `embed` gives for each of many utterances, some of them in memory at a time.

        Their windows go through the network together.
        """
        waiting = iter(utterances)
        while some := [windows(features, self.about.crop_frames) for features in itertools.islice(waiting, _TOGETHER)]:
            cut = np.concatenate(some)
            parts = [cut[first : first + _TOGETHER] for first in range(0, len(cut), _TOGETHER)]
            embedded = np.concatenate([np.asarray(self._call(part)) for part in parts])
            for own in np.split(embedded, np.cumsum([len(own) for own in some])[:-1]):
                mean: Values = own.mean(axis=0, dtype=np.float32)
                mean /= max(float(np.linalg.norm(mean)), 1e-12)
                yield mean


def windows(features: Values, frames: int) -> Values:
    """Windows `[n, frames, bands]` over a whole utterance `[rows, bands]`.

    They lie evenly from its start to its end and overlap by half or somewhat more. One that is too short is repeated
    from its start, as the loader fills up short utterances. Windows `[n, frames, bands]`, as a recipe of
    `segments=windows` gives them, stay as they are.
    """
    if features.ndim == 3:
        return features
    rows = len(features)
    if rows < frames:
        return np.resize(features, (1, frames, features.shape[1])).astype(np.float32)
    count = 1 if rows == frames else 1 + max(1, -(-2 * (rows - frames) // frames))
    starts = np.linspace(0, rows - frames, count).astype(np.int64)
    return np.stack([features[start : start + frames] for start in starts]).astype(np.float32, copy=False)


def write_whole(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error}") from error
