"""First in, first out: the buffer holds the last M samples that were new when they were offered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drb.buffer.admission.base import Admission, Gathered, State, require_state, take_free_slots
from drb.buffer.admission.columns import Columns
from drb.buffer.admission.decision import NOTHING, Decision, Offer, Removal
from drb.types import Int64Array

_MOST_SLOTS = 1 << 40


class Fifo(Admission):
    """Keep the latest samples. The state is the next slot of the ring."""

    name = "fifo"
    refills_always = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._next = 0

    def admit(self, columns: Columns, offer: Offer) -> Decision:
        rows = np.flatnonzero(columns.is_new(offer.sample_id))[-columns.capacity :]
        if not rows.size:
            return NOTHING
        slots = (self._next + np.arange(rows.size)) % columns.capacity
        self._next = int(slots[-1] + 1) % columns.capacity
        return Decision(rows, slots)

    def insert(self, columns: Columns, offer: Offer) -> Decision:
        decision = take_free_slots(columns, offer)
        self._next = (columns.size + len(decision)) % max(columns.capacity, 1)
        return decision

    def remove(self, columns: Columns, slots: Int64Array) -> Removal:
        """The ring is ordered anew, the oldest exemplar first."""
        size = columns.size
        oldest = self._next % size  # 0 unless the ring is full
        order = (oldest + np.arange(size)) % size
        kept = order[~np.isin(order, slots)]
        self._next = len(kept)
        return Removal(slots, kept, np.arange(len(kept)))

    def state_dict(self) -> dict[str, Any]:
        return {"next": np.int64(self._next)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._next = int(state["next"])
        require_state(0 <= self._next < _MOST_SLOTS, "next slot")

    def reshard(
        self, gathered: Gathered, states: Sequence[Mapping[str, Any]], capacity: int
    ) -> tuple[Int64Array, State]:
        """The newest stay, the oldest of them first in the ring."""
        kept = np.argsort(gathered.admitted_round, kind="stable")[max(0, len(gathered) - capacity) :]
        return kept, {"next": np.int64(len(kept) % max(capacity, 1))}
