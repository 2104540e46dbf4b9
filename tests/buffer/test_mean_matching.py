"""Mean matching against brute force: every choice, the means that it keeps, and what it is for."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rehearsal.mean_matching import Reference

from drb.buffer.admission import Columns, Offer
from drb.buffer.admission.mean_matching import MeanMatching, least_needed
from drb.seeding import sample_keys

D = 4


class Holding:
    """Columns and the vectors in their slots, as a buffer has them."""

    def __init__(self, capacity, vectors, compared=None):
        self.policy, self.columns, self.vectors = MeanMatching(field="x", compared=compared), Columns(capacity), vectors
        self.policy.begin(0, 0)
        self.columns.stored = lambda name, slots: torch.from_numpy(vectors[self.columns.sample_id[slots]])

    def offer(self, ids, strata):
        given = Offer(ids, strata, sample_keys(ids, 0), 0, {"x": torch.from_numpy(self.vectors[ids])})
        decision = self.policy.admit(self.columns, given)
        self.columns.put(decision.slots, given, decision.rows)
        return decision

    def ids(self):
        return sorted(self.columns.sample_id[: self.columns.size].tolist())


minibatches = st.lists(st.lists(st.integers(0, 60), max_size=12), min_size=1, max_size=10)


@given(minibatches, st.integers(1, 20), st.integers(1, 4), st.integers(0, 2**32))
def test_it_keeps_what_brute_force_keeps(minibatches, capacity, num_classes, seed):
    rng = np.random.default_rng(seed)
    vectors, earlier = rng.normal(size=(61, D)), rng.normal(size=(num_classes, D))
    holding, reference = Holding(capacity, vectors), Reference(capacity)
    strata = np.arange(num_classes)  # each has been seen once before: the mean of two lies equally far from both
    state = {"strata": strata, "counts": np.ones(num_classes), "totals": earlier, "stored_sums": 0 * earlier}
    holding.policy.load_state_dict(state)
    reference.seen = {stratum: [vector] for stratum, vector in zip(strata.tolist(), earlier, strict=True)}
    for ids in minibatches:
        ids = np.array(ids, np.int64)
        holding.offer(ids, ids % num_classes)
        reference.offer([(i % num_classes, vectors[i], i) for i in ids.tolist()])
        assert holding.ids() == reference.names()


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 2**32))
def test_each_vector_that_goes_is_the_one_least_needed_by_those_left(count, num_dropped, seed):
    rng, num_dropped = np.random.default_rng(seed), min(num_dropped, count)
    vectors, mean = rng.normal(size=(count, D)), rng.normal(size=D)
    left = list(range(count))
    off_balance = vectors.sum(0) - count * mean
    for gone in least_needed(vectors.copy(), mean, off_balance, num_dropped).tolist():
        without = {i: sum((vectors[j] - mean for j in left if j != i), np.zeros(D)) for i in left}
        assert gone == min(left, key=lambda i: np.linalg.norm(without[i]))
        left.remove(gone)
    assert len(left) == count - num_dropped


@pytest.mark.parametrize("compared", [None, 4])
def test_the_stored_mean_is_far_nearer_than_that_of_a_uniform_sample(compared):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2000, D))
    holding = Holding(40, vectors, compared)
    for ids in np.array_split(rng.permutation(2000), 200):
        holding.offer(ids, ids % 2)
    for stratum in (0, 1):
        target = vectors[stratum::2].mean(0)
        kept = [i for i in holding.ids() if i % 2 == stratum]
        uniform = [np.linalg.norm(vectors[rng.choice(1000, 20) * 2 + stratum].mean(0) - target) for _ in range(200)]
        assert len(kept) == 20
        sums = holding.policy.state_dict()["stored_sums"]
        np.testing.assert_allclose(sums[stratum], vectors[kept].sum(0), rtol=1e-9)
        assert np.linalg.norm(vectors[kept].mean(0) - target) < np.median(uniform) / 4


def test_denied_samples_are_in_no_mean_and_a_class_that_lost_all_is_unknown():
    vectors = np.arange(40.0).reshape(10, D)
    holding = Holding(4, vectors)
    holding.columns.deny(np.array([1, 9]))
    holding.offer(np.array([0, 1, 2, 3]), np.zeros(4, np.int64))
    holding.offer(np.array([9]), np.ones(1, np.int64))
    state = holding.policy.state_dict()
    assert state["strata"].tolist() == [0]
    assert state["counts"].tolist() == [3.0]
    assert state["totals"].tolist() == [vectors[[0, 2, 3]].sum(0).tolist()]
    holding.columns.remove(holding.policy.remove(holding.columns, np.arange(3)))
    holding.policy.forget(holding.columns)
    assert holding.policy.state_dict()["strata"].tolist() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strata": np.array([3, 1])}, "strata cannot be"),
        ({"counts": np.array([1.0])}, "counts cannot be"),
        ({"counts": np.array([1.0, 0.0])}, "counts cannot be"),
        ({"totals": np.zeros((1, D))}, "totals cannot be"),
        ({"totals": np.zeros((2, D), np.float32)}, "totals cannot be"),
        ({"stored_sums": np.zeros((1, D))}, "stored sums cannot be"),
    ],
)
def test_a_damaged_state_is_refused(change, message):
    ones = np.ones((2, D))
    state = {"strata": np.array([1, 3]), "counts": np.array([2.0, 1.0]), "totals": ones, "stored_sums": ones}
    MeanMatching().load_state_dict(state)
    with pytest.raises(ValueError, match=message):
        MeanMatching().load_state_dict({**state, **change})
