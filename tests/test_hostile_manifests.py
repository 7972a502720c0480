"""Manifests that are made to be too much: memory stays bounded, one row is lost, and those after it are read."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ge2e_transforms.errors import LedgerRow, ManifestError
from ge2e_transforms.manifest import read_rows

ROOT = Path(__file__).parent.parent
MIB = 1 << 20
# What reading any manifest may take beyond what the program needs to begin with: a few rows, and one block of gzip.
ALLOWED_MIB = 48
# Prints the rows by kind, the last one, and the growth of the peak of memory in MiB.
PROGRAM = """
import resource, sys
from ge2e_transforms.errors import LedgerRow
from ge2e_transforms.manifest import read_rows
import io, json, csv, gzip
if sys.argv[1].endswith("parquet"):
    import pyarrow.parquet

list(read_rows(io.BytesIO(b"audio_path,speaker_id\\na,s\\n"), "m.csv"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
good = bad = 0
with open(sys.argv[1], "rb") as stream:
    for row in read_rows(stream, sys.argv[1]):
        bad += isinstance(row, LedgerRow)
        good += not isinstance(row, LedgerRow)
        last = row
print(good, bad, last.audio_path, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def read_apart(path: Path) -> tuple[int, int, str]:
    """Good and bad rows and the path of the last one, read in a process whose memory is looked at."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    good, bad, last, grown = done.stdout.split()
    assert int(grown) < ALLOWED_MIB
    return int(good), int(bad), last


def rows_around(path: Path, size: int) -> None:
    """A file of three rows, the middle one as long as that and without a byte on the disk."""
    with path.open("wb") as file:
        file.write(b"audio_path,speaker_id\na.wav,s\n")
        file.seek(size, io.SEEK_CUR)
        file.write(b"\nb.wav,s\n")


def test_a_line_of_a_gigabyte(tmp_path: Path) -> None:
    rows_around(tmp_path / "m.csv", 1 << 30)
    assert read_apart(tmp_path / "m.csv") == (2, 1, "b.wav")


@pytest.mark.parametrize("quote", [b"", b'"'])
def test_a_bomb_of_gzip(quote: bytes, tmp_path: Path) -> None:
    """A megabyte that unpacks to a line of a gigabyte, quoted or not."""
    first, last = b"audio_path,speaker_id\na.wav,s\n" + quote, b"\nb.wav,s\n"
    middle = gzip.compress(b"x" * (64 * MIB), 1)
    packed = gzip.compress(first) + middle * 16 + gzip.compress(last)
    assert len(packed) < 6 * MIB
    (tmp_path / "m.csv.gz").write_bytes(packed)
    assert read_apart(tmp_path / "m.csv.gz") == (2, 1, "b.wav")


def test_an_open_quote_in_the_second_of_very_many_rows(tmp_path: Path) -> None:
    lines = b"".join(b"%06d.wav,s%d\n" % (number, number % 1000) for number in range(100_000))
    (tmp_path / "m.csv").write_bytes(b'audio_path,speaker_id\na.wav,"s\n' + lines * 2)
    assert read_apart(tmp_path / "m.csv") == (200_000, 1, "099999.wav")


def test_open_quotes_in_every_other_row(tmp_path: Path) -> None:
    """What is read ahead for each of them must not be read again from its start for the next."""
    text = b"audio_path,speaker_id\n" + b'a.wav,"s\nb.wav,s\n' * 20_000
    rows = list(read_rows(io.BytesIO(text), "m.csv"))
    assert sum(isinstance(row, LedgerRow) for row in rows) == 20_000
    assert len(rows) == 40_000


def test_a_parquet_whose_text_is_stored_once(tmp_path: Path) -> None:
    """A few kilobytes that say one text of a megabyte for each of 20,000 rows."""
    table = pa.table({"audio_path": pa.array(["x" * MIB] + ["a.wav"] * 3).dictionary_encode(), "speaker_id": ["s"] * 4})
    rows = table.take(pa.array([0] * 20_000 + [1]))
    pq.write_table(rows, tmp_path / "m.parquet")
    assert (tmp_path / "m.parquet").stat().st_size < MIB
    assert read_apart(tmp_path / "m.parquet") == (1, 20_000, "a.wav")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_ends_of_both_kinds(end: bytes) -> None:
    other = b"\r\n" if end == b"\n" else b"\n"
    text = b"audio_path,speaker_id" + end + b"a.wav,s" + other + b'"b.wav",s' + end + b"c.wav,s" + other
    rows = list(read_rows(io.BytesIO(text), "m.csv"))
    assert [(row.audio_path, row.speaker_id) for row in rows] == [("a.wav", "s"), ("b.wav", "s"), ("c.wav", "s")]


def test_latin_1_costs_its_rows() -> None:
    text = 'audio_path,speaker_id\na.wav,s\nnaïve.wav,s\n"é",s\nb.wav,s\n'.encode("latin-1")
    found = [row.reason if isinstance(row, LedgerRow) else "" for row in read_rows(io.BytesIO(text), "m.csv")]
    assert found == ["", "bad_row", "bad_row", ""]


@pytest.mark.parametrize("cut", range(1, 40))
def test_gzip_that_is_cut_off(cut: int) -> None:
    """Nothing is passed off as the whole."""
    packed = gzip.compress(b"audio_path,speaker_id\na.wav,s\nb.wav,s\n")
    with pytest.raises(ManifestError, match=r"m\.csv\.gz: damaged gzip|expected the columns"):
        list(read_rows(io.BytesIO(packed[:-cut]), "m.csv.gz"))
