"""What a policy from outside drb decides is checked before it is carried out: a wrong slot would hold another's row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from drb.buffer.admission.base import Admission
from drb.buffer.admission.columns import Columns
from drb.buffer.admission.decision import Decision, Offer
from drb.variant import name_of


def checked_admit(admission: Admission) -> Callable[[Columns, Offer], Decision]:
    """Return the policy's `admit`; from outside drb it raises ValueError for a decision that cannot be carried out."""
    if type(admission).__module__.startswith("drb."):
        return admission.admit

    def admit(columns: Columns, offer: Offer) -> Decision:
        decision = admission.admit(columns, offer)
        _require_sound(decision, admission, columns, offer)
        return decision

    return admit


def _require_sound(decision: Decision, admission: Admission, columns: Columns, offer: Offer) -> None:
    """Raise ValueError unless each row takes a slot of its own that exists, new ones in order from the first free."""
    name = name_of(admission)
    if not isinstance(decision, Decision):
        raise ValueError(f"{name}.admit must return a Decision, got {type(decision).__qualname__}")
    for what, values in (("rows", decision.rows), ("slots", decision.slots)):
        if not isinstance(values, np.ndarray) or values.dtype != np.int64 or values.ndim != 1:
            found = f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else type(values).__name__
            raise ValueError(f"{name}.admit must return {what} as an int64 array [A], got {found}")
    rows, slots, size, capacity = decision.rows, decision.slots, columns.size, len(columns.sample_id)
    if len(rows) != len(slots):
        raise ValueError(f"{name}.admit must return a slot for each row, got {len(rows)} rows and {len(slots)} slots")
    if len(rows) and (rows[0] < 0 or rows[-1] >= len(offer) or (np.diff(rows) <= 0).any()):
        raise ValueError(f"{name}.admit must return ascending rows of the offer (0 to {len(offer) - 1}), got {rows}")
    if len(np.unique(slots)) != len(slots):
        raise ValueError(f"{name}.admit must give each row a slot of its own, got {slots}")
    if len(slots) and (slots.min() < 0 or slots.max() >= capacity):
        raise ValueError(f"{name}.admit must return slots from 0 to {capacity - 1}, got {slots}")
    new = slots[slots >= size]
    if not np.array_equal(new, size + np.arange(len(new))):
        raise ValueError(f"{name}.admit must fill free slots in order from slot {size}, got {new}")
