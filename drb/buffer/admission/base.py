"""What an admission policy sees and answers. Policies are decisions only: they never touch rows.

Letters: B offered samples, A admitted ones, n stored exemplars, M capacity.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, ClassVar, TypeAlias

import numpy as np
from torch import Tensor

from drb.types import BoolArray, Int64Array, UInt64Array
from drb.variant import Variant


class Columns:
    """What is known about each slot, in memory allocated once.

    Slots 0 … size-1 are taken, without holes. key uint64 [M]; sample_id, stratum, admitted_round int64 [M].
    admitted_at: int64 [M], seconds since 1970, if timed. denied: int64, ascending, ids that are never stored again.
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
        self._names = _COLUMNS + (("admitted_at",) if timed else ())
        self._barred: set[int] = set()  # ids stored and denied: one look-up answers for both
        self._is_indexed, self._slot_of = indexed, dict[int, int]()

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
        return new

    def find(self, sample_ids: Int64Array) -> Int64Array:
        """Return the slot of each of these samples, -1 for those that are not stored: int64 [B]."""
        return np.fromiter(map(self._slot_of.get, sample_ids.tolist(), repeat(-1)), np.int64, len(sample_ids))

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
        self._index()

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


@dataclass(frozen=True)
class Gathered:
    """Exemplars from several buffers. key uint64 [n]; stratum, admitted_round int64 [n].

    stored: returns a field of some of them: (name, int64 [m]) -> [m, *shape] on the CPU.
    """

    key: UInt64Array
    stratum: Int64Array
    admitted_round: Int64Array
    stored: Callable[[str, Int64Array], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.key)


State: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Offer:
    """The samples of one minibatch. sample_id, stratum int64 [B]; key uint64 [B]; round: of the minibatch.

    fields: what the policy `reads`, [B, *shape] each, on the CPU, as it would be stored.
    """

    sample_id: Int64Array
    stratum: Int64Array
    key: UInt64Array
    round: int
    fields: Mapping[str, Tensor] = field(default_factory=dict)

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


@dataclass(frozen=True)
class Removal:
    """Slots `slots` are freed, then what lies in slot `sources[i]` moves to slot `targets[i]`, all at once.

    int64 [D], and [V] twice; afterwards slots 0 … size-D-1 are taken. Slots and sources ascending and disjoint, unless
    the policy orders its slots anew: then all that stay are sources, in their new order.
    """

    slots: Int64Array
    sources: Int64Array
    targets: Int64Array

    def __len__(self) -> int:
        return len(self.slots)


REFILLS = ("none", "recent")
"""What may take slots that removal freed: only what would have been stored anyhow, or whatever is offered next."""

_EMPTY: Int64Array = np.empty(0, np.int64)
NOTHING = Decision(_EMPTY, _EMPTY)


class Admission(Variant):
    """Decides which offered samples are stored, and in whose place. State is small and saved with the buffer.

    needs_strata: decisions depend on the samples' strata, so that records must have a field for them.
    reads: names of the record's fields that decisions need; if some are late, decisions are made once they are there.
    refills_always: slots freed by removal take whatever is offered next, so that the setting `refill` changes nothing.
    is_closed: `admit` stores nothing, `Rehearsal.edit` inserts all. Exemplars then have no owner: states for another
        number of ranks are dealt evenly.
    """

    needs_strata: ClassVar[bool] = False
    refills_always: ClassVar[bool] = False
    is_closed: ClassVar[bool] = False

    @property
    def reads(self) -> Sequence[str]:
        return ()

    def begin(self, seed: int, rank: int) -> None:
        """Called once, before anything else: what randomness may depend on. seed: the same on all ranks."""

    def memory_bytes(self, numbers: Mapping[str, int], rows: int) -> int:
        """Return the bytes that decisions take at most beside the columns.

        numbers: how many numbers a sample has in each field that is read. rows: stored and offered together.
        """
        return 0

    @abc.abstractmethod
    def admit(self, columns: Columns, offer: Offer) -> Decision:
        """Called once per minibatch; the caller then applies the decision with `columns.put`."""

    def insert(self, columns: Columns, offer: Offer) -> Decision:
        """Where new samples go that are stored whatever the policy would decide, and for which there is room.

        A policy that keeps more than the columns do notes them, and returns the same decision.
        """
        return take_free_slots(columns, offer)

    @abc.abstractmethod
    def remove(self, columns: Columns, slots: Int64Array) -> Removal:
        """These slots (ascending, at least one) will be freed: how the holes are closed.

        The caller then applies it with `columns.remove`.
        """

    def forget(self, columns: Columns) -> None:
        """Samples were forgotten, stored here or not; `columns` have what is left.

        A policy that keeps more of the samples than the columns do drops whatever these are part of.
        """

    def state_dict(self) -> State:
        """What the next decisions depend on, as arrays and numbers."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Go on from what `state_dict` gave. Raises ValueError if no policy of this kind can have given it."""

    @abc.abstractmethod
    def reshard(
        self, gathered: Gathered, states: Sequence[Mapping[str, Any]], capacity: int
    ) -> tuple[Int64Array, State]:
        """One buffer of exemplars that other buffers held: which stay, and this policy's state.

        Args:
            gathered: the exemplars, no sample id twice.
            states: of the policies of *all* those buffers, whether or not they gave an exemplar.
        Returns:
            Indices into gathered in the order of their new slots, int64 [at most capacity], and a state.
        """


def take_free_slots(columns: Columns, offer: Offer) -> Decision:
    """Store every row of an offer in a free slot."""
    return Decision(np.arange(len(offer)), slots_for(columns, len(offer), NOTHING.slots))


def slots_for(columns: Columns, num_admitted: int, evicted: Int64Array) -> Int64Array:
    """Evicted slots first, then free ones: int64 [num_admitted]."""
    if len(evicted) == num_admitted:
        return evicted
    free = np.arange(columns.size, columns.size + num_admitted - len(evicted), dtype=np.int64)
    return np.concatenate((evicted, free)) if len(evicted) else free


def fill_holes(size: int, slots: Int64Array) -> Removal:
    """The last exemplars move into the holes: as few as there are holes."""
    left = size - len(slots)
    return Removal(slots, np.setdiff1d(np.arange(left, size), slots, assume_unique=True), slots[slots < left])


def require_state(holds: bool, what: str) -> None:
    """Raise ValueError if a saved policy cannot be what one has saved."""
    if not holds:
        raise ValueError(f"the rehearsal state is damaged: its admission's {what} cannot be")


def is_ascending(values: Any) -> bool:
    """Whether these are distinct strata in order, int64 [S]."""
    return values.dtype == np.int64 and values.ndim == 1 and bool((np.diff(values) > 0).all())
