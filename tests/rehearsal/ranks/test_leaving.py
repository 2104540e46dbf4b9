"""How a rehearsal is left: by an exception, dropped, used by two threads, or among other process groups."""

from __future__ import annotations

import gc
import os
import threading

import pytest
import torch.distributed as dist
from ranks import collect_ranks, run_ranks
from samples import minibatch_of

from drb import Rehearsal


def descriptors_and_threads() -> tuple[int, int]:
    gc.collect()
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def leave_often(rank, world_size):
    """Descriptors and threads before and after a rehearsal was left by an exception, then dropped, 8 times each."""

    def leave(drops: bool) -> None:
        rehearsal = Rehearsal(12, 4, verbose=False, asynchronous=True, exchange="collective")
        if drops:
            rehearsal.extend(minibatch_of(range(8)))
            return
        with pytest.raises(KeyError), rehearsal:
            for t in range(3):
                rehearsal.extend(minibatch_of(range(8 * t, 8 * t + 8)))
            raise KeyError("of the loop")

    counts = []
    for drops in (False, True):
        for repeat in range(9):
            leave(drops)
            dist.barrier()
            if repeat in (0, 8):
                counts.append(descriptors_and_threads())
    return counts


def test_nothing_is_left_of_a_rehearsal_that_was_left_by_an_exception_or_dropped():
    for counts in run_ranks(leave_often, 2, timeout=100):
        left, left_later, dropped, dropped_later = counts
        assert max(left_later[0] - left[0], dropped_later[0] - dropped[0]) < 8, counts  # of descriptors
        assert max(left_later[1] - left[1], dropped_later[1] - dropped[1]) < 6, counts  # of threads


def fail_in_own_loop(rank, world_size):
    with Rehearsal(12, 4, verbose=False, timeout_s=20) as rehearsal:
        for t in range(9):
            if rank == 1 and t == 5:
                raise KeyError("label 7 of the user's own table")
            rehearsal.extend(minibatch_of(range(8 * t, 8 * t + 8)))


def test_the_others_are_told_the_error_with_which_a_rank_left_its_loop():
    _, failures = collect_ranks(fail_in_own_loop, 3, timeout=60, patience=40)
    assert "KeyError" in failures[1]
    for rank in (0, 2):
        assert "rank 1 failed: its training loop, step 5: KeyError: " in failures[rank]
        assert "label 7 of the user's own table" in failures[rank]


def step_in_two_threads(rank, world_size):
    told = []
    with Rehearsal(12, 4, verbose=False) as rehearsal:
        rehearsal.extend(minibatch_of(range(8)))
        begun, go = threading.Event(), threading.Event()
        steps = rehearsal._running.steps
        real = steps._take

        def slowly(*arguments):
            begun.set()
            go.wait(20)
            return real(*arguments)

        steps._take = slowly
        other = threading.Thread(target=lambda: told.append(rehearsal.extend(minibatch_of(range(8, 16)))))
        other.start()
        begun.wait(20)
        with pytest.raises(ValueError, match="two threads call extend") as raised:
            rehearsal.extend(minibatch_of(range(16, 24)))
        go.set()
        other.join()
        steps._take = real
        return str(raised.value), len(told), len(rehearsal.extend(minibatch_of(range(16, 24)))["label"])


def test_a_second_thread_is_refused_and_the_first_goes_on():
    for message, steps, rows in run_ranks(step_in_two_threads, 2, timeout=60):
        assert "from one thread" in message
        assert (steps, rows) == (1, 12)


def open_among_groups(rank, world_size, kind):
    """Rows per step of this rank's rehearsals, where ranks have made different numbers of process groups before."""
    groups = [dist.new_group(ranks) for ranks in ([0, 1], [1, 2])]
    if kind == "one rank has more" and rank == 1:
        dist.new_group([1], use_local_synchronization=True)
    members: list[dist.ProcessGroup | None] = [None]
    if kind == "overlapping":  # rank 1 makes a rehearsal in each
        members = [group for group in groups if group is not dist.GroupMember.NON_GROUP_MEMBER]
    rows = []
    for group in members:
        with Rehearsal(12, 4, verbose=False, process_group=group, timeout_s=15, exchange="collective") as rehearsal:
            for t in range(3):
                extended = rehearsal.extend(minibatch_of(range(8 * t, 8 * t + 8)))
            rows.append(len(extended["label"]))
    if kind == "overlapping":
        assert dist.get_world_size(dist.new_group()) == 3  # torch's own count has not changed
    return rows


@pytest.mark.parametrize(("kind", "rows"), [("one rank has more", [[12]] * 3), ("overlapping", [[12], [12, 12], [12]])])
def test_ranks_may_have_made_different_numbers_of_process_groups(kind, rows):
    assert run_ranks(open_among_groups, 3, kind, timeout=60, gloo_timeout=25) == rows
