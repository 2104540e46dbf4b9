"""One rank's rehearsal buffer: rows, what is known about each slot, and the admission policy.

Copy on write: an admitted sample is written into a spare row (`stage`) and its slot is pointed at that row one step
later (`commit`), so rows that peers may be reading never change under them. A stored sample that is offered again gets
a copy of its record in the same way, if it has fields that are then refreshed. `hand_in` gives a round what has
changed; when it has ended, `release` makes rows spare again that it no longer published: see `drb.buffer.spares`.

All methods run on the training thread.

Exemplars leave by eviction and by `remove`. Their rows are retired in both cases. After `remove` the last slots move
into the holes, which changes columns and the table, but no row (a row's header keeps the slot that it was admitted to).

`drb.buffer.editing` has what a buffer does between rounds: saving and loading, erasing and editing.

Letters: B rows of a minibatch, A admitted, n stored, M capacity, K words of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import TypeAlias

import numpy as np
from torch import Tensor

from drb.buffer.admission import NOTHING, Admission, Columns, Decision, Offer
from drb.buffer.checked_admission import checked_admit
from drb.buffer.expiry import Expiry
from drb.buffer.positions import TableChange
from drb.buffer.record import ROUND, SAMPLE_ID, SLOT, STRATUM, RecordSpec
from drb.buffer.snapshot import RowWatch
from drb.buffer.spares import SpareRows
from drb.buffer.staged import Staged, Undecided, offered_again
from drb.types import Int64Array, Minibatch

# At most, whatever is configured: key, id, stratum, round, time and row of a slot, and where keys find it; its row,
# stratum and order in the table of rounds; two tables for peers; its entry in the set of ids, once grown, and its id.
COLUMN_BYTES = 8 * (6 + 2 + 3 + 2) + 107 + 32
INDEX_BYTES = 144 + 32  # of a slot in the dictionary of ids, once grown, which buffers with refreshed fields have

Write: TypeAlias = Callable[[Mapping[str, Tensor], Int64Array, Int64Array], None]
_NOWHERE: Int64Array = np.empty(0, np.int64)


class Buffer:
    """Stores at most `capacity` records in `rows`, int64 [capacity + spare rows, spec.words], owned by the caller.

    expiry: how old exemplars may become; rows that are free again are then zeroed, too.
    write: gives another way to write `values[selected]` of fields into rows `where`, for values on a device.
    """

    def __init__(
        self,
        spec: RecordSpec,
        capacity: int,
        rows: Int64Array,
        admission: Admission,
        *,
        expiry: Expiry | None = None,
    ) -> None:
        if rows.shape[1] != spec.words or len(rows) < capacity:
            raise ValueError(f"rows must be [at least {capacity}, {spec.words}], got {list(rows.shape)}")
        self.spec = spec
        self.capacity = capacity
        self.rows = rows
        self._header = [rows[:, word] for word in (SAMPLE_ID, STRATUM, ROUND, SLOT)]
        self.size = 0  # committed exemplars; columns.size also counts the staged ones
        self._columns = Columns(capacity, timed=expiry is not None and expiry.is_time, indexed=bool(spec.refreshed))
        self._columns.stored = self.read
        self._expiry = expiry
        self.admission = admission
        self._admit_offer = checked_admit(admission)
        self._slot_row: Int64Array = np.zeros(capacity, np.int64)
        self._changed: list[Int64Array] = []  # slots, since the last round was handed in
        self._has_shrunk = False  # some of them may be beyond the end
        self._spares = SpareRows(len(rows))
        self._staged = Staged(NOTHING, _NOWHERE, 0, set())
        self._reads: tuple[str, ...] = tuple(admission.reads)
        self._undecided = Undecided(spec, self._reads) if self._reads else None
        self._watch: RowWatch | None = None  # from the first lazy state on
        self.write: Callable[[], Write | None] | None = None

    def stage(self, minibatch: Minibatch, offer: Offer) -> int:
        """Decide on a minibatch and copy what is admitted into spare rows; it is visible after the next commit.

        If the policy reads late fields, it decides when those are attached.
        minibatch: the record's fields except late ones, checked, on the CPU. Returns how many are admitted by now.
        """
        if self._undecided is not None:
            self._staged = Staged(NOTHING, _NOWHERE, len(offer), set(self.spec.required_late))
            self._undecided.fill(minibatch, offer)
            return self._decide(self._undecided)
        decision = self._admit_offer(self._columns, offer) if self.capacity else NOTHING
        if len(decision.rows) or self.spec.refreshed:
            self._admit(decision, offer, self.spec.required_late)
            if self.spec.refreshed:
                self._stage_again(offer)
        else:
            self._staged = Staged(NOTHING, _NOWHERE, len(offer.sample_id), set(self.spec.required_late))
        if len(self._staged.where):
            self._write(minibatch, self._staged.decision.rows, self._staged.where)
        return len(decision.rows)

    def attach(self, late_fields: Mapping[str, Tensor]) -> None:
        """Give the staged minibatch its late fields, [B, …] each, checked, on the CPU."""
        if self._undecided is not None and self._undecided.is_pending:
            self._undecided.attach(late_fields)
            self._staged.lacking.difference_update(late_fields)
            self._decide(self._undecided)
            return
        staged = self._staged
        if len(staged.where):
            self._before_writing(staged.where)
            kept = late_fields.keys() - self.spec.refreshed if len(staged.again) else set()
            stored = staged.decision.rows, staged.where
            for names, places in ((kept, staged.admitted), (late_fields.keys() - kept, stored)):
                if names and len(places[1]):
                    self._write({name: late_fields[name] for name in names}, *places)
        staged.lacking.difference_update(late_fields)

    @property
    def reads(self) -> tuple[str, ...]:
        """The record's fields that the admission policy reads."""
        return self._reads

    @property
    def num_staged_rows(self) -> int:
        """The number of rows of the staged minibatch, admitted or not: late fields must have as many."""
        return self._staged.offered

    @property
    def has_staged(self) -> bool:
        """Whether something was admitted that is not committed yet."""
        return len(self._staged.where) > 0

    @property
    def lacks_late_fields(self) -> bool:
        """Whether the staged minibatch lacks late fields that every record must have."""
        return bool(self._staged.lacking)

    def require_late_fields(self) -> None:
        """Raise ValueError if the staged minibatch lacks some."""
        if self._staged.lacking:
            raise ValueError(
                f"the late fields {sorted(self._staged.lacking)} of the last minibatch were not attached; "
                "call rehearsal.attach(…) after every forward pass"
            )

    def commit(self) -> None:
        """Make the staged minibatch part of the buffer: the next round publishes it.

        Raises:
            ValueError: a late field was not attached.
        """
        self.require_late_fields()
        staged, self._staged = self._staged, Staged(NOTHING, _NOWHERE, 0, set())
        slots = staged.decision.slots
        if not len(slots):
            return
        replaced = slots[slots < self.size]
        if len(replaced):
            self._spares.retired.append(self._slot_row[replaced])
        self._slot_row[slots] = staged.where
        self._changed.append(slots)
        self.size += len(slots) - len(replaced)

    def hand_in(self) -> TableChange:
        """Return what the round that now begins is to publish: what was committed since the last one."""
        self._spares.hand_in()
        if not self._changed:
            return TableChange(_NOWHERE, _NOWHERE, _NOWHERE, self.size)
        slots = self._changed[0] if len(self._changed) == 1 else np.concatenate(self._changed)
        slots = slots[slots < self.size] if self._has_shrunk else slots
        self._changed, self._has_shrunk = [], False
        rows = self._slot_row[slots]
        # columns know the staged ones already
        strata = self.rows[rows, STRATUM] if len(self._staged.where) else self._columns.stratum[slots]
        return TableChange(slots, rows, strata, self.size)

    def release(self) -> None:
        """The oldest round in flight has ended: rows that were retired before it may be written again."""
        rows = self._spares.release()
        if self._expiry is not None:
            self._zero(rows)

    def expire(self, step: int) -> None:
        """Remove what is older than it may be in step `step`. After `commit`."""
        if self._expiry is not None:
            self.remove(self._expiry.due(self._columns, step))

    def remove(self, slots: Int64Array) -> None:
        """Free these slots, int64 [D], ascending. After `commit`."""
        if not len(slots):
            return
        assert not len(self._staged.where), "remove() between stage() and commit()"
        removal = self.admission.remove(self._columns, slots)
        self._columns.remove(removal)
        if self._expiry is not None:
            self._expiry.moved(self._columns, removal)
        self._spares.retired.append(self._slot_row[slots])
        self._slot_row[removal.targets] = self._slot_row[removal.sources]
        self._changed.append(removal.targets)
        self.size = self._columns.size
        self._has_shrunk = True

    def read(self, name: str, slots: Int64Array) -> Tensor:
        """Return one field of the exemplars in these slots: [n, *shape] on the CPU, a copy."""
        return self.spec.read(name, self.rows, self._slot_row[slots])

    @property
    def denied(self) -> Int64Array:
        """Ids that are never stored again: int64, ascending."""
        return self._columns.denied

    def deny(self, sample_ids: Int64Array) -> None:
        """Never store these ids again; the policy forgets them. Those that are stored stay until they are removed."""
        self._columns.deny(sample_ids)
        if len(sample_ids):
            self.admission.forget(self._columns)

    def _zero(self, rows: Int64Array) -> None:
        if len(rows):
            self._before_writing(rows)
            self.rows[rows] = 0

    def _decide(self, undecided: Undecided) -> int:
        """Decide on what is undecided, if all fields that the policy reads are there; how many are admitted."""
        lacking = self._staged.lacking
        if not lacking.isdisjoint(self._reads):
            return 0
        offer = undecided.offer_with_fields()
        decision = self._admit_offer(self._columns, offer) if self.capacity else NOTHING
        where = self._admit(decision, offer, lacking)
        self._before_writing(where)
        self.rows[where] = undecided.rows[decision.rows]
        self.rows[where, SLOT] = decision.slots
        if self.spec.refreshed and len(again := self._stage_again(offer)):
            rows = self.rows[again]
            self.spec.refresh(rows, undecided.rows[self._staged.decision.rows[self._staged.again]])
            self.rows[again] = rows
        undecided.done()
        return len(where)

    def _admit(self, decision: Decision, offer: Offer, lacking: Set[str]) -> Int64Array:
        """Give the admitted rows their slots and spare rows with headers; those, int64 [A]. lacking: late fields."""
        num_admitted, offered = len(decision.rows), len(offer.sample_id)
        if num_admitted > len(self._spares.free):
            raise ValueError(
                f"a minibatch of {offered} rows is larger than this buffer was made for; give the largest "
                "minibatch's size as batch_size="
            )
        where = self._spares.take(num_admitted)
        self._staged = Staged(decision, where, offered, set(lacking))
        if num_admitted:
            self._columns.put(decision.slots, offer, decision.rows)  # while caches have what the policy looked at
            if self._expiry is not None:
                self._expiry.stamp(self._columns, decision.slots)
            self._before_writing(where)
            self._write_headers(offer, decision, where)
            if self.spec.counted:
                self.spec.clear_optional(self.rows, where)
        return where

    def _stage_again(self, offer: Offer) -> Int64Array:
        """Copy the records of stored samples that are offered again, to be refreshed; the copies, int64 [n]."""
        rows, slots = offered_again(self._columns, offer, self._staged.decision)
        where = self._spares.take(len(rows))
        if len(rows):
            self._before_writing(where)
            self.rows[where] = self.rows[self._slot_row[slots]]
            self._staged = self._staged.with_again(rows, slots, where)
        return where

    def pack(self, fields: Mapping[str, Tensor], selected: Int64Array, where: Int64Array) -> None:
        """Write `fields[name][selected]`, of tensors on the CPU, into the rows `where`; int64 [A] each."""
        if isinstance(self.rows, np.ndarray):
            self.spec.pack_all(fields, selected, self.rows, where)
            return
        rows = self.rows[where]  # on a device they are written as a whole
        self.spec.pack_all(fields, selected, rows, np.arange(len(where)))
        self.rows[where] = rows

    def _write(self, fields: Mapping[str, Tensor], selected: Int64Array, where: Int64Array) -> None:
        write = None if self.write is None else self.write()
        if write is None:
            self.pack(fields, selected, where)
        else:
            write(fields, selected, where)

    def _before_writing(self, where: Int64Array) -> None:
        """Whatever writes to rows says so first: an open snapshot may still need them."""
        if self._watch is not None:
            self._watch.before_writing(where)

    def _write_headers(self, offer: Offer, decision: Decision, where: Int64Array) -> None:
        sample_id, stratum, round_, slot = self._header  # [A, 4] takes longer
        sample_id[where] = offer.sample_id[decision.rows]
        stratum[where] = offer.stratum[decision.rows]
        round_[where] = offer.round
        slot[where] = decision.slots
