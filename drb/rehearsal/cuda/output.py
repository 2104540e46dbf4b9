"""Extending a minibatch on the device: as `drb.rehearsal.output`, with exemplars that the ring has brought there.

Everything is queued on the caller's stream; the host waits for nothing, except that host fields are taken by way of
page-locked memory whose last copy, two calls ago, must be done. Who changes streams between calls lets the new one wait
for the old one, as for all memory that is used on both.

Letters: B rows of a minibatch, R exemplars.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drb.buffer.record import SAMPLE_ID, STRATUM, RecordSpec
from drb.rehearsal.cuda.device import bring
from drb.rehearsal.cuda.ring import DeviceRing
from drb.rehearsal.cuda.rows import RowLauncher
from drb.rehearsal.exemplars import StepExemplars
from drb.types import Exemplars, Minibatch

_SLOTS = 2  # what is returned is overwritten two calls later


class DeviceExtension:
    """Two outputs of max_rows + exemplars rows per field, used alternately.

    outlet: brings the exemplars. exemplars: the most of a step; sample_id: the ids' field.
    """

    def __init__(
        self, outlet: DeviceRing | RowLauncher, spec: RecordSpec, max_rows: int, exemplars: int, sample_id: str | None
    ) -> None:
        self._device = device = outlet.device
        self._outlet = outlet
        self._spec = spec
        self._max_rows = max_rows
        self._most = exemplars
        self._decoded: Minibatch = {}  # fields with a codec of exemplars that are returned by themselves
        fields = {name: (field.shape, field.dtype) for name, field in spec.fields.items() if not field.late}
        if sample_id is not None:
            fields[sample_id] = ((), torch.int64)
        rows = max_rows + exemplars
        self._outputs = [{name: device.empty((rows, *s), d) for name, (s, d) in fields.items()} for _ in range(_SLOTS)]
        self._exemplars = []
        for block in outlet.blocks:
            views = {name: view for name, view in spec.stored_views(block).items() if name in fields}
            if sample_id is not None:
                views[sample_id] = block[:, SAMPLE_ID]
            self._exemplars.append(views)
        self._masks: dict[tuple[int, int], Tensor] = {}
        self._pinned: list[dict[str, Tensor]] = [{} for _ in range(_SLOTS)]
        self._sent = [device.event() for _ in range(_SLOTS)]  # copies from page-locked memory
        self._turn = 0

    def extend(self, minibatch: Minibatch, exemplars: StepExemplars | None) -> Minibatch:
        """The minibatch's B rows and behind them the R exemplars: every field [B + R, …] and `rehearsed` bool [B + R].

        All on the device, wherever the minibatch lies. `rehearsed` is shared between steps: do not write to it.
        """
        device, current = self._device, self._device.current()
        self._turn = (self._turn + 1) % _SLOTS
        num_rows, block, rows = next(iter(minibatch.values())).shape[0], 0, slice(0, 0)
        if exemplars:
            block, rows = exemplars.block, slice(exemplars.first, exemplars.first + len(exemplars))
            self._outlet.receive(block)
        extended, on_host = {}, {}
        for name, output in self._outputs[self._turn].items():
            extended[name] = output[: num_rows + rows.stop - rows.start]
            value, behind = minibatch[name].detach(), self._exemplars[block][name][rows]
            if name in self._spec.encoded:
                rehearsed = extended[name][num_rows:]
                if len(rehearsed):
                    device.decode(self._spec.fields[name], behind, rehearsed)
                if device.owns(value):
                    device.copy(extended[name][:num_rows], value, current)
                else:
                    on_host[name] = value
            elif device.owns(value):
                device.concatenate((value, behind), extended[name])
            else:
                on_host[name] = value
                device.copy(extended[name][num_rows:], behind, current)
        self._take_from_host(on_host, {name: extended[name][:num_rows] for name in on_host})
        return {**extended, "rehearsed": self._mask(num_rows, rows.stop - rows.start)}

    def named(self, exemplars: StepExemplars) -> Exemplars:
        """The exemplars as `StepExemplars.named` returns them, on the device except for the handle."""
        first, last, block = exemplars.first, exemplars.first + len(exemplars), exemplars.block
        self._outlet.receive(block)
        self._outlet.fill_headers(block, last)
        rows = self._outlet.blocks[block, first:last]
        on_host = exemplars.named({}, {})
        return Exemplars(
            fields=self._fields_of(rows),
            sample_id=rows[:, SAMPLE_ID],
            stratum=rows[:, STRATUM],
            weight=bring(self._device, on_host.weight),
            age=bring(self._device, on_host.age),
            handle=on_host.handle,
            draws=on_host.draws,
            known=self._spec.known(rows),
        )

    def erase(self) -> None:
        """Zero what was returned last and before."""
        for slot, outputs in enumerate(self._outputs):
            self._sent[slot].synchronize()
            for pinned in self._pinned[slot].values():
                pinned.zero_()
            for output in outputs.values():
                self._device.zero(output)
        for values in self._decoded.values():
            self._device.zero(values)

    def _fields_of(self, rows: Tensor) -> Minibatch:
        """Every field of these rows; those with a codec are decoded into memory of their own."""
        fields = self._spec.stored_views(rows)
        for name in self._spec.encoded:
            field, stored = self._spec.fields[name], fields[name]
            if name not in self._decoded:
                self._decoded[name] = self._device.empty((self._most, *field.shape), field.dtype)
            fields[name] = self._decoded[name][: len(rows)]
            self._device.decode(field, stored, fields[name])
        return fields

    def _take_from_host(self, values: Minibatch, targets: Minibatch) -> None:
        """Copy through memory that the caller cannot write to before it is read."""
        if not values:
            return
        self._sent[self._turn].synchronize()
        for name, value in values.items():
            pinned = self._pinned_for(name, value)[: len(value)]
            self._device.fill(pinned, value)
            self._device.copy(targets[name], pinned, self._device.current())
        self._sent[self._turn].record(self._device.current())

    def _pinned_for(self, name: str, value: Tensor) -> Tensor:
        homes = self._pinned[self._turn]
        if name not in homes or homes[name].dtype != value.dtype:
            homes[name] = self._device.empty_pinned((self._max_rows, *value.shape[1:]), value.dtype)
        return homes[name]

    def _mask(self, num_rows: int, num_exemplars: int) -> Tensor:
        shape = (num_rows, num_exemplars)
        if shape not in self._masks:
            self._masks[shape] = bring(self._device, torch.arange(num_rows + num_exemplars) >= num_rows)
        return self._masks[shape]
