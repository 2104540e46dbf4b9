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
from dataclasses import dataclass, field

import torch
from torch import Tensor

from drb.buffer.buffer import Buffer
from drb.rehearsal.cuda.device import Device
from drb.rehearsal.cuda.incoming import Incoming
from drb.rehearsal.cuda.landing import Admitted
from drb.rehearsal.cuda.lanes import Lane
from drb.rehearsal.cuda.side import DeviceSide
from drb.rehearsal.intake import Intake
from drb.types import Int64Array, Minibatch


@dataclass
class Copies:
    """Copies within the device that are queued together: by the dtype of words, targets and sources [*, n] each."""

    pairs: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = field(default_factory=dict)

    def add(self, target: Tensor, source: Tensor) -> None:
        """target[...] = source, of the same shape and dtype."""
        targets, sources = self.pairs.setdefault(source.dtype, ([], []))
        targets.append(target)
        sources.append(source)

    def run(self, device: Device) -> None:
        """Queue them, and forget them."""
        for targets, sources in self.pairs.values():
            device.copy_all(targets, sources)
        self.pairs.clear()


class Snapshots:
    """Memory for so many minibatches on the device, used in turn; max_rows of every field.

    given, read: of each place, the events that its contents are complete, and that nothing reads them any more.
    """

    def __init__(self, side: DeviceSide, lanes: Mapping[str, Lane], max_rows: int) -> None:
        self._device, self._landing, device = side.device, side.landing, side.device
        self._fields = [
            {
                name: device.empty((max_rows, *lane.shape), lane.value_dtype, [side.stream])
                for name, lane in lanes.items()
            }
            for _ in range(side.places)
        ]
        self.given, self.read = ([device.event() for _ in range(side.places)] for _ in range(2))
        self._lanes = lanes
        self._views: dict[
            tuple[int, str, int], tuple[Tensor, Tensor]
        ] = {}  # made once: slicing takes longer than copying
        self._admitted: list[Admitted | None] = [None] * side.places  # what reads each place
        self.place = 0

    def next(self) -> None:
        """Go on to the next place; what is queued on the current stream from now on may write there."""
        self.place = (self.place + 1) % len(self.given)
        reader, self._admitted[self.place] = self._admitted[self.place], None
        if reader is not None:
            if not reader.has_landed:  # late fields were given many times
                self._landing.land(wait=False)
            self._device.current().wait_event(self.read[self.place])

    def of(self, name: str, rows: int) -> Tensor:
        """This place's memory for a field, [rows, …]."""
        return self._view(name, rows)[0]

    def words_of(self, name: str, rows: int) -> Tensor:
        """The same as words, [rows, n]."""
        return self._view(name, rows)[1]

    def _view(self, name: str, rows: int) -> tuple[Tensor, Tensor]:
        key = (self.place, name, rows)
        if key not in self._views:
            values = self._fields[self.place][name][:rows]
            self._views[key] = (values, self._lanes[name].of_values(values))
        return self._views[key]

    def admitted(self, selected: Int64Array, where: Int64Array) -> Admitted:
        """What is to be read of this place."""
        reader = Admitted(selected, where, self.given[self.place], self.read[self.place])
        self._admitted[self.place] = reader
        return reader

    def erase(self) -> None:
        """Zero all of them, on the current stream."""
        for place, fields in enumerate(self._fields):
            self._device.current().wait_event(self.read[place])
            for value in fields.values():
                self._device.zero(value)


class DeviceIntake:
    """Takes minibatches to the device, and from there to the buffer. Used on the training thread.

    max_rows: of a minibatch.

    copies: what is queued together with the snapshots; whoever else adds to it does so before `send`.
    snapshots: the fields of the minibatch that was given last, on the device where they have any bytes.
    words: of those, what to copy from, [B, n] words on the device, which is as it was given where that can be.
    """

    def __init__(self, side: DeviceSide, intake: Intake, buffer: Buffer, max_rows: int) -> None:
        self.copies = Copies()
        self.snapshots: dict[str, Tensor] = {}
        self.words: dict[str, Tensor] = {}
        self._device, self._landing, self._lanes = side.device, side.landing, side.lanes
        self._intake, self._buffer = intake, buffer
        self._max_rows = max_rows
        self._stores_there = side.rows is not None
        device, late = side.device, buffer.spec.late
        self._prompt = Snapshots(side, {n: lane for n, lane in side.lanes.items() if n not in late}, max_rows)
        self._late = Snapshots(side, {n: lane for n, lane in side.lanes.items() if n in late}, max_rows)
        # fields that the host writes into rows; all of them, if the policy reads some, since it then decides on records
        self._by_host = tuple(buffer.spec.fields) if buffer.reads else (*buffer.spec.encoded, *buffer.spec.counted)
        self._to_host, self._late_to_host = (Incoming(device, max_rows, side.stream) for _ in range(2))
        self._decides: list[str] = []  # fields that admission decides on, of the pending minibatch
        self._keys = device.empty((2, max_rows), torch.int64)
        self._keys_here = device.empty_pinned((2, max_rows), torch.int64)
        self._pending: Minibatch | None = None  # undecided
        self._pending_late: dict[str, Tensor] | None = None
        self._step = self._num_rows = 0
        self._is_sent = True
        self._collected: list[Admitted] = []  # given to the landing once their snapshots are queued
        buffer.write = weakref.WeakMethod(self._write)  # or they would keep each other, and memory of the device

    def check(self, minibatch: Minibatch) -> None:
        """Raises ValueError as `Intake.take` would, for which no values are needed."""
        self._intake.check(minibatch, self._buffer.spec, self._max_rows)

    def stage(self, minibatch: Minibatch, step: int) -> None:
        """Take over a checked minibatch of this step, and decide on it if the host knows its ids and strata."""
        self._num_rows, self._step, self._is_sent = next(iter(minibatch.values())).shape[0], step, False
        self._prompt.next()
        self.words.clear()
        self.snapshots = {name: self._snapshot(self._prompt, name, value) for name, value in minibatch.items()}
        self._decides = self._intake.decides_on(minibatch)
        by_host = {name: minibatch[name] for name in self._by_host if name in minibatch}
        if not any(self._device.owns(minibatch[name]) for name in (*self._decides, *by_host)):
            self._decide({**self.snapshots, **by_host, **{name: minibatch[name] for name in self._decides}})
            return
        if by_host:
            self._to_host.begin(by_host)
        for row, name in enumerate(self._decides):
            self._queue_key(row, minibatch[name])
        self._pending = {**self.snapshots, **{name: minibatch[name] for name in self._decides}}

    def send(self) -> None:
        """All that reads the minibatch has been queued or is in `copies`: queue those, and what the host is to know."""
        self.copies.run(self._device)
        if self._is_sent:
            return
        self._is_sent = True
        if self._pending is not None:
            self._device.copy(self._keys_here, self._keys)
        self._prompt.given[self._prompt.place].record(self._device.current())
        for admitted in self._collected:
            self._landing.give(admitted)
        self._collected.clear()

    def attach(self, late_fields: Mapping[str, Tensor]) -> None:
        """Take over late fields of the last minibatch, wherever they lie.

        Raises:
            ValueError: they are not the schema's, or have other rows; nothing was attached.
        """
        self._buffer.spec.check(
            late_fields, self._num_rows if self._pending is not None else self._buffer.num_staged_rows, late=True
        )
        self._late.next()
        snapshots = {name: self._snapshot(self._late, name, value) for name, value in late_fields.items()}
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
            pending, self._pending = self._pending, None
            if self._to_host.is_pending:
                pending |= self._to_host.finish()
            for row, name in enumerate(self._decides):
                pending[name] = self._keys_here[row, : self._num_rows].to(pending[name].dtype)
            self._decide(pending)
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

    def _decide(self, minibatch: Minibatch) -> None:
        offer, fields = self._intake.take(minibatch, self._buffer.spec, self._max_rows, self._step)
        self._buffer.stage(fields, offer)
        self._hand_over()

    def _attach(self, snapshots: dict[str, Tensor]) -> None:
        self._buffer.attach(snapshots)
        self._hand_over()

    def _write(self, fields: Mapping[str, Tensor], selected: Int64Array, where: Int64Array) -> None:
        """The buffer's way of writing: from the host at once, from the device by the landing."""
        if self._stores_there:  # strata are known on the host, too
            fields = {n: self.snapshots.get(n, v) if n in self._decides else v for n, v in fields.items()}
        here = {name: values for name, values in fields.items() if not self._device.owns(values) and values.numel()}
        if here:
            self._buffer.pack(here, selected, where)
        for name, values in fields.items():
            if name in self._lanes and name not in here:
                snapshots = self._late if name in self._buffer.spec.late else self._prompt
                last = self._collected[-1] if self._collected else None
                if last is None or last.given is not snapshots.given[snapshots.place] or last.where is not where:
                    self._collected.append(snapshots.admitted(selected, where))
                self._collected[-1].words[name] = snapshots.words_of(name, values.shape[0])

    def _hand_over(self) -> None:
        """What was collected may be read from now on, unless its snapshot is still to be queued."""
        if self._is_sent:
            for admitted in self._collected:
                self._landing.give(admitted)
            self._collected.clear()

    def _snapshot(self, snapshots: Snapshots, name: str, value: Tensor) -> Tensor:
        """A field's copy on the device, queued or in `copies`."""
        lane = self._lanes.get(name)
        value = value.detach() if value.requires_grad else value
        if lane is None or not value.numel():  # the sample id, a field of no bytes, or one that the host stores
            is_id = name not in self._buffer.spec.fields
            if is_id and value.dtype == torch.int64 and self._device.owns(value) and value.is_contiguous():
                self.words[name] = value[:, None]
            return value
        snapshot = snapshots.of(name, value.shape[0])
        words = snapshots.words_of(name, value.shape[0])
        if self._device.owns(value) and lane.fits(value):
            self.words[name] = lane.of_values(value)
            self.copies.add(words, self.words[name])
        else:
            self._device.copy(snapshot, value)
            self.words[name] = words
        return snapshot

    def _queue_key(self, row: int, value: Tensor) -> None:
        """One of the fields that are decided on, int64 on the device whatever it was."""
        target = self._keys[row, : value.shape[0]]
        if value.dtype == torch.int64 and self._device.owns(value) and value.is_contiguous():
            self.copies.add(target, value)
        else:
            self._device.copy(target, value)
