"""Tasks that ranks tell begin: the next step follows, a resumed run does the same, and what is wrong is told on all."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from ranks import run_ranks

from drb import Rehearsal
from drb.sampling.proportions.schedule import Schedule

B, R = 8, 6


def rehearsal_of(shares: list[list[float]] | None = None, **settings: Any) -> Rehearsal:
    scheduled = {} if shares is None else {"proportions": Schedule(shares=shares)}
    return Rehearsal(64, seed=3, verbose=False, **{"exemplars": R, "stratum": "task"} | scheduled | settings)


def minibatch(task: int, step: int, rank: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(B) * 4 + rank + 1000 * (10 * task + step)
    return {"x": ids[:, None].float(), "task": torch.full((B,), task), "sample_id": ids}


def train(rehearsal: Rehearsal, task: int, steps: range, rank: int) -> list[tuple[list[int], list[int]]]:
    """Tasks and ids of the exemplars of each step."""
    seen = []
    for step in steps:
        exemplars = rehearsal.step(minibatch(task, step, rank))
        fields = ((), ()) if exemplars is None else (exemplars.fields["task"].tolist(), exemplars.sample_id.tolist())
        seen.append((list(fields[0]), list(fields[1])))
    return seen


SHARES = [[1.0], [1.0], [0.0, 1.0], [1.0, 0.0, 2.0]]


def shares_and_resume(rank: int, world_size: int) -> None:
    history = [[0.9], [0.5, 0.9], [0.5, 0.4, 0.9]]
    with rehearsal_of(SHARES) as whole:
        seen = []
        for task in range(4):
            whole.begin_task(task, history[:task])
            whole.begin_task(task, history[:task])  # twice is once
            if task == 3:
                state = whole.state_dict()
            seen.append(train(whole, task, range(4), rank))
    for task, allowed in enumerate([{0}, {0}, {1}, {0, 2}]):
        for tasks, ids in seen[task][2 if task == 0 else 0 :]:
            assert set(tasks) <= allowed, (task, tasks)
            assert len(set(ids)) == R
    counts = [sum(tasks.count(k) for tasks, _ in seen[3]) for k in (0, 2)]
    assert counts == [4 * R // 3, 4 * R * 2 // 3]  # each step R / 3 and 2 R / 3, which are whole

    # saved after the task has begun, and before
    with rehearsal_of(SHARES) as resumed:
        resumed.load_state_dict(state)
        assert train(resumed, 3, range(4), rank) == seen[3]
    with rehearsal_of(SHARES) as again:
        for task in range(3):
            again.begin_task(task, history[:task])
            train(again, task, range(4), rank)
        before = again.state_dict()
    with rehearsal_of(SHARES) as resumed:
        resumed.load_state_dict(before)
        resumed.begin_task(3, history)
        unstarted = resumed.state_dict()
        assert train(resumed, 3, range(4), rank) == seen[3]
    with rehearsal_of([*SHARES, [1.0]]) as resumed:  # for one more task: nothing begins anew, which would be a warning
        resumed.load_state_dict(unstarted)
        assert train(resumed, 3, range(4), rank) == seen[3]
    with rehearsal_of([[1.0], *SHARES]) as changed:
        changed.load_state_dict(unstarted)
        with pytest.warns(UserWarning, match="these begin anew"):
            train(changed, 3, range(1), rank)


def refusals(rank: int, world_size: int) -> None:
    def refused(call: Any, message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()

    with rehearsal_of(SHARES) as rehearsal:
        refused(lambda: rehearsal.step(minibatch(0, 0, rank)), "proportions=schedule follows tasks: call rehearsal.")
        refused(lambda: rehearsal.begin_task(-1 if rank == world_size - 1 else 0), "counted from 0, got -1")
        if world_size > 1:
            refused(lambda: rehearsal.begin_task(rank), "rank 0 says [0, []], rank 1 says [1, []]; give all the same")
        rehearsal.begin_task(0)
        train(rehearsal, 0, range(3), rank)
        refused(lambda: rehearsal.begin_task(4), "the schedule has 4 entries for 4 tasks, and task 5 has begun")
        state = rehearsal.state_dict()
        assert state["task"] == "[0, []]"  # what was refused has not begun
        rehearsal.begin_task(1)
        train(rehearsal, 1, range(2), rank)
    with rehearsal_of(SHARES) as rehearsal:
        rehearsal.begin_task(1)
        refused(lambda: rehearsal.load_state_dict(state), "load_state_dict must come before begin_task()")
    with rehearsal_of([[0.0, 1.0]]) as rehearsal:  # also while there is one stratum, which has no share
        rehearsal.begin_task(0)
        refused(lambda: train(rehearsal, 0, range(4), rank), "gives stratum 1 a share, and none of the stored")
    with rehearsal_of(proportions="local_drop") as rehearsal:
        rehearsal.begin_task(0)
        train(rehearsal, 0, range(3), rank)
        refused(lambda: rehearsal.begin_task(2, [[0.5]]), "the 2 tasks before task 3, and begin_task() was given those")
        refused(lambda: rehearsal.begin_task(1, [[0.5, 0.5]]), "a list of 1 accuracies after task 1")
        refused(lambda: rehearsal.begin_task(1, [[50.0]]), "accuracies in [0, 1], and begin_task() was given 50; ")
        rehearsal.begin_task(1, [[0.5]])
        train(rehearsal, 1, range(2), rank)


def by_steps(rank: int, world_size: int) -> None:
    """An entry holds for draws of its steps, which are used a step later; also in a resumed run."""
    settings = {"proportions": Schedule(shares=[[1.0], [0.0, 1.0], [1.0, 2.0]], by="step", every=4)}
    with rehearsal_of(**settings) as whole:
        first = train(whole, 0, range(3), rank) + train(whole, 1, range(3), rank)
        state = whole.state_dict()
        seen = first + train(whole, 1, range(3, 9), rank)
    assert [set(tasks) for tasks, _ in seen] == [set()] * 2 + [{0}] * 3 + [{1}] * 4 + [{0, 1}] * 3
    assert all(tasks.count(1) == 2 * R // 3 for tasks, _ in seen[-3:])
    with rehearsal_of(**settings) as resumed:
        resumed.load_state_dict(state)
        assert train(resumed, 1, range(3, 9), rank) == seen[6:]


def numbers_by_accuracy(rank: int, world_size: int) -> list[int]:
    """How many exemplars each step had, of which only rank 0 ever forgets any; also in a resumed run."""
    settings = {"proportions": "balanced", "exemplars": "auto:accuracy:0.05:48"}

    def steps(rehearsal: Rehearsal, numbers: range) -> list[int]:
        drawn = []
        for step in numbers:
            exemplars = rehearsal.step(minibatch(0, step, rank))
            drawn.append(0 if exemplars is None else len(exemplars.sample_id))
            if exemplars is not None:
                right = torch.full((drawn[-1],), rank > 0 or step < 25)
                rehearsal.feedback(exemplars.handle, loss=torch.zeros(drawn[-1]), correct=right)
        return drawn

    with rehearsal_of(**settings) as whole:
        drawn = steps(whole, range(45))
        state = whole.state_dict()
        drawn += steps(whole, range(45, 80))
    with rehearsal_of(**settings) as resumed:
        resumed.load_state_dict(state)
        assert steps(resumed, range(45, 80)) == drawn[45:]
    assert max(drawn) == 48 > min(drawn[20:]) < drawn[-1]
    return drawn


def tasks_of_ranks(rank: int, world_size: int) -> list[int]:
    shares_and_resume(rank, world_size)
    refusals(rank, world_size)
    if world_size != 2:
        return []
    by_steps(rank, world_size)
    return numbers_by_accuracy(rank, world_size)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_draws_follow_tasks_steps_and_accuracy_also_in_a_resumed_run_and_what_is_wrong_is_refused(
    world_size: int,
) -> None:
    drawn = run_ranks(tasks_of_ranks, world_size)
    assert drawn == [drawn[0]] * world_size
