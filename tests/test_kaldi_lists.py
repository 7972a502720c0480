"""Kaldi data directories: rows are pinned, and each fault names file and line."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from ge2e_transforms.errors import ManifestError
from ge2e_transforms.kaldi_lists import kaldi
from ge2e_transforms.list_files import ListOptions
from ge2e_transforms.manifest import Utterance


def directory(folder: Path, **lists: str) -> Path:
    """A data directory `train` in a recipe's folder that has `a b.wav` (1 byte) and `c.flac` (2 bytes)."""
    data = folder / "data" / "train"
    data.mkdir(parents=True)
    (folder / "wav").mkdir()
    (folder / "wav" / "a b.wav").write_bytes(b"1")
    (folder / "wav" / "c.flac").write_bytes(b"12")
    for name, text in lists.items():
        (data / name.replace("wav_scp", "wav.scp")).write_text(text)
    return data


SCP = f"s1-a wav/a b.wav\ns2-c   wav/c.flac{' '}\n"
UTT2SPK = "s1-a s1\ns2-c s2\n"


def rows(data: Path, **options: str) -> list[Utterance]:
    return list(kaldi(data, ListOptions(root=str(data.parents[1]))._replace(**options)))


def test_recordings_of_utterances(tmp_path: Path) -> None:
    data = directory(tmp_path, wav_scp=SCP, utt2spk=UTT2SPK, utt2dur="s1-a 1.25\n", reco2dur="s1-a 9\ns2-c 9\n")
    here = f"{data}/utt2spk"
    assert rows(data) == [
        Utterance(
            f"{tmp_path}/wav/a b.wav",
            "s1",
            "train",
            "s1-a",
            "train",
            duration_s=1.25,
            bytes=1,
            manifest=here,
            position=1,
        ),
        Utterance(f"{tmp_path}/wav/c.flac", "s2", "train", "s2-c", "train", bytes=2, manifest=here, position=2),
    ]


def test_source_namespace_and_split_are_given(tmp_path: Path) -> None:
    data = directory(tmp_path, wav_scp=SCP, utt2spk=UTT2SPK, reco2dur="s1-a 9\ns2-c 8.5\n")
    given = rows(data, source="sre", namespace="callers", split="valid")
    assert {(row.source, row.namespace, row.split) for row in given} == {("sre", "callers", "valid")}
    assert [row.duration_s for row in given] == [9, 8.5]
    assert {row.namespace for row in rows(data, source="sre")} == {"sre"}


def test_relative_paths_begin_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = directory(tmp_path, wav_scp=SCP, utt2spk=UTT2SPK)
    monkeypatch.chdir(tmp_path)
    assert [row.bytes for row in kaldi(data)] == [1, 2]


def test_segments(tmp_path: Path) -> None:
    segments = "s1-1 r1 0.5 2.25\ns1-2 r1 2.25 -1\ns2-1 r2 0.00 0.75 1\n"
    data = directory(
        tmp_path,
        wav_scp="r1 wav/a b.wav\nr2 wav/c.flac\n",
        utt2spk="s1-1 s1\ns1-2 s1\ns2-1 s2\n",
        segments=segments,
        reco2dur="r1 3\nr2 1\n",
    )
    assert [(row.utterance_id, row.offset_s, row.duration_s, row.channel, row.bytes) for row in rows(data)] == [
        ("s1-1", 0.5, 1.75, None, 1),
        ("s1-2", 2.25, None, None, 1),
        ("s2-1", 0.0, 0.75, 1, 2),
    ]


def test_spk2utt_in_place_of_utt2spk(tmp_path: Path) -> None:
    data = directory(tmp_path, wav_scp=SCP, spk2utt="s1 s1-a\ns2 s2-c\n")
    assert [(row.speaker_id, row.utterance_id) for row in rows(data)] == [("s1", "s1-a"), ("s2", "s2-c")]


def test_paths_that_are_absolute_or_in_a_store(tmp_path: Path) -> None:
    scp = f"a {tmp_path}/wav/c.flac\nb s3://bucket/b.wav\nc wav/pool.tar#x/c.wav\n"
    data = directory(tmp_path, wav_scp=scp, utt2spk="a s\nb s\nc s\n")
    (tmp_path / "wav" / "pool.tar").write_bytes(b"")
    assert [(row.audio_path, row.bytes) for row in rows(data)] == [
        (f"{tmp_path}/wav/c.flac", 2),
        ("s3://bucket/b.wav", None),
        (f"{tmp_path}/wav/pool.tar#x/c.wav", None),
    ]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            {"wav_scp": "a wav/c.flac\ns1-a sph2pipe -f wav -p x.sph |\n"},
            r"wav\.scp, line 2: 'sph2pipe -f wav -p x\.sph \|' is a command, and no command that a list names is run",
        ),
        (
            {"wav_scp": "a x.ark:1234\n"},
            r"wav\.scp, line 1: 'x\.ark:1234' is a place in an ark, which is not read here",
        ),
        ({"wav_scp": "a -\n"}, r"wav\.scp, line 1: '-' cannot be opened"),
        ({"wav_scp": "a ~/x.wav\n"}, r"wav\.scp, line 1: '~/x\.wav' cannot be opened"),
        ({"wav_scp": "a\n"}, r"wav\.scp, line 1: expected an id and what belongs to it, got 'a'"),
        ({"wav_scp": "a 1.wav\n\nb 2.wav\na 3.wav\n"}, r"wav\.scp, line 4: 'a' stands in line 1 too"),
        ({"wav_scp": "a wav/\x00.wav\n"}, r"wav\.scp, line 1: NUL: byte 0x00"),
        ({"utt2spk": UTT2SPK + "s1-a s2\n"}, r"utt2spk, line 3: 's1-a' stands in line 1 too"),
        ({"utt2dur": "s1-a long\n"}, r"utt2dur, line 1: duration='long': expected a number"),
        ({"segments": "s1-a s1-a 1.0\n"}, r"segments, line 1: expected utterance, recording, start, end"),
        ({"segments": "s1-a s1-a 2 1\n"}, r"segments, line 1: ends at 1 s, where it has not begun"),
        ({"segments": "s1-a s1-a x 1\n"}, r"segments, line 1: start='x': expected a number"),
        ({"segments": "s1-a s1-a 0 1 0.5\n"}, r"segments, line 1: channel='0\.5': expected a whole number from 0"),
        ({"segments": "s1-a s1-a 0 1 -1\n"}, r"segments, line 1: channel='-1': expected a whole number from 0"),
        ({"utt2spk": "x s1\n"}, r"no utterance of utt2spk has a recording by wav\.scp"),
        ({"wav_scp": "s1-a no.wav\ns2-c no2.wav\n"}, r"none of the 2 recordings is there, first .*no\.wav'.*--root"),
        ({"utt2spk": "s1-a s\x1b[2J\n"}, r"utt2spk, line 1: speaker_id='s\\x1b\[2J': expected text without control"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, lists: dict[str, str], message: str) -> None:
    data = directory(tmp_path, **{"wav_scp": SCP, "utt2spk": UTT2SPK, **lists})
    with pytest.raises(ManifestError, match=message):
        rows(data)


def test_missing_lists(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"wav\.scp cannot be read \(No such file or directory\)"):
        rows(directory(tmp_path / "1", utt2spk=UTT2SPK))
    with pytest.raises(ManifestError, match="spk2utt cannot be read"):
        rows(directory(tmp_path / "2", wav_scp=SCP))
    with pytest.raises(ManifestError, match="is no folder: expected a Kaldi data directory"):
        kaldi(tmp_path / "no")


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    data = directory(tmp_path, utt2spk=UTT2SPK)
    os.mkfifo(data / "wav.scp")
    with pytest.raises(ManifestError, match=r"wav\.scp cannot be read \(a pipe"):
        rows(data)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    data = directory(tmp_path, wav_scp=SCP)
    (data / "utt2spk").write_bytes(b"s1-a s1\ns2-c \xff\n")
    with pytest.raises(ManifestError, match="utt2spk, line 2: not UTF-8"):
        rows(data)
    (data / "utt2spk").write_bytes(b"s1-a " + b"x" * (1 << 21))
    with pytest.raises(ManifestError, match="utt2spk, line 1: the row has"):
        rows(data)


def test_what_has_no_recording_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scp = SCP + "s3-x wav/missing.wav\n"
    data = directory(tmp_path, wav_scp=scp, utt2spk=UTT2SPK + "s3-x s3\ns4-y s4\n")
    assert [row.utterance_id for row in rows(data)] == ["s1-a", "s2-c"]
    assert "1 of 4 utterances have no recording by wav.scp and are left out, first s4-y" in caplog.text
    assert "1 of 3 recordings are not there and are left out, first" in caplog.text


def test_nothing_of_a_command_is_run(tmp_path: Path) -> None:
    data = directory(tmp_path, wav_scp=f"s1-a touch {tmp_path}/run |\n", utt2spk=UTT2SPK)
    with pytest.raises(ManifestError):
        rows(data)
    assert not (tmp_path / "run").exists()


def test_damaged_gzip_is_no_list(tmp_path: Path) -> None:
    from ge2e_transforms.list_files import text_lines

    packed = gzip.compress(b"a b\n" * 1000)
    (tmp_path / "x.gz").write_bytes(packed)
    assert len(list(text_lines(tmp_path / "x.gz"))) == 1000
    (tmp_path / "x.gz").write_bytes(packed[:-20])
    with pytest.raises(ManifestError, match="damaged gzip"):
        list(text_lines(tmp_path / "x.gz"))
