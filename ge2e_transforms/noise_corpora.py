"""Corpora of noise, music and rooms that speech is augmented with, to manifest rows: MUSAN and RIRS_NOISES.

Most of it is nobody's voice, so what stands for a speaker is what must not lie in two splits: a room, or one recording.
It must not know how anything is mixed in.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ge2e_transforms.corpus_kinds import OF_TREES, CorpusKind
from ge2e_transforms.errors import ManifestError
from ge2e_transforms.list_files import Place, text_lines
from ge2e_transforms.tree_scan import File, folder_of, matches
from ge2e_transforms.utterance import NO_ID, Utterance, shown

_log = logging.getLogger(__name__)

_MUSAN_PATTERN = "{subset}/{session}/{speaker}.wav"
_SIMULATED_PATTERN = "simulated_rirs/{subset}/{speaker}/{speaker}-{any}.wav"
_REAL, _POINT_SOURCES = "real_rirs_isotropic_noises", "pointsource_noises"
_RIRS_PATTERNS = (_SIMULATED_PATTERN, f"{_REAL}/{{speaker}}.wav", f"{_POINT_SOURCES}/{{speaker}}.wav")
# Responses and noises of real rooms lie in one folder. Each list there, the subset of what it names, and the option
# that gives the room, as Kaldi's reverberate_data_dir.py reads them.
_LISTS = (("rir_list", "real", "--room-id"), ("noise_list", "isotropic", "--room-linkage"))
# The third word of the published names: RVB2014_type1_rir_largeroom1_near_angla, air_type1_air_phone_stairway1_hfrp,
# RWCP_type5_noise_cirline_ofc_ambient1. All that the Aachen database (air) gave are responses.
_WORD = re.compile(r"[^_]+_type\d+_(rir|air|noise)_")
_SUBSET_OF_WORD = {"rir": "real", "air": "real", "noise": "isotropic"}
# Of an array one microphone is taken: the mean of a response's channels is the response of no place in the room, and
# that of a noise's channels is a beam, in which what comes from the sides is weaker.
_REAL_CHANNEL = 0
# Names that a message lists.
_SHOWN = 3


class _Listed(NamedTuple):
    """What the lists of real rooms say of a recording; `place` is for messages."""

    subset: str
    room: str
    place: Place


def musan(root: str | Path, namespace: str = "musan") -> Iterator[Utterance]:
    """Rows of MUSAN (OpenSLR 17): `<noise, music or speech>/<collection>/<name>.wav`.

    The subset is noise, music or speech, the session the collection (`free-sound`, `librivox`), and each recording a
    speaker of its own, as nobody says who is heard.

    Args:
        root: the folder `musan`, or the one that it was unpacked in.
        namespace: what speaker ids count in.

    Raises:
        ManifestError: no such folder, or no file in it fits.
    """
    folder = _unpacked(root, "musan")
    for file, fields in matches(folder, [_MUSAN_PATTERN], forms={"subset": "noise|music|speech"}):
        yield Utterance(
            audio_path=f"{folder}/{file.path}",
            speaker_id=fields["speaker"],
            namespace=namespace,
            utterance_id=fields["speaker"],
            source="musan",
            subset=fields["subset"],
            session_id=fields["session"],
            bytes=file.size,
        )


def rirs(root: str | Path, namespace: str = "rirs_noises") -> Iterator[Utterance]:
    """Rows of RIRS_NOISES (OpenSLR 28): responses of simulated and of real rooms, and noises.

    | subset | what | speaker |
    |---|---|---|
    | smallroom, mediumroom, largeroom | `simulated_rirs/<subset>/<room>/<room>-<number>.wav` | `<subset>-<room>` |
    | real | responses in `real_rirs_isotropic_noises`, channel 0 | `--room-id` |
    | isotropic | noises there, channel 0; the session is the room that they were recorded in | the recording |
    | pointsource | noises in `pointsource_noises` | the recording |

    What of real rooms is a response and what a noise is said by `rir_list` and `noise_list` in their folder, of which
    only the names of files count, so the folder may have been moved. A recording that neither names is taken by its own
    name, if that has the published form, and a response then is a room of its own; any other is left out, since speech
    convolved with a noise is spoilt and nothing would tell. Warnings say how many there were of both. Simulated rooms
    and point sources need no list: their folders say all.

    Args:
        root: the folder `RIRS_NOISES`, or the one that it was unpacked in.
        namespace: what speaker ids count in.

    Raises:
        ManifestError: no such folder, no file in it fits, a line of a list cannot be used, lists contradict each other,
            or nothing tells what any recording is.
    """
    folder = _unpacked(root, "RIRS_NOISES")
    listed = _listed(folder / _REAL)
    there: set[str] = set()
    by_name: list[str] = []
    left_out: list[str] = []
    count = 0
    for file, fields in matches(folder, _RIRS_PATTERNS, forms={"subset": "smallroom|mediumroom|largeroom"}):
        by_path = _rirs_row(folder, file, fields, namespace)
        part, _, name = file.path.partition("/")
        row = by_path if part != _REAL else _of_real_room(by_path, listed.get(name))
        if part == _REAL:
            there.add(name)
            if name not in listed:
                (left_out if row is None else by_name).append(name)
        if row is not None:
            count += 1
            yield row
    if not count:
        raise ManifestError(_nothing_told(folder / _REAL, left_out))
    _tell(folder / _REAL, by_name, left_out, sorted(listed.keys() - there))


def _unpacked(root: str | Path, name: str) -> Path:
    folder = folder_of(root)
    return folder / name if (folder / name).is_dir() else folder


def _rirs_row(folder: Path, file: File, fields: Mapping[str, str], namespace: str) -> Utterance:
    """A row by the path alone, which says all but what a recording of a real room is."""
    return Utterance(
        audio_path=f"{folder}/{file.path}",
        speaker_id=f"{fields['subset']}-{fields['speaker']}" if "subset" in fields else fields["speaker"],
        namespace=namespace,
        utterance_id=Path(file.path).stem,
        source="rirs_noises",
        subset=fields.get("subset", "pointsource"),
        bytes=file.size,
    )


def _listed(folder: Path) -> dict[str, _Listed]:
    """What the lists of real rooms say, by the name of each file."""
    found: dict[str, _Listed] = {}
    for list_name, subset, option in _LISTS:
        path = folder / list_name
        for place, line in text_lines(path) if path.exists() else ():
            name, room = _name_and_room(place, line, option)
            before = found.setdefault(name, _Listed(subset, room, place))
            if before[:2] != (subset, room):
                raise ManifestError(
                    f"{place}: {shown(name)} is {subset}, of the room {shown(room)}, and in {before.place} "
                    f"{before.subset}, of {shown(before.room)}: expected one of them"
                )
    return found


def _name_and_room(place: Place, line: str, option: str) -> tuple[str, str]:
    """The name of the file at the end of a line, and the room that an option gives.

    A response without a room is refused; noises may have none.
    """
    *words, location = line.split()
    options = dict(zip(words[::2], words[1::2], strict=False))
    name = location.rpartition("/")[2]
    if (
        len(words) % 2
        or not all(word.startswith("--") for word in options)
        or any(word.startswith("--") for word in options.values())
        or not name.endswith(".wav")
        or (option == "--room-id" and option not in options)
        or NO_ID.search(options.get(option, ""))
    ):
        raise ManifestError(
            f"{place}: expected options with their values, such as {option} ROOM, and at the end the path of a .wav "
            f"file, got {shown(line)}"
        )
    return name, options.get(option, "")


def _of_real_room(row: Utterance, entry: _Listed | None) -> Utterance | None:
    """The row of a response or noise of a real room, by its list or else its name; None if neither says what it is."""
    if entry is not None:
        subset, room = entry.subset, entry.room
    else:
        word = _WORD.match(row.utterance_id)
        if word is None:
            return None
        subset, room = _SUBSET_OF_WORD[word[1]], ""
    row = row._replace(subset=subset, channel=_REAL_CHANNEL)
    return row._replace(speaker_id=room or row.speaker_id) if subset == "real" else row._replace(session_id=room)


def _nothing_told(folder: Path, left_out: Sequence[str]) -> str:
    return (
        f"{folder}: nothing tells responses from noises among its {len(left_out)} recordings, first "
        f"{_first(left_out)}: expected rir_list and noise_list as published, or names such as "
        "RVB2014_type1_rir_largeroom1_near_angla.wav and RVB2014_type1_noise_largeroom1_1.wav"
    )


def _tell(folder: Path, by_name: Sequence[str], left_out: Sequence[str], absent: Sequence[str]) -> None:
    missing = " and ".join(name for name, *_ in _LISTS if not (folder / name).exists())
    lists = f"no list ({missing} not there)" if missing else "no list"
    for names, fate in (
        (by_name, "taken by their names, each response as a room of its own"),
        (left_out, "left out, as their names do not tell responses from noises"),
    ):
        if names:
            told = _first(names)
            _log.warning("%s: %d recordings are in %s and are %s, first %s", folder, len(names), lists, fate, told)
    if absent:
        _log.warning("%s: %d listed recordings are not there, first %s", folder, len(absent), _first(absent))


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(ascii, names[:_SHOWN]))


_MUSAN_NOTES = """\
Subsets: noise, music, and speech, of which babble is made. The session is the collection; each recording is
a speaker of its own. Namespace: musan.

examples:
  ge2e manifest musan /corpora/musan --headers -o musan.csv
  ge2e manifest musan /corpora/musan --subset noise --subset music -o musan.csv
"""
_RIRS_NOTES = """\
Subsets: smallroom, mediumroom and largeroom (simulated rooms), real (responses of real rooms, channel 0), isotropic
(noises of real rooms, channel 0) and pointsource (noises). For the speaker stands the room, for noises the recording.
Namespace: rirs_noises.

examples:
  ge2e manifest rirs /corpora/RIRS_NOISES -o rirs.csv
  ge2e manifest rirs /corpora/RIRS_NOISES --subset smallroom --subset mediumroom --max_utterances 10 -o rooms.csv
"""

KINDS = (
    CorpusKind(
        *("musan", "MUSAN (OpenSLR 17): noise, music and speech for augmentation", _MUSAN_NOTES),
        lambda given: musan(given.root, given.namespace or "musan"),
        OF_TREES,
    ),
    CorpusKind(
        *("rirs", "RIRS_NOISES (OpenSLR 28): rooms and noises for augmentation", _RIRS_NOTES),
        lambda given: rirs(given.root, given.namespace or "rirs_noises"),
        OF_TREES,
    ),
)
