"""Makes a small corpus of synthetic speech, so that everything can be tried without any download of speech.

    python examples/demo_corpus.py demo/corpus                    # 24 voices x 8 sentences, about 18 minutes
    python examples/demo_corpus.py /tmp/tiny --voices 4 --sentences 3

espeak-ng speaks, through the PyPI package `espeakng-loader` (Linux, macOS). Files: `OUT/<speaker>/<utterance>.wav`
(22.05 kHz, 16 bit, mono), `OUT/plan.json` (who says what and how) and, last, `OUT/manifest.csv`. The same arguments
give the same bytes, and a corpus that is complete is left as it is. It must not know the pipeline: it makes what any
corpus is, files and a manifest.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import sys
import tempfile
import wave
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from ge2e_transforms.errors import ConfigError, Ge2eError
from ge2e_transforms.manifest import Utterance, read_rows, write_manifest

SAMPLE_RATE_HZ = 22050  # what espeak-ng's own voices are made at
MANIFEST = "manifest.csv"
PLAN = "plan.json"
VOICES, SENTENCES = 24, 8  # unless others are asked for

ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc", "en-gb-x-gbclan", "en-029", "en-gb-x-gbcwmd", "en")
# espeak-ng's variants that sound like people; the Klatt ones are left out, as they take their noise from C's rand().
FEMALE = ("f2", "Annie", "f4", "linda", "belinda", "f1", "steph", "Alicia", "f3", "aunty", "Andrea", "f5")
MALE = ("m3", "Michael", "m1", "Andy", "m7", "Lee", "m5", "Hugo", "edward", "m8", "boris", "Diogo")
VARIANTS = [variant for pair in zip(FEMALE, MALE, strict=True) for variant in pair]
# A sentence takes one entry of each list, of 16 entries each.
PARTS = [
    entries.split("; ")
    for entries in (
        "This morning; Last winter; After lunch; On Sunday evening; Two weeks ago; Before sunrise; Once again; "
        "As usual; During the holidays; At the end of May; Around midnight; Just in time; Some years ago; "
        "On a rainy day; Without a word; To our surprise",
        "my youngest cousin; the new teacher; our next-door neighbour; the tall baker; a friend of Julia's; "
        "our gardener; the quiet librarian; her grandfather; the whole team; a careful driver; the village doctor; "
        "his older sister; the guitar player; an unknown painter; the bus driver; the judge",
        "picked a basket of apples; repaired two broken chairs; read the yellow letter; made a pot of tea; "
        "sang a song about the sea; sold a pair of green boots; found seven silver coins; fed the hungry cats; "
        "drew a map of the island; baked bread with walnuts; waited for a phone call; planted a cherry tree; "
        "forgot a heavy umbrella; took a picture of the moon; shared a large pizza; cleaned every window",
        "behind the station; in the narrow kitchen; near the old bridge; at the edge of the forest; by the river; "
        "beside the fountain; on the third floor; under a wide roof; outside the museum; in front of the school; "
        "at the corner shop; between two hills; close to the harbour; in the back garden; across the road; "
        "on the village square",
        "because the train was late; while the children slept; and nobody noticed; before the storm began; "
        "although it was cold; until the lights went out; and told us all about it; for the first time; "
        "while we were watching; and went straight home; since there was no hurry; as the bells were ringing; "
        "and laughed out loud; without any help; just for the fun of it; although the shop was closed",
    )
]
COMBINATIONS = 16**5
STRIDE = 648_055  # odd, so that every combination is met before one comes back; of golden ratio, so neighbours differ
SENTENCES_PER_VOICE = 61  # at most, where the next voice's begin; odd, so that voices do not share their openings

# espeak-ng's speak_lib.h
_SYNCHRONOUS, _DO_NOT_EXIT, _UTF8 = 2, 0x8000, 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Line:
    """One sentence of one voice. `speed` is in words a minute; `pitch` and `pitch_range` are espeak-ng's 0 to 99."""

    speaker: str
    utterance: str
    voice: str
    speed: int
    pitch: int
    pitch_range: int
    text: str

    @property
    def audio_path(self) -> str:
        """Relative to the corpus folder, as the manifest has it."""
        return f"{self.speaker}/{self.utterance}.wav"


def sentence(number: int) -> str:
    """Sentence `number` of all that the word lists can make; different numbers below 16**5 give different ones."""
    rest = number * STRIDE % COMBINATIONS
    chosen = []
    for part in PARTS:
        rest, entry = divmod(rest, len(part))
        chosen.append(part[entry])
    opening, *others = chosen
    return f"{opening}, {' '.join(others)}."


def plan_corpus(voices: int = VOICES, sentences: int = SENTENCES) -> list[Line]:
    """Who says what: the first voices and sentences stay the same whatever the numbers are.

    Raises:
        ConfigError: more voices or sentences than there are, or none.
    """
    most = len(VARIANTS) * len(ACCENTS)
    if not 1 <= voices <= most or not 1 <= sentences <= SENTENCES_PER_VOICE:
        raise ConfigError(
            f"{voices} voices x {sentences} sentences cannot be made: "
            f"expected 1 to {most} voices and 1 to {SENTENCES_PER_VOICE} sentences"
        )
    return [_line(voice, number) for voice in range(voices) for number in range(sentences)]


def _line(voice: int, number: int) -> Line:
    variant = VARIANTS[voice % len(VARIANTS)]
    # One accent further with every round through the variants, so that no pair comes twice.
    accent = ACCENTS[(voice + voice // len(VARIANTS)) % len(ACCENTS)]
    return Line(
        speaker=f"{variant.lower()}-{voice + 1:02d}",
        utterance=f"s{number + 1:02d}",
        voice=f"{accent}+{variant}",
        # Steps through a prime number of values: no two of the first 31 voices share a speed, a pitch or a range.
        speed=155 + voice * 13 % 31,
        pitch=28 + voice * 19 % 47,
        pitch_range=35 + voice * 11 % 41,
        text=sentence(voice * SENTENCES_PER_VOICE + number),
    )


def make_corpus(out: Path, voices: int, sentences: int) -> bool:
    """Speak the corpus into `out`; False if it was there already, complete.

    Raises:
        ConfigError: numbers that cannot be made, or espeakng-loader is not installed or cannot start.
    """
    lines = plan_corpus(voices, sentences)
    if is_complete(out, lines):
        return False
    _find_espeak()
    (out / MANIFEST).unlink(missing_ok=True)
    # espeak-ng carries its state from one sentence to the next, so only a fresh process speaks the same bytes again.
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as fresh_process:
        fresh_process.submit(speak_all, out, lines).result()
    (out / PLAN).write_text(_plan_text(lines), encoding="utf-8")
    write_manifest(out / MANIFEST, [_manifest_row(out, line) for line in lines])
    return True


def is_complete(out: Path, lines: list[Line]) -> bool:
    """Whether `out` holds this very plan, a manifest, and every file with the size that the manifest states."""
    if not (out / MANIFEST).is_file() or not (out / PLAN).is_file():
        return False
    if (out / PLAN).read_text(encoding="utf-8") != _plan_text(lines):
        return False
    with (out / MANIFEST).open("rb") as stream:
        rows = [row for row in read_rows(stream, MANIFEST) if isinstance(row, Utterance)]
    return {row.audio_path: row.bytes for row in rows} == {line.audio_path: _size(out, line) for line in lines}


def _size(out: Path, line: Line) -> int:
    path = out / line.audio_path
    return path.stat().st_size if path.is_file() else -1


def _plan_text(lines: list[Line]) -> str:
    return json.dumps([asdict(line) for line in lines], indent=1) + "\n"


def _manifest_row(out: Path, line: Line) -> Utterance:
    return Utterance(
        audio_path=str(out / line.audio_path),
        speaker_id=line.speaker,
        namespace="",
        utterance_id=f"{line.speaker}-{line.utterance}",
        source="demo",
        bytes=_size(out, line),
    )


def _find_espeak() -> tuple[str, Path]:
    """Library and data folder of the installed espeak-ng."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise ConfigError(
            "the demo corpus is spoken by espeak-ng, and the package espeakng-loader is not installed in "
            f"{sys.prefix}: install it with `{sys.executable} -m pip install espeakng-loader`"
        ) from error
    return espeakng_loader.get_library_path(), Path(espeakng_loader.get_data_path())


def speak_all(out: Path, lines: list[Line]) -> None:
    """Speak every line into its file. To be called once in a process (see `make_corpus`)."""
    with tempfile.TemporaryDirectory(prefix="espeak-") as short:
        library, data = _find_espeak()
        link = Path(short, "espeak-ng-data")
        link.symlink_to(data)  # espeak-ng cuts a path of more than about 150 characters and then finds nothing
        voice = _Voice(library, link)
        for line in lines:
            path = out / line.audio_path
            path.parent.mkdir(parents=True, exist_ok=True)
            with wave.open(str(path), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(SAMPLE_RATE_HZ)
                file.writeframes(voice.speak(line))


class _Voice:
    """espeak-ng, loaded and started."""

    def __init__(self, library: str, data: Path) -> None:
        self._espeak = ctypes.CDLL(library)
        rate = self._espeak.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _DO_NOT_EXIT)
        if rate != SAMPLE_RATE_HZ:
            raise ConfigError(f"espeak-ng did not start: expected {SAMPLE_RATE_HZ} Hz, got {rate} from {library}")
        self._chunks: list[bytes] = []
        self._callback = _CALLBACK(self._receive)  # kept here: espeak-ng calls it as long as this object lives
        self._espeak.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def speak(self, line: Line) -> bytes:
        """Samples of one line, 16-bit little-endian at `SAMPLE_RATE_HZ`."""
        self._chunks.clear()
        text = line.text.encode() + b"\0"
        self._espeak.espeak_ng_SetRandSeed(ctypes.c_long(1))  # else breath and flutter follow the clock
        self._call("SetVoiceByName", line.voice.encode())
        self._call("SetParameter", _RATE, line.speed, 0)
        self._call("SetParameter", _PITCH, line.pitch, 0)
        self._call("SetParameter", _RANGE, line.pitch_range, 0)
        self._call("Synth", text, ctypes.c_size_t(len(text)), 0, 1, 0, _UTF8, None, None)
        return b"".join(self._chunks)

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._espeak, f"espeak_{name}")(*arguments)
        if status != 0:
            raise ConfigError(f"espeak-ng refused {name}{arguments}: expected status 0, got {status}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make a small corpus of synthetic speech and its manifest.")
    parser.add_argument("out", type=Path, help="folder of the corpus")
    parser.add_argument("--voices", type=int, default=VOICES, help="speakers (default: %(default)d)")
    parser.add_argument(
        "--sentences", type=int, default=SENTENCES, help="different ones of every voice (default: %(default)d)"
    )
    options = parser.parse_args(argv)
    try:
        made = make_corpus(options.out, options.voices, options.sentences)
    except Ge2eError as error:
        print(f"demo_corpus: {error}", file=sys.stderr)
        return 1
    state = "made" if made else "complete already"
    print(f"demo corpus: {options.voices} voices x {options.sentences} sentences in {options.out} ({state})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
