"""`ge2e manifest`: from the command line to a manifest that can be read."""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import synth

from ge2e_transforms.errors import ManifestError
from ge2e_transforms.manifest import Utterance, read_rows
from pipeline.commands import manifest, manifest_kinds


def ge2e(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="ge2e")
    manifest.add_arguments(parser)
    args = parser.parse_args(arguments)
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
    ge2e("librispeech", str(libri), "--no_splits", "-o", str(output))
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
    code = "import argparse, sys; from pipeline.commands import manifest; parser = argparse.ArgumentParser()\n"
    code += "manifest.add_arguments(parser)\n"
    code += "args = ['pattern', sys.argv[1], '--pattern', '{speaker}/*/*.wav', '-o', '-']\n"
    code += "sys.stdin.read(); sys.exit(manifest.command(parser.parse_args(args)))"
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


@pytest.mark.parametrize(
    "arguments",
    [[], ["librispeech"], ["librispeech", "x"], ["pattern", "x", "-o", "m.csv"], ["kaldi", "x", "-o", "m.csv"]],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ge2e(*arguments)
    assert caught.value.code == 2
    assert "required" in capsys.readouterr().err


KINDS = [kind.name for kind in manifest_kinds.kinds()]


def test_kinds_are_told_apart() -> None:
    assert len(KINDS) == len(set(KINDS)) >= 16
    assert {"librispeech", "voxceleb2", "common_voice", "pattern", "musan", "kaldi", "nemo", "list"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_help_has_examples(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ge2e(kind, "--help")
    assert caught.value.code == 0
    told = capsys.readouterr().out
    examples = [line.strip() for line in told.partition("\nexamples:\n")[2].splitlines()]
    assert examples
    parser = argparse.ArgumentParser(prog="ge2e")
    manifest.add_arguments(parser)
    for example in examples:
        program, *words = shlex.split(example)
        assert program == "ge2e"
        assert words[1] == kind
        parser.parse_args(words[1:])


def test_beam_is_not_imported() -> None:
    code = "import sys; import pipeline.commands.manifest; sys.exit('apache_beam' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Every kind from the command line, with what it alone can be told.


def written(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"audio")


def made(folder: Path, *arguments: str) -> list[tuple[str, str, str, str]]:
    """Speaker key, utterance id, source and split of each row that a command gives."""
    output = folder / "out.csv"
    assert ge2e(*arguments, "-o", str(output)) == 0
    return [(row.speaker_key, row.utterance_id, row.source, row.split) for row in rows_of(output)]


def test_trees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vox = tmp_path / "vox"
    written(vox, "wav/id10001/v/1.wav", "wav/id10002/v/1.wav")
    table = tmp_path / "meta.csv"
    table.write_text("VoxCeleb1 ID\tSet\nid10001\tdev\nid10002\ttest\n")
    assert made(tmp_path, "voxceleb1", str(vox), "--table", str(table)) == [
        ("voxceleb/id10001", "v/1", "voxceleb1", "train"),
        ("voxceleb/id10002", "v/1", "voxceleb1", "test"),
    ]
    found = made(tmp_path, "voxceleb2", str(vox), "--table", str(table), "--no_splits", "--namespace", "n")
    assert found[0] == ("n/id10001", "v/1", "voxceleb2", "")
    written(tmp_path / "vctk", "p225/p225_001_mic1.flac", "p225/p225_001_mic2.flac")
    assert made(tmp_path, "vctk", str(tmp_path / "vctk"), "--mic", "2") == [("vctk/p225", "p225_001", "vctk", "")]
    written(tmp_path / "tts", "dev-clean/1/2/1_2_0_0.wav")
    assert made(tmp_path, "libritts", str(tmp_path / "tts")) == [("libri/1", "1_2_0_0", "libritts", "valid")]
    written(tmp_path / "en", "clips/a.mp3")
    (tmp_path / "en" / "other.tsv").write_text("client_id\tpath\nx\ta.mp3\n")
    assert made(tmp_path, "common_voice", str(tmp_path / "en"), "--list", "other") == [
        ("common_voice/x", "a", "common_voice_en", "")
    ]
    written(tmp_path / "hub", "train/a.mp3")
    (tmp_path / "hub" / "metadata.csv").write_text("file_name,reader\ntrain/a.mp3,7\n")
    hub = ["audiofolder", str(tmp_path / "hub"), "--speaker_column", "reader", "--source", "s"]
    assert made(tmp_path, *hub) == [("s/7", "train/a.mp3", "s", "train")]


def test_noise_and_rooms(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """A part of each, with durations; the rows that are written name the channel of real rooms."""
    written(tmp_path, "musan/speech/us-gov/speech-us-gov-0000.wav", "musan/music/fma/music-fma-0000.wav")
    synth.write(tmp_path / "musan/noise/free-sound/noise-free-sound-0000.wav", synth.tone(200, 1.5), 16000)
    noises = ["musan", str(tmp_path), "--subset", "noise", "--headers"]
    noise = ("musan/noise-free-sound-0000", "noise-free-sound-0000", "musan", "")
    assert made(tmp_path, *noises) == [noise]
    assert [row.duration_s for row in rows_of(tmp_path / "out.csv")] == [1.5]
    assert made(tmp_path, *noises, "--namespace", "n") == [("n/noise-free-sound-0000", *noise[1:])]
    response = "air_type1_air_phone_stairway1_hfrp"
    real = tmp_path / "RIRS_NOISES" / "real_rirs_isotropic_noises"
    synth.write(real / f"{response}.wav", [[0.5, 0.25]] * 800, 16000)
    (real / "rir_list").write_text(f"--rir-id 00001 --room-id air_phone_stairway1 RIRS_NOISES/{response}.wav\n")
    (real / "noise_list").write_text("")
    written(tmp_path / "RIRS_NOISES", *(f"simulated_rirs/smallroom/Room001/Room001-0000{n}.wav" for n in range(9)))
    rooms = ["rirs", str(tmp_path / "RIRS_NOISES"), "--max_utterances", "2"]
    found = made(tmp_path, *rooms)
    assert [speaker for speaker, *_ in found] == [
        "rirs_noises/air_phone_stairway1",
        *["rirs_noises/smallroom-Room001"] * 2,
    ]
    assert [(row.subset, row.channel) for row in rows_of(tmp_path / "out.csv")] == [
        ("real", 0),
        *[("smallroom", None)] * 2,
    ]
    part = made(tmp_path, *rooms, "--subset", "real", "--headers", "--namespace", "n")
    assert part == [("n/air_phone_stairway1", response, "rirs_noises", "")]
    assert [row.duration_s for row in rows_of(tmp_path / "out.csv")] == [0.05]
    assert caplog.text == ""


def test_lists_of_toolkits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, "wav/a.wav")
    shared = ["--root", str(tmp_path), "--source", "s", "--namespace", "n", "--split", "test"]
    expected = [("n/ann", "k", "s", "test")]
    (tmp_path / "wav.scp").write_text("k wav/a.wav\n")
    (tmp_path / "utt2spk").write_text("k ann\n")
    assert made(tmp_path, "kaldi", str(tmp_path), *shared) == expected
    assert made(tmp_path, "wespeaker", str(tmp_path), *shared) == expected
    (tmp_path / "raw.list").write_text(json.dumps({"key": "k", "wav": "wav/a.wav", "spk": "ann"}))
    assert made(tmp_path, "wespeaker", str(tmp_path / "raw.list"), *shared) == expected
    sources = [{"type": "file", "channels": [0], "source": "wav/a.wav"}]
    (tmp_path / "r.jsonl").write_text(json.dumps({"id": "r", "sources": sources, "duration": 1.0}))
    whose = {"id": "k", "recording_id": "r", "start": 0, "duration": 1.0, "channel": 0, "speaker": "ann"}
    (tmp_path / "s.jsonl").write_text(json.dumps(whose))
    assert made(tmp_path, "lhotse", str(tmp_path / "r.jsonl"), str(tmp_path / "s.jsonl"), *shared) == expected
    (tmp_path / "x.csv").write_text("ID,wav,start,stop,spk_id\nk,$data_root/a.wav,8,16,ann\n")
    speechbrain = ["speechbrain", str(tmp_path / "x.csv"), "--data_root", "wav", "--rate_hz", "8"]
    assert made(tmp_path, *speechbrain, *shared) == expected
    assert [row.offset_s for row in rows_of(tmp_path / "out.csv")] == [1.0]
    (tmp_path / "nemo.json").write_text(json.dumps({"audio_filepath": "a.wav", "label": "ann"}))
    nemo = made(tmp_path, "nemo", str(tmp_path / "nemo.json"), *shared, "--root", str(tmp_path / "wav"))
    assert nemo == [("n/ann", "a.wav", "s", "test")]


# A part, and durations.


def test_a_part_of_manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x", "y"):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["audio_path", "speaker_id", "subset"])
            table.writerows(
                [f"{name}/{speaker}/{n}.wav", speaker, name] for speaker in "abc" for n in range(ord(speaker) - 95)
            )
    both = ["list", str(tmp_path / "x.csv"), str(tmp_path / "y.csv")]
    assert len(made(tmp_path, *both)) == 18
    assert {row.location for row in rows_of(tmp_path / "out.csv")} >= {f"{tmp_path}/x/a/0.wav", f"{tmp_path}/y/c/3.wav"}
    assert len(made(tmp_path, *both, "--subset", "y")) == 9
    assert len(made(tmp_path, *both, "--subset", "x", "--subset", "y", "--max_utterances", "3")) == 9
    assert {key for key, *_ in made(tmp_path, *both, "--min_utterances", "7")} == {"unnamed/c"}
    assert len({key for key, *_ in made(tmp_path, *both, "--limit_speakers", "2")}) == 2
    with pytest.raises(ManifestError, match="no row is of the subset 'z': expected one of 'x'"):
        ge2e(*both, "--subset", "z", "-o", str(tmp_path / "no.csv"))
    assert not (tmp_path / "no.csv").exists()


def test_rows_of_a_manifest_that_cannot_be_used_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.csv").write_text("audio_path,speaker_id\na.wav,s\nb.wav,\n")
    assert len(made(tmp_path, "list", str(tmp_path / "m.csv"))) == 1
    assert "1 of 2 rows cannot be used and are left out, first at byte 30: speaker_id is empty" in caplog.text
    (tmp_path / "m.csv").write_text("audio_path,speaker_id\n")
    with pytest.raises(ManifestError, match="there is no row to write"):
        ge2e("list", str(tmp_path / "m.csv"), "-o", str(tmp_path / "none.csv"))
    assert not (tmp_path / "none.csv").exists()
    with pytest.raises(ManifestError, match=r"no\.csv cannot be read"):
        made(tmp_path, "list", str(tmp_path / "no.csv"))


def test_headers(tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """Of recordings that can be read, in files and archives; what has a duration, or is a piece, is left as it is."""
    wave = synth.encoded(synth.tone(200, 1.2, 22050), 22050)
    (tmp_path / "a.wav").write_bytes(wave)
    (tmp_path / "b.wav").write_bytes(wave[:-2])
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "a.wav", "a.wav")
    (tmp_path / "m.csv").write_text(
        "audio_path,speaker_id,offset_s,duration_s\n"
        "a.wav,s,,\nb.wav,s,,\na.wav,t,0.5,\na.wav,u,,9\nx.tar#a.wav,s,,\nno.wav,s,,\n"
    )
    output = tmp_path / "out.csv"
    ge2e("list", str(tmp_path / "m.csv"), "--headers", "-o", str(output))
    assert [row.duration_s for row in rows_of(output)] == [1.2, None, None, 9, 1.2, None]
    assert "6 rows, 3 speakers, 0 sessions, 0.0 MB of audio, 0.00 h in the 3 rows with a" in capsys.readouterr().out
    (record,) = caplog.records
    told = record.getMessage()
    assert told.startswith(
        f"2 of 4 recordings cannot be used; they stay in the manifest, without a duration: {tmp_path}/b.wav: "
    )
    assert f"{tmp_path}/no.wav: no such file" in told


def test_headers_of_real_speech(librispeech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ge2e("librispeech", str(librispeech), "--headers", "-o", str(tmp_path / "m.csv"))
    assert capsys.readouterr().out.endswith(": 311 rows, 257 speakers, 257 sessions, 66.1 MB of audio, 1.00 h\n")
    assert all(row.duration_s and row.duration_s > 1 for row in rows_of(tmp_path / "m.csv"))
