"""Closed: nothing that is offered is stored; a method fills the buffer itself, between steps, by `Rehearsal.edit`.

A key is the place of an exemplar in its stratum's list. When states for fewer exemplars than there were are made, the
strata shrink to level counts and keep their first places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drb.buffer.admission.base import Admission, Gathered, State, fill_holes
from drb.buffer.admission.class_balanced import level
from drb.buffer.admission.columns import Columns
from drb.buffer.admission.decision import NOTHING, Decision, Offer, Removal
from drb.types import Int64Array


class Closed(Admission):
    """Store nothing that is offered: the method chooses what is stored at the end of each task, as `icarl` does."""

    name = "closed"
    is_closed = True

    def admit(self, columns: Columns, offer: Offer) -> Decision:
        return NOTHING

    def remove(self, columns: Columns, slots: Int64Array) -> Removal:
        return fill_holes(columns.size, slots)

    def reshard(
        self, gathered: Gathered, states: Sequence[Mapping[str, Any]], capacity: int
    ) -> tuple[Int64Array, State]:
        stays, _ = level(gathered.stratum, gathered.key, capacity)
        return np.flatnonzero(stays), {}
