"""Training of a speaker encoder with the GE2E loss, from a dataset to a folder with the encoder.

All data come from the loader, crops anew in every epoch. A checkpoint holds the model, the optimiser and the loader's
place, so that a run that was killed goes on with the very next batch and the same losses. Crops are float32
`[N*M, frames, bands]`. It must not know how an encoder is evaluated or exported.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from encoder import (
    ABOUT_FILE,
    NORMALIZATIONS,
    POOLINGS,
    About,
    Encoder,
    EncoderError,
    Normalize,
    build_network,
    write_whole,
)
from ge2e_loss import FORMS, GE2ELoss

from ge2e_transforms import BatchLoader, MelAugment, __version__
from ge2e_transforms.checks import check_integer, check_number, check_one_of

CHECKPOINTS, LOGS, SETTINGS_FILE, STEPS_FILE = "checkpoints", "logs", "training.json", "steps.csv"
# Wan et al. 2018, section 3: gradients are clipped to an L2 norm of 3.
_CLIPPED_TO = 3.0
_KEPT = 3


@dataclass(frozen=True)
class Settings:
    """How an encoder is trained.

    Attributes:
        steps: batches in all; the learning rate falls to 0 along a half cosine over them.
        speakers_per_batch: N, speakers of a batch.
        utterances_per_speaker: M, crops of each, 2 or more.
        crop_frames: rows of a crop; None is the dataset's `feature_shape`.
        learning_rate: of Adam, at the start.
        loss: 'softmax' or 'contrast'.
        normalize: 'none', 'dataset' or 'crop': the first layer of the network.
        layers, units: of LSTM.
        embedding: size of an embedding.
        pooling: 'mean' over the frames of a crop, or 'last' frame.
        equalizer_db, gain_db: (lowest, highest) in decibels, drawn for each crop (`MelAugment`); (0, 0) for none. They
            keep the encoder from telling speakers apart by their rooms and microphones.
        noise: dataset of noise that is mixed into half of the crops, at 0 to 15 dB; None for none.
        distinct: whether the M crops come from M utterances, as the loader has it.
        distinct_sessions: whether also from M sessions.
        seed: of first weights, crops and draws.
        checkpoint_every: steps.

    Raises:
        ConfigError: on construction; it names the value. What the loader alone knows, it tells.
    """

    steps: int = 10_000
    speakers_per_batch: int = 16
    utterances_per_speaker: int = 4
    crop_frames: int | None = None
    learning_rate: float = 3e-3
    loss: str = "softmax"
    normalize: str = "dataset"
    layers: int = 2
    units: int = 128
    embedding: int = 64
    pooling: str = "mean"
    equalizer_db: tuple[float, float] = (-6.0, 6.0)
    gain_db: tuple[float, float] = (-20.0, 0.0)
    noise: str | None = None
    distinct: str = "prefer"
    distinct_sessions: bool = False
    seed: int = 0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "layers", "units", "embedding", "checkpoint_every"):
            check_integer(name, getattr(self, name), 1, 1 << 31)
        check_integer("utterances_per_speaker", self.utterances_per_speaker, 2, 1 << 31)
        check_number("learning_rate", self.learning_rate, 0, 1, open_low=True)
        check_one_of("loss", self.loss, FORMS)
        check_one_of("normalize", self.normalize, NORMALIZATIONS)
        check_one_of("pooling", self.pooling, POOLINGS)

    def loader(self, dataset: str | Path) -> BatchLoader:
        """Crops `[N*M, frames, bands]` of the dataset, as these settings ask for them."""
        augment = None
        if self.noise is not None or (self.equalizer_db, self.gain_db) != ((0.0, 0.0), (0.0, 0.0)):
            augment = MelAugment(noise=self.noise, equalizer_db=self.equalizer_db, gain_db=self.gain_db)
        return BatchLoader(
            dataset,
            speakers_per_batch=self.speakers_per_batch,
            utterances_per_speaker=self.utterances_per_speaker,
            crop_frames=self.crop_frames,
            seed=self.seed,
            layout="time_mel",
            distinct=self.distinct,
            distinct_sessions=self.distinct_sessions,
            mel_augment=augment,
        )


class Step(NamedTuple):
    """What is kept of a step: its number from 1, its loss, and the seconds that it waited for its batch and took."""

    number: int
    loss: float
    waited_s: float
    trained_s: float


def train(dataset: str | Path, output: str | Path, settings: Settings) -> Iterator[Step]:
    """Trains, and goes on where a killed run of the same settings stopped; the encoder is there after the last step.

    A run that has ended is left as it is.

    Args:
        dataset: folder or URL of a dataset of log-mels (or MFCCs, without equaliser and gain).
        output: folder for the encoder, its checkpoints, its steps (`steps.csv`) and the logs of TensorBoard.
        settings: what to do.

    Yields:
        Every step that this run took.

    Raises:
        EncoderError: the folder holds a run of other settings or of another dataset, or the dataset no features.
        ConfigError, SamplingError, DatasetError: as the loader raises them.
    """
    output = Path(output)
    # Else the order of sums depends on which thread comes first, and so would the losses after a resume.
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(settings.seed)
    loader = settings.loader(dataset)
    about = _about(loader, settings)
    _settle(output, about)
    trainer = Trainer(_network(loader, settings), settings)
    batches = loader.batches(epochs=None)
    place = tf.Variable(json.dumps(batches.state_dict()), dtype=tf.string)
    saved = tf.train.CheckpointManager(
        tf.train.Checkpoint(network=trainer.network, loss=trainer.loss, optimizer=trainer.optimizer, place=place),
        str(output / CHECKPOINTS),
        max_to_keep=_KEPT,
    )
    if saved.restore_or_initialize():
        batches.load_state_dict(json.loads(place.numpy()))
    if trainer.steps_taken == settings.steps and (output / ABOUT_FILE).exists():
        return
    with StepLog(output, trainer.steps_taken) as log:
        while trainer.steps_taken < settings.steps:
            step = trainer.step(batches)
            log.write(step, trainer)
            if step.number % settings.checkpoint_every == 0 or step.number == settings.steps:
                log.flush()
                place.assign(json.dumps(batches.state_dict()))
                saved.save(checkpoint_number=step.number)
            yield step
    Encoder(trainer.network, about).save(output)


class Trainer:
    """Network, loss and optimiser.

    Args:
        network: from crops to embeddings.
        settings: loss, learning rate and number of steps.
    """

    def __init__(self, network: Any, settings: Settings) -> None:
        self.network, self.loss = network, GE2ELoss(settings.utterances_per_speaker, settings.loss)
        self.loss.build((None, settings.embedding))
        # Adam makes steps of a size that gradients have no part in, so the paper's smaller gradients for the projection
        # and for scale and offset (section 3) have none here, too.
        rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, settings.steps)
        self.optimizer = keras.optimizers.Adam(rate, global_clipnorm=_CLIPPED_TO)
        self._variables = [*network.trainable_variables, *self.loss.trainable_variables]
        self.optimizer.build(self._variables)
        self._update = tf.function(self._update_once, reduce_retracing=True)

    @property
    def steps_taken(self) -> int:
        return int(self.optimizer.iterations)

    def step(self, batches: Iterator[tuple[Any, Any]]) -> Step:
        """Takes the next batch and learns from it."""
        began = time.perf_counter()
        crops = next(batches)[0]
        got = time.perf_counter()
        loss = float(self._update(tf.convert_to_tensor(crops)))
        if not np.isfinite(loss):
            raise EncoderError(f"the loss of step {self.steps_taken} is {loss}: lower the learning rate")
        return Step(self.steps_taken, loss, got - began, time.perf_counter() - got)

    def _update_once(self, crops: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = self.loss(self.network(crops, training=True))
        gradients = tape.gradient(loss, self._variables)
        self.optimizer.apply_gradients(zip(gradients, self._variables, strict=True))
        return loss


class StepLog:
    """`steps.csv` and the logs of TensorBoard; what a killed run wrote after its last checkpoint is dropped.

    Args:
        output: folder of the run.
        taken: steps of the checkpoint that the run goes on from.
    """

    def __init__(self, output: Path, taken: int) -> None:
        path = output / STEPS_FILE
        kept = read_steps(output)[:taken] if path.exists() else []
        aside = path.with_suffix(".tmp")
        with aside.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([Step._fields, *kept])
        aside.replace(path)
        self._stream = path.open("a", newline="", encoding="utf-8")
        self._rows = csv.writer(self._stream)
        self._board = tf.summary.create_file_writer(str(output / LOGS))

    def __enter__(self) -> StepLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._board.close()

    def write(self, step: Step, trainer: Trainer) -> None:
        self._rows.writerow(step)
        with self._board.as_default(step=step.number):
            tf.summary.scalar("loss", step.loss)
            tf.summary.scalar("learning_rate", trainer.optimizer.learning_rate)
            tf.summary.scalar("scale", trainer.loss.scale)
            tf.summary.scalar("offset", trainer.loss.offset)
            tf.summary.scalar("share_of_waiting", step.waited_s / (step.waited_s + step.trained_s))

    def flush(self) -> None:
        """Before a checkpoint is saved, so that no step of it is missing here."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._board.flush()


def read_steps(output: str | Path) -> list[Step]:
    """All steps of a run. A last line that a kill cut short is left out."""
    with (Path(output) / STEPS_FILE).open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream) if len(row) == len(Step._fields)][1:]
    return [Step(int(number), float(loss), float(waited), float(took)) for number, loss, waited, took in rows]


def _network(loader: BatchLoader, settings: Settings) -> Any:
    metadata = loader.get_metadata()
    statistics = metadata["statistics"] if settings.normalize == "dataset" else {"mean": (), "std": ()}
    normalize = Normalize(settings.normalize, statistics["mean"], statistics["std"], name="normalize")
    bands = metadata["feature_shape"][0]
    return build_network(normalize, bands, settings.layers, settings.units, settings.embedding, settings.pooling)


def _about(loader: BatchLoader, settings: Settings) -> About:
    metadata = loader.get_metadata()
    if metadata["features"] == "raw":
        raise EncoderError(
            "the dataset cannot be trained on: expected log-mels or MFCCs, got features 'raw'. Make it with "
            "--features logmel"
        )
    trained = {
        "settings": asdict(settings),
        "ge2e-features": __version__,
        "dataset": metadata["checksum"],
    }
    crop_frames = settings.crop_frames or metadata["feature_shape"][1]
    recipe, fingerprint = metadata["recipe"], metadata["fingerprint"]
    return About(fingerprint, recipe, settings.normalize, crop_frames, settings.embedding, None, trained)


def _settle(output: Path, about: About) -> None:
    """Says what this run is, where nothing is said yet; else it must be the same run."""
    output.mkdir(parents=True, exist_ok=True)
    path, text = output / SETTINGS_FILE, about.to_json() + "\n"
    if not path.exists():
        write_whole(path, text)
        return
    there, wanted = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
    if there != wanted:
        differing = [name for name in wanted if there.get(name) != wanted[name]]
        old, new = there.get("trained", {}).get("settings", {}), wanted["trained"]["settings"]
        options = [f"{name}={new[name]!r} (was {old.get(name)!r})" for name in new if old.get(name) != new[name]]
        raise EncoderError(
            f"{output} holds a run of other settings: {', '.join(options or differing)}. Go on with the same ones and "
            "the same dataset, or choose another --output"
        )


def summary(output: str | Path) -> str:
    """What a run did, for people: steps, the last losses, and how long it waited for data."""
    steps = read_steps(output)
    waited, trained = sum(step.waited_s for step in steps), sum(step.trained_s for step in steps)
    last = float(np.mean([step.loss for step in steps[-100:]]))
    return (
        f"{output}: {len(steps)} steps in {waited + trained:.0f} s, of which the loader was waited for "
        f"{waited / (waited + trained):.1%}; mean loss of the last {min(100, len(steps))}: {last:.3f}"
    )
