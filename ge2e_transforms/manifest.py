"""Manifests: read from CSV, JSON Lines or Parquet, row by row, and written as CSV.

A manifest says where the audio is and who speaks in it; it is all that the pipeline knows about a corpus.
A row that cannot be used becomes a `LedgerRow` and reading goes on; only a manifest that cannot be used
as a whole is an error. Doubled utterances are found later, when the rows of a speaker are together. It opens no audio,
and must not know of corpora.
"""

from __future__ import annotations

import csv
import functools
import gzip
import io
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from ge2e_transforms.errors import BadRowError, DataError, LedgerRow, ManifestError, visible
from ge2e_transforms.manifest_lines import Lines, csv_records, one_line_columns, text_records, unpacked
from ge2e_transforms.manifest_parquet import Pick, parquet_columns
from ge2e_transforms.utterance import (
    COLUMNS,
    MAX_TEXT,
    Utterance,
    check_utterance,
    file_of,
    is_url,
    leads_out,
    plain_utterances,
    shown,
    utterance,
)

__all__ = ["Utterance", "read_rows", "write_manifest"]

_log = logging.getLogger(__name__)
# Our names, and those of NVIDIA NeMo's manifests.
_SPELLINGS = {
    **{name: name for name in COLUMNS},
    "audio_filepath": "audio_path",
    "speaker": "speaker_id",
    "offset": "offset_s",
    "duration": "duration_s",
}
_NUMBERS = frozenset(COLUMNS[8:])
_NOTHING = ("",) * len(COLUMNS)
_FORMATS = ".csv, .jsonl, .ndjson or .json (each also with .gz), or .parquet"
_Item: TypeAlias = Utterance | LedgerRow


def read_rows(stream: BinaryIO, manifest: str) -> Iterator[Utterance | LedgerRow]:
    """One item for every data row, in order, in constant memory.

    Args:
        stream: the manifest's bytes as stored (a `.gz` is unpacked here); seekable for Parquet.
        manifest: its path or URL; the ending tells the format, and rows and errors carry it.

    Raises:
        ManifestError: unknown format (at once); no header, columns that are missing or given twice,
            damaged gzip or Parquet (while reading).
    """
    name = manifest.lower()
    if name.endswith(".parquet"):
        return _read_parquet(stream, manifest)
    plain = name.removesuffix(".gz")
    if not plain.endswith((".csv", ".jsonl", ".ndjson", ".json")):
        raise ManifestError(f"{manifest}: unknown manifest format: expected a name that ends in {_FORMATS}")
    if plain != name:
        stream = unpacked(stream)
    return (_read_csv if plain.endswith(".csv") else _read_json)(Lines(stream, manifest), manifest)


def _read_csv(lines: Lines, manifest: str) -> Iterator[_Item]:
    records = csv_records(lines)
    _, header, fault = next(records, (0, [], ""))
    if fault:
        raise ManifestError(
            f"{manifest}: the header cannot be read ({fault}): expected the first line of a CSV in UTF-8 with "
            "\\n or \\r\\n line ends; save the file as CSV UTF-8"
        )
    pick = _needed_columns(tuple(header), manifest)
    width = len(header)
    while block := lines.block():
        position = lines.position
        if found := one_line_columns(block, width):
            columns = pick([*found, [""] * len(block)])
            yield from _rows(columns, manifest, [*itertools.accumulate(map(len, block[:-1]), initial=position)])
            continue
        lines.hand_back(block)
        while lines.handed_back and (record := next(records, None)):
            yield _csv_row(record, pick, width, manifest)


def _csv_row(record: tuple[int, list[str], str], pick: Pick, width: int, manifest: str) -> _Item:
    position, fields, fault = record
    if len(fields) == width:
        return _row(pick([*fields, ""]), manifest, position, fault)
    return _row(_NOTHING, manifest, position, fault or f"expected {width} fields as in the header, got {len(fields)}")


def _rows(columns: Sequence[Sequence[str]], manifest: str, positions: Sequence[int]) -> Iterable[_Item]:
    """Some rows from `COLUMNS` of text: all at once, or one by one if anything is odd about any."""
    rows = plain_utterances(columns, manifest, positions)
    if rows is not None:
        return rows
    return (
        _row(values, manifest, position) for values, position in zip(zip(*columns, strict=True), positions, strict=True)
    )


def _read_json(lines: Lines, manifest: str) -> Iterator[_Item]:
    unknown: set[str] = set()
    first = True
    for position, text, fault in text_records(lines):
        if first and text.lstrip().startswith("["):
            raise ManifestError(
                f"{manifest}: this is a JSON array: expected JSON Lines, one object a line; `jq -c '.[]'` makes them"
            )
        first = False
        values: Sequence[Any] = _NOTHING
        if not fault:
            values, fault = _json_values(text, unknown)
        yield _typed_row(values, manifest, position, fault)
    _warn_unknown(sorted(unknown), manifest)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a name comes twice among {shown(', '.join(name for name, _ in pairs))}")
    return found


# Of two values for one name programs take the one or the other.
decode_json = json.JSONDecoder(object_pairs_hook=_object).decode


def _json_values(text: str, unknown: set[str]) -> tuple[Sequence[Any], str]:
    try:
        row = decode_json(text)
        if not isinstance(row, dict):
            return _NOTHING, f"expected a JSON object, got {shown(text.strip())}"
        pick, others = _columns(tuple(row))
        unknown.update(others)
        return pick([*row.values(), ""]), ""
    except (ValueError, RecursionError) as error:
        return _NOTHING, f"not JSON: {error}"
    except BadRowError as error:
        return _NOTHING, str(error)


def _read_parquet(stream: BinaryIO, manifest: str) -> Iterator[_Item]:
    position = 0
    for columns in parquet_columns(stream, manifest, lambda names: _needed_columns(names, manifest)):
        for values in zip(*columns, strict=True):
            yield _typed_row(values, manifest, position)
            position += 1


@functools.lru_cache(maxsize=256)  # the rows of a JSON manifest have few different sets of names
def _columns(names: tuple[str, ...]) -> tuple[Pick, list[str]]:
    """A function from the values under `names`, and one for what is absent, to those of `COLUMNS`; other names."""
    places: dict[str, int] = {}
    unknown = []
    # NeMo's lists for speaker recognition; elsewhere a label may be anything.
    labelled = "audio_filepath" in names and not {"speaker", "speaker_id"}.intersection(names)
    for place, name in enumerate(names):
        column = "speaker_id" if labelled and name == "label" else _SPELLINGS.get(name.strip())
        if column is None:
            unknown.append(name)
        elif column in places:
            raise BadRowError(f"{names[places[column]]!r} and {name!r} both say {column}: expected one of them")
        else:
            places[column] = place
    return itemgetter(*(places.get(column, len(names)) for column in COLUMNS)), unknown


def _needed_columns(names: tuple[str, ...], manifest: str) -> Pick:
    try:
        pick, unknown = _columns(names)
    except BadRowError as error:
        raise ManifestError(f"{manifest}: {error}; rename or remove the other column") from error
    if not all(pick([*names, ""])[:2]):
        raise ManifestError(
            f"{manifest}: expected the columns audio_path and speaker_id (in CSV: named in the first line, separated "
            f"by commas), got {shown(', '.join(names))}; rename the columns (optional: {', '.join(COLUMNS[2:])})"
        )
    _warn_unknown(unknown, manifest)
    return pick


def _warn_unknown(names: Sequence[str], manifest: str) -> None:
    if names:
        _log.warning("%s: unknown columns left out: %s", manifest, visible(", ".join(names)[:1000]))


def _typed_row(values: Sequence[Any], manifest: str, position: int, fault: str = "") -> _Item:
    """As `_row`, for formats whose values have types: ids may be whole numbers, text may be broken."""
    texts = list(values)
    for place, value in enumerate(values):
        if type(value) is not str:
            texts[place], wrong = _as_text(COLUMNS[place], value)
            fault = fault or wrong
        elif len(value) > MAX_TEXT:  # before it is looked at for each row
            texts[place] = value[:MAX_TEXT]
            fault = (
                fault
                or f"{COLUMNS[place]}={shown(texts[place])} has {len(value)} characters: expected at most {MAX_TEXT}"
            )
    whole = "".join(texts)
    if "\0" in whole or not _encodable(whole):
        fault = fault or "NUL or half a surrogate pair in the text"
        texts = [text.encode(errors="replace").decode().replace("\0", "\ufffd") for text in texts]
    return _row(texts, manifest, position, fault)


def _as_text(name: str, value: Any) -> tuple[str, str]:
    """What a CSV would hold in place of a value, and what is wrong with it."""
    if value is None or (value != value and name in _NUMBERS):  # NaN is how data frames write nothing
        return "", ""
    if type(value) is int or name in _NUMBERS:
        return str(value), ""
    return str(value), f"{name}={shown(value)}: expected text or a whole number"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _row(values: Sequence[str], manifest: str, position: int, fault: str = "") -> _Item:
    try:
        if fault:
            raise BadRowError(fault)
        return utterance(values, manifest, position)
    except DataError as error:
        path, speaker, _, name = (text[:MAX_TEXT] for text in values[:4])
        place = (str(error), manifest, position)
        return LedgerRow(error.kind, error.stage, error.reason, *place, speaker, name or path, path)


def write_manifest(target: str | Path | BinaryIO, rows: Iterable[Utterance]) -> int:
    """Write rows as CSV (`.csv`, `.csv.gz`, or plain to a stream) and give their number.

    A file is written aside and renamed, so it is whole or not there. The rows still point at the same audio: paths
    below the manifest's folder are relative to it, others absolute; to a stream they are written as
    `Utterance.location` has them. A manifest that begins with a relative path and leads out of its folder later needs
    `--allow_outside`: a warning says so.

    Text is written as it is, for programs: a spreadsheet may take what begins with '=' for a formula.

    Raises:
        ManifestError: the name is no CSV's, a row may not be written, or the file cannot be.
    """
    if not isinstance(target, (str, Path)):
        return _write_csv(target, rows, lambda location: location)
    path = Path(target)
    special = path.exists() and not path.is_file()  # /dev/null, a pipe: must never be replaced
    if not special and not path.name.lower().endswith((".csv", ".csv.gz")):
        raise ManifestError(f"{path}: expected a name that ends in .csv or .csv.gz: manifests are written as CSV")
    try:
        if special:
            with path.open("wb") as stream:
                return _write_csv(stream, rows, _relative_to(path))
        return _write_aside(path, rows)
    except OSError as error:
        raise ManifestError(f"{path}: the manifest cannot be written here: {error}") from error


def _write_aside(path: Path, rows: Iterable[Utterance]) -> int:
    final = path.resolve()  # a link stays a link
    aside = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as raw:
            if path.suffix.lower() == ".gz":
                with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:  # no name, no time: the same bytes
                    count = _write_csv(cast(BinaryIO, packed), rows, _relative_to(path))
            else:
                count = _write_csv(raw, rows, _relative_to(path))
            raw.flush()
            os.fsync(raw.fileno())
        aside.replace(final)
    finally:
        aside.unlink(missing_ok=True)
    return count


def _write_csv(stream: BinaryIO, rows: Iterable[Utterance], placed: Callable[[str], str]) -> int:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    count, outside, begins_below = 0, 0, False
    try:
        # csv quotes what its line end consists of, and a lone \r must be quoted; the file gets plain \n.
        writer = csv.writer(_UnixLines(text), lineterminator="\r\n")
        writer.writerow(COLUMNS)
        for row in rows:
            check_utterance(row)
            path = placed(row.location)
            writer.writerow((path, *row[1 : len(COLUMNS)]))
            begins_below = begins_below if count else not leads_out(path)
            outside += begins_below and leads_out(path)
            count += 1
        text.flush()
        if outside:
            _log.warning(
                "%d of the %d rows lead out of the manifest's folder, and the first does not: `ge2e run` needs "
                "--allow_outside for it, or write it to a folder above them all",
                *(outside, count),
            )
    except DataError as error:
        raise ManifestError(f"row {count} of the new manifest cannot be written: {error}") from error
    finally:
        text.detach()
    return count


class _UnixLines:
    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text

    def write(self, line: str) -> int:
        return self._text.write(line[:-2] + "\n")


def _relative_to(manifest: Path) -> Callable[[str], str]:
    """A function from an audio location to how a manifest there writes it."""
    folder = str(manifest.absolute().parent)

    @functools.lru_cache(maxsize=1024)
    def from_here(head: str) -> str:
        other = os.path.abspath(head)  # noqa: PTH100 (links stay links)
        if os.path.commonpath([folder, other]) != folder:
            return other.rstrip("/") + "/"
        below = os.path.relpath(other, folder)
        return "" if below == "." else f"{below}/"

    def placed(location: str) -> str:
        if is_url(location):
            return location
        head, slash, _ = file_of(location).rpartition("/")
        return from_here(head + slash) + location[len(head + slash) :]

    return placed
