"""Seeds and keys: a function of what they are for, and no two purposes share a stream."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drb.seeding import RoundGenerator, derive_seed, mix64, mix64_int, permutation, sample_keys


def words(generator, count=64):
    return generator.integers(0, 2**64, count, dtype=np.uint64).tolist()


def test_rounds_ranks_and_purposes_share_no_numbers():
    streams = [
        words(RoundGenerator(seed, purpose, rank).at(round_))
        for seed in (0, 1)
        for purpose in ("draw", "admission")
        for rank in range(3)
        for round_ in (*range(5), 2**40)
    ]
    assert len({word for stream in streams for word in stream}) == len(streams) * 64


@given(st.integers(0, 2**40), st.integers(0, 50), st.integers(0, 100))
def test_what_was_drawn_before_has_no_influence(round_, other, count):
    used = RoundGenerator(7, "draw", 2)
    used.at(other).random(count, dtype=np.float32)  # leaves half a word behind
    assert words(used.at(round_)) == words(RoundGenerator(7, "draw", 2).at(round_))


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_mixing_arrays_and_integers_agree(values):
    assert mix64(np.array(values, np.uint64)).tolist() == [mix64_int(v) for v in values]


def test_keys_are_uniform_distinct_and_depend_on_the_seed():
    ids = np.concatenate((np.arange(20_000), -np.arange(1, 20_001)))
    keys = sample_keys(ids, 0)
    assert len(np.unique(keys)) == len(ids)
    assert not np.intersect1d(keys, sample_keys(ids, 1)).size
    counts = np.bincount((keys >> np.uint64(60)).astype(np.int64), minlength=16)
    assert np.abs(counts - len(ids) / 16).max() < 4 * np.sqrt(len(ids) / 16)


def test_derived_seeds_depend_on_every_word():
    seeds = {derive_seed(0, "draw"), derive_seed(1, "draw"), derive_seed(0, "key"), derive_seed(0, "draw", 0)}
    seeds |= {derive_seed(0, "draw", 1, 2), derive_seed(0, "draw", 2, 1), derive_seed(-1, "draw")}
    assert len(seeds) == 7
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_a_permutation_is_one_and_repeats():
    assert sorted(permutation(50, 0, "owners", 3)) == list(range(50))
    assert permutation(50, 0, "owners", 3).tolist() == permutation(50, 0, "owners", 3).tolist()
    assert permutation(50, 0, "owners", 3).tolist() != permutation(50, 0, "owners", 4).tolist()
