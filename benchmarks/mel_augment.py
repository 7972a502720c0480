"""Augmentation of log-mels when reading: crops a second, and how far it is from mixing the waveforms.

    python benchmarks/mel_augment.py SPEECH [--rounds 9] [--files 40] [--json FILE]

SPEECH is a folder in the layout of LibriSpeech, or a manifest. It becomes a dataset by `ge2e run`, eight times under
other speaker ids, so that an epoch is long enough for its plan not to count; and so do two noises that are made of
nothing but it and random bits: pink noise from 60 Hz up, and babble of four other speakers.

Readers take turns, round by round, on one core; rates are of processor time, batches of 64 x 4 crops of 121 frames
whose records were checked before. The kernel alone is timed on crops in memory.

The error is of log-mels that are mixed, against log-mels of the mixed waveform, from the same stretches of 1.2 s: once
`FeatureExtractor` of the mixture, once `MelMixing` of what it makes of the two, always with the level set and without
voice detection. What differs is the term of both phases, 2 sqrt(S N) cos(phi), which power does not have, and a little
the ratio. So beside it stand the error of the phases alone, where powers of the two are added at their true ratio, and
how far the noise moves the log-mels of the speech.
"""

from __future__ import annotations

import timing

timing.one_core()

import functools  # noqa: E402
import itertools  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from timing import RATE_HZ, Goal, Run  # noqa: E402

from ge2e_transforms import BatchLoader, FeatureExtractor, MelAugment, audio  # noqa: E402
from ge2e_transforms.config import PRESETS, Recipe  # noqa: E402
from ge2e_transforms.features import FeatureKernel  # noqa: E402
from ge2e_transforms.mel_mixing import MelMixing, band_weights  # noqa: E402
from ge2e_transforms.rng import random_bits  # noqa: E402
from ge2e_transforms.utterance import Utterance  # noqa: E402

Samples = npt.NDArray[np.float32]
_CROP = 1200 * RATE_HZ // 1000
_SNRS = (0, 5, 10, 15, 20)
_PINK_HZ, _TALKERS, _NOISES = 60, 4, 20
_BATCHES = 40
_KERNEL_CROPS = 640
_COPIES = 8


def main() -> None:
    args = timing.arguments(__doc__, "mel_augment", rounds=9).parse_args()
    rows = timing.speech(args.speech)[: args.files]
    speech = [one for row in rows if len(one := voice_of(row)) >= 3 * _CROP]
    noises = {"pink": [pink(seed) for seed in range(_NOISES)], "babble": list(babble(speech))}
    with tempfile.TemporaryDirectory() as folder:
        runs = reading(make(Path(folder), rows, noises), args.rounds, args.only)
    runs |= kernel(speech, noises, args.rounds)
    found: dict[str, Any] = {
        **timing.about(utterances=len(speech)),
        "crops_per_core_s": {name: some[0]["crops"] / timing.median(some, "cpu_s") for name, some in runs.items()},
        "rounds": runs,
        "errors": errors(PRESETS["ge2e"], speech, noises),
        "snr_of_bands_off_db": {name: snr_off(PRESETS[name], speech, noises) for name in ("ge2e", "kaldi")},
    }
    show(found)
    timing.save(args.json, found, goals(found))


# Signals.


def voice_of(row: Utterance) -> Samples:
    """The voiced part of a recording, as the default recipe finds it."""
    recipe = PRESETS["ge2e"].replace(features="raw", max_part_s=600)
    samples = audio.load(row.audio_path, recipe.audio)
    values = FeatureExtractor(recipe).extract(samples, keep_all=True).segments[0].values
    return np.asarray(values[:, 0], dtype=np.float32) / np.float32(32768)


def pink(seed: int) -> Samples:
    """Ten seconds of noise with the same power in each octave from 60 Hz up, RMS 0.03."""
    length = 10 * RATE_HZ
    bits = random_bits(seed, length)
    white = (bits >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5
    spectrum = np.fft.rfft(white)
    hz = np.fft.rfftfreq(length, 1 / RATE_HZ)
    spectrum *= np.where(hz >= _PINK_HZ, 1 / np.sqrt(np.maximum(hz, 1)), 0)
    return scaled(np.fft.irfft(spectrum, length))


def babble(speech: Sequence[Samples]) -> Iterator[Samples]:
    """Recordings in fours, each as loud as the others, one on the other, RMS 0.03."""
    for first in range(0, min(len(speech), _TALKERS * _NOISES) - _TALKERS + 1, _TALKERS):
        group = speech[first : first + _TALKERS]
        length = min(map(len, group))
        yield scaled(np.sum([scaled(one[:length]) for one in group], axis=0))


def scaled(samples: npt.NDArray[Any]) -> Samples:
    return np.asarray(samples * (0.03 / np.sqrt(np.mean(np.square(samples, dtype=np.float64)))), dtype=np.float32)


def pairs(speech: Sequence[Samples], noises: Sequence[Samples]) -> Iterator[tuple[Samples, Samples]]:
    """A stretch of 1.2 s out of the middle of each utterance, and one of a noise that it has no part in."""
    for number, samples in enumerate(speech):
        noise = noises[(number // _TALKERS + 1) % len(noises)]
        start = (number * 7919) % (len(noise) - _CROP + 1)
        middle = (len(samples) - _CROP) // 2
        yield samples[middle : middle + _CROP], noise[start : start + _CROP]


# Reading.


def make(folder: Path, rows: Sequence[Utterance], noises: dict[str, list[Samples]]) -> dict[str, Path]:
    """Datasets of the speech and of all noise, as a user makes them."""
    import soundfile

    made = []
    for name, number in ((name, number) for name, some in noises.items() for number in range(len(some))):
        path = folder / f"{name}{number}.wav"
        soundfile.write(path, noises[name][number], RATE_HZ, subtype="FLOAT")
        made.append(Utterance(str(path), name, "noise", path.stem, "noise", split="train"))
    flags = {"speech": [], "noise": ["--set", "voice=none"]}
    for name, some in (("speech", timing.repeated(rows, _COPIES)), ("noise", made)):
        timing.write_rows(folder / f"{name}.csv", some)
        timing.ge2e_run(folder / f"{name}.csv", folder / name, 1, "--allow_outside", *flags[name])
    return {name: folder / name for name in flags}


def reading(folders: dict[str, Path], rounds: int, only: Sequence[str] | None) -> dict[str, list[Run]]:
    """Rounds of each reader."""
    changes: dict[str, Any] = {"gain_db": (-6, 6), "tilt_db": (-3, 3), "equalizer_db": (-6, 6)}
    noise: dict[str, Any] = {"noise": folders["noise"]}
    augments = {
        "plain": None,
        "gain, tilt and equaliser": MelAugment(**changes),
        "noise on half of the crops": MelAugment(**noise),
        "noise on all crops": MelAugment(**noise, noise_share=1),
        "noise on all crops, gain, tilt and equaliser": MelAugment(**noise, noise_share=1, **changes),
    }
    contestants: dict[str, Callable[[], Run]] = {}
    for layout, (name, augment) in itertools.product(("mel_time", "time_mel"), augments.items()):
        loader = BatchLoader(folders["speech"], 64, 4, layout=layout, mel_augment=augment, speakers="proportional")
        batches = loader.batches(epochs=None)
        contestants[f"{name}, {layout}"] = functools.partial(times, functools.partial(next, batches), 64 * 4)
    chosen = {name: one for name, one in contestants.items() if only is None or name in only}
    return timing.in_turn(chosen, rounds, warm_up=1)


def times(call: Callable[[], object], crops: int) -> Run:
    """Seconds of some calls, and the crops of all."""
    return {**timing.timed(lambda: [call() for _ in range(_BATCHES)]), "crops": crops * _BATCHES}


def kernel(speech: Sequence[Samples], noises: dict[str, list[Samples]], rounds: int) -> dict[str, list[Run]]:
    """Rounds of the compiled part alone."""
    recipe = PRESETS["ge2e"]
    made = [(features_of(recipe, one), features_of(recipe, other)) for one, other in pairs(speech, noises["pink"])]
    crops, others = (np.stack(some)[np.arange(_KERNEL_CROPS) % len(made)] for some in zip(*made, strict=True))
    mixing, snr_db = MelMixing(recipe), np.full(_KERNEL_CROPS, 10, dtype=np.float32)
    changes = np.full((_KERNEL_CROPS, recipe.n_bins), 3, dtype=np.float32)
    none, every = np.arange(0), np.arange(_KERNEL_CROPS)

    work = crops.copy()

    def changed() -> None:
        mixing.apply(work, 1, changes, others[:0], none, snr_db[:0])
        np.negative(changes, out=changes)  # louder and quieter in turn

    def mixed() -> None:
        mixing.apply(work, 1, None, others, every, snr_db)

    parts = {"kernel alone, gain": changed, "kernel alone, noise": mixed}
    contestants = {name: functools.partial(times, part, _KERNEL_CROPS) for name, part in parts.items()}
    return timing.in_turn(contestants, rounds, warm_up=1)


# Errors.


def features_of(recipe: Recipe, samples: Samples) -> Samples:
    """Log-mels `[frames, bands]` of a stretch: its level set, nothing left out."""
    return np.asarray(extractor_of(recipe)(samples, RATE_HZ, keep_all=True))


@functools.cache
def extractor_of(recipe: Recipe) -> FeatureExtractor:
    return FeatureExtractor(recipe.replace(voice="none"))


def errors(recipe: Recipe, speech: Sequence[Samples], noises: dict[str, list[Samples]]) -> list[dict[str, Any]]:
    """By noise and ratio: mean and 95th percentile of what mixing of log-mels is off, in units of the logarithm."""
    mixing, found = MelMixing(recipe), []
    for (name, some), snr_db in itertools.product(noises.items(), _SNRS):
        off, phases, moved = [], [], []
        for one, other in pairs(speech, some):
            louder = other * np.float32(np.sqrt(power(one) / power(other) * 10 ** (-snr_db / 10)))
            wanted, clean = features_of(recipe, one + louder), features_of(recipe, one)
            mixed = clean[None].copy()
            ratio = np.full(1, snr_db, dtype=np.float32)
            mixing.apply(mixed, 1, None, features_of(recipe, other)[None], np.arange(1), ratio)
            off.append(mixed[0] - wanted)
            phases.append(added(recipe, one, louder) - wanted)
            moved.append(wanted - clean)
        every, alone, change = (np.abs(np.stack(values).astype(np.float64)) for values in (off, phases, moved))
        figures = {"mean": every.mean(), "p95": np.quantile(every, 0.95), "bias": np.mean(off)}
        figures |= {"phases_alone_mean": alone.mean(), "by_the_noise_mean": change.mean()}
        found.append({"noise": name, "snr_db": snr_db, **{key: round(float(one), 4) for key, one in figures.items()}})
    return found


def added(recipe: Recipe, one: Samples, other: Samples) -> npt.NDArray[Any]:
    """Log-mels of the sum of the powers of two waveforms, at the level that their mixture would get."""
    assert recipe.level.level_dbfs is not None
    kernel = FeatureKernel(recipe.replace(log="none"))
    level = np.float32(10 ** (recipe.level.level_dbfs / 20) / np.sqrt(power(one + other)))
    total = kernel(one * level) + kernel(other * level)
    return np.asarray(np.log10(total + np.float32(recipe.feature.floor)))


def snr_off(recipe: Recipe, speech: Sequence[Samples], noises: dict[str, list[Samples]]) -> dict[str, float]:
    """What the ratio of powers in bands is off that of the waveforms, in decibels: mean, and 95th percentile."""
    weights, kernel = band_weights(recipe).astype(np.float64), FeatureKernel(recipe.replace(log="none"))
    off = []
    for one, other in itertools.chain.from_iterable(pairs(speech, some) for some in noises.values()):
        bands = [float((kernel(samples) @ weights).sum()) for samples in (one, other)]
        off.append(10 * np.log10(bands[0] / bands[1] * power(other) / power(one)))
    return {"mean": round(float(np.mean(off)), 3), "p95": round(float(np.quantile(np.abs(off), 0.95)), 3)}


def power(samples: Samples) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))


# Reports.


def goals(found: dict[str, Any]) -> list[Goal]:
    """The slower of the two layouts counts."""
    rates, listed = found["crops_per_core_s"], []
    for name, least in (("gain, tilt and equaliser", 40_000), ("noise on all crops", 15_000)):
        both = [rates[row] for layout in ("mel_time", "time_mel") if (row := f"{name}, {layout}") in rates]
        listed += [Goal(f"crops a second and core, {name}", min(both), least)] if both else []
    at_10 = [row["mean"] for row in found["errors"] if row["snr_db"] == 10]
    return [*listed, Goal("mean error at 10 dB, log10", max(at_10), 0.1, at_most=True)]


def show(found: dict[str, Any]) -> None:
    print(
        timing.table(["crops a second and core", ""], [(n, f"{r:,.0f}") for n, r in found["crops_per_core_s"].items()])
    )
    columns = ("mean", "p95", "bias", "phases_alone_mean", "by_the_noise_mean")
    head = ["noise", "SNR dB", "mean error", "95 % are below", "bias", "phases alone", "what the noise changes"]
    rows = [(row["noise"], row["snr_db"], *(f"{row[key]:.3f}" for key in columns)) for row in found["errors"]]
    print("\n" + timing.table(head, rows))
    off = [(name, f"{one['mean']:.2f}", f"{one['p95']:.2f}") for name, one in found["snr_of_bands_off_db"].items()]
    print("\n" + timing.table(["SNR of bands against waveforms, dB", "mean", "95 % are below"], off))


if __name__ == "__main__":
    main()
