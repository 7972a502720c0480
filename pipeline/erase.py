"""Takes speakers out of a dataset: only the shards concerned are written anew, and nothing of them is left behind.

What replaces the old dataset is complete before `metadata.json` changes over to it; then the old files are removed.

Speakers are `namespace/speaker_id`. It must not know recordings or the graph: nothing is decoded.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from ge2e_transforms import erasing, schema
from ge2e_transforms.augmentation import MARK, Augmentation, reserved
from ge2e_transforms.config import canonical_json
from ge2e_transforms.errors import DatasetError, LedgerRow
from ge2e_transforms.identity import Tombstones, erased_row, nameless, unread
from ge2e_transforms.metadata import require_complete
from ge2e_transforms.schema import METADATA_FILE
from ge2e_transforms.utterance import file_of
from pipeline import growth, publishing, storage, tables
from pipeline.assembly import Part, assemble, read_parts, remove_replaced, standing_bases
from pipeline.write import UNKNOWN, faulty


@dataclass(frozen=True)
class Erased:
    """What was done.

    Attributes:
        metadata: of the dataset that stands now.
        shards: how many were written anew.
        utterances, rows: how many of the speakers' were in the dataset, and only in its ledger.
        already: speakers that had been erased before.
    """

    metadata: dict[str, Any]
    shards: int
    utterances: int
    rows: int
    already: tuple[str, ...]


def erase(output: str, speakers: Sequence[str], progress: Callable[[str], None] = lambda _: None) -> Erased:
    """Erases speakers from a dataset; nothing changes unless all of it succeeds.

    Args:
        output: folder of the dataset.
        speakers: `namespace/speaker_id` of each.
        progress: told of each shard before it is written.

    Raises:
        DatasetError: there is no dataset, or it does not know one of the speakers.
        CommitError: another job has published meanwhile.
    """
    previous = publishing.read(output)
    stood = previous.metadata
    if not stood:
        raise DatasetError(f"{output} holds no complete dataset: there is nothing to erase from")
    require_complete(stood, storage.join(output, METADATA_FILE))
    tombstones = Tombstones.of(stood)
    already = tuple(speaker for speaker in speakers if tombstones.hide(speaker))
    gone = frozenset(speakers) - set(already)
    ledger = growth.ledger_of(output, stood)
    _refuse_unknown(output, stood, gone, ledger)
    gone |= _at_other_speeds(stood, gone)
    if not gone:
        remove_replaced(output, stood)  # an attempt before may have died here
        return Erased(stood, 0, 0, 0, already)
    tombstones = tombstones.with_speakers(speakers)
    generation = _generation(stood["generation"], tombstones)
    parts, concerned = [], 0
    standing = read_parts(output, standing_bases(stood))
    for part, (shard, shards) in zip(standing, _places(standing), strict=True):
        named = {"generation": generation, "shard": shard, "shards": shards}
        rewritten = _rewritten(output, part, gone, named, progress)
        parts.append(rewritten or part)
        concerned += rewritten is not None
    left, rows = _without(ledger, gone), sum(row.speaker_id in gone for row in ledger)
    utterances = stood["counts"]["written"] - sum(part.done["utterances"] for part in parts)
    left += [_ERASED_UTTERANCE] * utterances
    facts = {**stood, **_facts(stood, generation, tombstones, left, utterances, parts)}
    return Erased(assemble(output, facts, parts, left, previous), concerned, utterances, rows, already)


def _at_other_speeds(stood: Mapping[str, Any], gone: Collection[str]) -> set[str]:
    """The speakers that augmentation made of these; they cannot be erased for themselves.

    Raises:
        DatasetError: one of the speakers is such a one.
    """
    config = Augmentation.of(stood)
    if config is None or not config.speed:
        return set()
    if made := [name for name in sorted(gone) if reserved(name)]:
        raise DatasetError(
            f"{made[0]!r} is speaker {made[0].rpartition(MARK)[0]!r} at another speed: erase that one, and it goes "
            "too. Nothing was erased"
        )
    return {name for own in gone for name in config.at_speeds(own)}


# An utterance that was written is not told by its row in a manifest: the index does not know it.
_ERASED_UTTERANCE = erased_row(LedgerRow("", "", "", "", "", -1, "", "", ""))


def _refuse_unknown(output: str, stood: Mapping[str, Any], gone: Collection[str], ledger: Iterable[LedgerRow]) -> None:
    there = growth.speakers_of(output, stood) | {row.speaker_id for row in ledger}
    if unknown := sorted(set(gone) - there):
        bare = {name.partition("/")[2]: name for name in there}
        hints = [f" (did you mean {bare[name]!r}?)" if name in bare else "" for name in unknown]
        names = ", ".join(f"{name!r}{hint}" for name, hint in zip(unknown, hints, strict=True))
        keyed = ", which holds pseudonyms: true ids need --pseudonymize and the key it was made with"
        raise DatasetError(
            f"{output} has no speaker {names}: expected namespace/speaker_id as in its speakers table "
            f"({stood['speakers']['path']}{keyed if stood['pseudonyms'] else ''}). Nothing was erased"
        )


def _generation(standing: str, tombstones: Tombstones) -> str:
    content = canonical_json({"standing": standing, "erased": tombstones.to_json()})
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def _places(parts: Sequence[Part]) -> Iterator[tuple[int, int]]:
    """Number of each shard in its split, and how many there are; two jobs may both have written a shard 0 of 6."""
    shards = Counter(part.done["split"] for part in parts)
    before: Counter[str] = Counter()
    for part in parts:
        split = part.done["split"]
        yield before[split], shards[split]
        before[split] += 1


def _rewritten(
    output: str, part: Part, gone: Collection[str], named: Mapping[str, Any], progress: Callable[[str], None]
) -> Part | None:
    """A shard without the speakers, under its new name; None if it holds nothing of them."""
    done, source = part.done, [storage.join(output, name) for name in schema.shard_files(part.base)]
    index = growth.read_table(source[1]) if done["records"] else None
    holds = index is not None and pc.any(pc.is_in(index["speaker_id"], growth.texts(gone))).as_py()
    if not holds and not erasing.mentions(done, gone):
        return None
    base = schema.shard_base(done["split"], **named)
    progress(part.base)
    target = [storage.join(output, name) for name in schema.shard_files(base)]
    if index is None:
        done = erasing.without_rows(gone, done)
    else:
        with storage.reading(source[0]) as stream, storage.building(*target[:2]) as paths:
            done = erasing.without(gone, done, stream, index, paths)
    left = {*faulty(done), *map(file_of, done.get("unusable_sounds", ())), UNKNOWN}
    faults = {location: state for location, state in done["faults"].items() if location in left}
    done = {**done, **named, "faults": faults}
    storage.write_bytes(target[2], json.dumps(done).encode())
    return Part(base, done)


def _without(ledger: Iterable[LedgerRow], gone: Collection[str]) -> list[LedgerRow]:
    """The ledger with no word of the speakers; of rows that could not be read nobody knows whom they name."""
    rows = [erased_row(row) if row.speaker_id in gone else row for row in ledger]
    return [nameless(row) if unread(row) else row for row in rows]


def _facts(
    stood: Mapping[str, Any],
    generation: str,
    tombstones: Tombstones,
    ledger: Iterable[LedgerRow],
    utterances: int,
    parts: Iterable[Part],
) -> dict[str, Any]:
    rows = list(ledger)
    counts = {**stood["counts"], "written": stood["counts"]["written"] - utterances}
    if "augmentation" in stood:
        counts["copies"] = sum(part.done["copies"] for part in parts)
    for kind in ("filtered", "rejected"):
        counts[kind] = tables.add_counts({row.reason: 1} for row in rows if row.kind == kind)
    step = {"kind": "erase", "generation": generation, "content": ""}
    return {
        "generation": generation,
        "history": [*stood["history"], step],
        "counts": counts,
        "erased": tombstones.to_json(),
    }
