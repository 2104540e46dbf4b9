"""What a buffer does between rounds, when no rank reads it: saving and loading, erasing, and editing in place.

Letters: B rows of a minibatch, n exemplars, K words of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drb.buffer.admission import Columns, Decision, Offer
from drb.buffer.buffer import Buffer
from drb.buffer.record import SLOT
from drb.buffer.snapshot import RowWatch
from drb.buffer.spares import SpareRows
from drb.buffer.staged import Staged
from drb.types import Int64Array, Minibatch

_ROWS_AT_A_TIME = 1024
_NOWHERE: Int64Array = np.empty(0, np.int64)


class EditableBuffer(Buffer):
    """A buffer that the training thread can save, load, erase, read, rewrite and fill between rounds."""

    # -- what is stored

    def leave_out(self, sample_ids: Int64Array) -> None:
        """Never store these ids, int64 ascending, which are kept elsewhere: they are drawn, but not from here."""
        self._columns.elsewhere = sample_ids

    def counts(self) -> dict[int, int]:
        """Exemplars per stratum, the last minibatch's included."""
        values, counts = np.unique(self._columns.stratum[: self._columns.size], return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))

    def sample_ids(self) -> Int64Array:
        """Ids of the stored samples, the last minibatch's included: int64 [n], a copy."""
        return self._columns.sample_id[: self._columns.size].copy()

    def slots_of(self, sample_ids: Int64Array) -> Int64Array:
        """Return the slots that hold these samples: int64 [D], ascending."""
        return np.flatnonzero(np.isin(self._columns.sample_id[: self._columns.size], sample_ids))

    def occupied_rows(self) -> Int64Array:
        """Rows that hold an exemplar, the last minibatch's included: int64 [n]."""
        return np.concatenate((self._slot_row[: self.size], self._staged.where))

    def known(self, slots: Int64Array) -> Minibatch:
        """Return how many columns of each optional or growing field these exemplars have: int64 [n], copies."""
        return self.spec.known(torch.from_numpy(self.rows[self._slot_row[slots]])) if self.spec.counted else {}

    @property
    def columns(self) -> Columns:
        """What is known about each slot, to be read only."""
        return self._columns

    def column(self, name: str, slots: Int64Array) -> npt.NDArray[Any]:
        """Return what is known about these slots: key uint64 [n]; sample_id, stratum or admitted_round int64 [n]."""
        column: npt.NDArray[Any] = getattr(self._columns, name)[slots]
        return column

    # -- state

    def state_dict(self, *, lazy: bool = False) -> dict[str, Any]:
        """All that the buffer holds, as arrays; rows in slot order, then the staged ones. No round may be in flight.

        lazy: the rows are a `RowSnapshot`, to be read by another thread while the buffer goes on, and then closed.
        """
        decision = self._staged.decision
        where = self.occupied_rows()
        if lazy and self._watch is None:
            self._watch = RowWatch(self.rows)
        return {
            "rows": self._watch.snapshot(where) if lazy and self._watch is not None else self.rows[where],
            "size": np.int64(self.size),
            "staged": {"rows": decision.rows, "slots": decision.slots, "offered": np.int64(self._staged.offered)}
            | ({"again": self._staged.again.copy()} if len(self._staged.again) else {}),
            "lacking": sorted(self._staged.lacking),
            "undecided": None if self._undecided is None else self._undecided.state_dict(),
            "columns": self._columns.state_dict(),
            "admission": self.admission.state_dict(),
        }

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
        offered, again = int(state["staged"]["offered"]), state["staged"].get("again", _NOWHERE).copy()
        self._staged = Staged(decision, where[size:], offered, set(state["lacking"]), again)
        if self._undecided is not None:
            self._undecided.load_state_dict(state["undecided"])
        self._spares = SpareRows(len(self.rows), first=len(rows))
        self._changed = [np.arange(size)]

    # -- changes

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
        self.pack({name: values}, np.arange(len(slots)), where)
