"""The batches of each condition of `sampling_worth.py`, and what they turn out to hold.

All speech comes through `BatchLoader`. Windows in the order of files are cut from its whole utterances, since its own
batches never lie so: M windows of a speaker, one behind the other, take the place of the M crops of a batch that the
loader made. So who is in a batch, and how often, is the same, and only the windows differ.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sampling_corpus import CROP

from ge2e_transforms import BatchLoader

N, M = 32, 4

Values = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Batches = Iterator[tuple[Values, Ints]]


class Condition(NamedTuple):
    """How batches are made.

    Attributes:
        options: of the loader, where they are not its defaults.
        cliques: speakers always meet the same others: the loader follows one order of them in every epoch.
        frozen: the first epoch again and again: the same crops in the same batches.
        one_file: windows in the order of files in place of the loader's crops.
    """

    options: Mapping[str, Any] = {}
    cliques: bool = False
    frozen: bool = False
    one_file: bool = False


DEFAULT = "default"
CONDITIONS = {
    DEFAULT: Condition(),
    "distinct sessions": Condition({"distinct_sessions": True}),
    "one file": Condition(one_file=True),
    "frozen": Condition(frozen=True),
    "one file, frozen": Condition(one_file=True, frozen=True),
    "cliques": Condition(cliques=True),
    "proportional": Condition({"speakers": "proportional"}),
    "one file, frozen, proportional": Condition({"speakers": "proportional"}, one_file=True, frozen=True),
}


class Speech:
    """The utterances of the train split in the order of their files.

    Args:
        root: folder of a dataset of float16 values, whose utterances are a record each.

    Attributes:
        label, session: int64 `[utterances]`; sessions are numbered within the speaker.
        windows: float16 `[windows, rows, bands]`, all whole windows of each utterance, end to end.
        first, count: int64 `[labels]`, where the windows of a speaker begin and how many there are.
    """

    def __init__(self, root: Path) -> None:
        loader = BatchLoader(root, N, M, CROP, layout="time_mel")
        index = loader.stream("train").index
        self.label, self.session = (np.asarray(index[name], np.int64) for name in ("label", "session_index"))
        values = [whole.values.astype(np.float16) for whole in loader.utterances("train")]
        fitting = [len(rows) // CROP for rows in values]
        shape = (-1, CROP, values[0].shape[1])
        whole = zip(values, fitting, strict=True)
        self.windows = np.concatenate([rows[: number * CROP].reshape(shape) for rows, number in whole])
        self.count = np.bincount(self.label, weights=fitting).astype(np.int64)
        self.first = np.cumsum(self.count) - self.count
        keys = np.concatenate(list(map(_keys, values)))
        self._rows_by_key = np.argsort(keys)
        self._keys = keys[self._rows_by_key]
        self._ends = np.cumsum(list(map(len, values)))

    def find(self, examples: Values) -> tuple[Ints, Ints]:
        """The utterance of each crop of `[n, rows, bands]`, and its first row among those of all utterances.

        Raises:
            LookupError: a crop of no utterance.
        """
        keys = _keys(examples[:, 0].astype(np.float16))
        place = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        if not np.array_equal(self._keys[place], keys):
            raise LookupError("crops begin with rows that no utterance has: the batches are of another dataset")
        row = self._rows_by_key[place]
        return np.searchsorted(self._ends, row, side="right"), row


def _keys(rows: npt.NDArray[np.float16]) -> npt.NDArray[np.uint64]:
    """A number for each row of `[n, bands]` that others have by chance of 2^-64 alone."""
    factors = np.random.default_rng(0).integers(1 << 64, size=rows.shape[1], dtype=np.uint64)
    keys: npt.NDArray[np.uint64] = (rows.view(np.uint16) * factors).sum(axis=1, dtype=np.uint64)
    return keys


def batches(root: Path, speech: Speech, condition: Condition, seed: int) -> Batches:
    """Endless batches of a condition: examples float32 `[N*M, rows, bands]` and labels `[N*M]` in runs of M."""
    options = dict(condition.options)
    if condition.cliques:
        order = np.random.default_rng(seed).permutation(np.unique(speech.label)).tolist()
        options["speaker_order"] = lambda epoch: order
    loader = BatchLoader(root, N, M, CROP, seed, layout="time_mel", **options)
    parts = (loader.batches("train") for _ in itertools.count())
    for part in parts if condition.frozen else [loader.batches("train", epochs=None)]:
        yield from _in_order_of_files(part, speech) if condition.one_file else part


def _in_order_of_files(made: Iterable[tuple[Values, Ints]], speech: Speech) -> Batches:
    """The batches with the next M windows of each speaker, who begins anew after the last."""
    turn = np.zeros_like(speech.count)
    for _, labels in made:
        who = labels[::M, None]
        number = (turn[who] + np.arange(M)) % speech.count[who]
        turn[who] += M
        yield speech.windows[(speech.first[who] + number).ravel()].astype(np.float32), labels


def facts(speech: Speech, found: Sequence[tuple[Ints, Ints]]) -> dict[str, float]:
    """What batches held, by what `Speech.find` said of each.

    Returns:
        `speakers`, `utterances`, `crops`: how many different ones. `top_tenth`: share of the crops that came from the
        tenth of the speakers with the most speech. `of_one_file`: share of a speaker's M crops that its commonest
        utterance has; `sessions`: how many the M crops are from; both mean over all groups. `partners`: how many other
        speakers one was in a batch with, mean over speakers.
    """
    utterance = np.array([one for one, _ in found]).reshape(-1, N, M)
    session = np.sort(speech.session[utterance], axis=2)
    labels = speech.label[utterance[:, :, 0]]
    together = np.zeros((len(speech.count),) * 2, dtype=np.bool_)
    for batch in labels:
        together[np.ix_(batch, batch)] = True
    most = np.argsort(-speech.count, kind="stable")[: np.count_nonzero(speech.count) // 10]
    same = (utterance[..., None] == utterance[:, :, None]).sum(axis=3).max(axis=2)
    speakers = len(np.unique(labels))
    return {
        "speakers": speakers,
        "utterances": len(np.unique(utterance)),
        "crops": len(np.unique(np.concatenate([row for _, row in found]))),
        "top_tenth": float(np.isin(labels, most).mean()),
        "of_one_file": float(same.mean()) / M,
        "sessions": float((np.diff(session, axis=2) > 0).sum(axis=2).mean()) + 1,
        "partners": float(together.sum() / speakers) - 1,
    }
