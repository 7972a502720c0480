"""Kaldi data directories, and what wespeaker keeps in the same form, to manifest rows.

Times are seconds. It must not run or open what a list names: `wav.scp` may hold commands, which are refused with the
line that holds the first.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from ge2e_transforms.corpus_kinds import OF_LISTS, CorpusKind, list_options
from ge2e_transforms.errors import ManifestError
from ge2e_transforms.list_files import UNSAID, ListOptions, Place, checked, placed, seconds, text_lines
from ge2e_transforms.utterance import Utterance, shown

_log = logging.getLogger(__name__)

# A position in an archive of Kaldi's own form, as features and some audio are kept: `some.ark:1234`.
_ARK = re.compile(r".*\.ark(?:\.gz)?:\d+(?:\[.*\])?", re.IGNORECASE | re.DOTALL)


def kaldi(folder: str | Path, options: ListOptions = UNSAID) -> Iterator[Utterance]:
    """Rows of a data directory, in the order of `utt2spk`.

    `wav.scp` has a path for each recording, `utt2spk` (or `spk2utt`) the speaker of each utterance. With `segments`
    (`utterance recording start end`, in seconds, an end of -1 being that of the recording) an utterance is a piece of a
    recording, else it is the recording of its name. `utt2dur` and `reco2dur` give lengths where they are there.

    Args:
        folder: the data directory.
        options: among them the root: the folder that the recipe ran in.

    Raises:
        ManifestError: a file is missing, or a line of it cannot be used: a command, a place in an ark, an id that
            stands twice, a number that is none.
    """
    data = Path(folder)
    if not data.is_dir():
        raise ManifestError(f"{folder} is no folder: expected a Kaldi data directory, with wav.scp and utt2spk in it")
    return checked(_rows(data, options), "--root")


def _rows(data: Path, options: ListOptions) -> Iterator[Utterance]:
    like, root = options.row(data), options.root
    audio = {name: placed(plain_path(place, text), root) for name, (place, text) in _mapping(data / "wav.scp").items()}
    speakers = _mapping(data / "utt2spk") if (data / "utt2spk").exists() else _turned_round(data / "spk2utt")
    segments = _mapping(data / "segments") if (data / "segments").exists() else None
    lengths = [path for path in (data / "utt2dur", data / "reco2dur") if path.exists()]
    durations = _mapping(lengths[0]) if lengths and segments is None else {}
    without: list[str] = []
    for name, (place, speaker) in speakers.items():
        row = like._replace(speaker_id=speaker, utterance_id=name, manifest=place.path, position=place.line)
        piece = None
        if segments is not None and name in segments:
            piece = _segment(*segments[name])
        recording = name if segments is None else piece[0] if piece else ""
        if recording not in audio:
            without.append(name)
            continue
        row = row._replace(audio_path=audio[recording])
        if piece:
            row = row._replace(offset_s=piece[1], duration_s=piece[2], channel=piece[3])
        elif name in durations:
            row = row._replace(duration_s=seconds(durations[name][0], "duration", durations[name][1]) or None)
        yield row
    if without:
        kept = "segments" if segments is not None else "wav.scp"
        _log.warning(
            "%s: %d of %d utterances have no recording by %s and are left out, first %s",
            *(data, len(without), len(speakers), kept, without[0]),
        )
        if len(without) == len(speakers):
            raise ManifestError(f"{data}: no utterance of utt2spk has a recording by {kept}: expected the same ids")


def _mapping(path: Path) -> dict[str, tuple[Place, str]]:
    """What stands behind the first word of each line, and where."""
    found: dict[str, tuple[Place, str]] = {}
    for place, line in text_lines(path):
        name, *rest = line.split(maxsplit=1)
        if not rest:
            raise ManifestError(f"{place}: expected an id and what belongs to it, got {shown(line)}")
        if name in found:
            raise ManifestError(f"{place}: {shown(name)} stands in line {found[name][0].line} too: expected it once")
        found[name] = place, rest[0].strip()
    return found


def _turned_round(path: Path) -> dict[str, tuple[Place, str]]:
    found: dict[str, tuple[Place, str]] = {}
    for speaker, (place, names) in _mapping(path).items():
        for name in names.split():
            if name in found:
                raise ManifestError(f"{place}: {shown(name)} is an utterance of line {found[name][0].line} too")
            found[name] = place, speaker
    return found


def plain_path(place: Place, text: str) -> str:
    """The text, if it is a path.

    Raises:
        ManifestError: it is a command, a place in an ark, or a name that only a shell knows.
    """
    if text.endswith("|") or text.startswith("|"):
        raise ManifestError(
            f"{place}: {shown(text)} is a command, and no command that a list names is run here: run it once for each "
            "recording, keep what it gives as a file (any format and rate will do), and name the file in its place; "
            "formats that commands convert (FLAC, SPHERE, MP3, with PyAV M4A) are read as they are"
        )
    if _ARK.fullmatch(text):
        raise ManifestError(
            f"{place}: {shown(text)} is a place in an ark, which is not read here: name files of audio "
            "(`wav-copy scp:wav.scp` writes each recording as one)"
        )
    if text == "-" or text.startswith("~"):
        raise ManifestError(
            f"{place}: {shown(text)} cannot be opened: expected the path of a file, absolute or from --root"
        )
    return text


def _segment(place: Place, text: str) -> tuple[str, float, float | None, int | None]:
    """Recording, offset, duration and channel of what stands behind an utterance in `segments`."""
    fields = text.split()
    if len(fields) not in (3, 4):
        raise ManifestError(
            f"{place}: expected utterance, recording, start, end and perhaps a channel, got {shown(text)}"
        )
    start = seconds(place, "start", fields[1])
    channel = _channel(place, fields[3]) if len(fields) == 4 else None
    if fields[2] in ("-1", "-1.0"):
        return fields[0], start, None, channel
    duration = round(seconds(place, "end", fields[2]) - start, 6)
    if duration <= 0:
        raise ManifestError(f"{place}: ends at {fields[2]} s, where it has not begun: expected an end behind the start")
    return fields[0], start, duration, channel


def _channel(place: Place, text: str) -> int:
    """A channel from 0, which Kaldi's extract-segments takes as a whole number alone."""
    if not text.isdecimal():
        raise ManifestError(f"{place}: channel={shown(text)}: expected a whole number from 0")
    return int(text)


_NOTES = """\
Commands and places in arks are refused, with the line that holds the first; nothing is run.

examples:
  ge2e manifest kaldi data/train --source callhome --split train -o callhome.csv
  ge2e manifest kaldi /egs/sre16/v2/data/train --root /egs/sre16/v2 --source sre --headers -o sre.csv
"""
_FOLDER = {"metavar": "FOLDER", "help": "with wav.scp, utt2spk or spk2utt, and perhaps segments"}

KINDS = (
    CorpusKind(
        *("kaldi", "a Kaldi data directory", _NOTES),
        lambda given: kaldi(given.folder, list_options(given)),
        {**OF_LISTS, "folder": _FOLDER},
    ),
)
