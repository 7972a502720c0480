"""Scanners of corpus trees, on trees of empty and small files, and on the real speech."""

from __future__ import annotations

import logging
import os
import shlex
from collections import Counter
from pathlib import Path

import pytest

from ge2e_transforms.corpora import librispeech, libritts, pattern, vctk, voxceleb
from ge2e_transforms.errors import ManifestError
from ge2e_transforms.manifest import Utterance


def make(root: Path, *paths: str) -> Path:
    """Files of 0, 1, 2 ... bytes."""
    for size, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x" * size)
    return root


def paths(rows: list[Utterance], root: Path) -> list[str]:
    return [row.audio_path.removeprefix(f"{root}/") for row in rows]


LIBRI = (
    "LibriSpeech/train-clean-100/19/198/19-198-0000.flac",
    "LibriSpeech/train-clean-100/19/198/19-198-0001.flac",
    "LibriSpeech/train-clean-100/19/227/19-227-0000.flac",
    "LibriSpeech/dev-clean/84/121123/84-121123-0000.flac",
    "LibriSpeech/test-other/367/130732/367-130732-0000.flac",
    "LibriSpeech/extra/7/8/7-8-0000.flac",
    "LibriSpeech/SPEAKERS.TXT",
    "LibriSpeech/test-other/367/130732/367-130732.trans.txt",
)


def test_librispeech_rows_are_pinned(tmp_path: Path) -> None:
    rows = list(librispeech(make(tmp_path, *LIBRI)))
    here = f"{tmp_path}/LibriSpeech"
    assert rows == [
        Utterance(f"{here}/{subset}/{name}", speaker, "libri", key, "librispeech", subset, split, session, bytes=size)
        for subset, split, name, speaker, session, key, size in [
            ("dev-clean", "valid", "84/121123/84-121123-0000.flac", "84", "121123", "84-121123-0000", 3),
            ("extra", "", "7/8/7-8-0000.flac", "7", "8", "7-8-0000", 5),
            ("test-other", "test", "367/130732/367-130732-0000.flac", "367", "130732", "367-130732-0000", 4),
            ("train-clean-100", "train", "19/198/19-198-0000.flac", "19", "198", "19-198-0000", 0),
            ("train-clean-100", "train", "19/198/19-198-0001.flac", "19", "198", "19-198-0001", 1),
            ("train-clean-100", "train", "19/227/19-227-0000.flac", "19", "227", "19-227-0000", 2),
        ]
    ]


def test_librispeech_from_any_of_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(librispeech(make(tmp_path, *LIBRI)))
    assert list(librispeech(tmp_path / "LibriSpeech")) == rows
    assert list(librispeech(str(tmp_path / "LibriSpeech" / "train-clean-100"))) == rows[3:]
    monkeypatch.chdir(tmp_path / "LibriSpeech" / "dev-clean")
    assert list(librispeech(".")) == rows[:1]


def test_librispeech_splits_can_be_given_or_left_open(tmp_path: Path) -> None:
    make(tmp_path, *LIBRI)
    assert {row.split for row in librispeech(tmp_path, splits={})} == {""}
    given = {row.subset: row.split for row in librispeech(tmp_path, splits={"extra": "train", "test-other": "hard"})}
    assert given == {"dev-clean": "", "extra": "train", "test-other": "hard", "train-clean-100": ""}


def test_librispeech_leaves_out_files_of_another_speaker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "test-other/367/130732/367-130732-0000.flac", "test-other/367/130732/99-130732-0001.flac")
    (row,) = librispeech(tmp_path)
    assert row.utterance_id == "367-130732-0000"
    assert "1 audio files do not fit" in caplog.text
    assert "99-130732-0001.flac" in caplog.text


def test_librispeech_real_speech(librispeech: Path) -> None:
    from ge2e_transforms import corpora

    rows = list(corpora.librispeech(librispeech.parent)) if librispeech.name == "LibriSpeech" else []
    rows = rows or list(corpora.librispeech(librispeech))
    assert len(rows) == 311
    speakers = {(row.split, row.speaker_key) for row in rows}
    assert Counter(split for split, _ in speakers) == {"train": 251, "test": 6}
    assert Counter(row.subset for row in rows) == {"train-clean-100": 251, "test-other": 60}
    assert all(row.bytes == Path(row.location).stat().st_size > 0 for row in rows)
    assert len({row.utterance_id for row in rows}) == 311
    assert {row.utterance_id.rsplit("-", 1)[0] for row in rows} == {
        f"{row.speaker_id}-{row.session_id}" for row in rows
    }
    assert [row.audio_path for row in rows] == sorted(row.audio_path for row in rows)


def test_pattern_rows_are_pinned(tmp_path: Path) -> None:
    root = make(tmp_path / "vox", "id2/ses/00001.wav", "id1/b/00001.wav", "id1/a/00001.wav", "id1/a/notes.txt")
    assert list(pattern(root, "{speaker}/{session}/{utterance}.wav")) == [
        Utterance(f"{root}/id1/a/00001.wav", "id1", "vox", "a/00001", "vox", session_id="a", bytes=2),
        Utterance(f"{root}/id1/b/00001.wav", "id1", "vox", "b/00001", "vox", session_id="b", bytes=1),
        Utterance(f"{root}/id2/ses/00001.wav", "id2", "vox", "ses/00001", "vox", session_id="ses", bytes=0),
    ]


def test_pattern_with_all_fields(tmp_path: Path) -> None:
    root = make(tmp_path, "vctk/clean/test/p225/x9/day1_p225_001_mic2.flac")
    layout = "{source}/{subset}/{split}/{speaker}/{any}/{session}_{speaker}_{utterance}_mic?.flac".replace("?", "*")
    (row,) = pattern(root, layout, namespace="readers")
    assert row[1:8] == ("p225", "readers", "day1/001", "vctk", "clean", "test", "day1")


@pytest.mark.parametrize(
    ("layout", "speaker", "utterance"),
    [
        ("{speaker}_{utterance}.wav", "a", "b_c"),
        ("{any}_{speaker}_{utterance}.wav", "b", "c"),
        ("{speaker}_*.wav", "a", "a_b_c"),
        ("*_{speaker}.wav", "c", "a_b_c"),
        ("{speaker}.wav", "a_b_c", "a_b_c"),
        ("a{any}{speaker}_c.wav", "b", "a_b_c"),
    ],
)
def test_fields_within_a_name(tmp_path: Path, layout: str, speaker: str, utterance: str) -> None:
    (row,) = pattern(make(tmp_path, "a_b_c.wav"), layout)
    assert (row.speaker_id, row.utterance_id) == (speaker, utterance)


def test_a_field_that_comes_twice_is_the_same_twice(tmp_path: Path) -> None:
    root = make(tmp_path, "s1/s1_a.wav", "s2/s1_a.wav")
    assert paths(list(pattern(root, "{speaker}/{speaker}_{utterance}.wav")), root) == ["s1/s1_a.wav"]
    assert len(list(pattern(root, "{any}/{speaker}_{any}.wav"))) == 2


def test_pattern_characters_mean_themselves(tmp_path: Path) -> None:
    root = make(tmp_path, "s(1)+/a.wav", "s(1)+/aXwav", "s11/a.wav")
    assert paths(list(pattern(root, "s({speaker})+/{utterance}.wav")), root) == ["s(1)+/a.wav"]


def test_without_an_utterance_field_the_path_is_the_id(tmp_path: Path) -> None:
    root = make(tmp_path, "s/x/1.wav", "s/y/1.wav")
    assert [row.utterance_id for row in pattern(root, "{speaker}/{any}/*.wav")] == ["s/x/1", "s/y/1"]


def test_source_and_namespace(tmp_path: Path) -> None:
    root = make(tmp_path / "corpus", "s/1.wav")
    (row,) = pattern(root, "{speaker}/{utterance}.wav", source="mine")
    assert (row.source, row.speaker_key) == ("mine", "mine/s")
    (row,) = pattern(root, "{speaker}/{utterance}.wav", source="mine", namespace="ours")
    assert (row.source, row.speaker_key) == ("mine", "ours/s")
    with pytest.raises(ManifestError, match=r"source 'mine' and \{source\} in the pattern"):
        list(pattern(root, "{source}/{speaker}.wav", source="mine"))
    with pytest.raises(ManifestError, match=r"corpus/s/1\.wav, by the pattern .*namespace='a/b': expected a name"):
        list(pattern(root, "{speaker}/{utterance}.wav", namespace="a/b"))


def test_a_folder_that_cannot_be_a_split(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"by the pattern .*split='my test': expected up to 64"):
        list(pattern(make(tmp_path, "my test/s/1.wav"), "{split}/{speaker}/{utterance}.wav"))


def test_nothing_fits_shows_what_is_there(tmp_path: Path) -> None:
    root = make(tmp_path, *(f"s{number}/a/{number}.WAV" for number in range(9)), "s1/notes.txt")
    with pytest.raises(ManifestError) as caught:
        list(pattern(root, "{speaker}/{session}/{utterance}.wav"))
    message = str(caught.value)
    assert "no file fits '{speaker}/{session}/{utterance}.wav', which needs paths such as" in message
    assert "SPEAKER/SESSION/UTTERANCE.wav" in message
    assert "Found 9 audio files: 's0/a/0.WAV', 's1/a/1.WAV', 's2/a/2.WAV', 's3/a/3.WAV', 's4/a/4.WAV', ..." in message
    assert "notes" not in message
    with pytest.raises(ManifestError, match=r"Found 9 audio files: 's0/a/0\.WAV'"):
        list(librispeech(root))


def test_no_audio_at_all(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"there is no audio at all below it \(looked for \.aac .*check the folder"):
        list(pattern(make(tmp_path, "s/notes.txt"), "{speaker}/{utterance}.wav"))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("{session}/{utterance}.wav", "got no {speaker}"),
        ("{speaker}/{take}.wav", "got unknown take"),
        ("{speaker}/{}.wav", "got unknown "),
        ("{speaker}/{utterance.wav", "a brace without its other one"),
        ("/{speaker}/{utterance}.wav", "expected names and fields between single '/'"),
        ("{speaker}//{utterance}.wav", "expected names and fields between single '/'"),
        ("../{speaker}.wav", "expected names and fields between single '/'"),
        ("{speaker}/**/{utterance}.wav", "write one {any} per folder between"),
    ],
)
def test_patterns_that_cannot_be_used(tmp_path: Path, layout: str, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        list(pattern(tmp_path, layout))
    assert f"pattern {layout!r} cannot be used" in str(caught.value)
    assert message in str(caught.value)


def test_folders_that_are_none(tmp_path: Path) -> None:
    make(tmp_path, "file")
    with pytest.raises(ManifestError, match="no is not there: expected the folder that holds the corpus"):
        list(librispeech(tmp_path / "no"))
    with pytest.raises(ManifestError, match="file is not a folder"):
        list(pattern(tmp_path / "file", "{speaker}.wav"))


def test_left_out_audio_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make(tmp_path, "s/1.wav", "s/2.flac", "s/deep/er/3.wav", "4.mp3", "s/notes.txt", ".cache/5.wav", "s/._1.wav")
    assert paths(list(pattern(root, "{speaker}/{utterance}.wav")), root) == ["s/1.wav"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "3 audio files do not fit {speaker}/{utterance}.wav and are left out, first '4.mp3'" in record.getMessage()


def test_no_warning_without_left_out_audio(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    list(pattern(make(tmp_path, "s/1.wav", "s/1.txt"), "{speaker}/{utterance}.wav"))
    assert caplog.records == []


def test_links_are_followed_but_not_round_and_round(tmp_path: Path) -> None:
    root = make(tmp_path / "root", "a/1.wav", "a/b/2.wav")
    outside = make(tmp_path / "pool", "3.wav")
    (root / "c").symlink_to(outside)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(".")
    (root / "again").symlink_to(".")
    assert paths(list(pattern(root, "{speaker}/{utterance}.wav")), root) == ["a/1.wav", "c/3.wav"]
    assert paths(list(pattern(root, "{speaker}/{session}/{utterance}.wav")), root) == ["a/b/2.wav"]


def test_links_without_an_end_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make(tmp_path, "s/1.wav")
    (root / "s" / "2.wav").symlink_to("nowhere.wav")
    (root / "s" / "3.wav").symlink_to("3.wav")
    (root / "s" / "4.wav").symlink_to("1.wav")
    assert paths(list(pattern(root, "{speaker}/{utterance}.wav")), root) == ["s/1.wav", "s/4.wav"]
    assert "2 audio files do not fit" in caplog.text


def test_names_that_are_not_utf8_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make(tmp_path, "s/é.wav")
    try:
        Path(os.fsdecode(os.fsencode(root) + b"/s/\xff.wav")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert paths(list(pattern(root, "{speaker}/{utterance}.wav")), root) == ["s/é.wav"]
    assert "1 audio files do not fit" in caplog.text
    assert r"s/\udcff.wav" in caplog.text


def test_odd_names_are_kept(tmp_path: Path) -> None:
    root = make(tmp_path, 'a,"b\u202ec/1 é.wav')
    (row,) = pattern(root, "{speaker}/{utterance}.wav")
    assert (row.speaker_id, row.utterance_id) == ('a,"b\u202ec', "1 é")


def test_names_with_control_characters_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They may not be ids, and one such name is no reason to give up all others."""
    root = make(tmp_path, "s/1.wav", "s/2\n.wav", "s\x1b[2J/3.wav")
    assert [row.utterance_id for row in pattern(root, "{speaker}/{utterance}.wav")] == ["1"]
    assert "2 audio files do not fit" in caplog.text
    assert r"s/2\n.wav" in caplog.text


def test_order_is_by_folder_then_name(tmp_path: Path) -> None:
    root = make(tmp_path, "b/1.wav", "a-/1.wav", "a/2.wav", "a/1.wav", "a/10.wav")
    assert paths(list(pattern(root, "{speaker}/{utterance}.wav")), root) == [
        "a/1.wav", "a/10.wav", "a/2.wav", "a-/1.wav", "b/1.wav",
    ]  # fmt: skip


def test_libritts_shares_the_population_of_librispeech(tmp_path: Path) -> None:
    make(tmp_path, "LibriTTS/train-clean-100/103/1240/103_1240_000000_000001.wav", "LibriTTS/SPEAKERS.txt")
    (row,) = libritts(tmp_path)
    assert row[1:8] == ("103", "libri", "103_1240_000000_000001", "libritts", "train-clean-100", "train", "1240")


VOX1 = (
    "dev/wav/id10001/1zcIwhmdeo4/00001.wav",
    "dev/wav/id10001/1zcIwhmdeo4/00002.wav",
    "dev/wav/id10001/7gWzIy6yIIk/00001.wav",
    "test/wav/id10270/5r0dWxy17C8/00001.wav",
)
META = """VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet
id10001\tA.J._Buckley\tm\tIreland\tdev
id10270\tEartha_Kitt\tf\tUSA\ttest
"""


def test_voxceleb1_rows_are_pinned(tmp_path: Path) -> None:
    rows = list(voxceleb(make(tmp_path, *VOX1, "dev/txt/id10001/1zcIwhmdeo4/00001.txt"), 1))
    assert rows == [
        Utterance(f"{tmp_path}/{path}", speaker, "voxceleb", key, "voxceleb1", subset, split, session, bytes=size)
        for size, (path, speaker, key, subset, split, session) in enumerate(
            [
                (VOX1[0], "id10001", "1zcIwhmdeo4/00001", "dev", "train", "1zcIwhmdeo4"),
                (VOX1[1], "id10001", "1zcIwhmdeo4/00002", "dev", "train", "1zcIwhmdeo4"),
                (VOX1[2], "id10001", "7gWzIy6yIIk/00001", "dev", "train", "7gWzIy6yIIk"),
                (VOX1[3], "id10270", "5r0dWxy17C8/00001", "test", "test", "5r0dWxy17C8"),
            ]
        )
    ]
    assert {row.split for row in voxceleb(tmp_path, 1, splits=False)} == {""}


def test_voxceleb2_as_m4a(tmp_path: Path) -> None:
    make(tmp_path, "dev/aac/id00012/21Uxsk56VDQ/00001.m4a", "vox2_test_aac/aac/id00017/01dfn2spqyE/00001.m4a")
    rows = list(voxceleb(tmp_path, 2))
    assert [(row.speaker_key, row.source, row.split) for row in rows] == [
        ("voxceleb/id00012", "voxceleb2", "train"),
        ("voxceleb/id00017", "voxceleb2", "test"),
    ]


@pytest.mark.parametrize("root", ["", "dev", "dev/wav"])
def test_voxceleb_from_any_of_its_folders(tmp_path: Path, root: str) -> None:
    make(tmp_path / "of-dev", *VOX1[:3])
    rows = list(voxceleb(tmp_path / "of-dev" / root, 1))
    assert [row.audio_path for row in rows] == [f"{tmp_path}/of-dev/{path}" for path in VOX1[:3]]
    # The name of the root tells the set, if it is one; what lies above the root does not.
    assert {row.split for row in rows} == {"" if root == "dev/wav" else "train"}


def test_voxceleb_without_sets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "wav/id10001/1zcIwhmdeo4/00001.wav", "wav/id10270/5r0dWxy17C8/00001.wav")
    assert [row.split for row in voxceleb(tmp_path, 1)] == ["", ""]
    assert "2 rows get no split, as no folder is named dev or test" in caplog.text
    caplog.clear()
    (tmp_path / "vox1_meta.csv").write_text(META)
    assert [row.split for row in voxceleb(tmp_path, 1)] == ["train", "test"]
    assert caplog.records == []


def test_voxceleb_identity_tables(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """That of VoxCeleb2 is published with commas, and spaces before them."""
    make(tmp_path / "c", "aac/id00012/v/00001.m4a", "aac/id00015/v/00001.m4a")
    meta = tmp_path / "vox2_meta.csv"
    meta.write_text("VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00012 ,n000012 ,m ,dev \n")
    assert [row.split for row in voxceleb(tmp_path / "c", 2, meta)] == ["train", ""]
    assert "1 speakers are not in the identity table, first id00015" in caplog.text
    meta.write_text("VoxCeleb2 ID\tSet\nid12\tdev\n")
    with pytest.raises(ManifestError, match=r"vox2_meta\.csv, line 2: expected an id such as id10001"):
        list(voxceleb(tmp_path / "c", 2, meta))
    meta.write_text("VoxCeleb2 ID\tSet\nid00012\tdev\nid00012\tdev\n")
    with pytest.raises(ManifestError, match="line 3: id00012 stands here for the second time"):
        list(voxceleb(tmp_path / "c", 2, meta))
    with pytest.raises(ManifestError, match=r"no\.csv cannot be read \(No such file"):
        list(voxceleb(tmp_path / "c", 2, tmp_path / "no.csv"))


def test_voxceleb_takes_one_of_two_formats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "dev/aac/id00012/v/00001.m4a", "dev/wav/id00012/v/00001.wav", "dev/wav/id00012/v/00002.wav")
    assert paths(list(voxceleb(tmp_path, 2)), tmp_path) == [
        "dev/aac/id00012/v/00001.m4a",
        "dev/wav/id00012/v/00002.wav",
    ]
    assert "1 utterances are there in two formats" in caplog.text


def test_other_trees_are_no_voxceleb(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"no file fits '\{speaker\}/\{session\}/\{utterance\}\.wav' or .*form id.d"
    ):
        list(voxceleb(make(tmp_path, "noise/free-sound/noise-0001.wav"), 1))


VCTK = (
    "VCTK-Corpus-0.92/wav48_silence_trimmed/p225/p225_001_mic1.flac",
    "VCTK-Corpus-0.92/wav48_silence_trimmed/p225/p225_001_mic2.flac",
    "VCTK-Corpus-0.92/wav48_silence_trimmed/p280/p280_001_mic1.flac",
    "VCTK-Corpus-0.92/wav48_silence_trimmed/p315/p315_001_mic1.flac",
    "VCTK-Corpus-0.92/wav48_silence_trimmed/s5/s5_001_mic1.flac",
    "VCTK-Corpus-0.92/wav48_silence_trimmed/s5/s5_001_mic2.flac",
    "VCTK-Corpus-0.92/wav48_silence_trimmed/log.txt",
    "VCTK-Corpus-0.92/txt/p225/p225_001.txt",
    "VCTK-Corpus-0.92/speaker-info.txt",
)


def test_vctk_rows_are_pinned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, *VCTK)
    rows = list(vctk(tmp_path))
    assert rows == [
        Utterance(f"{tmp_path}/{VCTK[size]}", speaker, "vctk", f"{speaker}_001", "vctk", "mic1", bytes=size)
        for size, speaker in [(0, "p225"), (2, "p280"), (3, "p315"), (4, "s5")]
    ]
    assert caplog.records == []
    assert list(vctk(tmp_path / "VCTK-Corpus-0.92")) == rows
    assert list(vctk(tmp_path / "VCTK-Corpus-0.92" / "wav48_silence_trimmed")) == rows


def test_vctk_of_the_other_microphone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = list(vctk(make(tmp_path, *VCTK), mic=2))
    assert [(row.speaker_id, row.utterance_id, row.subset) for row in rows] == [
        ("p225", "p225_001", "mic2"),
        ("s5", "s5_001", "mic2"),
    ]
    assert "2 speakers were not recorded by mic2 and are left out: p280, p315" in caplog.text
    alone = make(tmp_path / "alone", "p280/p280_001_mic1.flac")
    with pytest.raises(ManifestError, match=r"no recording of mic2, only of mic1: take --mic 1"):
        list(vctk(alone, mic=2))


@pytest.mark.parametrize(
    ("found", "fits"),
    [
        (("a/1.ogg", "b/1.ogg"), "{speaker}/{utterance}.ogg fits 2 of the first 2"),
        (
            ("w/a b/x/1.WAV", "w/c/x/1.WAV", "w/notes.mp3"),
            "w/{speaker}/{session}/{utterance}.WAV fits 2 of the first 3",
        ),
        (("ann_1.wav", "bob_1.wav"), "{speaker}_{utterance}.wav fits 2 of the first 2"),
    ],
)
def test_nothing_fits_proposes_a_pattern_that_does(tmp_path: Path, found: tuple[str, ...], fits: str) -> None:
    root = make(tmp_path / "my corpus", *found)
    for scan in (pattern(root, "{speaker}/{session}/{any}/{utterance}.flac"), librispeech(root), voxceleb(root, 1)):
        with pytest.raises(ManifestError) as caught:
            list(scan)
        assert fits in str(caught.value)
        command = str(caught.value).rpartition("To use it: ")[2]
        _, _, kind, where, _, layout, *_ = shlex.split(command)
        assert kind == "pattern"
        assert len(list(pattern(where, layout))) >= 2


def test_a_tree_that_is_a_trap(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(210):
        folder /= "d"
    folder.mkdir(parents=True)
    with pytest.raises(ManifestError, match="lies below more than 200 folders"):
        list(pattern(tmp_path, "{speaker}.wav"))
