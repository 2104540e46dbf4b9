"""How fetched rows reach the memory that a step reads them from: the contract, and the two ways that end on the host.

A round fetches into one of N blocks in turn (`Delivery.fetch`, on the thread that runs rounds). The training thread
says when nothing will read a block any more (`mark`). `drb.rehearsal.cuda` has the deliveries that go on to a GPU.

Letters: N blocks, R rows of a block, K words of a row.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar, Protocol

import torch

from drb.buffer.storage import HeapStorage
from drb.exchange import Exchange
from drb.types import Int64Array


class Delivery:
    """Rows stay where they are fetched to, in ordinary host memory: the base of all deliveries.

    host_blocks: int64 [N, R, K]. launches: whether rows set off only when the training thread calls `launch`.
    prepares: whether rounds begin with `prepare`. marks: whether a block must be marked before it is written to again.
    """

    launches: ClassVar[bool] = False
    prepares: ClassVar[bool] = False
    marks: ClassVar[bool] = False

    def __init__(self, exchange: Exchange, host_blocks: Int64Array) -> None:
        self.host_blocks = host_blocks
        self._exchange = exchange

    # -- on the thread that runs rounds

    def prepare(self) -> None:
        """A round begins: return once it may show peers the rows that were admitted, and nothing reads older ones."""

    def fetch(self, owners: Int64Array, positions: Int64Array, block: int) -> None:
        """Fetch the rows at `positions` int64 [r] of ranks `owners` int64 [r] into the block's first rows.

        Waits until the block may be written to.
        """
        self._exchange.fetch(owners, positions, self.host_blocks[block, : len(owners)])

    # -- on the training thread

    def launch(self) -> None:
        """Send the rows of the oldest round that has fetched, at the same point of its steps on every rank."""

    def mark(self, block: int) -> None:
        """All that reads this block has been run or, on a GPU, queued: it may be written to after that."""

    def settle(self) -> None:
        """Return once all that was admitted lies in the buffer's rows. No round may be in flight."""

    def to_host(self, block: int) -> None:
        """Return once the host's block has the rows."""

    def restore(self, block: int) -> None:
        """Take over rows that the caller has just written into the host's block."""

    def erase(self) -> None:
        """Zero every row, once nothing that was queued reads or writes one. No round may be in flight."""
        self.host_blocks.fill(0)

    def close(self, together: bool) -> None:
        """Let go of what others share. together: every rank is closing now."""


class PinnedDelivery(Delivery):
    """Rows stay on the host, in page-locked memory, from which asynchronous copies to a GPU may still be reading."""

    marks = True

    def __init__(self, exchange: Exchange, host_blocks: Int64Array) -> None:
        super().__init__(exchange, host_blocks)
        self._fence = ReuseFence(len(host_blocks))

    def fetch(self, owners: Int64Array, positions: Int64Array, block: int) -> None:
        self._fence.wait(block)
        super().fetch(owners, positions, block)

    def mark(self, block: int) -> None:
        self._fence.mark(block)

    def erase(self) -> None:
        self._fence.settle()
        super().erase()


def deliver_on_host(exchange: Exchange, host_blocks: Int64Array) -> Delivery:
    """The delivery for exemplars that are wanted on the host."""
    return (PinnedDelivery if torch.cuda.is_available() else Delivery)(exchange, host_blocks)


def allocate_blocks(num_blocks: int, rows: int, words: int) -> Int64Array:
    """Zeroed blocks to fetch into, int64 [num_blocks, rows, words], page-locked where CUDA is present."""
    storage = HeapStorage(num_blocks * rows, words, pin=torch.cuda.is_available())
    return storage.rows.reshape(num_blocks, rows, words)


class Event(Protocol):
    """A point in a stream of a GPU's work."""

    def record(self) -> Any: ...

    def synchronize(self) -> Any: ...


class ReuseFence:
    """Says when page-locked memory may be written to again: copies to a GPU may run several steps behind the host.

    Each slot of reused memory is marked with an event on the stream that reads it. Without CUDA there is nothing to
    wait for.

    make_event: returns an event that records on the caller's current stream; None: CUDA's, if it is present.
    """

    def __init__(self, num_slots: int, make_event: Any | None = None) -> None:
        if make_event is None and torch.cuda.is_available():
            make_event = functools.partial(torch.cuda.Event, blocking=True)  # whoever waits takes no core
        self._make_event = make_event
        self._events: list[Event | None] = [None] * num_slots

    def mark(self, slot: int) -> None:
        """All that reads the slot has been queued by now. Call it on the thread that queued it."""
        if self._make_event is not None:
            event = self._events[slot] or self._make_event()
            event.record()
            self._events[slot] = event

    def wait(self, slot: int) -> None:
        """Return once the readers of the slot's last contents are done. On any thread."""
        event = self._events[slot]
        if event is not None:
            event.synchronize()

    def settle(self) -> None:
        """Return once all that was queued so far is done, whatever slot it reads. On the thread that queued it."""
        for slot in range(len(self._events)):
            self.mark(slot)
            self.wait(slot)
