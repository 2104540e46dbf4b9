"""Ranks vote on saving or stopping, so that all of them do it at the same step.

A signal, a clock or a full disk tells one rank only. A vote travels in an all-reduce of four integers on a Gloo group
of its own. It is started at one step and read at the next: by then every rank has taken part in that step's gradients,
so nobody waits. The message also says how many steps pass before the next ballot, so that there are a few ballots per
second however short a step is; the steps in between cost one comparison each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from drb.distributed.failure import naming_peers

_MOST_STEPS = 1 << 20


class Vote(NamedTuple):
    """What a rank wants, or what all ranks together want.

    Attributes:
        signal: the number of a signal that arrived, 0 if none has.
        save: a checkpoint is due by the clock.
        failed: a checkpoint could not be written.
    """

    signal: int = 0
    save: bool = False
    failed: bool = False

    def __bool__(self) -> bool:
        return any(self)


class Ballot:
    """One per rank; every rank makes the same calls at the same steps.

    Attributes:
        next_step: the step before which nothing has to be done.
    """

    def __init__(self, vote: Callable[[], Vote], group: Any, *, every_s: float = 0.2) -> None:
        """
        Args:
            vote: returns what this rank wants now.
            group: a Gloo group that nothing else uses; None for one rank.
            every_s: roughly how often ranks vote.
        """
        self._vote = vote
        self._group = group
        self._every_s = every_s
        self._message = torch.zeros(4, dtype=torch.int64)  # a vote, minus the steps until the next ballot
        self._work: Any = None
        self.restart(0)

    def restart(self, step: int) -> None:
        """Vote at the next step, because steps may take another time from here on."""
        self._steps = 1
        self._where = f"after step {step}"
        self._since = (time.perf_counter(), step)
        self.next_step = step + 1

    def visit(self, step: int) -> Vote:
        """What all ranks together want. Call it at `next_step` or later; a step that only starts a vote gets none."""
        self._where = f"step {step}"
        if self._work is None:
            self._start(self._steps_until_next(step))
            if self._group is not None:
                self.next_step = step + 1
                return Vote()
        vote = self._finish()
        self._steps = -int(self._message[3])
        self.next_step = step + self._steps
        return vote

    def now(self) -> Vote:
        """What all ranks together want, after waiting for their votes. For use between tasks."""
        earlier = self._finish() if self._work is not None else Vote()
        self._start(1)
        vote = self._finish()
        return Vote(max(earlier.signal, vote.signal), earlier.save or vote.save, earlier.failed or vote.failed)

    def _start(self, steps: int) -> None:
        vote = self._vote()
        self._message[:] = torch.tensor([*map(int, vote), -steps])
        if self._group is not None:
            self._work = dist.all_reduce(self._message, dist.ReduceOp.MAX, self._group, async_op=True)

    def _finish(self) -> Vote:
        if self._work is not None:
            with naming_peers(dist.get_process_group_ranks(self._group), self._operation):
                self._work.wait()
            self._work = None
        number, save, failed, _ = self._message.tolist()
        return Vote(number, bool(save), bool(failed))

    def _operation(self) -> str:
        return f"{self._where}, vote on saving or stopping"

    def _steps_until_next(self, step: int) -> int:
        """Steps that take about `every_s` at this rank's pace; at most 8 times more than last time."""
        now = time.perf_counter()
        (before, step_before), self._since = self._since, (now, step)
        steps = int((step - step_before) * self._every_s / max(now - before, 1e-9))
        return max(1, min(steps, 8 * self._steps, _MOST_STEPS))
