"""Pseudonyms and tombstones: what they hide, what they keep, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest

from ge2e_transforms.errors import ConfigError, LedgerRow
from ge2e_transforms.identity import Pseudonyms, Tombstones, erased_row, nameless, unread
from ge2e_transforms.utterance import Utterance

KEY = bytes(range(32))
ROW = Utterance("a/x.wav", "anna", "corpus", "x", "corpus", session_id="monday", manifest="/m.csv", position=7)
ENTRY = LedgerRow("rejected", "decode", "corrupt", "a/x.wav: broken", "/m.csv", 7, "corpus/anna", "x", "a/x.wav")


def test_a_pseudonym_follows_from_id_and_key_alone() -> None:
    """Pinned: another pseudonym for the same key would make one speaker two when a dataset grows."""
    assert Pseudonyms(KEY).speaker("corpus", "anna") == "4eabbb5d9dc00b0f8078a4a81352e74d"
    assert Pseudonyms(KEY).speaker("corpus", "anna") != Pseudonyms(KEY[::-1]).speaker("corpus", "anna")
    assert Pseudonyms(KEY).check != Pseudonyms(KEY[::-1]).check


def test_parts_of_an_id_are_kept_apart() -> None:
    pseudonyms = Pseudonyms(KEY)
    assert pseudonyms.speaker("a", "bc") != pseudonyms.speaker("ab", "c")
    assert pseudonyms.row(ROW).utterance_id != pseudonyms.row(ROW._replace(speaker_id="bert")).utterance_id


def test_a_row_keeps_what_is_needed_to_read_it_and_where_it_counts() -> None:
    made = Pseudonyms(KEY).row(ROW)
    kept = {name for name in ROW._fields if getattr(made, name) == getattr(ROW, name)}
    assert set(ROW._fields) - kept == {"speaker_id", "utterance_id", "session_id"}
    assert all(len(text) == 32 for text in (made.speaker_id, made.utterance_id, made.session_id))
    assert Pseudonyms(KEY).row(ROW._replace(session_id="")).session_id == ""


@pytest.mark.parametrize("size", [0, 15, 65])
def test_a_key_must_be_long_enough_and_fit(size: int) -> None:
    with pytest.raises(ConfigError, match=f"has {size} bytes: expected 16 to 64"):
        Pseudonyms(bytes(size))


def test_tombstones_hide_whom_they_name_and_say_nothing_of_them() -> None:
    none = Tombstones.of({})
    assert not none.hide("corpus/anna")
    stones = none.with_speakers(["corpus/anna"])
    assert stones.hide("corpus/anna")
    assert not stones.hide("corpus/bert")
    stored = {"erased": stones.to_json()}
    assert "anna" not in str(stored)
    assert Tombstones.of(stored) == stones
    assert Tombstones.of({}).salt != none.salt


def test_a_tombstone_is_of_its_dataset_alone() -> None:
    one, two = (Tombstones.of({}).with_speakers(["corpus/anna"]) for _ in range(2))
    assert one.hashes.isdisjoint(two.hashes)
    assert not dataclasses.replace(one, salt=two.salt).hide("corpus/anna")


def test_what_is_left_of_a_ledger_row() -> None:
    assert nameless(ENTRY) == LedgerRow("rejected", "decode", "corrupt", "", "/m.csv", 7, "", "", "")
    assert erased_row(ENTRY) == LedgerRow("filtered", "erase", "erased", "", "/m.csv", 7, "", "", "")


@pytest.mark.parametrize(
    ("stage", "reason", "expected"),
    [("manifest", "bad_row", True), ("manifest", "doubled_utterance", False), ("decode", "corrupt", False)],
)
def test_rows_whose_speaker_nobody_knows(stage: str, reason: str, expected: bool) -> None:
    assert unread(ENTRY._replace(stage=stage, reason=reason)) is expected
