"""Places that a manifest names: what is opened, what only by a flag, and that nothing else is ever asked for."""

from __future__ import annotations

import argparse
import http.server
import io
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synth
from jobs import job, run_here, write_rows
from memory_store import MemoryStore

from ge2e_transforms.config import Recipe
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import ConfigError, LedgerRow, ManifestError
from ge2e_transforms.manifest import read_rows, write_manifest
from ge2e_transforms.places import permitted
from ge2e_transforms.planning import ManifestSummary, PlanConfig, content_of
from ge2e_transforms.utterance import Utterance
from pipeline import doctor, examine, main, read
from pipeline.commands import manifest as manifest_command

URLS = ("http://h/a.wav", "https://h/a.wav", "file:///etc/passwd", "ftp://h/a.wav", "hdfs://h/a.wav", "GS://b/a.wav")


def reasons(paths: list[str], name: str = "/data/m.csv", **allowed: Any) -> list[str]:
    """For each row the reason why it is not used, '' if it is."""
    if name.endswith(".csv"):
        text = "audio_path,speaker_id\n" + "".join(f'"{path}",s\n' for path in paths)
        data = text.encode()
    elif name.endswith(".parquet"):
        sink = io.BytesIO()
        pq.write_table(pa.table({"audio_path": paths, "speaker_id": ["s"] * len(paths)}), sink)
        data = sink.getvalue()
    else:
        data = "\n".join(json.dumps({"audio_filepath": path, "speaker": "s"}) for path in paths).encode()
    rows = list(permitted(read_rows(io.BytesIO(data), name), **allowed))
    assert [row.audio_path for row in rows] == paths
    return [row.reason if isinstance(row, LedgerRow) else "" for row in rows]


@pytest.mark.parametrize("name", ["/data/m.csv", "/data/m.jsonl", "/data/m.parquet", "gs://b/m.csv"])
def test_a_list_of_relative_paths_stays_in_its_folder(name: str) -> None:
    paths = ["a.wav", "../b.wav", "c/../d.wav", "/data/e.wav", "gs://b/f.wav", "x.tar#../../g.wav", "../x.tar#h.wav"]
    out = "outside"
    assert reasons(paths, name) == ["", out, "", out, out, "", out]
    assert reasons(paths, name, allow_outside=True) == [""] * 7


@pytest.mark.parametrize("first", ["/data/a.wav", "gs://b/a.wav", "s3://b/a.tar#m.wav"])
def test_a_list_of_places_is_taken_as_it_is(first: str) -> None:
    assert reasons([first, "../b.wav", "/c.wav", "d.wav", "s3://b/e.wav"]) == [""] * 5


def test_the_first_row_that_can_be_used_decides() -> None:
    assert reasons(["http://h/a.wav", "b.wav", "/c.wav"]) == ["scheme", "", "outside"]
    assert reasons(["../a.wav", "/b.wav", "c.wav"]) == ["outside", "outside", ""]
    rows = read_rows(io.BytesIO(b"audio_path,speaker_id\n/a.wav,\nb.wav,s\n/c.wav,s\n"), "m.csv")
    assert [getattr(row, "reason", "") for row in permitted(rows)] == ["empty_speaker", "", "outside"]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("before", [["a.wav"], ["/a.wav"], []])
def test_other_schemes_are_refused(url: str, before: list[str]) -> None:
    assert reasons([*before, url]) == ["" for _ in before] + ["scheme"]
    assert reasons([*before, url], allow_outside=True)[-1] == "scheme"


def test_an_allowed_scheme() -> None:
    assert reasons(["hdfs://h/a.wav", "azfs://h/b.wav", "http://h/c.wav"], allow_schemes=("hdfs",)) == [
        *("", "scheme", "scheme"),
    ]


def test_what_else_looks_like_a_url_is_a_path() -> None:
    """No file has such a name, so the row is rejected as missing."""
    for path in ("data:audio/wav;base64,UklGRg==", "http:/h/a.wav", "//h/a.wav", "javascript:alert(1)"):
        assert "://" not in Utterance(path, "s", "n", "u", "x", manifest="/data/m.csv").location


def test_a_refused_row_in_the_ledger() -> None:
    rows = io.BytesIO(b"audio_path,speaker_id,source\na.wav,s,x\n../b\xe2\x80\xae.wav,s,x\n")
    _, row = permitted(read_rows(rows, "/data/m.csv"))
    assert isinstance(row, LedgerRow)
    detail = (
        r"audio_path='../b\u202e.wav' leads out of the manifest's folder, unlike those before: expected a relative "
        "path without a '..' that leaves it; --allow_outside takes it"
    )
    assert row == LedgerRow(
        *("rejected", "manifest", "outside", detail, "/data/m.csv"), *(39, "x/s", "../b\u202e.wav", "../b\u202e.wav")
    )


# Jobs.


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Some speech below a folder, some beside it and in archives, a list of it all, and a secret."""
    folder = tmp_path / "corpus"
    for number in range(4):
        synth.write(folder / f"{number}.wav", synth.speechlike(number, 1.5), 16000)
        synth.write(tmp_path / f"beside{number}.wav", synth.speechlike(10 + number, 1.5), 16000)
    for archive in (folder / "a.tar", tmp_path / "a.tar"):
        with tarfile.open(archive, "w") as tar:
            entry = tarfile.TarInfo("../up.wav")
            entry.size = (folder / "0.wav").stat().st_size
            tar.addfile(entry, (folder / "0.wav").open("rb"))
    return folder


def test_a_job_reads_nothing_outside_without_the_flag(corpus: Path, tmp_path: Path) -> None:
    inside = [*(f"{n}.wav" for n in range(4)), "a.tar#../up.wav"]
    paths = [*inside, "../beside0.wav", f"{tmp_path}/beside1.wav", "../a.tar#../up.wav"]
    manifest = write_rows(corpus / "m.csv", [(path, f"s{n % 4}") for n, path in enumerate(paths)])
    kept = run_here(manifest, tmp_path / "kept", "--max_rejected=0.5").metadata
    assert kept["counts"]["rejected"] == {"outside": 3}
    assert kept["counts"]["written"] == 5
    ledger = Dataset.open(tmp_path / "kept").ledger()
    assert ledger["audio_path"].to_pylist() == paths[5:]
    whole = run_here(manifest, tmp_path / "whole", "--allow_outside").metadata
    assert (whole["counts"]["rejected"], whole["counts"]["written"]) == ({}, 8)
    assert whole["generation"] != kept["generation"]


def test_what_the_manifest_command_writes_runs_without_the_flag(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    for place in (tmp_path / "lists", tmp_path, corpus):
        rows = [Utterance(f"{corpus}/{n}.wav", f"s{n}", "n", f"u{n}", "x") for n in range(4)]
        write_manifest(place / "m.csv", rows)
        with (place / "m.csv").open("rb") as stream:
            assert list(map(type, permitted(read_rows(stream, str(place / "m.csv"))))) == [Utterance] * 4


def test_a_list_within_its_corpus_says_that_it_needs_the_flag(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its first rows may lie below it and the others not."""
    for folder in ("0a", "1b"):
        (corpus / folder).mkdir()
        (corpus / folder / "1.wav").write_bytes(b"x")
    parser = argparse.ArgumentParser()
    manifest_command.add_arguments(parser)
    layout = "--pattern={speaker}/{utterance}.wav"
    args = parser.parse_args(["pattern", str(corpus), layout, f"--output={corpus}/0a/m.csv"])
    assert args.command(args) == 0
    assert "1 of the 2 rows lead out of the manifest's folder, and the first does not" in caplog.text
    assert "--allow_outside" in caplog.text


class _Counting(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    do_HEAD = do_POST = do_PUT = do_GET


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """Address of a server on loopback, and what it was asked for."""
    _Counting.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Counting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", _Counting.asked
        finally:
            server.shutdown()
            thread.join()


def test_no_request_is_made_for_a_refused_url(corpus: Path, tmp_path: Path, asked: tuple[str, list[str]]) -> None:
    """One such row ended the job with a traceback of Beam's."""
    host, requests = asked
    urls = [f"{scheme}://{host}/a.wav" for scheme in ("http", "https", "ftp", "hdfs", "azfs", "webhdfs")]
    urls += [f"http://{host}/a.tar#x.wav", f"x:http://{host}/b.wav", f"./http://{host}/c.wav"]
    paths = [*(f"{n}.wav" for n in range(4)), *urls]
    manifest = write_rows(corpus / "m.csv", [(path, f"s{n % 4}") for n, path in enumerate(paths)])
    counts = run_here(manifest, tmp_path / "out", "--max_rejected=0.9").metadata["counts"]
    assert counts["rejected"] == {"missing": 2, "scheme": 7}
    for url in urls:
        with pytest.raises((ConfigError, ManifestError)):
            run_here(url.replace("a.wav", "m.csv"), tmp_path / "none")
    assert requests == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", [main.run, doctor.examine_workers])
def test_manifests_at_other_schemes_are_refused(command: Callable[[list[str]], object], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        command(["--manifest=http://127.0.0.1:1/m.csv", f"--output={tmp_path}/out"])
    assert str(caught.value) == (
        "--manifest 'http://127.0.0.1:1/m.csv': only gs:// and s3:// are opened; --allow_scheme http adds http://, if "
        "Apache Beam reads from there"
    )
    assert not (tmp_path / "out").exists()


def test_a_scheme_that_nothing_reads_cannot_be_allowed() -> None:
    with pytest.raises(ConfigError, match=r"--allow_scheme http cannot be used: Apache Beam reads from azfs, gs, hdfs"):
        job("out", "m.csv", allow_schemes=("http",))
    assert job("out", "memory://b/m.csv", allow_schemes=("memory",)).manifests


def test_the_doctor_opens_no_other_place(corpus: Path, tmp_path: Path) -> None:
    MemoryStore.clear()
    manifest = write_rows(corpus / "m.csv", [("http://h/a.wav", "s"), ("../beside0.wav", "s"), ("1.wav", "s")])
    assert examine._first_row(job(tmp_path, manifest)).audio_path == "1.wav"
    assert examine._first_row(job(tmp_path, manifest, allow_outside=True)).audio_path == "../beside0.wav"


def test_schemes_are_part_of_the_generation() -> None:
    """As many rows may be of one scheme as of another, so that the number of rejected rows does not tell."""
    read_summary = [ManifestSummary("/m.csv", "0" * 64, 10, 3)]

    def generation(*schemes: str) -> str:
        return content_of(read_summary, PlanConfig(), Recipe(), allow_schemes=schemes)

    assert len({generation(), generation("hdfs"), generation("azfs"), generation("azfs", "hdfs")}) == 4
    assert generation("azfs", "hdfs") == generation("hdfs", "azfs", "azfs")
    assert generation() == content_of(read_summary, PlanConfig(), Recipe())


# Manifests that are no files.


@pytest.mark.parametrize("kind", ["/dev/zero", "/dev/stdin", "pipe", "folder", "loop"])
def test_a_manifest_that_is_no_file_is_a_named_error(kind: str, tmp_path: Path) -> None:
    """A pipe was waited for without end, and a device read without end."""
    path = tmp_path / "m.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to("m.csv")
    else:
        path.symlink_to(kind)
    for command in (lambda: run_here(path, tmp_path / "out"), lambda: examine._first_row(job(tmp_path, path))):
        with pytest.raises(ManifestError, match=r"m\.csv( cannot be read \(.*\))?: expected a file"):
            command()


def test_a_manifest_that_vanishes_is_a_named_error(tmp_path: Path) -> None:
    message = r"gone\.csv cannot be read \(No such file or directory\): expected a file"
    with pytest.raises(ManifestError, match=message), read.open_manifest(str(tmp_path / "gone.csv")):
        pass
