"""Rows by shared memory: ranks of one node gather straight from each other's buffers.

The node's segment holds all ranks' rows one after the other, so that a gather over all owners is one flat `np.take`
at memcpy speed, and two position tables per rank, written in turn. All that a round waits for is the gathering of
counts. It is the barrier: a rank writes the table of round t before it and reads its peers' after
it, and no peer is more than one round away, so neither the table nor a row that is read can change; a test takes the
barrier away and sees wrong rows.

Segment, in 64-bit words: rows of rank 0, rank 1, …; then table A of rank 0, rank 1, …; then table B.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drb.distributed.peers import Peers
from drb.exchange.base import DirectRows
from drb.exchange.gather import CountsGather
from drb.exchange.segment import open_segment
from drb.exchange.transport import Sizes, Transport
from drb.types import Int64Array


class SharedExchange:
    """rows_per_rank, capacities: int64 [W], known to all ranks. All ranks of the group must share one node.

    counts: gathers those of these ranks, and perhaps of others, if someone else calls it; None: one of its own.
    folder: where the segment is a file on the node's disk; None: in shared memory.
    table: where the table begins that this rank published last; tables_of_all: those of all ranks in this round, int64
    [W].
    """

    name = "shared"
    staging_bytes = 0
    index_seconds = 0.0

    def __init__(
        self,
        peers: Peers,
        rows_per_rank: Int64Array,
        capacities: Int64Array,
        words: int,
        counts: CountsGather | None = None,
        folder: str | None = None,
    ) -> None:
        self._peers = peers
        rank = peers.rank
        first_row = np.concatenate(([0], np.cumsum(rows_per_rank)))
        first_entry = np.concatenate(([0], np.cumsum(capacities)))
        num_rows, num_entries = int(first_row[-1]), int(first_entry[-1])
        own = [(int(first_row[rank]) * words, int(rows_per_rank[rank]) * words)]
        own += [(num_rows * words + v * num_entries + int(first_entry[rank]), int(capacities[rank])) for v in (0, 1)]
        try:
            self._counts = counts or CountsGather(peers, [0] * peers.world_size, needs_memory=True)
            segment = open_segment(peers, num_rows * words + 2 * num_entries, own, folder)
        except ValueError as error:
            raise ValueError(f"exchange=shared: {error}" if folder is None else str(error)) from None
        self._file, memory = None if folder is None else segment, segment.words
        self._all_rows = memory[: num_rows * words].reshape(num_rows, words)
        self.reachable = self._all_rows
        self.direct: DirectRows | None = self if folder is None else None  # a GPU would lock all of a file in memory
        self._tables = memory[num_rows * words :]  # both versions, flat
        self._first_row = int(first_row[rank])
        self.rows = self._all_rows[first_row[rank] : first_row[rank + 1]]
        self._tables_of_rank = [int(first_entry[rank]), int(first_entry[rank]) + num_entries]
        self.table = self._tables_of_rank[0]
        self.tables_of_all: Int64Array = first_entry[:-1].copy()
        self._message: Int64Array = np.empty(0, np.int64)
        self._gather = self._counts.gather_counts

    def publish(self, table: Int64Array, changed: bool) -> None:
        """Write the table peers are not reading; they learn which one when counts are gathered."""
        if changed:
            self._tables_of_rank.reverse()
            self.table = start = self._tables_of_rank[0]
            np.add(table, self._first_row, out=self._tables[start : start + len(table)])

    def gather_counts(self, message: Int64Array) -> Int64Array:
        if len(self._message) != len(message) + 1:
            self._message = np.empty(len(message) + 1, np.int64)
        self._message[:-1], self._message[-1] = message, self.table
        messages = self._gather(self._message)
        self.tables_of_all = messages[:, -1]
        return messages[:, :-1]

    def share(self, values: Int64Array, lengths: Int64Array) -> list[Int64Array]:
        return self._peers.share(values, lengths)

    def locate(self, owners: Int64Array, positions: Int64Array) -> Int64Array:
        entries = self.tables_of_all.take(owners)
        entries += positions
        return self._tables.take(entries)

    def fetch(self, owners: Int64Array, positions: Int64Array, out: Int64Array) -> None:
        self._all_rows.take(self.locate(owners, positions), axis=0, out=out, mode="clip")

    def erase(self) -> None:
        if self._file is not None:  # else rows go straight from buffer to block
            self._file.sync()

    def close(self, together: bool = False) -> None:
        """The memory goes with the last view of it; its name is long gone."""
        if together:
            self._counts.close()


class Shared(Transport):
    """Ranks of one node gather straight from each other's buffers in shared memory."""

    name = "shared"
    one_node = True
    in_shared_memory = True
    in_files = True
    meets_in_memory = True

    def open(self, peers: Peers, nodes: Sequence[str], sizes: Sizes) -> SharedExchange:
        return SharedExchange(peers, sizes.rows, sizes.capacities, sizes.words, folder=sizes.folder)
