"""When may page-locked memory be written again?

Copies to a GPU from page-locked memory are asynchronous: the host may run several steps ahead of them. A fence marks
each slot of reused memory with an event on the stream that reads it, and waits for that event before the slot is
written again. Without CUDA there is nothing to wait for.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from drb.types import Int64Array


class Event(Protocol):
    def record(self) -> Any: ...

    def synchronize(self) -> Any: ...


class ReuseFence:
    """One event per slot. make_event: returns an event that records on the caller's current stream; None: no-op."""

    def __init__(self, num_slots: int, make_event: Any | None = None) -> None:
        if make_event is None and torch.cuda.is_available():
            make_event = torch.cuda.Event
        self._make_event = make_event
        self._events: list[Event | None] = [None] * num_slots

    def mark(self, slot: int) -> None:
        """Everything that reads the slot has been queued by now. On the thread that queued it."""
        if self._make_event is not None:
            event = self._events[slot] or self._make_event()
            event.record()
            self._events[slot] = event

    def settle(self) -> None:
        """Return once everything that was queued so far, of whatever slot, is done. On the thread that queued it."""
        for slot in range(len(self._events)):
            self.mark(slot)
            self.wait(slot)

    def wait(self, slot: int) -> None:
        """Return once the readers of the slot's last contents are done. On any thread."""
        event = self._events[slot]
        if event is not None:
            event.synchronize()


class Delivery(Protocol):
    """Takes what rounds fetch to a device, by block: see `drb.rehearsal.cuda`. In place of a `ReuseFence`."""

    @property
    def launches(self) -> bool:
        """Whether rows travel only when the training thread says `launch`."""
        ...

    # on the engine's thread

    def wait(self, slot: int) -> None: ...

    def fetch(self, owners: Int64Array, positions: Int64Array, block: int) -> None:
        """As `Exchange.fetch`, into a block."""
        ...

    # on the training thread

    def launch(self) -> None:
        """Of the oldest round that has fetched; every rank at the same points of its steps."""
        ...

    def mark(self, slot: int) -> None: ...

    def settle(self) -> None: ...

    def to_host(self, block: int) -> None:
        """Return once the host's block has the rows."""
        ...

    def restore(self, block: int) -> None:
        """The host's block was written."""
        ...

    def erase(self) -> None:
        """Zero all rows but the host's blocks."""
        ...

    def close(self, together: bool) -> None: ...
