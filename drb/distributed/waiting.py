"""Waiting without a time limit, but never for a rank that is dead or stopped."""

from __future__ import annotations

import time
from datetime import timedelta

import torch
import torch.distributed as dist

from drb.distributed.failure import GRACE_S, FailureBoard, is_of_a_collective
from drb.distributed.heartbeat import heartbeat

_FOR_EVER = timedelta(days=365)
_LOOK_S = 1.0


class PatientBarrier:
    """A barrier at which ranks wait for one another however long one of them is busy.

    The constructor and `wait` are collective.

    Attributes:
        group: a Gloo group of its own, for what follows the barrier, with timeout_s for every operation; None for one
            rank.
    """

    def __init__(self, world_size: int, timeout_s: float) -> None:
        """
        Args:
            timeout_s: how long a rank may go without a heartbeat.
        """
        self._timeout_s = timeout_s
        self.group: dist.ProcessGroup | None = None
        if world_size == 1:
            return
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        assert isinstance(group, dist.ProcessGroup)
        self.group = group
        self._board = FailureBoard(range(world_size))
        self._flag = torch.zeros(1)

    def wait(self, operation: str) -> None:
        """Return once every rank has called it.

        Raises:
            PeerError: naming a rank that has failed or ended, or has sent no heartbeat for timeout_s.
        """
        if self.group is None:
            return
        options = dist.AllreduceOptions()
        options.timeout = _FOR_EVER
        work = self.group.allreduce([self._flag], options)
        beat, start = heartbeat(), time.monotonic()
        while True:
            try:
                work.wait(timedelta(seconds=_LOOK_S))
                return
            except RuntimeError as error:  # also raised when it has only waited for _LOOK_S
                if work.is_completed():
                    if not is_of_a_collective(error):
                        raise
                    raise self._board.explain(operation, error) from error
            silent_s = 0.0 if beat is None else min(beat.silent_s, time.monotonic() - start)
            is_over = beat is not None and (bool(beat.news) or beat.gone_s > GRACE_S)  # the store ends with the run
            if silent_s > self._timeout_s or is_over:
                raise self._board.explain(operation, TimeoutError(f"waited {time.monotonic() - start:.0f} s"))
