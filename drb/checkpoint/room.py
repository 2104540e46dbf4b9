"""Where ranks meet before, during and after a checkpoint: a Gloo group of its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from drb.checkpoint.errors import CheckpointError
from drb.world import World

_WAIT_FOR_MAIN = timedelta(days=7)  # for rank 0's disk and tracker; if it dies its peers notice at once


class Room:
    """One per rank; making it and every method is collective, and by one thread at a time."""

    def __init__(self, world: World) -> None:
        self._world_size = world.world_size
        self._group: Any = dist.new_group(backend="gloo", timeout=_WAIT_FOR_MAIN) if world.world_size > 1 else None

    def share(self, value: Any) -> list[Any]:
        """Every rank's value. Also a barrier."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self._world_size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def together(self, action: Callable[[], Any], failed: str = "the checkpoint could not be saved") -> list[Any]:
        """Do this on every rank; the results by rank. If it fails on one it fails on all.

        Args:
            failed: how the message begins.
        Raises:
            CheckpointError: naming the rank that failed and why.
        """
        result, problem = None, ""
        try:
            result = action()
        except (OSError, CheckpointError) as error:
            problem = str(error)
        except Exception as error:  # whatever it is: the others wait for an answer
            problem = f"{type(error).__name__}: {error}"
        answers = self.share((result, problem))
        for rank, (_, failure) in enumerate(answers):
            if failure:
                raise CheckpointError(f"{failed} on rank {rank}: {failure}")
        return [answer for answer, _ in answers]
