"""Guarantee 6: ranks that end, differ, die or stall are named, on every rank, in time."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import collect_ranks, run_cases, run_ranks
from rehearsal.ranks.streams import ids_of_rank, records

from drb import Rehearsal
from drb.distributed.failure import PeerError, naming_peers
from drb.rehearsal.exemplars import UnevenError

EXCHANGES = ["collective", "shared"]
# on the worker thread, and on the training thread: there rounds of one node may run
PLACES = [("collective", True), ("shared", True), ("shared", False)]
IN_PLACES = pytest.mark.parametrize(("exchange", "asynchronous"), PLACES, ids=["collective", "shared", "inline"])
BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["inline", "async"])


def train_steps(rehearsal, rank, world_size, steps, *, gradients=True):
    """`steps` minibatches with an all-reduce each, as DDP has; the number done."""
    ids = ids_of_rank(rank, world_size, 10 * (steps + 1))
    for t in range(steps):
        if rehearsal.extend(records(ids[t * 10 : t * 10 + 10])) is None:
            return t
        if gradients:
            dist.all_reduce(torch.ones(1))
    return steps


def uneven(rank, world_size, mode, exchange, asynchronous):
    options = {"uneven": mode, "exchange": exchange, "asynchronous": asynchronous, "verbose": False}
    try:
        with Rehearsal(capacity=20, exemplars=3, **options) as rehearsal:
            return train_steps(rehearsal, rank, world_size, [9, 6, 8][rank])
    except UnevenError as error:
        return str(error)


def test_uneven_stop_ends_all_ranks_at_the_first_end():
    cases = {str(place): ("stop", *place) for place in PLACES}
    assert run_cases(uneven, 3, cases) == {place: [6, 6, 6] for place in cases}


@IN_PLACES
def test_uneven_error_tells_every_rank_who_stopped(exchange, asynchronous):
    for message in run_ranks(uneven, 3, "error", exchange, asynchronous):
        assert "ranks [1] stopped after 6 steps while ranks [0, 2] go on" in message
        assert 'uneven="stop"' in message


def uneven_between_rounds(rank, world_size, depth, interval, steps, asynchronous):
    options = {"depth": depth, "interval": interval, "asynchronous": asynchronous, "verbose": False}
    try:
        with Rehearsal(capacity=20, exemplars=3, **options) as rehearsal:
            return train_steps(rehearsal, rank, world_size, steps[rank], gradients=False)
    except UnevenError as error:
        return str(error)


@BOTH
def test_ranks_that_end_between_rounds_are_told_too(asynchronous):
    cases = {
        f"depth {depth}, interval {interval}, steps {steps}": (depth, interval, steps, asynchronous)
        for depth, interval in [(3, 1), (1, 4), (2, 3)]
        for steps in [(5, 7), (9, 5), (6, 6)]
    }
    for case, ends in run_cases(uneven_between_rounds, 2, cases).items():
        steps = cases[case][2]
        first, last = np.argsort(steps).tolist()
        for message in ends:
            if steps[0] == steps[1]:
                assert message == steps[0], case
            else:
                assert f"ranks [{first}] stopped after 5 steps while ranks [{last}] go on" in message, case


def no_minibatch(rank, world_size):
    try:
        with Rehearsal(capacity=20, exemplars=3, verbose=False) as rehearsal:
            return train_steps(rehearsal, rank, world_size, 0 if rank == 1 else 3, gradients=False)
    except UnevenError as error:
        return str(error)


def test_a_rank_without_any_minibatch_is_named():
    for message in run_ranks(no_minibatch, 2):
        assert "ranks [1] stopped before their first minibatch" in message


def differing(rank, world_size, settings, fields):
    minibatch = records(ids_of_rank(rank, world_size, 4))
    if fields and rank == 1:
        minibatch["image"] = minibatch["image"][:, :, :1]
    try:
        settings = {"capacity": 10, "exemplars": 3, **(settings[rank] if settings else {})}
        Rehearsal(**settings, verbose=False).extend(minibatch)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(
    ("settings", "fields", "names"),
    [
        ([{"seed": 1}, {"seed": 2}], False, ["'seed'", "rank 0 has 1", "rank 1 has 2"]),
        ([{}, {"proportions": "balanced"}], False, ["'proportions'", "'uniform'", "'balanced'"]),
        (None, True, ["'image'", "uint8[1, 2, 24]", "uint8[1, 1, 24]"]),
    ],
    ids=["seed", "proportions", "schema"],
)
def test_ranks_that_differ_are_told_in_what(settings, fields, names):
    for message in run_ranks(differing, 2, settings, fields):
        assert all(name in message for name in names), message


def lose_a_peer(rank, world_size, exchange, asynchronous, how, timeout_s):
    """Rank 1 dies or stops in the middle; what the others say, and after how long."""
    options = {"exchange": exchange, "asynchronous": asynchronous, "timeout_s": timeout_s, "verbose": False}
    start = time.monotonic()
    try:
        with Rehearsal(capacity=20, exemplars=3, **options) as rehearsal:
            train_steps(rehearsal, rank, world_size, 5, gradients=False)
            if rank == 1:
                os.kill(os.getpid(), how)
            start = time.monotonic()
            train_steps(rehearsal, rank, world_size, 5, gradients=False)
    except PeerError as error:
        return str(error), time.monotonic() - start
    return "no error", 0.0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_dead_or_stalled_peer_is_named_within_the_timeout(how):
    def lose(place):
        return collect_ranks(lose_a_peer, 3, *place, how, 3.0, patience=12, abandon=[1])

    with ThreadPoolExecutor() as pool:  # they wait, mostly: all at once
        for place, (results, _) in zip(PLACES, pool.map(lose, PLACES), strict=True):
            assert set(results) == {0, 2}, place
            for rank, (message, seconds) in results.items():
                assert f"rank {rank}, round " in message, place
                assert "sizes" in message or "indices" in message or "rows" in message, place
                assert "rank 1 did not arrive" in message, place
                assert seconds < 3.0 + 5.0, place


def lose_a_peer_in_training(rank, world_size, how):
    try:
        with naming_peers(range(world_size), lambda: "step 3 of the training"):
            dist.all_reduce(torch.ones(1))
            if rank == 1:
                os.kill(os.getpid(), how)
            dist.all_reduce(torch.ones(1))
    except PeerError as error:
        return str(error)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_peer_lost_in_a_gradient_exchange_is_named_too(how):
    results, _ = collect_ranks(lose_a_peer_in_training, 3, how, patience=12, abandon=[1], gloo_timeout=3.0)
    assert set(results) == {0, 2}
    for rank, message in results.items():
        assert f"rank {rank}, step 3 of the training: failed" in message
        assert "rank 1 did not arrive" in message


def test_other_errors_are_left_alone():
    with pytest.raises(RuntimeError, match="size mismatch"), naming_peers([0], str):
        raise RuntimeError("size mismatch")


def fail_in_a_round(rank, world_size, asynchronous):
    """Rank 0's round 3 fails; how each rank ended, after how many steps, and on which thread the round was."""
    from drb.rehearsal.build_parts import PartsFactory
    from drb.sampling.sampler import Sampler

    class Broken(Sampler):
        def draw(self, round_, *counts):
            if round_ == 3 and rank == 0:
                raise OverflowError(f"failed on purpose in {threading.current_thread().name}")
            return super().draw(round_, *counts)

    class Broke(PartsFactory):
        def sampler(self, settings, exemplars, proportions, rank):
            return Broken(exemplars, proportions, seed=settings.seed, rank=rank)

    Rehearsal._factory, steps = Broke(), 0
    try:
        with Rehearsal(capacity=20, exemplars=3, asynchronous=asynchronous, timeout_s=3.0, verbose=False) as rehearsal:
            for t in range(8):
                rehearsal.extend(records(ids_of_rank(rank, world_size, 80)[10 * t : 10 * t + 10]))
                assert rehearsal.stats()["asynchronous"] is asynchronous
                steps += 1
    except Exception as error:
        import traceback

        return type(error).__name__, "".join(traceback.format_exception(error)), steps
    return "nothing", "", steps


@pytest.mark.parametrize(
    ("asynchronous", "thread", "steps"),
    [(False, "MainThread", 3), (True, "drb-rehearsal", 4)],  # at once; or by the step that waits for the round
    ids=["inline", "in the worker"],
)
def test_an_exception_in_a_round_reaches_the_training_thread_with_its_traceback(asynchronous, thread, steps):
    first, second = run_ranks(fail_in_a_round, 2, asynchronous)
    assert first[0] == "OverflowError", first[1]
    assert "in draw" in first[1]  # where the round was
    assert f"failed on purpose in {thread}" in first[1]
    assert first[2] == steps
    assert second[0] == "PeerError", second[1]  # the other rank hears of it, at the latest by its timeout


def fail_before_the_barrier(rank, world_size, asynchronous):
    """As a rank that goes on into the gradients' exchange, where the others, in the barrier, never come."""

    def out_of_memory(*_):
        raise MemoryError("no room")

    try:
        with Rehearsal(20, 3, asynchronous=asynchronous, timeout_s=60.0, verbose=False) as rehearsal:
            train_steps(rehearsal, rank, world_size, 3)
            if rank == 0:
                rehearsal._running.parts.exchange.publish = out_of_memory
            train_steps(rehearsal, rank, world_size, 3)
    except Exception as error:
        return type(error).__name__
    return "nothing"


@BOTH
def test_an_error_before_the_barrier_is_raised_though_the_others_wait(asynchronous):
    results, _ = collect_ranks(fail_before_the_barrier, 2, asynchronous, timeout=20, patience=8)
    assert results[0] == "MemoryError"
    assert results[1] in ("PeerError", "RuntimeError")  # a RuntimeError of Gloo's in the gradients


def many_rounds(rank, world_size, exchange):
    """Private bytes that 300 more rounds took, and segments left in /dev/shm."""
    import psutil

    options, others = {"exchange": exchange, "asynchronous": True, "verbose": False}, segments()
    with Rehearsal(capacity=200, exemplars=8, seed=1, **options) as rehearsal:
        rng = np.random.default_rng(rank)

        def go(rounds):
            for _ in range(rounds):
                rehearsal.extend(records(rng.integers(0, 5000, 16) * world_size + rank, 512))

        go(300)
        before = psutil.Process().memory_full_info().uss
        go(300)
        growth = psutil.Process().memory_full_info().uss - before
        return growth, lasting_segments(others)


def segments():
    """The names of drb's segments in /dev/shm."""
    return {path.name for path in Path("/dev/shm").glob("drb-*")}


def lasting_segments(others, seconds=5.0):
    """Those that are not `others`, nor of tests beside this one, whose names are there for a moment only."""
    lasting, deadline = segments() - others, time.monotonic() + seconds
    while lasting and time.monotonic() < deadline:
        time.sleep(0.05)
        lasting &= segments()
    return lasting


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_memory_does_not_grow_and_no_segment_has_a_name_while_running(exchange):
    for growth, left in run_ranks(many_rounds, 2, exchange):
        assert growth < 3 * 2**20  # 300 rounds fetch 10 MB; allocators keep some
        assert left == set()
