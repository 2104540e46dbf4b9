"""Late fields that lie on a device, of minibatches that lie on the host.

They are sent for when they are given, and attached when they have arrived, before anything else happens to the buffer.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from drb.buffer.buffer import Buffer
from drb.rehearsal.cuda.device import Device
from drb.rehearsal.cuda.incoming import Incoming


class DeferredLate:
    """max_rows: of a minibatch. Used on the training thread."""

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
