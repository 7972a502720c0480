"""What a dataset with augmentation holds beside clean utterances: copies by kind, with their ratios, and other speeds.

Which records are clean is told here, too. It must not know of what else the indexes say of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ge2e_transforms.augmentation import ADDED, Augmentation, sped
from ge2e_transforms.dataset import Dataset
from ge2e_transforms.errors import DatasetError
from ge2e_transforms.histogram import Histogram
from ge2e_transforms.runs import changes
from ge2e_transforms.schema import COPY_SHIFT

# Columns of a shard's index that say what was done to a record, and whose copy it is.
COLUMNS = ("label", "utterance_index", "flags", "augmentation", "snr_db")
_BINS = 40  # of a histogram of ratios


class Done(NamedTuple):
    """What was done to some records: `[records]` each.

    factor: speed, 1 for one's own.
    kind: number in `Treatments.kinds`, -1 for none.
    """

    factor: npt.NDArray[np.float64]
    kind: npt.NDArray[np.int64]

    @property
    def clean(self) -> npt.NDArray[np.bool_]:
        """Of an utterance at its own speed, and of no copy."""
        return np.asarray((self.kind < 0) & (self.factor == 1))


@dataclass
class OfKind:
    """The copies of one kind.

    Attributes:
        copies: of utterances at their own speed; sped: of those at other ones.
        snr_db: ratio of speech to what was added, of all of them; None of kinds that add nothing.
    """

    copies: int = 0
    sped: int = 0
    snr_db: Histogram | None = None


class AtSpeed(NamedTuple):
    """What there is at one speed: speakers, utterances, and seconds of these with their copies."""

    factor: float
    speakers: int
    utterances: int
    seconds: float


@dataclass
class Treatments:
    """Counts over the indexes of all shards.

    Attributes:
        config: of the dataset.
        of: by kind, in the order in which copies are written.
    """

    config: Augmentation
    of: dict[str, OfKind] = field(init=False)

    def __post_init__(self) -> None:
        self.of = {copy.kind: OfKind() for copy in self.config.copies}
        ratios = [getattr(self.config, kind).snr_db for kind in self.of if kind in ADDED]
        for kind in self.of:
            if kind in ADDED:
                low, high = np.floor(np.min(ratios)), np.ceil(np.max(ratios))
                self.of[kind].snr_db = Histogram(np.linspace(low, max(high, low + 1), _BINS + 1))

    @property
    def kinds(self) -> list[str]:
        """Kinds of copies, by the numbers that `Done.kind` holds."""
        return list(self.of)

    def done(self, table: pa.Table, where: object) -> Done:
        """What was done to the records of an index, which has the column `augmentation`.

        Raises:
            DatasetError: something that the config does not know.
        """
        known = self.config.treatments
        column = table["augmentation"].combine_chunks().dictionary_encode()
        texts = column.dictionary.to_pylist()
        if unknown := [text for text in texts if text not in known]:
            raise DatasetError(
                f"{where}: expected augmentation to be one of {', '.join(map(repr, known))}, as metadata.json has "
                f"them, got {unknown[0]!r}, in an index: it is damaged, or of another dataset"
            )
        numbers = {kind: number for number, kind in enumerate(self.kinds)}
        factor = np.array([known[text][0] for text in texts], dtype=np.float64)
        kind = np.array([numbers.get(known[text][1], -1) for text in texts], dtype=np.int64)
        code = column.indices.to_numpy()
        return Done(factor[code], kind[code])

    def add(self, table: pa.Table, done: Done) -> None:
        """Counts the copies of a shard by its index, with `COLUMNS`; those of an utterance lie side by side.

        Args:
            table: the index.
            done: of the same records.
        """
        label, utterance, flags = (table[name].to_numpy() for name in COLUMNS[:3])
        first = changes(label, utterance, flags >> COPY_SHIFT)
        ratio = table["snr_db"].to_numpy().astype(np.float64)  # NaN where there is none
        for number, found in enumerate(self.of.values()):
            mine = first & (done.kind == number)
            found.copies += int(np.count_nonzero(mine & (done.factor == 1)))
            found.sped += int(np.count_nonzero(mine & (done.factor != 1)))
            if found.snr_db is not None:
                found.snr_db.add(ratio[mine & np.isfinite(ratio)])


def labels_at_other_speeds(dataset: Dataset) -> npt.NDArray[np.int64]:
    """Labels of those who are another speaker at another speed; none of a dataset without augmentation."""
    config = Augmentation.of(dataset.metadata)
    parts = [_at_speed(dataset.speakers, factor)["label"].to_numpy() for factor in config.speed] if config else []
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


def speeds(dataset: Dataset, config: Augmentation) -> list[AtSpeed]:
    """What there is at each of the other speeds, by the table of speakers; DatasetError if that is damaged."""
    found = []
    for factor in config.speed:
        own = _at_speed(dataset.speakers, factor)
        sums = (pc.sum(own[name], min_count=0).as_py() for name in ("utterances", "seconds"))
        found.append(AtSpeed(factor, len(own), *sums))
    return found


def _at_speed(speakers: pa.Table, factor: float) -> pa.Table:
    return speakers.filter(pc.ends_with(speakers["speaker_id"], sped("", factor)))
