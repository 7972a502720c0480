"""What adds up over the records and rows of a shard, for its done file and the metadata that is made of them.

Sums are float64, an entry a bin. It must not know how records are written.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ge2e_transforms import schema
from ge2e_transforms.errors import LedgerRow
from ge2e_transforms.sums import frame_sums


@dataclass
class FrameSums:
    """Records and frames of a shard, and per-bin sums over them. They add up over shards.

    Attributes:
        records, frames: how many there are.
        bin_sums, bin_squares: float64 `[bins]`, of all values and of their squares; 16-bit samples count as in [-1, 1).
            None as long as there is no record.
    """

    records: int = 0
    frames: int = 0
    bin_sums: npt.NDArray[np.float64] | None = None
    bin_squares: npt.NDArray[np.float64] | None = None

    def add(self, values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Adds a record `[frames, bins]` as stored; returns its own mean and deviation, float32 `[bins]` each."""
        exact = values.astype(np.float32) / np.float32(schema.PCM16_SCALE) if values.dtype.kind == "i" else values
        sums, squares = frame_sums(exact)
        self.records += 1
        self.frames += len(values)
        self.bin_sums = sums if self.bin_sums is None else self.bin_sums + sums
        self.bin_squares = squares if self.bin_squares is None else self.bin_squares + squares
        mean = sums / len(values)
        deviation = np.sqrt(np.maximum(squares / len(values) - np.square(mean), 0))
        return mean.astype(np.float32), deviation.astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Its part of a done file."""
        return {
            "records": self.records,
            "frames": self.frames,
            "statistics": {
                "frames": self.frames,
                "sums": [] if self.bin_sums is None else self.bin_sums.tolist(),
                "squares": [] if self.bin_squares is None else self.bin_squares.tolist(),
            },
        }


@dataclass
class ShardSums:
    """What a shard holds, as its done file says it.

    `copies` were made of its utterances, and count as none; `sped` rows at another speed count beside the `rows`, and
    as utterances.
    """

    rows: int = 0
    utterances: int = 0
    speakers: int = 0
    copies: int = 0
    sped: int = 0
    filtered: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    ledger: list[LedgerRow] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Its part of a done file."""
        names = ("rows", "utterances", "speakers", "copies", "sped")
        return {
            **{name: getattr(self, name) for name in names},
            **{name: dict(sorted(getattr(self, name).items())) for name in ("filtered", "rejected")},
            "ledger": [list(row) for row in self.ledger],
        }
