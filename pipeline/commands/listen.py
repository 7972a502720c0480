"""`ge2e listen`: one stored utterance as a WAV, so that one can hear what is trained on.

Samples are mono float32 in [-1, 1], levels and gain dB. It must not know how features are inverted: `inversion` does.
"""

from __future__ import annotations

import argparse
import io
import itertools
import wave
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from ge2e_transforms import inversion
from ge2e_transforms.checks import check, check_number
from ge2e_transforms.config import Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import MissingExtraError
from ge2e_transforms.extractor import to_pcm16
from ge2e_transforms.feature_kinds import FEATURE_KINDS
from ge2e_transforms.whole import WholeUtterances
from pipeline.commands.results import place_of_result, write_result
from pipeline.commands.terminal import Terminal

Samples = npt.NDArray[np.float32]

_EXAMPLES = """examples:
  ge2e listen features 84-121123-0000 -o heard.wav
  ge2e listen features utt00.wav --speaker synth/spk00 -o heard.wav --gain_db 12
  ge2e listen s3://bucket/features 84-121123-0000 -o heard.wav --iterations 200 --seed 7

Raw samples are written bit for bit. Log-mels hold no phase, and harmonics only where bands are narrow: what they do not
tell is guessed. Of MFCC it is coarse: the coefficients that are not stored count as 0. An id that begins with a dash
comes last, after --.
"""
_MOST_GAIN_DB = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    parser.add_argument("dataset", metavar="FOLDER", help="a folder, s3:// or gs://")
    parser.add_argument("utterance", metavar="UTTERANCE", help="its id, as in the manifest")
    output = "16-bit, one channel; replaced if it is there, never inside of the dataset"
    parser.add_argument("-o", "--output", required=True, metavar="FILE.wav", help=output)
    speaker = "namespace/speaker_id; needed where several speakers have an utterance of this id"
    parser.add_argument("--speaker", metavar="ID", help=speaker)
    many = f"of Griffin-Lim, which looks for phases (default: {inversion.ITERATIONS})"
    parser.add_argument("--iterations", type=int, default=inversion.ITERATIONS, metavar="N", help=many)
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the phases it begins with (default: 0)")
    gain = "louder or, below 0, softer than it is trained on (default: 0); never so loud that it clips"
    parser.add_argument("--gain_db", type=float, default=0.0, metavar="DB", help=gain)
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Writes the file, whole or not at all, and says in a line what it holds."""
    check_number("gain_db", args.gain_db, -_MOST_GAIN_DB, _MOST_GAIN_DB)
    dataset = Dataset.open(args.dataset)
    path = place_of_result(dataset, args.output, "heard.wav")
    check(path.suffix.lower() == ".wav", "--output", args.output, "a name that ends in .wav, which it will be")
    recipe = dataset.recipe
    raw = recipe.feature.features == "raw"
    if not raw and find_spec("librosa") is None:
        raise MissingExtraError("librosa, which `ge2e listen` needs unless features are raw,", "listen")
    pieces = list(_pieces(dataset, args.utterance, args.speaker))
    heard = [piece[:, 0] if raw else inversion.waveform(piece, recipe, args.iterations, args.seed) for piece in pieces]
    sound, told = _louder(np.concatenate(heard), args.gain_db)
    rate = recipe.audio.sample_rate_hz
    write_result(path, _wav(sound, rate))
    facts = [f"{path}: {len(sound) / rate:.2f} s at {rate} Hz, {_level_dbfs(sound):.1f} dBFS"]
    facts += [*_made(recipe, args.iterations, args.seed), *told]
    if recipe.segment.segments == "windows":
        facts.append("one stored window" if len(pieces) == 1 else f"{len(pieces)} stored windows, one after the other")
    Terminal().print("; ".join(facts))
    return 0


def _pieces(dataset: Dataset, utterance_id: str, speaker_id: str | None) -> Iterator[Samples]:
    """Frames that follow one another, `[rows, bins]`: all of an utterance, or each of its windows."""
    whole, rows = WholeUtterances(dataset, layout="time_mel").with_records(utterance_id, speaker_id)
    if dataset.recipe.segment.segments == "utterance":
        rows = [whole.frames]
    for first, end in itertools.pairwise(itertools.accumulate(rows, initial=0)):
        yield whole.values[first:end]


def _louder(sound: Samples, gain_db: float) -> tuple[Samples, list[str]]:
    """Samples within [-1, 1], and what was done to them; they stay as they are if nothing has to be."""
    told = []
    if gain_db:
        sound = sound * np.float32(10 ** (gain_db / 20))
        told.append(f"gain {gain_db:+g} dB")
    peak = float(np.abs(sound).max(initial=0))
    if peak > 1:
        sound = sound / np.float32(peak)
        told.append(f"made {20 * np.log10(peak):.1f} dB softer, for it would clip")
    return sound, told


def _level_dbfs(sound: Samples) -> float:
    """Root mean square; silence counts as -200."""
    return float(10 * np.log10(np.mean(np.square(sound, dtype=np.float64)) + 1e-20))


def _made(recipe: Recipe, iterations: int, seed: int) -> Iterator[str]:
    feature = recipe.feature
    if feature.features == "raw":
        yield "the stored samples"
    else:
        axis = FEATURE_KINDS[feature.features].axis
        what = f"{feature.n_mels} mel bands"
        what = what if feature.features == "logmel" else f"{recipe.n_bins} {axis}s of {what}"
        yield f"{what} inverted, {iterations} iterations of Griffin-Lim, seed {seed}"
    levels = feature.features != "raw" and recipe.level.level_dbfs is not None
    done = {"set": "set", "raise": "raised"}[recipe.level.level_mode]
    level = f", {done} to {recipe.level.level_dbfs:g} dBFS" if levels else ""
    yield f"the recipe's voice={recipe.voice.voice}{level}"


def _wav(sound: Samples, rate_hz: int) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(to_pcm16(sound).astype("<i2").tobytes())
    return stream.getvalue()
