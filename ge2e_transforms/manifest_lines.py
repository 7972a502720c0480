"""Text manifests as lines and CSV records with their byte offsets, whatever is wrong with some of them.

Memory is bounded by one row, and a bad row never takes others along: after a quote that is never closed
only the line with the quote is given up, and the lines after it are read again as rows. It must not know what any
column means.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

from ge2e_transforms.errors import ManifestError

# No honest row comes near these; they bound what an open quote can hold before it is given up.
MAX_ROW_BYTES = 1 << 20
MAX_ROW_LINES = 1000
# Lines that are read as one block: enough that what is done for a block costs little, few enough to be read again.
_BLOCK_BYTES = 1 << 16


class RowFault(Exception):
    """The lines read so far cannot be a row; the message is for the ledger."""


class Lines:
    """The physical lines of a manifest as text, for `csv.reader` or one by one, in records.

    `start` begins a record, at `position`; the lines read since then are the record. `fault`, if not empty, says what
    is wrong with their text (which then has replacement characters in it).
    """

    def __init__(self, stream: BinaryIO, manifest: str) -> None:
        self._readline = stream.readline
        self._manifest = manifest
        self.position = 0
        self._size = 0
        self._record: list[bytes] = []
        self._again: deque[bytes] = deque()
        self._failure: Exception | None = None
        self.fault = ""

    def start(self) -> int:
        """Begin the next record; its offset in the uncompressed manifest, in bytes."""
        self.position += self._size
        self._size = 0
        self._record.clear()
        self.fault = ""
        if not self.position and not self._again:
            self._skip_byte_order_mark()
        return self.position

    @property
    def handed_back(self) -> bool:
        """Whether lines are left that were read before."""
        return bool(self._again)

    def block(self) -> list[bytes]:
        """The next lines as stored, as many as are read at once; none at the end.

        Reading goes on after them, or with them once they are handed back. An error comes after the lines before it.
        """
        self.start()
        lines: list[bytes] = []
        try:
            while self._size < _BLOCK_BYTES and (raw := self._again.popleft() if self._again else self._read()):
                lines.append(raw)
                self._size += len(raw)
        except (OSError, ManifestError) as error:
            if not lines:
                raise
            self._failure = error
        return lines

    def hand_back(self, block: Sequence[bytes]) -> None:
        """Lets the lines of the last block be read again."""
        self._again.extendleft(reversed(block))
        self._size = 0

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        raw = self._again.popleft() if self._again else self._read()
        if not raw:
            raise StopIteration
        self._record.append(raw)
        self._size += len(raw)
        if self._size > MAX_ROW_BYTES or len(self._record) > MAX_ROW_LINES:
            raise RowFault(self._too_long(raw))
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            self.fault = f"not UTF-8: byte 0x{raw[error.start]:02x} at {self._size - len(raw) + error.start} of the row"
            text = raw.decode(errors="replace")
        if "\0" in text:
            self.fault = self.fault or f"NUL: byte 0x00 at {self._size - len(raw) + raw.index(0)} of the row"
            text = text.replace("\0", "\ufffd")
        return text

    def give_up(self, error: Exception) -> str:
        """Reject the first line of the record and hand out its other lines again; says what is wrong."""
        lines = len(self._record)
        if lines > 1:
            self._again.extendleft(reversed(self._record[1:]))
            self._size = len(self._record[0])
            return f"not CSV: {error}, in a quoted field that begins here and was read for {lines} lines"
        return str(error) if isinstance(error, RowFault) else f"not CSV: {error}"

    def _read(self) -> bytes:
        if self._failure:
            raise self._failure
        try:
            return self._readline(MAX_ROW_BYTES + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ManifestError(
                f"{self._manifest}: damaged gzip after {self.position + self._size} unpacked bytes ({error}): "
                "expected a whole gzip file; pack the manifest again"
            ) from error

    def _skip_byte_order_mark(self) -> None:
        first = self._read()
        if first.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ManifestError(
                f"{self._manifest}: this is UTF-16 or UTF-32: expected UTF-8; save the file as UTF-8, or convert it "
                "(`iconv -f UTF-16 -t UTF-8`)"
            )
        if first.startswith(b"\xef\xbb\xbf"):
            self.position, first = 3, first[3:]
        if first:
            self._again.append(first)

    def _too_long(self, raw: bytes) -> str:
        if len(self._record) > 1:  # the last line is handed out again, so its end is not looked for now
            return f"no end within {MAX_ROW_LINES} lines and {MAX_ROW_BYTES} bytes"
        while raw and not raw.endswith(b"\n"):
            raw = self._read()
            self._size += len(raw)
        return f"the row has {self._size} bytes: expected at most {MAX_ROW_BYTES}"


def unpacked(stream: BinaryIO) -> BinaryIO:
    """The bytes that gzip packed, whose lines are read in C by the buffer; those of GzipFile itself in Python."""
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=stream, mode="rb")), 1 << 16))


def csv_records(lines: Lines) -> Iterator[tuple[int, list[str], str]]:
    """Byte offset, fields and fault ('' if none) of every record that is not blank; RFC 4180, strictly."""
    reader = csv.reader(lines, strict=True)
    while True:
        position = lines.start()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except (csv.Error, RowFault) as error:
            yield position, [], lines.give_up(error)
            continue
        if len(fields) > 1 or (fields and fields[0].strip()):
            yield position, fields, lines.fault


def one_line_columns(block: Sequence[bytes], width: int) -> list[list[str]] | None:
    """Columns of the lines of a block, if every line is a record of so many fields that nothing is wrong with.

    None otherwise: `csv_records` then tells what it is. `width` is 2 at least, so a blank line is no such record.
    """
    if max(map(len, block)) > min(MAX_ROW_BYTES, csv.field_size_limit()):
        return None
    try:
        text = b"".join(block).decode()
        if "\0" in text:
            return None
        if '"' not in text and "\r" not in text:  # then commas and line ends are all there is to CSV
            return _split_columns(text, len(block), width)
        records = list(csv.reader(map(bytes.decode, block), strict=True))
    except (csv.Error, UnicodeDecodeError):
        return None
    # A record takes a line or more, so they are as many only if each takes one.
    if len(records) != len(block) or set(map(len, records)) != {width}:
        return None
    fields = [*itertools.chain.from_iterable(records)]
    return [fields[column::width] for column in range(width)]


def _split_columns(text: str, lines: int, width: int) -> list[list[str]] | None:
    text = text if text.endswith("\n") else text + "\n"
    fields = text.replace("\n", ",\n,").split(
        ","
    )  # each line end is a field of its own, and after the last is one more
    if fields[width :: width + 1] != ["\n"] * lines:
        return None
    return [fields[column : -1 : width + 1] for column in range(width)]


def text_records(lines: Lines) -> Iterator[tuple[int, str, str]]:
    """Byte offset, text and fault ('' if none) of every line that is not blank: one record a line."""
    while True:
        position = lines.start()
        try:
            text = next(lines)
        except StopIteration:
            return
        except RowFault as error:
            yield position, "", lines.give_up(error)
            continue
        if not text.isspace():
            yield position, text, lines.fault
