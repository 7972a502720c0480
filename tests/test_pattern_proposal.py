"""Proposals of patterns: what is made of paths is pinned."""

from __future__ import annotations

import pytest

from ge2e_transforms.pattern_proposal import proposal


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([], ""),
        (["a.wav", "b.wav"], "{speaker}.wav"),
        (["a-1.wav", "b-1.wav"], "{speaker}-{utterance}.wav"),
        (["a/1.wav", "b/1.wav"], "{speaker}/{utterance}.wav"),
        (["a/1.wav"], "{speaker}/{utterance}.wav"),
        (["a/x/1.wav"], "{speaker}/{session}/{utterance}.wav"),
        (["wav/a/x/1.wav"], "wav/{speaker}/{session}/{utterance}.wav"),
        (["wav/a/1.wav", "wav/b/1.wav"], "wav/{speaker}/{utterance}.wav"),
        (["wav/a/x/1.wav", "wav/b/x/1.wav"], "wav/{speaker}/{session}/{utterance}.wav"),
        (["train/a/1.wav", "test/b/1.wav"], "{subset}/{speaker}/{utterance}.wav"),
        (["train-clean/a/x/1.wav"] * 2, "{subset}/{speaker}/{session}/{utterance}.wav"),
        (["train/1.wav"], "{speaker}/{utterance}.wav"),
        (["en/r1/a/x/1.wav", "de/r2/b/y/1.wav"], "{any}/{any}/{speaker}/{session}/{utterance}.wav"),
        (["a/1.wav", "b/2.wav", "c/x/3.mp3"], "{speaker}/{utterance}.wav"),
        (["{x}/a/b/1.wav", "{x}/b/b/1.wav"], "{any}/{speaker}/{session}/{utterance}.wav"),
        (["a/1.w*v", "b/1.w*v"], "{speaker}/{utterance}*"),
    ],
)
def test_proposals_are_pinned(paths: list[str], expected: str) -> None:
    assert proposal(paths) == expected
