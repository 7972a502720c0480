"""The manifest row: key, location, encoding, and what is refused."""

from __future__ import annotations

import pytest

from ge2e_transforms.errors import BadRowError, DataError, EmptySpeakerError
from ge2e_transforms.utterance import COLUMNS, MAX_TEXT, Utterance, check_utterance, leads_out, shown, utterance


def made(**columns: str) -> Utterance:
    """A row from the text of some columns, on top of the two that are needed."""
    values = {"audio_path": "a/b.wav", "speaker_id": "s1", **columns}
    return utterance([values.get(name, "") for name in COLUMNS], "m.csv", 40)


def test_columns_are_the_fields_that_a_manifest_holds() -> None:
    assert COLUMNS == (
        "audio_path", "speaker_id", "namespace", "utterance_id", "source", "subset", "split", "session_id",
        "channel", "offset_s", "duration_s", "bytes",
    )  # fmt: skip


def test_defaults() -> None:
    assert made() == Utterance("a/b.wav", "s1", "unnamed", "a/b.wav", "unnamed", manifest="m.csv", position=40)
    assert made(source="vox").namespace == "vox"
    assert made(source="vox", namespace="celebs").speaker_key == "celebs/s1"


def test_all_columns_are_taken() -> None:
    row = made(
        namespace="n", utterance_id="u", source="so", subset="su", split="dev_2", session_id="se",
        channel="1", offset_s="1.5", duration_s="2.25", bytes="12345.0",
    )  # fmt: skip
    assert row == Utterance("a/b.wav", "s1", "n", "u", "so", "su", "dev_2", "se", 1, 1.5, 2.25, 12345, "m.csv", 40)
    assert [type(value) for value in row[8:12]] == [int, float, float, int]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"duration_s": "3"}, "a/b.wav"),
        ({"offset_s": "0"}, "a/b.wav@0.0"),
        ({"offset_s": "1.5", "duration_s": "3"}, "a/b.wav@1.5+3.0"),
        ({"channel": "0"}, "a/b.wav#0"),
        ({"offset_s": "2", "duration_s": "1", "channel": "1"}, "a/b.wav@2.0+1.0#1"),
        ({"offset_s": "2", "utterance_id": "mine"}, "mine"),
    ],
)
def test_default_id_tells_segments_of_a_recording_apart(columns: dict[str, str], expected: str) -> None:
    assert made(**columns).utterance_id == expected


@pytest.mark.parametrize(
    ("manifest", "audio", "expected"),
    [
        ("/data/m.csv", "a/b.wav", "/data/a/b.wav"),
        ("/data/m.csv", "../b.wav", "/data/../b.wav"),
        ("/data/m.csv", "/else/b.wav", "/else/b.wav"),
        ("/data/m.csv", "gs://bucket/b.wav", "gs://bucket/b.wav"),
        ("m.csv", "a/b.wav", "a/b.wav"),
        ("", "a/b.wav", "a/b.wav"),
        ("/data/m.csv", "10:30://x.wav", "/data/10:30://x.wav"),
        ("gs://bucket/lists/m.csv", "a/b.wav", "gs://bucket/lists/a/b.wav"),
        ("s3://bucket/lists/m.csv", "../audio/./b.wav", "s3://bucket/audio/b.wav"),
        ("s3://bucket/m.csv", "b.wav", "s3://bucket/b.wav"),
        ("s3://bucket/m.csv", "../../other/b.wav", "s3://bucket/other/b.wav"),
        ("gs://bucket/m.csv", "s3://other/b.wav", "s3://other/b.wav"),
        ("gs://bucket/m.csv", "/local/b.wav", "/local/b.wav"),
        ("/data/m.csv", "a.tar#./b/../c.wav", "/data/a.tar#./b/../c.wav"),
        ("/data/m.csv", "../a.zip#b.wav", "/data/../a.zip#b.wav"),
        ("m.csv", "a.tar#b//c.wav", "a.tar#b//c.wav"),
        ("gs://bucket/lists/m.csv", "../audio/./a.TAR#./b/../c.wav", "gs://bucket/audio/a.TAR#./b/../c.wav"),
        ("s3://bucket/lists/m.csv", "a.zip#/b//c.wav", "s3://bucket/lists/a.zip#/b//c.wav"),
        ("s3://bucket/lists/m.csv", "a.tar#b/", "s3://bucket/lists/a.tar#b/"),
        ("s3://bucket/lists/m.csv", "a#1/../b.wav", "s3://bucket/lists/b.wav"),
    ],
)
def test_location(manifest: str, audio: str, expected: str) -> None:
    assert Utterance(audio, "s", "n", "u", "so", manifest=manifest).location == expected


@pytest.mark.parametrize("speaker", ["", " ", "\t\n", "\u00a0"])
def test_empty_speaker(speaker: str) -> None:
    with pytest.raises(EmptySpeakerError, match="speaker_id is empty"):
        made(speaker_id=speaker)


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        ("audio_path", "", "audio_path is empty"),
        ("audio_path", "  ", "audio_path is empty"),
        ("namespace", "a/b", "namespace='a/b': expected a name without '/'"),
        ("source", "a/b", "namespace='a/b'"),
        ("split", "a/b", "split='a/b': expected up to 64"),
        ("split", "..", "split='..'"),
        ("split", "x" * 65, "split='xxx"),
        ("split", "train\n", "split="),
        ("duration_s", "0", "duration_s=0: expected more than 0"),
        ("duration_s", "-1", "duration_s='-1': expected a number from 0"),
        ("duration_s", "nan", "duration_s='nan'"),
        ("duration_s", "inf", "duration_s='inf'"),
        ("duration_s", "3,5", "duration_s='3,5'"),
        ("duration_s", "1_000", "duration_s='1_000'"),
        ("offset_s", "-0.1", "offset_s='-0.1'"),
        ("offset_s", "1e300", "offset_s='1e300'"),
        ("channel", "left", "channel='left'"),
        ("channel", "-1", "channel='-1'"),
        ("channel", "0.5", "channel='0.5': expected a whole number"),
        ("bytes", "12 kB", "bytes='12 kB'"),
    ],
)
def test_bad_values(column: str, text: str, message: str) -> None:
    with pytest.raises(BadRowError) as caught:
        made(**{column: text})
    assert message in str(caught.value)


def test_negative_zero_is_zero() -> None:
    assert str(made(offset_s="-0.0").offset_s) == "0.0"


def test_check_refuses_rows_made_elsewhere() -> None:
    good = made()
    check_utterance(good)
    for bad in (good._replace(speaker_id=""), good._replace(namespace="a/b"), good._replace(split="?")):
        with pytest.raises(DataError):
            check_utterance(bad)


def test_messages_quote_values_on_one_short_line() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 10_000)) < 130


@pytest.mark.parametrize("column", ["speaker_id", "namespace", "utterance_id", "source", "subset", "session_id"])
@pytest.mark.parametrize("sign", ["\0", "\n", "\r", "\t", "\x1b", "\x7f", "\x85", "\ud800"])
def test_control_characters_are_no_part_of_an_id(column: str, sign: str) -> None:
    with pytest.raises(BadRowError, match=rf"^{column}='a\\.*: expected text without control characters") as caught:
        made(**{"namespace": "n", column: f"a{sign}b"})
    assert str(caught.value).isprintable()


def test_a_path_may_hold_them_if_it_is_not_the_id() -> None:
    assert made(audio_path="a\n.wav", utterance_id="u").audio_path == "a\n.wav"
    with pytest.raises(BadRowError, match=r"^utterance_id='a\\n.wav': .* it is the audio_path"):
        made(audio_path="a\n.wav", utterance_id="")
    for sign in ("\0", "\udcff"):
        with pytest.raises(BadRowError, match="audio_path="):
            made(audio_path=f"a{sign}.wav", utterance_id="u")


def test_long_texts() -> None:
    row = made(speaker_id="s" * MAX_TEXT, audio_path="a" * MAX_TEXT)
    assert len(row.speaker_id) == MAX_TEXT
    for column in ("speaker_id", "audio_path", "session_id"):
        with pytest.raises(BadRowError, match=f"^{column}='x+'?\\.\\.\\. has 10000 characters: expected at most 8192"):
            made(**{column: "x" * 10_000})


@pytest.mark.parametrize(
    "text",
    ["a/../b", " ", "\u202e\u2066x", "\u200b\ufeff", "=1+1", "+a", "-a", "@a", "<script>", "e\u0301", "[red]", ":x:"],
)
def test_all_else_is_an_id(text: str) -> None:
    row = made(speaker_id=f"{text}.", utterance_id=text, session_id=text, source=text, subset=text, namespace="n")
    assert (row.speaker_id, row.utterance_id, row.session_id, row.source, row.subset) == (f"{text}.", *4 * (text,))


@pytest.mark.parametrize(
    "path", ["a.wav", "a/../b.wav", "./a", "a/b/../../c", "..a/b", "a..", "x.tar#../../m", "...", "a:b"]
)
def test_paths_below_the_manifest(path: str) -> None:
    assert not leads_out(path)


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../a.wav",
        "a/../../b.wav",
        "./../a",
        "a/b/../../../c",
        "/a",
        "//a",
        "gs://b/a",
        "x://",
        "../x.tar#m",
        "/x.tar#m",
    ],
)
def test_paths_that_lead_out(path: str) -> None:
    assert leads_out(path)
