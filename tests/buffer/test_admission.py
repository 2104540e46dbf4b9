"""Admission: each policy against its law, computed here from all that was ever offered."""

from collections import Counter

import numpy as np
import pytest
from buffer.admitting import (
    admit_all,
    by_key,
    capacities,
    flat,
    minibatches,
    stored_ids,
)
from hypothesis import given
from hypothesis import strategies as st
from samples import offer_of
from scipy import stats

from drb.buffer.admission import Columns, build_admission
from drb.buffer.admission.class_balanced import ClassBalanced, level_quotas
from drb.buffer.admission.fifo import Fifo
from drb.buffer.admission.reservoir import NO_THRESHOLD, KeyedReservoir
from drb.seeding import sample_keys

# -- reservoir


@given(minibatches, capacities)
def test_the_reservoir_holds_the_smallest_keys_of_everything_offered(minibatches, capacity):
    policy = KeyedReservoir()
    columns = admit_all(policy, Columns(capacity), minibatches)
    ascending = by_key(flat(minibatches))
    assert stored_ids(columns) == set(ascending[:capacity])
    gone = ascending[capacity:]  # rejected or evicted
    assert policy.threshold == (int(sample_keys(np.array(gone), 0)[0]) if gone else NO_THRESHOLD)


@given(minibatches, capacities, st.integers(1, 12))
def test_the_reservoir_does_not_depend_on_how_the_stream_is_split(minibatches, capacity, size):
    ids = flat(minibatches)
    split = [ids[i : i + size] for i in range(0, len(ids), size)]
    one, other = KeyedReservoir(), KeyedReservoir()
    assert stored_ids(admit_all(one, Columns(capacity), minibatches)) == stored_ids(
        admit_all(other, Columns(capacity), split)
    )
    assert one.threshold == other.threshold


def test_a_large_reservoir_keeps_its_law_when_its_pool_of_largest_keys_runs_out():
    rng = np.random.default_rng(0)
    minibatches = [rng.integers(0, 20_000, 97).tolist() for _ in range(150)]
    columns = admit_all(KeyedReservoir(), Columns(1500), minibatches)
    assert stored_ids(columns) == set(by_key(flat(minibatches))[:1500])


@pytest.mark.parametrize("size", [3, 70, 256])
def test_minibatches_that_replace_only_stored_exemplars_keep_the_law(size):
    falling = by_key(range(2000))[::-1]
    minibatches = [falling[i : i + size] for i in range(0, 2000, size)]
    policy, columns = KeyedReservoir(), Columns(500)
    for count in range(1, len(minibatches) + 1):
        admit_all(policy, columns, minibatches[count - 1 : count])
        offered = flat(minibatches[:count])
        assert stored_ids(columns) == set(offered[-500:])
        assert policy.threshold == (
            int(sample_keys(np.array(offered[-501:-500]), 0)[0]) if len(offered) > 500 else NO_THRESHOLD
        )


@pytest.mark.parametrize("size", [2, 63, 64, 300])
@pytest.mark.parametrize("repeats", [False, True])
def test_new_ids_are_those_not_stored_not_denied_and_not_offered_before(size, repeats):
    rng = np.random.default_rng(size)
    columns, stored = Columns(400), np.arange(0, 1200, 3)
    for known in (False, True):
        ids = rng.integers(0, size, size) if repeats else rng.choice(1200, size, replace=False)
        seen = set(stored.tolist()) | {1, 4} if known else set()
        expected = [not (sample_id in seen or seen.add(sample_id)) for sample_id in ids.tolist()]
        assert columns.is_new(ids).tolist() == expected
        offer = offer_of(stored)
        columns.put(np.arange(400), offer, np.arange(400))
        columns.deny(np.array([1, 4]))


def test_every_sample_is_equally_likely_in_the_reservoir_however_often_and_when_it_was_offered():
    num_samples, capacity, trials = 60, 15, 1500
    once = np.arange(num_samples)
    stream = np.concatenate((once, once[:30], once[:10], once[:10]))  # early samples are offered up to four times
    inclusions = np.zeros(num_samples)
    for seed in range(trials):
        columns = admit_all(KeyedReservoir(), Columns(capacity), np.array_split(stream, 9), seed=seed)
        inclusions[columns.sample_id[: columns.size]] += 1
    expected = trials * capacity / num_samples
    statistic = ((inclusions - expected) ** 2 / expected).sum() * (num_samples - 1) / (num_samples - capacity)
    p = stats.chi2.sf(statistic, num_samples - 1)
    assert 1e-3 < p < 1 - 1e-3


# -- class-balanced


@given(minibatches, capacities, st.integers(1, 7))
def test_class_balanced_levels_the_counts_and_keeps_the_smallest_keys_of_each_stratum(
    minibatches, capacity, num_classes
):
    policy = ClassBalanced()
    columns = admit_all(policy, Columns(capacity), minibatches, num_classes=num_classes)
    offered = {s: by_key(i for i in flat(minibatches) if i % num_classes == s) for s in range(num_classes)}
    stored = Counter((columns.sample_id[: columns.size] % num_classes).tolist())
    for stratum, ids in offered.items():
        of_stratum = {i for i in stored_ids(columns) if i % num_classes == stratum}
        assert of_stratum == set(ids[: stored[stratum]])
    assert sum(stored.values()) == min(capacity, sum(map(len, offered.values())))
    # what a stratum gave up never comes back, should the buffer grow
    state = policy.state_dict()
    smallest_gone = {
        s: int(sample_keys(np.array(ids[stored[s] :]), 0)[0]) for s, ids in offered.items() if ids[stored[s] :]
    }
    assert dict(zip(state["strata"].tolist(), state["thresholds"].tolist(), strict=True)) == smallest_gone
    # level: a stratum that gave something up holds at most one less than any other
    for stratum, ids in offered.items():
        if stored[stratum] < len(ids):
            assert stored[stratum] >= max(stored.values()) - 1


def test_class_balanced_makes_room_for_classes_that_appear_later():
    columns, policy = Columns(12), ClassBalanced()
    for stratum in range(4):
        ids = np.arange(stratum * 100, stratum * 100 + 40)
        offer = offer_of(ids, strata=np.full(40, stratum))
        decision = policy.admit(columns, offer)
        columns.put(decision.slots, offer, decision.rows)
        counts = np.bincount(columns.stratum[: columns.size])
        assert counts.tolist() == [12 // (stratum + 1)] * (stratum + 1)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.data())
def test_quotas_fill_the_capacity_and_are_level(counts, data):
    counts = np.array(counts)
    capacity = data.draw(st.integers(1, int(counts.sum())))
    quotas = level_quotas(counts, capacity)
    assert quotas.sum() == capacity
    assert (quotas >= 0).all()
    assert (quotas <= counts).all()
    reduced = quotas < counts
    assert not reduced.any() or quotas[reduced].min() >= quotas.max() - 1


# -- fifo


@given(minibatches, capacities)
def test_fifo_holds_the_last_samples_that_were_new(minibatches, capacity):
    queue: list[int] = []
    for ids in minibatches:
        queue += [i for i in dict.fromkeys(ids) if i not in queue]
        queue = queue[-capacity:]
    assert stored_ids(admit_all(Fifo(), Columns(capacity), minibatches)) == set(queue)


# -- all of them

POLICIES = {
    "reservoir": None,
    "class_balanced": None,
    "random_replacement": 6,
    "fifo": None,
}


@pytest.mark.parametrize(("name", "candidates"), POLICIES.items())
def test_a_policy_goes_on_from_its_state(name, candidates):
    rng = np.random.default_rng(2)
    stream = [rng.integers(0, 200, 12) for _ in range(40)]

    def build():
        return build_admission(name, candidates=candidates, seed=0, rank=0)

    def continue_from(policy, columns):
        decisions = []
        for round_, ids in enumerate(stream[20:], 20):
            offer = offer_of(ids, round_)
            decision = policy.admit(columns, offer)
            columns.put(decision.slots, offer, decision.rows)
            decisions.append((decision.rows.tolist(), decision.slots.tolist()))
        return decisions

    policy = build()
    columns = admit_all(policy, Columns(30), stream[:20])
    resumed, resumed_columns = build(), Columns(30)
    resumed.load_state_dict(policy.state_dict())
    resumed_columns.load_state_dict(columns.state_dict())
    assert continue_from(resumed, resumed_columns) == continue_from(policy, columns)


@pytest.mark.parametrize(("name", "candidates"), POLICIES.items())
def test_an_offer_of_what_is_stored_changes_nothing(name, candidates):
    policy = build_admission(name, candidates=candidates, seed=0, rank=0)
    columns = admit_all(policy, Columns(10), [range(10)] * 4)
    decision = policy.admit(columns, offer_of(columns.sample_id[: columns.size], 9))
    assert len(decision) == 0


@pytest.mark.parametrize(("name", "candidates"), POLICIES.items())
def test_no_samples_are_no_admissions(name, candidates):
    policy = build_admission(name, candidates=candidates, seed=0, rank=0)
    assert len(policy.admit(Columns(10), offer_of([]))) == 0


def test_an_id_offered_twice_in_a_minibatch_is_new_once():
    columns = Columns(10)
    columns.put(np.array([0]), offer_of([5]), np.array([0]))
    assert columns.is_new(np.array([7, 5, 7, 8])).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("name", "candidates", "message"),
    [
        ("lifo", None, "unknown admission policy 'lifo'; did you mean fifo. choose class_balanced, closed, fifo"),
        ("random_replacement", None, "the admission policy random_replacement needs the option candidates"),
        ("random_replacement", 0, "candidates must be at least 1, got 0"),
        ("reservoir", 14, "candidates=14 has no meaning for admission=reservoir"),
    ],
)
def test_wrong_settings_are_named(name, candidates, message):
    with pytest.raises(ValueError, match=message):
        build_admission(name, candidates=candidates, seed=0, rank=0)
