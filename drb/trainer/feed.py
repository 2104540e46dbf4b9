"""Takes a batch from the host to the device without waiting for the device.

`Rehearsal.extend` reuses its (pinned) memory two calls later, while a copy to a GPU is still queued: the memory of
call t may be written again only once the copy of batch t is done. `ready` waits for that; it is called before each
`extend` and in practice never blocks.
"""

from __future__ import annotations

import torch

from drb.types import Minibatch


class DeviceFeed:
    """Batches to one device, at most two copies in flight. On the CPU it does nothing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_host = device.type == "cpu"
        self._copies: list[torch.cuda.Event] = []

    def ready(self) -> None:
        """Return when the memory of the batch before last may be reused."""
        if len(self._copies) == 2:
            self._copies.pop(0).synchronize()

    def __call__(self, batch: Minibatch) -> Minibatch:
        """The same fields on the device."""
        if self._is_host:
            return batch
        moved = {name: field.to(self._device, non_blocking=True) for name, field in batch.items()}
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._copies.append(event)
        return moved
