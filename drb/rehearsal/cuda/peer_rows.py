"""Rows in the memory of the GPUs of one node, which every rank of the node gathers from.

    owner    write admitted rows on its stream → record an event → announce how many events it has recorded
    reader   learn that number at the round's barrier → its stream waits for that event → gather
    reader   before it announces its next round, its worker waits until its gathers are complete

So a gather runs after what wrote its rows, and a row that was retired before a round was announced is read by nobody
once the next barrier has passed. The host's barrier alone would not do: a gather that is only queued may run later.

A wait takes the last record before it, so each rank records several events in turn; a rank is at most one round ahead.

All ranks' rows are gathered at once, whatever the number of ranks: `window` is one tensor over the addresses at which
this process sees the allocations. Its rows overlap, and only those that begin where a rank's row begins are read.

Letters: W ranks, N rows of a rank, K words of a row, r rows to gather.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from drb.exchange import Peers
from drb.rehearsal.cuda.device import Device, Event, Stream
from drb.rehearsal.cuda.ipc import Ipc, SharedMemory
from drb.types import Int64Array

T = TypeVar("T")

_PROBE_S = 20.0
_LOOK_S = 1.0  # how often a rank that waits looks whether the others live
_MOST_ELEMENTS = 1 << 62  # of a tensor, counted with its overlaps


class PeerRows:
    """The rows of all ranks of `peers`, which share a node. Collective, as is `close`; tried out before it returns.

    rows_per_rank: int64 [W]. words: of a row. num_events: that each rank records in turn; at least 2.
    stream: of this rank's, on which its rows are written and all rows are gathered.
    require_life: raises RuntimeError if one of the ranks has ended.

    own: this rank's rows, int64 [N, K]. window: what to gather from, int64 [*, K], at `index`.

    Raises:
        ValueError: on all ranks, if one has not the memory or cannot read another one's.
    """

    def __init__(
        self,
        device: Device,
        peers: Peers,
        rows_per_rank: Int64Array,
        words: int,
        num_events: int,
        stream: Stream,
        require_life: Callable[[], None],
    ) -> None:
        self._device, self._peers, self._stream, self._require_life = device, peers, stream, require_life
        self._rows_per_rank, self._words, self._num_events = rows_per_rank, words, num_events
        self._opened: dict[int, int] = {}  # by rank, where its rows are here
        self._memory: SharedMemory
        self._recorded = 0
        self._waited: Int64Array = np.zeros(peers.world_size, np.int64)
        self._ipc: Ipc = self._agree(device.ipc)
        self._events = self._agree(self._allocate)
        told = peers.gather_json([self._memory.handle, [handle for _, handle in self._events]], "device memory")
        self._theirs = self._agree(lambda: self._open(told))
        self.own = self._memory.rows
        self.window, self._step, self._shift = self._agree(self._over_all_rows)
        self._agree(self._write_probe)
        self._agree(self._read_probe)

    def index(self, owners: Int64Array, rows: Int64Array) -> Int64Array:
        """Where the window has rows of `owners`, int64 [r]. rows: numbered through all ranks, in their order."""
        index: Int64Array = rows * self._step
        index += self._shift.take(owners)
        return index

    def record(self) -> int:
        """Call this rank's rows written, as far as that is queued; how often this was called: what to announce."""
        self._recorded += 1
        self._events[self._recorded % len(self._events)][0].record(self._stream)
        return self._recorded

    @property
    def recorded(self) -> int:
        """How often rows were called written, by this rank."""
        return self._recorded

    def wait_for(self, recorded: Int64Array) -> None:
        """Let the stream wait until what the ranks have announced is written: int64 [W]. The host does not wait."""
        for rank in np.flatnonzero(recorded != self._waited):
            if rank != self._peers.rank:  # whose writes are on this stream
                events = self._theirs[int(rank)]
                self._stream.wait_event(events[int(recorded[rank]) % len(events)])
        self._waited[:] = recorded

    def wait_until_read(self, gathered: Event) -> None:
        """Return once this rank's gathers are complete, which wait for what other ranks' GPUs write.

        Raises:
            PeerError: one of those has ended, or did not write in time.
        """
        start = time.monotonic()
        try:
            while not self._ipc.is_done_within(gathered, _LOOK_S):
                self._require_life()
                if time.monotonic() - start > self._peers.timeout_s:
                    raise RuntimeError("timed out waiting for rows that another rank's GPU is to have written")
        except RuntimeError as error:
            raise self._peers.failure("rows", error, time.monotonic() - start) from error

    def close(self) -> None:
        """Let go of the others' rows; this rank's go with the last view of them. Nothing may read rows any more."""
        for address in self._opened.values():
            self._ipc.close(address)
        self._opened.clear()
        self._peers.barrier("closing rows in GPU memory")
        if hasattr(self, "_memory"):  # else it could not be had
            self._memory.readers_closed()

    # -- at the start

    def _agree(self, local: Callable[[], T]) -> T:
        """What `local` returns. If it raises on one rank, ValueError on all, which have then let go of everything."""
        problem, found = "", None
        try:
            found = local()
        except (RuntimeError, ValueError, OSError) as error:
            problem = f"rank {self._peers.rank}: {error}"
        problems = [p for p in self._peers.gather_json(problem, "device memory") if p]
        if problems:
            self.close()
            raise ValueError(problems[0])
        return found  # type: ignore[return-value]  # it did not raise

    def _allocate(self) -> list[tuple[Any, str]]:
        self._memory = self._ipc.allocate(max(1, int(self._rows_per_rank[self._peers.rank])), self._words)
        return [self._ipc.event() for _ in range(self._num_events)]

    def _open(self, told: list[Any]) -> list[list[Any]]:
        """Open the others' memory and events; those events, by rank."""
        theirs: list[list[Any]] = []
        for rank, (handle, events) in enumerate(told):
            if rank == self._peers.rank:
                theirs.append([event for event, _ in self._events])
                continue
            try:
                self._opened[rank] = self._ipc.open(handle)
                theirs.append([self._ipc.open_event(event) for event in events])
            except RuntimeError as error:
                raise RuntimeError(f"the rows of rank {rank} cannot be read: {error}") from None
        return theirs

    def _over_all_rows(self) -> tuple[Tensor, int, Int64Array]:
        """The window; how far apart rows are in it; and what is to be added for each rank, int64 [W]."""
        at = [self._opened.get(rank, self._memory.address) for rank in range(self._peers.world_size)]
        base = min(at)
        unit = math.gcd(self._words, *((address - base) // 8 for address in at))
        starts, step = np.array([(address - base) // 8 // unit for address in at]), self._words // unit
        before = np.concatenate(([0], np.cumsum(self._rows_per_rank)))[:-1]
        length = max(int(start) + max(1, int(n)) * step for start, n in zip(starts, self._rows_per_rank, strict=True))
        shape = (length - step + 1, self._words)
        if math.prod(shape) > _MOST_ELEMENTS:
            raise RuntimeError(f"the ranks' allocations are {8 * unit * length} bytes apart, too far for one tensor")
        return self._ipc.tensor(base, shape, (unit, 1)), step, starts - before * step

    def _write_probe(self) -> None:
        """Write a pattern into this rank's last row, late: behind as many bytes of zeros as it has rows."""
        self._probed = pinned = self._device.empty_pinned((1, self._words), torch.int64)  # read while it is queued
        pinned[:] = self._pattern(self._peers.rank)
        with self._device.on(self._stream):
            self._device.zero(self.own)
            self._device.copy(self.own[-1:], pinned)
            self.record()

    def _read_probe(self) -> None:
        """Every rank has recorded its pattern: gather all of them and compare.

        Raises:
            RuntimeError: one is wrong.
        """
        device, world_size = self._device, self._peers.world_size
        with device.on(self._stream):
            pinned_index = device.empty_pinned((world_size,), torch.int64)
            index = device.empty((world_size,), torch.int64, [self._stream])
            found = device.empty((world_size, self._words), torch.int64, [self._stream])
            pinned = device.empty_pinned((world_size, self._words), torch.int64)
            last = np.maximum(self._rows_per_rank, 1) - 1 + (np.cumsum(self._rows_per_rank) - self._rows_per_rank)
            pinned_index.numpy()[:] = self.index(np.arange(world_size), last)
            device.copy(index, pinned_index)
            self.wait_for(np.ones(world_size, np.int64))
            device.gather(self.window, index, found)
            device.copy(pinned, found)
            done, _ = self._ipc.event()
            done.record(self._stream)
        if not self._ipc.is_done_within(done, _PROBE_S):
            raise RuntimeError(f"another rank's event did not come within {_PROBE_S:g} s")
        for rank in range(world_size):
            if not bool((pinned[rank] == self._pattern(rank)).all()):
                raise RuntimeError(f"rows of rank {rank} that were written before its event were read wrong")

    def _pattern(self, rank: int) -> Tensor:
        return torch.arange(self._words) * 2654435761 + rank + 1
