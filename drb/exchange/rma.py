"""Rows by one-sided MPI reads: straight from the owner's memory, which its process has no part in.

Each rank's window holds its rows and two position tables, written in turn. A round reads the owners' tables, then the
rows they point at. Gathering the counts is the barrier, in shared memory or over Gloo: it has timeouts and names who
failed, where an MPI collective would wait for a dead peer for ever. It keeps tables and rows from changing while they
are read, as in `shared`; `Win.Sync` on both sides of it orders each rank's own stores and loads.

A window, in 64-bit words: the rank's rows; table A; table B.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from drb.distributed.failure import PeerError
from drb.distributed.mpi import load_mpi
from drb.distributed.peers import Peers
from drb.exchange.base import DirectRows
from drb.exchange.gather import CountsGather
from drb.exchange.transport import Sizes, Transport
from drb.exchange.window import Window
from drb.types import Int64Array


class RmaExchange:
    """nodes: names every rank's node. rows_per_rank, capacities: int64 [W], known to all ranks.

    All ranks must be in one MPI world.
    """

    name = "rma"
    direct: DirectRows | None = None

    def __init__(
        self, peers: Peers, nodes: Sequence[object], rows_per_rank: Int64Array, capacities: Int64Array, words: int
    ) -> None:
        self.index_seconds = 0.0
        self._peers = peers
        self._words = words
        num_rows, capacity = int(rows_per_rank[peers.rank]), int(capacities[peers.rank])
        self._window = Window(peers, num_rows * words + 2 * capacity)
        self._counts = CountsGather(peers, nodes, needs_memory=False)
        memory = self._window.words
        self.rows = memory[: num_rows * words].reshape(num_rows, words)
        self._tables = memory[num_rows * words :].reshape(2, capacity)
        self._version = 0
        self._peer_tables: Int64Array = rows_per_rank * words  # where each rank's table lies in its window
        self._first_tables = self._peer_tables
        self._capacities = capacities

    def publish(self, table: Int64Array, changed: bool) -> None:
        """Write the table peers are not reading; they learn which one when counts are gathered."""
        if changed:
            self._version ^= 1
            self._tables[self._version, : len(table)] = table

    def gather_counts(self, message: Int64Array) -> Int64Array:
        self._window.sync()
        messages = self._counts.gather_counts(np.append(message, self._version))
        self._window.sync()
        self._peer_tables = self._first_tables + messages[:, -1] * self._capacities
        return messages[:, :-1]

    def share(self, values: Int64Array, lengths: Int64Array) -> list[Int64Array]:
        return self._peers.share(values, lengths)

    def fetch(self, owners: Int64Array, positions: Int64Array, out: Int64Array) -> None:
        rows: Int64Array = np.empty((len(positions), 1), np.int64)
        start = time.perf_counter()
        self._peers.run("indices", lambda: self._window.read(owners, self._peer_tables[owners] + positions, rows))
        self.index_seconds += time.perf_counter() - start
        self._peers.run("rows", lambda: self._window.read(owners, rows[:, 0] * self._words, out))

    def erase(self) -> None:
        pass  # rows go straight from buffer to block

    @property
    def staging_bytes(self) -> int:
        """The position tables in the window."""
        return self._tables.nbytes

    def close(self, together: bool = False) -> None:
        """Only together is the window freed: MPI frees it collectively, and would wait for a dead peer for ever."""
        if not together:
            return
        try:
            self._peers.barrier("end")
        except PeerError:
            return
        self.rows = self._tables = np.empty((0, 0), np.int64)
        self._window.free()
        self._counts.close()


class Rma(Transport):
    """One-sided reads by MPI (extra mpi), between ranks of one MPI world."""

    name = "rma"

    def check(self) -> None:
        load_mpi("exchange=rma")

    def open(self, peers: Peers, nodes: Sequence[str], sizes: Sizes) -> RmaExchange:
        return RmaExchange(peers, nodes, sizes.rows, sizes.capacities, sizes.words)
