"""The table that peers read: position → row of every committed exemplar. The worker's, while the buffer goes on.

A round gets what has changed since the one before it (`Buffer.hand_in`), so that commits need not wait for rounds,
however many are in flight, and nothing is copied whole.

Letters: D slots that changed, n committed exemplars, M capacity, S strata.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drb.types import Int64Array


@dataclass(frozen=True)
class TableChange:
    """Slots `slots` now have `rows` and hold exemplars of `strata`, int64 [D] each; `size` slots are taken."""

    slots: Int64Array
    rows: Int64Array
    strata: Int64Array
    size: int


class PositionTable:
    """Takes part in rounds one after the other. by_stratum: in the order of strata, for draws that count them."""

    def __init__(self, capacity: int, *, by_stratum: bool = False) -> None:
        self._size = 0
        self._slot_row: Int64Array = np.zeros(capacity, np.int64)
        self._slot_stratum: Int64Array | None = np.zeros(capacity, np.int64) if by_stratum else None
        self._order: Int64Array | None = None

    def apply(self, change: TableChange) -> bool:
        """Whether the table is another one now."""
        if not len(change.slots) and change.size == self._size:
            return False
        self._size = change.size
        self._slot_row[change.slots] = change.rows
        if self._slot_stratum is not None:
            self._slot_stratum[change.slots] = change.strata
            self._order = np.argsort(self._slot_stratum[: self._size], kind="stable")
        return True

    @property
    def rows(self) -> Int64Array:
        """position → row, int64 [n]; valid until the next change."""
        rows = self._slot_row[: self._size]
        return rows if self._order is None else rows[self._order]

    def stratum_counts(self) -> tuple[Int64Array, Int64Array]:
        """Strata of the exemplars, ascending, and how many each has: int64 [S] twice."""
        if self._slot_stratum is None:
            return np.zeros(1, np.int64), np.array([self._size])
        return np.unique(self._slot_stratum[: self._size], return_counts=True)
