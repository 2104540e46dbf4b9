"""Offering samples to admission policies, with checks of what all policies promise."""

import numpy as np
from hypothesis import strategies as st
from samples import offer_of

from drb.buffer.admission.random_replacement import RandomReplacement
from drb.seeding import sample_keys

minibatches = st.lists(st.lists(st.integers(0, 60), max_size=20), min_size=1, max_size=15)
capacities = st.integers(1, 25)


def random_replacement(candidates, *, seed, rank=0):
    policy = RandomReplacement(candidates=candidates)
    policy.begin(seed, rank)
    return policy


def admit_all(policy, columns, minibatches, **kwargs):
    """Offer minibatch after minibatch; every decision is checked for what all policies promise."""
    for round_, ids in enumerate(minibatches):
        offer = offer_of(ids, round_, **kwargs)
        decision = policy.admit(columns, offer)
        check_decision(decision, columns, offer)
        if len(decision):
            columns.put(decision.slots, offer, decision.rows)
        stored = columns.sample_id[: columns.size]
        assert len(np.unique(stored)) == len(stored) <= columns.capacity
    return columns


def check_decision(decision, columns, offer):
    rows, slots = decision.rows, decision.slots
    assert len(rows) == len(slots) <= min(len(offer), columns.capacity)
    assert (np.diff(rows) > 0).all()
    assert len(np.unique(slots)) == len(slots)
    new = slots[slots >= columns.size]
    assert new.tolist() == list(range(columns.size, columns.size + len(new)))
    assert columns.size + len(new) <= columns.capacity


def stored_ids(columns):
    return set(columns.sample_id[: columns.size].tolist())


def by_key(ids, seed=0):
    """Distinct ids, smallest key first."""
    distinct = np.unique(np.asarray(list(ids), np.int64))
    return distinct[np.argsort(sample_keys(distinct, seed))].tolist()


def flat(minibatches):
    return [sample_id for ids in minibatches for sample_id in ids]
