"""What a batch is, and what the speakers of a split can give to batches: slots, and groups of M slots. Pure NumPy.

It must not know of epochs or of chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ge2e_transforms.checks import check_integer
from ge2e_transforms.errors import ConfigError, SamplingError
from ge2e_transforms.placing import Ints, largest

_CHOICES = {
    "distinct": ("strict", "prefer", "any"),
    "short": ("repeat", "pad", "drop"),
    "under_m": ("drop", "repeat"),
    "crops": ("random", "grid"),
}
_EXPONENTS = {"uniform": 0.0, "proportional": 1.0}


@dataclass(frozen=True)
class SamplingOptions:
    """What a batch is, and what may be relaxed to make one.

    Attributes:
        speakers_per_batch: N, different speakers in every batch.
        utterances_per_speaker: M, crops of each of them, side by side.
        crop_frames: length of a crop in stored rows (frames, or samples of a raw dataset).
        seed: integer in [0, 2^64). There is no default source of chance: None is refused.
        distinct: must the M crops come from M utterances? 'strict': always, whatever is left out for it.
            'prefer': unless the speaker's quota cannot be filled so; then with the fewest repetitions there can
            be, which `Sampler.coverage` counts. 'any': all crops of a speaker count alike.
        speakers: how many groups of M a speaker gives in an epoch, of the H that it holds. 'uniform': the same
            quota for all, the largest that nine in ten of the speakers can fill; who holds fewer gives all.
            'proportional': all. A number a in [0, 1] lies between: quota x (H / quota)^a, at most H. A speaker that
            gives fewer than it holds is not cut short: the next epoch takes others, until all had their turn.
        short: utterances shorter than a crop. 'repeat' (from their start again) and 'pad' give one crop each,
            'drop' gives none. Filling up is the reader's task.
        under_m: speakers with fewer than M crops. 'drop': left out. 'repeat': one group, some crops twice.
        crops: 'random': crop j of n starts anywhere in the j-th of n equal parts of the possible starts.
            'grid': crops lie end to end, and where the first one starts is random.

    Raises:
        ConfigError: on construction; it names the value.
    """

    speakers_per_batch: int
    utterances_per_speaker: int
    crop_frames: int
    seed: int
    distinct: str = "prefer"
    speakers: str | float = "uniform"
    short: str = "repeat"
    under_m: str = "drop"
    crops: str = "random"

    def __post_init__(self) -> None:
        for name in ("speakers_per_batch", "utterances_per_speaker", "crop_frames"):
            check_integer(name, getattr(self, name), 1, 1 << 31)
        check_integer("seed", self.seed, 0, 1 << 64)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} cannot be used: expected one of {allowed}")
        if not 0 <= self.exponent <= 1:
            expected = "'uniform', 'proportional' or a number from 0 to 1"
            raise ConfigError(f"speakers={self.speakers!r} cannot be used: expected {expected}")
        if self.distinct == "strict" and self.under_m == "repeat":
            raise ConfigError("distinct='strict' forbids what under_m='repeat' asks for: change one of them")

    @property
    def exponent(self) -> float:
        """The power of what it holds that a speaker gives: 0 is uniform, 1 proportional, NaN no number."""
        if isinstance(self.speakers, str):
            return _EXPONENTS.get(self.speakers, math.nan)
        number = isinstance(self.speakers, (int, float)) and not isinstance(self.speakers, bool)
        return float(self.speakers) if number else math.nan


class Supply:
    """What the speakers of a split can give, for one M and any N: slots, and groups of M of them.

    A record of T rows, T >= crop, gives T // crop slots; a shorter one gives one, or none (`short='drop'`). The
    parts that a long utterance is stored in are records of one utterance.

    Args:
        index: integer arrays, one entry a record: `frames`, `label`, `utterance_index` and `session_index` (these two
            number the utterances and the sessions of a speaker). Other columns are not looked at.
        options: `speakers_per_batch` is not looked at.

    Attributes:
        label: int64 `[speakers]`, rising.
        held: int64 `[speakers]`, groups that each can give; 0 for those who cannot take part.
    """

    def __init__(self, index: Mapping[str, npt.NDArray[Any]], options: SamplingOptions) -> None:
        self.options = options
        names = ("frames", "label", "utterance_index", "session_index")
        frames, label, number, session = (np.asarray(index[name], dtype=np.int64) for name in names)
        one_of_short = (frames > 0) & (options.short != "drop")
        slots = np.where(frames < options.crop_frames, one_of_short, frames // options.crop_frames)
        self.short_dropped = int(np.count_nonzero(slots == 0))
        # Records with slots, by speaker and utterance; those of one utterance keep their order.
        kept = np.flatnonzero(slots)
        self.record = kept[np.argsort(label[kept] << 32 | number[kept], kind="stable")]
        self.record_frames, self.record_slots = frames[self.record], slots[self.record]
        self.record_of_slot = np.repeat(np.arange(len(kept), dtype=np.int32), self.record_slots)
        self.record_first = offsets(self.record_slots)[:-1]
        label, number, session = label[self.record], number[self.record], session[self.record]
        head = np.flatnonzero(_changes(label) | _changes(number))
        self.number, self.session, self.first_slot = number[head], session[head], self.record_first[head]
        self._head = np.flatnonzero(_changes(label[head]))
        self.label = label[head][self._head]
        self.utterances = np.diff(self._head, append=len(head))
        self.speaker = np.repeat(np.arange(len(self.label)), self.utterances)  # of each utterance
        self.slots = _run_sums(self.record_slots, head)
        self.speaker_slots = self.speaker_sums(self.slots)
        # Slots of those who have too few count several times, so that there are at least M, and fewer than 2 M.
        m, copies = options.utterances_per_speaker, np.ones_like(self.label)
        if options.under_m == "repeat":
            copies = -(-m // self.speaker_slots)
        self.copies = copies[self.speaker]
        self.slots = self.slots * self.copies
        self.distinct_groups = self._distinct_groups()
        self.held = self.distinct_groups if options.distinct == "strict" else self.speaker_slots * copies // m

    def speaker_sums(self, values: Ints) -> Ints:
        """Sums per speaker of a value per utterance."""
        return _run_sums(values, self._head)

    def speaker_firsts(self, values: Ints) -> Ints:
        """What the first utterance of its speaker has, for every utterance."""
        return values[self._head][self.speaker]

    @property
    def eligible(self) -> int:
        """Speakers that hold a group: the largest N."""
        return int(np.count_nonzero(self.held))

    def _distinct_groups(self) -> Ints:
        """The most groups that each speaker can give at once without an utterance twice in a group.

        Of g groups an utterance of c slots can be in min(c, g), so the sum of these must be at least g x M. That is
        enough, too, as the dealing of `Sampler` shows.
        """
        m = self.options.utterances_per_speaker

        def enough(groups: Ints) -> npt.NDArray[np.bool_]:
            return self.speaker_sums(np.minimum(self.slots, groups[self.speaker])) >= groups * m

        return largest(enough, self.speaker_slots // m)

    def require(self, speakers: int) -> None:
        """Refuses more speakers in a batch than can take part.

        Raises:
            SamplingError: with the largest N for this M, and the largest M for this N.
        """
        if speakers <= self.eligible:
            return
        m, strict = self.options.utterances_per_speaker, self.options.distinct == "strict"
        have = np.sort(self.utterances if strict else self.speaker_slots)[::-1]
        most = int(have[speakers - 1]) if speakers <= len(have) else 0
        raise SamplingError(
            f"no batch of {speakers} speakers x {m} utterances can be made: of {len(have)} speakers with crops of "
            f"{self.options.crop_frames} rows, {self.eligible} can give {m}{' utterances' if strict else ''}. "
            f"Largest N for M={m}: {self.eligible or 'none'}; largest M for N={speakers}: {most or 'none'}. "
            "Lower speakers_per_batch, utterances_per_speaker or crop_frames, or allow more: under_m='repeat' takes "
            "crops twice, distinct='prefer' takes utterances twice"
        )


def _changes(ids: Ints) -> npt.NDArray[np.bool_]:
    """True where a run of equal ids begins."""
    return np.concatenate([np.ones(min(1, len(ids)), dtype=np.bool_), ids[1:] != ids[:-1]])


def _run_sums(values: Ints, head: Ints) -> Ints:
    """Sums of the runs that begin at `head`."""
    return np.add.reduceat(values, head) if len(head) else np.zeros(0, dtype=np.int64)


def offsets(counts: Ints) -> Ints:
    """Where runs of these lengths begin when they lie end to end, and last where all end."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
