"""Where ranks meet before, during and after a checkpoint: a Gloo group of its own.

They wait without a time limit, for rank 0's disk and tracker, but not for a rank that is dead or stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from drb.checkpoint.errors import CheckpointError
from drb.distributed.failure import naming_peers
from drb.distributed.waiting import WaitingRoom
from drb.distributed.world import World


class Room:
    """One per rank; making it and every method is collective, and by one thread at a time."""

    def __init__(self, world: World, timeout_s: float = 600.0) -> None:
        """timeout_s: how long a rank may give no sign of life."""
        self._world_size = world.world_size
        self._waiting = WaitingRoom(world.world_size, timeout_s)

    def share(self, value: Any, operation: str = "checkpoint") -> list[Any]:
        """Every rank's value. Also a barrier.

        Raises:
            PeerError: a rank died or stalled; operation says in what.
        """
        if self._waiting.group is None:
            return [value]
        self._waiting.meet(operation)
        values: list[Any] = [None] * self._world_size
        with naming_peers(range(self._world_size), lambda: operation):
            dist.all_gather_object(values, value, group=self._waiting.group)
        return values

    def together(
        self, action: Callable[[], Any], operation: str = "", failed: str = "the checkpoint could not be saved"
    ) -> list[Any]:
        """Do this on every rank; the results by rank. If it fails on one it fails on all.

        Args:
            failed: how the message begins.
        Raises:
            CheckpointError: naming the rank that failed and why. PeerError: a rank died or stalled.
        """
        result, problem = None, ""
        try:
            result = action()
        except (OSError, CheckpointError) as error:
            problem = str(error)
        except Exception as error:  # whatever it is: the others wait for an answer
            problem = f"{type(error).__name__}: {error}"
        answers = self.share((result, problem), operation or "checkpoint")
        for rank, (_, failure) in enumerate(answers):
            if failure:
                where = f" ({operation})" if operation else ""
                raise CheckpointError(f"{failed} on rank {rank}: {failure}{where}")
        return [answer for answer, _ in answers]
