"""Rows in the memory of the GPUs of one node, which every rank of the node gathers from.

    owner    write admitted rows on its stream → its host waits until they are written → announce the round
    reader   pass the round's barrier → gather on its stream
    reader   before it announces its next round, its host waits until its gathers are complete

So a gather runs after what wrote its rows, and a row that was retired before a round was announced is read by nobody
once the next barrier has passed. No stream waits for another process's: if a rank is killed, the others wait for it at
the barrier only, where it is found missing. (With events of other processes the owner's host would not wait; on an
H100 that saved at most 0.2 ms a step, and a stream that waits for a killed process's event may wait for ever.)

All ranks' rows are gathered at once, whatever the number of ranks: `window` is one tensor over the addresses at which
this process sees the allocations. Its rows overlap, and only those that begin where a rank's row begins are read.

Letters: W ranks, N rows of a rank, K words of a row, r rows to gather.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from drb.exchange import Peers
from drb.rehearsal.cuda.device import Device, Stream
from drb.rehearsal.cuda.ipc import Ipc, SharedMemory
from drb.types import Int64Array

T = TypeVar("T")

_MOST_ELEMENTS = 1 << 62  # of a tensor, counted with its overlaps


class PeerRows:
    """The rows of all ranks of `peers`, which share a node. Collective, as is `close`; tried out before it returns.

    rows_per_rank: int64 [W]. words: of a row.
    stream: of this rank's, on which its rows are written and all rows are gathered.

    own: this rank's rows, int64 [N, K]. window: what to gather from, int64 [*, K], at `index`.

    Raises:
        ValueError: on all ranks, if one has not the memory or cannot read another one's.
    """

    def __init__(self, device: Device, peers: Peers, rows_per_rank: Int64Array, words: int, stream: Stream) -> None:
        self._device, self._peers, self._stream = device, peers, stream
        self._rows_per_rank, self._words = rows_per_rank, words
        self._opened: dict[int, int] = {}  # by rank, where its rows are here
        self._memory: SharedMemory
        self._ipc: Ipc = self._agree(device.ipc)
        self._agree(self._allocate)
        handles = peers.gather_json(self._memory.handle, "device memory")
        self._agree(lambda: self._open(handles))
        self.own = self._memory.rows
        self.window, self._step, self._shift = self._agree(self._over_all_rows)
        self._agree(self._write_probe)
        self._agree(self._read_probe)

    def index(self, owners: Int64Array, rows: Int64Array) -> Int64Array:
        """Where the window has rows of `owners`, int64 [r]. rows: numbered through all ranks, in their order."""
        index: Int64Array = rows * self._step
        index += self._shift.take(owners)
        return index

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

    def _allocate(self) -> None:
        self._memory = self._ipc.allocate(max(1, int(self._rows_per_rank[self._peers.rank])), self._words)

    def _open(self, handles: list[str]) -> None:
        """Open the others' memory."""
        for rank, handle in enumerate(handles):
            if rank == self._peers.rank:
                continue
            try:
                self._opened[rank] = self._ipc.open(handle)
            except RuntimeError as error:
                raise RuntimeError(f"the rows of rank {rank} cannot be read: {error}") from None

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
        """Write a pattern into this rank's last row, behind as many bytes of zeros as it has rows, and wait for it."""
        pinned = self._device.empty_pinned((1, self._words), torch.int64)
        pinned[:] = self._pattern(self._peers.rank)
        with self._device.on(self._stream):
            self._device.zero(self.own)
            self._device.copy(self.own[-1:], pinned)
        self._wait()

    def _read_probe(self) -> None:
        """Every rank has written its pattern: gather all of them and compare.

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
            device.gather(self.window, index, found)
            device.copy(pinned, found)
        self._wait()
        for rank in range(world_size):
            if not bool((pinned[rank] == self._pattern(rank)).all()):
                raise RuntimeError(f"what rank {rank} wrote into its rows was read wrong")

    def _wait(self) -> None:
        done = self._device.event()
        done.record(self._stream)
        done.synchronize()

    def _pattern(self, rank: int) -> Tensor:
        return torch.arange(self._words) * 2654435761 + rank + 1
