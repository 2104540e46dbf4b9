"""Saved states for a schema that has more fields: a buffer that plain replay filled, gone on with by a method that
stores outputs, too. The records lack the new fields, which are optional (`Exemplars.known`).

Letters: n rows, K words of a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from drb.buffer.record import RecordSpec
from drb.buffer.snapshot import LazyRows
from drb.types import Int64Array

State = Mapping[str, Any]


def widened(state: State, saved: RecordSpec, spec: RecordSpec) -> State:
    """Return the state of a rehearsal, whose schema is `saved`, with records of the schema `spec`.

    Stored rows are laid out anew when they are read.

    Raises:
        ValueError: records would lose something, or lack a field that every record must have.
    """
    if saved.to_json() == spec.to_json():
        return state
    if not spec.widens(saved):
        raise ValueError(
            f"the saved schema is {saved.to_json()}, spec= says {spec.to_json()}; a schema that goes on from it has "
            "its fields, and may add optional late ones or more room in growing ones"
        )
    buffer = {**state["buffer"], "rows": WidenedRows(state["buffer"]["rows"], saved, spec)}
    widened_state = {**state, "spec": json.dumps(spec.to_json()), "buffer": buffer}
    if buffer.get("undecided") is not None:
        buffer["undecided"] = _with_wide_rows(buffer["undecided"], saved, spec)
    if state["fetched"] is not None:
        widened_state["fetched"] = _with_wide_rows(state["fetched"], saved, spec)
    return widened_state


class WidenedRows(LazyRows):
    """Rows of the schema `saved` as rows of the schema `spec`, which widens it."""

    def __init__(self, rows: Any, saved: RecordSpec, spec: RecordSpec) -> None:
        """rows: an array or indexed like one, int64 [n, K]."""
        super().__init__(len(rows), spec.words)
        self._rows, self._saved, self._spec = rows, saved, spec

    def read(self, index: Int64Array, out: Int64Array) -> None:
        out[:] = self._spec.widen(np.ascontiguousarray(self._rows[index]), self._saved)

    def select(self, index: Int64Array) -> LazyRows:
        rows = self._rows.select(index) if isinstance(self._rows, LazyRows) else self._rows[index]
        return WidenedRows(rows, self._saved, self._spec)


def _with_wide_rows(state: State, saved: RecordSpec, spec: RecordSpec) -> dict[str, Any]:
    return {**state, "rows": spec.widen(np.ascontiguousarray(state["rows"]), saved)}
