"""Lists of wespeaker, NeMo and SpeechBrain as they are written: rows are pinned, and faults have a line."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ge2e_transforms.errors import ManifestError
from ge2e_transforms.list_files import ListOptions
from ge2e_transforms.manifest import Utterance
from ge2e_transforms.toolkit_lists import nemo, speechbrain, wespeaker


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """`vox/data` for lists, and `vox/wav` with `a b.wav` (1 byte) and `c.flac` (2 bytes)."""
    root = tmp_path / "vox"
    (root / "data").mkdir(parents=True)
    (root / "wav").mkdir()
    (root / "wav" / "a b.wav").write_bytes(b"1")
    (root / "wav" / "c.flac").write_bytes(b"12")
    return root


def objects(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def short(rows: Iterator[Utterance]) -> list[tuple[Any, ...]]:
    """Path, speaker, id, offset, duration and bytes."""
    return [(Path(row.audio_path).name, row.speaker_id, row.utterance_id, *row[9:12]) for row in rows]


def test_wespeaker_raw_list(corpus: Path) -> None:
    keys = ("id1/v/1", "id2/v/1")
    path = objects(
        corpus / "data" / "raw.list",
        {"key": keys[0], "wav": f"{corpus}/wav/a b.wav", "spk": "id1"},
        {"key": keys[1], "wav": "wav/c.flac", "spk": "id2"},
    )
    assert list(wespeaker(path, ListOptions(root=str(corpus), split="train"))) == [
        Utterance(f"{corpus}/wav/{name}", speaker, "data", key, "data", split="train", bytes=size, manifest=str(path))
        ._replace(position=size)
        for name, speaker, key, size in [("a b.wav", "id1", keys[0], 1), ("c.flac", "id2", keys[1], 2)]
    ]  # fmt: skip
    objects(path, {"key": "x", "wav": "wav/c.flac", "speaker": "old"})
    assert short(wespeaker(path, ListOptions(root=str(corpus)))) == [("c.flac", "old", "x", None, None, 2)]


def test_wespeaker_folder_is_of_kaldis_form(corpus: Path) -> None:
    (corpus / "data" / "wav.scp").write_text("k wav/c.flac\n")
    (corpus / "data" / "utt2spk").write_text("k id2\n")
    options = ListOptions(root=str(corpus), source="vox", namespace="voxceleb")
    (row,) = wespeaker(corpus / "data", options)
    assert (row.speaker_key, row.source, row.bytes) == ("voxceleb/id2", "vox", 2)


def shard(path: Path, **members: bytes) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def test_wespeaker_shards(corpus: Path) -> None:
    data = corpus / "data"
    first = shard(
        data / "s0.tar", **{"id1/v/1.2__spk": b"id1", "id1/v/1.2__wav": b"RIFF", "b__spk": b"id2", "b__flac": b"f"}
    )
    shard(data / "s1.tar", c__spk=b"id3", c__wav=b"12")
    (data / "shard.list").write_text(f"{first}\ndata/s1.tar\n")
    rows = list(wespeaker(data / "shard.list", ListOptions(root=str(corpus))))
    assert [(row.audio_path, row.speaker_id, row.utterance_id, row.bytes) for row in rows] == [
        (f"{data}/s0.tar#id1/v/1.2.wav", "id1", "id1/v/1.2", 4),
        (f"{data}/s0.tar#b.flac", "id2", "b", 1),
        (f"{data}/s1.tar#c.wav", "id3", "c", 2),
    ]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a__spk": b"s"}, r"shard\.list, line 1: .*expected pairs of key\.spk and audio, got one alone of 'a'"),
        ({"a__spk": b"s", "a__wav": b"", "b__wav": b""}, "one alone of 'b'"),
        ({"a__spk": b" ", "a__wav": b""}, "line 1: speaker_id is empty"),
        ({"a__spk": b"s\x1b", "a__wav": b""}, "line 1: speaker_id='s.x1b'"),
    ],
)
def test_wespeaker_shards_that_are_odd(corpus: Path, members: dict[str, bytes], message: str) -> None:
    listed = corpus / "shard.list"
    listed.write_text(shard(corpus / "s.tar", **members) + "\n")
    with pytest.raises(ManifestError, match=message):
        list(wespeaker(listed))


def test_wespeaker_faults(corpus: Path) -> None:
    listed = corpus / "a.list"
    for text, message in [
        ("", "is empty: expected wespeaker's raw.list or shard.list"),
        ("no.tar\n", "line 1: .*no.tar cannot be read"),
        ("s.tar.gz\n", r"line 1: expected the path of a \.tar"),
        ('{"key": "a"', "line 1: not JSON"),
        ('{"key": "a", "spk": "s", "wav": "sox x.sph -t wav - |"}', "line 1: 'sox x.sph -t wav - |' is a command"),
        ('{"key": "a", "spk": null, "wav": "a"}', "line 1: expected text under 'spk' or 'speaker', got nothing"),
        ('{"key": "a", "spk": 7, "wav": ["a"]}', r"line 1: expected text under 'wav', got \['a'\]"),
        ("[1]\n", r"line 1: expected the path of a \.tar"),
    ]:
        listed.write_text(text)
        with pytest.raises(ManifestError, match=message):
            list(wespeaker(listed))


def test_nemo(corpus: Path) -> None:
    """As `filelist_to_manifest` writes it, and as speaker diarization does."""
    path = objects(
        corpus / "train.json",
        {"audio_filepath": "wav/a b.wav", "offset": 0, "duration": 3.5, "label": "id1"},
        {"audio_filepath": f"{corpus}/wav/a b.wav", "offset": 3.5, "duration": 1.25, "label": 7},
        {"audio_filepath": "wav/c.flac", "duration": None, "label": "infer", "speaker": "id2", "text": "-"},
    )
    here = f"{corpus}/wav"
    assert short(nemo(path)) == [
        ("a b.wav", "id1", "wav/a b.wav@0.0+3.5", 0.0, 3.5, 1),
        ("a b.wav", "7", f"{here}/a b.wav@3.5+1.25", 3.5, 1.25, 1),
        ("c.flac", "id2", "wav/c.flac", None, None, 2),
    ]
    assert {row.source for row in nemo(path)} == {"vox"}
    with pytest.raises(ManifestError, match=r"none of the 3 recordings is there.*--root"):
        list(nemo(objects(path, *[{"audio_filepath": f"x{n}.wav", "label": "a"} for n in range(3)])))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio_filepath": "wav/c.flac"}, "expected text under 'speaker' or 'speaker_id' or 'label', got nothing"),
        ({"label": "a"}, "expected text under 'audio_filepath', got nothing"),
        ({"audio_filepath": ["a", "b"], "label": "a"}, r"expected text under 'audio_filepath', got \['a', 'b'\]"),
        ({"audio_filepath": "wav/c.flac", "label": "a", "offset": -1}, "offset=-1: expected a number from 0 up"),
        ({"audio_filepath": "wav/c.flac", "label": "a", "duration": True}, "duration=True: expected a number"),
        ({"audio_filepath": "wav/c.flac", "label": "a", "duration": 0}, "duration_s=0: expected more than 0"),
        ({"audio_filepath": "wav/c.flac", "label": "a\u0007"}, r"speaker_id='a\\x07': expected text without control"),
        ({"audio_filepath": "wav/\ud800.wav", "label": "a"}, "audio_path="),
        ([], "expected a JSON object"),
    ],
)
def test_nemo_faults_have_a_line(corpus: Path, row: Any, message: str) -> None:
    good = {"audio_filepath": "wav/c.flac", "label": "a"}
    with pytest.raises(ManifestError, match=rf"train\.json, line 2: {message}"):
        list(nemo(objects(corpus / "train.json", {**good, "label": "b"}, row)))


def test_doubled_ids_name_both_lines(corpus: Path) -> None:
    good = {"audio_filepath": "wav/c.flac", "label": "a"}
    with pytest.raises(
        ManifestError, match=r"line 3: the utterance '.*c\.flac' of speaker 'a' stands in .*\.json, line 1 too"
    ):
        list(nemo(objects(corpus / "train.json", good, {**good, "label": "b"}, good)))


SPEECHBRAIN = """ID,duration,wav,start,stop,spk_id
id10001--1zcIwhmdeo4--00001_0.0_3.0,8.12,$data_root/wav/a b.wav,0,48000,id10001
id10001--1zcIwhmdeo4--00001_3.0_6.0,8.12,$data_root/wav/a b.wav,48000,96000,id10001
id10002--x--1,2.5,$data_root/wav/c.flac,0,40000,id10002
"""


def test_speechbrain(corpus: Path) -> None:
    path = corpus / "data" / "train.csv"
    path.write_text(SPEECHBRAIN)
    assert short(speechbrain(path, data_root=str(corpus))) == [
        ("a b.wav", "id10001", "id10001--1zcIwhmdeo4--00001_0.0_3.0", 0.0, 3.0, 1),
        ("a b.wav", "id10001", "id10001--1zcIwhmdeo4--00001_3.0_6.0", 3.0, 3.0, 1),
        ("c.flac", "id10002", "id10002--x--1", None, 2.5, 2),
    ]
    assert [row.offset_s for row in speechbrain(path, data_root=str(corpus), rate_hz=8000)] == [0.0, 6.0, 0.0]


def test_speechbrain_with_spaces_quotes_and_without_pieces(corpus: Path) -> None:
    path = corpus / "train.csv"
    path.write_text('ID, duration, wav, spk_id, wrd\nx, , wav/c.flac, s, "a\nb"\ny, 1.5, "wav/a b.wav", s, c\n')
    assert short(speechbrain(path, ListOptions(root=str(corpus)))) == [
        ("c.flac", "s", "x", None, None, 2),
        ("a b.wav", "s", "y", None, 1.5, 1),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x,1,$data_root/a.wav,0,1,s", r"has the placeholder \$data_root: --data_root gives its value"),
        ("x,1,${scratch}/a.wav,0,1,s", r"has the placeholder \$scratch: only \$data_root is known"),
        ("x,1,a.wav,5,5,s", "start=5 and stop=5: expected samples, the stop behind"),
        ("x,1,a.wav,a,5,s", "start='a': expected a number"),
        ("x,1,a.wav,0,5", "expected 6 fields as in the first line, got 5"),
        ("x,1,wav/c.flac,0,5,", "speaker_id is empty"),
        ('x,1,"a.wav,0,5,s', "not CSV"),
    ],
)
def test_speechbrain_faults_have_a_line(corpus: Path, line: str, message: str) -> None:
    path = corpus / "train.csv"
    path.write_text(f'ID,duration,wav,start,stop,spk_id\n"a",1,wav/c.flac,0,16000,s\n{line}\n')
    with pytest.raises(ManifestError, match=rf"train\.csv, line 3: .*{message}"):
        list(speechbrain(path, ListOptions(root=str(corpus))))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_line_holds_is_rows_or_a_named_error(corpus: Path, data: st.DataObject) -> None:
    names = st.sampled_from(["key", "wav", "spk", "audio_filepath", "label", "offset", "duration", "x"])
    texts = st.sampled_from(["wav/c.flac", "s", "", "\x1b", "\ud800", "a|"]) | st.text(max_size=5)
    numbers = st.sampled_from([0, -1, 10**400, 1.5, float("nan"), True, None])
    values = st.recursive(texts | numbers, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner))
    row = data.draw(st.dictionaries(names, values, min_size=1) | values)
    path = objects(corpus / "list.json", row)
    for read in (wespeaker, nemo, speechbrain):
        try:
            assert all(row.speaker_id for row in read(path, ListOptions(root=str(corpus))))
        except ManifestError as error:
            assert str(error)


def test_a_name_that_stands_twice(corpus: Path) -> None:
    path = corpus / "list"
    path.write_text('{"audio_filepath": "wav/c.flac", "label": "a", "label": "b"}')
    with pytest.raises(ManifestError, match=r"line 1: not JSON \(a name comes twice among"):
        list(nemo(path))
    path.write_text("ID,wav,spk_id,wav\n")
    with pytest.raises(ManifestError, match="line 1: the column 'wav' stands twice"):
        list(speechbrain(path))


def test_a_table_without_its_columns(corpus: Path) -> None:
    path = corpus / "train.csv"
    path.write_text("ID,wav\nx,a.wav\n")
    with pytest.raises(ManifestError, match=r"train\.csv, line 1: expected a column 'spk_id', got 'ID, wav'"):
        list(speechbrain(path))
    path.write_text("\n")
    with pytest.raises(
        ManifestError, match=r"train\.csv is empty: expected a first line with the names ID, wav, spk_id"
    ):
        list(speechbrain(path))


@pytest.mark.parametrize("read", [wespeaker, nemo, speechbrain])
def test_a_missing_list(tmp_path: Path, read: Callable[[Path], Iterator[Utterance]]) -> None:
    with pytest.raises(ManifestError, match=r"no\.list cannot be read \(No such file or directory\)"):
        list(read(tmp_path / "no.list"))


def test_the_written_form_is_read(corpus: Path) -> None:
    """What `csv` writes with a name that needs quotes."""
    name = 'q "x", y.wav'
    (corpus / "wav" / name).write_bytes(b"123")
    with (corpus / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["ID", "wav", "spk_id"], ["1", f"wav/{name}", "s, t"]])
    assert short(speechbrain(corpus / "train.csv", ListOptions(root=str(corpus)))) == [
        (name, "s, t", "1", None, None, 3)
    ]
