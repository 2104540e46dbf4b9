"""Which rows of a buffer may be written to.

A row whose slot was given away is *retired*: a peer may still read it, in a round that was handed in before. The next
round that is handed in publishes a table without it. When that round has ended here, every peer has passed its barrier,
so none is still reading for an earlier one, and the row is spare again.

Letters: n rows.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from drb.types import Int64Array


def spare_rows(capacity: int, batch_size: int, depth: int = 1, interval: int = 1) -> int:
    """Rows beyond the capacity that copy on write needs.

    When a minibatch is staged, `depth` rounds are in flight, before each of which `interval` minibatches retired at
    most as many rows as they have; up to interval - 1 have done so since, and one is staged.
    """
    return (depth + 1) * interval * min(capacity, batch_size)


class SpareRows:
    """The spare rows among first … num_rows - 1; the rows before are in use.

    retired: rows that no slot has any more, since the last round was handed in; int64 [n] each.
    """

    def __init__(self, num_rows: int, first: int = 0) -> None:
        self.free: Int64Array = np.arange(first, num_rows, dtype=np.int64)[::-1].copy()
        self.retired: list[Int64Array] = []
        self._waiting: deque[list[Int64Array]] = deque()  # for each round in flight, what was retired before it

    def take(self, count: int) -> Int64Array:
        """int64 [count], of `free`, which must have as many."""
        taken, self.free = self.free[:count], self.free[count:]
        return taken

    def hand_in(self) -> None:
        """A round begins that publishes no retired row."""
        self._waiting.append(self.retired)
        self.retired = []

    def release(self) -> Int64Array:
        """The oldest round in flight has ended; the rows that are spare again, int64 [n]."""
        return self._free(self._waiting.popleft())

    def release_all(self) -> Int64Array:
        """No rank is reading; as `release`."""
        retired, self.retired = [*(rows for waiting in self._waiting for rows in waiting), *self.retired], []
        self._waiting = deque([] for _ in self._waiting)
        return self._free(retired)

    def _free(self, retired: list[Int64Array]) -> Int64Array:
        if not retired:
            return self.free[:0]
        rows = retired[0] if len(retired) == 1 else np.concatenate(retired)
        self.free = np.concatenate((self.free, rows))
        return rows
