"""Folders of speech to manifest rows: one scanner per corpus, and one for any tree that a pattern describes.

A scanner gives its rows in sorted order of their paths, with absolute paths and file sizes, and ends with a
warning about audio that it left out, or with an error that shows what it found if nothing fits.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ge2e_transforms.errors import DataError, ManifestError
from ge2e_transforms.manifest import Utterance, check_utterance
from ge2e_transforms.utterance import NO_ID

_log = logging.getLogger(__name__)

# Endings that libsndfile or FFmpeg decode; only used to tell forgotten audio from transcripts and the like.
# fmt: off
AUDIO_ENDINGS = (
    ".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".sph",
    ".w64", ".wav", ".webm", ".wma",
)
# fmt: on
_FIELDS = ("speaker", "session", "utterance", "subset", "split", "source", "any")
_TOKEN = re.compile(r"\{([^{}]*)\}|(\*)|([^{}*]+)")
_EXAMPLES = 5

LIBRISPEECH_PATTERN = "{subset}/{speaker}/{session}/{speaker}-{session}-{any}.flac"


class _File(NamedTuple):
    path: str  # relative to the root
    size: int | None  # None: a link without an end, or no regular file


def librispeech(root: str | Path, splits: Mapping[str, str] | None = None) -> Iterator[Utterance]:
    """Rows of LibriSpeech: `<subset>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac`.

    The session is the chapter, the utterance id the file's stem, the namespace 'libri'.

    Args:
        root: the folder of the subsets, the folder that `LibriSpeech/` was unpacked in, or one subset.
        splits: split of each subset, subsets that are not in it are left to be drawn; None, by the subsets'
            names: train*, dev* (split 'valid') and test* share no speaker, by design of the corpus.

    Raises:
        ManifestError: no such folder, or no file in it fits.
    """
    folder = _folder(root)
    if (folder / "LibriSpeech").is_dir():
        folder = folder / "LibriSpeech"
    one_subset = any(child.name.isdigit() and child.is_dir() for child in folder.iterdir())
    layout = LIBRISPEECH_PATTERN.removeprefix("{subset}/") if one_subset else LIBRISPEECH_PATTERN
    for file, fields in _matches(folder, layout):
        subset = fields.get("subset", folder.name)
        yield Utterance(
            audio_path=f"{folder}/{file.path}",
            speaker_id=fields["speaker"],
            namespace="libri",
            utterance_id=Path(file.path).stem,
            source="librispeech",
            subset=subset,
            split=_split_by_name(subset) if splits is None else splits.get(subset, ""),
            session_id=fields["session"],
            bytes=file.size,
        )


def _split_by_name(subset: str) -> str:
    starts = {"train": "train", "dev": "valid", "test": "test"}
    return next((split for start, split in starts.items() if subset.startswith(start)), "")


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
    folder = _folder(root)
    if source and "{source}" in pattern:
        raise ManifestError(f"source {source!r} and {{source}} in the pattern {pattern!r}: expected one of them")
    for file, fields in _matches(folder, pattern):
        row = _row(folder, file, fields, source, namespace)
        try:
            check_utterance(row)
        except DataError as error:
            raise ManifestError(f"{row.audio_path}, by the pattern {pattern!r}: {error}") from error
        yield row


def _row(folder: Path, file: _File, fields: Mapping[str, str], source: str, namespace: str) -> Utterance:
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


def _folder(root: str | Path) -> Path:
    folder = Path(os.path.abspath(root))  # noqa: PTH100 (a link's name may be the corpus's name)
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "not there"
        raise ManifestError(f"{root} is {what}: expected the folder that holds the corpus")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ManifestError(f"{root} may not be read: expected a folder that this user may list")
    return folder


def _compile(layout: str) -> re.Pattern[str]:
    """The pattern as a regular expression for a path relative to the root."""
    components = layout.split("/")
    if {"", ".", ".."} & set(components) or "**" in layout:
        raise ManifestError(
            f"pattern {layout!r} cannot be used: expected names and fields between single '/', relative to the "
            "corpus folder, without '.', '..' and '**'; write one {any} per folder between"
        )
    seen: set[str] = set()
    regex = ""
    for name, star, text in _TOKEN.findall(layout):
        if star:
            regex += "[^/]*"
        elif text:
            regex += re.escape(text)
        elif name == "any":
            regex += "[^/]+?"
        else:
            regex += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
    return re.compile(regex, re.DOTALL)


def _matches(folder: Path, layout: str) -> Iterator[tuple[_File, dict[str, str]]]:
    _check_fields(layout)
    regex = _compile(layout)
    fits = 0
    others: list[str] = []
    others_count = 0
    for file in _files(str(folder), "", layout.count("/"), frozenset()):
        match = regex.fullmatch(file.path) if file.size is not None and not NO_ID.search(file.path) else None
        if match:
            fits += 1
            yield file, match.groupdict()
        elif file.path.lower().endswith(AUDIO_ENDINGS):
            others_count += 1
            others += [ascii(file.path)] if len(others) < _EXAMPLES else []
    if not fits:
        raise ManifestError(_nothing_fits(folder, layout, others_count, others))
    if others_count:
        _log.warning(
            "%s: %d audio files do not fit %s and are left out, first %s", folder, others_count, layout, others[0]
        )


def _check_fields(layout: str) -> None:
    names = re.findall(r"\{([^{}]*)\}", layout)
    unknown = sorted(set(names) - set(_FIELDS))
    if unknown or "speaker" not in names or re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", layout)):
        known = ", ".join(f"{{{name}}}" for name in _FIELDS)
        got = f"unknown {', '.join(unknown)}" if unknown else "no {speaker}, or a brace without its other one"
        raise ManifestError(f"pattern {layout!r} cannot be used: expected {{speaker}} and others of {known}; got {got}")


def _nothing_fits(folder: Path, layout: str, count: int, examples: list[str]) -> str:
    example = re.sub(r"\{([^{}]*)\}", lambda field: field[1].upper(), layout)
    needed = (
        f"{folder}: no file fits {layout!r}, which needs paths such as {example}, below {layout.count('/')} folder(s)"
    )
    if not count:
        return f"{needed}; there is no audio at all below it (looked for {' '.join(AUDIO_ENDINGS)}): check the folder"
    return f"{needed}. Found {count} audio files: {', '.join(examples)}{', ...' if count > len(examples) else ''}. " + (
        "Check the folder, or write the pattern so that it describes these paths"
    )


def _files(folder: str, prefix: str, depth: int, above: frozenset[tuple[int, int]]) -> Iterator[_File]:
    """All files below a folder, sorted by path components.

    Links to folders are followed as deep as the pattern reaches, never into a folder that they are in.
    """
    try:
        here = Path(folder).stat()
        with os.scandir(folder) as listing:
            entries = sorted((entry for entry in listing if entry.name[0] != "."), key=lambda entry: entry.name)
        found = [(entry, _status(entry)) for entry in entries]
    except OSError as error:
        raise ManifestError(f"{folder} cannot be listed ({error}): expected a folder that may be read") from error
    inside = above | {(here.st_dev, here.st_ino)}
    if inside == above:
        return
    for entry, status in found:
        if status is None or not stat.S_ISDIR(status.st_mode):
            size = status.st_size if status is not None and stat.S_ISREG(status.st_mode) else None
            yield _File(prefix + entry.name, size)
        elif depth > 0 or not entry.is_symlink():
            yield from _files(entry.path, f"{prefix}{entry.name}/", depth - 1, inside)


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """What is behind an entry; None behind a link that leads nowhere or to itself."""
    try:
        return entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
