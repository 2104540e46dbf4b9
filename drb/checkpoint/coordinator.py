"""Coordinates the ranks before, during and after a checkpoint, on a Gloo group of its own.

Ranks wait without a time limit for rank 0's disk and tracker, but never for a rank that is dead or stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from drb.checkpoint.errors import CheckpointError
from drb.distributed.failure import naming_peers
from drb.distributed.waiting import PatientBarrier
from drb.distributed.world import World


class Coordinator:
    """One per rank. The constructor and all methods are collective; one thread at a time may call them."""

    def __init__(self, world: World, timeout_s: float = 600.0) -> None:
        """
        Args:
            timeout_s: how long a rank may go without a heartbeat.
        """
        self._world_size = world.world_size
        self._barrier = PatientBarrier(world.world_size, timeout_s)

    def gather(self, value: Any, operation: str = "checkpoint") -> list[Any]:
        """Every rank's value, by rank. Also acts as a barrier.

        Args:
            operation: what the ranks are doing, for the error message.
        Raises:
            PeerError: a rank died or stalled.
        """
        if self._barrier.group is None:
            return [value]
        self._barrier.wait(operation)
        values: list[Any] = [None] * self._world_size
        with naming_peers(range(self._world_size), lambda: operation):
            dist.all_gather_object(values, value, group=self._barrier.group)
        return values

    def run_on_all(
        self, action: Callable[[], Any], operation: str = "", failed: str = "the checkpoint could not be saved"
    ) -> list[Any]:
        """Run the action on every rank and return the results by rank. If it fails on one rank, it fails on all.

        Args:
            failed: how the error message begins.
        Raises:
            CheckpointError: naming the rank that failed, and why. PeerError: a rank died or stalled.
        """
        result, problem = None, ""
        try:
            result = action()
        except (OSError, CheckpointError) as error:
            problem = str(error)
        except Exception as error:  # whatever it is: the others wait for an answer
            problem = f"{type(error).__name__}: {error}"
        answers = self.gather((result, problem), operation or "checkpoint")
        for rank, (_, failure) in enumerate(answers):
            if failure:
                where = f" ({operation})" if operation else ""
                raise CheckpointError(f"{failed} on rank {rank}: {failure}{where}")
        return [answer for answer, _ in answers]
