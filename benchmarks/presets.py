"""Largest difference of each preset from the real thing, on real speech and on signals that are hard to agree on.

    python benchmarks/presets.py SPEECH [--files 40] [--json FILE]

SPEECH is a folder in the layout of LibriSpeech, or a manifest. The real things are libraries: librosa and
kaldi-native-fbank (both in the extra `dev`), and torchaudio, whose row is left out where it is missing. Both
sides read the same file. What a preset does before the features is part of the comparison where the real thing has it:
voice and level of `ge2e`, windows of `seed`, level of `rtvc`, whose voice detector is another.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import recipe_peers
import timing
from timing import RATE_HZ, Goal

Frames: TypeAlias = npt.NDArray[np.float32]
SPEECH, TONE = "speech", "full-scale tone"
_PCM16 = 32768


class Preset(NamedTuple):
    """What is compared.

    Attributes:
        preset: of ours.
        changes: fields that differ, for what the real thing does not have.
        real: features of a path by the real thing.
        what: its name.
        unit: of the values.
        bound: the largest difference is at most this,
        usual: and this for all but one of 10,000 values of speech, and for all of the signals that are hard, but
        tone: this for a tone, beside which most bands hold nothing but what was lost in rounding.
    """

    preset: str
    changes: dict[str, Any]
    real: Callable[[str], Frames]
    what: str
    unit: str
    bound: float
    usual: float
    tone: float

    def limit(self, case: str) -> float:
        """What the largest difference may be."""
        return {SPEECH: self.bound, TONE: self.tone}.get(case, self.usual)


def librosa_db(path: str) -> Frames:
    """`librosa.feature.melspectrogram` with librosa's defaults at 16 kHz, in decibels: `[frames, 128]`."""
    import librosa

    mel = librosa.feature.melspectrogram(y=_samples(path), sr=RATE_HZ)
    return np.asarray(librosa.power_to_db(mel, ref=1.0, amin=1e-10, top_db=None).T)


def rtvc(path: str) -> Frames:
    """Level and features of Real-Time-Voice-Cloning's encoder, with all silences: `[frames, 40]`, power."""
    import librosa

    samples = _samples(path)
    loudness = 10 * np.log10(np.mean(np.square(samples)))
    if loudness < -30:
        samples = samples * np.float32(10 ** ((-30 - loudness) / 20))
    # Its call, by places, is one of librosa before 0.10, which mirrored the ends.
    mel = librosa.feature.melspectrogram(
        y=samples, sr=RATE_HZ, n_fft=400, hop_length=160, n_mels=40, pad_mode="reflect"
    )
    return np.asarray(mel.T)


def kaldi_fbank(path: str, window: str) -> Frames:
    """kaldi-native-fbank with its defaults, 80 bins and no dither: `[frames, 80]`, natural logarithm."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = RATE_HZ
    options.frame_opts.dither = 0
    options.frame_opts.window_type = window
    options.mel_opts.num_bins = 80
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(RATE_HZ, (_samples(path) * _PCM16).tolist())
    fbank.input_finished()
    rows = [fbank.get_frame(number) for number in range(fbank.num_frames_ready)]
    return np.stack(rows) if rows else np.empty((0, 80), np.float32)


def torchaudio_fbank(path: str) -> Frames:
    """`torchaudio.compliance.kaldi.fbank` as wespeaker calls it, without dither: `[frames, 80]`, natural logarithm."""
    import torch
    from torchaudio.compliance import kaldi

    samples = torch.from_numpy(_samples(path))[None] * _PCM16
    features = kaldi.fbank(
        samples, num_mel_bins=80, dither=0.0, sample_frequency=RATE_HZ, window_type="hamming", use_energy=False
    )
    return np.asarray(features)


# Voice detection off where the real thing has another or none; nothing left out for shortness.
_ALL = {"voice": "none", "min_utterance_ms": 0}
_KALDI = functools.partial(kaldi_fbank, window="povey")
_WESPEAKER = functools.partial(kaldi_fbank, window="hamming")
PRESETS: dict[str, Preset] = {
    "ge2e": Preset("ge2e", {"min_utterance_ms": 0}, recipe_peers.librosa_ge2e, "librosa", "log10", 1e-4, 5e-5, 5e-5),
    "seed": Preset("seed", {}, recipe_peers.librosa_seed, "librosa", "log10", 1e-4, 5e-5, 5e-4),
    "librosa": Preset("librosa", _ALL, librosa_db, "librosa", "dB", 0.02, 5e-3, 2.0),
    "kaldi": Preset("kaldi", _ALL, _KALDI, "kaldi-native-fbank", "ln", 0.1, 2e-3, 1.0),
    "rtvc": Preset("rtvc", _ALL, rtvc, "librosa", "power", 1e-4, 2e-5, 2e-4),
    "wespeaker": Preset("wespeaker", _ALL, _WESPEAKER, "kaldi-native-fbank", "ln", 0.05, 2e-3, 2e-3),
    "wespeaker, torchaudio": Preset("wespeaker", _ALL, torchaudio_fbank, "torchaudio", "ln", 0.05, 2e-3, 2e-3),
}


def hard_signals() -> dict[str, Frames]:
    """Signals by name, float32 `[n]` in [-1, 1] at 16 kHz."""
    from ge2e_transforms import selftest
    from ge2e_transforms.rng import random_bits

    noise = (random_bits(7, 2 * RATE_HZ) >> np.uint64(48)).astype(np.float32) / np.float32(1 << 15) - 1
    burst = selftest.speech(2 * RATE_HZ)
    gaps = burst.copy()
    gaps[RATE_HZ // 2 : RATE_HZ] = 0
    return {
        "noise at -70 dBFS": np.round(noise * 18) / np.float32(_PCM16),
        TONE: np.sin(2 * np.pi * 440 / RATE_HZ * np.arange(len(noise))).astype(np.float32),
        "full-scale noise": np.clip(noise * 4, -1, 1),
        "offset": burst * np.float32(0.5) + np.float32(0.25),
        "digital silence inside": gaps,
        "30 ms": burst[1000:1480],
    }


def difference(preset: Preset, paths: Iterable[str]) -> dict[str, Any]:
    """How far ours are from the real thing over some recordings: at most, and in all but one of 10,000 values.

    Raises:
        SystemExit: the shapes differ.
    """
    from ge2e_transforms.config import PRESETS as RECIPES

    recipe = RECIPES[preset.preset].replace(**preset.changes)
    off, top = [np.empty(0, np.float32)], 0.0
    for path in paths:
        ours, theirs = _ours(path, recipe), preset.real(path)
        if ours.shape != theirs.shape:
            raise SystemExit(f"{path}, {preset.preset}: ours gives {ours.shape}, the real thing {theirs.shape}")
        off.append(np.abs(ours - theirs).ravel())
        top = max(top, float(np.abs(theirs).max(initial=0)))
    every = np.concatenate(off)
    nearly = float(np.quantile(every, 0.9999)) if every.size else 0.0
    found = {"largest_difference": float(every.max(initial=0)), "all_but_one_in_10000": nearly}
    return {"values": every.size, **found, "largest_value": top}


def _ours(path: str, recipe: Any) -> Frames:
    from ge2e_transforms import audio
    from ge2e_transforms.errors import TooShortError

    extractor = _extractor(recipe)
    try:
        segments = extractor.extract(audio.load(path, recipe.audio), utterance_id=path).segments
    except TooShortError:
        return np.empty((0, *recipe.feature_shape[::-1]), np.float32)
    join = np.stack if recipe.segment.segments == "windows" else np.concatenate
    return np.asarray(join([segment.values for segment in segments]))


@functools.cache
def _extractor(recipe: Any) -> Any:
    from ge2e_transforms.extractor import FeatureExtractor

    return FeatureExtractor(recipe)


def _samples(path: str) -> Frames:
    import soundfile

    samples, rate = soundfile.read(path, dtype="float32")
    if rate != RATE_HZ or samples.ndim != 1:
        raise SystemExit(f"{path}: expected one channel at {RATE_HZ} Hz")
    return np.asarray(samples)


def compare(speech: Iterable[str], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """By row: what was compared, and by case the largest difference and the largest value."""
    import soundfile

    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cases: dict[str, list[str]] = {SPEECH: list(speech)}
        for number, (case, samples) in enumerate(hard_signals().items()):
            path = f"{folder}/{number}.wav"
            soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
            cases[case] = [path]
        for name in names:
            preset = PRESETS[name]
            about = {"preset": preset.preset, "real": preset.what, "unit": preset.unit}
            try:
                found[name] = about | {"cases": {case: difference(preset, paths) for case, paths in cases.items()}}
            except ModuleNotFoundError as error:
                print(f"{name}: left out, {error}", file=sys.stderr)
    return found


def shown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of a result, as docs/presets.md has it."""
    cases = list(next(iter(found.values()))["cases"])
    head = ["preset", "real thing", "unit", SPEECH, "but one in 10,000", *cases[1:]]
    rows = []
    for name, row in found.items():
        speech, *hard = (row["cases"][case] for case in cases)
        figures = [speech["largest_difference"], speech["all_but_one_in_10000"]]
        # A recording in which no window fits has none.
        figures += [case["largest_difference"] if case["values"] else None for case in hard]
        rows.append((name, row["real"], row["unit"], *("-" if one is None else f"{one:.1e}" for one in figures)))
    return timing.table(head, rows)


def bounds() -> str:
    """The table of what the tests allow."""
    rows = [
        (name, *(f"{one:g}" for one in (row.bound, row.usual, row.tone)), row.unit) for name, row in PRESETS.items()
    ]
    return timing.table(["preset", "speech", "but one in 10,000, and hard signals", TONE, "unit"], rows)


def main() -> None:
    """Compares, prints the table, and writes the result where it is asked for."""
    args = timing.arguments(__doc__, "presets", rounds=1).parse_args()
    paths = [row.audio_path for row in timing.speech(args.speech)][: args.files]
    found = compare(paths, args.only or PRESETS)
    print(shown(found))
    goals = [goal for name, row in found.items() for goal in _goals(name, row)]
    result: dict[str, Any] = {"recordings": len(paths), "presets": found}
    timing.save(args.json, timing.about(**result), goals)
    sys.exit(not all(goal.met for goal in goals))


def _goals(name: str, row: Mapping[str, Any]) -> list[Goal]:
    """Differences in parts of what they may be."""
    preset = PRESETS[name]
    shares = {case: found["largest_difference"] / preset.limit(case) for case, found in row["cases"].items()}
    shares["speech but one in 10,000"] = row["cases"][SPEECH]["all_but_one_in_10000"] / preset.usual
    return [Goal(f"{name}: {case}, by its bound", share, 1.0, at_most=True) for case, share in shares.items()]


if __name__ == "__main__":
    main()
