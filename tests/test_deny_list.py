"""Lines of deny-lists, and whom they name."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ge2e_transforms.deny_list import DenyEntry, DenyMatcher, parse_deny_list
from ge2e_transforms.errors import DenyListError

TEXT = """\ufeff# shared by both corpora

voxceleb/id10270\r
  voxceleb/id10271\t utt 1.wav   # one of its
libri/8*
a/b u#1 #all else is a comment
#voxceleb/id1
"""


def test_lines_are_speakers_or_utterances_and_comments():
    assert parse_deny_list(TEXT.encode(), "f.txt") == [
        DenyEntry("f.txt", 3, "voxceleb/id10270", ""),
        DenyEntry("f.txt", 4, "voxceleb/id10271", "utt 1.wav"),
        DenyEntry("f.txt", 5, "libri/8*", ""),
        DenyEntry("f.txt", 6, "a/b", "u#1"),
    ]
    assert parse_deny_list(b"", "f.txt") == parse_deny_list(b"\n# nothing\n", "f.txt") == []
    assert parse_deny_list(b"a/b", "f.txt")[0].where == "f.txt:1"


@pytest.mark.parametrize(
    ("line", "got"),
    [
        (b"id10270", "'id10270'"),
        (b"*", r"'\*'"),
        (b"/id1", "'/id1'"),
        (b"voxceleb/", "'voxceleb/'"),
        (b"voxceleb/ id1", "'voxceleb/ id1'"),
        (b"a, b/c", "'a, b/c'"),
        (b"\xe2\x80\xaex\x1b[31m", r"'\\u202ex\\x1b\[31m'"),
    ],
)
def test_a_line_that_names_no_speaker_is_an_error_with_its_number(line, got):
    with pytest.raises(DenyListError, match=rf"^f\.txt:3: {got} names no speaker: expected `namespace/speaker` or"):
        parse_deny_list(b"a/b\n# c\n" + line + b"\n", "f.txt")


def test_a_list_that_is_not_utf8_is_an_error_with_its_line():
    with pytest.raises(DenyListError, match=r"^f\.txt:2: expected UTF-8, got byte 0xe9"):
        parse_deny_list("a/b\nc/\xe9".encode("latin-1"), "f.txt")
    with pytest.raises(DenyListError, match=r"^f\.txt:1: expected UTF-8, got byte 0xff"):
        parse_deny_list("a/b".encode("utf-16"), "f.txt")


SPEAKERS = ["a/b", "a/b c", "a/bb", "A/b", "a/.*", "ab/b", "a/b\nb", "é/1"]


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("a/b", ["a/b"]),
        ("a/*", ["a/b", "a/b c", "a/bb", "a/.*", "a/b\nb"]),
        ("a/b*b", ["a/bb", "a/b\nb"]),
        ("a/b**c", ["a/b c"]),
        ("*/b", ["a/b", "A/b", "ab/b"]),
        ("a/.*", ["a/.*"]),
        ("a/[b]", []),
        ("é/*", ["é/1"]),
        ("*/*", SPEAKERS),
        ("a", []),
    ],
)
def test_a_star_is_any_characters_and_all_else_itself(pattern, named):
    matcher = DenyMatcher([DenyEntry("f", 1, "x/y", ""), DenyEntry("f", 2, pattern, "")], pa.array(SPEAKERS))
    assert matcher.whole.tolist() == [[1, SPEAKERS.index(name)] for name in named]
    assert not len(matcher.single)


def test_utterances_are_those_of_the_named_speaker():
    entries = [DenyEntry("f", 1, *pair) for pair in (("a/b", "u1"), ("a/*", "u*"), ("A/b", "u1"), ("a/b", ""))]
    matcher = DenyMatcher(entries, pa.array(SPEAKERS))
    speaker, names = np.array([0, 0, 2, 5, 3, 3]), ["u1", "v1", "u1", "u1", "u1", "u2"]
    found = matcher.denied(speaker, pa.array(names))
    assert sorted(map(tuple, found.tolist())) == [(0, 0), (1, 0), (1, 2), (2, 4)]
    assert matcher.whole.tolist() == [[3, 0]]


def test_no_entries_name_nobody():
    matcher = DenyMatcher([], pa.array(SPEAKERS))
    assert len(matcher.whole) == len(matcher.single) == len(matcher.denied(np.array([0]), pa.array(["u"]))) == 0
