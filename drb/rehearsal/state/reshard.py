"""Rehearsal states for another number of ranks: every exemplar goes to its new owner, each sample once.

Pure functions on what `Rehearsal.state_dict` gives. A new rank looks at the columns of all saved buffers, which are
small, and at those rows only that it keeps. Where a capacity is too small the policy decides what stays, for a keyed
reservoir the smallest keys; its threshold becomes the smallest of all, so that it admits what every one of the old
buffers would have admitted (bottom-k samples merge and split so: Cohen & Kaplan 2007).

A buffer of closed admission holds what was inserted, which no rank is offered again: such exemplars are dealt evenly,
class by class, and not to owners.

What the last minibatch staged is part of the buffers now, and what was fetched is dropped: after loading, a round is
run on the new union before the first step.

Letters: V saved ranks, W new ones, n exemplars, K words of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from drb.buffer.admission import Gathered
from drb.buffer.record import SLOT
from drb.buffer.snapshot import LazyRows
from drb.rehearsal.intake import reshard_intake
from drb.rehearsal.state.check import policy_of, spec_in
from drb.rehearsal.state.fetched import uncounted
from drb.seeding import sample_keys
from drb.types import Int64Array, OwnerOf

State = Mapping[str, Any]


def reshard(
    states: Sequence[State], rank: int, world_size: int, owner_of: OwnerOf | None, capacity: int
) -> dict[str, Any]:
    """The state of `rank` of `world_size`, from those of all ranks there were.

    Args:
        states: by rank; each is looked at once, so they may be read when they are needed.
        owner_of: None (only for sample_id="arrival" and closed admission): by the ids' keys, evenly.
        capacity: exemplars that this rank may hold.
    Returns:
        As `Rehearsal.state_dict`; its `buffer.rows` are read from the given states when they are indexed. `resharded`:
        from so many ranks, `stored` on all of them, `dropped` by this one.
    Raises:
        ValueError: states that do not belong together or were taken between a step and its `attach`; no owners.
    """
    states = list(states)
    _require_one_moment(states)
    first = states[0]
    denied = np.unique(np.concatenate([np.asarray(state.get("denied", ()), np.int64) for state in states]))
    if "buffer" not in first:
        return {**first, "world_size": world_size, "denied": denied}
    seed = int(first["settings"]["seed"])
    policy = policy_of(first["settings"])
    if owner_of is None:
        if first["settings"]["sample_id"] != "arrival" and not policy.is_closed:
            raise ValueError(
                f"these are the states of {len(states)} ranks: give load_state_dict owner_of=, sample ids -> the ranks "
                "that will be offered them (OwnerSampler.owner_of), or samples would be stored twice"
            )
        owner_of = lambda ids: _evenly(ids, seed, world_size)  # noqa: E731
    owner_of = _checked(owner_of, world_size)
    pool = _gather([state["buffer"] for state in states])
    owners = _in_turn(pool, world_size) if policy.is_closed else owner_of(pool.columns["sample_id"])
    own = np.flatnonzero(owners == rank)
    parts = [state["buffer"]["rows"] for state in states]
    candidates = Gathered(
        pool.columns["key"][own],
        pool.columns["stratum"][own],
        pool.columns["admitted_round"][own],
        stored=_reader(first, PickedRows(parts, pool.part[own], pool.row[own])),
    )
    admissions = [state["buffer"]["admission"] for state in states]
    kept, admission = policy.reshard(candidates, admissions, capacity)
    stays = own[kept]
    nothing = np.empty(0, np.int64)
    buffer = {
        **first["buffer"],
        "rows": PickedRows(parts, pool.part[stays], pool.row[stays]),
        "size": np.int64(len(stays)),
        "staged": {"rows": nothing, "slots": nothing, "offered": np.int64(0)},
        "lacking": [],
        "columns": {name: column[stays] for name, column in pool.columns.items()},
        "admission": admission,
    }
    return {
        **first,
        "world_size": world_size,
        "denied": denied,
        "max_rows": max(int(state["max_rows"]) for state in states),
        "intake": reshard_intake([state["intake"] for state in states], rank, world_size, owner_of, seed),
        "buffer": buffer,
        "fetched": None,
        "stats": uncounted(states[rank % len(states)]),
        **_learnt(states),
        "resharded": {"from": len(states), "stored": len(pool.part), "dropped": len(own) - len(stays)},
    }


def _learnt(states: Sequence[State]) -> dict[str, Any]:
    """What proportions have learnt, if they have."""
    if "learnt" not in states[0]:
        return {}
    from drb.rehearsal.state.learnt import reshard_learnt  # seldom needed

    return {"learnt": reshard_learnt([state["learnt"] for state in states])}


class PickedRows(LazyRows):
    """Some rows of several arrays, in a new order. The word that says which slot an exemplar has is its place here."""

    def __init__(self, parts: Sequence[Any], part: Int64Array, row: Int64Array) -> None:
        """Row i is row[i] of parts[part[i]]; a part is an array or indexed like one, int64 [*, K]."""
        super().__init__(len(row), int(parts[0].shape[1]))
        self._parts, self._part, self._row = parts, part, row

    def read(self, index: Int64Array, out: Int64Array) -> None:
        part, row = self._part[index], self._row[index]
        for number in np.unique(part):
            at = np.flatnonzero(part == number)
            at = at[np.argsort(row[at])]  # a file is read from its start to its end
            out[at] = self._parts[number][row[at]]
        out[:, SLOT] = index


@dataclass(frozen=True)
class _Pool:
    """Every stored sample once. columns: as in the buffers' states; its row is `row` of rank `part`'s, int64 [n]."""

    columns: Mapping[str, npt.NDArray[Any]]
    part: Int64Array
    row: Int64Array


def _gather(buffers: Sequence[State]) -> _Pool:
    columns = {
        name: np.concatenate([np.asarray(buffer["columns"][name]) for buffer in buffers])
        for name in buffers[0]["columns"]
    }
    part = np.repeat(np.arange(len(buffers)), [len(buffer["columns"]["sample_id"]) for buffer in buffers])
    row = np.concatenate([_row_of_slot(buffer) for buffer in buffers])
    first = np.sort(np.unique(columns["sample_id"], return_index=True)[1])
    return _Pool({name: column[first] for name, column in columns.items()}, part[first], row[first])


def _row_of_slot(buffer: State) -> Int64Array:
    """Which of a buffer's saved rows each slot has, the staged ones included: int64 [n]."""
    row = np.arange(len(buffer["columns"]["sample_id"]))
    slots = buffer["staged"]["slots"]
    row[slots] = int(buffer["size"]) + np.arange(len(slots))
    return row


def _require_one_moment(states: Sequence[State]) -> None:
    for rank, state in enumerate(states):
        for what in ("format", "round", "spec", "settings"):
            if state.get(what) != states[0].get(what):
                raise ValueError(
                    f"the states of ranks 0 and {rank} differ in {what}: {states[0].get(what)} and {state.get(what)}; "
                    "give those of all ranks, saved after the same step"
                )
        if "buffer" in state and state["buffer"]["lacking"]:
            raise ValueError(
                f"the state of rank {rank} was taken before attach() brought the last minibatch's "
                f"{sorted(state['buffer']['lacking'])}; it can go on with as many ranks as it had, {len(states)}, only"
            )


def _checked(owner_of: OwnerOf, world_size: int) -> OwnerOf:
    def owners(ids: Int64Array) -> Int64Array:
        found = np.asarray(owner_of(ids))
        wrong = np.flatnonzero((found < 0) | (found >= world_size)) if len(found) == len(ids) else np.arange(len(ids))
        if len(wrong):
            raise ValueError(
                f"owner_of must give each of {len(ids)} sample ids a rank in [0, {world_size}), got "
                f"{found[wrong[0]] if len(found) == len(ids) else f'{len(found)} ranks'} for id {ids[wrong[0]]}"
            )
        return found

    return owners


def _in_turn(pool: _Pool, world_size: int) -> Int64Array:
    """Ranks in turn, stratum by stratum in the order of the keys: as many for each, to within one. int64 [n]."""
    columns = pool.columns
    owners = np.empty(len(pool.part), np.int64)
    owners[np.lexsort((columns["sample_id"], columns["key"], columns["stratum"]))] = np.arange(len(owners)) % world_size
    return owners


def _reader(state: State, rows: LazyRows) -> Callable[[str, Int64Array], Tensor]:
    """What returns a field of some of these rows."""
    return lambda name, index: spec_in(state).read_from(rows, name, index)


def _evenly(ids: Int64Array, seed: int, world_size: int) -> Int64Array:
    """Ranks in turn, in the order of the ids' keys: as many for each, to within one."""
    owners = np.empty(len(ids), np.int64)
    owners[np.argsort(sample_keys(ids, seed))] = np.arange(len(ids)) % world_size
    return owners
