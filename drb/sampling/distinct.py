"""Counting distinct samples in bounded memory.

Exact up to `limit` ids; beyond, the unbiased bottom-k estimate from the ids' hash keys (Bar-Yossef et al. 2002), with
a relative error of about 1/sqrt(limit): 0.8 % at the default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drb.types import UInt64Array

COUNTER_BYTES = 3_200_000  # of a counter at the default limit: 32,768 integers in a set
_MOST = 1 << 62  # an integer of 64 bits goes round


class DistinctCounter:
    """Counts keys (uint64, uniform, one per distinct sample)."""

    def __init__(self, limit: int = 16384) -> None:
        self._limit = limit
        self._keys: set[int] = set()
        self._threshold = 1 << 64  # every key below it that was ever added is in the set

    def add(self, keys: UInt64Array) -> None:
        fresh = keys[keys < self._threshold] if self._threshold < 1 << 64 else keys
        self._keys.update(fresh.tolist())
        if len(self._keys) > 2 * self._limit:
            kept = np.partition(np.fromiter(self._keys, np.uint64, len(self._keys)), self._limit)
            self._threshold = int(kept[self._limit])
            self._keys = set(kept[: self._limit].tolist())

    def count(self) -> int:
        return min(round(len(self._keys) * ((1 << 64) / self._threshold)), _MOST)

    @staticmethod
    def merge(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The state of one counter that was given what all these were: exact below the smallest threshold."""
        threshold = min(int(state["threshold"]) for state in states)
        keys = np.unique(np.concatenate([state["keys"] for state in states]))
        return {"keys": keys[keys < threshold] if threshold < 1 << 64 else keys, "threshold": str(threshold)}

    def state_dict(self) -> dict[str, Any]:
        keys = np.fromiter(self._keys, np.uint64, len(self._keys))
        return {"keys": np.sort(keys), "threshold": str(self._threshold)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        keys, threshold = state["keys"], int(state["threshold"])
        if keys.dtype != np.uint64 or keys.ndim != 1 or not 0 < threshold <= 1 << 64:
            raise ValueError("the count of distinct offers in the saved state is damaged")
        self._keys, self._threshold = set(keys.tolist()), threshold
