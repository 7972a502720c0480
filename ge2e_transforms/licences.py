"""Licences of known corpora, as their makers publish them. The one place that says so.

A corpus is known by the `source` of its manifest rows alone: nobody looks whether the audio is of that corpus. It must
not know of datasets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Licence(NamedTuple):
    """What a corpus is published under.

    corpus: its name as its makers write it, '' if it is not known.
    name: of the licence, or 'unknown'.
    identifier: of the licence in the front matter of a card, as model hubs list them.
    note: what the name does not say.
    """

    corpus: str
    name: str
    identifier: str
    note: str


UNKNOWN = Licence("", "unknown", "unknown", "look it up where the corpus came from")
_VOXCELEB = "of the lists and metadata; the audio is of videos whose makers keep their rights, so features of it, too"
_KNOWN = {
    "librispeech": Licence("LibriSpeech", "CC BY 4.0", "cc-by-4.0", "readings of books in the public domain"),
    "libritts": Licence("LibriTTS", "CC BY 4.0", "cc-by-4.0", "readings of books in the public domain"),
    "vctk": Licence("VCTK", "CC BY 4.0", "cc-by-4.0", "as of version 0.92"),
    "voxceleb": Licence("VoxCeleb", "CC BY 4.0 (metadata)", "other", _VOXCELEB),
    "voxceleb1": Licence("VoxCeleb1", "CC BY 4.0 (metadata)", "other", _VOXCELEB),
    "voxceleb2": Licence("VoxCeleb2", "CC BY 4.0 (metadata)", "other", _VOXCELEB),
    "musan": Licence("MUSAN", "CC BY 4.0", "cc-by-4.0", "of the collection; its LICENSE files name those of its parts"),
    "rirsnoises": Licence("RIRS_NOISES", "Apache 2.0", "apache-2.0", "of the collection; its noises are of MUSAN, too"),
    "commonvoice": Licence(
        "Common Voice", "CC0 1.0", "cc0-1.0", "its terms of use forbid to find out who a speaker is"
    ),
}


def licence_of(source: str) -> Licence:
    """The licence of a source; case and `_`, `-`, `.` and spaces in its name do not matter.

    `ge2e manifest common_voice` has a source for each language.
    """
    name = re.sub(r"[\s_.-]+", "", source.casefold())
    return _KNOWN.get("commonvoice" if name.startswith("commonvoice") else name, UNKNOWN)


def identifier_of(sources: Sequence[str]) -> str:
    """The identifier for all sources together: 'unknown' if one is, 'other' if they differ.

    >>> identifier_of(["librispeech", "VCTK"]), identifier_of(["librispeech", "musan", "voxceleb1"])
    ('cc-by-4.0', 'other')
    """
    found = {licence_of(source).identifier for source in sources} or {UNKNOWN.identifier}
    if UNKNOWN.identifier in found:
        return UNKNOWN.identifier
    return found.pop() if len(found) == 1 else "other"
