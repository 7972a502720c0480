"""An encoder for other programs: a SavedModel, and LiteRT files for devices, each with what it was trained on inside.

They are compared with the network they were made of before they get their names. It must not know how it was trained.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import litert_model
import numpy as np
import saved_model
from encoder import About, Encoder, EncoderError, Values, windows

SAVED_MODEL, LITERT_FILE, INT8_FILE = "saved_model", "encoder.tflite", "encoder_int8.tflite"
NAMES = {SAVED_MODEL, LITERT_FILE, INT8_FILE}
# What 1 - cosine of an embedding and the network's may be in float32; a threshold has three digits. LiteRT's logistic
# function is an approximation: up to 3e-4 in an untrained network that is given decibels as they are, else 2e-6.
TOLERANCE = 1e-3
# Seconds of sound that forms are compared on.
_COMPARED_S = 30


@dataclass(frozen=True)
class Form:
    """One of the forms that an encoder was written in.

    Attributes:
        name: of the file or folder.
        bytes: on disk, all files of a folder together.
        difference: largest one of a number of an embedding from the network's.
        cosine_error: 1 - cosine of an embedding and the network's, the largest.
        operations: that an interpreter must know; none of a SavedModel.
    """

    name: str
    bytes: int
    difference: float
    cosine_error: float
    operations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """What `export` has written, and how far it is from the network on `compared` windows."""

    folder: Path
    about: About
    compared: int
    forms: tuple[Form, ...]

    def __str__(self) -> str:
        """For the terminal: a line for each form, and one for the operations of each LiteRT file."""
        lines = [f"{self.folder}: encoder of recipe {self.about.fingerprint[:12]}, compared on {self.compared} windows"]
        for form in self.forms:
            lines.append(
                f"{form.name}: {form.bytes:,} bytes, embeddings differ by {form.difference:.1e} at most, "
                f"cosines by {form.cosine_error:.1e}"
            )
            if form.operations:
                lines.append(f"  operations: {' '.join(form.operations)}")
        return "\n".join(lines)


def export(encoder_folder: str | Path, output: str | Path, quantize: bool = False) -> Exported:
    """Writes `saved_model/` and `encoder.tflite` into a folder; `quantize` adds `encoder_int8.tflite`.

    A folder that an export has written is replaced. All is written and compared beside it first, so one that fails
    leaves what was there.

    Raises:
        EncoderError: no encoder there, the output holds other files, or a form does not compute what the network does.
    """
    encoder, output = Encoder.load(encoder_folder), Path(output)
    _check_output(output)
    compared = _windows_of(encoder.about)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as aside:
        new = Path(aside) / "new"
        new.mkdir()
        forms = _write(encoder, new, quantize, compared)
        if output.exists():
            output.rename(Path(aside) / "old")
        new.rename(output)
    return Exported(output, encoder.about, len(compared), forms)


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise EncoderError(f"{output} cannot be written: expected a folder, got a file. Give another --output")
    others = sorted(path.name for path in output.iterdir() if path.name not in NAMES) if output.exists() else []
    if others:
        raise EncoderError(
            f"{output} cannot be written: expected a new folder or one of an earlier export, got one that holds "
            f"{', '.join(others[:3])}. Give another --output"
        )


def _write(encoder: Encoder, folder: Path, quantize: bool, compared: Values) -> tuple[Form, ...]:
    network, about = encoder.network, encoder.about
    expected = np.asarray(network.predict_on_batch(compared))
    saved_model.write(network, about, folder / SAVED_MODEL)
    forms = [_form(folder / SAVED_MODEL, np.asarray(saved_model.read(folder / SAVED_MODEL)[1](compared)), expected)]
    for name in (LITERT_FILE, INT8_FILE)[: 1 + quantize]:
        content = litert_model.convert(network, about, quantize=name == INT8_FILE)
        (folder / name).write_bytes(content)
        got = litert_model.network_of(content, name)[0](compared)
        forms.append(_form(folder / name, got, expected, tuple(litert_model.operations(content))))
    return tuple(forms)


def _form(path: Path, got: Values, expected: Values, operations: tuple[str, ...] = ()) -> Form:
    """Raises `EncoderError` for one in float32 that computes something else than the network."""
    exact, wanted = got.astype(np.float64), expected.astype(np.float64)
    cosines = (exact * wanted).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(wanted, axis=1)
    error = float(np.abs(1 - cosines).max())
    if path.name != INT8_FILE and not error <= TOLERANCE:
        raise EncoderError(
            f"{path.name} does not compute what the network does: expected cosines with its embeddings that are within "
            f"{TOLERANCE:g} of 1, got {error:g}. Nothing was written; train with the layers of build_network"
        )
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return Form(path.name, size, float(np.abs(exact - wanted).max()), error, operations)


def _windows_of(about: About) -> Values:
    """Windows `[n, crop_frames, bands]` to compare on: features of noise that rises and falls, always the same."""
    extractor, rng = about.extractor(), np.random.Generator(np.random.PCG64(0))
    rate = extractor.recipe.audio.sample_rate_hz
    seconds = np.arange(_COMPARED_S * rate) / rate
    noise = 0.1 * rng.standard_normal(len(seconds)) * (1 + np.sin(2 * np.pi * 0.7 * seconds)) / 2
    return windows(extractor(noise, rate), about.crop_frames)
