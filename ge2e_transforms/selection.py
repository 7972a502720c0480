"""A part of a manifest: subsets, numbers of utterances of a speaker, and a draw of speakers for a quick trial.

Pure, and the same for the same rows in any order: draws follow from a hash of names, so a larger draw holds every
smaller one, and rows that are added later do not change who was drawn among those before. It must not know how rows are
read or written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ge2e_transforms.errors import ConfigError, ManifestError
from ge2e_transforms.standing import stable_hash
from ge2e_transforms.utterance import Utterance, shown

# Not that of splits: those with the lowest hashes are drawn for test, which would then take all of a small draw.
_SPEAKER_SALT, _UTTERANCE_SALT = "ge2e-limit-speakers", "ge2e-max-utterances"
_SHOWN = 20


@dataclass(frozen=True)
class Selection:
    """Which rows stay; everything by default.

    Attributes:
        subsets: names of subsets; () is all.
        min_utterances: speakers with fewer rows, in these subsets, go.
        max_utterances: of a speaker with more, so many are drawn by the hash of their ids; 0 is all. The first files
            of a speaker are mostly of one session, in which a voice sounds alike.
        limit_speakers: so many speakers of those left are drawn by the hash of namespace and id; 0 is all.
    """

    subsets: tuple[str, ...] = ()
    min_utterances: int = 0
    max_utterances: int = 0
    limit_speakers: int = 0

    def __post_init__(self) -> None:
        for name in ("min_utterances", "max_utterances", "limit_speakers"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} cannot be used: expected 0 or more")


def select(rows: Iterable[Utterance], selection: Selection) -> list[Utterance]:
    """The rows that stay, in their order.

    Raises:
        ManifestError: none stays; or no row has one of the subsets, which then may be misspelt.
    """
    kept = list(rows)
    if selection.subsets:
        kept = _of_subsets(kept, selection.subsets)
    counts = Counter(row.speaker_key for row in kept)
    if selection.min_utterances:
        kept = [row for row in kept if counts[row.speaker_key] >= selection.min_utterances]
        if not kept:
            most = max(counts.values(), default=0)
            raise ManifestError(
                f"no speaker has min_utterances={selection.min_utterances}: of {len(counts)} speakers the one with "
                f"most has {most}; expected at most that"
            )
    if selection.limit_speakers:
        speakers = {row.speaker_key for row in kept}
        drawn = set(sorted(speakers, key=_speaker_draw)[: selection.limit_speakers])
        kept = [row for row in kept if row.speaker_key in drawn]
    if selection.max_utterances:
        kept = _at_most(kept, selection.max_utterances)
    return kept


def _of_subsets(rows: list[Utterance], subsets: tuple[str, ...]) -> list[Utterance]:
    there = Counter(row.subset for row in rows)
    unknown = [subset for subset in subsets if subset not in there]
    if unknown:
        names = ", ".join(f"{shown(name)} ({count} rows)" for name, count in sorted(there.items())[:_SHOWN])
        raise ManifestError(f"no row is of the subset {shown(unknown[0])}: expected one of {names or 'no rows at all'}")
    return [row for row in rows if row.subset in subsets]


def _speaker_draw(speaker: str) -> tuple[int, str]:
    return stable_hash(speaker, _SPEAKER_SALT), speaker


def _utterance_draw(row: Utterance) -> int:
    # With the speaker: where ids are numbers of sentences, all speakers would else say the same.
    return stable_hash(f"{row.speaker_key}/{row.utterance_id}", _UTTERANCE_SALT)


def _at_most(rows: list[Utterance], most: int) -> list[Utterance]:
    """The rows of each speaker with the lowest hashes, in their order."""
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.speaker_key, []).append(place)
    kept = set[int]()
    for of_speaker in places.values():
        if len(of_speaker) > most:
            of_speaker.sort(key=lambda place: (_utterance_draw(rows[place]), place))
        kept.update(of_speaker[:most])
    return [row for place, row in enumerate(rows) if place in kept]
