"""exemplars="auto": all ranks draw the r that the slowest can hide, and go on with it after a resume."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
from ranks import run_ranks
from samples import minibatch_of

from drb import Rehearsal
from drb.rehearsal.auto_exemplars import ROUNDS, WARM_UP, AutoExemplars

B = 16
DECIDED = WARM_UP + ROUNDS + 4  # steps after which r is fixed, wherever the union holds enough at once
STEPS = DECIDED + 6


def minibatches(rank, world_size, steps):
    return [minibatch_of(np.arange(B) + B * (rank + world_size * step)) for step in range(steps)]


def open_rehearsal(exemplars="auto:12", **settings):
    return Rehearsal(capacity=64, exemplars=exemplars, seed=3, verbose=False, timeout_s=30, **settings)


def rehearsed(batch):
    return batch["sample_id"][batch["rehearsed"]].tolist()


def slow_rank_one(rank, world_size):
    """Rank 1 could hide 5, the others 12; r, how many were drawn per step, and what the slowest measured."""
    said = []
    # rounds of few and many, steps of few and many: 1 ms per exemplar in steps of 6.25 ms, of which 80 % count
    AutoExemplars._medians = lambda self: ((1e-3, 12e-3) if rank == 1 else (1e-5, 2e-5), (6.25e-3, 6.25e-3))
    with open_rehearsal() as rehearsal:
        counts = []
        for minibatch in minibatches(rank, world_size, STEPS):
            counts.append(len(rehearsed(rehearsal.extend(minibatch))))
            auto = rehearsal._running.parts.auto
            auto.say = said.append
        return auto.chosen, counts, said, rehearsal.stats()["exemplars"]


def test_the_slowest_rank_decides_for_all():
    results = run_ranks(slow_rank_one, 3, timeout=60)
    for chosen, counts, said, in_stats in results:
        assert chosen == in_stats == 5
        assert counts == results[0][1]
        assert set(counts[2:DECIDED]) == {1, 12, 5}  # many and few in turn, then r
        assert counts[DECIDED:] == [5] * (STEPS - DECIDED)
        assert said == [
            "exemplars=auto: 5 per rank and step from now on: rank 1, the slowest, took 1 ms for a round of 1 and "
            "12 ms for one of 12 in steps of 6.25 and 6.25 ms"
        ]


def slow_down(exchange):
    fetch = exchange.fetch

    def slow(owners, positions, out):
        time.sleep(len(positions) / 3000)
        fetch(owners, positions, out)

    exchange.fetch = slow


def really_measured(rank, world_size):
    """Rounds of 4 ms and more for 12 exemplars in steps of 1 ms, on rank 1 alone."""
    with open_rehearsal() as rehearsal:
        for step, minibatch in enumerate(minibatches(rank, world_size, STEPS)):
            batch = rehearsal.extend(minibatch)
            if step == 0 and rank == 1:
                slow_down(rehearsal._running.parts.exchange)
            time.sleep(0.001)
        engine, auto = rehearsal._running.parts.engine, rehearsal._running.parts.auto
        return (
            auto.chosen,
            len(rehearsed(batch)),
            {r: len(seconds) for r, seconds in engine.round_seconds.items()},
            {r: len(seconds) for r, seconds in engine.step_seconds.items()},
            statistics.median(engine.round_seconds[12]),
        )


def test_rounds_and_steps_are_measured():
    (chosen, drawn, *_), slow = run_ranks(really_measured, 2, timeout=60)
    assert 1 <= chosen <= 12
    assert chosen == drawn == slow[0] == slow[1]
    rounds, steps, median = slow[2:]
    assert rounds == {1: ROUNDS // 2 + 1, 12: ROUNDS // 2}
    assert set(steps) == {1, 12}
    assert sum(steps.values()) == ROUNDS + 1
    assert median >= 12 / 3000


def resumed(rank, world_size, asynchronous):
    def run(rehearsal, batches):
        return [rehearsed(rehearsal.extend(minibatch)) for minibatch in batches]

    stream = minibatches(rank, world_size, STEPS + 10)
    AutoExemplars._medians = lambda self: ((1e-3, 12e-3), (8e-3, 8e-3))
    with open_rehearsal() as rehearsal:
        run(rehearsal, stream[:STEPS])
        state = rehearsal.state_dict()
        expected = run(rehearsal, stream[STEPS:])

    def measure_again(self):
        raise AssertionError("a resumed run must not measure again")

    AutoExemplars._medians = measure_again
    with open_rehearsal(asynchronous=asynchronous) as rehearsal:
        rehearsal.load_state_dict(state)
        got = run(rehearsal, stream[STEPS:])
        return got == expected, {len(ids) for ids in got}, rehearsal.stats()["exemplars"], rehearsal.describe()


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_resumed_run_goes_on_with_its_r(world_size):
    for same, counts, in_stats, description in run_ranks(resumed, world_size, True, timeout=60):
        assert same
        assert counts == {6}
        assert in_stats == 6
        assert "rehearsal: 6 (auto) exemplars per rank and step" in description


def undecided(rank, world_size):
    """Ranks whose minibatches differ, and buffers that hold less than a minibatch."""
    with Rehearsal(capacity=3, exemplars="auto", seed=3, verbose=False, timeout_s=30) as rehearsal:
        for step in range(4):
            ids = np.arange(8 + rank) + 100 * (rank + world_size * step)
            rehearsal.extend(minibatch_of(ids))
        return rehearsal.describe(), rehearsal.stats()["exemplars"]


def test_the_limit_is_what_every_rank_can_draw():
    for description, chosen in run_ranks(undecided, 2, timeout=60):
        assert "rehearsal: at most 6 (auto) exemplars per rank and step" in description
        assert chosen is None
