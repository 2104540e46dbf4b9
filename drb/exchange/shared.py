"""Rows by shared memory: ranks of one node gather straight from each other's buffers.

The node's segment holds all ranks' rows one after the other, so that a gather over all owners is one flat `np.take`
at memcpy speed, two position tables per rank, written in turn, and the board on which ranks announce their sizes, which
is all that a round waits for. It is the barrier: a rank writes the table of round t before it and reads its peers'
after it, and no peer is more than one round away, so neither the table nor a row that is read can change; a test takes
the barrier away and sees wrong rows.

Segment, in 64-bit words: rows of rank 0, rank 1, …; then table A of rank 0, rank 1, …; then table B; then the board.
"""

from __future__ import annotations

import os

import numpy as np

from drb.exchange.board import NodeBoard, board_words
from drb.exchange.peers import Peers
from drb.storage import SharedSegment
from drb.storage.heap import require_memory
from drb.storage.shared import SHM_DIRECTORY
from drb.types import Int64Array


class SharedExchange:
    """rows_per_rank, capacities: int64 [W], known to all ranks. All ranks of the group must share one node.

    announced_words: the most integers of an announcement.
    """

    name = "shared"
    staging_bytes = 0
    index_seconds = 0.0

    def __init__(
        self, peers: Peers, rows_per_rank: Int64Array, capacities: Int64Array, words: int, announced_words: int = 8
    ) -> None:
        self._peers = peers
        rank = peers.rank
        first_row = np.concatenate(([0], np.cumsum(rows_per_rank)))
        first_entry = np.concatenate(([0], np.cumsum(capacities)))
        num_rows, num_entries = int(first_row[-1]), int(first_entry[-1])
        data_words, on_board = num_rows * words + 2 * num_entries, board_words(peers.world_size, announced_words)
        self._segment = _open_segment(peers, max(data_words + on_board, 1) * 8)  # an empty file cannot be mapped
        ranges = [(int(first_row[rank]) * words, int(rows_per_rank[rank]) * words)]
        ranges += [(num_rows * words + v * num_entries + int(first_entry[rank]), int(capacities[rank])) for v in (0, 1)]
        ranges += [(data_words, on_board)]
        _reserve(peers, self._segment, ranges)

        memory = self._segment.words
        self._all_rows = memory[: num_rows * words].reshape(num_rows, words)
        self._tables = memory[num_rows * words : data_words]  # both versions, flat
        self.board = NodeBoard(peers, memory[data_words : data_words + on_board], announced_words)
        self._num_entries = num_entries
        self._first_row = first_row
        self._first_entry = first_entry[:-1]
        self.rows = self._all_rows[first_row[rank] : first_row[rank + 1]]
        self.version = 0  # which of this rank's tables was published last
        self._peer_version: Int64Array = np.zeros(peers.world_size, np.int64)

    def publish(self, table: Int64Array, changed: bool) -> None:
        """Write the table peers are not reading; they learn which one by the announcement."""
        if changed:
            self.version ^= 1
            start = self.version * self._num_entries + int(self._first_entry[self._peers.rank])
            np.add(table, self._first_row[self._peers.rank], out=self._tables[start : start + len(table)])

    def announce(self, message: Int64Array) -> Int64Array:
        messages = self.board.announce(np.append(message, self.version))
        self.see_versions(messages[:, -1])
        return messages[:, :-1]

    def see_versions(self, versions: Int64Array) -> None:
        """Which tables the ranks of this node published in this round, int64 [W]."""
        self._peer_version = versions

    def share(self, values: Int64Array, lengths: Int64Array) -> list[Int64Array]:
        return self._peers.share(values, lengths)

    def fetch(self, owners: Int64Array, positions: Int64Array, out: Int64Array) -> None:
        first = (self._first_entry + self._peer_version * self._num_entries)[owners]
        np.take(self._all_rows, self._tables[first + positions], axis=0, out=out, mode="clip")

    def erase(self) -> None:
        pass  # rows go straight from buffer to block

    def close(self, together: bool = False) -> None:
        """The memory goes with the last view of it; the name is long gone."""
        self._segment.unlink()


def _open_segment(peers: Peers, size_bytes: int) -> SharedSegment:
    """Created by the group's first rank, attached by the others; a rank that cannot is named on all."""
    segment, problem = None, ""
    if peers.rank == 0:
        try:
            require_memory(size_bytes, _free_bytes(), f"shared memory ({SHM_DIRECTORY})")
            segment = SharedSegment.create(size_bytes)
        except (OSError, ValueError) as error:
            problem = str(error)
    path, problem = peers.gather_json([segment.path if segment else "", problem], "segment name")[0]
    if problem:
        raise ValueError(f"exchange=shared: {problem}; or set exchange=collective")
    if segment is None:
        try:
            segment = SharedSegment.attach(path, size_bytes)
        except OSError as error:
            problem = f"rank {peers.rank} cannot open {path}: {error.strerror}"
    _raise_any(peers, problem, segment)
    assert segment is not None
    return segment


def _reserve(peers: Peers, segment: SharedSegment, ranges: list[tuple[int, int]]) -> None:
    problem = ""
    try:
        for start, length in ranges:
            segment.reserve(start * 8, length * 8)
    except ValueError as error:
        problem = f"rank {peers.rank}: {error}"
    try:
        _raise_any(peers, problem, segment)
    finally:
        segment.unlink()


def _raise_any(peers: Peers, problem: str, segment: SharedSegment | None) -> None:
    """Raise on every rank what any rank has to complain about."""
    problems = [p for p in peers.gather_json(problem, "segment") if p]
    if problems:
        if segment is not None:
            segment.unlink()
        raise ValueError(f"exchange=shared: {problems[0]}")


def _free_bytes() -> int:
    stat = os.statvfs(SHM_DIRECTORY)
    return stat.f_bavail * stat.f_frsize
