"""`ge2e manifest`: from the command line to a manifest that can be read."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from ge2e_transforms.errors import ManifestError
from ge2e_transforms.manifest import Utterance, read_rows
from pipeline.commands import manifest


def ge2e(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="ge2e")
    manifest.add_arguments(parser.add_subparsers(required=True))
    args = parser.parse_args(["manifest", *arguments])
    return int(args.command(args))


def rows_of(path: Path) -> list[Utterance]:
    with path.open("rb") as stream:
        rows = list(read_rows(stream, str(path)))
    return [row for row in rows if isinstance(row, Utterance)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "vox"
    for name in ("id1/a/1.wav", "id1/b/1.wav", "id2/a/1.wav"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(bytes(500_000))
    return root


@pytest.fixture
def libri(tmp_path: Path) -> Path:
    file = tmp_path / "LibriSpeech" / "test-other" / "367" / "130732" / "367-130732-0000.flac"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"audio")
    return tmp_path


def test_pattern(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "m.csv"
    assert ge2e("pattern", str(corpus), "--pattern", "{speaker}/{session}/{utterance}.wav", "-o", str(output)) == 0
    assert capsys.readouterr().out == f"{output}: 3 rows, 2 speakers, 3 sessions, 1.5 MB of audio\n"
    rows = rows_of(output)
    assert [row.audio_path for row in rows] == ["vox/id1/a/1.wav", "vox/id1/b/1.wav", "vox/id2/a/1.wav"]
    assert {row.source for row in rows} == {"vox"}
    assert all(Path(row.location).is_file() and row.bytes == 500_000 for row in rows)


def test_pattern_with_source_and_namespace(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.csv.gz"
    names = ["--source", "vox1", "--namespace", "celebs"]
    ge2e("pattern", str(corpus), "--pattern", "{speaker}/{any}/*.wav", *names, "--output", str(output))
    assert {(row.source, row.speaker_key) for row in rows_of(output)} == {
        ("vox1", "celebs/id1"),
        ("vox1", "celebs/id2"),
    }


def test_librispeech(libri: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = libri / "m.csv"
    assert ge2e("librispeech", str(libri), "-o", str(output)) == 0
    assert capsys.readouterr().out == f"{output}: 1 rows, 1 speakers, 1 sessions, 0.0 MB of audio\n"
    assert [row.split for row in rows_of(output)] == ["test"]
    ge2e("librispeech", str(libri), "--no-splits", "-o", str(output))
    assert [row.split for row in rows_of(output)] == [""]


def test_librispeech_real_speech(librispeech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ge2e("librispeech", str(librispeech), "-o", str(tmp_path / "m.csv"))
    assert ": 311 rows, 257 speakers, 257 sessions, 66.1 MB of audio" in capsys.readouterr().out
    rows = rows_of(tmp_path / "m.csv")
    assert len(rows) == 311
    assert all(Path(row.location).is_file() for row in rows)


def test_standard_output_holds_the_manifest_alone(libri: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    ge2e("librispeech", str(libri), "-o", "-")
    captured = capfdbinary.readouterr()
    header, row = captured.out.splitlines()
    assert header.startswith(b"audio_path,speaker_id,")
    assert row.startswith(f"{libri}/LibriSpeech/test-other/".encode())
    assert captured.err == b"standard output: 1 rows, 1 speakers, 1 sessions, 0.0 MB of audio\n"


def test_a_closed_pipe_is_no_error(corpus: Path) -> None:
    code = "import sys; from pipeline.commands import manifest; from argparse import Namespace; import time\n"
    code += "args = Namespace(root=sys.argv[1], pattern='{speaker}/*/*.wav', source='', namespace='', output='-')\n"
    code += "sys.stdin.read(); sys.exit(manifest.pattern(args))"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(corpus)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.close()
        process.stdin.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, b"")


def test_nothing_fits_writes_nothing(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no file fits"):
        ge2e("pattern", str(corpus), "--pattern", "{speaker}.wav", "-o", str(tmp_path / "m.csv"))
    assert [file.name for file in tmp_path.iterdir()] == ["vox"]


@pytest.mark.parametrize("arguments", [[], ["librispeech"], ["librispeech", "x"], ["pattern", "x", "-o", "m.csv"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ge2e(*arguments)
    assert caught.value.code == 2
    assert "required" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["librispeech", "pattern"])
def test_help_has_examples(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ge2e(kind, "--help")
    assert caught.value.code == 0
    assert f"\nexamples:\n  ge2e manifest {kind} " in capsys.readouterr().out


def test_beam_is_not_imported() -> None:
    code = "import sys; import pipeline.commands.manifest; sys.exit('apache_beam' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
