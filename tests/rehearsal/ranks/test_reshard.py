"""Another number of ranks on real ranks: 4 → 2 → 3, draws stay unbiased per sample id, and stored = distinct."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from ranks import collect_ranks, run_ranks
from rehearsal.ranks.checks import SMALLEST_P, uniformity_p
from rehearsal.ranks.streams import nothing, num_wrong, records

from drb import OwnerSampler, Rehearsal

SEEDS = (0, 1, 2)
ROUNDS = 150
R = 5
SAMPLES = 150


def train(rank, world_size, saved, settings, rounds=ROUNDS):
    """Offer this rank's own samples, then only draw: for each seed the state, the draws and what must be true."""
    results = []
    for seed in SEEDS:
        sampler = OwnerSampler(range(SAMPLES), seed=9, drop_last=True)
        order = np.array(list(sampler))
        with Rehearsal(exemplars=R, seed=seed, batch_size=8, asynchronous=True, verbose=False, **settings) as rehearsal:
            if saved is not None:
                owner_of = None if settings.get("sample_id") == "arrival" else sampler.owner_of
                rehearsal.load_state_dict([states[SEEDS.index(seed)] for states in saved], owner_of)
            at_once = rehearsal.sample_ids().tolist()
            draws, wrong, counts = [], 0, []
            for step in range(10 if saved is None else rounds):
                offer = records(order[step * 8 : step * 8 + 8]) if saved is None else nothing()
                if settings.get("sample_id") == "arrival":
                    del offer["sample_id"]
                batch = rehearsal.extend(offer)
                counts.append(int(batch["rehearsed"].sum()))
                if "sample_id" in batch:
                    draws.append(batch["sample_id"][batch["rehearsed"]].tolist())
                    wrong += num_wrong(batch)
            share = rehearsal.duplicate_share()
            results.append((rehearsal.state_dict(), at_once, draws, wrong, counts, share, rehearsal.stats()["stored"]))
    return results


def owners_of(world_size):
    return OwnerSampler(range(SAMPLES), seed=9, rank=0, world_size=world_size).owner_of


def be_killed(rank, world_size, saved, settings):
    """Go on from the states, until rank 1 is killed in the middle of its rounds."""
    owner_of = OwnerSampler(range(SAMPLES), seed=9, drop_last=True).owner_of
    with Rehearsal(exemplars=R, batch_size=8, asynchronous=True, verbose=False, timeout_s=5, **settings) as rehearsal:
        rehearsal.load_state_dict([states[0] for states in saved], owner_of)
        for step in range(ROUNDS):
            if (rank, step) == (1, 7):
                os.kill(os.getpid(), signal.SIGKILL)
            rehearsal.extend(nothing())


def test_draws_after_4_to_2_to_3_with_a_kill_are_uniform_over_the_exemplars_each_stored_once():
    settings = {"capacity": 20}
    results = run_ranks(train, 4, None, settings)
    for world_size, exchange in ((2, "shared"), (3, "collective")):
        states = [[result[0] for result in per_seed] for per_seed in results]
        if world_size == 3:  # what two ranks had saved is gone on with once, in vain
            _, failures = collect_ranks(be_killed, 2, states, settings, patience=12, abandon=[1], timeout=60)
            assert "rank 1 did not arrive" in failures[0]
        results = run_ranks(train, world_size, states, settings | {"exchange": exchange})
        for i, _ in enumerate(SEEDS):
            held = [per_seed[i][1] for per_seed in results]
            union = sorted(sample for ids in held for sample in ids)
            assert len(union) == len(set(union)) == 40
            assert [owners_of(world_size)(np.array(ids)).tolist() for ids in held] == [
                [rank] * len(ids) for rank, ids in enumerate(held)
            ]
            for per_seed in results:
                _, _, draws, wrong, counts, share, _ = per_seed[i]
                assert counts == [R] * ROUNDS  # from the first step after the resume on
                assert all(len(set(draw)) == R for draw in draws)
                assert wrong == share == 0
            drawn = [draw for per_seed in results for draw in per_seed[i][2]]
            assert uniformity_p(drawn, union) > SMALLEST_P


@pytest.mark.parametrize("proportions", ["stream", "balanced"])
def test_arrivals_and_totals_go_on_by_every_proportion(proportions):
    settings = {"capacity": 60, "capacity_scope": "total", "sample_id": "arrival", "proportions": proportions}
    results = run_ranks(train, 4, None, settings | {"admission": "fifo"})
    for world_size in (2, 3):
        states = [[result[0] for result in per_seed] for per_seed in results]
        results = run_ranks(train, world_size, states, settings | {"admission": "fifo"}, 30)
        for i, _ in enumerate(SEEDS):
            assert [per_seed[i][6] for per_seed in results] == [60 // world_size] * world_size  # nobody's was dropped
            assert all(per_seed[i][4] == [R] * 30 and per_seed[i][5] == 0 for per_seed in results)
