"""Writes `ge2e_transforms/codec_samples.py`: the test tone, encoded by libsndfile and FFmpeg.

Run from the folder of the repository with the extra `av`: `python tests/tools/make_codec_samples.py`. Other versions of
the encoders give other bytes; what the samples must decode to stays the same.
"""

from __future__ import annotations

import base64
import sys
import tempfile
import textwrap
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from synth import encoded, write_av  # noqa: E402

from ge2e_transforms.selftest import CODEC_RATE_HZ, tone  # noqa: E402

HEAD = '''"""A short tone in each format that a job decodes, compressed and as text, for `selftest.decode_sample`.

`selftest.tone`, 0.2 s at 16 kHz, as the bytes of a file, by zlib and Base85.
Written by `tests/tools/make_codec_samples.py`.
"""

from __future__ import annotations

SAMPLES: dict[str, str] = {
'''
FORMATS = {"WAV": ("WAV", "PCM_16"), "FLAC": ("FLAC", "PCM_16"), "Vorbis": ("OGG", "VORBIS"), "Opus": ("OGG", "OPUS")}


def content() -> dict[str, bytes]:
    samples = tone()
    made = {name: encoded(samples, CODEC_RATE_HZ, *kind) for name, kind in {**FORMATS, "MP3": ("MP3", None)}.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = write_av(Path(folder) / "tone.m4a", (samples / 32768).astype(np.float32), CODEC_RATE_HZ)
        return {**made, "AAC": path.read_bytes()}


def main() -> None:
    lines = [HEAD]
    for name, data in content().items():
        text = base64.b85encode(zlib.compress(data, 9)).decode()
        lines.append(f'    "{name}": (\n')
        lines += [f'        "{line}"\n' for line in textwrap.wrap(text, 110, break_on_hyphens=False)]
        lines.append("    ),\n")
    (ROOT / "ge2e_transforms" / "codec_samples.py").write_text("".join([*lines, "}\n"]), encoding="utf-8")


if __name__ == "__main__":
    main()
