"""Other ways from a recording to mel features, each a function of a path, as `recipe.py` and `peers.py` time them.

    PEERS/bin/python benchmarks/recipe_peers.py     # answers recipe.py over its standard input and output

Nothing of this project is imported, so that it runs in an environment that only holds the others
(`requirements-recipe.txt`).
"""

from __future__ import annotations

import functools
import json
import struct
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from timing import RATE_HZ, timed

Frames: TypeAlias = npt.NDArray[np.float32]
Waveform: TypeAlias = npt.NDArray[np.float32]

_CROP = 19_200  # samples of 1.2 s
_TOP_DB, _LEVEL_DBFS, _FLOOR = 30, -30.0, 1e-6
# Real-Time-Voice-Cloning, encoder: params_data.py.
_VAD_WINDOW, _VAD_AVERAGE, _VAD_SILENCE = RATE_HZ * 30 // 1000, 8, 6


def librosa_ge2e(path: str) -> Frames:
    """Preset `ge2e` by librosa calls: `[frames, 40]`."""
    import librosa
    from librosa.effects import split

    samples, _ = librosa.load(path, sr=RATE_HZ)
    samples = samples - np.float32(samples.mean(dtype=np.float64))
    voice = np.concatenate([samples[start:end] for start, end in split(samples, top_db=_TOP_DB)])
    loudness = np.sqrt(np.mean(np.square(voice), dtype=np.float64))
    gain = min(10 ** (_LEVEL_DBFS / 20) / loudness, 1 / np.abs(samples).max())
    return _librosa_mel(voice * np.float32(gain), "constant")


def librosa_seed(path: str) -> Frames:
    """Preset `seed` by librosa calls: `[windows, 121, 40]`, one call for each window."""
    import librosa
    from librosa.effects import split

    samples, _ = librosa.load(path, sr=RATE_HZ)
    windows = [
        _librosa_mel(samples[first : first + _CROP], "reflect")
        for start, end in split(samples, top_db=_TOP_DB)
        for first in range(start, end - _CROP + 1, _CROP)
    ]
    return np.stack(windows) if windows else np.empty((0, 121, 40), np.float32)


def _librosa_mel(samples: Waveform, pad_mode: str) -> Frames:
    import librosa

    mel = librosa.feature.melspectrogram(
        y=samples, sr=RATE_HZ, n_fft=512, hop_length=160, win_length=400, n_mels=40, pad_mode=pad_mode
    )
    return np.asarray(np.log10(mel + np.float32(_FLOOR)).T, dtype=np.float32)


def lhotse_fbank(path: str) -> Frames:
    """Lhotse's own filterbank of the whole recording, `[frames, 40]`: no voice detection, no level."""
    from lhotse import Recording

    samples = Recording.from_file(path).load_audio()
    return np.asarray(_lhotse_extractor().extract(samples, RATE_HZ))


@functools.cache
def _lhotse_extractor() -> Any:
    import torch
    from lhotse import Fbank, FbankConfig

    torch.set_num_threads(1)
    return Fbank(FbankConfig(num_filters=40))


def rtvc(path: str) -> Frames:
    """As the encoder of Real-Time-Voice-Cloning prepares an utterance: `[frames, 40]`, power without logarithm.

    Quiet speech is raised to -30 dBFS, silences longer than 0.2 s are cut by WebRTC's voice detector, which that
    project gives its samples through `struct.pack`, number by number.
    """
    return _rtvc(path, lambda steps: struct.pack(f"{len(steps)}h", *steps))


def rtvc_array(path: str) -> Frames:
    """As `rtvc`, with the samples handed over as the bytes of the array: what a careful user would change first."""
    return _rtvc(path, lambda steps: steps.tobytes())


def _rtvc(path: str, pack: Callable[[npt.NDArray[np.int16]], bytes]) -> Frames:
    import librosa

    samples, _ = librosa.load(path, sr=RATE_HZ)
    loudness = 10 * np.log10(np.mean(np.square(samples)))
    if loudness < _LEVEL_DBFS:
        samples = samples * np.float32(10 ** ((_LEVEL_DBFS - loudness) / 20))
    voiced = _without_silence(samples, pack)
    mel = librosa.feature.melspectrogram(y=voiced, sr=RATE_HZ, n_fft=400, hop_length=160, n_mels=40)
    return np.asarray(mel.astype(np.float32).T)


def _without_silence(samples: Waveform, pack: Callable[[npt.NDArray[np.int16]], bytes]) -> Waveform:
    """Windows of 30 ms that WebRTC calls voice, smoothed over 8 of them and widened by 6."""
    import webrtcvad
    from scipy.ndimage import binary_dilation

    whole = samples[: len(samples) // _VAD_WINDOW * _VAD_WINDOW]
    steps = pack(np.round(whole * 32767).astype(np.int16))
    detector = webrtcvad.Vad(mode=3)
    size = 2 * _VAD_WINDOW
    flags = [detector.is_speech(steps[at : at + size], RATE_HZ) for at in range(0, len(steps), size)]
    padded = np.pad(np.asarray(flags, dtype=np.float64), ((_VAD_AVERAGE - 1) // 2, _VAD_AVERAGE // 2))
    smooth = np.round(np.convolve(padded, np.full(_VAD_AVERAGE, 1 / _VAD_AVERAGE), "valid")).astype(bool)
    keep = binary_dilation(smooth, np.ones(_VAD_SILENCE + 1))
    return np.asarray(whole[np.repeat(keep, _VAD_WINDOW)])


ROWS: dict[str, Callable[[str], Frames]] = {"lhotse": lhotse_fbank, "rtvc": rtvc, "rtvc array": rtvc_array}


def main() -> None:
    """First line: the paths, as JSON. Each further line names a row and a slice of them; the answer is what it took."""
    paths: list[str] = json.loads(sys.stdin.readline())
    for line in sys.stdin:
        name, first, last = json.loads(line)
        print(json.dumps(timed(functools.partial(_make_all, ROWS[name], paths[first:last]))), flush=True)


def _make_all(make: Callable[[str], Frames], paths: list[str]) -> None:
    for path in paths:
        make(path)


if __name__ == "__main__":
    main()
