"""Lists of what must not be trained on: their lines, and whom of a dataset they name.

A list is UTF-8 text, an entry a line: `namespace/speaker`, or `namespace/speaker utterance_id` for one utterance. `*`
stands for any run of characters, also none (and so for a space in a speaker's id, as the first space ends it). A '#' at
the beginning of a line or after a space begins a comment; blank lines say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ge2e_transforms.errors import DenyListError
from ge2e_transforms.utterance import shown

Ints = npt.NDArray[np.int64]
_NO_PAIRS = np.empty((0, 2), dtype=np.int64)
_COMMENT = re.compile(r"(^|\s)#.*")
_WANTED = "expected `namespace/speaker` or `namespace/speaker utterance_id`, with * for any characters"


class DenyEntry(NamedTuple):
    """One line: a speaker, and an utterance of it ('' is all of them); either may hold `*`."""

    file: str
    line: int
    speaker: str
    utterance: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


def parse_deny_list(content: bytes, name: str) -> list[DenyEntry]:
    """The entries of a list.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        DenyListError: not UTF-8, or a line that is no entry, with its number.
    """
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DenyListError(f"{name}:{line}: expected UTF-8, got byte {content[error.start]:#x}: save it so") from error
    entries = []
    for number, written in enumerate(lines, 1):
        text = _COMMENT.sub("", written.strip()).strip()
        if text:
            entries.append(_entry(text, name, number))
    return entries


def _entry(text: str, file: str, line: int) -> DenyEntry:
    speaker, *utterance = text.split(maxsplit=1)
    namespace, _, own = speaker.partition("/")
    if not (namespace and own):
        raise DenyListError(f"{file}:{line}: {shown(text)} names no speaker: {_WANTED}")
    return DenyEntry(file, line, speaker, utterance[0] if utterance else "")


class DenyMatcher:
    """Whom the entries of lists name, among the speakers of a dataset.

    Args:
        entries: of all lists.
        speakers: `namespace/speaker_id`, each once.

    Attributes:
        whole: int64 `[n, 2]`: (number of an entry without an utterance, number of a speaker that it names).
        single: the same of entries with an utterance, by rising speaker; whether the speaker has it is not known yet.
    """

    def __init__(self, entries: Sequence[DenyEntry], speakers: pa.Array) -> None:
        self._utterances = [entry.utterance for entry in entries]
        pairs = _matches([entry.speaker for entry in entries], speakers)
        one = np.array(list(map(bool, self._utterances)), dtype=np.bool_)[pairs[:, 0]]
        self.whole, single = pairs[~one], pairs[one]
        self.single = single[np.argsort(single[:, 1], kind="stable")]

    def denied(self, speaker: Ints, utterances: pa.Array) -> Ints:
        """What the entries for single utterances name, among some utterances.

        Args:
            speaker: int64 `[rows]`, numbers of the speakers.
            utterances: string `[rows]`, their ids, each once within a speaker.

        Returns:
            int64 `[n, 2]`: (number of an entry, row that it names).
        """
        found = [_NO_PAIRS]
        for number in np.unique(speaker).tolist():
            first, end = np.searchsorted(self.single[:, 1], (number, number + 1))
            if first == end:
                continue
            entries, rows = self.single[first:end, 0], np.flatnonzero(speaker == number)
            names = [self._utterances[entry] for entry in entries.tolist()]
            pairs = _matches(names, utterances.take(pa.array(rows)))
            found.append(np.stack([entries[pairs[:, 0]], rows[pairs[:, 1]]], axis=1))
        return np.concatenate(found)


def _matches(patterns: Sequence[str], texts: pa.Array) -> Ints:
    """All pairs (number of a pattern, number of a text that it fits), int64 `[n, 2]`; each text stands once."""
    exact = np.flatnonzero(["*" not in pattern for pattern in patterns])
    names = pa.array([patterns[number] for number in exact.tolist()], pa.string())
    place = pc.fill_null(pc.index_in(names, value_set=texts), -1).to_numpy(zero_copy_only=False)
    found = [np.stack([exact, place], axis=1).astype(np.int64)[place >= 0]]
    for row, pattern in enumerate(patterns):
        if "*" in pattern:
            whole = r"(?s)\A" + ".*".join(map(re.escape, re.split(r"\*+", pattern))) + r"\z"
            rows = np.flatnonzero(pc.match_substring_regex(texts, whole).to_numpy(zero_copy_only=False))
            found.append(np.stack([np.full(len(rows), row), rows], axis=1))
    return np.concatenate(found)
