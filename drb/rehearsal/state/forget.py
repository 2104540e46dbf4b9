"""Forgetting in the state that a rehearsal was saved as: pure functions, on one rank's state at a time.

A state that something was removed from goes on as the rehearsal does after `forget`: the staged minibatch is
committed, and the round whose exemplars had been fetched is run again when all ranks have loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from drb.buffer.admission import Columns
from drb.buffer.record import RecordSpec
from drb.buffer.snapshot import LazyRows
from drb.rehearsal.selection import Where, matching_ids
from drb.rehearsal.state.check import policy_of, require_format, spec_in
from drb.rehearsal.state.fetched import uncounted
from drb.types import Int64Array

State = Mapping[str, Any]


def forget_in_state(state: State, sample_ids: Int64Array) -> dict[str, Any]:
    """The state of a rehearsal without these samples, which it denies from now on; apply it to all ranks' states.

    A staged minibatch whose late fields were not attached yet is dropped; samples of it that were stored before keep
    the records that they had. What is not changed is shared with the state that is given.
    """
    if "buffer" not in state:
        return deny_in_state(state, sample_ids)
    require_format(state)
    buffer = _without(state["buffer"], spec_in(state), state["settings"], sample_ids)
    return deny_in_state({**state, "buffer": buffer, "fetched": None, "stats": uncounted(state)}, sample_ids)


def deny_in_state(state: State, sample_ids: Int64Array) -> dict[str, Any]:
    """The state with these ids on its deny list, and nothing else changed."""
    return {**state, "denied": np.union1d(np.asarray(state.get("denied", ()), np.int64), sample_ids)}


def ids_in_state(state: State, where: Where | None = None) -> Int64Array:
    """Ids of all records in a state, or of those for which `where` holds: int64, ascending and distinct.

    The records are the stored ones, the staged and undecided ones, those they are about to replace, and those fetched.
    """
    if "buffer" not in state:
        return np.empty(0, np.int64)
    require_format(state)
    spec = spec_in(state)
    found = [np.empty(0, np.int64)]
    if where is None:
        found.append(state["buffer"]["columns"]["sample_id"])
    parts = [state["buffer"], *filter(None, [state["fetched"], state["buffer"].get("undecided")])]
    found += [matching_ids(where or _any, spec, part["rows"], np.arange(len(part["rows"]))) for part in parts]
    return np.unique(np.concatenate(found))


def _without(buffer: State, spec: RecordSpec, settings: State, sample_ids: Int64Array) -> dict[str, Any]:
    size, staged, lacking = int(buffer["size"]), buffer["staged"], buffer["lacking"]
    columns = Columns(len(buffer["columns"]["sample_id"]), timed="admitted_at" in buffer["columns"])
    columns.load_state_dict(buffer["columns"])
    row_of, places = np.arange(columns.size), np.arange(len(staged["slots"]))
    gone = np.isin(columns.sample_id, sample_ids)
    if lacking:
        places = np.delete(places, np.asarray(staged.get("again", ()), np.int64))
        gone[staged["slots"][places]] = True
    row_of[staged["slots"][places]] = size + places
    columns.stored = lambda name, slots: spec.read_from(buffer["rows"], name, row_of[slots])
    policy = policy_of(settings)
    policy.load_state_dict(buffer["admission"])
    slots = np.flatnonzero(gone)
    if len(slots):
        removal = policy.remove(columns, slots)
        columns.remove(removal)
        row_of[removal.targets] = row_of[removal.sources]
    if len(sample_ids):
        policy.forget(columns)
    nothing = np.empty(0, np.int64)
    return {
        **buffer,
        "rows": _select(buffer["rows"], row_of[: columns.size]),
        "size": np.int64(columns.size),
        "staged": {"rows": nothing, "slots": nothing, "offered": staged["offered"] if lacking else np.int64(0)},
        "undecided": None,
        "columns": columns.state_dict(),
        "admission": policy.state_dict(),
    }


def _select(rows: Any, index: Int64Array) -> Any:
    """Some rows in this order, not read before they are needed if they are in files."""
    return rows.select(index) if isinstance(rows, LazyRows) else rows[index]


def _any(fields: Mapping[str, Any]) -> Any:
    return np.ones(len(fields["sample_id"]), np.bool_)
