"""Rows by torch.distributed: indices to their owners by one all_to_all, rows back by another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from drb.buffer.storage import HeapStorage
from drb.distributed.peers import Peers
from drb.exchange.base import DirectRows
from drb.exchange.gather import CountsGather
from drb.exchange.requests import RowRequests
from drb.exchange.transport import Sizes, Transport
from drb.types import Int64Array

if TYPE_CHECKING:
    from drb.buffer.storage.mapped import MappedRows


class CollectiveExchange:
    """nodes: names every rank's node. max_exemplars: the most rows that one rank fetches at once (r).

    folder: where this rank's rows lie in a file; None: in memory.
    """

    name = "collective"
    direct: DirectRows | None = None

    def __init__(
        self,
        peers: Peers,
        nodes: Sequence[object],
        num_rows: int,
        words: int,
        max_exemplars: int,
        folder: str | None = None,
    ) -> None:
        self._peers = peers
        self._file = None if folder is None else _map_rows(peers, num_rows, words, folder)
        self.rows = HeapStorage(num_rows, words).rows if self._file is None else self._file.rows
        self._table: Int64Array = np.empty(0, np.int64)
        self._counts = CountsGather(peers, nodes, needs_memory=False)
        self._requests = RowRequests(peers, max_exemplars, words)

    def publish(self, table: Int64Array, changed: bool) -> None:
        self._table = table

    def gather_counts(self, message: Int64Array) -> Int64Array:
        return self._counts.gather_counts(message)

    def share(self, values: Int64Array, lengths: Int64Array) -> list[Int64Array]:
        return self._peers.share(values, lengths)

    def fetch(self, owners: Int64Array, positions: Int64Array, out: Int64Array) -> None:
        self._requests.fetch(owners, positions, self._gather, out)

    def _gather(self, positions: Int64Array, out: Int64Array) -> None:
        """This rank's own rows."""
        np.take(self.rows, self._table[positions], axis=0, out=out, mode="clip")

    def erase(self) -> None:
        self._requests.erase()
        if self._file is not None:
            self._file.sync()

    @property
    def index_seconds(self) -> float:
        return self._requests.ask_seconds

    @property
    def staging_bytes(self) -> int:
        return self._requests.staging_bytes

    def close(self, together: bool = False) -> None:
        if together:
            self._counts.close()


def _map_rows(peers: Peers, num_rows: int, words: int, folder: str) -> MappedRows:
    """This rank's rows in a file of its own. Raises ValueError on all ranks if one cannot have its file."""
    from drb.buffer.storage.mapped import MappedRows  # seldom needed

    file, problem = None, ""
    try:
        file = MappedRows(num_rows, words, folder)
    except ValueError as error:
        problem = f"rank {peers.rank}: {error}"
    peers.raise_any(problem, "storage")
    assert file is not None
    return file


class Collective(Transport):
    """Rows by torch.distributed, between any ranks."""

    name = "collective"
    in_files = True

    def open(self, peers: Peers, nodes: Sequence[str], sizes: Sizes) -> CollectiveExchange:
        return CollectiveExchange(peers, nodes, int(sizes.rows[peers.rank]), sizes.words, sizes.at_once, sizes.folder)
