"""Rehearsal states for another number of ranks, on states that single ranks made: who stores what, once, and why."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rehearsal.ranks.streams import NUM_CLASSES, num_wrong, records

from drb import Rehearsal
from drb.buffer.record import SAMPLE_ID, SLOT, RecordSpec
from drb.rehearsal.state.reshard import reshard
from drb.sampling.distinct import DistinctCounter
from drb.seeding import sample_ids_of, sample_keys

POLICIES = ("reservoir", "class_balanced", "random_replacement", "fifo")
SEED = 3
B = 5


def rehearsal(capacity, **options):
    policy = options.get("admission", "reservoir")
    candidates = 4 if policy == "random_replacement" else None
    return Rehearsal(capacity, 3, seed=SEED, candidates=candidates, batch_size=B, verbose=False, **options)


def states_of(num_ranks, num_samples, capacity, **options):
    """As if each of so many ranks had seen its own of the ids 0, 1, … twice."""
    states = []
    rounds = -(-num_samples // (num_ranks * B))
    for rank in range(num_ranks):
        own = np.arange(rank, num_samples, num_ranks)
        one = rehearsal(capacity, **options)
        for epoch in range(2):
            order = np.random.default_rng((rank, epoch)).permutation(own)
            for step in range(rounds):
                one.extend(records(order[step * B : step * B + B]))
        group = list(range(num_ranks))
        states.append({**one.state_dict(), "rank": rank, "world_size": num_ranks, "group": group, "run": "one"})
        one.close()
    return states


def deal(states, world_size, capacity, owner_of=None):
    owners = owner_of or (lambda ids: ids % world_size)
    return [reshard(states, rank, world_size, owners, capacity) for rank in range(world_size)]


def ids_in(states):
    return [state["buffer"]["columns"]["sample_id"].tolist() for state in states]


def flat(lists):
    return sorted(i for ids in lists for i in ids)


def keys_of(ids):
    return sample_keys(np.asarray(ids, np.int64), SEED)


worlds = st.integers(1, 4)


@hypothesis_settings(max_examples=40)
@given(worlds, worlds, st.integers(1, 90), st.integers(1, 25), st.integers(0, 25), st.sampled_from(POLICIES))
def test_every_exemplar_is_at_its_owner_once_with_its_row(old, new, num_samples, capacity, new_capacity, policy):
    states = states_of(old, num_samples, capacity, admission=policy)
    before = flat(ids_in(states))
    dealt = deal(states, new, new_capacity)
    dropped = 0
    for rank, state in enumerate(dealt):
        buffer, size = state["buffer"], int(state["buffer"]["size"])
        ids = buffer["columns"]["sample_id"]
        assert (ids % new == rank).all()
        assert len(set(ids.tolist())) == len(ids) == size == len(buffer["rows"]) <= new_capacity
        rows = np.asarray(buffer["rows"])
        assert rows[:, SAMPLE_ID].tolist() == ids.tolist()
        assert rows[:, SLOT].tolist() == list(range(size))
        spec = RecordSpec.from_json(json.loads(state["spec"]))
        assert num_wrong({**spec.views(rows), "sample_id": records(ids)["sample_id"]}) == 0
        own = [i for i in before if i % new == rank]
        assert set(ids.tolist()) <= set(own)
        assert size == min(len(own), new_capacity)
        if policy == "reservoir":
            assert set(ids.tolist()) == set(sorted(own, key=lambda i: keys_of([i])[0])[:new_capacity])
        dropped += state["resharded"]["dropped"]
        assert state["resharded"]["stored"] == len(before)
    assert dropped == len(before) - len(flat(ids_in(dealt)))


@hypothesis_settings(max_examples=30)
@given(worlds, worlds, st.integers(1, 90), st.integers(1, 25), st.sampled_from(["reservoir", "class_balanced"]))
def test_thresholds_say_what_is_stored_and_there_and_back_loses_nothing(old, new, num_samples, capacity, policy):
    states = states_of(old, num_samples, capacity, admission=policy)
    dealt = deal(states, new, 10 * capacity)
    assert flat(ids_in(dealt)) == flat(ids_in(states))
    assert flat(ids_in(deal(dealt, old, capacity))) == flat(ids_in(states))
    for limit in (10 * capacity, 3):
        for rank, state in enumerate(deal(states, new, limit)):
            own = np.arange(rank, num_samples, new)  # all of them were offered to some rank
            admission, below = state["buffer"]["admission"], np.ones(len(own), bool)
            if policy == "reservoir":
                below = keys_of(own) < admission["threshold"]
            else:
                for stratum, threshold in zip(admission["strata"], admission["thresholds"], strict=True):
                    below &= (own % NUM_CLASSES != stratum) | (keys_of(own) < threshold)
            assert set(own[below].tolist()) <= set(state["buffer"]["columns"]["sample_id"].tolist())


def test_strata_stay_level_and_the_newest_stay_in_a_queue():
    states = states_of(3, 300, 20, admission="class_balanced")
    for state in deal(states, 2, 10):
        counts = np.bincount(state["buffer"]["columns"]["stratum"], minlength=NUM_CLASSES)
        assert counts.tolist() == [2] * NUM_CLASSES
    states = states_of(3, 300, 20, admission="fifo")
    ages = np.sort(np.concatenate([state["buffer"]["columns"]["admitted_round"] for state in states]))
    (state,) = deal(states, 1, 20)
    kept = state["buffer"]["columns"]["admitted_round"]
    assert kept.tolist() == ages[-20:].tolist()  # oldest first: the ring goes on there
    assert state["buffer"]["admission"]["next"] == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_it_goes_on_with_exemplars_at_once(policy):
    states = states_of(4, 200, 12, admission=policy)
    (state,) = deal(states, 1, 30)
    stored = state["buffer"]["columns"]["sample_id"].tolist()
    with rehearsal(30, admission=policy, uneven="stop" if policy == "fifo" else "error") as one:
        one.load_state_dict(states, owner_of=lambda ids: np.zeros_like(ids))
        before = len(flat(ids_in(states)))
        assert one.resharded == {"from": 4, "stored": before, "dropped": before - 30}
        assert sorted(one.sample_ids()) == sorted(stored)
        for step in range(60):
            batch = one.extend(records(np.arange(step * B, step * B + B)))
            drawn = batch["sample_id"][batch["rehearsed"]].tolist()
            assert len(set(drawn)) == 3
            assert num_wrong(batch) == 0
            assert step > 0 or set(drawn) <= set(stored)
        assert len(set(one.sample_ids().tolist())) == len(one.sample_ids()) == 30


def test_arrivals_get_ids_that_were_never_given_and_are_shared_evenly():
    with rehearsal(500, sample_id="arrival") as one:
        for _ in range(23):
            batch = records(np.zeros(B, int))
            del batch["sample_id"]
            one.extend(batch)
        state = one.state_dict()
    states = [{**state, "world_size": 3} for _ in range(3)]
    for rank in range(3):  # ids as three ranks would have given them
        columns = {**state["buffer"]["columns"]}
        columns["sample_id"] = columns["sample_id"] * 3 + rank
        states[rank] = {**states[rank], "buffer": {**state["buffer"], "columns": columns}}
    used = max(flat(ids_in(states)))
    for world_size in (1, 2, 4, 7):
        dealt = [reshard(states, rank, world_size, None, 500) for rank in range(world_size)]
        sizes = [int(state["buffer"]["size"]) for state in dealt]
        assert sum(sizes) == 3 * 23 * B
        assert max(sizes) - min(sizes) <= 1
        for rank, resharded in enumerate(dealt):
            assert resharded["intake"]["arrivals"] * world_size + rank > used


def test_distinct_offers_are_counted_where_the_samples_belong_now():
    ids = np.arange(-500, 40_000, 7)
    assert sample_ids_of(keys_of(ids), SEED).tolist() == ids.tolist()
    states = states_of(3, 100, 10, proportions="stream")
    for rank, state in enumerate(deal(states, 2, 10)):
        assert state["intake"]["distinct"]["keys"].tolist() == sorted(keys_of(np.arange(rank, 100, 2)).tolist())
    many = [DistinctCounter(limit=100) for _ in range(2)]
    for rank, counter in enumerate(many):
        counter.add(keys_of(np.arange(rank, 4000 * (rank + 1), 2)))
    merged = DistinctCounter(limit=100)
    merged.load_state_dict(DistinctCounter.merge([counter.state_dict() for counter in many]))
    assert merged.count() == pytest.approx(6000, rel=0.4)


def test_the_round_that_is_run_again_is_counted_once():
    states = states_of(2, 40, 10)
    rounds = states[0]["stats"]["rounds"]
    with rehearsal(10) as one:
        one.load_state_dict(states, owner_of=np.zeros_like)
        one.extend(records(range(100, 100 + B)))
        one._running.drain()
        assert one.stats()["rounds"] == rounds + 1  # the one of this step; not the one that was dropped


def test_a_state_without_its_late_fields_cannot_be_divided():
    states = [{**s, "buffer": {**s["buffer"], "lacking": ["logits"]}} for s in states_of(3, 100, 10)]
    with pytest.raises(
        ValueError, match=r"rank 0 was taken before attach\(\) brought the last minibatch's \['logits'\]"
    ):
        reshard(states, 0, 1, np.zeros_like, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda states: states[:2], r"these are 2 states of 3 ranks"),
        (lambda states: [*states[:2], {**states[2], "round": 99}], r"ranks 0 and 2 are of different rounds, 7 and 99"),
        (lambda states: states[0], r"the state of one of 3 ranks, this rehearsal has 1: give .* all of them"),
        (lambda states: [{**s, "settings": s["settings"] | {"seed": 1}} for s in states], r"seed=1, this .* has 3"),
    ],
)
def test_states_that_do_not_belong_together_are_refused(change, message):
    states = change(states_of(3, 60, 10))
    with rehearsal(30) as one, pytest.raises(ValueError, match=message):
        one.load_state_dict(states, owner_of=lambda ids: np.zeros_like(ids))


@pytest.mark.parametrize(
    ("owner_of", "message"),
    [
        (None, r"give load_state_dict owner_of=.*OwnerSampler.owner_of"),
        (lambda ids: ids, r"a rank in \[0, 1\), got \d+ for id \d+"),
        (lambda ids: ids[:1] * 0, r"each of 30 sample ids a rank in \[0, 1\), got 1 ranks"),
    ],
)
def test_owners_must_be_given_and_be_ranks(owner_of, message):
    states = states_of(3, 60, 10)
    with rehearsal(30) as one, pytest.raises(ValueError, match=message):
        one.load_state_dict(states, owner_of=owner_of)


def test_a_state_from_before_the_first_minibatch_is_any_ranks():
    with rehearsal(10) as one:
        state = {**one.state_dict(), "world_size": 3}
        one.load_state_dict([state] * 3)
        assert len(one.extend(records([1, 2]))["label"]) == 2
