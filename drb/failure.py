"""Naming the peer that failed.

When a collective fails, Gloo knows at best that a socket closed. So every rank that notices posts what it was
doing to the run's store, waits a moment for the others to do the same, and the ranks that stay silent are named.
Nothing is posted while all goes well: it costs a step nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist

GRACE_S = 2.0  # how long the others get to post that they are alive and waiting


class PeerError(RuntimeError):
    """A peer died, stalled or left. The message names this rank, the round or step, the operation and the peer."""


class FailureBoard:
    """Where the ranks of one group tell each other that a collective failed.

    ranks: global ranks of the group. label keeps several boards on one store apart.
    """

    def __init__(self, label: str, ranks: list[int], store: Any | None = None) -> None:
        self._label = label
        self._ranks = ranks
        self._store = store if store is not None else _default_store()
        self._rank = dist.get_rank() if dist.is_initialized() else 0

    def explain(self, operation: str, error: BaseException, waited_s: float | None = None) -> PeerError:
        """Post this rank's failure, hear the others', and build the error that names who is silent."""
        silent, others = self._silent_ranks(operation)
        text = f"rank {self._rank}, {operation}: failed" + ("" if waited_s is None else f" after {waited_s:.1f} s")
        if silent is None:
            text += (
                "; the store that the ranks met at is gone: its host has ended, rank 0 unless torchrun's agent is it"
            )
        elif silent:
            text += (
                f"; {_ranks(silent)} did not arrive and gave no sign of life in {GRACE_S:.0f} s: dead, stalled or busy "
                "in a long step"
            )
        else:
            text += f"; all ranks are alive ({others}), so they wait for different things or the network broke"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return PeerError(f"{text}. Cause: {reason}")

    def _silent_ranks(self, mine: str) -> tuple[list[int] | None, str]:
        if self._store is None:
            return None, ""
        try:
            self._store.set(self._key(self._rank), mine)
            deadline = time.monotonic() + GRACE_S
            while True:
                silent = [r for r in self._ranks if not self._store.check([self._key(r)])]
                if not silent or time.monotonic() > deadline:
                    break
                time.sleep(0.05)
            posted = [
                f"rank {r}: {self._store.get(self._key(r)).decode()}"
                for r in self._ranks
                if r not in silent and r != self._rank
            ]
        except Exception:  # the store's host is gone; which exception says so depends on the store
            return None, ""
        return silent, "; ".join(posted)

    def _key(self, rank: int) -> str:
        return f"drb/failure/{self._label}/{rank}"


@contextlib.contextmanager
def naming_peers(board: FailureBoard, where: Callable[[], str]) -> Iterator[None]:
    """Turn a collective of this block that fails, a gradient all-reduce say, into a PeerError that names who failed.

    where: what to call this place, asked when it fails ("step 17 of the training").
    """
    try:
        yield
    except PeerError:
        raise
    except RuntimeError as error:
        if not _is_of_a_collective(error):
            raise
        raise board.explain(where(), error) from error


def _is_of_a_collective(error: RuntimeError) -> bool:
    """Gloo raises plain RuntimeErrors: only their text tells them from others."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "nccl", "connection closed"))


def _ranks(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


def _default_store() -> Any | None:
    if not dist.is_initialized():
        return None
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()
