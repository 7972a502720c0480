"""Lhotse's recordings, supervisions and cuts in the form in which they are written."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ge2e_transforms.errors import ManifestError
from ge2e_transforms.lhotse_lists import lhotse
from ge2e_transforms.list_files import ListOptions
from ge2e_transforms.manifest import Utterance


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`yesno` with `a b.wav` (1 byte) and `c.flac` (2 bytes)."""
    root = tmp_path / "yesno"
    root.mkdir()
    (root / "a b.wav").write_bytes(b"1")
    (root / "c.flac").write_bytes(b"12")
    return root


def written(path: Path, *rows: Any) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def recording(name: str, path: str, duration: float = 6.35, channels: tuple[int, ...] = (0,), **more: Any) -> Any:
    source = {"type": "file", "channels": list(channels), "source": path}
    numbers = {"sampling_rate": 8000, "num_samples": round(8000 * duration), "duration": duration}
    return {"id": name, "sources": [source], **numbers, "channel_ids": list(channels), **more}


def supervision(name: str, of: str, start: float = 0.0, duration: float = 6.35, **more: Any) -> Any:
    whose = {"id": name, "recording_id": of, "start": start, "duration": duration, "channel": 0, "speaker": "ann"}
    return {**whose, "text": "yes", "language": "Hebrew", **more}


def rows(*paths: Path, **options: str) -> list[Utterance]:
    return list(lhotse(paths, ListOptions(root=str(paths[0].parent))._replace(**options)))


def test_recordings_and_supervisions_in_any_order(folder: Path) -> None:
    recordings = written(
        folder / "yesno_recordings_train.jsonl.gz",
        recording("r1", "a b.wav"),
        recording("r2", f"{folder}/c.flac", 3.0, (0, 1)),
    )
    supervisions = written(
        folder / "yesno_supervisions_train.jsonl.gz",
        supervision("s1", "r1"),
        supervision("s2", "r2", 0.5, 1.25, speaker="bob", channel=1),
        supervision("s3", "r2", 0.0, 2.9, speaker="bob", channel=[0, 1]),
    )
    found = rows(recordings, supervisions)
    here = str(supervisions)
    assert found == [
        Utterance(f"{folder}/{name}", speaker, "yesno", key, "yesno", "", "", "", *rest, here, number)
        for number, (name, speaker, key, *rest) in enumerate(
            [
                ("a b.wav", "ann", "s1", None, None, 6.35, 1),
                ("c.flac", "bob", "s2", 1, 0.5, 1.25, 2),
                ("c.flac", "bob", "s3", None, 0.0, 2.9, 2),
            ],
            1,
        )
    ]
    assert rows(supervisions, recordings) == found
    given = rows(supervisions, recordings, source="s", namespace="n", split="test")
    assert {(row.source, row.namespace, row.split) for row in given} == {("s", "n", "test")}


def test_cuts(folder: Path) -> None:
    """A cut begins within its recording, and its supervisions count from there, or from before it."""
    mono = {"id": "c1", "start": 2.0, "duration": 3.0, "channel": 0, "recording": recording("r", "c.flac", 9.0)}
    supervisions = [supervision("s1", "r", 0.25, 1.0), supervision("s2", "r", -0.5, 1.0, speaker="bob")]
    whole = {"id": "c2", "start": 0.0, "duration": 6.35, "channel": 0, "recording": recording("q", "a b.wav")}
    path = written(
        folder / "cuts.jsonl",
        {**mono, "supervisions": supervisions, "type": "MonoCut"},
        {**whole, "supervisions": [supervision("s3", "q")], "type": "MonoCut"},
    )
    assert [(row.speaker_id, row.utterance_id, row.offset_s, row.duration_s, row.bytes) for row in rows(path)] == [
        ("ann", "s1", 2.25, 1.0, 2),
        ("bob", "s2", 1.5, 1.0, 2),
        ("ann", "s3", None, 6.35, 1),
    ]


def test_sources_of_one_recording_each_with_its_channels(folder: Path) -> None:
    two = recording("r", "a b.wav")
    two["sources"].append({"type": "file", "channels": [1, 2], "source": "c.flac"})
    lists = (
        written(folder / "r.jsonl", two),
        written(folder / "s.jsonl", *(supervision(f"s{n}", "r", 1.0, 1.0, channel=n) for n in range(3))),
    )
    assert [(Path(row.audio_path).name, row.channel) for row in rows(*lists)] == [
        ("a b.wav", None),
        ("c.flac", 0),
        ("c.flac", 1),
    ]
    written(folder / "s.jsonl", supervision("s", "r", channel=7))
    with pytest.raises(ManifestError, match=r"s\.jsonl, line 1: no source of the recording has channel 7"):
        rows(*lists)


def test_audio_in_a_store(folder: Path) -> None:
    one = recording("r", "s3://bucket/a.wav")
    one["sources"][0]["type"] = "url"
    (row,) = rows(written(folder / "r.jsonl", one), written(folder / "s.jsonl", supervision("s", "r")))
    assert (row.audio_path, row.bytes) == ("s3://bucket/a.wav", None)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"type": "command", "source": "ffmpeg -i x.mp4 -f wav pipe:1"}, "a source of type 'command': expected 'file'"),
        ({"type": "memory", "source": "UklGRg=="}, "a source of type 'memory'"),
        ({"type": "url", "source": "x.wav"}, "a source of type 'url'"),
        ({"type": "file"}, "expected text under 'source', got nothing"),
        ({"type": "file", "source": "a", "channels": ["x"]}, r"channels \['x'\]: expected whole numbers"),
    ],
)
def test_sources_that_are_refused(folder: Path, source: dict[str, Any], message: str) -> None:
    lists = (
        written(folder / "r.jsonl", {"id": "r", "sources": [source], "duration": 1}),
        written(folder / "s.jsonl", supervision("s", "r")),
    )
    with pytest.raises(ManifestError, match=rf"r\.jsonl, line 1: {message}"):
        rows(*lists)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (supervision("s", "other"), "no recording 'other' among the 1 of the other lists"),
        (supervision("s", "r", speaker=None), "expected text under 'speaker', got nothing"),
        (supervision("s", "r", duration=-1), "duration=-1: expected a number from 0 up"),
        (supervision("s", "r", start="x"), "start='x': expected a number"),
        (supervision("s0", "r"), r"the utterance 's0' of speaker 'ann' stands in .*s\.jsonl, line 1 too"),
        (supervision("s", "r", speaker="\u009b"), r"speaker_id='\\x9b': expected text without control"),
        (supervision("s", "r", channel=[]), "channels"),
    ],
)
def test_faults_of_supervisions_have_a_line(folder: Path, row: Any, message: str) -> None:
    lists = (
        written(folder / "r.jsonl", recording("r", "c.flac")),
        written(folder / "s.jsonl", supervision("s0", "r"), row),
    )
    with pytest.raises(ManifestError, match=rf"s\.jsonl, line 2: {message}"):
        rows(*lists)


def test_an_id_in_two_lists(folder: Path) -> None:
    recordings = written(folder / "r.jsonl", recording("r", "c.flac"))
    lists = [written(folder / f"s{number}.jsonl", supervision("s", "r")) for number in range(2)]
    with pytest.raises(
        ManifestError, match=r"s1\.jsonl, line 1: the utterance 's' .* stands in .*s0\.jsonl, line 1 too"
    ):
        rows(recordings, *lists)


def test_lists_that_are_not_enough(folder: Path) -> None:
    recordings = written(folder / "r.jsonl", recording("r", "c.flac"))
    with pytest.raises(ManifestError, match="hold recordings alone, which do not say who speaks"):
        rows(recordings)
    with pytest.raises(ManifestError, match="no recording 'r' among the 0 of the other lists: give the recordings"):
        rows(written(folder / "s.jsonl", supervision("s", "r")))
    with pytest.raises(ManifestError, match=r"x\.jsonl, line 1: expected a recording .* got 'a, b'"):
        rows(written(folder / "x.jsonl", {"a": 1, "b": 2}))
    with pytest.raises(ManifestError, match=r"e\.jsonl is empty"):
        rows(written(folder / "e.jsonl"))
    with pytest.raises(ManifestError, match=r"no\.jsonl cannot be read"):
        rows(folder / "no.jsonl")
    with pytest.raises(ManifestError, match="the recording is changed when it is read"):
        rows(written(folder / "r.jsonl", recording("r", "c.flac", transforms=[{"name": "Speed", "factor": 1.1}])))
    with pytest.raises(ManifestError, match=r"m\.jsonl, line 1: the cut holds a mix of several cuts"):
        rows(written(folder / "m.jsonl", {"id": "m", "tracks": [], "type": "MixedCut"}))
