"""Who is named when a collective fails: the dead, the stopped, the busy, and the one that failed by itself."""

from __future__ import annotations

import functools
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from ranks import collect_ranks, run_ranks

from drb.distributed.failure import OwnError, PeerError, naming_failures
from drb.distributed.heartbeat import heartbeat, stop_heartbeat
from drb.distributed.waiting import PatientBarrier

EVERYONE = {0, 1, 2}


def fail_in_a_collective(rank, world_size, how):
    """Rank 1 never arrives, for one reason or another; what each rank says."""
    heartbeat()
    try:
        with naming_failures(range(world_size), lambda: "step 3"):
            dist.all_reduce(torch.ones(1))
            if rank == 1 and how == "busy":
                time.sleep(9)
            elif rank == 1 and how == "error":
                raise MemoryError("no memory on purpose")
            elif rank == 1:
                os.kill(os.getpid(), how)
            dist.all_reduce(torch.ones(1))
    except (PeerError, OwnError) as error:
        return str(error)
    finally:
        time.sleep(1.5)  # the store is a file here, but connections end with the process
    return "no error"


WAYS = {signal.SIGKILL: [1], signal.SIGSTOP: [1], "busy": [], "error": []}  # which ranks never end


@functools.cache
def ended():
    """Results and failures by how rank 1 fails or, in a barrier, stops or is busy. They wait, mostly: all at once."""
    with ThreadPoolExecutor() as pool:
        runs = {
            how: pool.submit(
                collect_ranks, fail_in_a_collective, 3, how, patience=20, abandon=abandon, gloo_timeout=3.0
            )
            for how, abandon in WAYS.items()
        }
        for stops, abandon in ((False, []), (True, [1])):
            runs["barrier", stops] = pool.submit(
                collect_ranks, wait_for_rank_1, 3, stops, patience=20, abandon=abandon, gloo_timeout=2.0
            )
        return {how: run.result() for how, run in runs.items()}


def messages(how):
    return ended()[how][0]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_rank_without_a_sign_of_life_is_named(how):
    said = messages(how)
    for rank in (0, 2):
        assert f"rank {rank}, step 3: failed; rank 1 did not arrive and sends no heartbeat" in said[rank]


def test_a_busy_rank_is_not_called_dead():
    said = messages("busy")
    for rank in (0, 2):
        assert "rank 1 did not arrive but is alive: busy in a long step" in said[rank]


def test_a_rank_that_fails_by_itself_tells_the_others_why():
    said = messages("error")
    assert "rank 1, step 3: MemoryError: no memory on purpose" in said[1]
    for rank in (0, 2):
        assert "rank 1 failed: step 3: MemoryError: no memory on purpose" in said[rank]


def wait_for_rank_1(rank, world_size, stops):
    """The others wait, with a limit of 2 s for a rank that sends no heartbeat."""
    barrier = PatientBarrier(world_size, timeout_s=2.0)
    barrier.wait("the start")
    start = time.monotonic()
    if rank == 1 and stops:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif rank == 1:
        time.sleep(5.0)
    barrier.wait("waiting for rank 1")
    return time.monotonic() - start


def test_a_busy_rank_is_waited_for_longer_than_the_timeout():
    results, failures = ended()["barrier", False]
    assert failures == {}
    assert min(results.values()) >= 4.9


def test_a_stopped_rank_is_not_waited_for():
    _, failures = ended()["barrier", True]
    for rank in (0, 2):
        assert f"PeerError: rank {rank}, waiting for rank 1: failed; rank 1 did not arrive and sends" in failures[rank]


def count_beats(rank, world_size):
    beat = heartbeat()
    assert beat is heartbeat()
    time.sleep(1.2)
    counts = beat.beats(range(world_size))
    dist.barrier()
    stop_heartbeat()
    return counts, beat.stood_still_s, beat.news


def test_every_rank_beats_and_no_news_is_good_news():
    for counts, stood_still_s, news in run_ranks(count_beats, 3):
        assert counts.keys() == EVERYONE
        assert min(counts.values()) >= 1
        assert stood_still_s == 0
        assert news == []


class _StoreIsGone:
    """As the heartbeat of a process that was stopped, and goes on when all others have ended."""

    silent_s, news, gone_s = 0.0, (), 60.0


def wait_after_the_end(rank, world_size):
    import drb.distributed.waiting

    barrier, others_may_end = PatientBarrier(world_size, timeout_s=60.0), dist.new_group(backend="gloo")
    if rank == 0:
        drb.distributed.waiting.heartbeat = _StoreIsGone
        try:
            barrier.wait("step 3")
        except PeerError as error:
            return str(error)
        finally:
            dist.barrier(others_may_end)
    else:  # alive, but never there: no connection says that anything is wrong
        dist.barrier(others_may_end)
    return "no error"


def test_nobody_waits_for_ranks_whose_store_has_ended():
    said, _ = run_ranks(wait_after_the_end, 2, timeout=25)
    assert "rank 0, step 3: failed" in said
    assert "TimeoutError: waited" in said
