"""The counter generator: published values, keys and paths, uniform integers."""

from __future__ import annotations

import numpy as np

from ge2e_transforms.rng import below, derive, fraction, random_bits


def test_stream_has_the_published_values_of_splitmix64():
    assert random_bits(1234567, 5).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_a_path_of_ids_is_pinned():
    assert derive(7, 1, 2, np.arange(3)).tolist() == [4280259475049965103, 7071444353603511792, 906942006864696172]


def test_derive_takes_any_output_without_those_before_it():
    stream = random_bits(99, 1000)
    assert derive(99, np.array([999, 3, 500])).tolist() == stream[[999, 3, 500]].tolist()


def test_paths_chain_and_broadcast():
    grid = derive(5, np.arange(4)[:, None], np.arange(6))
    assert grid.shape == (4, 6)
    for row in range(4):
        assert np.array_equal(grid[row], derive(int(derive(5, row)[0]), np.arange(6)))
    assert np.array_equal(derive(derive(5, np.arange(4)), 2), grid[:, 2])


def test_order_of_the_path_matters_and_seeds_of_any_size_are_taken():
    seen = {
        int(bits[0])
        for bits in (derive(0, 1, 2), derive(0, 2, 1), derive(1, 0, 2), derive(2**64 - 1, 1, 2), derive(2**63, 1, 2))
    }
    assert len(seen) == 5


def test_inputs_are_left_alone():
    key = np.array([1, 2, 3], dtype=np.uint64)
    ids = np.array([4, 5, 6])
    derive(key, ids)
    assert key.tolist() == [1, 2, 3]
    assert ids.tolist() == [4, 5, 6]


def test_one_id_never_shares_its_bits_with_another():
    assert len(np.unique(derive(3, 4, np.arange(200_000)))) == 200_000


def test_below_is_exact_at_the_ends_of_the_bits():
    ends = np.array([0, 2**64 - 1, 2**63], dtype=np.uint64)
    assert below(ends, 10).tolist() == [0, 9, 5]
    assert below(ends, 2**31).tolist() == [0, 2**31 - 1, 2**30]
    assert below(ends, np.array([1, 1, 1])).tolist() == [0, 0, 0]


def test_below_is_uniform():
    counts = np.bincount(below(random_bits(11, 70_000), 7), minlength=7)
    assert np.all(np.abs(counts - 10_000) < 4 * 93)  # standard deviation 93


def test_every_bit_is_fair_even_for_ids_far_apart():
    for ids in (np.arange(20_000), np.arange(20_000) << 32):
        bits = derive(1, 2, ids)
        ones = ((bits[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)).sum(axis=0)
        assert np.all(np.abs(ones.astype(np.int64) - 10_000) < 5 * 71)  # standard deviation 71


def test_fractions_are_the_upper_53_bits() -> None:
    bits = np.array([0, 1 << 11, 1 << 63, (1 << 64) - 1], dtype=np.uint64)
    assert fraction(bits).tolist() == [0.0, 2.0**-53, 0.5, 1 - 2.0**-53]
