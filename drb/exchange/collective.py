"""Rows by torch.distributed: indices to their owners by one all_to_all, rows back by another.

Requests travel in fixed places (r per peer) while that is small; for many ranks the counts go first, so that a
round costs O(W) small integers and O(r) rows per rank.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist

from drb.exchange.peers import Peers
from drb.storage import HeapStorage
from drb.types import Int64Array

FIXED_REQUEST_BYTES = 64 * 1024  # above this, counts are sent ahead


class CollectiveExchange:
    """max_exemplars: the most rows that one rank fetches in a round (r)."""

    name = "collective"

    def __init__(self, peers: Peers, num_rows: int, words: int, max_exemplars: int) -> None:
        self._peers = peers
        self._storage = HeapStorage(num_rows, words)
        self.rows = self._storage.rows
        self._words = words
        self._max_exemplars = max_exemplars
        self._table: Int64Array = np.empty(0, np.int64)
        self._outgoing: Int64Array = np.empty((max_exemplars, words), np.int64)
        request_bytes = peers.world_size * (max_exemplars + 1) * 8
        self._fixed_requests = request_bytes <= FIXED_REQUEST_BYTES
        shape = (peers.world_size, max_exemplars + 1 if self._fixed_requests else 0)
        self._requests: Int64Array = np.zeros(shape, np.int64)
        self._requested = np.empty_like(self._requests)

    def publish(self, table: Int64Array, changed: bool) -> None:
        self._table = table

    def announce(self, message: Int64Array) -> Int64Array:
        return self._peers.announce(message)

    def share(self, values: Int64Array, lengths: Int64Array) -> list[Int64Array]:
        return self._peers.share(values, lengths)

    def fetch(self, per_owner: Int64Array, positions: Int64Array, out: Int64Array) -> None:
        counts, wanted = (self._ask_fixed if self._fixed_requests else self._ask)(per_owner, positions)
        if len(wanted) > len(self._outgoing):  # this rank holds more than its share of the union
            self._outgoing = np.empty((len(wanted), self._words), np.int64)
        outgoing = self._outgoing[: len(wanted)]
        np.take(self.rows, self._table[wanted], axis=0, out=outgoing, mode="clip")
        self._all_to_all("rows", out, outgoing, per_owner, counts)

    def _ask_fixed(self, per_owner: Int64Array, positions: Int64Array) -> tuple[Int64Array, Int64Array]:
        """(count, positions…) in r + 1 places per peer: one message instead of two."""
        self._requests[:, 0] = per_owner
        self._requests[:, 1:][np.arange(self._max_exemplars) < per_owner[:, None]] = positions
        self._all_to_all("indices", self._requested, self._requests)
        counts = self._requested[:, 0]
        return counts, self._requested[:, 1:][np.arange(self._max_exemplars) < counts[:, None]]

    def _ask(self, per_owner: Int64Array, positions: Int64Array) -> tuple[Int64Array, Int64Array]:
        wanted, counts = self._peers.scatter(positions, per_owner)
        return counts, wanted

    def _all_to_all(
        self,
        operation: str,
        received: Int64Array,
        sent: Int64Array,
        received_rows: Int64Array | None = None,
        sent_rows: Int64Array | None = None,
    ) -> None:
        self._peers.run(
            operation,
            lambda: dist.all_to_all_single(
                torch.from_numpy(received),
                torch.from_numpy(sent),
                None if received_rows is None else received_rows.tolist(),
                None if sent_rows is None else sent_rows.tolist(),
                group=self._peers.group,
            ),
        )

    @property
    def staging_bytes(self) -> int:
        """If one rank alone holds exemplars, it sends r to everyone."""
        return self._peers.world_size * self._max_exemplars * self._words * 8 + 2 * self._requests.nbytes

    def close(self, together: bool = False) -> None:
        pass
