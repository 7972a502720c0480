"""Rows on their way to their shards: the same rows come out, each in the shard that the plan says."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ge2e_transforms.config import Recipe
from ge2e_transforms.lengths import Lengths
from ge2e_transforms.planning import Plan, PlanConfig, SpeakerTotal, make_plan
from ge2e_transforms.row_chunks import pack, place, unpack
from ge2e_transforms.utterance import Utterance

# What might be taken for the end of a field or row, among other text; no row that is read holds NUL.
TRICKY = ["],\n[", "]]", "[[", '"\n"', "\\u0000", "\1", "\u2028", ""]
TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")) | st.sampled_from(TRICKY)
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


def test_a_parcel_holds_whose_rows_they_are_and_what_else_they_say() -> None:
    row = Utterance('ä"\n.wav', "s", "n", "u", "so", channel=1, offset_s=0.1, manifest="m", position=3)
    plan = make_plan([SpeakerTotal("n/s", "", "so", 1)], [], PlanConfig(), Recipe())
    (parcel,) = place(pack([row, row._replace(utterance_id="v", offset_s=None)], 600, {}), plan).values()
    text = pa.Codec("zstd").decompress(parcel[8:], int.from_bytes(parcel[:8], "little"), asbytes=True).decode()
    number, *fields = text.split("\0")
    assert (number, fields[:6]) == ("1", ["m", "n", "s", "", "so", "2"])
    assert fields[6:] == [
        'ä"\n.wav',
        "u",
        "",
        "",
        "1",
        "0.1",
        "",
        "",
        "3",
        'ä"\n.wav',
        "v",
        "",
        "",
        "1",
        "",
        "",
        "",
        "3",
    ]


@pytest.mark.parametrize("name", ["audio_path", "utterance_id", "speaker_id", "source", "manifest"])
def test_a_text_with_nul_is_a_bug(name: str) -> None:
    with pytest.raises(ValueError, match="NUL"):
        pack([Utterance("a.wav", "s", "n", "u", "so")._replace(**{name: "a\0b"})], 600, {})


def test_a_length_without_end_is_a_bug() -> None:
    row = Utterance("a.wav", "s", "n", "u", "so", duration_s=float("inf"))
    with pytest.raises((ValueError, OverflowError)):
        pack([row], 600, {})
