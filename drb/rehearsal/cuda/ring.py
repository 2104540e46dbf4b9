"""Fetched exemplars on the way to a device: one device block for each block that rounds fetch into.

    worker            wait for `ready` → fetch into the pinned block → queue its copy
    side stream       wait for `consumed` → copy to the device block → ready
    training's stream wait for `ready` → read … → consumed, at the next turn

Only the worker ever waits on the host, and only for a copy made as many rounds ago as there are blocks. It is a round's
`Delivery`, and takes the place of its `ReuseFence`: `mark`, `wait` and `settle` mean the same.

Letters: N blocks, R rows of a block, K words of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drb.exchange import Exchange
from drb.rehearsal.cuda.device import Device
from drb.types import Int64Array


class DeviceRing:
    """blocks: int64 [N, R, K], page-locked: what rounds fetch into. The device holds as much."""

    launches = False

    def __init__(self, device: Device, exchange: Exchange, blocks: Int64Array) -> None:
        self.device = device
        self._exchange = exchange
        self._stream = device.side_stream()
        self._pinned = torch.from_numpy(blocks)
        self.blocks: Tensor = device.empty(tuple(blocks.shape), torch.int64, used_on=[self._stream])
        self._ready = [device.event() for _ in blocks]
        self._consumed = [device.event() for _ in blocks]

    @property
    def device_bytes(self) -> int:
        return self.blocks.nbytes

    # -- on the worker, or whoever fetches

    def wait(self, block: int) -> None:
        """Return once the pinned block may be written again."""
        self.device.enter()
        self._ready[block].synchronize()

    def fetch(self, owners: Int64Array, positions: Int64Array, block: int) -> None:
        """As `Exchange.fetch`, into the block. After `wait`."""
        rows = self._pinned[block, : len(positions)]
        self._exchange.fetch(owners, positions, rows.numpy())
        self.send(block, len(positions))

    def send(self, block: int, num_rows: int) -> None:
        """Queue the copy of the pinned block's first rows to the device, after the readers of what it held before."""
        self.device.enter()
        self._stream.wait_event(self._consumed[block])
        if num_rows:
            self.device.copy(self.blocks[block, :num_rows], self._pinned[block, :num_rows], self._stream)
        self._ready[block].record(self._stream)

    # -- on the training thread

    def launch(self) -> None:
        """Nothing: the worker has sent what it fetched."""

    def receive(self, block: int) -> None:
        """What is queued on the current stream from now on may read the device block. The host does not wait."""
        self.device.current().wait_event(self._ready[block])

    def mark(self, block: int) -> None:
        """Everything that reads the device block has been queued on the current stream by now."""
        self._consumed[block].record(self.device.current())

    def settle(self) -> None:
        """Return once no copy is under way and nothing that was queued reads a block. No round may be in flight."""
        for block in range(len(self.blocks)):
            self.receive(block)
            self.mark(block)
            self._consumed[block].synchronize()

    def fill_headers(self, block: int, num_rows: int) -> None:
        """Nothing: the host's block has the rows."""

    def to_host(self, block: int) -> None:
        """Nothing: the host's block has the rows."""

    def restore(self, block: int) -> None:
        """The host's block was written: take it to the device."""
        self.send(block, self.blocks.shape[1])

    def erase(self) -> None:
        """Zero the device's blocks. After `settle`; the host's are zero."""
        for block in range(len(self.blocks)):
            self.restore(block)
        self.settle()

    def close(self, together: bool) -> None:
        """Nothing: the memory goes with the last view of it."""
