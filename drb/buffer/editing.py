"""Changing a buffer in place, while no rank reads it: for `drb.rehearsal.edit`.

Letters: B rows of a minibatch, n exemplars, K words of a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drb.buffer.admission import Offer
from drb.buffer.buffer import Buffer
from drb.buffer.record import SLOT
from drb.types import Int64Array, Minibatch


class EditableBuffer(Buffer):
    """A buffer whose exemplars can be read, rewritten and inserted by the training thread, between rounds."""

    def insert(self, rows: Int64Array, offer: Offer) -> Int64Array:
        """Store samples at once, whatever the policy would decide, in their order. After `commit`.

        Those that are stored already, or denied, are left out.

        rows: the records, int64 [B, K]. Returns which new ones there is no room for, int64 [n], ascending.
        """
        assert not len(self._staged.where), "insert() between stage() and commit()"
        self._spares.release_all()
        new, room = np.flatnonzero(self._columns.is_new(offer.sample_id)), self.capacity - self.size
        stored, left = new[:room], new[room:]
        given = {name: self.spec.read(name, rows, stored) for name in self._reads}
        chosen = Offer(offer.sample_id[stored], offer.stratum[stored], offer.key[stored], offer.round, given)
        decision = self._admission.insert(self._columns, chosen)
        where = self._admit(decision, chosen, set())
        self.rows[where] = rows[stored]
        self.rows[where, SLOT] = decision.slots
        self.commit()
        return left

    def rewrite(self, name: str, values: Tensor, slots: Int64Array) -> None:
        """Write one field of the exemplars in these slots in place: values [n, …], checked, on the CPU."""
        where = self._slot_row[slots]
        self._before_writing(where)
        self.spec.pack(name, values, np.arange(len(slots)), self.rows, where)

    def known(self, slots: Int64Array) -> Minibatch:
        """Return how many columns of each optional or growing field these exemplars have: int64 [n], copies."""
        return self.spec.known(torch.from_numpy(self.rows[self._slot_row[slots]])) if self.spec.counted else {}

    def column(self, name: str, slots: Int64Array) -> npt.NDArray[Any]:
        """Return what is known about these slots: key uint64 [n]; sample_id, stratum or admitted_round int64 [n]."""
        column: npt.NDArray[Any] = getattr(self._columns, name)[slots]
        return column
