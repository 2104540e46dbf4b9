"""Changing a buffer in place, while no rank reads it: loading a state, erasing, and what `drb.rehearsal.edit` needs.

Letters: B rows of a minibatch, n exemplars, K words of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drb.buffer.admission import Decision, Offer
from drb.buffer.buffer import Buffer
from drb.buffer.record import SLOT
from drb.buffer.spares import SpareRows
from drb.buffer.staged import Staged
from drb.types import Int64Array, Minibatch

_ROWS_AT_A_TIME = 1024


class EditableBuffer(Buffer):
    """A buffer that the training thread can load, erase, read, rewrite and fill between rounds."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved buffer of the same capacity and schema. No round may be in flight."""
        rows, size = state["rows"], int(state["size"])
        if rows.shape[1] != self.spec.words or size > self.capacity or len(rows) > len(self.rows):
            raise ValueError(
                f"the saved buffer has {size} records of {rows.shape[1]} words, this one takes {self.capacity} of "
                f"{self.spec.words}; resume with the same capacity and schema"
            )
        self._columns.load_state_dict(state["columns"])
        if self._expiry is not None:
            self._expiry.reset()
        self.admission.load_state_dict(state["admission"])
        where = np.arange(len(rows))
        self._before_writing(where)
        for start in range(0, len(rows), _ROWS_AT_A_TIME):  # they may lie in a file, and be larger than what is free
            part = rows[start : start + _ROWS_AT_A_TIME]
            self.rows[start : start + len(part)] = part
        self.size = size
        self._slot_row[:size] = where[:size]
        decision = Decision(state["staged"]["rows"].copy(), state["staged"]["slots"].copy())
        self._staged = Staged(decision, where[size:], int(state["staged"]["offered"]), set(state["lacking"]))
        if self._undecided is not None:
            self._undecided.load_state_dict(state["undecided"])
        self._spares = SpareRows(len(self.rows), first=len(rows))
        self._changed = [np.arange(size)]

    def erase_free_rows(self) -> None:
        """Zero every row that holds no exemplar. No rank and no snapshot may be reading this buffer.

        For a later snapshot no row is the same as before, so that it needs no file in which erased rows may be.
        """
        self._spares.release_all()
        self._before_writing(np.arange(len(self.rows)))
        self.rows[self._spares.free] = 0
        if self._undecided is not None:
            self._undecided.erase()
        if self._watch is not None:
            self._watch.erase()

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
        decision = self.admission.insert(self._columns, chosen)
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
