"""Coordinates the ranks before, during and after a checkpoint, on a Gloo group of its own.

Ranks wait without a time limit for rank 0's disk and tracker, but never for a rank that is dead or stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from drb.checkpoint.errors import CheckpointError
from drb.checkpoint.files import FileRecord
from drb.distributed.agreement import gather_json
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
        """Every rank's value, by rank. Also acts as a barrier. Values travel as JSON: nothing of a peer is unpickled.

        Args:
            value: what JSON can represent, with file records and int64 arrays.
            operation: what the ranks are doing, for the error message.
        Raises:
            PeerError: a rank died or stalled.
        """
        if self._barrier.group is None:
            return [value]
        self._barrier.wait(operation)
        with naming_peers(range(self._world_size), lambda: operation):
            return gather_json(value, self._barrier.group, encode=_encode, decode=_decode)

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


def _encode(value: Any) -> Any:
    """What stands for a value that JSON does not know."""
    if isinstance(value, FileRecord):
        return {"$file": [value.size_bytes, value.crc32]}
    if isinstance(value, np.ndarray) and value.dtype == np.int64:
        return {"$int64": value.tolist()}
    raise TypeError(f"a {type(value).__name__} cannot be sent to other ranks")


def _decode(content: dict[str, Any]) -> Any:
    """The value that `_encode` has replaced."""
    if content.keys() == {"$file"}:
        return FileRecord(*content["$file"])
    if content.keys() == {"$int64"}:
        return np.array(content["$int64"], np.int64)
    return content
