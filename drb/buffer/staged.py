"""A minibatch that was offered to a buffer and is not part of it yet.

Admission decides on most minibatches when they are staged. A policy that reads fields which exist later (`late`)
decides when those are attached: until then the records of the whole minibatch lie in memory of their own.

Letters: B rows of a minibatch, A admitted ones, K words of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from drb.buffer.admission import Columns, Decision, Offer
from drb.buffer.record import ROUND, SAMPLE_ID, STRATUM, RecordSpec
from drb.types import Int64Array, Minibatch

_NO_ROWS: Int64Array = np.empty(0, np.int64)


@dataclass
class Staged:
    """What is known of the staged minibatch.

    decision: which of its rows take which slots; nothing while it is undecided. where: the rows of the buffer that
    hold them, int64 [A]. offered: the minibatch's rows. lacking: required late fields that were not attached yet.
    again: samples among them that were stored before and keep their slots, whose refreshed fields change; places in
    `where`, int64 [n], ascending.
    """

    decision: Decision
    where: Int64Array
    offered: int
    lacking: set[str]
    again: Int64Array = field(default_factory=_NO_ROWS.copy)

    def with_again(self, rows: Int64Array, slots: Int64Array, where: Int64Array) -> Staged:
        """Return this with such samples: their rows of the minibatch, their slots and their new rows, int64 [n]."""
        all_rows = np.concatenate((self.decision.rows, rows))
        order = np.argsort(all_rows)
        decision = Decision(all_rows[order], np.concatenate((self.decision.slots, slots))[order])
        again = np.flatnonzero(order >= len(self.where))
        return replace(self, decision=decision, where=np.concatenate((self.where, where))[order], again=again)

    @property
    def admitted(self) -> tuple[Int64Array, Int64Array]:
        """The rows of the minibatch that are new in the buffer, and where they lie: int64 [n] each."""
        return np.delete(self.decision.rows, self.again), np.delete(self.where, self.again)


def offered_again(columns: Columns, offer: Offer, decision: Decision) -> tuple[Int64Array, Int64Array]:
    """Return the rows of an offer whose samples were stored before and still are, and their slots: int64 [n] each.

    Of a sample that comes twice in the offer it is the first row. decision: on the offer, applied already.
    """
    slots = columns.find(offer.sample_id)
    rows = np.flatnonzero((slots >= 0) & ~np.isin(slots, decision.slots))
    rows = rows[np.sort(np.unique(slots[rows], return_index=True)[1])]
    return rows, slots[rows]


def pack_records(spec: RecordSpec, fields: Minibatch, offer: Offer, out: Int64Array | None = None) -> Int64Array:
    """Return the records of a minibatch with these of its fields, int64 [B, K]; optional ones are lacking by then.

    out: memory for them, of which no word is kept; None allocates it.
    """
    rows: Int64Array = np.empty((len(offer), spec.words), np.int64) if out is None else out
    rows[:] = 0
    rows[:, SAMPLE_ID], rows[:, STRATUM], rows[:, ROUND] = offer.sample_id, offer.stratum, offer.round
    every = np.arange(len(offer))
    spec.pack_all(fields, every, rows, every)
    return rows


class Undecided:
    """Records of a minibatch on which admission has not decided yet.

    reads: the fields that the decision needs.
    """

    def __init__(self, spec: RecordSpec, reads: Sequence[str]) -> None:
        for name in reads:
            if name not in spec.fields or spec.fields[name].optional:
                why = "which is optional" if name in spec.fields else f"which records lack; they have {[*spec.fields]}"
                raise ValueError(f"the admission policy reads the field {name!r}, {why}")
        self._spec = spec
        self._reads = reads
        self._memory: Int64Array = np.zeros((0, spec.words), np.int64)
        self._offer: Offer | None = None

    @property
    def is_pending(self) -> bool:
        """Whether there is a minibatch to decide on."""
        return self._offer is not None

    @property
    def rows(self) -> Int64Array:
        """The records, int64 [B, K]; valid until the next `fill`."""
        return self._memory[: 0 if self._offer is None else len(self._offer)]

    def fill(self, minibatch: Minibatch, offer: Offer) -> None:
        """Take over a minibatch without its late fields."""
        if len(offer) > len(self._memory):
            self._memory = np.zeros((len(offer), self._spec.words), np.int64)
        self._offer = offer
        pack_records(self._spec, minibatch, offer, self.rows)

    def attach(self, late_fields: Mapping[str, Tensor]) -> None:
        """Take over late fields."""
        rows, every = self.rows, np.arange(len(self.rows))
        self._spec.pack_all(late_fields, every, rows, every)

    def offer_with_fields(self) -> Offer:
        """Return the offer with the fields that the decision needs, as they are stored; the records stay in `rows`."""
        assert self._offer is not None
        every = np.arange(len(self.rows))
        return replace(self._offer, fields={name: self._spec.read(name, self.rows, every) for name in self._reads})

    def erase(self) -> None:
        """Zero the memory, unless something is undecided."""
        if self._offer is None:
            self._memory[:] = 0

    def done(self) -> None:
        """The decision was made."""
        self._offer = None

    def state_dict(self) -> dict[str, Any] | None:
        """Return what is undecided as arrays; None if nothing is."""
        if self._offer is None:
            return None
        return {"rows": self.rows.copy(), "key": self._offer.key.copy(), "round": np.int64(self._offer.round)}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from what `state_dict` gave."""
        self._offer = None
        if state is not None:
            self._memory = np.ascontiguousarray(state["rows"]).copy()
            ids, strata = self._memory[:, SAMPLE_ID].copy(), self._memory[:, STRATUM].copy()
            self._offer = Offer(ids, strata, state["key"].copy(), int(state["round"]))
