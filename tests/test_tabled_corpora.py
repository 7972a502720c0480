"""Common Voice and folders of the Hugging Face Hub, with their real layouts and names."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from ge2e_transforms.errors import ManifestError
from ge2e_transforms.manifest import Utterance
from ge2e_transforms.tabled_corpora import audiofolder, common_voice

HEADER = "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\taccents\tvariant"
HEADER += "\tlocale\tsegment\n"


def make(root: Path, *paths: str) -> Path:
    """Files of 1, 2, 3 ... bytes."""
    for size, path in enumerate(paths, 1):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x" * size)
    return root


def clip(client: str, number: int, language: str = "it") -> str:
    sentence = 'E disse "dove?\t'
    return f"{client}\tcommon_voice_{language}_{number}.mp3\t5e1\t{sentence}\t2\t0\t\t\t\t\t{language}\t\n"


@pytest.fixture
def italian(tmp_path: Path) -> Path:
    """`cv-corpus-17.0-2024-03-15/it` with four clips and its lists."""
    folder = tmp_path / "cv-corpus-17.0-2024-03-15" / "it"
    make(folder, *(f"clips/common_voice_it_{number}.mp3" for number in range(1, 6)))
    (folder / "train.tsv").write_text(HEADER + clip("aa", 1) + clip("aa", 2))
    (folder / "dev.tsv").write_text(HEADER + clip("bb", 3))
    (folder / "test.tsv").write_text(HEADER + clip("cc", 4))
    (folder / "validated.tsv").write_text(HEADER + clip("cc", 4) + clip("aa", 1) + clip("dd", 5))
    (folder / "times.txt").write_text("-")
    return folder


def test_common_voice_rows_are_pinned(italian: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = list(common_voice(italian.parent))
    assert rows == [
        Utterance(
            f"{italian}/clips/common_voice_it_{size}.mp3", client, "common_voice", f"common_voice_it_{size}",
            "common_voice_it", name, split, bytes=size, manifest=f"{italian}/{name}.tsv", position=line,
        )
        for size, client, name, split, line in [
            (1, "aa", "train", "train", 2),
            (2, "aa", "train", "train", 3),
            (3, "bb", "dev", "valid", 2),
            (4, "cc", "test", "test", 2),
        ]
    ]  # fmt: skip
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "several people may be behind one" in warning.getMessage()
    assert list(common_voice(italian)) == rows
    assert {row.split for row in common_voice(italian, splits=False)} == {""}


def test_common_voice_lists_are_chosen_and_clips_come_once(italian: Path) -> None:
    rows = list(common_voice(italian, ["train", "validated"]))
    assert [(row.utterance_id[-1], row.subset, row.split) for row in rows] == [
        ("1", "train", "train"),
        ("2", "train", "train"),
        ("4", "validated", ""),
        ("5", "validated", ""),
    ]
    with pytest.raises(
        ManifestError, match=r"there is no other\.tsv; lists that are there: dev, test, train, validated"
    ):
        list(common_voice(italian, ["other"]))


def test_common_voice_of_several_languages(italian: Path) -> None:
    german = italian.parent / "de"
    make(german, "clips/common_voice_de_9.mp3")
    (german / "train.tsv").write_text(HEADER + clip("aa", 9, "de"))
    rows = list(common_voice(italian.parent, ["train"]))
    assert [(row.source, row.speaker_key) for row in rows] == [
        ("common_voice_de", "common_voice/aa"),
        ("common_voice_it", "common_voice/aa"),
        ("common_voice_it", "common_voice/aa"),
    ]


def test_common_voice_durations(italian: Path) -> None:
    (italian / "clip_durations.tsv").write_text("clip\tduration[ms]\ncommon_voice_it_1.mp3\t4536\n")
    assert [row.duration_s for row in common_voice(italian)] == [4.536, None, None, None]
    (italian / "clip_durations.tsv").write_text("clip\tduration[ms]\ncommon_voice_it_1.mp3\tlong\n")
    with pytest.raises(ManifestError, match=r"clip_durations\.tsv, line 2: duration='long'"):
        list(common_voice(italian))


def test_common_voice_tells_of_missing_clips(italian: Path, caplog: pytest.LogCaptureFixture) -> None:
    (italian / "clips" / "common_voice_it_2.mp3").unlink()
    assert len(list(common_voice(italian))) == 3
    assert "1 of 4 recordings are not there and are left out, first" in caplog.text
    for path in (italian / "clips").iterdir():
        path.unlink()
    with pytest.raises(ManifestError, match="none of the 4 recordings is there"):
        list(common_voice(italian))


def test_common_voice_faults(italian: Path, tmp_path: Path) -> None:
    (italian / "dev.tsv").write_text(HEADER + clip("bb", 3) + "cut off\tcommon_voice\n")
    with pytest.raises(ManifestError, match=r"dev\.tsv, line 3: expected 13 fields as in the first line, got 2"):
        list(common_voice(italian))
    (italian / "dev.tsv").write_text("client\tpath\n")
    with pytest.raises(ManifestError, match=r"dev\.tsv, line 1: expected a column 'client_id'"):
        list(common_voice(italian))
    for path in ("../../secret.mp3", "/etc/secret.mp3"):
        (italian / "dev.tsv").write_text(f"client_id\tpath\naa\t{path}\n")
        with pytest.raises(ManifestError, match=rf"dev\.tsv, line 2: '{path}' leads out of .*/it/clips"):
            list(common_voice(italian))
    with pytest.raises(ManifestError, match="expected the folder of a language, with 'clips' in it"):
        common_voice(make(tmp_path / "other", "a/b.mp3"))


def test_audiofolder_with_a_table(tmp_path: Path) -> None:
    root = make(tmp_path / "hub", "data/first file.mp3", "data/second.mp3", "README.md")
    (root / "metadata.csv").write_text(
        'file_name,transcription,speaker_id\ndata/first file.mp3,"a, b",s1\ndata/second.mp3,c,s2\n'
    )
    rows = list(audiofolder(root))
    table = f"{root}/metadata.csv"
    assert rows == [
        Utterance(f"{root}/{name}", speaker, "hub", name, "hub", bytes=size, manifest=table, position=size + 1)
        for name, speaker, size in [("data/first file.mp3", "s1", 1), ("data/second.mp3", "s2", 2)]
    ]
    given = list(audiofolder(root, "transcription", "mine", "ours"))
    assert [(row.speaker_id, row.source, row.namespace) for row in given] == [
        ("a, b", "mine", "ours"),
        ("c", "mine", "ours"),
    ]


def test_audiofolder_with_a_table_for_each_split(tmp_path: Path) -> None:
    root = make(tmp_path, "train/1.wav", "validation/2.wav")
    for name, number in (("train", 1), ("validation", 2)):
        row = {"file_name": f"{number}.wav", "speaker": number}
        (root / name / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    assert [(row.utterance_id, row.speaker_id, row.split, row.subset) for row in audiofolder(root)] == [
        ("train/1.wav", "1", "train", "train"),
        ("validation/2.wav", "2", "valid", "validation"),
    ]
    assert {row.split for row in audiofolder(root, splits=False)} == {""}


def test_audiofolder_with_folders_of_speakers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make(
        tmp_path / "hub", "data/train/ann/01.mp3", "data/train/bob/01.mp3", "data/test/carl/09.mp3", "train/5.wav"
    )
    assert [(row.speaker_id, row.utterance_id, row.split, row.bytes) for row in audiofolder(root)] == [
        ("carl", "data/test/carl/09.mp3", "test", 3),
        ("ann", "data/train/ann/01.mp3", "train", 1),
        ("bob", "data/train/bob/01.mp3", "train", 2),
    ]
    assert "1 files lie in no folder of a speaker and are left out, first train/5.wav" in caplog.text


def test_audiofolder_without_splits(tmp_path: Path) -> None:
    assert [(row.speaker_id, row.split) for row in audiofolder(make(tmp_path, "ann/1.wav"))] == [("ann", "")]


def test_audiofolder_faults(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"1 audio files lie in no folder of a speaker, first '1\.wav'"):
        list(audiofolder(make(tmp_path / "1", "1.wav")))
    with pytest.raises(ManifestError, match="no audio: expected metadata"):
        list(audiofolder(make(tmp_path / "2", "a/1.txt")))
    root = make(tmp_path / "3", "1.wav")
    (root / "metadata.csv").write_text("file_name,label\n1.wav,x\n")
    with pytest.raises(
        ManifestError, match=r"metadata\.csv, line 2: expected a column of speakers, speaker_id or .*--speaker_c"
    ):
        list(audiofolder(root))
    assert [row.speaker_id for row in audiofolder(root, "label")] == ["x"]
    (root / "metadata.csv").write_text("file_name,label\n1.wav,x\n2.wav,y\n1.wav,x\n")
    with pytest.raises(
        ManifestError, match=r"metadata\.csv, line 4: the utterance '1\.wav' of speaker 'x' stands in .*csv, line 2"
    ):
        list(audiofolder(root, "label"))
    (root / "metadata.csv").write_text("file_name,label\n../2/a.wav,x\n")
    with pytest.raises(ManifestError, match=r"metadata\.csv, line 2: '\.\./2/a\.wav' leads out of"):
        list(audiofolder(root, "label"))
    (root / "metadata.csv").write_text("name,label\n1.wav,x\n")
    with pytest.raises(ManifestError, match=r"line 1: expected a column 'file_name'"):
        list(audiofolder(root, "label"))
