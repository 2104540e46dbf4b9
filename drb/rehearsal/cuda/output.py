"""Extending a minibatch on the device: as `drb.rehearsal.output`, with exemplars that a delivery has brought there.

Everything is queued on the caller's stream, and nearly all of it at once: one kernel for each size of word copies the
minibatch into its snapshot, and minibatch and exemplars into the output. The host waits for nothing. Who changes
streams between calls lets the new one wait for the old one, as for all memory that is used on both.

Letters: B rows of a minibatch, R exemplars.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from drb.buffer.field import Field
from drb.buffer.record import RecordSpec
from drb.rehearsal.cuda.device import Device
from drb.rehearsal.cuda.intake import DeviceIntake
from drb.rehearsal.cuda.lanes import ID, known_key
from drb.rehearsal.cuda.ring import DeviceRing
from drb.rehearsal.cuda.rows import RowLauncher
from drb.rehearsal.cuda.snapshots import Copies
from drb.rehearsal.exemplars import StepExemplars
from drb.types import Exemplars, Minibatch

_SLOTS = 2  # what is returned is overwritten two calls later


@dataclass(frozen=True)
class _Views:
    """Where one shape of step reads and writes: made once, since slicing takes longer than queueing a copy.

    output: every field [B + R, …], and `rehearsed`. own: of each field, the output's first B rows and, unless it has a
    codec, their words. exemplars: the words of its last R from theirs, of each field without a codec. encoded: a field
    with a codec, its exemplars as stored, the output's last R rows.
    """

    output: Minibatch
    own: list[tuple[str, Tensor, Tensor | None]]
    exemplars: Copies
    encoded: list[tuple[Field, Tensor, Tensor]]


class DeviceExtension:
    """Two outputs of max_rows + exemplars rows per field, used alternately.

    outlet: brings the exemplars. exemplars: the most of a step; sample_id: the ids' field.
    """

    def __init__(
        self,
        outlet: DeviceRing | RowLauncher,
        intake: DeviceIntake,
        spec: RecordSpec,
        max_rows: int,
        exemplars: int,
        sample_id: str | None,
    ) -> None:
        self._device = device = outlet.device
        self._outlet, self._intake, self._spec = outlet, intake, spec
        lanes = outlet.side.block_lanes
        shapes = {name: (field.shape, field.dtype) for name, field in spec.fields.items() if not field.late}
        self._names = {name: name for name in shapes}  # of a field among the outlet's
        if sample_id is not None:
            shapes[sample_id], self._names[sample_id] = ((), torch.int64), ID
        self._lanes = {
            name: lanes[stored] for name, stored in self._names.items() if stored in lanes and name not in spec.encoded
        }
        self._most = exemplars
        self._decoded: Minibatch = {}  # fields with a codec, of exemplars that are returned by themselves
        rows = max_rows + exemplars
        self._outputs = [{name: device.empty((rows, *s), d) for name, (s, d) in shapes.items()} for _ in range(_SLOTS)]
        self._stored = outlet.fields
        self._views: dict[tuple[int, int, int, int, int], _Views] = {}
        self._masks: dict[tuple[int, int], Tensor] = {}
        self._turn = 0

    def extend(self, minibatch: Minibatch, exemplars: StepExemplars | None) -> Minibatch:
        """The minibatch's B rows and behind them the R exemplars: every field [B + R, …] and `rehearsed` bool [B + R].

        All on the device, wherever the minibatch lies. `rehearsed` is shared between steps: do not write to it.
        """
        self._turn = (self._turn + 1) % _SLOTS
        num_rows, block, first, count = next(iter(minibatch.values())).shape[0], 0, 0, 0
        if exemplars:
            block, first, count = exemplars.block, exemplars.first, len(exemplars)
            self._outlet.receive(block)
        views = self._views_of(block, first, num_rows, count)
        copies, words = self._intake.copies, self._intake.words
        for name, output, target in views.own:
            source = words.get(name)
            if source is None or target is None:  # on the host, or stored with a codec
                self._device.copy(output, minibatch[name].detach())
            else:
                copies.add(target, source)
        copies.add_all(views.exemplars)
        for field, stored, rehearsed in views.encoded:
            self._device.decode(field, stored, rehearsed)
        self._outlet.read_until(self._intake.send())
        return dict(views.output)

    def named(self, exemplars: StepExemplars) -> Exemplars:
        """The exemplars as `StepExemplars.named` returns them, on the device except for the handle."""
        first, last, block = exemplars.first, exemplars.first + len(exemplars), exemplars.block
        self._outlet.receive(block)
        self._outlet.read_until(None)  # by whom they are given to
        self._outlet.fill_headers(block, last)
        stored, on_host = self._stored[block], exemplars.named({}, {})
        columns = self._device.empty_pinned((3, len(exemplars)), torch.int64)
        columns[0], columns[1] = on_host.stratum, on_host.age
        columns[2].view(torch.float32)[: len(exemplars)] = on_host.weight
        stratum, age, weight = _bring(self._device, columns)
        return Exemplars(
            fields={
                name: self._values_of(name, field, stored, first, last) for name, field in self._spec.fields.items()
            },
            sample_id=stored[ID][first:last],
            stratum=stratum,
            weight=weight.view(torch.float32)[: len(exemplars)],
            age=age,
            handle=on_host.handle,
            draws=on_host.draws,
            known={name: stored[known_key(name)][first:last] for name in self._spec.counted},
        )

    def erase(self) -> None:
        """Zero what was returned last and before."""
        for outputs in self._outputs:
            for output in outputs.values():
                self._device.zero(output)
        for values in self._decoded.values():
            self._device.zero(values)

    def _values_of(self, name: str, field: Field, stored: Minibatch, first: int, last: int) -> Tensor:
        """One field of a block's rows; one with a codec is decoded into memory of its own."""
        if name not in stored:  # a field of no bytes
            return self._device.empty((last - first, *field.shape), field.dtype)
        if field.codec is None:
            return stored[name][first:last]
        if name not in self._decoded:
            self._decoded[name] = self._device.empty((self._most, *field.shape), field.dtype)
        values = self._decoded[name][: last - first]
        self._device.decode(field, stored[name][first:last], values)
        return values

    def _views_of(self, block: int, first: int, num_rows: int, count: int) -> _Views:
        key = (self._turn, block, first, num_rows, count)
        if key not in self._views:
            outputs = {name: output[: num_rows + count] for name, output in self._outputs[self._turn].items()}
            words = {name: lane.of_values(outputs[name]) for name, lane in self._lanes.items()}
            stored = self._stored[block]
            copies, encoded = Copies(), []
            for name in outputs if count else ():
                if name in words:
                    source = stored[self._names[name]][first : first + count]
                    copies.add(words[name][num_rows:], self._lanes[name].of_values(source))
                elif name in self._spec.encoded:
                    source = stored[name][first : first + count]
                    encoded.append((self._spec.fields[name], source, outputs[name][num_rows:]))
            own: list[tuple[str, Tensor, Tensor | None]] = [
                (name, output[:num_rows], words[name][:num_rows] if name in words else None)
                for name, output in outputs.items()
                if num_rows
            ]
            outputs["rehearsed"] = self._mask(num_rows, count)
            self._views[key] = _Views(outputs, own, copies, encoded)
        return self._views[key]

    def _mask(self, num_rows: int, num_exemplars: int) -> Tensor:
        shape = (num_rows, num_exemplars)
        if shape not in self._masks:
            mask = self._device.empty_pinned((num_rows + num_exemplars,), torch.bool)
            mask[:] = torch.arange(num_rows + num_exemplars) >= num_rows
            self._masks[shape] = _bring(self._device, mask)
        return self._masks[shape]


def _bring(device: Device, value: Tensor) -> Tensor:
    """The values of page-locked memory on the device, for the current stream; the host does not wait."""
    moved = device.empty(tuple(value.shape), value.dtype)
    device.copy(moved, value)
    return moved
