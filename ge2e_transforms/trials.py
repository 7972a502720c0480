"""Verification trials: pairs of utterances of one speaker or of two; read from a list, drawn, written.

Trials are numbers of utterances, int32. It must not know of features, or how utterances are compared.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ge2e_transforms.checks import check_integer
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import ConfigError, DatasetError, SamplingError, StorageError
from ge2e_transforms.rng import Bits, derive
from ge2e_transforms.runs import Ints, changes, offsets

# Streams of random bits. A change of their order changes every list.
_TARGETS, _NON_TARGETS, _CIRCLE = range(3)
# What messages show of a long list.
_LISTED = 10

_LABELLED, _NAMED = "label enrol test (label 1 or 0)", "enrol test target|nontarget"
_TEXT_COLUMNS = ("speaker_id", "utterance_id", "audio_path")


@dataclass(frozen=True, eq=False)
class Trials:
    """Trials over a set of utterances, each of which needs its embedding once.

    same: bool `[n]`, True for target trials: both utterances are of one speaker.
    enrol, test: int32 `[n]`, numbers into `utterances`.
    utterances: (speaker_id, utterance_id) of those that trials use, each once.
    """

    same: npt.NDArray[np.bool_]
    enrol: npt.NDArray[np.int32]
    test: npt.NDArray[np.int32]
    utterances: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.same)

    def write(self, path: str | Path) -> None:
        """Writes `label enrol test` lines, label 1 or 0, ids as `speaker_id/utterance_id`; `read_trials` reads them.

        Raises:
            DatasetError: ids that hold spaces.
            StorageError: the file cannot be written.
        """
        names = [f"{speaker}/{utterance}" for speaker, utterance in self.utterances]
        if spaced := [name for name in names if name.split() != [name]]:
            raise DatasetError(
                f"{path}: {len(spaced)} ids hold spaces, which a list of trials cannot: {_some(spaced)}. Name the "
                "utterances without spaces in the manifest, or keep the trials as arrays"
            )
        try:
            with Path(path).open("w", encoding="utf-8", newline="\n") as stream:
                for same, enrol, test in zip(*(x.tolist() for x in (self.same, self.enrol, self.test)), strict=True):
                    stream.write(f"{same:d} {names[enrol]} {names[test]}\n")
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error}") from error


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:_LISTED])) + (", ..." if len(names) > _LISTED else "")


def _refuse_windows(dataset: Dataset) -> None:
    if dataset.metadata["segments"] == "windows":
        raise DatasetError(
            f"{dataset.root} holds windows, fixed cuts and not utterances: trials need one of --segments utterance"
        )


# Reading a list.


def read_trials(path: str | Path, dataset: Dataset) -> Trials:
    """Trials of a list, in its order and with its repetitions, and the utterances of a dataset that they name.

    A list has lines `label enrol test`, label 1 or 0 (VoxCeleb), or `enrol test target|nontarget` (NIST, Kaldi,
    SITW), all of one form; blank lines count for nothing. An id is looked for as, in this order,
    `speaker_id/utterance_id`, the utterance id, the audio path as in the manifest, and the audio path without its
    extension or without some of its leading folders (VoxCeleb's `id10270/5r0dWxy17C8/00001.wav`), in all splits.

    Raises:
        DatasetError: the list cannot be read, a line has another form, ids that fit no utterance or several, or a
            dataset in windows form.
    """
    _refuse_windows(dataset)
    asked = _parse(path)
    found = _find(dataset, asked.ids)
    faults = [
        f"{name!r} (line {line}) is {' or '.join(map('/'.join, sorted(pairs))) or 'unknown'}"
        for name, line, (_, pairs) in zip(asked.ids, asked.lines, found, strict=True)
        if len(pairs) != 1
    ]
    if faults:
        raise DatasetError(
            f"{path}: {len(faults)} of {len(asked.ids)} ids do not name one utterance: {', '.join(faults[:_LISTED])}"
            f"{', ...' if len(faults) > _LISTED else ''}. Searched for as speaker_id/utterance_id, utterance_id, "
            f"audio_path, and audio_path without extension or leading folders, in {dataset.root}, splits "
            f"{', '.join(f'{split} ({_records(dataset, split)[-1]} records)' for split in dataset.splits)}"
        )
    # Two ids may be of one utterance.
    numbers: dict[tuple[str, str], int] = {}
    number = np.array([numbers.setdefault(min(pairs), len(numbers)) for _, pairs in found], dtype=np.int32)
    return Trials(np.array(asked.same), number[asked.enrol], number[asked.test], list(numbers))


class _Asked(NamedTuple):
    same: list[bool]
    enrol: list[int]  # numbers of ids, as test
    test: list[int]
    ids: dict[str, int]  # by number
    lines: list[int]  # where each id stands first


def _parse(path: str | Path) -> _Asked:
    """The list by the only form that fits all its lines."""
    parsed = {form: _parse_as(path, form) for form in (_LABELLED, _NAMED)}
    fitting = [asked for asked, _, _ in parsed.values() if asked]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        what = "all lines fit both" if fitting[0].same else "it has no lines"
        raise DatasetError(f"{path} is no list of trials: expected lines {_LABELLED}, or {_NAMED}, but {what}")
    line, got = max((line, got) for _, line, got in parsed.values())
    expected = [form for form, (_, number, _) in parsed.items() if number == line]
    before = ", as on the lines before," if len(expected) == 1 else ","
    raise DatasetError(f"{path}, line {line}: expected {', or '.join(expected)}{before} got {got}")


def _parse_as(path: str | Path, form: str) -> tuple[_Asked | None, int, str]:
    """The list, or the number and text of the first line that has another form."""
    asked = _Asked([], [], [], {}, [])
    label, first, words = (0, 1, ("0", "1")) if form == _LABELLED else (2, 0, ("nontarget", "target"))
    for line, fields in _lines(path):
        if len(fields) != 3 or fields[label] not in words:
            return None, line, ascii(" ".join(fields))[:120]
        asked.same.append(fields[label] == words[1])
        for name, column in ((fields[first], asked.enrol), (fields[first + 1], asked.test)):
            column.append(asked.ids.setdefault(name, len(asked.ids)))
            if len(asked.ids) > len(asked.lines):
                asked.lines.append(line)
    return asked, 0, ""


def _lines(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Number from 1 and fields of each line that has any."""
    try:
        with Path(path).open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if fields := line.split():
                    yield number, fields
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as a list of trials: {error}") from error


def _find(dataset: Dataset, ids: dict[str, int]) -> list[tuple[int, set[tuple[str, str]]]]:
    """For each id the rule that it fits by, and the (speaker, utterance) pairs that it fits."""
    depths = sorted({name.count("/") for name in ids})
    found: list[tuple[int, set[tuple[str, str]]]] = [(4, set()) for _ in ids]  # there are rules 0 to 3
    for place in dataset.held_shards():
        table = dataset.shard_index(*place, (*_TEXT_COLUMNS, *(("augmentation",) if dataset.augmented else ())))
        pairs = list(zip(*(table[name].to_pylist() for name in _TEXT_COLUMNS[:2]), strict=True))
        for rule, column in _keys(table, depths):
            for row, name in enumerate(column.to_pylist()):
                number = ids.get(name)
                if number is None or rule > found[number][0]:
                    continue
                if rule < found[number][0]:
                    found[number] = (rule, set())
                # Not many more than messages show: an id may fit any number of records.
                if len(found[number][1]) <= _LISTED:
                    found[number][1].add(pairs[row])
    return found


def _keys(table: pa.Table, depths: list[int]) -> Iterator[tuple[int, pa.ChunkedArray]]:
    """Rules, the first that fits goes, and what an id must be by them; paths (of no copies) are cut to these depths."""
    speaker, utterance, path = (table[name] for name in _TEXT_COLUMNS)
    path = pc.if_else(pc.equal(table["augmentation"], ""), path, None) if "augmentation" in table.column_names else path
    yield 0, pc.binary_join_element_wise(speaker, utterance, "/")
    yield 1, utterance
    yield 2, path
    for depth in depths:
        tail = pc.replace_substring_regex(path, rf"(?s)^.*/((?:[^/]*/){{{depth}}}[^/]*)$", r"\1")
        yield 3, tail
        yield 3, pc.replace_substring_regex(tail, r"\.[^./]+$", "")


# Drawing.


def verification_trials(
    dataset: Dataset,
    split: str,
    per_speaker: int = 100,
    seed: int = 0,
    cross_session: bool = True,
    same_gender: Mapping[str, Hashable] | None = None,
) -> Trials:
    """Draws trials of a split: all targets, then as many non-targets.

    No pair comes twice, in either order. All pairs of a speaker are equally likely to be its targets. Each speaker is
    enrolled in as many non-targets as in targets, as far as it has pairs with others; the rest is shared out evenly.

    Args:
        dataset: in utterance form.
        split: its name.
        per_speaker: most target trials of a speaker; one with fewer pairs gives them all. With 100, forty speakers
            make an error rate of 1 % rest on 40 errors of each kind (Doddington's rule asks for 30).
        seed: integer in [0, 2^64); other seeds draw other trials.
        cross_session: targets pair two sessions. Within one, the channel and the room give the answer away.
        same_gender: gender of each speaker, by `namespace/speaker_id`: both speakers of a non-target have the same.

    Raises:
        SamplingError: no target can be drawn, or not as many non-targets.
        ConfigError: an option cannot be used, or speakers of the split are not in `same_gender`.
        DatasetError: no such split, or a dataset in windows form.
    """
    _refuse_windows(dataset)
    check_integer("per_speaker", per_speaker, 1, 1 << 31)
    check_integer("seed", seed, 0, 1 << 64)
    spoken = _spoken(dataset, split)
    gender = _genders(dataset, split, spoken.speakers, same_gender)
    enrol, test, drawn = _targets(spoken, cross_session, per_speaker, seed)
    _say_who_gives_none(dataset, split, drawn, cross_session)
    others = _non_targets(spoken, gender, drawn, seed)
    if others is None:
        among = "" if same_gender is None else " of one gender"
        raise SamplingError(
            f"split {split!r} of {dataset.root} has fewer utterance pairs of different speakers{among} than its "
            f"{len(enrol)} target trials: lower per_speaker={per_speaker}"
        )
    rows, number = np.unique(spoken.rows[np.concatenate([enrol, others[0], test, others[1]])], return_inverse=True)
    pairs = number.astype(np.int32).reshape(2, -1)
    return Trials(np.arange(2 * len(enrol)) < len(enrol), pairs[0], pairs[1], _names(dataset, split, rows))


class _Spoken(NamedTuple):
    """Utterances of a split sorted by speaker and session; what is drawn counts in places of this order."""

    rows: Ints  # first record of each, in the index of the split
    session: Ints
    speakers: Ints  # labels
    first: Ints  # per speaker: its first place
    counts: Ints


def _spoken(dataset: Dataset, split: str) -> _Spoken:
    index = dataset.index(split)
    label, number = index["label"], index["utterance_index"]
    rows = np.flatnonzero(changes(label, number))
    rows = rows[np.lexsort((index["session_index"][rows], label[rows]))]
    speakers, first, counts = np.unique(label[rows], return_index=True, return_counts=True)
    return _Spoken(rows, index["session_index"][rows], speakers.astype(np.int64), first, counts)


def _genders(dataset: Dataset, split: str, speakers: Ints, same_gender: Mapping[str, Hashable] | None) -> Ints:
    """A number per speaker, the same for all without `same_gender`."""
    if same_gender is None:
        return np.zeros(len(speakers), dtype=np.int64)
    table = dataset.speakers
    by_label = dict(zip(table["label"].to_pylist(), table["speaker_id"].to_pylist(), strict=True))
    names = [by_label[label] for label in speakers.tolist()]
    if missing := [name for name in names if name not in same_gender]:
        raise ConfigError(
            f"same_gender lacks {len(missing)} of {len(names)} speakers of split {split!r} (expected each, by "
            f"namespace/speaker_id): {_some(missing)}"
        )
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(same_gender[name], len(codes)) for name in names], dtype=np.int64)


def _targets(spoken: _Spoken, cross_session: bool, per_speaker: int, seed: int) -> tuple[Ints, Ints, Ints]:
    """Enrolled and test places of target trials, and how many each speaker gives."""
    # The pairs of a speaker are numbered: of each place with all that follow after its session (or after itself).
    ends = spoken.first + spoken.counts
    new = np.ones(len(spoken.rows), dtype=np.bool_)
    if cross_session:
        new = changes(spoken.session)
        new[spoken.first] = True
    begins = np.flatnonzero(new)
    after = np.append(begins[1:], len(new))[np.cumsum(new) - 1]
    before = offsets(np.repeat(ends, spoken.counts) - after)
    pairs = before[ends] - before[spoken.first]
    drawn = np.minimum(pairs, per_speaker)
    speaker, number = _draw(derive(seed, _TARGETS, spoken.speakers), drawn, pairs)
    number += before[spoken.first[speaker]]
    enrol = np.searchsorted(before, number, side="right") - 1
    return enrol, after[enrol] + number - before[enrol], drawn


def _say_who_gives_none(dataset: Dataset, split: str, drawn: Ints, cross_session: bool) -> None:
    none, what = int(np.sum(drawn == 0)), "session" if cross_session else "utterance"
    advice = "; with cross_session=False two utterances of one session make a target trial" if cross_session else ""
    message = f"{none} of {len(drawn)} speakers of split {split!r} have one {what} only, so no target trial{advice}"
    if none == len(drawn):
        raise SamplingError(f"no target trial can be made from {dataset.root}: {message}")
    if none:
        warnings.warn(message, stacklevel=3)


def _non_targets(spoken: _Spoken, gender: Ints, wanted: Ints, seed: int) -> tuple[Ints, Ints] | None:
    """Enrolled and test places of as many non-target trials as wanted of all speakers; None if there are too few."""
    # The speakers of a gender stand in a circle, in random order, and each is enrolled against those in the half circle
    # after it: so every two speakers meet on one side only, and no pair of utterances can come twice.
    order = np.lexsort((derive(seed, _CIRCLE, spoken.speakers), gender))
    counts, circle = spoken.counts[order], gender[order]
    start, end = (np.searchsorted(circle, circle, side=side) for side in ("left", "right"))
    size, place = end - start, np.arange(len(order)) - start
    # Of an even number, two stand opposite: the first of them meets the other.
    stop = place + 1 + (size - 1) // 2 + ((size % 2 == 0) & (place < size // 2))
    before = offsets(counts)
    around = before[end] - before[start]
    wraps = stop > size
    met = before[start + stop - wraps * size] + wraps * around - before[1:]
    pairs = counts * met
    if pairs.sum() < wanted.sum():
        return None
    speaker, number = _draw(derive(seed, _NON_TARGETS, spoken.speakers[order]), _share(wanted[order], pairs), pairs)
    enrol = spoken.first[order][speaker] + number // met[speaker]
    base = before[start[speaker]]
    test = base + (before[speaker + 1] - base + number % met[speaker]) % around[speaker]
    tested = np.searchsorted(before, test, side="right") - 1
    return enrol, spoken.first[order][tested] + test - before[tested]


def _share(wanted: Ints, most: Ints) -> Ints:
    """As many of each as wanted, at most `most`; what is missing is shared out evenly. `most` holds enough in all."""
    given = np.minimum(wanted, most)
    while missing := int(wanted.sum() - given.sum()):
        more = np.minimum(most - given, max(1, missing // int(np.sum(most > given))))
        given += np.clip(missing - offsets(more)[:-1], 0, more)
    return given


def _draw(keys: Bits, counts: Ints, sizes: Ints) -> tuple[Ints, Ints]:
    """For each key i, `counts[i]` different numbers of [0, sizes[i]): i and number of each, `[sum(counts)]`."""
    # One from each of as many equal stretches, so that they spread evenly over what the numbers count; all of them
    # turned by one random number, as the stretches may differ by 1 in length: each number is equally likely.
    owner = np.repeat(np.arange(len(counts)), counts)
    stretch = np.arange(len(owner)) - offsets(counts)[owner]
    length, longer = np.divmod(sizes[owner], counts[owner])
    inside = derive(keys[owner], 0, stretch) % (length + (stretch < longer)).astype(np.uint64)
    turn = derive(keys, 1) % np.maximum(1, sizes).astype(np.uint64)
    number = stretch * length + np.minimum(stretch, longer) + (inside + turn[owner]).astype(np.int64)
    return owner, number % sizes[owner]


def _records(dataset: Dataset, split: str) -> Ints:
    """Where the records of each shard begin, and last how many there are."""
    return offsets(np.array([entry["records"] for entry in dataset.shards(split)], dtype=np.int64))


def _names(dataset: Dataset, split: str, rows: Ints) -> list[tuple[str, str]]:
    """Speaker and utterance of records, numbers in rising order; the text of one shard is held at a time."""
    bounds = _records(dataset, split)
    names: list[tuple[str, str]] = []
    for shard, part in enumerate(np.split(rows, np.searchsorted(rows, bounds[1:-1]))):
        if len(part):
            table = dataset.shard_index(split, shard, _TEXT_COLUMNS[:2]).take(pa.array(part - bounds[shard]))
            names += zip(*(table[name].to_pylist() for name in _TEXT_COLUMNS[:2]), strict=True)
    return names
