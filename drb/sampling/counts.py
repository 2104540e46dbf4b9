"""Who holds how many exemplars of which stratum, replicated on every rank and updated by what changed.

Letters: W ranks, S strata known so far, ascending by value.
"""

from __future__ import annotations

import numpy as np

from drb.types import Int64Array


class UnionCounts:
    """counts int64 [W, S] of the strata `values` int64 [S]; identical on all ranks after the same updates."""

    def __init__(self, world_size: int) -> None:
        self.values: Int64Array = np.empty(0, np.int64)
        self.counts: Int64Array = np.zeros((world_size, 0), np.int64)

    def changes(self, rank: int, values: Int64Array, counts: Int64Array) -> Int64Array:
        """What `rank` must tell so that all know its counts: pairs (stratum, count), flat int64 [2 · changed]."""
        gone = np.setdiff1d(self.values[self.counts[rank] > 0], values)
        values, counts = np.concatenate((values, gone)), np.concatenate((counts, np.zeros_like(gone)))
        at = np.searchsorted(self.values, values)
        known = np.zeros(len(values), np.bool_)
        inside = at < len(self.values)
        known[inside] = self.values[at[inside]] == values[inside]
        before = np.zeros(len(values), np.int64)
        before[known] = self.counts[rank, at[known]]
        changed = before != counts
        return np.column_stack((values[changed], counts[changed])).reshape(-1)

    def apply(self, rank: int, pairs: Int64Array) -> None:
        values, counts = pairs[::2], pairs[1::2]
        new = np.setdiff1d(values, self.values)
        if len(new):
            merged = np.union1d(self.values, new)
            wider = np.zeros((len(self.counts), len(merged)), np.int64)
            wider[:, np.searchsorted(merged, self.values)] = self.counts
            self.values, self.counts = merged, wider
        self.counts[rank, np.searchsorted(self.values, values)] = counts
