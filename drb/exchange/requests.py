"""Asking other ranks for rows, and answering: two all_to_alls.

Requests travel in fixed places (r per peer) while that is small; for many ranks the counts go first, so that a
round costs O(P) small integers and O(r) rows per rank. Rows arrive ordered by peer, so those that were not asked for
in this order are copied once more.

Letters: P ranks of the group, R rows asked for, A rows that this rank is asked for, K words of a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist

from drb.distributed.peers import Peers
from drb.types import Int64Array

Gather = Callable[[Int64Array, Int64Array], None]

FIXED_REQUEST_BYTES = 64 * 1024  # above this, counts are sent ahead


def fits_fixed_places(num_peers: int, max_rows: int) -> bool:
    """Whether counts and requests travel in one message of r + 1 places per peer."""
    return num_peers * (max_rows + 1) * 8 <= FIXED_REQUEST_BYTES


def staging_bytes(num_peers: int, max_rows: int, words: int) -> int:
    """Memory for requests and rows on their way, at most.

    If one rank alone holds exemplars, it sends r to everyone; r more are put into another order.
    """
    places = num_peers * (max_rows + 1) if fits_fixed_places(num_peers, max_rows) else 0
    return 8 * ((num_peers + 1) * max_rows * words + 2 * places)


class RowRequests:
    """max_rows: the most rows that one rank asks for at once (r)."""

    def __init__(self, peers: Peers, max_rows: int, words: int) -> None:
        self.ask_seconds = 0.0
        self._peers = peers
        self._max_rows = max_rows
        self._words = words
        self._outgoing: Int64Array = np.empty((max_rows, words), np.int64)
        self._incoming: Int64Array = np.empty((0, words), np.int64)  # r rows from the first time on that it is needed
        self._fixed = fits_fixed_places(peers.world_size, max_rows)
        shape = (peers.world_size, max_rows + 1 if self._fixed else 0)
        self._requests: Int64Array = np.zeros(shape, np.int64)
        self._requested = np.empty_like(self._requests)

    def fetch(self, peers: Int64Array, values: Int64Array, gather: Gather, out: Int64Array) -> None:
        """Rows out int64 [R, K] from peers int64 [R], in any order, of whom they are asked for by values int64 [R].

        gather(asked, rows): puts what this rank is asked for, values int64 [A], into rows int64 [A, K].
        """
        if (peers[1:] >= peers[:-1]).all():
            self._fetch_in_order(peers, values, gather, out)
            return
        order = np.argsort(peers, kind="stable")
        if not len(self._incoming):
            self._incoming = np.empty((self._max_rows, self._words), np.int64)
        rows = self._incoming[: len(out)]
        self._fetch_in_order(peers[order], values[order], gather, rows)
        out[order] = rows

    def _fetch_in_order(self, peers: Int64Array, values: Int64Array, gather: Gather, out: Int64Array) -> None:
        per_peer = np.bincount(peers, minlength=self._peers.world_size)
        counts, asked = self.ask(per_peer, values)
        outgoing = self._room_for(len(asked))
        gather(asked, outgoing)
        self._all_to_all("rows", out, outgoing, per_peer, counts)

    def ask(self, per_peer: Int64Array, values: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Send values int64 [R], ordered by peer, per_peer int64 [P] to each.

        Returns what the others sent here: how many each, int64 [P], and their values, int64 [A].
        """
        start = time.perf_counter()
        if self._fixed:
            counts, asked = self._ask_in_fixed_places(per_peer, values)
        else:
            asked, counts = self._peers.scatter(values, per_peer)
        self.ask_seconds += time.perf_counter() - start
        return counts, asked

    def _ask_in_fixed_places(self, per_peer: Int64Array, values: Int64Array) -> tuple[Int64Array, Int64Array]:
        # (count, values…) in r + 1 places per peer: one message instead of two
        self._requests[:, 0] = per_peer
        self._requests[:, 1:][np.arange(self._max_rows) < per_peer[:, None]] = values
        self._all_to_all("indices", self._requested, self._requests)
        counts = self._requested[:, 0]
        return counts, self._requested[:, 1:][np.arange(self._max_rows) < counts[:, None]]

    def _room_for(self, num_rows: int) -> Int64Array:
        """Where to gather the rows that this rank is asked for: int64 [A, K], reused."""
        if num_rows > len(self._outgoing):  # this rank holds more than its share of the union
            self.erase()  # no record may be left in memory that is given back
            self._outgoing = np.empty((num_rows, self._words), np.int64)
        return self._outgoing[:num_rows]

    def erase(self) -> None:
        """Zero the rows that were on their way last."""
        self._outgoing.fill(0)
        self._incoming.fill(0)

    @property
    def staging_bytes(self) -> int:
        return staging_bytes(self._peers.world_size, self._max_rows, self._words)

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
