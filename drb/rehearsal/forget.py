"""What forgetting needs on all ranks together: who else is told, which ids are meant, how many exemplars that were.

`drb.rehearsal.running` has the forgetting of a rehearsal at work, `drb.rehearsal.state.forget` that in a saved state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from drb.buffer.snapshot import state_with_rows
from drb.exchange import Peers
from drb.rehearsal.selection import SampleIds, Where, as_ids
from drb.rehearsal.state.forget import forget_in_state, ids_in_state
from drb.types import Int64Array


class ForgetObserver(Protocol):
    """Something else that has records, such as a checkpoint folder: `Rehearsal.forget` tells it, collectively."""

    def settle(self) -> None:
        """Records are about to be removed: end what is being copied or written."""
        ...

    def forget(self, sample_ids: Int64Array, where: Where | None) -> Int64Array:
        """Remove these samples, and what `where` holds for; ids of the latter: int64, alike on all ranks."""
        ...


class Forgotten(NamedTuple):
    """sample_ids: united over the ranks, ascending; removed: exemplars, of all ranks."""

    sample_ids: Int64Array
    removed: int


def forget_saved(
    state: Mapping[str, Any] | None, peers: Peers | None, sample_ids: SampleIds | None, where: Where | None
) -> tuple[Forgotten, dict[str, Any] | None]:
    """Forget in the loaded state of a rehearsal that has not begun (None: there is none). Collective.

    Returns what was forgotten, and the new state.
    """

    def select() -> Int64Array:
        ids = as_ids(sample_ids)
        return ids if where is None or state is None else np.union1d(ids, ids_in_state(state, where))

    ids = agree_on_ids(peers, select)
    # not lazily: the files may be about to be purged
    forgotten = None if state is None else state_with_rows(forget_in_state(state, ids), lazy=False)
    removed = 0 if state is None or forgotten is None else _stored(state) - _stored(forgotten)
    return Forgotten(ids, total(peers, removed)), forgotten


def _stored(state: Mapping[str, Any]) -> int:
    return len(state["buffer"]["columns"]["sample_id"]) if "buffer" in state else 0


def agree_on_ids(peers: Peers | None, select: Callable[[], Int64Array]) -> Int64Array:
    """The ids that any rank selects: int64, ascending and distinct. A barrier.

    Raises:
        ValueError: `select` failed on some rank, which the others name.
    """
    ids: Int64Array = np.empty(0, np.int64)
    problem, error = "", None
    try:
        ids = select()
    except Exception as caught:  # of the user's function, perhaps on this rank only
        problem, error = f"{type(caught).__name__}: {caught}", caught
    if peers is None:
        if error is not None:
            raise error
        return np.unique(ids)
    answers = peers.gather_json([problem, len(ids)], "forget")
    if error is not None:
        raise error
    for rank, (told, _) in enumerate(answers):
        if told:
            raise ValueError(f"nothing was forgotten, because rank {rank} failed to select: {told}")
    return np.unique(np.concatenate(peers.share(ids, np.array([length for _, length in answers]))))


def total(peers: Peers | None, count: int) -> int:
    """The sum of all ranks' counts. Collective."""
    return count if peers is None else int(peers.gather_counts(np.array([count])).sum())
