"""The sampler: unbiased for every occupancy, exactly min(r, N) distinct exemplars, the same on every run."""

from itertools import pairwise

import numpy as np
import pytest
from admissions import UNTOLD_PROPORTIONS
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from drb.sampling.proportions import PROPORTIONS
from drb.sampling.sampler import Sampler, draw_from_groups, expected_shares, systematic_counts

ROUNDS = 3000


def sampler(exemplars, proportions="uniform", *, seed=0, rank=0, min_fill=1):
    return Sampler(exemplars, PROPORTIONS.build(proportions), seed=seed, rank=rank, min_fill=min_fill)


def inclusions(counts_WS, exemplars, proportions="uniform", offered_W=None, rounds=ROUNDS):
    """How often each exemplar was drawn, by rank and position."""
    offered_W = counts_WS.sum(axis=1) if offered_W is None else offered_W
    drawn = [np.zeros(n) for n in counts_WS.sum(axis=1)]
    draws = sampler(exemplars, proportions)
    for round_ in range(rounds):
        draw = draws.draw(round_, counts_WS, offered_W)
        for rank, positions in enumerate(np.split(draw.position, np.searchsorted(draw.owner, range(1, len(drawn))))):
            drawn[rank][positions] += 1
    return drawn


def two_sided_p(drawn, per_round):
    """Chi-square of draws of r distinct out of N, whose counts vary less than a multinomial's."""
    n = len(drawn)
    expected = drawn.sum() / n
    statistic = ((drawn - expected) ** 2 / expected).sum() * (n - 1) / (n - per_round)
    return stats.chi2.sf(statistic, n - 1)


# -- uniform


@pytest.mark.parametrize(
    "sizes",
    [[40], [20, 20], [0, 30], [1, 50], [50, 1, 0, 13], [1, 1, 1, 40], [8, 0, 0, 0], [300, 3]],
    ids=str,
)
def test_every_exemplar_of_the_union_is_equally_likely(sizes):
    drawn = np.concatenate(inclusions(np.array(sizes)[:, None], 7))
    assert drawn.sum() == ROUNDS * 7
    assert 1e-3 < two_sided_p(drawn, 7) < 1 - 1e-3


def test_the_test_of_uniformity_finds_a_biased_draw():
    rng = np.random.default_rng(0)
    drawn = np.zeros(40)
    for _ in range(ROUNDS):  # the paper's first draws: choose a rank, then a slot
        drawn[rng.choice(10, 3, replace=False)] += 1
        drawn[10 + rng.choice(30, 4, replace=False)] += 1
    assert two_sided_p(drawn, 7) < 1e-3


def test_draws_of_two_ranks_are_independent():
    n, r, rounds = 50, 7, 2000
    counts = np.array([[20], [30]])
    flat = [
        [20 * d.owner + d.position for t in range(rounds) for d in [draws.draw(t, counts, counts)]]
        for draws in (sampler(r, rank=0), sampler(r, rank=1))
    ]
    overlap = [len(np.intersect1d(a, b)) for a, b in zip(*flat, strict=True)]
    law = stats.hypergeom(n, r, r)
    observed = np.bincount(np.minimum(overlap, 3), minlength=4)
    expected = rounds * np.array([law.pmf(0), law.pmf(1), law.pmf(2), law.sf(2)])
    assert 1e-3 < stats.chisquare(observed, expected).pvalue < 1 - 1e-3


def test_draws_of_successive_rounds_are_independent():
    counts = np.array([[50]])
    draws = sampler(7)
    positions = [draws.draw(t, counts, counts[:, 0]).position for t in range(2000)]
    overlap = [len(np.intersect1d(a, b)) for a, b in pairwise(positions)]
    law = stats.hypergeom(50, 7, 7)
    assert abs(np.mean(overlap) - law.mean()) < 4 * law.std() / np.sqrt(len(overlap))


# -- what every draw promises


@given(
    st.integers(1, 5).flatmap(
        lambda s: st.lists(st.lists(st.integers(0, 9), min_size=s, max_size=s), min_size=1, max_size=4)
    ),
    st.integers(1, 12),
    st.sampled_from(UNTOLD_PROPORTIONS),
    st.integers(0, 1000),
    st.integers(0, 2**40),
)
def test_a_draw_is_of_distinct_exemplars_that_exist(counts, exemplars, proportions, offered, round_):
    counts_WS = np.array(counts)
    if not PROPORTIONS[proportions].needs_strata:
        counts_WS = counts_WS.sum(axis=1, keepdims=True)
    sizes_W = counts_WS.sum(axis=1)
    offered_W = sizes_W + offered * (np.arange(len(sizes_W)) + 1) * (sizes_W > 0)
    strata_S = np.arange(counts_WS.shape[1]) * 10 - 5
    draw = sampler(exemplars, proportions).draw(round_, counts_WS, offered_W, strata_S=strata_S)
    assert len(draw) == len(draw.position) == len(draw.weight) == min(exemplars, sizes_W.sum())
    assert (np.diff(draw.owner) >= 0).all()
    assert ((draw.position >= 0) & (draw.position < sizes_W[draw.owner])).all()
    assert len(set(zip(draw.owner.tolist(), draw.position.tolist(), strict=True))) == len(draw)
    assert (draw.weight >= 1 - 1e-9).all()
    assert np.isfinite(draw.weight).all()


def test_a_draw_follows_from_seed_rank_and_round_alone():
    counts = np.array([[30], [20]])

    def draw(round_, *, before=(), **kwargs):
        draws = sampler(5, **kwargs)
        for earlier in before:
            draws.draw(earlier, counts, counts[:, 0])
        return draws.draw(round_, counts, counts[:, 0]).position.tolist()

    assert draw(9) == draw(9, before=range(9))
    assert draw(9) != draw(10)
    assert draw(9) != draw(9, seed=1)
    assert draw(9) != draw(9, rank=1)


def test_nothing_is_drawn_before_the_union_holds_min_fill():
    draws = sampler(4, min_fill=10)
    assert len(draws.draw(0, np.array([[9]]), np.array([9]))) == 0
    assert len(draws.draw(0, np.array([[4], [5]]), np.array([4, 5]))) == 0
    assert len(draws.draw(0, np.array([[5], [5]]), np.array([5, 5]))) == 4


# -- proportions


def test_balanced_gives_each_stratum_the_same_share_and_is_uniform_inside():
    counts_WS = np.array([[30, 5, 0], [10, 25, 20], [0, 10, 20]])  # strata of 40, on all ranks
    drawn = inclusions(counts_WS, 6, "balanced")
    by_stratum = [
        np.concatenate([drawn[w][start : start + n] for w in range(3) for start, n in [starts_of(counts_WS, w, s)]])
        for s in range(3)
    ]
    for of_stratum in by_stratum:
        assert of_stratum.sum() == 2 * ROUNDS  # q is whole, so no round deviates
        assert 1e-3 < two_sided_p(of_stratum, 2) < 1 - 1e-3


def test_strata_get_their_share_in_expectation_also_when_one_is_small():
    counts_WS = np.array([[1, 60, 0, 11], [0, 20, 35, 0]])
    r = 7
    q = expected_shares(counts_WS.sum(axis=0), np.ones(4), r)
    assert q.tolist() == [1, 2, 2, 2]
    counts_WS = np.array([[1, 60, 0, 11], [0, 20, 0, 0]])
    q = expected_shares(counts_WS.sum(axis=0), np.ones(4), r)
    assert q.tolist() == [1, 3, 0, 3]
    counts_WS = np.array([[20, 60, 0, 11], [0, 20, 17, 3]])
    got = np.zeros(4)
    drawn = inclusions(counts_WS, r, "balanced")
    for s in range(4):
        for w in range(2):
            start, n = starts_of(counts_WS, w, s)
            got[s] += drawn[w][start : start + n].sum()
    assert np.abs(got / ROUNDS - r / 4).max() < 4 * np.sqrt(0.75 * 0.25 / ROUNDS)


def test_stream_weights_ranks_by_what_they_were_offered():
    counts = np.array([[20], [20], [0]])
    offered = np.array([100, 300, 0])
    drawn = inclusions(counts, 8, "stream", offered)
    assert drawn[0].sum() == 2 * ROUNDS  # q is whole
    assert drawn[1].sum() == 6 * ROUNDS
    assert 1e-3 < two_sided_p(drawn[0], 2) < 1 - 1e-3
    assert 1e-3 < two_sided_p(drawn[1], 6) < 1 - 1e-3


@pytest.mark.parametrize("proportions", UNTOLD_PROPORTIONS)
def test_weights_are_inverse_inclusion_probabilities(proportions):
    """Horvitz-Thompson: the weights of a draw sum to the size of the union in expectation."""
    counts_WS = np.array([[3, 40], [9, 11]])
    if not PROPORTIONS[proportions].needs_strata:
        counts_WS = counts_WS.sum(axis=1, keepdims=True)
    draws = sampler(7, proportions)
    offered, strata = np.array([90, 20]), np.array([0, 1])
    sums = [draws.draw(t, counts_WS, offered, 0, strata).weight.sum() for t in range(ROUNDS)]
    assert abs(np.mean(sums) - counts_WS.sum()) < 4 * np.std(sums) / np.sqrt(ROUNDS) + 1e-9


def test_the_weight_of_an_exemplar_is_the_same_in_every_draw():
    sizes = np.array([3, 20, 40])
    q = expected_shares(sizes, np.ones(3), 7)  # 7/3 each: two or three are drawn, the weight stays
    for seed in range(20):
        positions, weights = draw_from_groups(sizes, np.ones(3), 7, np.random.default_rng(seed))
        group = np.searchsorted(np.cumsum(sizes), positions, side="right")
        assert weights == pytest.approx((sizes / q)[group])


def test_an_unknown_proportion_is_named():
    with pytest.raises(ValueError, match="unknown proportions 'flat'; choose .*balanced.* or uniform"):
        PROPORTIONS.build("flat")


# -- shares and rounding

groups = st.lists(st.tuples(st.integers(0, 50), st.floats(0, 100, allow_subnormal=False)), min_size=1, max_size=10)


@given(groups, st.data())
def test_shares_are_water_filled(groups, data):
    sizes = np.array([n for n, _ in groups])
    weights = np.array([0.0 if p < 1e-6 else p for _, p in groups])
    assume(sizes.sum() > 0)
    count = data.draw(st.integers(1, int(sizes.sum())))
    q = expected_shares(sizes, weights, count)
    assert (q >= 0).all()
    assert (q <= sizes * (1 + 1e-9)).all()
    assert q.sum() == pytest.approx(count)
    usable = (sizes > 0) & (weights > 0)
    if sizes[usable].sum() <= count:  # all that has weight, and the rest from what has none
        assert q[usable] == pytest.approx(sizes[usable])
    else:
        assert (q[~usable] == 0).all()
        free = usable & (q < sizes * (1 - 1e-9))
        rate = q[usable] / weights[usable]
        if free.any():  # one λ for all that are not exhausted, and those that are would get more
            assert q[free] / weights[free] == pytest.approx(rate.max())


@given(groups, st.data())
def test_rounded_counts_are_floor_or_ceiling_and_sum_up(groups, data):
    sizes = np.array([n for n, _ in groups])
    weights = np.array([0.0 if p < 1e-6 else p for _, p in groups])
    assume(sizes.sum() > 0)
    count = data.draw(st.integers(1, int(sizes.sum())))
    q = expected_shares(sizes, weights, count)
    counts = systematic_counts(q, count, np.random.default_rng(data.draw(st.integers(0, 2**32))))
    assert counts.sum() == count
    assert (counts <= sizes).all()
    assert (np.abs(counts - q) < 1 + 1e-6).all()
    whole = np.abs(q - np.rint(q)) < 1e-9
    assert (counts[whole] == np.rint(q[whole])).all()


def test_rounding_is_right_on_average():
    q = np.array([0.2, 1.7, 3.0, 0.05, 2.05])
    rng = np.random.default_rng(1)
    rounds = 5000
    mean = np.mean([systematic_counts(q, 7, rng) for _ in range(rounds)], axis=0)
    fraction = q % 1
    assert (np.abs(mean - q) <= 4 * np.sqrt(fraction * (1 - fraction) / rounds) + 1e-12).all()


def test_a_draw_of_everything_is_everything():
    sizes = np.array([3, 0, 4])
    positions, weights = draw_from_groups(sizes, np.ones(3), 7, np.random.default_rng(0))
    assert positions.tolist() == list(range(7))
    assert weights.tolist() == [1.0] * 7


def starts_of(counts_WS, rank, stratum):
    """Where a stratum starts in a rank's position table, and its size."""
    return int(counts_WS[rank, :stratum].sum()), int(counts_WS[rank, stratum])
