"""When all ranks save or stop, at the same step, although a signal, a clock or a full disk tells one of them.

A wish travels in an all-reduce of four integers on a Gloo group of its own, started at one step and read at the next:
by then every rank has taken part in that step's gradients, so nobody waits. It also says how many steps pass before
the next one, so that there are a few per second, however short a step is: in between a step costs one comparison.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from typing_extensions import Self

from drb.distributed.failure import naming_peers

_SAME_SIGNAL_S = 5.0  # torchrun passes on what Slurm has sent to every process anyhow: that is one signal, not two
_MOST_STEPS = 1 << 20


class Wish(NamedTuple):
    """signal: the number of one that a rank got, 0 if none; save: a checkpoint is due by the clock; failed: one could
    not be written.
    """

    signal: int = 0
    save: bool = False
    failed: bool = False

    def __bool__(self) -> bool:
        return any(self)


class StopSignals:
    """Remembers that one of these signals came. A second one, at least 5 s later, ends the process at once."""

    def __init__(self, names: Sequence[str]) -> None:
        """names: "TERM", "USR2" …"""
        self._numbers = [getattr(signal, f"SIG{name}") for name in names]
        self._before: dict[int, Any] = {}
        self._received_at = 0.0
        self.received = 0

    def __bool__(self) -> bool:
        """Whether there are any to wait for."""
        return bool(self._numbers)

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in self._numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.received and error is not None:
            return  # the process ends: the same signal, passed on by a launcher, must not change how
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.received:
            self.received, self._received_at = number, now
        elif now - self._received_at >= _SAME_SIGNAL_S:
            raise SystemExit(128 + number)


class Agreement:
    """One per rank; every rank makes the same calls at the same steps.

    next_step: nothing is to be done before it.
    """

    def __init__(self, wish: Callable[[], Wish], group: Any, *, every_s: float = 0.2) -> None:
        """
        Args:
            wish: what this rank wants now.
            group: a Gloo group that nothing else uses; None for one rank.
            every_s: about how often ranks ask one another.
        """
        self._wish = wish
        self._group = group
        self._every_s = every_s
        self._message = torch.zeros(4, dtype=torch.int64)  # a wish, minus the steps until the next exchange
        self._work: Any = None
        self.restart(0)

    def restart(self, step: int) -> None:
        """Another pace may begin here: ask at the next step."""
        self._steps = 1
        self._where = f"after step {step}"
        self._since = (time.perf_counter(), step)
        self.next_step = step + 1

    def visit(self, step: int) -> Wish:
        """At `next_step` or later: what all ranks together want; nothing yet when the exchange only starts."""
        self._where = f"step {step}"
        if self._work is None:
            self._start(self._steps_until_next(step))
            if self._group is not None:
                self.next_step = step + 1
                return Wish()
        wish = self._finish()
        self._steps = -int(self._message[3])
        self.next_step = step + self._steps
        return wish

    def now(self) -> Wish:
        """What all ranks together want, waited for. Between tasks."""
        earlier = self._finish() if self._work is not None else Wish()
        self._start(1)
        wish = self._finish()
        return Wish(max(earlier.signal, wish.signal), earlier.save or wish.save, earlier.failed or wish.failed)

    def _start(self, steps: int) -> None:
        wish = self._wish()
        self._message[:] = torch.tensor([*map(int, wish), -steps])
        if self._group is not None:
            self._work = dist.all_reduce(self._message, dist.ReduceOp.MAX, self._group, async_op=True)

    def _finish(self) -> Wish:
        if self._work is not None:
            with naming_peers(dist.get_process_group_ranks(self._group), self._place):
                self._work.wait()
            self._work = None
        number, save, failed, _ = self._message.tolist()
        return Wish(number, bool(save), bool(failed))

    def _place(self) -> str:
        return f"{self._where}, agreement to save or to stop"

    def _steps_until_next(self, step: int) -> int:
        """By this rank's pace, growing eightfold at most: the first steps may be unlike the others."""
        now = time.perf_counter()
        (before, step_before), self._since = self._since, (now, step)
        steps = int((step - step_before) * self._every_s / max(now - before, 1e-9))
        return max(1, min(steps, 8 * self._steps, _MOST_STEPS))
