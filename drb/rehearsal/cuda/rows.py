"""Rows between devices: what is launched, on which thread and in which order, apart from how (`nccl.RowBackend`).

    worker            ask over Gloo who wants which rows → gather mine into pinned memory → queue its copy to the device
    side stream       wait for `sent` → copy to the outgoing block → loaded
    training thread   at one fixed point of its step: wait for `loaded` → all_to_all into the incoming block → sent

NCCL kernels of two communicators may deadlock unless all ranks run them in one order (pytorch#175145). So all of this
process's are put into one: launched by the training thread only, on its stream. DDP's all-reduces of the last step end
before, since that stream has waited for them; those of this step start after, since theirs waits for it. It costs the
stream the time of r rows on the wire, and needs no setting of NCCL's.

Letters: N blocks, R rows of a block, K words of a row, W ranks, A rows that this rank is asked for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from drb.buffer.record import HEADER_WORDS, SAMPLE_ID
from drb.exchange import CollectiveExchange, Peers
from drb.exchange.transport import Sizes, Transport
from drb.rehearsal.cuda.lanes import ID, known_key
from drb.rehearsal.cuda.side import DeviceSide
from drb.rehearsal.delivery import Delivery
from drb.types import Int64Array

if TYPE_CHECKING:  # loaded once it is needed
    from drb.rehearsal.cuda.device import Event
    from drb.rehearsal.cuda.nccl import RowBackend


class NcclExchange(CollectiveExchange):
    """Sizes and requests as in `collective`; the rows by a `RowLauncher`, which `fetch` is without."""

    name = "nccl"

    def __init__(
        self,
        peers: Peers,
        nodes: Sequence[object],
        num_rows: int,
        words: int,
        max_exemplars: int,
        num_blocks: int,
    ) -> None:
        """num_blocks: that a `RowLauncher` has, each with page-locked memory for the rows it sends."""
        super().__init__(peers, nodes, num_rows, words, max_exemplars)
        self._sent_bytes = 8 * num_blocks * max_exemplars * (peers.world_size * words + HEADER_WORDS + 1)

    def ask(self, owners: Int64Array, positions: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Ask for rows at positions int64 [R] of owners int64 [R], ascending.

        Returns how many are asked for from each rank, how many each asks for here, int64 [W] each, and which of
        `rows` those are, int64 [A].
        """
        per_owner = np.bincount(owners, minlength=self._peers.world_size)
        counts, asked = self._requests.ask(per_owner, positions)
        return per_owner, counts.copy(), self._table[asked]

    @property
    def world_size(self) -> int:
        return self._peers.world_size

    @property
    def staging_bytes(self) -> int:
        return super().staging_bytes + self._sent_bytes


@dataclass(frozen=True)
class Transfer:
    """One exchange's rows: into which block; how many from each rank, and to each; where in the block, if not in order.

    order: int64 [R] on the device.
    """

    block: int
    received: list[int]
    sent: list[int]
    order: Tensor | None


class RowLauncher(Delivery):
    """Rows of round after round into N device blocks in turn. Made on the training thread, which alone launches.

    host_blocks: int64 [N, R, K], for what the host wants to know of the rows. blocks: as many on the device.
    """

    launches = prepares = marks = True
    _exchange: NcclExchange

    def __init__(self, side: DeviceSide, exchange: NcclExchange, backend: RowBackend, host_blocks: Int64Array) -> None:
        super().__init__(exchange, host_blocks)
        self.side = side
        self.device = device = side.device
        self._backend = backend
        self._training_thread = threading.get_ident()
        self._stream = side.stream
        num_blocks, rows, words = host_blocks.shape
        self._on_host = torch.from_numpy(host_blocks)
        self._headers = device.empty_pinned((num_blocks, rows, HEADER_WORDS), torch.int64)
        self._gathered = [device.empty_pinned((rows, words), torch.int64) for _ in host_blocks]
        self._orders = device.empty_pinned((num_blocks, rows), torch.int64)
        self.blocks: Tensor = device.empty((num_blocks, rows, words), torch.int64, used_on=[self._stream])
        self._outgoing = [device.empty((rows, words), torch.int64, used_on=[self._stream]) for _ in host_blocks]
        self._orders_there = device.empty((num_blocks, rows), torch.int64, used_on=[self._stream])
        self._unordered: Tensor | None = None  # int64 [R, K] on the device, from the first time on that it is needed
        self._loaded, self._sent, self._headed = ([device.event() for _ in host_blocks] for _ in range(3))
        self._prepared: deque[Transfer] = deque()
        self._unread: set[int] = set()  # blocks with rows that have been launched, until they are marked

    @property
    def device_bytes(self) -> int:
        """At most: with what comes in another order, and if all ranks ask this one for all of their rows."""
        num_blocks, world_size = len(self.blocks), self._exchange.world_size
        return (num_blocks * (1 + world_size) + 1) * self.blocks[0].nbytes + self._orders_there.nbytes

    @property
    def fields(self) -> list[dict[str, Tensor]]:
        """What a `DeviceRing` has under this name, in the memory of these blocks."""
        spec, found = self.side.spec, []
        for block in self.blocks:
            known = {known_key(name): words for name, words in spec.known(block).items()}
            found.append({**spec.stored_views(block), ID: block[:, SAMPLE_ID], **known})
        return found

    # -- on the worker

    def prepare(self) -> None:
        self.side.landing.land(wait=True)

    def fetch(self, owners: Int64Array, positions: Int64Array, block: int) -> None:
        """Agree with the others on who sends what, and bring what this rank sends to the device.

        Waits until the pinned memory from which the block's last rows were sent may be written again.
        """
        self._loaded[block].synchronize()
        order = None
        if (owners[1:] < owners[:-1]).any():
            order = np.argsort(owners, kind="stable")
            owners, positions = owners[order], positions[order]
        per_owner, counts, at = self._exchange.ask(owners, positions)
        with self.device.on(self._stream):
            if len(at) > len(self._gathered[block]):
                self._grow(block, len(at))
            gathered, outgoing = self._gathered[block][: len(at)], self._outgoing[block][: len(at)]
            np.take(self._exchange.rows, at, axis=0, out=gathered.numpy(), mode="clip")
            self._stream.wait_event(self._sent[block])  # needed after `erase` only
            if len(at):
                self.device.copy(outgoing, gathered)
            transfer = Transfer(block, per_owner.tolist(), counts.tolist(), self._bring_order(order, block))
            self._loaded[block].record(self._stream)
        self._prepared.append(transfer)

    # -- on the training thread

    def settle(self) -> None:
        self.side.landing.land(wait=True)

    def launch(self) -> None:
        """Queue the rows of the oldest round that has fetched. Every rank does so at the same points of its steps."""
        if threading.get_ident() != self._training_thread:
            raise RuntimeError(
                "exchange=nccl: rows are launched by the thread that trains, so that all ranks have one order; call "
                "extend() and step() on the thread of the first call"
            )
        transfer = self._prepared.popleft()
        block, num_received, num_sent = transfer.block, sum(transfer.received), sum(transfer.sent)
        assert block not in self._unread, f"rows launched into block {block}, which is being read"
        self._unread.add(block)
        current, rows = self.device.current(), self.blocks[block, :num_received]
        current.wait_event(self._loaded[block])  # and so for all that read the incoming block on the side stream
        target = rows if transfer.order is None else self._room_for_unordered()[:num_received]
        self._backend.all_to_all(target, self._outgoing[block][:num_sent], transfer.received, transfer.sent)
        if transfer.order is not None:
            self.device.scatter(rows, target, transfer.order)
        self._sent[block].record(current)
        self._stream.wait_event(self._sent[block])
        with self.device.on(self._stream):
            self.device.copy(self._headers[block, :num_received], rows[:, :HEADER_WORDS])
            self._headed[block].record(self._stream)

    def receive(self, block: int) -> None:
        """Nothing: the block's rows arrive on the stream that reads them."""

    def read_until(self, event: Event | None) -> None:
        """Nothing: launching is in the order of the stream that reads."""

    def mark(self, block: int) -> None:
        """Everything that reads the device block has been queued on the current stream by now."""
        self._unread.discard(block)

    def fill_headers(self, block: int, num_rows: int) -> None:
        """Write the rows' headers into the host's block. Waits for a copy that followed the rows a step ago."""
        self._headed[block].synchronize()
        self._on_host[block, :num_rows, :HEADER_WORDS] = self._headers[block, :num_rows]

    def to_host(self, block: int) -> None:
        """Write the rows into the host's block. Waits for the device."""
        self._move(self._on_host[block], self.blocks[block], block)

    def restore(self, block: int) -> None:
        """The host's block was written: take it to the device, as if it had been launched. Waits for the device."""
        self._unread.add(block)
        self._headers[block] = self._on_host[block, :, :HEADER_WORDS]
        self._move(self.blocks[block], self._on_host[block], block)

    def _settle(self) -> None:
        """Return once nothing that was queued uses a block."""
        current, done = self.device.current(), self.device.event()
        for event in (*self._loaded, *self._headed):
            current.wait_event(event)
        done.record(current)
        done.synchronize()

    def erase(self) -> None:
        """Zero all rows, those that were launched too."""
        self._settle()
        super().erase()
        self._headers.zero_()
        for gathered, outgoing in zip(self._gathered, self._outgoing, strict=True):
            gathered.zero_()
            self.device.zero(outgoing)
        for memory in (self.blocks, self._unordered):
            if memory is not None:
                self.device.zero(memory)
        for block in range(len(self.blocks)):
            self._sent[block].record(self.device.current())
        self.side.landing.erase()

    def close(self, together: bool) -> None:
        """together: every rank is closing now."""
        if together:
            self._backend.close()

    def _bring_order(self, order: Int64Array | None, block: int) -> Tensor | None:
        """On the device: where in the block the rows, which arrive ordered by owner, belong."""
        if order is None:
            return None
        pinned, there = self._orders[block, : len(order)], self._orders_there[block, : len(order)]
        pinned.numpy()[:] = order
        self.device.copy(there, pinned)
        return there

    def _room_for_unordered(self) -> Tensor:
        if self._unordered is None:
            self._unordered = self.device.empty(tuple(self.blocks.shape[1:]), torch.int64)
        return self._unordered

    def _move(self, target: Tensor, source: Tensor, block: int) -> None:
        current, done = self.device.current(), self.device.event()
        for before in (self._sent[block], self._headed[block]):
            current.wait_event(before)
        self.device.copy(target, source)
        done.record(current)
        done.synchronize()

    def _grow(self, block: int, num_rows: int) -> None:
        """This rank holds more than its share of the union."""
        self._sent[block].synchronize()  # rows sent a few rounds ago
        self._gathered[block].zero_()  # no record may be left in memory that is given back
        shape = (num_rows, self.blocks.shape[2])
        self._gathered[block] = self.device.empty_pinned(shape, torch.int64)
        self._outgoing[block] = self.device.empty(shape, torch.int64, used_on=[self._stream])


class Nccl(Transport):
    """Rows from GPU to GPU by NCCL; sizes and requests by torch.distributed."""

    name = "nccl"
    from_gpu_to_gpu = True
    least_depth = 2  # rows are launched one round before their exemplars are used

    def open(self, peers: Peers, nodes: Sequence[str], sizes: Sizes) -> NcclExchange:
        own_rows = int(sizes.rows[peers.rank])
        return NcclExchange(peers, nodes, own_rows, sizes.words, sizes.at_once, sizes.num_blocks)
