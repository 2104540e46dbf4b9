"""What is known about each slot of a buffer.

Letters: B offered samples, A admitted ones, n stored exemplars, M capacity.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from drb.buffer.admission.decision import Offer, Removal
from drb.types import BoolArray, Int64Array, UInt64Array


class Columns:
    """What is known about each slot, in memory allocated once.

    Slots 0 … size-1 are taken, without holes. key uint64 [M]; sample_id, stratum, admitted_round int64 [M].
    admitted_at: int64 [M], seconds since 1970, if timed. denied: int64, ascending, ids that are never stored again.
    elsewhere: int64, ascending, ids that are not stored here because they are kept elsewhere; not part of the state.
    stored: returns a field of the exemplars in some slots: (name, int64 [n]) -> [n, *shape] on the CPU, a copy.
    indexed: `find` will be called: where each sample is stored is then kept at hand.
    """

    stored: Callable[[str, Int64Array], Tensor]

    def __init__(self, capacity: int, *, timed: bool = False, indexed: bool = False) -> None:
        self.capacity = capacity
        self.size = 0
        self.key: UInt64Array = np.zeros(capacity, np.uint64)
        self.sample_id: Int64Array = np.zeros(capacity, np.int64)
        self.stratum: Int64Array = np.zeros(capacity, np.int64)
        self.admitted_round: Int64Array = np.zeros(capacity, np.int64)
        self.admitted_at: Int64Array | None = np.zeros(capacity, np.int64) if timed else None
        self.denied: Int64Array = np.empty(0, np.int64)
        self.elsewhere: Int64Array = np.empty(0, np.int64)
        self._names = _COLUMNS + (("admitted_at",) if timed else ())
        self._barred: set[int] = set()  # ids stored and denied: one look-up answers for both
        self._is_indexed, self._slot_of = indexed, dict[int, int]()
        # by the low bits of keys, at least two places for each slot; of samples that share a place the last has it
        self._slot_by_key: NDArray[np.uint32] = np.zeros(2 << max(capacity - 1, 0).bit_length(), np.uint32)

    def is_new(self, sample_ids: Int64Array) -> BoolArray:
        """Which of the offered ids are neither stored nor denied; of an id offered twice only the first. bool [B]."""
        ids = sample_ids.tolist()
        if self._barred.issuperset(ids):  # as in every epoch but the first
            return np.zeros(len(ids), np.bool_)
        new = np.ones(len(ids), np.bool_)
        if not self._barred.isdisjoint(ids):
            new = ~np.fromiter(map(self._barred.__contains__, ids), np.bool_, len(ids))
        if _has_repeats(sample_ids, ids):
            first = np.zeros(len(ids), np.bool_)
            first[np.unique(sample_ids, return_index=True)[1]] = True
            new &= first
        if len(self.elsewhere):
            at = self.elsewhere.searchsorted(sample_ids).clip(max=len(self.elsewhere) - 1)
            new &= self.elsewhere[at] != sample_ids
        return new

    def find(self, sample_ids: Int64Array) -> Int64Array:
        """Return the slot of each of these samples, -1 for those that are not stored: int64 [B]."""
        return np.fromiter(map(self._slot_of.get, sample_ids.tolist(), repeat(-1)), np.int64, len(sample_ids))

    def stratum_of(self, sample_id: int, key: int) -> int | None:
        """Return the stratum of a stored sample; None if it is not stored, or not found, as three in ten are."""
        slot = self._slot_by_key[key & (len(self._slot_by_key) - 1)]
        is_there = slot < self.size and self.sample_id[slot] == sample_id
        return int(self.stratum[slot]) if is_there else None

    def put(self, slots: Int64Array, offer: Offer, rows: Int64Array) -> None:
        """Record that rows `rows` of the offer now take `slots`, whoever was there before."""
        replaced = slots if self.size == self.capacity else slots[slots < self.size]
        if replaced.size:
            gone = self.sample_id[replaced]
            self._barred.difference_update((gone[~np.isin(gone, self.denied)] if len(self.denied) else gone).tolist())
            if self._is_indexed:
                list(map(self._slot_of.pop, gone.tolist()))
        taken_ids = offer.sample_id[rows]
        self._barred.update(taken_ids.tolist())
        if self._is_indexed:
            self._slot_of.update(zip(taken_ids.tolist(), slots.tolist(), strict=True))
        self.key[slots] = offer.key[rows]
        self.sample_id[slots] = taken_ids
        self.stratum[slots] = offer.stratum[rows]
        self.admitted_round[slots] = offer.round
        self._note(slots)
        self.size += len(slots) - len(replaced)

    def remove(self, removal: Removal) -> None:
        """Free slots and close the holes."""
        gone = self.sample_id[removal.slots]
        self._barred.difference_update(gone[~np.isin(gone, self.denied)].tolist())
        left = self.size - len(removal)
        for name in self._names:
            column = getattr(self, name)
            column[removal.targets] = column[removal.sources]
            column[left : self.size] = 0
        self.size = left
        self._note(removal.targets)
        self._index()

    def deny(self, sample_ids: Int64Array) -> None:
        """Never store these ids again. Those that are stored stay until they are removed."""
        self.denied = np.union1d(self.denied, sample_ids)
        self._barred.update(sample_ids.tolist())

    def state_dict(self) -> dict[str, Any]:
        n = self.size
        return {name: getattr(self, name)[:n].copy() for name in self._names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Exemplars of a state without times count as admitted now."""
        self.size = len(state["sample_id"])
        for name in self._names:
            getattr(self, name)[: self.size] = state[name] if name in state else int(time.time())
        self._barred = {*self.sample_id[: self.size].tolist(), *self.denied.tolist()}
        self._note(np.arange(self.size))
        self._index()

    def _note(self, slots: Int64Array) -> None:
        self._slot_by_key[self.key[slots] & np.uint64(len(self._slot_by_key) - 1)] = slots

    def _index(self) -> None:
        if self._is_indexed:
            self._slot_of = dict(zip(self.sample_id[: self.size].tolist(), range(self.size), strict=True))


def _has_repeats(values: Int64Array, as_list: list[int]) -> bool:
    if len(as_list) < _MANY:
        return len(set(as_list)) < len(as_list)
    ordered = np.sort(values)
    return bool((ordered[1:] == ordered[:-1]).any())


_MANY = 64  # from here on sorting takes less time than a set
_COLUMNS = ("key", "sample_id", "stratum", "admitted_round")
