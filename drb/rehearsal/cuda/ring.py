"""Fetched exemplars on a device: one set of blocks for each block that rounds fetch into, a block for each field.

    worker            draw … queue the gather of its rows
    side stream       wait for `consumed` → gather from the rows, field by field → ready
    training's stream wait for `ready` → read … → consumed, at the next turn

The device gathers straight from the rows, its own and those of its node's ranks, through memory that is page-locked and
mapped: no host thread touches them. Where the exchange brings rows by messages, or memory cannot be mapped, they come
by way of page-locked memory and one copy.

A round begins when the gathers of the one before are complete (`prepare`). So a rank that has announced a round reads
nothing that its peers have retired before it.

Letters: N blocks, R rows of a block, K words of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from drb.buffer.record import HEADER_WORDS, SAMPLE_ID
from drb.exchange import Exchange
from drb.rehearsal.cuda.device import Event
from drb.rehearsal.cuda.lanes import ID
from drb.rehearsal.cuda.side import DeviceSide
from drb.rehearsal.delivery import Delivery
from drb.types import Int64Array


@dataclass(frozen=True)
class _Views:
    """Where so many rows of a block go: made once, since slicing takes as long as queueing a gather.

    index, sample_id, stratum: int64 [R], page-locked; headers: int64 [R, HEADER_WORDS], of the host's block.
    index_there: on the device. gathers: of each field, all rows' words and the block's.
    """

    index: Int64Array
    sample_id: Int64Array
    stratum: Int64Array
    headers: Int64Array
    index_there: Tensor
    gathers: list[tuple[Tensor, Tensor]]


class DeviceRing(Delivery):
    """host_blocks: int64 [N, R, K], page-locked, of which only the headers are filled where rows are gathered directly.

    fields: of each block, every field on the device as it is stored, [R, …], and what `lanes_of_blocks` names besides.
    """

    prepares = marks = True

    def __init__(self, side: DeviceSide, exchange: Exchange, host_blocks: Int64Array) -> None:
        super().__init__(exchange, host_blocks)
        self.side, self.device = side, side.device
        device, (num_blocks, rows, words) = side.device, host_blocks.shape
        self._lanes = side.block_lanes
        self._pinned = torch.from_numpy(host_blocks)
        # of each block: which rows are gathered, and what the host reads of those, as their sample ids
        self._read_by_host = [ID] if side.counted_by is None else [ID, side.counted_by]
        self._stratum_word = None if side.counted_by is None else self._lanes[side.counted_by].first
        num_columns = 1 + len(self._read_by_host)
        self._pinned_index = device.empty_pinned((num_blocks, num_columns, rows), torch.int64)
        self._index = self._pinned_index.numpy()
        self._index_there = device.empty((num_blocks, num_columns, rows), torch.int64, [side.stream])
        self._index_copies = list(zip(self._index_there, self._pinned_index, strict=True))
        self.fields: list[dict[str, Tensor]] = [
            {
                name: device.empty((rows, *lane.shape), lane.value_dtype, [side.stream])
                for name, lane in self._lanes.items()
                if name not in self._read_by_host
            }
            | {name: self._index_there[block, column] for column, name in enumerate(self._read_by_host, 1)}
            for block in range(num_blocks)
        ]
        self._targets = [{n: lane.of_values(block[n]) for n, lane in self._lanes.items()} for block in self.fields]
        self._passing: Tensor | None = None  # rows on their way to the blocks, int64 [R, K], where there are such
        if side.reachable is None:
            self._passing = device.empty((rows, words), torch.int64, [side.stream])
        self._sources = self._columns(self._passing if side.reachable is None else side.reachable)
        self._ready = [device.event() for _ in host_blocks]
        self._own_consumed = [device.event() for _ in host_blocks]
        self._consumed = list(self._own_consumed)
        self._read: Event | None = None
        self._views: dict[tuple[int, int], _Views] = {}
        self._last = 0  # the block that was fetched into last

    @property
    def device_bytes(self) -> int:
        """Bytes of the device's memory that the blocks take."""
        blocks = sum(value.nbytes for block in self.fields for value in block.values())
        return blocks + self._index_there[:, 0].nbytes + (0 if self._passing is None else self._passing.nbytes)

    # -- on the worker, or whoever fetches

    def prepare(self) -> None:
        if self._passing is None:
            self._ready[self._last].synchronize()
        self.side.land()

    def fetch(self, owners: Int64Array, positions: Int64Array, block: int) -> None:
        count = len(owners)
        if self._passing is not None:
            self._ready[block].synchronize()  # page-locked memory of this block is free
            super().fetch(owners, positions, block)
            self._send(block, count)
            return
        direct = self._exchange.direct  # and `prepare` has waited for all that reads page-locked memory
        assert direct is not None, "rows that the device reaches and the host does not"
        stream, device, views = self.side.stream, self.device, self._views_of(block, count)
        index = direct.locate(owners, positions)
        rows = direct.reachable
        headers = rows[index, :HEADER_WORDS]
        views.index[:], views.headers[:] = self.side.locate(owners, index), headers
        views.sample_id[:] = headers[:, SAMPLE_ID]
        if self._stratum_word is not None:
            views.stratum[:] = rows[index, self._stratum_word]
        with device.on(stream):
            stream.wait_event(self._consumed[block])
            device.copy(*self._index_copies[block])
            for source, target in views.gathers:
                device.gather(source, views.index_there, target)
            self._ready[block].record(stream)
        self._last = block

    # -- on the training thread

    def settle(self) -> None:
        self.prepare()
        self.side.landing.land(wait=True)

    def receive(self, block: int) -> None:
        """What is queued on the current stream from now on may read the block. The host does not wait."""
        self.device.current().wait_event(self._ready[block])

    def mark(self, block: int) -> None:
        read, self._read = self._read, None
        if read is None:
            read = self._own_consumed[block]
            read.record(self.device.current())
        self._consumed[block] = read

    def read_until(self, event: Event | None) -> None:
        """Nothing reads a block after this event, until the next `receive`; None: somebody may."""
        self._read = event

    def fill_headers(self, block: int, num_rows: int) -> None:
        """Nothing: the host's block has the headers."""

    def to_host(self, block: int) -> None:
        done, rows = self.device.event(), torch.from_numpy(self.host_blocks[block])
        with self.device.on(self.side.stream):
            here = {n: self.device.empty_pinned(tuple(v.shape), v.dtype) for n, v in self.fields[block].items()}
            for name, value in self.fields[block].items():
                self.device.copy(here[name], value)
            done.record(self.side.stream)
        done.synchronize()
        for name, lane in self._lanes.items():
            lane.of_rows(rows).copy_(lane.of_values(here[name]))

    def restore(self, block: int) -> None:
        self._ready[block].synchronize()
        self._send(block, self.host_blocks.shape[1])

    def erase(self) -> None:
        self._settle()
        super().erase()
        for block in range(len(self.host_blocks)):
            self.restore(block)
        self._settle()
        self.side.landing.erase()

    def close(self, together: bool) -> None:
        if together or self.side.shared is None:  # else gathers may fail on rows of a rank that has ended
            self._settle()

    def _columns(self, rows: Tensor | None) -> dict[str, Tensor]:
        return {} if rows is None else {name: lane.of_rows(rows) for name, lane in self._lanes.items()}

    def _views_of(self, block: int, count: int) -> _Views:
        if (block, count) not in self._views:
            targets = {n: target[:count] for n, target in self._targets[block].items() if n not in self._read_by_host}
            columns = self._index[block, :, :count]
            self._views[block, count] = _Views(
                columns[0],
                columns[1],
                columns[-1],
                self.host_blocks[block, :count, :HEADER_WORDS],
                self._index_there[block, 0, :count],
                [(self._sources[name], target) for name, target in targets.items()],
            )
        return self._views[block, count]

    def _send(self, block: int, count: int) -> None:
        """Queue the copy of the host's block, whose first rows were written, to the fields' blocks."""
        with self.device.on(self.side.stream):
            self.side.stream.wait_event(self._consumed[block])
            if count:
                passing = self._passing
                if passing is None:  # after a state was loaded, or to erase
                    passing = self.device.empty(tuple(self.host_blocks.shape[1:]), torch.int64, [self.side.stream])
                self.device.copy(passing[:count], self._pinned[block, :count])
                for name, source in self._columns(passing).items():
                    self.device.copy(self._targets[block][name][:count], source[:count])
            self._ready[block].record(self.side.stream)
        self._last = block

    def _settle(self) -> None:
        """Return once no copy is under way and nothing that was queued reads a block."""
        for block in range(len(self.host_blocks)):
            self.receive(block)
            self.read_until(None)
            self.mark(block)
            self._consumed[block].synchronize()
