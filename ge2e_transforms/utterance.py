"""The row of a manifest: one utterance, who speaks and where the audio is; made and checked in one place.

Times are seconds, sizes bytes. It opens nothing, and must not know how manifests are read.
"""

from __future__ import annotations

import functools
import itertools
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ge2e_transforms.archives import split_member
from ge2e_transforms.errors import BadRowError, DataError, EmptySpeakerError, LedgerRow
from ge2e_transforms.schema import SPLIT_NAME, SPLIT_ORDER

UNNAMED = "unnamed"
# Above this a float no longer counts in ones, and sums of sizes would leave 64 bits.
_MAX_NUMBER = 2.0**53
# Of any text in a row, in characters. A path has 4,096 bytes at most, and so has the name of a member of an archive.
MAX_TEXT = 8192
# What no id may hold: what acts on a terminal or ends a line, and what is no text in any encoding.
NO_ID = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NO_PATH = re.compile(r"[\x00\ud800-\udfff]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Utterance(NamedTuple):
    """One usable row of a manifest.

    audio_path: as written: relative to the manifest's folder, absolute, or a URL; in an archive it goes on with
        '#' and the member's name.
    speaker_id: as written; never empty.
    namespace: population that the speaker id counts in, without '/'; by default the row's source.
    utterance_id: unique within a speaker; by default the path, with offset, duration and channel where the
        row gives an offset or a channel, so that the segments of one recording differ.
    split: '' is drawn later.
    channel: from 0; None leaves it to the recipe.
    offset_s: seconds; given, the row is the segment [offset_s, offset_s + duration_s) (to the end without a
        duration); None, the row is the whole recording and `duration_s` only says how long it should be.
    bytes: size of the audio file.
    manifest, position: where the row stands: path as given; byte offset in the uncompressed text, or the row
        number from 0 for Parquet.
    """

    audio_path: str
    speaker_id: str
    namespace: str
    utterance_id: str
    source: str
    subset: str = ""
    split: str = ""
    session_id: str = ""
    channel: int | None = None
    offset_s: float | None = None
    duration_s: float | None = None
    bytes: int | None = None
    manifest: str = ""
    position: int = 0

    @property
    def speaker_key(self) -> str:
        """Who speaks, across manifests: `namespace/speaker_id`; the first '/' ends the namespace."""
        return f"{self.namespace}/{self.speaker_id}"

    @property
    def location(self) -> str:
        """Where to open the audio: a URL, or a path, which is absolute if the manifest's path is."""
        return audio_location(self.manifest, self.audio_path)


COLUMNS = Utterance._fields[:12]
# `Utterance._make`, at half its price.
row_of: Callable[[Iterable[Any]], Utterance] = functools.partial(tuple.__new__, Utterance)


def audio_location(manifest: str, audio_path: str) -> str:
    """Where to open the audio of a row; see `Utterance.location`."""
    if audio_path.startswith("/") or is_url(audio_path):
        return audio_path
    scheme = _URL.match(manifest)
    if scheme is None:
        return os.path.join(os.path.dirname(manifest), audio_path)  # noqa: PTH118, PTH120 (far faster)
    bucket, _, key = manifest[scheme.end() :].partition("/")
    file = file_of(audio_path)
    # Object stores take '..' literally; the leading '/' keeps it from climbing out of the bucket.
    path = posixpath.normpath("/" + posixpath.join(posixpath.dirname(key), file))
    return scheme[0] + bucket + path + audio_path[len(file) :]


def file_of(location: str) -> str:
    """What of an audio location is the file: all of it, but the archive of one inside of an archive."""
    inside = split_member(location)
    return location if inside is None else inside[0]


def is_url(path: str) -> bool:
    return "://" in path and _URL.match(path) is not None


def leads_out(audio_path: str) -> bool:
    """Whether a path is not below the folder of its manifest. Links are not looked at, nor names in an archive."""
    if audio_path.startswith("/") or is_url(audio_path):
        return True
    return ".." in audio_path and posixpath.normpath(file_of(audio_path)).split("/", 1)[0] == ".."


def shown(value: object) -> str:
    """For messages: what was got, on one line, in ASCII and not too long."""
    text = ascii(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def check_utterance(row: Utterance) -> None:
    """Refuse a row that must not go on, wherever it was made.

    Raises:
        EmptySpeakerError: there is no speaker.
        BadRowError: no path, control characters in an id, a text longer than `MAX_TEXT`, a namespace with '/', a split
            that cannot be a folder, a length of 0.
    """
    if not row.speaker_id.strip():
        raise EmptySpeakerError("speaker_id is empty: every row must say who speaks")
    if not row.audio_path.strip():
        raise BadRowError("audio_path is empty: every row must say where the audio is")
    texts = row[:8]
    if not "".join(texts).isprintable() or max(map(len, texts)) > MAX_TEXT:
        _check_texts(texts)
    if "/" in row.namespace:
        raise BadRowError(
            f"namespace={shown(row.namespace)}: expected a name without '/' (by default it is the source)"
        )
    if not _is_split(row.split):
        raise BadRowError(f"split={shown(row.split)}: expected up to 64 letters, digits, '_' or '-', such as train")
    if row.duration_s == 0:
        raise BadRowError("duration_s=0: expected more than 0, or nothing where it is not known")


def _is_split(split: str) -> bool:
    return not split or split in SPLIT_ORDER or bool(SPLIT_NAME.fullmatch(split))


def _check_texts(texts: Sequence[str]) -> None:
    for name, text in zip(COLUMNS, texts, strict=False):
        if len(text) > MAX_TEXT:
            raise BadRowError(f"{name}={shown(text)} has {len(text)} characters: expected at most {MAX_TEXT}")
        if (_NO_PATH if name == "audio_path" else NO_ID).search(text):
            raise BadRowError(
                f"{name}={shown(text)}: expected text without control characters, line ends among them; where a row "
                "gives no utterance_id it is the audio_path"
            )


def ledger_row(row: Utterance, error: DataError) -> LedgerRow:
    """The ledger's entry for a row that is not written."""
    return LedgerRow(
        kind=error.kind,
        stage=error.stage,
        reason=error.reason,
        detail=str(error),
        manifest=row.manifest,
        position=row.position,
        speaker_id=row.speaker_key,
        utterance_id=row.utterance_id,
        audio_path=row.audio_path,
    )


def utterance(values: Sequence[str], manifest: str, position: int) -> Utterance:
    """A checked row from the text of each of `COLUMNS`; '' is absent.

    Raises:
        DataError: as `check_utterance`, and BadRowError for a number that is none.
    """
    path, speaker, namespace, name, source, subset, split, session, channel, offset_s, duration_s, size = values
    source = source or UNNAMED
    texts = (path, speaker, namespace or source, name or path, source, subset, split, session)
    numbers = (
        _whole("channel", channel) if channel else None,
        _number("offset_s", offset_s) if offset_s else None,
        _number("duration_s", duration_s) if duration_s else None,
        _whole("bytes", size) if size else None,
    )
    row = Utterance._make((*texts, *numbers, manifest, position))
    check_utterance(row)
    return row if name else with_default_id(row)


def plain_utterances(
    columns: Sequence[Sequence[str]], manifest: str, positions: Sequence[int]
) -> list[Utterance] | None:
    """What `utterance` makes of each of some rows, in a fraction of its time; None if any needs a closer look.

    Args:
        columns: text by row of each of `COLUMNS`; '' is absent.
        manifest: where the rows stand.
        positions: and where in it.
    """
    path, speaker, namespace, name, source, subset, split, session, *numbers = columns
    if "" in source:
        source = [text or UNNAMED for text in source]
    if "" in namespace:
        namespace = [text or other for text, other in zip(namespace, source, strict=True)]
    # Most texts stand in many rows.
    texts = [set(column) for column in (path, speaker, namespace, name, source, subset, split, session)]
    every = [*itertools.chain.from_iterable(texts)]
    if not (
        "".join(every).isprintable()
        and max(map(len, every)) <= MAX_TEXT
        and all(map(str.strip, texts[0]))
        and all(map(str.strip, texts[1]))
        and "/" not in "".join(texts[2])
        and all(map(_is_split, texts[6]))
    ):
        return None
    try:
        channel, offset_s, duration_s, size = map(_plain_numbers, numbers, (True, False, False, True))
    except ValueError:
        return None
    if 0 in duration_s:
        return None
    texts_of_rows = (path, speaker, namespace, name, source, subset, split, session)
    values = zip(*texts_of_rows, channel, offset_s, duration_s, size, itertools.repeat(manifest), positions)
    rows = list(map(row_of, values))
    return [row if row.utterance_id else with_default_id(row) for row in rows] if "" in texts[3] else rows


def _plain_numbers(column: Sequence[str], whole: bool) -> Sequence[float | int | None]:
    """Numbers that are written with digits and a point; None for ''.

    Raises:
        ValueError: another is among them, or one that `_number` or `_whole` refuses.
    """
    digits = "".join(column)
    if digits.strip("0123456789."):
        raise ValueError
    numbers: list[float] = list(map(float, filter(None, column)))
    if numbers and max(numbers) > _MAX_NUMBER:
        raise ValueError
    if whole:
        if not all(map(float.is_integer, numbers)):
            raise ValueError
        numbers = list(map(int, numbers))
    if len(numbers) == len(column):
        return numbers
    present = iter(numbers)
    return [next(present) if text else None for text in column]


def with_default_id(row: Utterance) -> Utterance:
    """The row with the utterance id that `Utterance` gives by default."""
    name = row.audio_path
    if row.offset_s is not None:
        name += f"@{row.offset_s!r}" if row.duration_s is None else f"@{row.offset_s!r}+{row.duration_s!r}"
    return row._replace(utterance_id=name if row.channel is None else f"{name}#{row.channel}")


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= _MAX_NUMBER or "_" in text:  # NaN is refused too; 1_000 is a number to Python only
        raise BadRowError(f"{name}={shown(text)}: expected a number from 0 to 2^53")
    return abs(number)  # no -0.0


def _whole(name: str, text: str) -> int:
    number = _number(name, text)
    if not number.is_integer():
        raise BadRowError(f"{name}={shown(text)}: expected a whole number")
    return int(number)
