"""What a batch is, and what the speakers of a split can give to batches: slots, and groups of M slots. Pure NumPy.

It must not know of epochs or of chance. Columns are int64, one entry a record, an utterance or a speaker; lengths are
stored rows: frames, or samples of a raw dataset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ge2e_transforms.checks import check, check_integer
from ge2e_transforms.errors import ConfigError, SamplingError
from ge2e_transforms.placing import largest
from ge2e_transforms.runs import Ints, changes, offsets, run_sums

_CHOICES = {
    "distinct": ("strict", "prefer", "any"),
    "short": ("repeat", "pad", "drop"),
    "under_m": ("drop", "repeat"),
    "crops": ("random", "grid"),
    "batch_sources": ("mixed", "single"),
}
_EXPONENTS = {"uniform": 0.0, "proportional": 1.0}


@dataclass(frozen=True)
class SamplingOptions:
    """What a batch is, and what may be relaxed to make one.

    Attributes:
        speakers_per_batch: N, different speakers in every batch.
        utterances_per_speaker: M, crops of each of them, side by side.
        crop_frames: length of a crop in stored rows (frames, or samples of a raw dataset); or (shortest, longest,
            step), for batches of one length each, drawn per batch.
        seed: integer in [0, 2^64). There is no default source of chance: None is refused.
        distinct: must the M crops come from M utterances? 'strict': always, whatever is left out for it.
            'prefer': unless the speaker's quota cannot be filled so; then with the fewest repetitions there can
            be, which `coverage.coverage` counts. 'any': all crops of a speaker count alike.
        speakers: how many groups of M a speaker gives in an epoch, of the H that it holds. 'uniform': the same
            quota for all, the largest that nine in ten of the speakers can fill; who holds fewer gives all.
            'proportional': all. A number a in [0, 1] lies between: quota x (H / quota)^a, at most H. A speaker that
            gives fewer than it holds is not cut short: the next epoch takes others, until all had their turn.
        short: utterances shorter than a crop. 'repeat' (from their start again) and 'pad' give one crop each,
            'drop' gives none. Filling up is the reader's task.
        under_m: speakers with fewer than M crops. 'drop': left out. 'repeat': one group, some crops twice.
        crops: 'random': crop j of n starts anywhere in the j-th of n equal parts of the possible starts.
            'grid': crops lie end to end, and where the first one starts is random.
        distinct_sessions: `distinct` then speaks of sessions: the M crops come from M sessions (and so utterances).
        slots_per_utterance: the most crops that a record gives in its turn, however long it is; None for no limit.
        batch_sources: 'single': all speakers of a batch are of one source. A speaker of two sources takes part in each.
        locality: None, or a number W: batches are made within windows of W shards, which a reader can hold in memory.

    Raises:
        ConfigError: on construction; it names the value.
    """

    speakers_per_batch: int
    utterances_per_speaker: int
    crop_frames: int | tuple[int, int, int]
    seed: int
    distinct: str = "prefer"
    speakers: str | float = "uniform"
    short: str = "repeat"
    under_m: str = "drop"
    crops: str = "random"
    distinct_sessions: bool = False
    slots_per_utterance: int | None = None
    batch_sources: str = "mixed"
    locality: int | None = None

    def __post_init__(self) -> None:
        for name in ("speakers_per_batch", "utterances_per_speaker"):
            self._check_integer(name, 1 << 31)
        for name in ("slots_per_utterance", "locality"):
            if getattr(self, name) is not None:
                self._check_integer(name, 1 << 31)
        self._check_crop_frames()
        check(isinstance(self.distinct_sessions, bool), "distinct_sessions", self.distinct_sessions, "True or False")
        self._check_integer("seed", 1 << 64, least=0)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} cannot be used: expected one of {allowed}")
        if not 0 <= self.exponent <= 1:
            expected = "'uniform', 'proportional' or a number from 0 to 1"
            raise ConfigError(f"speakers={self.speakers!r} cannot be used: expected {expected}")
        if self.distinct == "strict" and self.under_m == "repeat":
            raise ConfigError("distinct='strict' forbids what under_m='repeat' asks for: change one of them")
        if self.locality and self.batch_sources == "single":
            raise ConfigError(
                f"locality={self.locality} and batch_sources='single' cannot be used together, as a window of shards "
                "may hold too little of a source: leave out one of them"
            )

    def _check_integer(self, name: str, bound: int, least: int = 1) -> None:
        """Integers of NumPy become Python's, so that equal options have one text."""
        check_integer(name, getattr(self, name), least, bound)
        object.__setattr__(self, name, int(getattr(self, name)))

    def _check_crop_frames(self) -> None:
        if not isinstance(self.crop_frames, (tuple, list)):
            self._check_integer("crop_frames", 1 << 31)
            return
        check(len(self.crop_frames) == 3, "crop_frames", self.crop_frames, "(shortest, longest, step)")
        for value in self.crop_frames:
            check_integer("crop_frames", value, 1, 1 << 31)
        object.__setattr__(self, "crop_frames", tuple(map(int, self.crop_frames)))
        shortest, longest, _ = self.crop_frames
        check(shortest <= longest, "crop_frames", self.crop_frames, "shortest <= longest")

    @property
    def lengths(self) -> range:
        """Lengths that a crop can have, in rows, shortest first."""
        if isinstance(self.crop_frames, tuple):
            shortest, longest, step = self.crop_frames
            return range(shortest, longest + 1, step)
        return range(self.crop_frames, self.crop_frames + 1)

    @property
    def longest(self) -> int:
        """Rows of the longest crop, for which slots are counted."""
        return self.lengths[-1]

    @property
    def exponent(self) -> float:
        """The power of what it holds that a speaker gives: 0 is uniform, 1 proportional, NaN no number."""
        if isinstance(self.speakers, str):
            return _EXPONENTS.get(self.speakers, math.nan)
        number = isinstance(self.speakers, (int, float)) and not isinstance(self.speakers, bool)
        return float(self.speakers) if number else math.nan


class Supply:
    """What some speakers of a split can give, for one M and any N: slots, and groups of M of them.

    A record of T rows, T >= crop, gives T // crop slots, or as many as `slots_per_utterance` says; a shorter one gives
    one, or none (`short='drop'`). The parts that a long utterance is stored in are records of one utterance.

    Args:
        index: integer arrays, one entry a record: `frames`, `label`, `utterance_index` and `session_index` (these two
            number the utterances and the sessions of a speaker). Other columns are not looked at.
        options: `speakers_per_batch` is not looked at.

    Attributes:
        label: int64 `[speakers]`, rising: those with slots.
        held: int64 `[speakers]`, groups that each can give; 0 for those who cannot take part.
        utterances, sessions: int64 `[speakers]`, how many of them have slots.
        number, slots, speaker: int64, one entry an utterance (with `distinct_sessions` a session): its number, how many
            slots it has, and whose it is (a place in `label`). `session`, `copies` and `first_slot` go with them: the
            session of its first record, how often each of its slots counts, and the first of its slots.
        speaker_slots, speaker_copies, distinct_groups: int64 `[speakers]`: slots of the records, how often each counts,
            and groups without an utterance twice.
        record, record_frames, record_slots, record_first: int64, one entry a record with slots: its place in the index,
            its rows, its slots, and the first of these.
        record_of_slot: int32 `[slots]`, the record of each.
        short_dropped: records without a slot.
    """

    def __init__(self, index: Mapping[str, npt.NDArray[Any]], options: SamplingOptions) -> None:
        self.options = options
        names = ("frames", "label", "utterance_index", "session_index")
        frames, label, utterance, session = (np.asarray(index[name], dtype=np.int64) for name in names)
        slots = _slots_of_records(frames, options)
        self.short_dropped = int(np.count_nonzero(slots == 0))
        number = session if options.distinct_sessions else utterance
        # Records with slots, by speaker and utterance; those of one utterance keep their order.
        self.record = _by_keys(np.flatnonzero(slots), label << 32 | number)
        self.record_frames, self.record_slots = frames[self.record], slots[self.record]
        self.record_of_slot = np.repeat(np.arange(len(self.record), dtype=np.int32), self.record_slots)
        self.record_first = offsets(self.record_slots)[:-1]
        label, number, session, utterance = (x[self.record] for x in (label, number, session, utterance))
        head = np.flatnonzero(changes(label, number))
        self.number, self.session, self.first_slot = number[head], session[head], self.record_first[head]
        self._head = np.flatnonzero(changes(label[head]))
        self.label = label[head][self._head]
        self.speaker = np.repeat(np.arange(len(self.label)), np.diff(self._head, append=len(head)))
        self.utterances, self.sessions = (_count_different(label, ids) for ids in (utterance, session))
        self.slots = run_sums(self.record_slots, head)
        self.speaker_slots = self.speaker_sums(self.slots)
        # Slots of those who have too few count several times, so that there are at least M, and fewer than 2 M.
        m, copies = options.utterances_per_speaker, np.ones_like(self.label)
        if options.under_m == "repeat":
            copies = -(-m // self.speaker_slots)
        self.speaker_copies, self.copies = copies, copies[self.speaker]
        self.slots = self.slots * self.copies
        self.distinct_groups = self._distinct_groups()
        self.held = self.distinct_groups if options.distinct == "strict" else self.speaker_slots * copies // m

    def speaker_sums(self, values: Ints) -> Ints:
        """Sums per speaker of a value per utterance."""
        return run_sums(values, self._head)

    def speaker_firsts(self, values: Ints) -> Ints:
        """What the first utterance of its speaker has, for every utterance."""
        return values[self._head][self.speaker]

    def laid_out(self, level: Ints) -> Ints:
        """Slots of each speaker when of no utterance more than `level[speaker]` are taken."""
        return self.speaker_sums(np.minimum(self.slots, level[self.speaker]))

    @property
    def richest(self) -> Ints:
        """Slots of the utterance that has most of them, per speaker."""
        return np.maximum.reduceat(self.slots, self._head) if len(self._head) else self.label

    def _distinct_groups(self) -> Ints:
        """The most groups that each speaker can give at once without an utterance twice in a group.

        Of g groups an utterance of c slots can be in min(c, g), so the sum of these must be at least g x M. That is
        enough, too, as `dealing.Dealer` shows.
        """
        m = self.options.utterances_per_speaker
        return largest(lambda groups: self.laid_out(groups) >= groups * m, self.speaker_sums(self.slots) // m)


def require(speakers: int, eligible: int, have: Ints, options: SamplingOptions) -> None:
    """Refuses more speakers in a batch than can take part.

    Args:
        speakers: N.
        eligible: speakers that can give a group.
        have: what a speaker needs M of for a group: slots, or utterances (sessions) with `distinct='strict'`.
        options: as asked for.

    Raises:
        SamplingError: with the largest N for this M, and the largest M for this N.
    """
    if speakers <= eligible:
        return
    m, strict = options.utterances_per_speaker, options.distinct == "strict"
    most = int(np.sort(have)[::-1][speakers - 1]) if speakers <= len(have) else 0
    what = ("", " sessions" if options.distinct_sessions else " utterances")[strict]
    raise SamplingError(
        f"no batch of {speakers} speakers x {m} utterances can be made: of {len(have)} speakers with crops of "
        f"{options.longest} rows, {eligible} can give {m}{what}. "
        f"Largest N for M={m}: {eligible or 'none'}; largest M for N={speakers}: {most or 'none'}. "
        "Lower speakers_per_batch, utterances_per_speaker or crop_frames, or allow more: under_m='repeat' takes "
        "crops twice, distinct='prefer' takes utterances twice"
    )


def _slots_of_records(frames: Ints, options: SamplingOptions) -> Ints:
    one_of_short = (frames > 0) & (options.short != "drop")
    slots = np.where(frames < options.longest, one_of_short, frames // options.longest)
    limit = options.slots_per_utterance
    return slots if limit is None else np.minimum(slots, limit)


def _by_keys(rows: Ints, keys: Ints) -> Ints:
    """Rows in the order of their keys, equal ones as they are; indexes mostly are in order already."""
    chosen = keys if len(rows) == len(keys) else keys[rows]
    if np.all(chosen[1:] >= chosen[:-1]):
        return rows
    return rows[np.argsort(chosen, kind="stable")]


def _count_different(label: Ints, ids: Ints) -> Ints:
    """How many different ids each label has, by rising label; records are sorted by label."""
    if not len(label):
        return label
    keys = label << 32 | ids
    if np.any(keys[1:] < keys[:-1]):
        keys = np.sort(keys)
    heads = np.flatnonzero(changes(label))
    return run_sums(changes(keys).astype(np.int64), heads)
