"""Folders of speech to manifest rows: one scanner per corpus, and one for any tree that a pattern describes.

A scanner gives its rows in sorted order of their paths, with absolute paths and file sizes, and ends with a
warning about audio that it left out, or with an error that shows what it found if nothing fits.

Speaker ids count in the namespace of their population: corpora that share speakers share one.

It must not open a recording: names and tables tell all.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ge2e_transforms.corpus_kinds import NO_SPLITS, OF_TREES, SOURCE, CorpusKind
from ge2e_transforms.errors import DataError, ManifestError
from ge2e_transforms.list_files import table
from ge2e_transforms.tree_scan import File, folder_of, matches
from ge2e_transforms.utterance import Utterance, check_utterance

_log = logging.getLogger(__name__)

_LIBRISPEECH_PATTERN = "{subset}/{speaker}/{session}/{speaker}-{session}-{any}.flac"
_LIBRITTS_PATTERN = "{subset}/{speaker}/{session}/{speaker}_{session}_{any}.wav"
_VOXCELEB_PATTERNS = tuple(f"{{speaker}}/{{session}}/{{utterance}}{ending}" for ending in (".wav", ".m4a", ".flac"))
_VOXCELEB_SET = re.compile(r"(?:vox[12]_)?(dev|test)(?:_(?:wav|aac))?")
_VCTK_PATTERN = "{speaker}/{speaker}_{utterance}_mic{session}.flac"
_VCTK_FOLDER = "wav48_silence_trimmed"
# Names that a message lists.
_SHOWN = 10


def librispeech(
    root: str | Path, splits: Mapping[str, str] | None = None, namespace: str = "libri"
) -> Iterator[Utterance]:
    """Rows of LibriSpeech: `<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac`.

    The session is the chapter, the utterance id the file's stem. LibriTTS is cut from the same recordings, so both
    count in the namespace 'libri'.

    Args:
        root: the folder of the subsets, the folder that `LibriSpeech/` was unpacked in, or one subset.
        splits: split of each subset, subsets that are not in it are left to be drawn; None, by the subsets'
            names: train*, dev* (split 'valid') and test* share no speaker, by design of the corpus.
        namespace: what speaker ids count in.

    Raises:
        ManifestError: no such folder, or no file in it fits.
    """
    return _libri(root, "LibriSpeech", _LIBRISPEECH_PATTERN, splits, namespace)


def libritts(
    root: str | Path, splits: Mapping[str, str] | None = None, namespace: str = "libri"
) -> Iterator[Utterance]:
    """Rows of LibriTTS, as `librispeech`: `<subset>/<speaker>/<chapter>/<speaker>_<chapter>_<part>_<number>.wav`."""
    return _libri(root, "LibriTTS", _LIBRITTS_PATTERN, splits, namespace)


def _libri(
    root: str | Path, name: str, layout: str, splits: Mapping[str, str] | None, namespace: str
) -> Iterator[Utterance]:
    folder = folder_of(root)
    if (folder / name).is_dir():
        folder = folder / name
    one_subset = any(child.name.isdigit() and child.is_dir() for child in folder.iterdir())
    for file, fields in matches(folder, [layout.removeprefix("{subset}/") if one_subset else layout]):
        subset = fields.get("subset", folder.name)
        yield Utterance(
            audio_path=f"{folder}/{file.path}",
            speaker_id=fields["speaker"],
            namespace=namespace,
            utterance_id=Path(file.path).stem,
            source=name.lower(),
            subset=subset,
            split=_split_by_name(subset) if splits is None else splits.get(subset, ""),
            session_id=fields["session"],
            bytes=file.size,
        )


def _split_by_name(subset: str) -> str:
    starts = {"train": "train", "dev": "valid", "test": "test"}
    return next((split for start, split in starts.items() if subset.startswith(start)), "")


def voxceleb(
    root: str | Path, version: int, table_path: str | Path = "", splits: bool = True, namespace: str = "voxceleb"
) -> Iterator[Utterance]:
    """Rows of VoxCeleb 1 or 2: `<speaker>/<video>/<number>` as .wav, .m4a or .flac, below any folders.

    The session is the video, the utterance id `<video>/<number>`; of an utterance that is there in two formats the
    first by path is taken. The set (dev, which is split 'train', or test) is that of the identity table, else the one
    that a folder above names: `dev/wav`, `vox1_test_wav/wav`, `dev/aac`.

    Args:
        root: a folder with the sets, one of them, or their `wav` or `aac`.
        version: 1 or 2, for the name of the source; no speaker is in both, and ids are of one population.
        table_path: `vox1_meta.csv` or `vox2_meta.csv` as published, tab or comma separated; '' takes one of that name
            that lies in the root.
        splits: False leaves the splits to be drawn.
        namespace: what speaker ids count in.

    Raises:
        ManifestError: no such folder, no file in it fits, or the table cannot be used.
    """
    folder = folder_of(root)
    default = folder / f"vox{version}_meta.csv"
    sets = _identities(table_path or default) if table_path or default.is_file() else {}
    seen: set[tuple[str, str]] = set()
    doubled = without = 0
    unknown: set[str] = set()
    for file, fields in matches(folder, _VOXCELEB_PATTERNS, anywhere=True, forms={"speaker": r"id\d{5}"}):
        speaker, utterance = fields["speaker"], f"{fields['session']}/{fields['utterance']}"
        if (speaker, utterance) in seen:
            doubled += 1
            continue
        seen.add((speaker, utterance))
        above = [folder.name, *fields["above"].split("/")]
        found = [match[1] for match in map(_VOXCELEB_SET.fullmatch, above) if match]
        subset = sets.get(speaker) or (found[-1] if found else "")
        unknown |= {speaker} if sets and speaker not in sets else set()
        without += not subset
        yield Utterance(
            audio_path=f"{folder}/{file.path}",
            speaker_id=speaker,
            namespace=namespace,
            utterance_id=utterance,
            source=f"voxceleb{version}",
            subset=subset,
            split={"dev": "train", "test": "test"}.get(subset, "") if splits else "",
            session_id=fields["session"],
            bytes=file.size,
        )
    _tell_voxceleb(folder, default.name, doubled, without if splits else 0, unknown)


def _tell_voxceleb(folder: Path, name: str, doubled: int, without: int, unknown: set[str]) -> None:
    if doubled:
        _log.warning("%s: %d utterances are there in two formats, of which one is taken", folder, doubled)
    if unknown:
        _log.warning("%s: %d speakers are not in the identity table, first %s", folder, len(unknown), min(unknown))
    if without:
        _log.warning(
            "%s: %d rows get no split, as no folder is named dev or test: give the root that holds them, or the "
            "identity table %s by --table",
            *(folder, without, name),
        )


def _identities(path: str | Path) -> dict[str, str]:
    """Set of each speaker, from the columns `VoxCeleb? ID` and `Set`."""
    found: dict[str, str] = {}
    for where, row in table(path, "\t,", ["Set"]):
        speaker = next((text for name, text in row.items() if name.startswith("VoxCeleb")), "")
        if not re.fullmatch(r"id\d{5}", speaker) or row["Set"] not in ("dev", "test"):
            raise ManifestError(
                f"{where}: expected an id such as id10001 under 'VoxCeleb1 ID' or 'VoxCeleb2 ID' and dev or test under "
                f"'Set', got {speaker!r} and {row['Set']!r}"
            )
        if speaker in found:
            raise ManifestError(f"{where}: {speaker} stands here for the second time")
        found[speaker] = row["Set"]
    return found


def vctk(root: str | Path, mic: int = 1, namespace: str = "vctk") -> Iterator[Utterance]:
    """Rows of VCTK 0.92: `wav48_silence_trimmed/<speaker>/<speaker>_<number>_mic<1 or 2>.flac`.

    Both microphones heard the same utterance, so one is taken and the id `<speaker>_<number>` does not name it.
    Speakers that the other microphone alone recorded (p280 has no mic2) are told. Transcripts are not needed: p315 has
    none.

    Args:
        root: the unpacked corpus, the folder that it was unpacked in, or `wav48_silence_trimmed`.
        mic: 1 or 2.
        namespace: what speaker ids count in.

    Raises:
        ManifestError: no such folder, no file in it fits, or none of this microphone.
    """
    folder = folder_of(root)
    folder = next(
        (path for path in (folder / _VCTK_FOLDER, folder / "VCTK-Corpus-0.92" / _VCTK_FOLDER) if path.is_dir()), folder
    )
    speakers: dict[str, Counter[str]] = defaultdict(Counter)
    for file, fields in matches(folder, [_VCTK_PATTERN], forms={"session": "[12]"}):
        speaker = fields["speaker"]
        speakers[speaker][fields["session"]] += 1
        if fields["session"] == str(mic):
            yield Utterance(
                audio_path=f"{folder}/{file.path}",
                speaker_id=speaker,
                namespace=namespace,
                utterance_id=f"{speaker}_{fields['utterance']}",
                source="vctk",
                subset=f"mic{mic}",
                bytes=file.size,
            )
    missing = sorted(speaker for speaker, mics in speakers.items() if str(mic) not in mics)
    if len(missing) == len(speakers):
        raise ManifestError(f"{folder}: no recording of mic{mic}, only of mic{3 - mic}: take --mic {3 - mic}")
    if missing:
        names = ", ".join(missing[:_SHOWN])
        _log.warning(
            "%s: %d speakers were not recorded by mic%d and are left out: %s", folder, len(missing), mic, names
        )


def pattern(root: str | Path, pattern: str, source: str = "", namespace: str = "") -> Iterator[Utterance]:
    """Rows of any tree whose paths below `root` fit a pattern, such as `{speaker}/{session}/{utterance}.wav`.

    A field stands for one or more characters of one component, as few as will do: `{speaker}_{any}.wav` takes
    the speaker up to the first '_'. `*` stands for any characters or none. A field that comes twice must be
    the same twice, except {any}, which is not used. Names that begin with '.' are skipped, as by a shell.

    Args:
        root: the folder that the paths are relative to.
        pattern: needs {speaker}; may have {session}, {utterance}, {subset}, {split}, {source} and {any}.
        source: name of the corpus; by default the folder's name, so that speakers of two corpora never merge.
        namespace: what speaker ids count in; by default the source.

    The utterance id is `session/utterance`, as numbers often start again in every session; without
    {utterance} it is the path without its ending.

    Raises:
        ManifestError: the pattern cannot be used, no such folder, no file fits, or a folder's name cannot be a
            split or a source.
    """
    folder = folder_of(root)
    if source and "{source}" in pattern:
        raise ManifestError(f"source {source!r} and {{source}} in the pattern {pattern!r}: expected one of them")
    for file, fields in matches(folder, [pattern]):
        row = _row(folder, file, fields, source, namespace)
        try:
            check_utterance(row)
        except DataError as error:
            raise ManifestError(f"{row.audio_path}, by the pattern {pattern!r}: {error}") from error
        yield row


def _row(folder: Path, file: File, fields: Mapping[str, str], source: str, namespace: str) -> Utterance:
    source = fields.get("source") or source or folder.name
    session = fields.get("session", "")
    utterance = fields.get("utterance", "")
    name = f"{session}/{utterance}" if session and utterance else utterance or os.path.splitext(file.path)[0]  # noqa: PTH122
    return Utterance(
        audio_path=f"{folder}/{file.path}",
        speaker_id=fields["speaker"],
        namespace=namespace or source,
        utterance_id=name,
        source=source,
        subset=fields.get("subset", ""),
        split=fields.get("split", ""),
        session_id=session,
        bytes=file.size,
    )


def _libri_kind(title: str, scan: Callable[..., Iterator[Utterance]]) -> CorpusKind:
    name = title.lower()
    notes = (
        f"train-*, dev-* and test-* become the splits train, valid and test. Namespace: libri.\n\nexamples:\n"
        f"  ge2e manifest {name} /corpora/{title} -o {name}.csv\n"
        f"  ge2e manifest {name} /corpora/{title}/train-clean-100 --no_splits -o part.csv.gz\n"
        f"  ge2e manifest {name} /corpora/{title} --subset train-clean-100 --limit_speakers 100 -o trial.csv\n"
    )
    return CorpusKind(
        *(name, f"{title} as it is unpacked", notes),
        lambda given: scan(given.root, {} if given.no_splits else None, given.namespace or "libri"),
        {**OF_TREES, **NO_SPLITS},
    )


def _voxceleb_kind(version: int, form: str) -> CorpusKind:
    notes = f"""\
ROOT holds dev/{form[:3]}/<speaker>/<video>/<number>, and test likewise; one of these folders will do. The video is the
session. dev becomes the split train, test the split test. Namespace: voxceleb, of both versions.

examples:
  ge2e manifest voxceleb{version} /corpora/VoxCeleb{version} -o vox{version}.csv
  ge2e manifest voxceleb{version} /corpora/VoxCeleb{version} --table vox{version}_meta.csv --headers -o vox{version}.csv
"""
    table = f"identity table that says who is dev and test (default: ROOT/vox{version}_meta.csv, if it is there)"
    return CorpusKind(
        *(f"voxceleb{version}", f"VoxCeleb{version}: {form}", notes),
        lambda given: voxceleb(given.root, version, given.table, not given.no_splits, given.namespace or "voxceleb"),
        {**OF_TREES, "--table": {"default": "", "metavar": "FILE", "help": table}, **NO_SPLITS},
    )


_VCTK_NOTES = """\
Namespace: vctk. The corpus has no splits.

examples:
  ge2e manifest vctk /corpora/VCTK-Corpus-0.92 -o vctk.csv
  ge2e manifest vctk /corpora/VCTK-Corpus-0.92 --mic 2 -o vctk-mic2.csv
"""
_MIC = {"type": int, "choices": (1, 2), "default": 1, "help": "which microphone (default: 1)"}
_PATTERN_NOTES = """\
fields: {speaker} (needed), {session}, {utterance}, {subset}, {split}, {source}, and {any} for what does not
matter; * stands for any characters within a name. A field takes as few characters as will do. Namespace: the source.

examples:
  ge2e manifest pattern /corpora/mine --pattern '{speaker}/{session}/{utterance}.wav' -o mine.csv
  ge2e manifest pattern /corpora/calls --source calls --pattern '*/{speaker}/{utterance}_left.flac' -o calls.csv
"""
_PATTERN = {"required": True, "help": "paths below ROOT, such as '{speaker}/{utterance}.wav'"}

KINDS = (
    _libri_kind("LibriSpeech", librispeech),
    _libri_kind("LibriTTS", libritts),
    _voxceleb_kind(1, "wav"),
    _voxceleb_kind(2, "aac (.m4a, which needs PyAV) or wav"),
    CorpusKind(
        *("vctk", "VCTK 0.92: wav48_silence_trimmed", _VCTK_NOTES),
        lambda given: vctk(given.root, given.mic, given.namespace or "vctk"),
        {**OF_TREES, "--mic": _MIC},
    ),
    CorpusKind(
        *("pattern", "any tree of files, by a pattern of their paths", _PATTERN_NOTES),
        lambda given: pattern(given.root, given.pattern, given.source, given.namespace),
        {**OF_TREES, "--pattern": _PATTERN, **SOURCE},
    ),
)
