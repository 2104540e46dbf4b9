"""What an admission policy sees and answers. Policies are decisions only: they never touch rows.

Letters: B offered samples, A admitted ones, n stored exemplars, M capacity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from drb.types import BoolArray, Int64Array, UInt64Array


class Columns:
    """What is known about each slot, in memory allocated once.

    Slots 0 … size-1 are taken, without holes. key uint64 [M]; sample_id, stratum, admitted_round int64 [M].
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self.key: UInt64Array = np.zeros(capacity, np.uint64)
        self.sample_id: Int64Array = np.zeros(capacity, np.int64)
        self.stratum: Int64Array = np.zeros(capacity, np.int64)
        self.admitted_round: Int64Array = np.zeros(capacity, np.int64)
        self._stored: set[int] = set()

    def is_new(self, sample_ids: Int64Array) -> BoolArray:
        """Which of the offered ids are not stored; of an id offered twice only the first. bool [B]."""
        ids = sample_ids.tolist()
        known = np.fromiter(map(self._stored.__contains__, ids), np.bool_, len(ids))
        if len(set(ids)) != len(ids):
            first = np.zeros(len(ids), np.bool_)
            first[np.unique(sample_ids, return_index=True)[1]] = True
            return first & ~known
        return ~known

    def put(self, slots: Int64Array, offer: Offer, rows: Int64Array) -> None:
        """Record that rows `rows` of the offer now take `slots`, whoever was there before."""
        replaced = slots[slots < self.size]
        if replaced.size:
            self._stored.difference_update(self.sample_id[replaced].tolist())
        taken_ids = offer.sample_id[rows]
        self._stored.update(taken_ids.tolist())
        self.key[slots] = offer.key[rows]
        self.sample_id[slots] = taken_ids
        self.stratum[slots] = offer.stratum[rows]
        self.admitted_round[slots] = offer.round
        self.size += len(slots) - len(replaced)

    def state_dict(self) -> dict[str, Any]:
        n = self.size
        return {name: getattr(self, name)[:n].copy() for name in _COLUMNS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.size = len(state["sample_id"])
        for name in _COLUMNS:
            getattr(self, name)[: self.size] = state[name]
        self._stored = set(self.sample_id[: self.size].tolist())


_COLUMNS = ("key", "sample_id", "stratum", "admitted_round")


@dataclass(frozen=True)
class Gathered:
    """Exemplars from several buffers. key uint64 [n]; stratum, admitted_round int64 [n]."""

    key: UInt64Array
    stratum: Int64Array
    admitted_round: Int64Array

    def __len__(self) -> int:
        return len(self.key)


State: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Offer:
    """The samples of one minibatch. sample_id, stratum int64 [B]; key uint64 [B]; round: of the minibatch."""

    sample_id: Int64Array
    stratum: Int64Array
    key: UInt64Array
    round: int

    def __len__(self) -> int:
        return len(self.sample_id)


@dataclass(frozen=True)
class Decision:
    """Row `rows[i]` of the offer takes slot `slots[i]`. int64 [A] each, rows ascending, slots distinct.

    Slots from `size` on are new, in order; the others are evictions.
    """

    rows: Int64Array
    slots: Int64Array

    def __len__(self) -> int:
        return len(self.rows)


_EMPTY: Int64Array = np.empty(0, np.int64)
NOTHING = Decision(_EMPTY, _EMPTY)


class Admission(Protocol):
    """Decides which offered samples are stored, and in whose place. State is small and saved with the buffer."""

    def admit(self, columns: Columns, offer: Offer) -> Decision:
        """Called once per minibatch; the caller then applies the decision with `columns.put`."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    @staticmethod
    def reshard(gathered: Gathered, states: Sequence[Mapping[str, Any]], capacity: int) -> tuple[Int64Array, State]:
        """One buffer of exemplars that other buffers held: which stay, and this policy's state.

        Args:
            gathered: the exemplars, no sample id twice.
            states: of the policies of *all* those buffers, whether or not they gave an exemplar.
        Returns:
            Indices into gathered in the order of their new slots, int64 [at most capacity], and a state.
        """
        ...


def slots_for(columns: Columns, num_admitted: int, evicted: Int64Array) -> Int64Array:
    """Evicted slots first, then free ones: int64 [num_admitted]."""
    free = np.arange(columns.size, columns.size + num_admitted - len(evicted), dtype=np.int64)
    return np.concatenate((evicted, free)) if len(evicted) else free
