"""Forgetting in a running rehearsal: between two steps, on all ranks together.

    drain the round in flight  →  agree on the ids  →  commit, remove, zero  →  run the round again

Agreeing is the barrier: every rank has drained, so nobody reads a peer's rows until the round is run again. That round
has the same number and draws from what is left, so the next step gets min(r, N) exemplars as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from drb.buffer.snapshot import state_with_rows
from drb.exchange import Peers
from drb.rehearsal.cuda import DeviceExtension
from drb.rehearsal.output import Extension
from drb.rehearsal.selection import SampleIds, Where, as_ids, matching_ids
from drb.rehearsal.state.forget import forget_in_state, ids_in_state
from drb.rehearsal.step import Turns
from drb.types import Int64Array


class ForgetObserver(Protocol):
    """Who else has records: told by `Rehearsal.forget`, collectively."""

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


def forget_live(
    turns: Turns,
    extension: Extension | DeviceExtension,
    peers: Peers | None,
    sample_ids: SampleIds | None,
    where: Where | None,
) -> Forgotten:
    """Collective; the caller denies the ids.

    Raises:
        ValueError: late fields are missing, or no proper selection; on all ranks, and nothing was removed.
    """
    turns.drain()
    parts = turns.parts
    buffer = parts.buffer

    def select() -> Int64Array:
        if buffer.lacks_late_fields:
            raise ValueError("the last minibatch lacks its late fields: call forget() after attach(…)")
        ids = as_ids(sample_ids)
        if where is not None:
            ids = np.union1d(ids, matching_ids(where, parts.spec, buffer.rows, buffer.occupied_rows()))
        return ids

    ids = _agree(peers, select)
    buffer.commit()
    slots = buffer.slots_of(ids)
    buffer.remove(slots)
    buffer.erase_free_rows()
    parts.runner.erase()
    extension.erase()
    turns.erase()
    removed = _total(peers, len(slots))
    turns.run_again()
    return Forgotten(ids, removed)


def forget_saved(
    state: Mapping[str, Any] | None, peers: Peers | None, sample_ids: SampleIds | None, where: Where | None
) -> tuple[Forgotten, dict[str, Any] | None]:
    """As `forget_live`, in a loaded state (None: there is none) of a rehearsal that has not begun; the new state."""

    def select() -> Int64Array:
        ids = as_ids(sample_ids)
        return ids if where is None or state is None else np.union1d(ids, ids_in_state(state, where))

    ids = _agree(peers, select)
    # not lazily: the files may be about to be purged
    forgotten = None if state is None else state_with_rows(forget_in_state(state, ids), lazy=False)
    removed = 0 if state is None or forgotten is None else _stored(state) - _stored(forgotten)
    return Forgotten(ids, _total(peers, removed)), forgotten


def _stored(state: Mapping[str, Any]) -> int:
    return len(state["buffer"]["columns"]["sample_id"]) if "buffer" in state else 0


def _agree(peers: Peers | None, select: Callable[[], Int64Array]) -> Int64Array:
    """The ids that any rank selects: int64, ascending and distinct. A barrier."""
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


def _total(peers: Peers | None, count: int) -> int:
    return count if peers is None else int(peers.announce(np.array([count])).sum())
