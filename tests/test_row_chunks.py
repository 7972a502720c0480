"""Rows on their way to their shards: the same rows come out, each in the shard that the plan says."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ge2e_transforms.config import Recipe
from ge2e_transforms.lengths import Lengths
from ge2e_transforms.planning import Plan, PlanConfig, SpeakerTotal, make_plan
from ge2e_transforms.row_chunks import pack, place, unpack
from ge2e_transforms.utterance import Utterance

# What would be taken for the end of a row if it were not escaped, among other text.
TRICKY = ["],\n[", "]]", "[[", '"\n"', "\u2028", ""]
TEXT = st.text(st.characters(blacklist_categories=["Cs"])) | st.sampled_from(TRICKY)
SECONDS = st.none() | st.floats(0, 1e6, allow_nan=False)
ROWS = st.builds(
    Utterance,
    *(TEXT, st.sampled_from(["s1", "s2", "s3", '"]\n', "ü"]), st.sampled_from(["n", "m"]), TEXT, TEXT, TEXT),
    st.sampled_from(["", "test"]),
    *(TEXT, st.none() | st.integers(0, 99), SECONDS, SECONDS, st.none() | st.integers(0, 2**53)),
    *(TEXT, st.integers(0, 2**62)),
)


def plan_of(rows: list[Utterance], sums: Lengths, **options: float) -> Plan:
    """A plan of these rows, whose splits are drawn only where none of the speaker's rows names one."""
    totals = [
        SpeakerTotal(f"{speaker}{split}", split, source, length)
        for (split, source), lengths in sums.items()
        for speaker, length in lengths.items()
    ]
    return make_plan([*totals, SpeakerTotal("~", "", "x", 1)], [], PlanConfig(**options), Recipe())  # type: ignore[arg-type]


@given(st.lists(ROWS, min_size=1, max_size=20), st.sampled_from([0.01, 128.0]))
def test_all_rows_come_to_the_shard_of_the_plan(rows: list[Utterance], shard_mib: float) -> None:
    sums: Lengths = {}
    chunk = pack(rows, 600, sums)
    plan = plan_of(rows, sums, shard_mib=shard_mib)
    found = {number: sorted(map(repr, unpack(parcel))) for number, parcel in place(chunk, plan).items()}
    expected: dict[int, list[str]] = {}
    for row in rows:
        expected.setdefault(plan.shard_of(row), []).append(repr(row))
    assert found == {number: sorted(group) for number, group in expected.items()}


def test_a_large_speaker_goes_to_several_shards() -> None:
    rows = [Utterance(f"{n}.wav", "s", "n", f"u{n}", "x", duration_s=9.0) for n in range(40)]
    sums: Lengths = {}
    chunk = pack(rows, 600, sums)
    plan = make_plan([SpeakerTotal("n/s", "", "x", 360_000)], [], PlanConfig(shard_mib=0.5), Recipe())
    placed = place(chunk, plan)
    assert len(placed) > 4
    assert sorted(row for parcel in placed.values() for row in unpack(parcel)) == sorted(rows)


def test_lengths_count_for_speaker_split_and_source_and_no_row_above_the_limit() -> None:
    rows = [
        Utterance("a", "s1", "n", "a", "x", duration_s=1.5),
        Utterance("b", "s2", "n", "b", "x", duration_s=900.0),
        Utterance("c", "s1", "n", "c", "x", duration_s=2.0),
        Utterance("d", "s1", "n", "d", "y", split="test"),
    ]
    sums: Lengths = {("", "x"): {"n/s1": 1}}
    pack(rows, 600, sums)
    assert sums == {("", "x"): {"n/s1": 3501, "n/s2": 600_000}, ("test", "y"): {"n/s1": 8000}}


def test_an_empty_parcel_has_no_rows() -> None:
    assert list(unpack(b"")) == []


def test_a_parcel_is_compressed_json() -> None:
    row = Utterance('ä"\n.wav', "s", "n", "u", "so", channel=1, offset_s=0.1, manifest="m", position=3)
    plan = make_plan([SpeakerTotal("n/s", "", "so", 1)], [], PlanConfig(), Recipe())
    (parcel,) = place(pack([row], 600, {}), plan).values()
    text = zlib.decompress(parcel).decode()
    assert text.replace("\n", "") == '[["ä\\"\\n.wav","s","n","u","so","","","",1,0.1,null,null,"m",3]]'
    assert json.loads(text) == [list(row)]


def test_a_row_that_json_cannot_hold_is_a_bug() -> None:
    row = Utterance("a.wav", "s", "n", "u", "so", duration_s=float("inf"))
    with pytest.raises((ValueError, OverflowError)):
        pack([row], 600, {})
