"""Rows by torch.distributed: indices to their owners by one all_to_all, rows back by another."""

from __future__ import annotations

import numpy as np

from drb.exchange.peers import Peers
from drb.exchange.requests import RowRequests
from drb.storage import HeapStorage
from drb.types import Int64Array


class CollectiveExchange:
    """max_exemplars: the most rows that one rank fetches in a round (r)."""

    name = "collective"

    def __init__(self, peers: Peers, num_rows: int, words: int, max_exemplars: int) -> None:
        self._peers = peers
        self._storage = HeapStorage(num_rows, words)
        self.rows = self._storage.rows
        self._table: Int64Array = np.empty(0, np.int64)
        self._requests = RowRequests(peers, max_exemplars, words)

    def publish(self, table: Int64Array, changed: bool) -> None:
        self._table = table

    def announce(self, message: Int64Array) -> Int64Array:
        return self._peers.announce(message)

    def share(self, values: Int64Array, lengths: Int64Array) -> list[Int64Array]:
        return self._peers.share(values, lengths)

    def fetch(self, per_owner: Int64Array, positions: Int64Array, out: Int64Array) -> None:
        counts, wanted = self._requests.ask(per_owner, positions)
        outgoing = self._requests.outgoing(len(wanted))
        np.take(self.rows, self._table[wanted], axis=0, out=outgoing, mode="clip")
        self._requests.answer(out, per_owner, outgoing, counts)

    def erase(self) -> None:
        self._requests.erase()

    @property
    def index_seconds(self) -> float:
        return self._requests.ask_seconds

    @property
    def staging_bytes(self) -> int:
        return self._requests.staging_bytes

    def close(self, together: bool = False) -> None:
        pass
