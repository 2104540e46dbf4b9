"""Rows by shared memory inside a node, by torch.distributed between nodes.

Inside a node every rank reads all buffers (`shared`), so a rank needs only one partner per other node, who answers for
that whole node: the one with the same number on its node. The partners of all nodes are a *rail*. A rank sends
messages along its rail alone, to N ranks instead of N·L. Where nodes have different numbers of ranks, partners are
dealt round robin, and the rail is the whole world.

Letters: W ranks, N nodes, L ranks of a node, R exemplars, K words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drb.distributed.peers import Peers
from drb.exchange.base import DirectRows
from drb.exchange.gather import CountsGather
from drb.exchange.requests import RowRequests
from drb.exchange.shared import SharedExchange
from drb.exchange.transport import Sizes, Transport
from drb.types import Int64Array

_OWNER_SHIFT = 40  # a request is the owner's place on its node and the exemplar's position, in one word
_POSITION_MASK = (1 << _OWNER_SHIFT) - 1


class HierarchicalExchange:
    """nodes: names every rank's node. rows_per_rank, capacities: int64 [W], known to all ranks.

    max_exemplars: the most rows that one rank fetches at once (r). folder: as of `SharedExchange`.
    """

    name = "hierarchical"
    direct: DirectRows | None = None

    def __init__(
        self,
        peers: Peers,
        nodes: Sequence[object],
        rows_per_rank: Int64Array,
        capacities: Int64Array,
        words: int,
        max_exemplars: int,
        folder: str | None = None,
    ) -> None:
        self._peers = peers
        self._counts = CountsGather(peers, nodes, needs_memory=True)
        self._topology = self._counts.topology
        near = self._topology.neighbours
        self._node = SharedExchange(
            self._counts.node_peers, rows_per_rank[near], capacities[near], words, self._counts, folder
        )
        self.rows = self._node.rows
        self._requests = RowRequests(self._counts.rail_peers, max_exemplars, words)

    def publish(self, table: Int64Array, changed: bool) -> None:
        self._node.publish(table, changed)

    def gather_counts(self, message: Int64Array) -> Int64Array:
        messages = self._counts.gather_counts(np.append(message, self._node.table))
        self._node.tables_of_all = messages[self._topology.neighbours, -1]
        return messages[:, :-1]

    def share(self, values: Int64Array, lengths: Int64Array) -> list[Int64Array]:
        return self._peers.share(values, lengths)

    def fetch(self, owners: Int64Array, positions: Int64Array, out: Int64Array) -> None:
        """This rank is its own partner for its own node: those rows take the same way, without leaving the process."""
        requests = self._topology.index_in_node[owners] << _OWNER_SHIFT | positions
        self._requests.fetch(self._topology.partner[owners], requests, self._gather, out)

    def _gather(self, requests: Int64Array, out: Int64Array) -> None:
        """Rows of this node."""
        self._node.fetch(requests >> _OWNER_SHIFT, requests & _POSITION_MASK, out)

    def erase(self) -> None:
        self._requests.erase()
        self._node.erase()

    @property
    def index_seconds(self) -> float:
        return self._requests.ask_seconds

    @property
    def staging_bytes(self) -> int:
        return self._requests.staging_bytes

    def close(self, together: bool = False) -> None:
        if together:
            self._counts.close()


class Hierarchical(Transport):
    """Shared memory inside a node, torch.distributed between nodes."""

    name = "hierarchical"
    in_shared_memory = True
    in_files = True

    def open(self, peers: Peers, nodes: Sequence[str], sizes: Sizes) -> HierarchicalExchange:
        return HierarchicalExchange(
            peers, nodes, sizes.rows, sizes.capacities, sizes.words, sizes.at_once, sizes.folder
        )
