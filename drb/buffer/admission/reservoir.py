"""Keyed reservoir: keep the M samples with the smallest keys.

The key is a hash of (seed, sample id), so what is stored has the law of algorithm R (Vitter 1985) over the
*distinct* samples, a repeated offer changes nothing, content does not depend on timing, and buffers merge and
split exactly (bottom-k sampling: Cohen & Kaplan 2007).

The threshold τ is the smallest key that was ever rejected or evicted; only keys below it are admitted. Without
it slots freed by growth or removal would fill with recent samples only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drb.buffer.admission.base import (
    REFILLS,
    Admission,
    Gathered,
    State,
    fill_holes,
    require_state,
    slots_for,
    take_free_slots,
)
from drb.buffer.admission.columns import Columns
from drb.buffer.admission.decision import NOTHING, Decision, Offer, Removal
from drb.options import setting
from drb.types import Int64Array, UInt64Array

NO_THRESHOLD = (1 << 64) - 1


class KeyedReservoir(Admission):
    """Keep a uniform sample of the distinct samples offered so far.

    A decision takes O(b) amortised, whatever the capacity: see `_LargestKeys`.

    refill: recent: removing exemplars lifts the threshold, so that whatever is offered next takes the free slots.
    """

    name = "reservoir"
    stores_evenly = True
    refill: str = setting("none", one_of=REFILLS)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.threshold = NO_THRESHOLD
        self._largest = _LargestKeys()

    def admit(self, columns: Columns, offer: Offer) -> Decision:
        rows = (offer.key < np.uint64(self.threshold)).nonzero()[0]
        if rows.size:
            rows = rows[columns.is_new(offer.sample_id[rows])]
        if not rows.size:
            return NOTHING
        overflow = columns.size + rows.size - columns.capacity
        evicted = NOTHING.slots
        if overflow > 0:
            rows, evicted = self._displace(columns, offer, rows, overflow)
        slots = evicted if evicted.size == rows.size else slots_for(columns, rows.size, evicted)
        self._largest.add(offer.key[rows], slots)
        return Decision(rows, slots)

    def _displace(
        self, columns: Columns, offer: Offer, rows: Int64Array, overflow: int
    ) -> tuple[Int64Array, Int64Array]:
        """Drop the `overflow` largest keys of stored and offered together: the rows that stay, the slots that go."""
        pool_keys, pool_slots = self._largest.top(columns, overflow)
        offered = offer.key[rows]
        if len(pool_keys) == overflow and offered.max() < pool_keys[0]:  # all are stored
            self.threshold = int(pool_keys[0])
            self._largest.drop(overflow)
            return rows, pool_slots
        keys = np.concatenate((offered, pool_keys))
        dropped = np.argpartition(keys, len(keys) - overflow)[len(keys) - overflow :]
        self.threshold = int(keys[dropped].min())
        is_offered = dropped < rows.size
        stays = np.ones(rows.size, np.bool_)
        stays[dropped[is_offered]] = False
        evicted = pool_slots[np.sort(dropped[~is_offered]) - rows.size]
        self._largest.drop(len(evicted))
        return rows[stays], evicted

    def insert(self, columns: Columns, offer: Offer) -> Decision:
        decision = take_free_slots(columns, offer)
        self._largest.add(offer.key[decision.rows], decision.slots)
        return decision

    def remove(self, columns: Columns, slots: Int64Array) -> Removal:
        removal = fill_holes(columns.size, slots)
        self._largest.remove(removal)
        if self.refill == "recent":
            self.threshold = NO_THRESHOLD
        return removal

    def state_dict(self) -> dict[str, Any]:
        return {"threshold": np.uint64(self.threshold)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.threshold = int(state["threshold"])
        require_state(0 <= self.threshold <= NO_THRESHOLD, "threshold")
        self._largest.clear()

    def reshard(
        self, gathered: Gathered, states: Sequence[Mapping[str, Any]], capacity: int
    ) -> tuple[Int64Array, State]:
        """The smallest keys stay; τ is the smallest of all thresholds and of the keys that go."""
        order = np.argsort(gathered.key, kind="stable")
        kept, dropped = order[:capacity], gathered.key[order[capacity:]]
        threshold = min([*(int(state["threshold"]) for state in states), *map(int, dropped[:1])])
        return np.sort(kept), {"threshold": np.uint64(threshold)}


class _LargestKeys:
    """The stored exemplars with the largest keys, sorted, so that an eviction does not search the whole buffer.

    Invariant while not empty: every stored key outside the pool is smaller than the pool's smallest.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._keys: UInt64Array = np.empty(0, np.uint64)
        self._slots: Int64Array = np.empty(0, np.int64)

    def top(self, columns: Columns, count: int) -> tuple[UInt64Array, Int64Array]:
        """The `count` largest stored keys (all, if fewer are stored) and their slots, ascending."""
        count = min(count, columns.size)
        if len(self._keys) < count:
            self._refill(columns, max(4 * count, 64, columns.size // 16))
        start = len(self._keys) - count
        return self._keys[start:], self._slots[start:]

    def drop(self, count: int) -> None:
        """The `count` largest were evicted."""
        if count:
            self._keys, self._slots = self._keys[:-count], self._slots[:-count]

    def add(self, keys: UInt64Array, slots: Int64Array) -> None:
        """Newly stored exemplars: those above the pool's smallest key belong in it."""
        if not len(self._keys):
            return
        above = keys > self._keys[0]
        if not above.any():
            return
        merged = np.concatenate((self._keys, keys[above]))
        order = np.argsort(merged, kind="stable")
        self._keys, self._slots = merged[order], np.concatenate((self._slots, slots[above]))[order]

    def remove(self, removal: Removal) -> None:
        """Exemplars were removed, and others moved to their slots."""
        stays = ~np.isin(self._slots, removal.slots)
        self._keys, self._slots = self._keys[stays], self._slots[stays]
        if len(removal.sources) and len(self._slots):
            at = np.minimum(np.searchsorted(removal.sources, self._slots), len(removal.sources) - 1)
            self._slots = np.where(removal.sources[at] == self._slots, removal.targets[at], self._slots)

    def _refill(self, columns: Columns, size: int) -> None:
        stored = columns.key[: columns.size]
        size = min(size, len(stored))
        slots = np.argpartition(stored, len(stored) - size)[len(stored) - size :]
        self._slots = slots[np.argsort(stored[slots])]
        self._keys = stored[self._slots]
