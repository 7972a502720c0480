"""Text manifests as lines and CSV records with their byte offsets, whatever is wrong with some of them.

Memory is bounded by one row, and a bad row never takes others along: after a quote that is never closed
only the line with the quote is given up, and the lines after it are read again as rows.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from ge2e_transforms.errors import ManifestError

# No honest row comes near these; they bound what an open quote can hold before it is given up.
MAX_ROW_BYTES = 1 << 20
MAX_ROW_LINES = 1000


class RowFault(Exception):
    """The lines read so far cannot be a row; the message is for the ledger."""


class Lines:
    """The physical lines of a manifest as text, for `csv.reader` or one by one, in records.

    `start` begins a record; the lines read since then are the record. `fault`, if not empty, says what is
    wrong with their text (which then has replacement characters in it).
    """

    def __init__(self, stream: BinaryIO, manifest: str) -> None:
        self._readline = stream.readline
        self._manifest = manifest
        self._position = 0
        self._size = 0
        self._record: list[bytes] = []
        self._again: deque[bytes] = deque()
        self.fault = ""

    def start(self) -> int:
        """Begin the next record; its offset in the uncompressed manifest, in bytes."""
        self._position += self._size
        self._size = 0
        self._record.clear()
        self.fault = ""
        if not self._position and not self._again:
            self._skip_byte_order_mark()
        return self._position

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
        try:
            return self._readline(MAX_ROW_BYTES + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ManifestError(
                f"{self._manifest}: damaged gzip after {self._position + self._size} unpacked bytes ({error}): "
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
            self._position, first = 3, first[3:]
        if first:
            self._again.append(first)

    def _too_long(self, raw: bytes) -> str:
        if len(self._record) > 1:  # the last line is handed out again, so its end is not looked for now
            return f"no end within {MAX_ROW_LINES} lines and {MAX_ROW_BYTES} bytes"
        while raw and not raw.endswith(b"\n"):
            raw = self._read()
            self._size += len(raw)
        return f"the row has {self._size} bytes: expected at most {MAX_ROW_BYTES}"


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


def text_records(lines: Lines) -> Iterator[tuple[int, str, str]]:
    """The same for one record a line."""
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
