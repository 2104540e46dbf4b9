"""Guarantees 1 and 2 on real ranks: draws are unbiased per sample id, and exactly min(r, |union|) everywhere.

Buffers are filled with what each case says; then minibatches without rows let rounds go by that change nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
from ranks import run_ranks
from rehearsal.ranks.checks import SMALLEST_P, independence_p, uniformity_p
from rehearsal.ranks.streams import NUM_CLASSES, nothing, num_wrong, records

from drb import Rehearsal

ROUNDS = 300  # 35 or more draws of each id by each rank
R = 7

# ids held by each rank
OCCUPANCIES = {
    "one rank": [list(range(40))],
    "two full ranks": [list(range(30)), list(range(30, 60))],
    "three ranks, one empty": [list(range(30)), [], list(range(30, 60))],
    "four ranks, one with a single exemplar": [list(range(20)), [20], list(range(21, 41)), list(range(41, 61))],
    "three uneven ranks": [list(range(5)), list(range(5, 40)), list(range(40, 52))],
    "a class on one rank only": [[i for i in range(60) if i % NUM_CLASSES], list(range(0, 60, NUM_CLASSES))],
}


def draw_rounds(rank, world_size, occupancy, rounds, settings):
    """This rank's draws (lists of ids), after offering it what it is to hold; and rows that were wrong."""
    ids, wrong, draws = occupancy[rank], 0, []
    options = {"seed": 11, "batch_size": 100, "asynchronous": True, "verbose": False} | settings
    with Rehearsal(capacity=100, exemplars=R, **options) as rehearsal:
        for t in range(rounds + 2):
            batch = rehearsal.extend(records(ids) if t == 0 else nothing())
            wrong += num_wrong(batch)
            if t >= 2:
                draws.append(batch["sample_id"][batch["rehearsed"]].tolist())
    return draws, wrong


def exchanges(world_size):
    return ["auto"] if world_size == 1 else ["collective", "shared"]


CASES = [  # exchanges draw the same, bit for bit (see test_equality): one of both for each occupancy is a sample
    pytest.param(name, x, marks=() if len(ids) == 1 or i == n % 2 else pytest.mark.full, id=f"{name}-{x}")
    for n, (name, ids) in enumerate(OCCUPANCIES.items())
    for i, x in enumerate(exchanges(len(ids)))
]


@pytest.mark.parametrize(("occupancy", "exchange"), CASES)
def test_every_exemplar_of_the_union_is_equally_likely(occupancy, exchange):
    held = OCCUPANCIES[occupancy]
    union = sorted(i for ids in held for i in ids)
    results = run_ranks(draw_rounds, len(held), held, ROUNDS, {"exchange": exchange})
    assert sum(wrong for _, wrong in results) == 0
    per_rank = [draws for draws, _ in results]
    for draws in per_rank:
        assert all(len(draw) == len(set(draw)) == R for draw in draws)
    assert uniformity_p([draw for draws in per_rank for draw in draws], union) > SMALLEST_P
    for a in range(len(held)):
        for b in range(a):
            assert independence_p(per_rank[a], per_rank[b], len(union)) > SMALLEST_P


@pytest.mark.parametrize("exchange", ["collective", "shared"])
def test_a_union_smaller_than_r_is_drawn_whole_by_every_rank(exchange):
    held = [[1, 2], [], [3]]
    for draws, wrong in run_ranks(draw_rounds, 3, held, 5, {"exchange": exchange}):
        assert wrong == 0
        assert [sorted(draw) for draw in draws] == [[1, 2, 3]] * 5


@pytest.mark.parametrize("exchange", ["collective", "shared"])
def test_balanced_draws_give_each_class_its_share_and_are_uniform_inside(exchange):
    # class 0: 3 exemplars on rank 1 only, class 1: 24 on both ranks, class 2: 1 exemplar
    held = [[5 * i + 1 for i in range(12)] + [2], [0, 5, 10] + [5 * i + 1 for i in range(12, 24)]]
    settings = {"exchange": exchange, "proportions": "balanced"}
    results = run_ranks(draw_rounds, 2, held, ROUNDS, settings)
    draws = [draw for rank_draws, _ in results for draw in rank_draws]
    drawn = np.array([[sum(i % 5 == c for i in draw) for c in range(3)] for draw in draws])
    # 7 over 3 classes with at most 3, 24, 1: the single one always, the others share 6
    assert (drawn.sum(axis=1) == R).all()
    assert drawn.mean(axis=0) == pytest.approx([3, 3, 1], abs=1e-9)
    inside = [[i for i in draw if i % 5 == 1] for draw in draws]
    assert uniformity_p(inside, [5 * i + 1 for i in range(24)]) > SMALLEST_P


def draw_stream(rank, world_size, exchange):
    """Rank 0 sees four times the samples of rank 1 through buffers of one size; how often its exemplars are drawn."""
    rng, share, drawn = np.random.default_rng(rank), 0, 0
    ids = np.arange(800 if rank == 0 else 200) * 2 + rank
    options = {"proportions": "stream", "exchange": exchange, "asynchronous": True, "batch_size": 8, "verbose": False}
    with Rehearsal(capacity=50, exemplars=R, seed=5, **options) as rehearsal:
        for epoch in range(2):  # a second epoch offers nothing new
            order = rng.permutation(ids)
            for t in range(100):
                rows = order[t * 8 : t * 8 + 8]
                batch = rehearsal.extend(records(rows) if len(rows) else nothing())
                if epoch == 1:
                    drawn_ids = batch["sample_id"][batch["rehearsed"]]
                    share, drawn = share + int((drawn_ids % 2 == 0).sum()), drawn + len(drawn_ids)
    return share, drawn


@pytest.mark.parametrize("exchange", ["collective", "shared"])
def test_stream_draws_weigh_ranks_by_the_distinct_samples_they_were_offered(exchange):
    results = run_ranks(draw_stream, 2, exchange)
    share, drawn = (sum(column) for column in zip(*results, strict=True))
    assert drawn == 2 * 100 * R
    assert share / drawn == pytest.approx(800 / 1000, abs=0.01)
