"""Lists that others wrote, line by line: text, JSON Lines and tables, each with the place where it stands.

A line that cannot be read ends the import with a `ManifestError` that names file and line: it is mended there, once,
rather than left out of a manifest that nobody compares with the list. Times are seconds. It opens no audio, and must
not know the columns of any toolkit.
"""

from __future__ import annotations

import csv
import logging
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from ge2e_transforms.archives import split_member
from ge2e_transforms.errors import DataError, ManifestError
from ge2e_transforms.manifest import decode_json
from ge2e_transforms.manifest_lines import Lines, RowFault, unpacked
from ge2e_transforms.regular_files import open_regular
from ge2e_transforms.utterance import Utterance, check_utterance, file_of, is_url, leads_out, shown

_log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where something stands, for messages."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}"


class ListOptions(NamedTuple):
    """What a list does not say itself.

    root: folder that relative paths begin in; by default the current one, in which toolkits are started too.
    source: name of the corpus; by default that of the list's folder.
    namespace: what speaker ids count in; by default the source.
    split: of all rows; '' leaves it to be drawn.
    """

    root: str = ""
    source: str = ""
    namespace: str = ""
    split: str = ""

    def row(self, folder: str | Path) -> Utterance:
        """A row of a list in this folder, without audio and speaker yet."""
        source = self.source or Path(folder).absolute().name
        return Utterance("", "", self.namespace or source, "", source, split=self.split)


UNSAID = ListOptions()


class _Counted:
    """The bytes of a list with the number of lines that were read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.lines = 0

    def readline(self, limit: int) -> bytes:
        line = self._stream.readline(limit)
        self.lines += line.endswith(b"\n") or 0 < len(line) < limit
        return line


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Lines, _Counted]]:
    with ExitStack() as stack:
        try:
            stream: Any = stack.enter_context(open_regular(str(path)))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ManifestError(f"{path} cannot be read ({reason}): expected a list that this user may read") from error
        if str(path).endswith(".gz"):
            stream = stack.enter_context(unpacked(stream))
        counted = _Counted(stream)
        yield Lines(cast(BinaryIO, counted), str(path)), counted


def text_lines(path: str | Path) -> Iterator[tuple[Place, str]]:
    """The lines of a text file in UTF-8, or of one packed as `.gz`, that are not blank, without their line ends.

    Raises:
        ManifestError: no such file, it may not be read, is damaged, or a line is no text or too long.
    """
    with _opened(path) as (lines, counted):
        while True:
            lines.start()
            try:
                text = next(lines, None)
            except RowFault as error:
                raise ManifestError(f"{Place(str(path), counted.lines)}: {error}") from error
            if text is None:
                return
            place = Place(str(path), counted.lines)
            if lines.fault:
                raise ManifestError(f"{place}: {lines.fault}: expected text in UTF-8")
            if not text.isspace():
                yield place, text.rstrip("\r\n")


def json_lines(path: str | Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The objects of JSON Lines; raises as `text_lines`, and for a line that is no JSON object."""
    for place, text in text_lines(path):
        try:
            value = decode_json(text)
        except (ValueError, RecursionError) as error:
            raise ManifestError(
                f"{place}: not JSON ({error}): expected one object a line, got {shown(text)}"
            ) from error
        if not isinstance(value, dict):
            raise ManifestError(f"{place}: expected a JSON object, got {shown(text)}")
        yield place, value


def table(path: str | Path, separators: str, needed: Sequence[str]) -> Iterator[tuple[Place, dict[str, str]]]:
    """The rows of a table by the names in its first line; spaces around names and values go.

    Args:
        path: as for `text_lines`.
        separators: the first of these signs that the first line holds separates fields. With a comma fields may be
            quoted, as in CSV; else quotes mean nothing.
        needed: names that must be there.

    Raises:
        ManifestError: as `text_lines`; no first line, a name that is missing, or a row of another length.
    """
    first = next(text_lines(path), None)
    if first is None:
        raise ManifestError(f"{path} is empty: expected a first line with the names {', '.join(needed)}")
    separator = next((sign for sign in separators if sign in first[1]), separators[0])
    records = _csv(path) if separator == "," else ((place, text.split(separator)) for place, text in text_lines(path))
    names: list[str] = []
    for place, fields in records:
        fields = [field.strip() for field in fields]
        if not names:
            names = fields
            doubled = [name for name in names if names.count(name) > 1]
            if doubled:
                raise ManifestError(f"{place}: the column {shown(doubled[0])} stands twice: expected each once")
            missing = [name for name in needed if name not in names]
            if missing:
                raise ManifestError(f"{place}: expected a column {missing[0]!r}, got {shown(', '.join(names))}")
        elif len(fields) != len(names):
            raise ManifestError(f"{place}: expected {len(names)} fields as in the first line, got {len(fields)}")
        else:
            yield place, dict(zip(names, fields, strict=True))


def _csv(path: str | Path) -> Iterator[tuple[Place, list[str]]]:
    with _opened(path) as (lines, counted):
        # SpeechBrain writes spaces behind commas, also in front of quotes.
        reader = csv.reader(lines, strict=True, skipinitialspace=True)
        place = Place(str(path), 1)
        while True:
            lines.start()
            try:
                fields = next(reader, None)
            except (csv.Error, RowFault) as error:
                raise ManifestError(f"{place}: {lines.give_up(error)}") from error
            if fields is None:
                return
            if lines.fault:
                raise ManifestError(f"{place}: {lines.fault}: expected text in UTF-8")
            if fields:
                yield place, fields
            place = Place(str(path), counted.lines + 1)


def text_of(place: Place, row: Mapping[str, Any], *names: str) -> str:
    """The text under the first of some names that is there; whole numbers, as some write for ids, become text.

    Raises:
        ManifestError: none is there, or it is no text.
    """
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if type(value) is int:
        return str(value)
    if not isinstance(value, str) or not value.strip():
        got = "nothing" if value is None else shown(value)
        raise ManifestError(f"{place}: expected text under {' or '.join(map(repr, names))}, got {got}")
    return value


def seconds(place: Place, name: str, value: Any) -> float:
    """A number of seconds, or of samples, from 0 up, given as number or text.

    Raises:
        ManifestError: it is none.
    """
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        number = -1.0
    if not (math.isfinite(number) and number >= 0):
        raise ManifestError(f"{place}: {name}={shown(value)}: expected a number from 0 up")
    return number


def placed(path: str, root: str | Path) -> str:
    """An absolute path or a URL as it is, any other below a folder."""
    # Links stay links; with Path a list would take twice as long.
    return path if is_url(path) else os.path.abspath(os.path.join(root, path))  # noqa: PTH100, PTH118


def below(place: Place, path: str, folder: Path) -> str:
    """A path of a table that comes with its audio, which must not name other files of this machine.

    Raises:
        ManifestError: it leads out of the folder.
    """
    if leads_out(path):
        raise ManifestError(f"{place}: {shown(path)} leads out of {folder}: expected a relative path without '..'")
    return placed(path, folder)


def checked(rows: Iterable[Utterance], relative_to: str) -> Iterator[Utterance]:
    """The rows whose audio is there, with its size; `Utterance.manifest` and `position` say where each stands.

    Rows without audio are counted in a warning. URLs are not looked up.

    Args:
        rows: with absolute paths or URLs.
        relative_to: the option that says where relative paths begin, for the error if nothing is there.

    Raises:
        ManifestError: a row may not be written, two rows of a speaker have one utterance id, or no audio is there.
    """
    first: dict[tuple[str, str], Place] = {}
    missing: list[str] = []
    count = found = 0
    for row in rows:
        place = Place(row.manifest, row.position)
        try:
            check_utterance(row)
        except DataError as error:
            raise ManifestError(f"{place}: {error}") from error
        key = row.speaker_key, row.utterance_id
        if key in first:
            raise ManifestError(
                f"{place}: the utterance {shown(row.utterance_id)} of speaker {shown(row.speaker_id)} stands in "
                f"{first[key]} too: expected ids that are unique"
            )
        first[key] = place
        size = None if is_url(row.audio_path) else _size(row.audio_path)
        if size is None and not is_url(row.audio_path):
            count += 1
            missing += [row.audio_path] if not missing else []
            continue
        found += 1
        yield row._replace(bytes=size if split_member(row.audio_path) is None else row.bytes)
    if missing and not found:
        raise ManifestError(
            f"none of the {count} recordings is there, first {shown(missing[0])}: check {relative_to}, or the folder "
            "that relative paths begin in"
        )
    if missing:
        _log.warning("%d of %d recordings are not there and are left out, first %s", count, count + found, missing[0])


def _size(audio_path: str) -> int | None:
    """Bytes of a regular file, or of the archive that the audio is in; None if there is none."""
    try:
        status = os.stat(file_of(audio_path))  # noqa: PTH116 (as above)
    except (OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
