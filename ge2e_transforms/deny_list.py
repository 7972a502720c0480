"""Lists of what must not be trained on: their lines, and whom of a dataset they name.

A list is UTF-8 text, an entry a line: `namespace/speaker`, or `namespace/speaker utterance_id` for one utterance. `*`
stands for any run of characters, also none (and so for a space in a speaker's id, as the first space ends it). A '#' at
the beginning of a line or after a space begins a comment; blank lines say nothing. It must not know of files or
datasets.
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
from ge2e_transforms.runs import Ints
from ge2e_transforms.utterance import shown

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
        """File and line, as messages name it."""
        return f"{self.file}:{self.line}"


def parse_deny_list(content: bytes, name: str) -> list[DenyEntry]:
    """The entries of a list.

    >>> parse_deny_list(b"vox/id2 clip*  # withdrawn", "denied.txt")
    [DenyEntry(file='denied.txt', line=1, speaker='vox/id2', utterance='clip*')]

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
        self._is_glob = np.array(["*" in name for name in self._utterances], dtype=np.bool_)
        found = [_exact([entry.speaker for entry in entries], speakers)]
        for number, entry in enumerate(entries):
            if "*" in entry.speaker:
                found.append(_pairs(number, np.flatnonzero(_fits(entry.speaker, speakers))))
        pairs = np.unique(np.concatenate(found), axis=0)  # a `*` may be a `*`
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
        numbers = np.unique(speaker)
        bounds = np.searchsorted(self.single[:, 1], np.stack([numbers, numbers + 1], axis=1)).tolist()
        here = np.concatenate([self.single[:0], *(self.single[first:end] for first, end in bounds)])
        is_glob = self._is_glob[here[:, 0]]
        entries, owners = here[~is_glob].T
        wanted = pa.array([self._utterances[entry] for entry in entries.tolist()], pa.string())
        exact = _exact(_keys(owners, wanted), _keys(speaker, utterances))
        found = [np.stack([entries[exact[:, 0]], exact[:, 1]], axis=1)]
        for entry, owner in here[is_glob].tolist():
            rows = np.flatnonzero(speaker == owner)
            found.append(_pairs(entry, rows[_fits(self._utterances[entry], utterances.take(pa.array(rows)))]))
        return np.concatenate(found)


def _keys(speaker: Ints, utterances: pa.Array) -> pa.Array:
    """One text for speaker and utterance."""
    return pc.binary_join_element_wise(pa.array(speaker).cast(pa.string()), utterances, " ")


def _exact(names: Sequence[str] | pa.Array, texts: pa.Array) -> Ints:
    """The pairs (number of a name, number of the text that is equal), int64 `[n, 2]`; each text stands once."""
    place: Ints = pc.fill_null(pc.index_in(pa.array(names, pa.string()), value_set=texts), -1).to_numpy()
    return np.stack([np.arange(len(place)), place], axis=1)[place >= 0]


def _pairs(number: int, rows: Ints) -> Ints:
    return np.stack([np.full(len(rows), number), rows], axis=1)


def _fits(glob: str, texts: pa.Array) -> npt.NDArray[np.bool_]:
    """Which texts a name with `*` fits."""
    whole = r"(?s)\A" + ".*".join(map(re.escape, re.split(r"\*+", glob))) + r"\z"
    fits: npt.NDArray[np.bool_] = pc.match_substring_regex(texts, whole).to_numpy(zero_copy_only=False)
    return fits
