"""Lines and CSV records of damaged text: exact byte offsets, nothing lost, memory bounded."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ge2e_transforms.errors import ManifestError
from ge2e_transforms.manifest_lines import MAX_ROW_BYTES, MAX_ROW_LINES, Lines, csv_records, text_records


def records(data: bytes) -> list[tuple[int, list[str], str]]:
    return [
        (position, list(fields), fault) for position, fields, fault in csv_records(Lines(io.BytesIO(data), "m.csv"))
    ]


def good(data: bytes) -> list[list[str]]:
    return [fields for _, fields, fault in records(data) if not fault]


def faults(data: bytes) -> list[tuple[int, str]]:
    return [(position, fault) for position, _, fault in records(data) if fault]


def test_offsets_with_quotes_newlines_blank_lines_and_long_characters() -> None:
    data = 'a,b\n\nä,"x\r\ny"\r\n   \n"q""q",€'.encode()
    assert records(data) == [
        (0, ["a", "b"], ""),
        (5, ["ä", "x\r\ny"], ""),
        (20, ['q"q', "€"], ""),
    ]


def test_byte_order_mark_is_no_part_of_the_first_field() -> None:
    assert records(b"\xef\xbb\xbfa,b\n1,2\n") == [(3, ["a", "b"], ""), (7, ["1", "2"], "")]
    assert records(b"\xef\xbb\xbf") == []


def test_empty() -> None:
    assert records(b"") == []
    assert records(b"\n\n") == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"a,\xff\xfe", "not UTF-8: byte 0xff at 2 of the row"),
        ('ä,"\n'.encode() + b'\xe4"', "not UTF-8: byte 0xe4 at 5 of the row"),
        (b"a,b\0c", "NUL: byte 0x00 at 3 of the row"),
        (b'"a"b,c', "not CSV: ',' expected after '\"'"),
        (b"a\rb,c", "not CSV: new-line character seen in unquoted field"),
        (b"x" * 200_000 + b",c", "not CSV: field larger than field limit"),
    ],
)
def test_a_bad_row_takes_no_other_along(bad: bytes, message: str) -> None:
    data = b"1,2\n" + bad + b"\n3,4\n"
    assert good(data) == [["1", "2"], ["3", "4"]]
    ((position, fault),) = faults(data)
    assert position == 4
    assert message in fault


def test_a_row_that_is_not_utf8_keeps_its_shape() -> None:
    (_, fields, fault) = records(b'a,"\xff\n",c\n')[0]
    assert fields == ["a", "\ufffd\n", "c"]
    assert fault


@pytest.mark.parametrize("length", [MAX_ROW_BYTES + 1, MAX_ROW_BYTES + 2, 3 * MAX_ROW_BYTES])
def test_an_absurdly_long_line_is_skipped(length: int) -> None:
    line = (b"x," * length)[: length - 1] + b"\n"
    data = b"1,2\n" + line + b"3,4\n"
    assert [(position, fields) for position, fields, fault in records(data) if not fault] == [
        (0, ["1", "2"]),
        (4 + length, ["3", "4"]),
    ]
    assert faults(data) == [(4, f"the row has {length} bytes: expected at most {MAX_ROW_BYTES}")]


def test_a_long_last_line_without_end() -> None:
    assert faults(b"1,2\n" + b"x" * (2 * MAX_ROW_BYTES)) == [
        (4, f"the row has {2 * MAX_ROW_BYTES} bytes: expected at most {MAX_ROW_BYTES}")
    ]


def test_the_longest_row_is_read() -> None:
    line = (b"x," * MAX_ROW_BYTES)[: MAX_ROW_BYTES - 1] + b"\n"
    assert len(good(line)[0]) == MAX_ROW_BYTES // 2


def test_a_quote_that_is_never_closed_costs_one_row_of_many() -> None:
    rows = [b"%d,row\n" % number for number in range(5000)]
    rows[7] = b'7,"open\n'
    data = b"".join(rows)
    assert [fields[0] for fields in good(data)] == [str(number) for number in range(5000) if number != 7]
    ((position, fault),) = faults(data)
    assert position == sum(map(len, rows[:7]))
    assert "in a quoted field that begins here" in fault
    assert f"no end within {MAX_ROW_LINES} lines" in fault


def test_an_open_quote_near_the_end_costs_one_row() -> None:
    data = b'1,2\n3,"4\n5,6\n7,8'
    assert good(data) == [["1", "2"], ["5", "6"], ["7", "8"]]
    assert faults(data)[0][0] == 4
    assert "unexpected end of data" in faults(data)[0][1]


def test_an_open_quote_before_a_quoted_row_costs_one_row() -> None:
    data = b'1,"2\n3,"4 4"\n5,6\n'
    assert good(data) == [["3", "4 4"], ["5", "6"]]
    assert [position for position, _ in faults(data)] == [0]


def test_a_long_line_inside_an_open_quote() -> None:
    long = b"y" * (2 * MAX_ROW_BYTES) + b"\n"
    data = b'1,"2\n3,4\n' + long + b"5,6\n"
    assert records(data)[1:2] == [(5, ["3", "4"], "")]
    assert records(data)[3:] == [(9 + len(long), ["5", "6"], "")]
    assert [position for position, _ in faults(data)] == [0, 9]


def test_an_open_quote_holds_no_more_than_a_row_in_memory() -> None:
    read = 0

    class Endless(io.RawIOBase):
        def readline(self, size: int | None = -1) -> bytes:
            nonlocal read
            read += 1
            return b'"open\n' if read == 1 else b"1,2\n"

    lines = Lines(Endless(), "m.csv")  # type: ignore[arg-type]
    _, _, fault = next(csv_records(lines))
    assert "no end within" in fault
    assert read <= MAX_ROW_LINES + 2


@given(st.binary(max_size=200).map(b"a".__add__) | st.text(alphabet='a",\n\r\0é', max_size=60).map(str.encode))
def test_any_bytes_are_split_without_gap_or_loop(data: bytes) -> None:
    found = records(data)
    positions = [position for position, _, _ in found]
    assert positions == sorted(set(positions))
    # Whatever was read before a record was, a reader that begins at its offset finds the same record.
    for position, fields, fault in found[:3]:
        if not fault and not data[position:].startswith(b"\xef\xbb\xbf"):
            assert records(data[position:])[0] == (0, fields, "")


@pytest.mark.parametrize("cut", [slice(0, -5), slice(0, 40), slice(5, None)])
def test_damaged_gzip_names_the_manifest(cut: slice) -> None:
    packed = gzip.compress(b"".join(b"%d,%d\n" % (number, number**3) for number in range(1000)))

    def read() -> Iterator[tuple[int, str, str]]:
        return text_records(Lines(gzip.GzipFile(fileobj=io.BytesIO(packed[cut])), "lists/m.csv.gz"))  # type: ignore[arg-type]

    with pytest.raises(
        ManifestError, match=r"lists/m\.csv\.gz: damaged gzip after \d+ unpacked bytes .*pack the manifest again"
    ):
        list(read())


def test_text_records() -> None:
    data = b"one\n\n  \ntwo \xff\r\nthree"
    assert list(text_records(Lines(io.BytesIO(data), "m.jsonl"))) == [
        (0, "one\n", ""),
        (8, "two \ufffd\r\n", "not UTF-8: byte 0xff at 4 of the row"),
        (15, "three", ""),
    ]


def test_text_records_skip_a_long_line() -> None:
    data = b"x" * (MAX_ROW_BYTES + 7) + b"\nnext\n"
    first, second = text_records(Lines(io.BytesIO(data), "m.jsonl"))
    assert (first[0], first[2]) == (0, f"the row has {MAX_ROW_BYTES + 8} bytes: expected at most {MAX_ROW_BYTES}")
    assert second == (MAX_ROW_BYTES + 8, "next\n", "")
