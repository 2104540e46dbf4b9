"""Fetched exemplars on the way to a device: one device block for each block that rounds fetch into.

    worker            wait for `ready` → fetch into the pinned block → queue its copy
    side stream       wait for `consumed` → copy to the device block → ready
    training's stream wait for `ready` → read … → consumed, at the next turn

Only the worker ever waits on the host, and only for a copy made as many rounds ago as there are blocks.

Letters: N blocks, R rows of a block, K words of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drb.exchange import Exchange
from drb.rehearsal.cuda.device import Device
from drb.rehearsal.delivery import Delivery
from drb.types import Int64Array


class DeviceRing(Delivery):
    """host_blocks: int64 [N, R, K], page-locked: what rounds fetch into. blocks: as many on the device."""

    def __init__(self, device: Device, exchange: Exchange, host_blocks: Int64Array) -> None:
        super().__init__(exchange, host_blocks)
        self.device = device
        self._stream = device.side_stream()
        self._pinned = torch.from_numpy(host_blocks)
        self.blocks: Tensor = device.empty(tuple(host_blocks.shape), torch.int64, used_on=[self._stream])
        self._ready = [device.event() for _ in host_blocks]
        self._consumed = [device.event() for _ in host_blocks]

    @property
    def device_bytes(self) -> int:
        return self.blocks.nbytes

    # -- on the worker, or whoever fetches

    def fetch(self, owners: Int64Array, positions: Int64Array, block: int) -> None:
        """Fetch into the pinned block, once its last copy is done, and queue the copy to the device."""
        self.device.enter()
        self._ready[block].synchronize()
        super().fetch(owners, positions, block)
        self.send(block, len(positions))

    def send(self, block: int, num_rows: int) -> None:
        """Queue the copy of the pinned block's first rows to the device, after the readers of what it held before."""
        self.device.enter()
        self._stream.wait_event(self._consumed[block])
        if num_rows:
            self.device.copy(self.blocks[block, :num_rows], self._pinned[block, :num_rows], self._stream)
        self._ready[block].record(self._stream)

    # -- on the training thread

    def receive(self, block: int) -> None:
        """What is queued on the current stream from now on may read the device block. The host does not wait."""
        self.device.current().wait_event(self._ready[block])

    def mark(self, block: int) -> None:
        """Everything that reads the device block has been queued on the current stream by now."""
        self._consumed[block].record(self.device.current())

    def fill_headers(self, block: int, num_rows: int) -> None:
        """Nothing: the host's block has the rows."""

    def restore(self, block: int) -> None:
        """The host's block was written: take it to the device."""
        self.send(block, self.blocks.shape[1])

    def erase(self) -> None:
        self._settle()
        super().erase()
        for block in range(len(self.blocks)):
            self.restore(block)
        self._settle()

    def _settle(self) -> None:
        """Return once no copy is under way and nothing that was queued reads a block."""
        for block in range(len(self.blocks)):
            self.receive(block)
            self.mark(block)
            self._consumed[block].synchronize()
