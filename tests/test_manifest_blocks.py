"""Rows of CSV that are read many at once are those that are read one by one, whatever the text is."""

from __future__ import annotations

import gzip
import io
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_properties import examples

from ge2e_transforms import manifest, manifest_lines
from ge2e_transforms.errors import ManifestError
from ge2e_transforms.manifest import read_rows
from ge2e_transforms.utterance import COLUMNS, MAX_TEXT, Utterance, plain_utterances, utterance

HEADER = ",".join(COLUMNS) + "\n"
PLAIN = "a/b.flac,s,n,u,corpus,sub,train,c,0,1.5,3.25,64000\n"
# What is, or is nearly, a value of some column.
TEXTS = [
    "",
    " ",
    "a",
    "s-1",
    "a/b.wav",
    "ä",
    "\u00a0",
    "\u2028",
    "\x85",
    "\t",
    "\0",
    "train",
    "x/y",
    "x" * (MAX_TEXT + 1),
]
QUOTED = ['"a"', '"a,b"', '"a""b"', '"a\nb"', '"', 'a"b', '""', '"a"b', '"\r\n"', ' "a"']
NUMBERS = [
    "0",
    "0.0",
    "-0",
    "7",
    "1.5",
    "1.50",
    ".5",
    "5.",
    ".",
    "1.2.3",
    "1e3",
    "1e999",
    "nan",
    "inf",
    "1_0",
    "+1",
    " 1",
]
NUMBERS += ["\u0663", "9007199254740992", "9007199254740993", "00012", "9" * 400, "9" * 5000, "0x1", "-1", "1.0"]
VALUES = st.sampled_from(TEXTS + QUOTED) | st.sampled_from(NUMBERS) | st.text('a,"\n\r\0 é', max_size=4)
ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", "", "\n\n", "\n \n"])


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Plain rows, among which are some with other values, ends or numbers of fields."""
    lines = []
    for _ in range(draw(st.integers(0, 8))):
        fields = PLAIN[:-1].split(",")
        for column in draw(st.lists(st.integers(0, 11), max_size=3)):
            fields[column] = draw(VALUES)
        lines.append(",".join(fields[: draw(st.sampled_from([12, 12, 12, 12, 11]))]) + draw(ENDS))
        lines += [PLAIN] * draw(st.integers(0, 3))
    damage = draw(st.sampled_from([b"", b"", b"", b"\xff", b"\xc3"]))
    data = "".join(lines).encode()
    at = draw(st.integers(0, len(data)))
    return HEADER.encode() + data[:at] + damage + data[at:]


def told(data: bytes, name: str) -> list[str]:
    """All that is read, and the error that ends it."""
    found = []
    try:
        for row in read_rows(io.BytesIO(data), name):
            found.append(repr(row))
    except ManifestError as error:
        found.append(str(error))
    return found


def one_by_one(data: bytes, name: str) -> list[str]:
    with patch.object(manifest, "one_line_columns", lambda *_: None):
        return told(data, name)


@pytest.mark.parametrize("column", range(len(COLUMNS)), ids=COLUMNS)
def test_each_odd_value_among_plain_rows(column: int) -> None:
    for value in TEXTS + QUOTED + NUMBERS:
        fields = PLAIN[:-1].split(",")
        fields[column] = value
        data = (HEADER + PLAIN + ",".join(fields) + "\n" + PLAIN).encode()
        assert told(data, "m.csv") == one_by_one(data, "m.csv")


@pytest.mark.parametrize("counts", [(11, 13), (13, 11), (12, 24), (0, 12), (1, 12), (12, 0)])
def test_rows_of_other_numbers_of_fields(counts: tuple[int, int]) -> None:
    """Also where they come to as many in all."""
    lines = [",".join((PLAIN.strip().split(",") * 2)[:count]) + "\n" for count in counts]
    data = (HEADER + PLAIN + "".join(lines)).encode()
    assert told(data, "m.csv") == one_by_one(data, "m.csv")


@examples(400)
@given(texts(), st.sampled_from([1, 100, 200, 1 << 16]))
def test_rows_at_once_are_the_rows_one_by_one(data: bytes, block_bytes: int) -> None:
    expected = one_by_one(data, "m.csv")
    with patch.object(manifest_lines, "_BLOCK_BYTES", block_bytes):
        assert told(data, "m.csv") == expected
    with patch.object(manifest, "plain_utterances", lambda *_: None):
        assert told(data, "m.csv") == expected


@examples(100)
@given(texts(), st.integers(1, 60), st.sampled_from([1, 200, 1 << 16]))
def test_a_gzip_that_ends_too_early_ends_after_the_same_rows(data: bytes, cut: int, block_bytes: int) -> None:
    packed = gzip.compress(data)[:-cut]
    expected = one_by_one(packed, "m.csv.gz")
    with patch.object(manifest_lines, "_BLOCK_BYTES", block_bytes):
        assert told(packed, "m.csv.gz") == expected


@pytest.mark.parametrize("end", ["\n", "\r\n", '"\n'])
def test_an_error_of_the_disk_comes_after_the_rows_before_it(end: str) -> None:
    lines: list[bytes | OSError] = [
        HEADER.encode(),
        *[PLAIN.replace("\n", end).encode()] * 3,
        OSError(5, "of the disk"),
    ]

    class Failing(io.RawIOBase):
        def readline(self, size: int | None = -1) -> bytes:
            line = lines.pop(0) if lines else b""
            if isinstance(line, OSError):
                raise line
            return line

    rows = read_rows(Failing(), "m.csv")  # type: ignore[arg-type]
    if end != '"\n':
        assert [next(rows).position for _ in range(3)] == [
            len(HEADER) + n * (len(PLAIN) + len(end) - 1) for n in range(3)
        ]
    with pytest.raises(OSError, match="of the disk"):
        list(rows)


def test_plain_rows_are_made_at_once() -> None:
    """What the speed rests on: such rows never go the other way, quoted or with line ends of either kind."""
    lines = [
        PLAIN,
        PLAIN.replace("u,", ",").replace("train", ""),
        PLAIN.replace("corpus", '"a,b"'),
        "é.wav,s" + "," * 10 + "\n",
    ]
    for text in (PLAIN * 3, "".join(lines), "".join(lines).replace("\n", "\r\n"), PLAIN + PLAIN.strip()):
        with patch.object(manifest, "utterance", None):
            rows = list(read_rows(io.BytesIO((HEADER + text).encode()), "m.csv"))
        assert len(rows) == len(text.splitlines())
        assert all(isinstance(row, Utterance) for row in rows)


@given(
    st.lists(st.tuples(*[st.sampled_from(["", "a", "a/b", "train"])] * 8, *[st.sampled_from(NUMBERS)] * 4), min_size=1)
)
def test_columns_are_the_rows_or_nothing(rows: list[tuple[str, ...]]) -> None:
    found = plain_utterances(list(zip(*rows, strict=True)), "m.csv", range(len(rows)))
    if found is not None:
        assert list(map(repr, found)) == [repr(utterance(row, "m.csv", place)) for place, row in enumerate(rows)]
