"""Synthetic audio for all tests: tones, speech-like voices, files of any format, and a small corpus.

Everything follows from its arguments: the same call gives the same samples.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

Samples = npt.NDArray[np.float32]


def tone(freq: float, seconds: float, rate: int = 16000, level: float = 0.5) -> Samples:
    """A sine, `[round(seconds * rate)]` float32."""
    time = np.arange(round(seconds * rate)) / rate
    return np.asarray(level * np.sin(2 * np.pi * freq * time), dtype=np.float32)


def speechlike(seed: int, seconds: float, rate: int = 16000, pitch_hz: float | None = None) -> Samples:
    """Voiced bursts of 0.2 to 0.6 s with pauses of 60 to 300 ms: `[round(seconds * rate)]` float32, peak 0.4.

    A burst is a gliding pitch with harmonics under a formant-like envelope that changes from burst to burst;
    pauses hold faint noise, 60 dB below. `pitch_hz` makes the voice; by default it follows from the seed.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    pitch = rng.uniform(90, 240) if pitch_hz is None else pitch_hz
    samples = 4e-4 * rng.standard_normal(round(seconds * rate))
    at = round(rng.uniform(0.02, 0.1) * rate)
    while at < len(samples):
        length = min(round(rng.uniform(0.2, 0.6) * rate), len(samples) - at)
        samples[at : at + length] += _burst(rng, length, rate, pitch)
        at += length + round(rng.uniform(0.06, 0.3) * rate)
    return np.asarray(0.4 * samples / np.abs(samples).max(), dtype=np.float32)


def _burst(rng: np.random.Generator, length: int, rate: int, pitch: float) -> npt.NDArray[np.float64]:
    glide = np.linspace(rng.uniform(0.9, 1.1), rng.uniform(0.85, 1.05), length)
    phase = 2 * np.pi * np.cumsum(pitch * glide) / rate
    formants = rng.uniform((300, 900, 2200), (800, 2000, 3200))
    sound = np.zeros(length)
    for harmonic in range(1, int(min(4000, 0.45 * rate) / (1.1 * pitch)) + 1):
        weight = np.exp(-(((harmonic * pitch - formants) / 250) ** 2)).sum() + 0.02
        sound += weight / harmonic**0.5 * np.sin(harmonic * phase)
    return sound * np.hanning(length) ** 0.5


def write(path: Path, samples: npt.ArrayLike, rate: int, format: str | None = None, subtype: str | None = None) -> Path:
    """A file written by libsndfile; the format follows from the ending unless given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(samples, rate, format or path.suffix[1:].upper(), subtype))
    return path


def encoded(samples: npt.ArrayLike, rate: int, format: str = "WAV", subtype: str | None = None) -> bytes:
    """What `write` writes, as bytes."""
    values = np.asarray(samples)
    buffer = io.BytesIO()
    channels = 1 if values.ndim == 1 else values.shape[1]
    with soundfile.SoundFile(buffer, "w", rate, channels, subtype, format=format) as file:
        # Block by block: libsndfile keeps what it is given on the stack when it writes Vorbis.
        for start in range(0, len(values), rate):
            file.write(values[start : start + rate])
    return buffer.getvalue()


def write_av(path: Path, samples: Samples, rate: int, codec: str = "aac") -> Path:
    """A mono or `[n, channels]` file written by PyAV in the container of the ending, such as .m4a or .webm."""
    import av

    planar = np.ascontiguousarray(np.atleast_2d(samples.T), dtype=np.float32)
    layout = {1: "mono", 2: "stereo"}[len(planar)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(planar, format="fltp", layout=layout)
        frame.sample_rate = rate
        fitted = av.AudioResampler(format=stream.format, layout=layout, rate=stream.rate).resample(frame)
        for piece in (*fitted, None):
            container.mux(stream.encode(piece))
    return path


def small_corpus(
    folder: Path,
    speakers: int = 4,
    utterances: int = 3,
    seconds: float = 2.0,
    rate: int = 16000,
    sessions: int = 2,
    test_speakers: int = 0,
) -> Path:
    """WAV files `folder/spk00/utt00.wav` of voices of their own pitch, and the path of their manifest.

    Columns: audio_path, speaker_id, source, session_id; with `test_speakers` also split, where the last so
    many speakers are 'test' and the others 'train'.
    """
    columns = ["audio_path", "speaker_id", "source", "session_id"] + ["split"] * (test_speakers > 0)
    rows: list[list[str]] = []
    for speaker in range(speakers):
        pitch = 90 * 2 ** (1.5 * speaker / speakers)
        for index in range(utterances):
            path = f"spk{speaker:02d}/utt{index:02d}.wav"
            samples = speechlike(1000 * speaker + index, seconds + 0.25 * (index % 3), rate, pitch)
            write(folder / path, samples, rate, subtype="PCM_16")
            split = "test" if speaker >= speakers - test_speakers else "train"
            rows.append([path, f"spk{speaker:02d}", "synth", f"s{index % sessions}", split][: len(columns)])
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return manifest
