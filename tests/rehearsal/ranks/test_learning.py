"""What ranks learn from feedback is alike on all of them, on every engine and exchange, after a resume, and with other
numbers of ranks; importance weights make means over draws unbiased for all that the ranks were offered.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ranks import run_ranks
from rehearsal.learning import go_on, ids_of_step, losses, rehearsal_of, same
from samples import minibatch_of

STEPS = 12
CASES = {
    "inline": {"asynchronous": False, "exchange": "collective"},
    "async": {"asynchronous": True, "exchange": "shared"},
    "hierarchical": {"asynchronous": True, "exchange": "hierarchical", "proportions": "adaptive"},
    "ahead": {"asynchronous": True, "interval": 2, "draws": 2, "proportions": "loss_aware"},
}


def uneven(rank, step):
    """Rank 1 gives no feedback in most steps."""
    return rank != 1 or step % 4 == 0


def learn(rank, world_size):
    found = {}
    for name, options in CASES.items():
        own = {
            "rank": rank,
            "world_size": world_size,
            "rows": [8, 3, 5][rank],
            "gives": lambda step: uneven(rank, step),
        }
        with rehearsal_of(**options) as whole:
            drawn = go_on(whole, range(STEPS), **own)
            state = whole.state_dict()
        if name != "async":
            found[name] = (drawn, state["learnt"]["learnt"], True)
            continue
        with rehearsal_of(**options) as first:
            go_on(first, range(5), **own)
            half = first.state_dict()
        with rehearsal_of(**options) as second:
            second.load_state_dict(half)
            again = go_on(second, range(5, STEPS), **own)
            is_same = again == drawn[5:] and same(second.state_dict()["learnt"], state["learnt"])
        found[name] = (drawn, state["learnt"]["learnt"], is_same)
    return found


def expected_counts(per_rank_drawn, last_step):
    """What mix_cd has counted by the round of a step, computed row by row."""
    shown, damaged = np.zeros(5), np.zeros(5)
    for step in range(last_step - 1):
        ids = [i for rank, drawn in enumerate(per_rank_drawn) if uneven(rank, step) for i in drawn[step]]
        if not ids:
            continue
        keep = 1 - min(0.5, len(ids) / (20 * 5))
        shown, damaged = shown * keep, damaged * keep
        for i in ids:
            shown[i % 5] += 1
            damaged[i % 5] += i % 5 == 3 and (i + step) % 8 != 0
    return shown, damaged


def test_all_ranks_learn_the_same_and_go_on_with_it():
    per_rank = run_ranks(learn, 3, timeout=60)
    for name in CASES:
        learnt = [found[name][1] for found in per_rank]
        assert all(same(each, learnt[0]) for each in learnt)
        assert len(learnt[0]["strata"]) == 5
        assert all(found[name][2] for found in per_rank)
    for found in per_rank:
        assert found["inline"][0] == found["async"][0]
    shown, damaged = expected_counts([found["inline"][0] for found in per_rank], STEPS - 1)
    learnt = per_rank[0]["inline"][1]
    assert learnt["shown"] == pytest.approx(shown, rel=1e-12)
    assert learnt["damaged"] == pytest.approx(damaged, rel=1e-12)


def owner_of(world_size):
    return lambda ids: ids % world_size


def reshard(rank, world_size, saved, begin):
    with rehearsal_of() as rehearsal:
        if saved is not None:
            rehearsal.load_state_dict(saved, owner_of(world_size))
        before = None if saved is None else rehearsal.state_dict()["learnt"]
        go_on(rehearsal, range(begin, begin + 8), rank=rank, world_size=world_size)
        return before, rehearsal.state_dict()


def test_what_was_learnt_goes_on_with_other_numbers_of_ranks():
    states, begin = None, 0
    for world_size in (2, 1, 3):
        results = run_ranks(reshard, world_size, states, begin, timeout=60)
        if states is not None:
            rows = sum(len(state["learnt"]["waiting"]["step"]) for state in states)
            for before, _ in results:
                assert same(before["learnt"], states[0]["learnt"]["learnt"])
                assert before["brought"]["rows"].sum() == rows > 0
        states, begin = [state for _, state in results], begin + 8
        assert all(same(state["learnt"]["learnt"], states[0]["learnt"]["learnt"]) for state in states)
        assert all(len(state["learnt"]["brought"]["rows"]) == 0 for state in states)


def estimates(rank, world_size, proportions, seeds):
    """For each seed the mean of a function over all that was offered, as this rank's draws estimate it."""
    steps, rows = 12, [8, 3, 1][rank]  # ranks see unequal streams
    found = []
    for seed in range(seeds):
        options = {"proportions": proportions, "seed": seed, "importance": True, "asynchronous": False}
        with rehearsal_of(capacity=20, **options) as rehearsal:
            of_seed = []
            for step in range(steps + 10):
                ids = ids_of_step(rank, world_size, step, rows) if step < steps else []
                batch = rehearsal.extend(minibatch_of(ids))
                drawn = batch["sample_id"][batch["rehearsed"]].clone()
                if step >= steps + 2:
                    of_seed.append(float((rehearsal.importance() * function(drawn)).mean()))
                if len(drawn):
                    rehearsal.feedback(loss=losses(drawn, step), correct=drawn % 3 == 0)
            found.append(np.mean(of_seed))
    return found


def function(ids):
    """Of an id: it depends on the class, and on which rank was offered the sample."""
    return torch.as_tensor(np.asarray(ids)).float() ** 0.5 + 10.0 * (torch.as_tensor(np.asarray(ids)) % 5 == 3)


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.full), 3])
def test_importance_weights_make_means_unbiased_for_all_that_was_offered(world_size):
    offered = np.concatenate([np.arange(12 * rows) * world_size + r for r, rows in enumerate([8, 3, 1][:world_size])])
    truth, proportions = float(function(offered).mean()), ("uniform", "balanced", "mix_cd")[world_size - 1]
    per_rank = np.array(run_ranks(estimates, world_size, proportions, 10, timeout=90))
    means = per_rank.mean(axis=0)  # of the ranks, of each seed
    assert abs(means.mean() - truth) < 3 * means.std(ddof=1) / np.sqrt(len(means))
    assert means.std(ddof=1) / np.sqrt(len(means)) < 0.1 * truth
