"""How near `ge2e listen` comes: features of the waveform that it makes against those that it is made of, and its time.

    python benchmarks/listen.py SPEECH [--files N] [--json FILE]

SPEECH is a folder in LibriSpeech's layout, or a manifest; every 16th recording is taken, or the first N. Rows are
iterations of Griffin-Lim with the recipe `ge2e`; that recipe with the spectrum by `librosa.util.nnls` instead; and
other recipes. The waveform is rounded to 16 bits, and features are taken of all of it, as it is. Errors are means of
absolute differences, in log10 whatever the recipe's logarithm (of MFCC, of coefficients of log10);
`spectral_convergence` is the norm of the difference of magnitudes in mel bands by that of the stored ones. Seconds are
of the processor, for one second of what is heard.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import timing
from timing import Goal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ge2e_transforms.config import Recipe

    Frames = npt.NDArray[np.float32]

_EACH = 16
_ITERATIONS = (8, 16, 32, 60, 120, 240)
_OTHERS = ("seed", "librosa", "kaldi", "rtvc", "wespeaker")
_MFCC = {"mfcc": 20, "mfcc, all coefficients": 40}
# What the bands of speech are off in log10, of 40 and of at most 128 bands.
_GOAL, _OTHER_GOAL, _SECONDS_GOAL = 0.03, 0.1, 0.3


class Row(NamedTuple):
    """What is measured: a recipe, iterations, and whether the spectrum is librosa's."""

    recipe: Recipe
    iterations: int
    least_squares: bool = False


def main() -> None:
    args = timing.arguments(__doc__, "listen", rounds=1).parse_args()
    timing.one_core()
    speech = timing.speech(args.speech)
    paths = [row.audio_path for row in (speech[: args.files] if args.files else speech[::_EACH])]
    chosen = {name: row for name, row in rows().items() if name in (args.only or rows())}
    found: list[dict[str, Any]] = [{"name": name, **measured(row, paths)} for name, row in chosen.items()]
    columns = ("mean_error", "all_but_one_in_100", "spectral_convergence", "seconds_for_one")
    cells = [(row["name"], *(f"{row[key]:.4f}" for key in columns)) for row in found]
    print(timing.table(["", "mean error", "but one in 100", "spectral convergence", "s for 1 s"], cells))
    seconds = found[0]["audio_s"] if found else 0
    facts = timing.about(recordings=len(paths), seconds_of_voice=round(seconds, 1))
    timing.save(args.json, {"about": facts, "rows": found}, [goal for row in found for goal in goals(row)])


def rows() -> dict[str, Row]:
    from ge2e_transforms.config import PRESETS
    from ge2e_transforms.inversion import ITERATIONS

    ours = PRESETS["ge2e"]
    found = {f"{many} iterations": Row(ours, many) for many in _ITERATIONS}
    found["librosa.util.nnls"] = Row(ours, ITERATIONS, least_squares=True)
    found |= {name: Row(PRESETS[name].replace(segments="utterance"), ITERATIONS) for name in _OTHERS}
    found |= {name: Row(ours.replace(features="mfcc", n_mfcc=many), ITERATIONS) for name, many in _MFCC.items()}
    return found


def goals(row: dict[str, Any]) -> list[Goal]:
    """Of what users get: the default number of iterations."""
    from ge2e_transforms.inversion import ITERATIONS

    if row["name"] == f"{ITERATIONS} iterations":
        spent = Goal("ge2e: processor seconds for one", row["seconds_for_one"], _SECONDS_GOAL, at_most=True)
        return [Goal("ge2e: mean error", row["mean_error"], _GOAL, at_most=True), spent]
    if row["name"] in (*_OTHERS, *_MFCC):
        return [Goal(f"{row['name']}: mean error", row["mean_error"], _OTHER_GOAL, at_most=True)]
    return []


def measured(row: Row, paths: Sequence[str]) -> dict[str, float]:
    """Errors over all values of all recordings, seconds over all of them; the first one is heard twice."""
    import numpy as np

    from ge2e_transforms import audio, inversion
    from ge2e_transforms.extractor import FeatureExtractor, to_pcm16

    recipe = row.recipe
    extractor = FeatureExtractor(recipe)
    as_it_is = {"remove_dc": False, "voice": "none", "level_mode": "set", "level_dbfs": None, "min_utterance_ms": 0.0}
    again = FeatureExtractor(recipe.replace(**as_it_is))
    off, difference, norm, spent, seconds = [], 0.0, 0.0, 0.0, 0.0
    spectrum: Callable[..., Any] = least_squares if row.least_squares else inversion.spectrum_of
    with mock.patch.object(inversion, "spectrum_of", spectrum):
        for number, path in enumerate([paths[0], *paths]):
            samples = audio.load(path, recipe.audio)
            stored = extractor.joined(extractor.extract(samples, utterance_id=path, keep_all=True))
            began = time.process_time()
            heard = inversion.waveform(stored, recipe, row.iterations)
            if number == 0:  # what is loaded and compiled at first use is not of the recording
                continue
            spent += time.process_time() - began
            seconds += len(heard) / recipe.audio.sample_rate_hz
            rounded = to_pcm16(heard).astype(np.float32) / np.float32(32768)
            made = again.joined(again.extract(rounded, keep_all=True))
            off.append(np.abs(in_log10(made, recipe) - in_log10(stored, recipe)).ravel())
            ours, theirs = (np.sqrt(inversion.mel_power(values, recipe)) for values in (made, stored))
            difference, norm = difference + float(np.sum((ours - theirs) ** 2)), norm + float(np.sum(theirs**2))
    every = np.concatenate(off)
    return {
        "mean_error": round(float(every.mean()), 5),
        "all_but_one_in_100": round(float(np.quantile(every, 0.99)), 4),
        "spectral_convergence": round(math.sqrt(difference / norm), 4),
        "seconds_for_one": round(spent / seconds, 4),
        "audio_s": round(seconds, 2),
    }


def in_log10(values: Frames, recipe: Recipe) -> Frames:
    """Features as log10, and power as that of power + 1e-6, the floor of the recipe `ge2e`."""
    import numpy as np

    log = recipe.feature.log
    if log == "none":
        return np.asarray(np.log10(values + np.float32(1e-6)))
    return np.asarray(values / np.float32({"log10": 1, "ln": math.log(10), "db": 10}[log]))


def least_squares(mel: Any, recipe: Recipe) -> Any:
    """As `inversion.spectrum_of`, by librosa; frames are scaled alike, or it would stop at once for soft ones."""
    import librosa
    import numpy as np

    from ge2e_transforms.features import mel_filterbank

    scale = np.maximum(mel.sum(axis=1), 1e-30) / 1000
    return librosa.util.nnls(mel_filterbank(recipe).toarray().astype(np.float64), (mel / scale[:, None]).T) * scale


if __name__ == "__main__":
    main()
