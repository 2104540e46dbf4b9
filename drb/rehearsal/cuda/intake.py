"""Intake of minibatches and late fields on a device: only what admission decides on comes to the host.

    caller's stream   copy to a snapshot (and to the output) ─ ids and strata to page-locked memory ─ `given`
    host              goes on at once; one step later waits for `given`, which is long done, and decides
    worker            moves what was admitted from the snapshot into the buffer's rows: see `drb.rehearsal.cuda.landing`

Nothing is lost by deciding a step later: minibatch t is committed in step t+1, on the host path as well, and admission
depends on the minibatch and the buffer alone. So draws and contents equal those of the host path, bit for bit. Ids and
strata that lie on the host are decided on at once.

The snapshot is a copy within the device, or the one copy of host values to it. Then neither the life of the caller's
tensors nor what he writes to them matters; but page-locked host memory must not be written to until its copy is done,
as with `Tensor.to(non_blocking=True)`.

Letters: B rows of a minibatch.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping

import torch
from torch import Tensor

from drb.buffer.buffer import Buffer
from drb.rehearsal.cuda.device import Event
from drb.rehearsal.cuda.incoming import Incoming
from drb.rehearsal.cuda.landing import Admitted
from drb.rehearsal.cuda.side import DeviceSide
from drb.rehearsal.cuda.snapshots import Copies, Snapshots
from drb.rehearsal.intake import Intake
from drb.types import Int64Array, Minibatch


class DeviceIntake:
    """Takes minibatches to the device, and from there to the buffer. Used on the training thread.

    max_rows: of a minibatch.

    copies: what is queued together with the snapshots; whoever else adds to it does so before `send`.
    words: what to copy the fields of the last minibatch from, [B, n] words on the device: as it was given where that
    can be. Of the fields that lie there and have any bytes.
    """

    def __init__(self, side: DeviceSide, intake: Intake, buffer: Buffer, max_rows: int) -> None:
        self.copies = Copies()
        self.words: dict[str, Tensor] = {}
        self._device, self._landing, self._lanes = side.device, side.landing, side.lanes
        self._intake, self._buffer = intake, buffer
        self._id_field, self._stratum = intake.id_field, intake.stratum
        self._max_rows = max_rows
        self._stores_there = side.rows is not None
        # a sample that is offered again keeps some late fields: the host copies them, so they must have been written
        refreshed = buffer.spec.refreshed
        self._copies_records = bool(refreshed) and not self._stores_there and bool({*buffer.spec.late} - refreshed)
        device, late, stored = side.device, buffer.spec.late, {**side.lanes}
        stored.pop(side.counted_by or "", None)
        self._prompt = Snapshots(side, {n: lane for n, lane in stored.items() if n not in late}, max_rows)
        self._late = Snapshots(side, {n: lane for n, lane in stored.items() if n in late}, max_rows)
        # fields that the host writes into rows; all of them, if the policy reads some, since it then decides on records
        self._by_host = tuple(buffer.spec.fields) if buffer.reads else side.by_host
        self._to_host, self._late_to_host = (Incoming(device, max_rows, side.stream) for _ in range(2))
        self._keys = device.empty((2, max_rows), torch.int64)  # ids and strata
        self._keys_here = device.empty_pinned((2, max_rows), torch.int64)
        self._views_of_keys: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}  # by number of rows
        self._checked: tuple[Tensor | None, Tensor | None, Minibatch] = (None, None, {})
        self._strata_there: Tensor | None = None  # the last minibatch's, where the device writes them into rows
        self._pending: Minibatch | None = None  # undecided
        self._dtypes: tuple[torch.dtype | None, torch.dtype | None] = (None, None)  # of its ids and strata
        self._pending_late: dict[str, Tensor] | None = None
        self._step = self._num_rows = 0
        self._is_sent = True
        self._collected: list[Admitted] = []  # given to the landing once their snapshots are queued
        buffer.write = weakref.WeakMethod(self._write)  # or they would keep each other, and memory of the device

    def check(self, minibatch: Minibatch) -> None:
        """Check the minibatch that will be staged. Raises ValueError as `Intake.check`."""
        self._checked = self._intake.check(minibatch, self._buffer.spec, self._max_rows)

    def stage(self, minibatch: Minibatch, step: int) -> None:
        """Take over the checked minibatch of this step, and decide on it if the host knows its ids and strata."""
        (ids, strata, fields), self._checked = self._checked, (None, None, {})  # the caller's memory is not kept
        owns, rows = self._device.owns, next(iter(minibatch.values())).shape[0]
        self._num_rows, self._step, self._is_sent = rows, step, False
        self._prompt.next()
        self.words = {}
        views, there = self._prompt.views(rows), {}
        for name, value in fields.items():
            there[name] = self._snapshot(views, name, value)
        if self._stores_there and self._stratum is not None:
            self._strata_there = there.get(self._stratum)
        by_host = {name: fields[name] for name in self._by_host if name in fields} if self._by_host else {}
        is_id_there, is_stratum_there = ids is not None and owns(ids), strata is not None and owns(strata)
        if ids is not None and is_id_there and self._id_field is not None and _serves(ids):
            self.words[self._id_field] = ids
        if not (is_id_there or is_stratum_there or any(map(owns, by_host.values()))):
            self._decide({**there, **by_host}, ids, strata)
            return
        if by_host:
            self._to_host.begin(by_host)
        ids_there, strata_there, _, _ = self._keys_of(rows)
        if ids is not None:
            self._send_key(ids_there, ids, is_id_there)
        if strata is not None:
            self._send_key(strata_there, strata, is_stratum_there)
        self._dtypes = (None if ids is None else ids.dtype, None if strata is None else strata.dtype)
        self._pending = there

    def send(self) -> Event:
        """All that reads the minibatch has been queued or is in `copies`: queue those, and what the host is to know.

        Returns the event that all this is done, in the order of the current stream.
        """
        given = self._prompt.given[self._prompt.place]
        self.copies.run(self._device)
        if self._is_sent:
            return given
        self._is_sent = True
        if self._pending is not None:
            self._device.copy(self._keys_here, self._keys)
        given.record(self._device.current())
        for admitted in self._collected:
            self._landing.give(admitted)
        self._collected.clear()
        return given

    def attach(self, late_fields: Mapping[str, Tensor]) -> None:
        """Take over late fields of the last minibatch, wherever they lie.

        Raises:
            ValueError: they are not the schema's, or have other rows; nothing was attached.
        """
        self._buffer.spec.check(
            late_fields, self._num_rows if self._pending is not None else self._buffer.num_staged_rows, late=True
        )
        self._late.next()
        views = self._late.views(next(iter(late_fields.values())).shape[0])
        snapshots = {name: self._snapshot(views, name, value) for name, value in late_fields.items()}
        self.copies.run(self._device)
        self._late.given[self._late.place].record(self._device.current())
        by_host = {name: late_fields[name] for name in self._by_host if name in late_fields}
        if self._late_to_host.is_pending:
            self._late_to_host.finish()  # given twice: the last counts
        if self._pending is not None or any(map(self._device.owns, by_host.values())):
            self._pending_late = snapshots
            if by_host:
                self._late_to_host.begin(by_host)
        else:
            self._attach({**snapshots, **by_host})

    def settle(self) -> None:
        """Decide on what was given. Waits for ids and strata, whose copy to the host was queued a step ago."""
        if self._pending is not None:
            self._prompt.given[self._prompt.place].synchronize()
            values, self._pending = self._pending, None
            if self._to_host.is_pending:
                values |= self._to_host.finish()
            _, _, ids, strata = self._keys_of(self._num_rows)
            of_ids, of_strata = self._dtypes
            if of_strata not in (None, torch.int64):
                strata = strata.to(of_strata)
            self._decide(values, None if of_ids is None else ids, None if of_strata is None else strata)
        if self._pending_late is not None:
            late, self._pending_late = self._pending_late, None
            if self._late_to_host.is_pending:
                late |= self._late_to_host.finish()
            self._attach(late)

    def erase(self) -> None:
        """Zero what minibatches and late fields passed through. After `settle`, and when nothing is on its way."""
        self._keys_here.zero_()
        self._device.zero(self._keys)
        for passed in (self._prompt, self._late, self._to_host, self._late_to_host):
            passed.erase()

    def _decide(self, values: Minibatch, ids: Tensor | None, strata: Tensor | None) -> None:
        """ids, strata: integers [B] on the host. values: the record's fields, where they are to be written from."""
        if strata is not None and self._stratum is not None:
            values[self._stratum] = strata
        offer = self._intake.offer(ids, strata, self._num_rows, self._step)
        if self._copies_records:
            self._landing.land(wait=True)
        self._buffer.stage(values, offer)
        self._hand_over()

    def _attach(self, snapshots: dict[str, Tensor]) -> None:
        self._buffer.attach(snapshots)
        self._hand_over()

    def _write(self, fields: Mapping[str, Tensor], selected: Int64Array, where: Int64Array) -> None:
        """The buffer's way of writing: from the host at once, from the device by the landing."""
        stratum = self._stratum
        if stratum is not None and stratum in fields and self._strata_there is not None:  # known on the host, too
            fields = {**fields, stratum: self._strata_there}
        here = {name: values for name, values in fields.items() if not self._device.owns(values) and values.numel()}
        if here:
            self._buffer.pack(here, selected, where)
        for name, values in fields.items():
            if name in self._lanes and name not in here:
                snapshots = self._late if name in self._buffer.spec.late else self._prompt
                last = self._collected[-1] if self._collected else None
                if last is None or last.given is not snapshots.given[snapshots.place] or last.where is not where:
                    self._collected.append(snapshots.admitted(selected, where))
                self._collected[-1].words[name] = snapshots.views(values.shape[0])[name][1]

    def _hand_over(self) -> None:
        """What was collected may be read from now on, unless its snapshot is still to be queued."""
        if self._is_sent:
            for admitted in self._collected:
                self._landing.give(admitted)
            self._collected.clear()

    def _snapshot(self, views: Mapping[str, tuple[Tensor, Tensor]], name: str, value: Tensor) -> Tensor:
        """A field's copy on the device, queued or in `copies`; itself, if it has no bytes or the host stores it."""
        if value.requires_grad:
            value = value.detach()
        if name not in views or not value.numel():
            if name in self._lanes and _serves(value) and self._device.owns(value):
                self.words[name] = value
            return value
        snapshot, words = views[name]
        lane = self._lanes[name]
        if self._device.owns(value) and lane.fits(value):
            self.words[name] = source = lane.of_values(value)
            self.copies.add(words, source)
        else:
            self._device.copy(snapshot, value)
            self.words[name] = words
        return snapshot

    def _send_key(self, target: Tensor, value: Tensor, is_there: bool) -> None:
        """Ids or strata on their way to the host: int64 [B] on the device."""
        if is_there and _serves(value):
            self.copies.add(target, value)
        else:
            self._device.copy(target, value)

    def _keys_of(self, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids and strata of so many rows, int64 [B] each: on the device, and where they come to on the host."""
        if rows not in self._views_of_keys:
            there, here = self._keys[:, :rows], self._keys_here[:, :rows]
            self._views_of_keys[rows] = (there[0], there[1], here[0], here[1])
        return self._views_of_keys[rows]


def _serves(value: Tensor) -> bool:
    """Whether these integers are words that can be copied with others."""
    return value.dtype == torch.int64 and value.is_contiguous()
