"""Groups of speakers into batches: how many batches there can be, and who sits where. Pure NumPy.

A group is M crops of one speaker; a batch is N groups of N different speakers. It must not know of crops. Arrays are
int64; groups count from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ge2e_transforms.rng import Bits, below, derive
from ge2e_transforms.runs import Ints

# Ids of the streams of random bits. A change of their order changes every plan.
_ORDER, _CUT, _COLUMN, _PAIR, _SWAP, _SEAT, _BATCH = range(7)

# Rounds of `_mix_pairs`. (measured, 100 speakers of 200 groups, N=2: with 0, 1, 2 and 3 rounds a speaker
# meets 0.57, 0.97, 1.00 and 1.00 times as many different others as where groups lie at random.)
_MIX_ROUNDS = 2


class Seats(NamedTuple):
    """Where each group sits.

    Attributes:
        speaker: int64 `[N*B]`, the speaker of each group, equal ones side by side.
        number: int64 `[N*B]`, which of that speaker's groups it is, from 0.
        group: int64 `[B, N]`, the groups (indexes of the two above) of each batch.
    """

    speaker: Ints
    number: Ints
    group: Ints


def largest(holds: Callable[[Ints], npt.NDArray[np.bool_]], upper: Ints) -> Ints:
    """Element by element the largest value in [0, upper] for which `holds`, by bisection.

    `holds` is true of 0 and, once false, false of all larger values.
    """
    low, high = np.zeros_like(upper), upper.copy()
    middle = high  # mostly the answer
    while np.any(low < high):
        held = holds(middle)
        low, high = np.where(held, middle, low), np.where(held, high, middle - 1)
        middle = (low + high + 1) // 2
    return low


def batch_count(groups: Ints, speakers_per_batch: int) -> int:
    """The most batches of N different speakers that can be made when speaker s gives at most `groups[s]`.

    B batches can use min(g_s, B) groups of a speaker, so B is at most the largest number with
    sum(min(g_s, B)) >= N x B; `place` shows that this many can be made.
    """

    def enough(count: Ints) -> npt.NDArray[np.bool_]:
        return np.atleast_1d(np.minimum(groups, count).sum() >= speakers_per_batch * count)

    return int(largest(enough, np.array([groups.sum() // speakers_per_batch]))[0])


def place(groups: Ints, batches: int, speakers_per_batch: int, key: Bits) -> Seats:
    """Puts groups into batches at random, each batch with N different speakers.

    The groups, those of a speaker side by side and speakers in random order, fill N rows of B places. A row is
    laid over the B batches by its own permutation: since a speaker has at most B groups, it can only come
    twice into one batch where it is cut between two rows, and there `_columns` keeps it apart. Then speakers of
    one row, who cannot have met so far, are mixed with others by `_mix_pairs`.

    Args:
        groups: int64 `[speakers]`, each in [0, batches], of which at least N x B in sum are used.
        batches: B, at most `batch_count(groups, speakers_per_batch)`.
        speakers_per_batch: N.
        key: random bits.
    """
    order = np.argsort(derive(key, _ORDER, np.arange(len(groups))), kind="stable")
    given = cut(groups[order], int(groups.sum()) - batches * speakers_per_batch, derive(key, _CUT, 0))
    speaker = np.repeat(order, given)
    number = np.arange(len(speaker)) - np.repeat(np.cumsum(given) - given, given)
    rows = np.arange(len(speaker)).reshape(speakers_per_batch, batches)
    seats = np.empty((batches, speakers_per_batch), dtype=np.int64)
    seats[_columns(speaker.reshape(rows.shape), key), np.arange(speakers_per_batch)[:, None]] = rows
    for turn in range(_MIX_ROUNDS):
        _mix_pairs(seats, speaker, derive(key, _PAIR, turn), derive(key, _SWAP, turn))
    return Seats(speaker, number, _mix_seats(seats, key))


def place_in_order(groups: Ints, batches: int, speakers_per_batch: int, key: Bits) -> Seats:
    """Batches of neighbours: as `place`, but each batch takes the next N speakers of the given order, round and round.

    A speaker with as many groups left as there are batches left must be in all of them, so it is taken first; all
    others come in their turn. Whatever is chosen beside those, the rest can still fill the other batches: with B
    batches left, sum(min(left, B)) >= N x B stays true. The batches themselves are put into random order.

    Args:
        groups: int64 `[speakers]` in the order wanted, else as for `place`.
        batches: B, as for `place`.
        speakers_per_batch: N.
        key: random bits.
    """
    left, turn = groups.copy(), 0
    chosen = np.empty((batches, speakers_per_batch), dtype=np.int64)
    for batch in range(batches):
        must = np.flatnonzero(left >= batches - batch)[:speakers_per_batch]
        free = left > 0
        free[must] = False
        waiting = np.flatnonzero(free)
        first = int(np.searchsorted(waiting, turn))
        following = np.concatenate([waiting[first:], waiting[:first]])[: speakers_per_batch - len(must)]
        turn = int(following[-1]) + 1 if len(following) else turn
        chosen[batch] = np.concatenate([must, following])
        left[chosen[batch]] -= 1
    by_speaker = np.argsort(chosen, axis=None, kind="stable")
    speaker = chosen.ravel()[by_speaker]
    given = np.bincount(speaker, minlength=len(groups))
    number = np.arange(len(speaker)) - np.repeat(np.cumsum(given) - given, given)
    seats = np.empty(chosen.size, dtype=np.int64)
    seats[by_speaker] = np.arange(chosen.size)
    mixed = np.argsort(derive(key, _BATCH, np.arange(batches)), kind="stable")
    return Seats(speaker, number, _mix_seats(seats.reshape(chosen.shape)[mixed], key))


def _mix_seats(seats: Ints, key: Bits) -> Ints:
    """The seats of each batch in random order."""
    draws = derive(key, _SEAT, np.arange(seats.size)).reshape(seats.shape)
    return np.take_along_axis(seats, np.argsort(draws, axis=1, kind="stable"), axis=1)


def cut(groups: Ints, surplus: int, bits: Bits) -> Ints:
    """Leaves out `surplus` groups at equal distances, so that speakers lose in proportion to what they give."""
    ends = np.cumsum(groups)
    left_out = (np.arange(surplus) * ends[-1] + below(bits, ends[-1])) // max(1, surplus)
    return groups - np.bincount(np.searchsorted(ends, left_out, side="right"), minlength=len(groups))


def _columns(speaker: Ints, key: Bits) -> Ints:
    """The batch of each place of `[N, B]` rows: a permutation of the B batches for every row.

    The speaker at the end of a row takes its places at the head of the next in batches that it is not in yet.
    There are enough of them, since it has at most B groups.
    """
    draws = derive(key, _COLUMN, np.arange(speaker.size)).reshape(speaker.shape)
    columns = np.argsort(draws, axis=1, kind="stable")
    for row in np.flatnonzero(speaker[1:, 0] == speaker[:-1, -1]) + 1:
        above = columns[row - 1, speaker[row - 1] == speaker[row, 0]]
        taken = np.zeros(speaker.shape[1], dtype=np.bool_)
        taken[above] = True
        free = np.flatnonzero(~taken[columns[row]])[: np.count_nonzero(speaker[row] == speaker[row, 0])]
        columns[row] = np.concatenate([columns[row, free], np.delete(columns[row], free)])
    return columns


def _mix_pairs(seats: Ints, speaker: Ints, pair_bits: Bits, swap_bits: Bits) -> None:
    """Pairs the batches at random and deals the 2 N groups of each pair anew, in place.

    A speaker that is in both batches of a pair stays in both; all other ways of dealing are equally likely.
    """
    batches, width = seats.shape
    pairs = batches // 2
    chosen = np.argsort(derive(pair_bits, np.arange(batches)), kind="stable")[: 2 * pairs]
    both = seats[chosen].reshape(pairs, 2 * width)
    both = np.take_along_axis(both, np.argsort(speaker[both], axis=1, kind="stable"), axis=1)
    twice = speaker[both][:, 1:] == speaker[both][:, :-1]
    rank = derive(swap_bits, np.arange(both.size)).reshape(both.shape) >> np.uint64(1) | np.uint64(1)
    rank[:, :-1][twice] = 0
    rank[:, 1:][twice] = np.iinfo(np.uint64).max
    both = np.take_along_axis(both, np.argsort(rank, axis=1, kind="stable"), axis=1)
    seats[chosen] = both.reshape(2 * pairs, width)
