"""Manifests in every format: what is read, what is refused row by row or as a whole, and what is written."""

from __future__ import annotations

import csv
import decimal
import gzip
import io
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ge2e_transforms.errors import LedgerRow, ManifestError
from ge2e_transforms.manifest import Utterance, read_rows, write_manifest
from ge2e_transforms.utterance import MAX_TEXT

HEADER = "audio_path,speaker_id"


def read(text: str | bytes, name: str = "lists/m.csv") -> list[Utterance | LedgerRow]:
    return list(read_rows(io.BytesIO(text if isinstance(text, bytes) else text.encode()), name))


def utterances(text: str | bytes, name: str = "lists/m.csv") -> list[Utterance]:
    rows = read(text, name)
    assert not [row for row in rows if isinstance(row, LedgerRow)]
    return [row for row in rows if isinstance(row, Utterance)]


def rejected(text: str | bytes, name: str = "lists/m.csv") -> LedgerRow:
    """The one bad row of three, between two good ones."""
    before, row, after = read(text, name)
    assert isinstance(before, Utterance)
    assert isinstance(after, Utterance)
    assert isinstance(row, LedgerRow)
    return row


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def three(bad: dict[str, Any]) -> str:
    """A JSON Lines manifest with a bad row between two good ones."""
    good = {"audio_path": "a.wav", "speaker_id": "s"}
    return "\n".join(json.dumps(row) for row in (good, {**good, **bad}, good))


# CSV


def test_csv_with_all_columns_in_any_order() -> None:
    text = (
        "split,bytes,duration_s,audio_path,speaker_id,namespace,utterance_id,source,subset,session_id,channel,offset_s\n"
        "test,99,2.5,a/b.flac,19,libri,19-1,librispeech,test-other,198,0,1.5\n"
    )
    assert utterances(text) == [
        Utterance(
            "a/b.flac", "19", "libri", "19-1", "librispeech", "test-other", "test", "198", 0, 1.5, 2.5, 99,
            "lists/m.csv", 110,
        )
    ]  # fmt: skip


def test_csv_without_optional_columns() -> None:
    (row,) = utterances(f"{HEADER}\na.wav,7\n")
    assert row == Utterance("a.wav", "7", "unnamed", "a.wav", "unnamed", manifest="lists/m.csv", position=22)
    assert row.location == "lists/a.wav"


def test_csv_takes_values_as_they_are_written() -> None:
    (row,) = utterances(f'{HEADER},session_id,utterance_id\n" a, ""b""\r\n.wav",007," x\u2028y ",u\n')
    assert row[:2] == (' a, "b"\r\n.wav', "007")
    assert row.session_id == " x\u2028y "


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_offsets_are_where_the_rows_are(mark: bytes, end: str) -> None:
    lines = [HEADER, "ä.wav,s1", "", '"b\nb.wav",s2', ",", "c.wav,s3,x", '"d.wav",""', "e.wav,s4"]
    data = mark + end.join(lines).encode()
    rows = read(data)
    found = []
    for row in rows:
        reader = csv.reader(io.TextIOWrapper(io.BytesIO(data[row.position :]), encoding="utf-8", newline=""))
        found.append(next(reader))
    assert found == [
        ["ä.wav", "s1"],
        ["b\nb.wav", "s2"],
        ["", ""],
        ["c.wav", "s3", "x"],
        ["d.wav", ""],
        ["e.wav", "s4"],
    ]
    assert [type(row) for row in rows] == [Utterance, LedgerRow, LedgerRow, LedgerRow, LedgerRow, Utterance]


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ("b.wav", "bad_row", "expected 2 fields as in the header, got 1"),
        ("b.wav,s,x", "bad_row", "expected 2 fields as in the header, got 3"),
        ('b.wav,"s"x', "bad_row", "not CSV: "),
        ('b.wav,"s', "bad_row", "in a quoted field that begins here"),
        ("b\0.wav,s", "bad_row", "NUL: byte 0x00 at 1 of the row"),
        (b"b\xe9.wav,s", "bad_row", "not UTF-8: byte 0xe9 at 1 of the row"),
        ("b" * (1 << 20) + ",s", "bad_row", "the row has 1048579 bytes: expected at most 1048576"),
        (",s", "bad_row", "audio_path is empty"),
        ("b.wav,", "empty_speaker", "speaker_id is empty"),
        ("b.wav, ", "empty_speaker", "speaker_id is empty"),
        (",", "empty_speaker", "speaker_id is empty"),
    ],
)
def test_bad_csv_rows_become_ledger_rows(row: str | bytes, reason: str, detail: str) -> None:
    line = row if isinstance(row, bytes) else row.encode()
    bad = rejected(f"{HEADER}\na.wav,s\n".encode() + line + b"\nc.wav,s\n")
    assert bad[:3] == ("rejected", "manifest", reason)
    assert detail in bad.detail
    assert (bad.manifest, bad.position) == ("lists/m.csv", 30)


def test_a_bad_value_is_told_with_the_rows_names() -> None:
    text = f"{HEADER},utterance_id,duration_s\na.wav,s,u,1\nb.wav,s2,u2,long\nc.wav,s,u3,1\n"
    detail = "duration_s='long': expected a number from 0 to 2^53"
    assert rejected(text) == LedgerRow(
        "rejected", "manifest", "bad_row", detail, "lists/m.csv", 58, "s2", "u2", "b.wav"
    )  # fmt: skip
    text = f"{HEADER}\na.wav,s\nb.wav,\nc.wav,s\n"
    assert rejected(text)[6:] == ("", "b.wav", "b.wav")


def test_ledger_rows_hold_text_that_can_be_written() -> None:
    bad = rejected(f"{HEADER}\na.wav,s\n".encode() + b"\xff.wav,s\0\nc.wav,s\n")
    assert (bad.audio_path, bad.speaker_id) == ("\ufffd.wav", "s\ufffd")


def test_one_open_quote_does_not_swallow_the_manifest() -> None:
    rows = [f"{number}.wav,s\n" for number in range(3000)]
    rows[1] = '1.wav,"s\n'
    read_back = read(HEADER + "\n" + "".join(rows))
    assert len(read_back) == 3000
    assert [place for place, row in enumerate(read_back) if isinstance(row, LedgerRow)] == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "expected the columns audio_path and speaker_id (in CSV: named in the first line, separated by "
            "commas), got ''; rename the columns (optional: namespace, utterance_id, source, ",
        ),
        ("\n\n", "got ''"),
        ("a.wav,s1\nb.wav,s2\n", "got 'a.wav, s1'"),
        ("audio_path;speaker_id\n", "got 'audio_path;speaker_id'"),
        ("audio_path,who\n", "got 'audio_path, who'"),
        ("speaker_id\n", "got 'speaker_id'"),
        ("audio_path,speaker_id,audio_path\n", "'audio_path' and 'audio_path' both say audio_path"),
        ("audio_path,speaker_id,speaker\n", "'speaker_id' and 'speaker' both say speaker_id"),
        (
            "audio_path,speaker_id\n".encode("utf-16"),
            "this is UTF-16 or UTF-32: expected UTF-8; save the file as UTF-8",
        ),
        (b"\xfe\xff" + "audio_path,speaker_id\n".encode("utf-16-be"), "this is UTF-16 or UTF-32: expected UTF-8"),
        ("audio_path,speaker_id\n".encode("utf-16-le"), "the header cannot be read (NUL: byte 0x00 at 1"),
        ("audio_path,speaker_id,né\n".encode("latin-1"), "the header cannot be read (not UTF-8: byte 0xe9 at 23"),
        ("audio_path,speaker_id\ra.wav,s\r", "the header cannot be read (not CSV: new-line character"),
        ('"audio_path,speaker_id\na.wav,s\n', "the header cannot be read (not CSV: unexpected end of data"),
    ],
)
def test_csv_without_a_usable_header(text: str | bytes, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read(text)
    assert str(caught.value).startswith("lists/m.csv: ")
    assert message in str(caught.value)


def test_header_with_spaces_and_other_spellings() -> None:
    (row,) = utterances("audio_filepath, speaker ,duration,offset\na.wav,s,2,1\n")
    assert (row.audio_path, row.speaker_id, row.duration_s, row.offset_s) == ("a.wav", "s", 2.0, 1.0)


def test_unknown_columns_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    utterances(f"{HEADER},text,gender\na.wav,s,hello,f\nb.wav,s,there,f\n")
    assert [record.getMessage() for record in caplog.records] == ["lists/m.csv: unknown columns left out: text, gender"]
    assert caplog.records[0].levelno == logging.WARNING
    assert caplog.records[0].name == "ge2e_transforms.manifest"


def test_names_of_columns_are_told_without_control_characters(caplog: pytest.LogCaptureFixture) -> None:
    utterances(f"{HEADER},\x1b[2J\u202e\na.wav,s,x\n")
    assert caplog.records[0].getMessage().endswith(r"left out: \x1b[2J\u202e")


def test_ledger_rows_are_bounded() -> None:
    long = "s" * 500_000
    row = rejected(three({"speaker_id": long, "utterance_id": long}), "m.jsonl")
    assert (len(row.speaker_id), len(row.utterance_id)) == (MAX_TEXT, MAX_TEXT)
    assert len(row.detail) < 300


def test_reading_is_streaming() -> None:
    class Endless(io.RawIOBase):
        def readline(self, size: int | None = -1) -> bytes:
            lines.append(1)
            return f"{HEADER}\n".encode() if len(lines) == 1 else b"a.wav,s\n"

    lines: list[int] = []
    rows = read_rows(Endless(), "m.csv")  # type: ignore[arg-type]
    next(rows)
    assert len(lines) <= 2 + (1 << 16) // len(b"a.wav,s\n")  # a block ahead, and no more


# JSON Lines


def test_json_lines() -> None:
    row = {
        "audio_path": "a.wav",
        "speaker_id": 19,
        "channel": 1,
        "duration_s": 2,
        "bytes": 7,
        "split": None,
        "source": "x",
    }
    data = (
        "\n" + json.dumps(row) + "\n\n" + json.dumps({"audio_path": "ä €.wav", "speaker_id": "s"}, ensure_ascii=False)
    )
    for name in ("m.jsonl", "m.json", "m.ndjson", "M.JSONL"):
        first, second = utterances(data, name)
        assert first == Utterance("a.wav", "19", "x", "a.wav#1", "x", "", "", "", 1, None, 2.0, 7, name, 1)
        assert second[:4] == ("ä €.wav", "s", "unnamed", "ä €.wav")
        assert data.encode()[second.position :].startswith(b'{"audio_path": "\xc3\xa4')


def test_nemo() -> None:
    data = (
        '{"audio_filepath": "/x/a.wav", "duration": 3.5, "speaker": "s", "text": "hello"}\n'
        '{"audio_filepath": "/x/a.wav", "duration": 3.5, "speaker": "s", "offset": 0}\n'
        '{"audio_filepath": "/x/a.wav", "duration": 1.25, "speaker": "s", "offset": 3.5}\n'
    )
    assert [(row.utterance_id, row.offset_s, row.duration_s) for row in utterances(data, "m.json")] == [
        ("/x/a.wav", None, 3.5),
        ("/x/a.wav@0.0+3.5", 0.0, 3.5),
        ("/x/a.wav@3.5+1.25", 3.5, 1.25),
    ]


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        ({"speaker_id": None}, "empty_speaker", "speaker_id is empty"),
        ({"speaker_id": ""}, "empty_speaker", "speaker_id is empty"),
        ({"speaker_id": 1.5}, "bad_row", "speaker_id=1.5: expected text or a whole number"),
        ({"speaker_id": True}, "bad_row", "speaker_id=True: expected text or a whole number"),
        ({"audio_path": ["a.wav"]}, "bad_row", "audio_path=['a.wav']: expected text or a whole number"),
        ({"audio_path": None}, "bad_row", "audio_path is empty"),
        ({"speaker": "s"}, "bad_row", "'speaker_id' and 'speaker' both say speaker_id"),
        ({"duration": True}, "bad_row", "duration_s='True': expected a number"),
        ({"duration": [1]}, "bad_row", "duration_s='[1]': expected a number"),
        ({"duration": float("inf")}, "bad_row", "duration_s='inf': expected a number"),
        ({"speaker_id": "a\0"}, "bad_row", "NUL or half a surrogate pair"),
        ({"speaker_id": "\ud800"}, "bad_row", "NUL or half a surrogate pair"),
        ({"namespace": "a/b"}, "bad_row", "namespace='a/b'"),
    ],
)
def test_bad_json_rows_become_ledger_rows(bad: dict[str, Any], reason: str, detail: str) -> None:
    row = rejected(three(bad), "m.jsonl")
    assert row[:3] == ("rejected", "manifest", reason)
    assert detail in row.detail
    assert row.position == len(three({}).split("\n")[0]) + 1
    "".join((row.detail, row.speaker_id, row.utterance_id, row.audio_path)).encode()


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (b"{", "not JSON: "),
        (b"7", "expected a JSON object, got '7'"),
        (b'"text"', "expected a JSON object"),
        (b"[" * 100_000, "not JSON: "),
        (b'{"speaker_id": ' + b"1" * 5000 + b"}", "not JSON: "),
        (b'{"audio_path": "\xff"}', "not UTF-8"),
        (b'{"audio_path": "\0"}', "NUL: byte 0x00"),
        (b'{"audio_path": "' + b"x" * (1 << 20) + b'"}', "the row has"),
    ],
)
def test_lines_that_are_no_json_objects(line: bytes, detail: str) -> None:
    good = b'{"audio_path": "a.wav", "speaker_id": "s"}\n'
    row = rejected(good + line + b"\n" + good, "m.jsonl")
    assert row.reason == "bad_row"
    assert detail in row.detail
    assert row.position == len(good)


def test_nothing_in_a_data_frame_is_nothing() -> None:
    (row,) = utterances('{"audio_path": "a.wav", "speaker_id": "s", "offset_s": NaN, "channel": null}', "m.json")
    assert (row.offset_s, row.channel) == (None, None)


def test_json_unknown_names_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    good = '{"audio_path": "a.wav", "speaker_id": "s"'
    utterances(f'{good}, "text": ""}}\n{good}, "lang": "x"}}\n{good}, "text": ""}}\n', "m.jsonl")
    assert [record.getMessage() for record in caplog.records] == ["m.jsonl: unknown columns left out: lang, text"]


def test_a_json_array_is_no_json_lines() -> None:
    with pytest.raises(ManifestError, match=r"m\.json: this is a JSON array: expected JSON Lines"):
        read('\n[\n{"audio_path": "a.wav", "speaker_id": "s"}\n]', "m.json")


def test_an_empty_json_manifest_has_no_rows() -> None:
    assert read("", "m.jsonl") == []


def test_a_name_that_comes_twice_in_a_row() -> None:
    """Of two values for one name programs take the one or the other."""
    good = '{"audio_path": "a.wav", "speaker_id": "s"}\n'
    row = rejected(good + '{"audio_path": "a.wav", "speaker_id": "x", "speaker_id": "y"}\n' + good, "m.jsonl")
    assert row.detail == "not JSON: a name comes twice among 'audio_path, speaker_id, speaker_id'"


@pytest.mark.parametrize("depth", [50, 200, 990, 5_000, 100_000])
def test_nested_values_of_any_depth_are_bad_rows(depth: int) -> None:
    good = '{"audio_path": "a.wav", "speaker_id": "s"}\n'
    for begin, end in (("[", "]"), ('{"a":', "}")):
        bad = f'{{"speaker_id": "s", "audio_path": {begin * depth}1{end * depth}}}\n'
        assert rejected(good + bad + good, "m.jsonl").reason == "bad_row"


def test_json_lines_in_utf16() -> None:
    """Each of its lines would be a bad row, which tells nobody what is wrong."""
    with pytest.raises(ManifestError, match=r"m\.jsonl: this is UTF-16 or UTF-32: expected UTF-8.*iconv"):
        read('{"audio_path": "a.wav", "speaker_id": "s"}\n'.encode("utf-16"), "m.jsonl")


def test_numbers_without_bound() -> None:
    good = '{"audio_path": "a.wav", "speaker_id": "s"}\n'
    for number in ("9" * 4000, "1e999", "-1e999", "Infinity", "9007199254740994"):
        row = rejected(
            good + f'{{"audio_path": "a.wav", "speaker_id": "s", "duration_s": {number}}}\n' + good, "m.jsonl"
        )
        assert "expected a number from 0 to 2^53" in row.detail


# Parquet, gzip, names


def test_parquet() -> None:
    data = parquet(
        audio_path=["a.wav", "b.wav"],
        speaker_id=pa.array([19, 26], pa.int32()),
        duration_s=pa.array([1.5, None], pa.float32()),
        offset_s=[decimal.Decimal("0.5"), None],
        channel=pa.array([None, 1.0]),
        source=pa.array(["x", "y"]).dictionary_encode(),
        text=["not", "used"],
    )
    assert utterances(data, "m.parquet") == [
        Utterance("a.wav", "19", "x", "a.wav@0.5+1.5", "x", offset_s=0.5, duration_s=1.5, manifest="m.parquet"),
        Utterance("b.wav", "26", "y", "b.wav#1", "y", channel=1, manifest="m.parquet", position=1),
    ]


def test_parquet_rows_are_numbered_over_batches_and_groups() -> None:
    sink = io.BytesIO()
    names = [f"{number}.wav" for number in range(10_000)]
    pq.write_table(pa.table({"audio_filepath": names, "speaker": ["s"] * 10_000}), sink, row_group_size=3000)
    rows = utterances(sink.getvalue(), "m.parquet")
    assert [row.position for row in rows] == list(range(10_000))
    assert [row.audio_path for row in rows] == names


def test_bad_parquet_rows_become_ledger_rows() -> None:
    data = parquet(audio_path=["a.wav", "b.wav", "c.wav"], speaker_id=["s", None, "s"])
    assert rejected(data, "m.parquet")[:7] == (
        "rejected", "manifest", "empty_speaker", "speaker_id is empty: every row must say who speaks",
        "m.parquet", 1, "",
    )  # fmt: skip
    data = parquet(audio_path=["a.wav", "b.wav", "c.wav"], speaker=["s"] * 3, duration=[1.0, -1.0, float("nan")])
    assert rejected(data, "m.parquet").detail == "duration_s='-1.0': expected a number from 0 to 2^53"
    assert rejected(data, "m.parquet")[5:] == (1, "s", "b.wav", "b.wav")


def test_parquet_columns_of_a_wrong_type_are_bad_rows() -> None:
    (row,) = read(parquet(audio_path=["a.wav"], speaker_id=[b"s"]), "m.parquet")
    assert isinstance(row, LedgerRow)
    assert row.detail == "speaker_id=b's': expected text or a whole number"


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1 << 60], pa.timestamp("ns")),
        pa.array([1 << 50], pa.timestamp("s")),
        pa.array([["s"]]),
        pa.array([{"s": "s"}]),
        pa.array([5], pa.date32()),
    ],
    ids=lambda column: str(column.type),
)
def test_parquet_columns_that_are_neither_text_nor_numbers(column: pa.Array) -> None:
    """A time beyond the calendar of Python ended the job with a traceback."""
    with pytest.raises(
        ManifestError, match=r"m\.parquet: the column speaker_id is of type '.*': expected text or numb"
    ):
        read(parquet(audio_path=["a.wav"], speaker_id=column), "m.parquet")


def test_a_parquet_that_claims_a_billion_rows() -> None:
    """What is there is read, in pieces."""
    rows, claim = 20_000, 1_000_000_000
    whole = parquet(audio_path=["a.wav"] * rows, speaker_id=["s"] * rows)
    said, lie = (varint(2 * number) for number in (rows, claim))
    start = whole.rindex(b"\x16" + said)  # num_rows of the last row group: a zigzag varint in Thrift's compact form
    assert start > len(whole) - 2000
    data = whole[:start].replace(b"\x16" + said, b"\x16" + lie) + b"\x16" + lie + whole[start + 1 + len(said) :]
    footer = int.from_bytes(whole[-8:-4], "little") + len(data) - len(whole)
    lying = data[:-8] + footer.to_bytes(4, "little") + b"PAR1"
    assert pq.ParquetFile(io.BytesIO(lying)).metadata.num_rows == claim
    assert len(utterances(lying, "m.parquet")) == rows


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def test_parquet_warns_of_unknown_columns(caplog: pytest.LogCaptureFixture) -> None:
    utterances(parquet(audio_path=["a"], speaker_id=["s"], emotion=["x"]), "m.parquet")
    assert [record.getMessage() for record in caplog.records] == ["m.parquet: unknown columns left out: emotion"]


def damaged_parquet() -> Iterator[Any]:
    whole = parquet(audio_path=[f"{number}.wav" for number in range(1000)], speaker_id=["s"] * 1000)
    yield pytest.param(b"", id="empty")
    yield pytest.param(b"audio_path,speaker_id\n", id="csv")
    yield pytest.param(whole[: len(whole) // 2], id="cut")
    yield pytest.param(whole[:100] + b"\xff" * 500 + whole[600:], id="overwritten")
    yield pytest.param(whole[:-20] + whole[-12:], id="footer")


@pytest.mark.parametrize("data", list(damaged_parquet()))
def test_damaged_parquet_is_named(data: bytes) -> None:
    with pytest.raises(ManifestError, match=r"lists/m\.parquet: damaged Parquet .*write it again"):
        read(data, "lists/m.parquet")


def test_parquet_text_that_is_not_utf8_is_damage() -> None:
    text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff")]
    )
    with pytest.raises(ManifestError, match=r"m\.parquet: damaged Parquet"):
        read(parquet(audio_path=text, speaker_id=["s"]), "m.parquet")


def test_parquet_without_the_columns() -> None:
    with pytest.raises(
        ManifestError, match=r"m\.parquet: expected the columns audio_path and speaker_id .*got 'path, who'"
    ):
        read(parquet(path=["a"], who=["s"]), "m.parquet")


def test_a_failing_disk_is_no_damage() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    data = parquet(audio_path=["a"], speaker_id=["s"])
    with pytest.raises(OSError, match="Input/output error") as caught:
        list(read_rows(Failing(data), "m.parquet"))
    assert not isinstance(caught.value, ManifestError)


@pytest.mark.parametrize("name", ["m.csv.gz", "m.CSV.GZ", "m.jsonl.gz"])
def test_gzip_has_offsets_of_the_text(name: str) -> None:
    text = three({}) if "jsonl" in name else f"{HEADER}\na.wav,s\nb.wav,s\nc.wav,s\n"
    rows = utterances(gzip.compress(text.encode()), name)
    assert [row.position for row in rows] == [row.position for row in utterances(text, name[:-3])]
    assert {row.manifest for row in rows} == {name}


def test_damaged_gzip_is_named() -> None:
    packed = gzip.compress(f"{HEADER}\na.wav,s\n".encode())
    for data in (packed[:-4], b"not gzip", f"{HEADER}\n".encode(), packed + b"more"):
        with pytest.raises(ManifestError, match=r"m\.csv\.gz: damaged gzip"):
            read(data, "m.csv.gz")


@pytest.mark.parametrize("name", ["m.tsv", "m", "m.txt.gz", "m.parquet.gz", "csv", ""])
def test_unknown_formats_are_refused_at_once(name: str) -> None:
    with pytest.raises(ManifestError, match=r"unknown manifest format: expected a name that ends in \.csv, \.jsonl"):
        read_rows(io.BytesIO(b""), name)


# Writing


def test_written_manifest_is_pinned(tmp_path: Path) -> None:
    rows = [
        Utterance(f"{tmp_path}/audio/a,b.wav", "s", "n", "u", "x", "sub", "test", "ses", 0, 0.5, 1.25, 99),
        Utterance("gs://bucket/b.wav", "s", "n", "v", "x"),
    ]
    assert write_manifest(tmp_path / "m.csv", rows) == 2
    assert (tmp_path / "m.csv").read_bytes() == (
        b"audio_path,speaker_id,namespace,utterance_id,source,subset,split,session_id,channel,offset_s,duration_s,bytes\n"
        b'"audio/a,b.wav",s,n,u,x,sub,test,ses,0,0.5,1.25,99\n'
        b"gs://bucket/b.wav,s,n,v,x,,,,,,,\n"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["m.csv"]


PATHS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1).filter(str.strip)
NAMES = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)
TRICKY = st.text(alphabet=" \",'é€😀;\\#=@\u2028\u202e\ufeff", min_size=1).filter(str.strip)


@settings(deadline=None)
@given(
    rows=st.lists(
        st.builds(
            Utterance,
            audio_path=(PATHS | TRICKY).map(lambda name: "/x/" + name.replace("/", "_")),
            speaker_id=NAMES | TRICKY,
            namespace=(NAMES | TRICKY).map(lambda name: name.replace("/", "_")),
            utterance_id=NAMES | TRICKY,
            source=NAMES | TRICKY,
            subset=st.just("") | NAMES,
            split=st.sampled_from(["", "train", "dev_1"]),
            session_id=st.just("") | TRICKY,
            channel=st.none() | st.integers(0, 9),
            offset_s=st.none() | st.floats(0, 1e6),
            duration_s=st.none() | st.floats(1e-3, 1e6),
            bytes=st.none() | st.integers(0, 2**53),
            manifest=st.just(""),
            position=st.just(0),
        ),
        max_size=5,
    ),
    name=st.sampled_from(["m.csv", "m.csv.gz"]),
)
def test_what_is_written_is_read_again(rows: list[Utterance], name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/{name}"
        assert write_manifest(path, rows) == len(rows)
        with open(path, "rb") as stream:  # noqa: PTH123
            again = list(read_rows(stream, path))
    assert [row._replace(manifest="", position=0) for row in again] == rows


def test_paths_point_at_the_same_audio(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "lists").mkdir()
    rows = [
        Utterance(f"{tmp_path}/lists/below.wav", "s", "n", "1", "x"),
        Utterance(f"{tmp_path}/audio/beside.wav", "s", "n", "2", "x"),
        Utterance("/elsewhere/far.wav", "s", "n", "3", "x"),
        Utterance("../audio/read.wav", "s", "n", "4", "x", manifest=f"{tmp_path}/other/m.csv"),
    ]
    write_manifest(str(tmp_path / "lists" / "m.csv"), rows)
    text = (tmp_path / "lists" / "m.csv").read_text()
    paths = [line.split(",")[0] for line in text.splitlines()[1:]]
    audio = f"{tmp_path}/audio"
    assert paths == ["below.wav", f"{audio}/beside.wav", "/elsewhere/far.wav", f"{audio}/read.wav"]
    assert "3 of the 4 rows lead out of the manifest's folder, and the first does not" in caplog.text
    caplog.clear()
    write_manifest(str(tmp_path / "lists" / "m.csv"), rows[1:] + rows[:1])
    assert caplog.text == ""


def test_members_of_archives_are_written_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    rows = [
        Utterance(f"{tmp_path}/lists/a.tar#./x/../y.wav", "s", "n", "1", "x"),
        Utterance(f"{tmp_path}/audio/./b.zip#/x//y.wav", "s", "n", "2", "x"),
        Utterance("../audio/c.tar#y.wav", "s", "n", "3", "x", manifest=f"{tmp_path}/other/m.csv"),
        Utterance("gs://bucket/d.tar#./y.wav", "s", "n", "4", "x"),
        Utterance(f"{tmp_path}/audio/take#1/../e.wav", "s", "n", "5", "x"),
    ]
    manifest = tmp_path / "lists" / "m.csv"
    write_manifest(manifest, rows)
    again = utterances(manifest.read_bytes(), str(manifest))
    assert [row.audio_path for row in again] == [
        "a.tar#./x/../y.wav", f"{tmp_path}/audio/b.zip#/x//y.wav", f"{tmp_path}/audio/c.tar#y.wav",
        "gs://bucket/d.tar#./y.wav", f"{tmp_path}/audio/e.wav",
    ]  # fmt: skip
    assert again[0].location == f"{tmp_path}/lists/a.tar#./x/../y.wav"


def test_a_manifest_in_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    (tmp_path / "a.wav").write_bytes(b"audio")
    (tmp_path / "deep" / "er" / "b.wav").write_bytes(b"more")
    manifest = tmp_path / "link" / "m.csv"
    rows = [Utterance(f"{tmp_path}/a.wav", "s", "n", "1", "x"), Utterance(f"{tmp_path}/link/b.wav", "s", "n", "2", "x")]
    write_manifest(manifest, rows)
    again = utterances(manifest.read_bytes(), str(manifest))
    assert [row.audio_path for row in again] == [f"{tmp_path}/a.wav", "b.wav"]
    assert [Path(row.location).read_bytes() for row in again] == [b"audio", b"more"]


def test_relative_manifest_and_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_manifest("m.csv", [Utterance("audio/a.wav", "s", "n", "u", "x")])
    assert utterances((tmp_path / "m.csv").read_bytes(), "m.csv")[0].location == "audio/a.wav"


def test_writing_to_a_stream_leaves_it_open() -> None:
    stream = io.BytesIO()
    assert write_manifest(stream, [Utterance("a.wav", "s", "n", "u", "x", manifest="/data/m.csv")]) == 1
    assert stream.getvalue().splitlines()[1] == b"/data/a.wav,s,n,u,x,,,,,,,"


def test_a_failed_manifest_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    good = Utterance("/a.wav", "s", "n", "u", "x")
    write_manifest(path, [good])
    before = path.read_bytes()

    def broken() -> Iterator[Utterance]:
        yield good
        raise ManifestError("the scan failed")

    with pytest.raises(ManifestError, match="the scan failed"):
        write_manifest(path, broken())
    with pytest.raises(ManifestError, match=r"row 1 of the new manifest cannot be written: namespace='a/b'"):
        write_manifest(path, [good, good._replace(namespace="a/b")])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["m.csv"]


def test_gzip_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    rows = [Utterance("/a.wav", "s", "n", "u", "x")]
    write_manifest(tmp_path / "m.csv.gz", rows)
    write_manifest(tmp_path / "other.csv.gz", rows)
    data = (tmp_path / "m.csv.gz").read_bytes()
    assert data == (tmp_path / "other.csv.gz").read_bytes()
    assert data[4:8] == bytes(4)  # no time in it
    assert gzip.decompress(data).splitlines()[1] == b"/a.wav,s,n,u,x,,,,,,,"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "m.csv").symlink_to("real.csv")
    write_manifest(tmp_path / "m.csv", [])
    assert (tmp_path / "m.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text().startswith("audio_path,")


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_manifest(pipe, [Utterance("gs://b/a.wav", "s", "n", "u", "x")])
        assert os.read(reader, 1000).splitlines()[1] == b"gs://b/a.wav,s,n,u,x,,,,,,,"
        assert pipe.is_fifo()
    finally:
        os.close(reader)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"m\.jsonl: expected a name that ends in \.csv or \.csv\.gz"):
        write_manifest(tmp_path / "m.jsonl", [])
    with pytest.raises(ManifestError, match=r"no/m\.csv: the manifest cannot be written here: .*No such file"):
        write_manifest(tmp_path / "no" / "m.csv", [])
    with pytest.raises(ManifestError, match=r"cannot be written here: .*Is a directory"):
        write_manifest(tmp_path, [])


def test_nemo_speaker_lists_have_the_speaker_as_label():
    line = b'{"audio_filepath": "a.wav", "offset": 0, "duration": 2.5, "label": "spk7"}\n'
    (row,) = read_rows(io.BytesIO(line), "/m/nemo.jsonl")
    assert (row.speaker_id, row.offset_s, row.duration_s) == ("spk7", 0.0, 2.5)


def test_a_label_beside_a_speaker_is_another_column():
    line = b'{"audio_filepath": "a.wav", "speaker": "s", "label": "happy"}\n'
    (row,) = read_rows(io.BytesIO(line), "/m/nemo.jsonl")
    assert row.speaker_id == "s"
    (row,) = read_rows(io.BytesIO(b"audio_path,speaker_id,label\na.wav,s,happy\n"), "/m/m.csv")
    assert row.speaker_id == "s"
