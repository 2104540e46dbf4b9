"""The running statistics of a network, such as batch norms': averaged over ranks, and put back after a bad step."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn


class RunningStatistics:
    """The buffers of a network, with those of the last good step where steps may be skipped.

    A batch norm's running mean that has met a NaN stays one, so a skipped step has to put the buffers back.
    """

    def __init__(self, network: nn.Module, *, can_restore: bool) -> None:
        self._network = network
        self._good = [buffer.clone() for buffer in network.buffers()] if can_restore else []

    def keep(self) -> None:
        """Remember the buffers as they are after a good step."""
        for good, buffer in zip(self._good, self._network.buffers(), strict=False):
            good.copy_(buffer)

    def restore(self) -> None:
        """Put the buffers of the last good step back."""
        for good, buffer in zip(self._good, self._network.buffers(), strict=False):
            buffer.copy_(good)

    def average(self, world_size: int) -> None:
        """Give all ranks the mean of their floating-point buffers. Collective."""
        if world_size == 1:
            return
        for buffer in self._network.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= world_size
        self.keep()
