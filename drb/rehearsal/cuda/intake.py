"""Intake of minibatches and late fields that lie on a device: they are sent for when they are given, and decided on
one step later, when they have arrived, before anything else happens to the buffer.

Nothing is lost by that: minibatch t is committed in step t+1, on the host path as well, and what admission decides
depends on the minibatch and the buffer alone. So draws and contents equal those of the host path, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from drb.buffer.buffer import Buffer
from drb.rehearsal.cuda.device import Device
from drb.rehearsal.cuda.incoming import Incoming
from drb.rehearsal.intake import Intake
from drb.types import Minibatch


class DeferredIntake:
    """max_rows: of a minibatch. Used on the training thread."""

    def __init__(self, device: Device, intake: Intake, buffer: Buffer, max_rows: int) -> None:
        self._device = device
        self._intake = intake
        self._buffer = buffer
        self._max_rows = max_rows
        self._minibatch, self._late = Incoming(device, max_rows), Incoming(device, max_rows)
        self._step = self._num_rows = 0  # of the pending minibatch

    def takes(self, values: Mapping[str, Tensor]) -> bool:
        """Whether some of them are on the device."""
        return any(map(self._device.owns, values.values()))

    def check(self, minibatch: Minibatch) -> None:
        """Raises ValueError as `Intake.take` would, for which no values are needed."""
        self._intake.check(minibatch, self._buffer.spec, self._max_rows)

    def begin(self, minibatch: Minibatch, step: int) -> None:
        """Send for a checked minibatch. The next `settle` stages it as one of this step."""
        self._minibatch.begin(minibatch)
        self._step, self._num_rows = step, next(iter(minibatch.values())).shape[0]

    def attach(self, late_fields: Mapping[str, Tensor]) -> None:
        """Send for late fields of the last minibatch, pending or staged.

        Raises:
            ValueError: they are not the schema's, or have other rows; nothing was attached.
        """
        is_pending = self._minibatch.is_pending
        num_rows = self._num_rows if is_pending else self._buffer.num_staged_rows
        self._buffer.spec.check(late_fields, num_rows, late=True)
        if self._late.is_pending:
            self.settle()  # given twice: the last counts
        self._late.begin(dict(late_fields))

    def settle(self) -> None:
        """Decide on what was given. Waits for its copy to the host, which was queued a step ago."""
        if self._minibatch.is_pending:
            arrived = self._minibatch.finish()
            offer, fields = self._intake.take(arrived, self._buffer.spec, self._max_rows, self._step)
            self._buffer.stage(fields, offer)
        if self._late.is_pending:
            self._buffer.attach(self._late.finish())

    def erase(self) -> None:
        """Zero what arrived last. After `settle`."""
        self._minibatch.erase()
        self._late.erase()
