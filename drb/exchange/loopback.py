"""One rank: the union is this rank's buffer. The reference that the other exchanges are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from drb.buffer.storage import HeapStorage
from drb.buffer.storage.device import DeviceRows
from drb.distributed.peers import Peers
from drb.exchange.base import DirectRows
from drb.exchange.transport import Sizes, Transport
from drb.types import Int64Array


class LoopbackExchange:
    name = "loopback"
    staging_bytes = 0
    index_seconds = 0.0

    def __init__(self, num_rows: int, words: int, rows: Any = None, *, folder: str | None = None) -> None:
        """
        Args:
            rows: int64 [num_rows, words] somewhere else, such as `DeviceRows`, which `fetch` does not read.
            folder: where they lie in a file; None: in memory.
        """
        self._file = None
        if folder is not None:
            from drb.buffer.storage.mapped import MappedRows  # seldom needed

            self._file = MappedRows(num_rows, words, folder)
        if rows is None:
            rows = HeapStorage(num_rows, words).rows if self._file is None else self._file.rows
        self.rows = self.reachable = rows
        self.direct: DirectRows | None = self if folder is None else None  # a GPU would lock all of a file in memory
        self._table: Int64Array = np.empty(0, np.int64)

    def publish(self, table: Int64Array, changed: bool) -> None:
        self._table = table

    def gather_counts(self, message: Int64Array) -> Int64Array:
        return message[None]

    def share(self, values: Int64Array, lengths: Int64Array) -> list[Int64Array]:
        return [values]

    def locate(self, owners: Int64Array, positions: Int64Array) -> Int64Array:
        return self._table[positions]

    def fetch(self, owners: Int64Array, positions: Int64Array, out: Int64Array) -> None:
        np.take(self.rows, self._table[positions], axis=0, out=out, mode="clip")

    def erase(self) -> None:
        """What rows on a device pass through; others go straight from buffer to block. A file is zeroed on its disk."""
        if isinstance(self.rows, DeviceRows):
            self.rows.erase()
        if self._file is not None:
            self._file.sync()

    def close(self, together: bool = False) -> None:
        pass


class Loopback(Transport):
    """One rank: the union is its own buffer. What every transport stands for when there is one rank."""

    name = "loopback"
    one_rank = True
    in_files = True

    def open(self, peers: Peers | None, nodes: Sequence[str], sizes: Sizes) -> LoopbackExchange:
        return LoopbackExchange(int(sizes.rows[0]), sizes.words, folder=sizes.folder)
