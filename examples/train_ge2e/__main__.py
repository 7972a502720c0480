"""Trains a speaker encoder on a dataset with the GE2E loss, evaluates it, exports it, and compares two recordings.

python examples/train_ge2e train features --output encoder --steps 3000
python examples/train_ge2e evaluate encoder features --split test --output evaluation --store_threshold
python examples/train_ge2e export encoder --output exported
python examples/train_ge2e verify exported/encoder.tflite a.flac b.flac

Exit status: 0, of `verify` 'same'; 1, of `verify` 'different'; 2 for what could not be done.
"""

# It must not know how a command works: its module, and TensorFlow, are imported with the command that is asked for.

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # else TensorFlow tells at each start of a GPU that is not there

SAME, DIFFERENT, FAILED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit status."""
    given = parser().parse_args(arguments)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    from encoder import EncoderError

    from ge2e_transforms.errors import Ge2eError

    try:
        return int(given.command(given))
    except (EncoderError, Ge2eError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


def train(given: argparse.Namespace) -> int:
    import training
    from tqdm import tqdm

    chosen = {field.name: getattr(given, field.name) for field in fields(training.Settings)}
    settings = training.Settings(**{name: _tuple(value) for name, value in chosen.items()})
    bar = tqdm(total=settings.steps, unit="step", disable=None)
    with bar:
        for step in training.train(given.dataset, given.output, settings):
            bar.update(step.number - bar.n)
            bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
    print(training.summary(given.output))
    return 0


def evaluate(given: argparse.Namespace) -> int:
    import evaluation

    settings = evaluation.Settings(**{field.name: getattr(given, field.name) for field in fields(evaluation.Settings)})
    results = evaluation.evaluate(given.encoder, given.dataset, given.output, settings, given.store_threshold)
    evaluation.print_results(results)
    return 0


def export(given: argparse.Namespace) -> int:
    import exporting

    print(exporting.export(given.encoder, given.output, quantize=given.quantize))
    return 0


def verify(given: argparse.Namespace) -> int:
    import verification

    verdict = verification.verify(given.encoder, given.file_a, given.file_b, given.threshold, given.dataset)
    print(verdict)
    return SAME if verdict.same else DIFFERENT


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="train_ge2e", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = whole.add_subparsers(required=True, metavar="train|evaluate|export|verify")
    for add in (_add_train, _add_evaluate, _add_export, _add_verify):
        add(commands)
    return whole


def _add_train(commands: Any) -> None:
    add = _command(commands, train, "a dataset to an encoder; goes on with a run that was stopped")
    add("dataset", help="folder of a dataset, or its gs:// or s3:// URL")
    add("--output", required=True, help="folder for the encoder, its checkpoints and logs")
    add("--steps", type=int, default=10_000, help="batches in all (%(default)s)")
    add("--speakers_per_batch", "-n", type=int, default=16, help="N, speakers of a batch (%(default)s)")
    add("--utterances_per_speaker", "-m", type=int, default=4, help="M, crops of each of them (%(default)s)")
    add("--crop_frames", type=int, help="rows of a crop (the dataset's feature_shape)")
    add("--learning_rate", type=float, default=3e-3, help="of Adam, falling to 0 (%(default)s)")
    add("--loss", choices=("softmax", "contrast"), default="softmax", help="form of the GE2E loss (%(default)s)")
    add("--normalize", choices=("none", "dataset", "crop"), default="dataset", help="%(default)s; kept in the encoder")
    add("--layers", type=int, default=2, help="of LSTM (%(default)s)")
    add("--units", type=int, default=128, help="of a layer (%(default)s)")
    add("--embedding", type=int, default=64, help="size of an embedding (%(default)s)")
    add("--pooling", choices=("mean", "last"), default="mean", help="of frames: their mean, or the last (%(default)s)")
    range_of = {"nargs": 2, "type": float, "metavar": ("LOW", "HIGH")}
    add("--equalizer_db", **range_of, default=(-6.0, 6.0), help="drawn for each crop (-6 6); 0 0 for none")
    add("--gain_db", **range_of, default=(-20.0, 0.0), help="drawn for each crop (-20 0); 0 0 for none")
    add("--noise", help="dataset of noise for half of the crops, at 0 to 15 dB")
    add("--distinct", choices=("strict", "prefer", "any"), default="prefer", help="must M crops be of M utterances?")
    add("--distinct_sessions", action="store_true", help="and of M sessions")
    add("--seed", type=int, default=0, help="of first weights and crops (%(default)s)")
    add("--checkpoint_every", type=int, default=100, help="steps (%(default)s)")


def _add_evaluate(commands: Any) -> None:
    add = _command(commands, evaluate, "equal error rate on speakers of a split, or on a list of trials")
    add("encoder", help="folder of a training run")
    add("dataset", help="folder or URL of a dataset of the same recipe")
    add("--output", required=True, help="folder for results, scores and pictures")
    add("--split", default="test", help="of which trials are drawn (%(default)s)")
    add("--trials", metavar="FILE", help="a list of 'label enrol test' instead, such as VoxCeleb's")
    add("--per_speaker", type=int, default=100, help="most target trials of a speaker (%(default)s)")
    both = argparse.BooleanOptionalAction
    add("--cross_session", action=both, default=True, help="targets of two sessions: within one they measure the room")
    add("--seed", type=int, default=0, help="of trials and intervals (%(default)s)")
    add("--p_target", type=float, default=0.01, help="prior of a target trial for the minDCF (%(default)s)")
    add("--store_threshold", action="store_true", help="keep the threshold at the equal error rate for `verify`")


def _add_export(commands: Any) -> None:
    add = _command(commands, export, "an encoder as SavedModel and as LiteRT (TFLite) file")
    add("encoder", help="folder of a training run")
    add("--output", required=True, help="folder for saved_model/ and encoder.tflite")
    add("--quantize", action="store_true", help="also encoder_int8.tflite, with 8-bit weights")


def _add_verify(commands: Any) -> None:
    add = _command(commands, verify, "are two recordings of one speaker?")
    add("encoder", help="folder of a training run, a saved_model folder or a .tflite file")
    add("file_a", help="a recording")
    add("file_b", help="another one")
    add("--threshold", type=float, help="cosine from which on they are of one speaker (that of `evaluate`)")
    add("--dataset", help="refuse unless the encoder is for the features of this dataset")


def _command(commands: Any, function: Any, text: str) -> Any:
    sub = commands.add_parser(function.__name__, help=text, description=text)
    sub.set_defaults(command=function)
    return sub.add_argument


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
