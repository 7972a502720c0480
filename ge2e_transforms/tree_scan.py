"""Finds the files of a tree and matches their paths with a pattern, such as `{speaker}/{session}/{utterance}.wav`.

Files come in sorted order of their paths. Audio that does not fit is told once, at the end; if nothing fits the error
shows what was found, and the pattern that would fit it. It opens no file, and must not know one corpus from another.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ge2e_transforms.errors import ManifestError
from ge2e_transforms.pattern_proposal import proposal
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
# Paths that did not fit: as many are shown, and looked at for a pattern that would.
_EXAMPLES, _SAMPLE = 5, 1000
# Links are followed so many folders deeper where a pattern may begin anywhere.
_DEPTH_ABOVE = 4
# Of a tree that is no trap.
_MOST_FOLDERS = 200


class File(NamedTuple):
    """One file of a tree."""

    path: str  # relative to the root
    size: int | None  # None: a link without an end, or no regular file


def folder_of(root: str | Path) -> Path:
    """The folder of a corpus as an absolute path.

    Raises:
        ManifestError: it is not there, no folder, or may not be listed.
    """
    folder = Path(os.path.abspath(root))  # noqa: PTH100 (a link's name may be the corpus's name)
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "not there"
        raise ManifestError(f"{root} is {what}: expected the folder that holds the corpus")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ManifestError(f"{root} may not be read: expected a folder that this user may list")
    return folder


def matches(
    folder: Path, layouts: Sequence[str], anywhere: bool = False, forms: Mapping[str, str] | None = None
) -> Iterator[tuple[File, dict[str, str]]]:
    """The files whose paths fit one of some patterns, with the fields of the first that they fit.

    Args:
        folder: what paths are relative to.
        layouts: see `corpora.pattern`.
        anywhere: below any folders, which are the field 'above' then, with '/' behind it, or ''.
        forms: regular expressions of fields; by default any characters of one component, as few as will do.

    Raises:
        ManifestError: a pattern cannot be used, a folder cannot be listed, or no file fits.
    """
    for layout in layouts:
        _check_fields(layout)
    above = "(?P<above>(?:.*/)?)" if anywhere else ""
    regexes = [re.compile(above + _regex(layout, forms or {}), re.DOTALL) for layout in layouts]
    depth = max(layout.count("/") for layout in layouts) + _DEPTH_ABOVE * anywhere
    fits = others_count = 0
    others: list[str] = []
    for file in files_below(folder, depth):
        usable = file.size is not None and not NO_ID.search(file.path)
        match = next(filter(None, (regex.fullmatch(file.path) for regex in regexes)), None) if usable else None
        if match:
            fits += 1
            yield file, match.groupdict()
        elif file.path.lower().endswith(AUDIO_ENDINGS):
            others_count += 1
            others += [file.path] if len(others) < _SAMPLE else []
    if not fits:
        raise ManifestError(_nothing_fits(folder, layouts, forms or {}, (others_count, others)))
    if others_count:
        left_out = f"{others_count} audio files do not fit {' or '.join(layouts)} and are left out, first"
        _log.warning("%s: %s %s", folder, left_out, ascii(others[0]))


def _regex(layout: str, forms: Mapping[str, str]) -> str:
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
            regex += f"(?P={name})" if name in seen else f"(?P<{name}>{forms.get(name, '[^/]+?')})"
            seen.add(name)
    return regex


def _check_fields(layout: str) -> None:
    names = re.findall(r"\{([^{}]*)\}", layout)
    unknown = sorted(set(names) - set(_FIELDS))
    if unknown or "speaker" not in names or re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", layout)):
        known = ", ".join(f"{{{name}}}" for name in _FIELDS)
        got = f"unknown {', '.join(unknown)}" if unknown else "no {speaker}, or a brace without its other one"
        raise ManifestError(f"pattern {layout!r} cannot be used: expected {{speaker}} and others of {known}; got {got}")


def _nothing_fits(folder: Path, layouts: Sequence[str], forms: Mapping[str, str], others: tuple[int, list[str]]) -> str:
    (count, sample), layout = others, layouts[0]
    formed = "".join(f", {name} of the form {form}" for name, form in forms.items())
    example = re.sub(r"\{([^{}]*)\}", lambda field: field[1].upper(), layout)
    needed = (
        f"{folder}: no file fits {' or '.join(map(repr, layouts))}, which needs paths such as {example}, below "
        f"{layout.count('/')} folder(s){formed}"
    )
    if not count:
        return f"{needed}; there is no audio at all below it (looked for {' '.join(AUDIO_ENDINGS)}): check the folder"
    shown = ", ".join(map(ascii, sample[:_EXAMPLES])) + (", ..." if count > _EXAMPLES else "")
    return f"{needed}. Found {count} audio files: {shown}. {_advice(folder, sample)}"


def _advice(folder: Path, sample: Sequence[str]) -> str:
    usable = [path for path in sample if not NO_ID.search(path)]
    fitting = proposal(usable)
    fits = re.compile(_regex(fitting, {}), re.DOTALL) if fitting else None
    count = sum(fits.fullmatch(path) is not None for path in usable) if fits else 0
    if not count:
        return "Check the folder, or write the pattern so that it describes these paths"
    command = f"ge2e manifest pattern {shlex.quote(str(folder))} --pattern {shlex.quote(fitting)} -o manifest.csv"
    return (
        f"Check the folder, or take a pattern that describes these paths: {fitting} fits {count} of the first "
        f"{len(sample)}, if the speakers are where it says. To use it: {command}"
    )


def files_below(folder: Path, depth: int) -> Iterator[File]:
    """All files below a folder, sorted by path components; names that begin with '.' are left out.

    Links to folders are followed down to this depth, never into a folder that they are in.

    Raises:
        ManifestError: a folder cannot be listed, or they lie too deep.
    """
    return _below(str(folder), "", depth, frozenset())


def _below(folder: str, prefix: str, depth: int, above: frozenset[tuple[int, int]]) -> Iterator[File]:
    if prefix.count("/") > _MOST_FOLDERS:
        raise ManifestError(f"{folder} lies below more than {_MOST_FOLDERS} folders: expected a corpus")
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
            yield File(prefix + entry.name, size)
        elif depth > 0 or not entry.is_symlink():
            yield from _below(entry.path, f"{prefix}{entry.name}/", depth - 1, inside)


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """What is behind an entry; None behind a link that leads nowhere or to itself."""
    try:
        return entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
