"""Admission by random replacement, against its law."""

import numpy as np
from buffer.admitting import (
    admit_all,
    capacities,
    check_decision,
    flat,
    minibatches,
    random_replacement,
    stored_ids,
)
from hypothesis import given
from hypothesis import strategies as st
from samples import offer_of
from scipy import stats

from drb.buffer.admission import Columns


@given(minibatches, capacities, st.integers(1, 20), st.integers(1, 7))
def test_random_replacement_keeps_what_every_policy_promises(minibatches, capacity, candidates, num_classes):
    policy = random_replacement(candidates, seed=1)
    columns = admit_all(policy, Columns(capacity), minibatches, num_classes=num_classes)
    assert stored_ids(columns) <= set(flat(minibatches))


def test_each_sample_is_a_candidate_with_probability_c_over_b():
    rounds, b, c = 500, 56, 14
    columns = Columns(rounds * b)
    policy = random_replacement(c, seed=3)
    by_row = np.zeros(b)
    for round_ in range(rounds):
        offer = offer_of(np.arange(round_ * b, (round_ + 1) * b), round_, num_classes=1)
        decision = policy.admit(columns, offer)
        columns.put(decision.slots, offer, decision.rows)
        by_row[decision.rows] += 1
    p = c / b
    z = (by_row.sum() - rounds * c) / np.sqrt(rounds * b * p * (1 - p))
    assert abs(z) < 3.3
    statistic = ((by_row - rounds * p) ** 2 / (rounds * p * (1 - p))).sum()
    assert 1e-3 < stats.chi2.sf(statistic, b) < 1 - 1e-3


def test_a_candidate_overwrites_a_random_exemplar_of_its_own_class():
    capacity, rounds = 40, 4000
    columns = admit_all(random_replacement(100, seed=5), Columns(capacity), [range(40)], num_classes=4)
    assert columns.size == capacity
    policy = random_replacement(100, seed=5)
    policy.load_state_dict({"strata": np.arange(4)})
    hits = np.zeros(capacity)
    for round_ in range(1, rounds + 1):
        offer = offer_of([1000 + round_ * 4 + 2], round_, num_classes=4)  # of class 2
        decision = policy.admit(columns, offer)
        assert columns.stratum[decision.slots].tolist() == [2]
        hits[decision.slots] += 1
    hits = hits[columns.stratum == 2]
    assert len(hits) == 10
    assert 1e-3 < stats.chisquare(hits).pvalue < 1 - 1e-3


def test_random_replacement_shrinks_quotas_when_a_class_appears():
    columns = Columns(30)
    policy = random_replacement(1000, seed=0)
    rng = np.random.default_rng(0)
    for task in range(3):
        for round_ in range(20):
            ids = rng.choice(10_000, 10, replace=False) * 3 + task
            admit_all_once(policy, columns, ids, task * 20 + round_)
        counts = np.bincount(columns.stratum[: columns.size])
        assert counts.tolist() == [30 // (task + 1)] * (task + 1)


def admit_all_once(policy, columns, ids, round_):
    offer = offer_of(ids, round_, num_classes=3)
    decision = policy.admit(columns, offer)
    check_decision(decision, columns, offer)
    columns.put(decision.slots, offer, decision.rows)


def test_random_replacement_differs_between_ranks_and_repeats_with_its_seed():
    def chosen(seed, rank):
        return random_replacement(5, seed=seed, rank=rank).admit(Columns(100), offer_of(range(50), 7)).rows.tolist()

    assert chosen(0, 0) == chosen(0, 0)
    assert chosen(0, 0) != chosen(0, 1)
    assert chosen(0, 0) != chosen(1, 0)
