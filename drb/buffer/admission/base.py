"""What an admission policy is. Policies are decisions only: they never touch rows.

Letters: B offered samples, A admitted ones, n stored exemplars, M capacity.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from torch import Tensor

from drb.buffer.admission.columns import Columns
from drb.buffer.admission.decision import NOTHING, Decision, Offer, Removal
from drb.types import Int64Array, UInt64Array
from drb.variant import Variant


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


REFILLS = ("none", "recent")
"""What may take slots that removal freed: only what would have been stored anyhow, or whatever is offered next."""


class Admission(Variant):
    """Decides which offered samples are stored, and in whose place. State is small and saved with the buffer.

    needs_strata: decisions depend on the samples' strata, so that records must have a field for them.
    reads: names of the record's fields that decisions need; if some are late, decisions are made once they are there.
    refills_always: slots freed by removal take whatever is offered next, so that the setting `refill` changes nothing.
    stores_evenly: every sample that a rank was offered is stored with the same probability, as long as none is removed.
    is_closed: `admit` stores nothing, `Rehearsal.edit` inserts all. Exemplars then have no owner: states for another
        number of ranks are dealt evenly.
    """

    needs_strata: ClassVar[bool] = False
    refills_always: ClassVar[bool] = False
    stores_evenly: ClassVar[bool] = False
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
