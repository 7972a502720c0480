"""Lengths of speakers from many readers to the plan: nothing is lost, whatever the parts and their order."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ge2e_transforms import lengths
from ge2e_transforms.planning import SpeakerTotal

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=5)
TOTALS = st.lists(st.builds(SpeakerTotal, TEXT, st.sampled_from(["", "test"]), TEXT, st.integers(1, 1 << 40)))


@given(st.lists(TOTALS, max_size=4))
def test_sums_are_those_of_all_readers(readers: list[list[SpeakerTotal]]) -> None:
    buckets: dict[int, list[bytes]] = {}
    for sent in readers:
        sums: lengths.Lengths = {}
        for entry in sent:
            lengths.add(sums, entry.split, entry.source, [(entry.speaker, entry.milliseconds)])
        assert lengths.speakers(sums) == len({entry[:3] for entry in sent})
        for number, packed in lengths.pack(sums):
            buckets.setdefault(number, []).append(packed)
    expected: Counter[tuple[str, str, str]] = Counter()
    for entry in [entry for sent in readers for entry in sent]:
        expected[entry[:3]] += entry.milliseconds
    found = [entry for parts in buckets.values() for entry in lengths.totals(lengths.summed(parts))]
    assert sorted(found) == sorted(SpeakerTotal(*key, total) for key, total in expected.items())


def test_a_speaker_is_always_of_one_bucket_and_all_buckets_are_used() -> None:
    speakers = [f"libri/{number}" for number in range(1000)]
    sent = [dict(lengths.pack({(split, "x"): dict.fromkeys(speakers, 1)})) for split in ("", "test")]
    assert set(sent[0]) == set(range(lengths.BUCKETS))
    held = [[{entry.speaker for entry in lengths.totals(one[number])} for number in sorted(one)] for one in sent]
    assert held[0] == held[1]
    assert min(map(len, held[0])) > 30
