"""Minibatches on the way from a device to the host, where admission decides on them one step later.

    caller's stream   … snapshot ─┐                      the caller may write to his tensors again
    side stream                   └→ copy to pinned memory → copied
    host              goes on at once; one step later waits for `copied`, which is long done

The snapshot is a copy within the device: microseconds, and then neither the life of the caller's tensors nor what he
writes to them matters, while his stream never waits for the slow copy to the host.

Letters: B rows of a minibatch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from drb.buffer.buffer import Buffer
from drb.rehearsal.cuda.device import Device, Stream
from drb.types import Minibatch


class Incoming:
    """At most one set of fields is on its way: `begin`, then `finish`. Used on one thread.

    max_rows: of a minibatch. The memory, max_rows of every field on either side, is allocated when a field is first
    seen, so that each is paid for once.
    """

    def __init__(self, device: Device, max_rows: int, stream: Stream | None = None) -> None:
        self._device = device
        self._max_rows = max_rows
        self._stream = stream or device.side_stream()
        self._snapshot_taken, self._copied = device.event(), device.event()
        self._homes: dict[tuple[str, torch.dtype, torch.Size], tuple[Tensor, Tensor]] = {}
        self._pending: Minibatch | None = None

    @property
    def is_pending(self) -> bool:
        return self._pending is not None

    def begin(self, fields: Minibatch) -> None:
        """Send for fields [B, …], some or all of them on the device. The host waits for nothing.

        Their memory is the caller's again: at once on the host, in his stream's order on the device.
        """
        assert self._pending is None, "begin() before finish()"
        device, current = self._device, self._device.current()
        pending, on_device = {}, []
        for name, value in fields.items():
            value = value.detach()
            pinned, snapshot = (home[: len(value)] for home in self._home(name, value))
            pending[name] = pinned
            if device.owns(value):
                device.copy(snapshot, value)
                on_device.append((pinned, snapshot))
            else:
                pinned.copy_(value)
        self._snapshot_taken.record(current)
        self._stream.wait_event(self._snapshot_taken)
        with device.on(self._stream):
            for pinned, snapshot in on_device:
                device.copy(pinned, snapshot)
            self._copied.record(self._stream)
        self._pending = pending

    def finish(self) -> Minibatch:
        """The fields in host memory, valid until the next `begin`. Waits for their copies."""
        assert self._pending is not None, "finish() without begin()"
        self._copied.synchronize()
        arrived, self._pending = self._pending, None
        return arrived

    def erase(self) -> None:
        """Zero both sides. Nothing may be pending."""
        assert self._pending is None, "erase() before finish()"
        for pinned, snapshot in self._homes.values():
            pinned.zero_()
            self._device.zero(snapshot)

    def _home(self, name: str, value: Tensor) -> tuple[Tensor, Tensor]:
        """Pinned memory and the snapshot's of one field, [max_rows, …] each."""
        key = (name, value.dtype, value.shape[1:])
        if key not in self._homes:
            shape = (self._max_rows, *value.shape[1:])
            self._homes[key] = (
                self._device.empty_pinned(shape, value.dtype),
                self._device.empty(shape, value.dtype, used_on=[self._stream]),
            )
        return self._homes[key]


class DeferredLate:
    """Late fields that lie on a device, of minibatches that lie on the host. Used on the training thread.

    They are sent for when they are given, and attached when they have arrived, before anything else happens to the
    buffer. max_rows: of a minibatch.
    """

    def __init__(self, device: Device, buffer: Buffer, max_rows: int) -> None:
        self._device = device
        self._buffer = buffer
        self._late = Incoming(device, max_rows)

    def takes(self, values: Mapping[str, Tensor]) -> bool:
        """Whether some of them are on the device."""
        return any(map(self._device.owns, values.values()))

    def attach(self, late_fields: Mapping[str, Tensor]) -> None:
        """Send for late fields of the last minibatch.

        Raises:
            ValueError: they are not the schema's, or have other rows; nothing was attached.
        """
        self._buffer.spec.check(late_fields, self._buffer.num_staged_rows, late=True)
        self.settle()  # given twice: the last counts
        self._late.begin(dict(late_fields))

    def settle(self) -> None:
        """Attach what was given. Waits for its copy to the host, which was queued a step ago."""
        if self._late.is_pending:
            self._buffer.attach(self._late.finish())

    def erase(self) -> None:
        """Zero what arrived last. After `settle`."""
        self._late.erase()
