"""The all-gather of a few integers in every round, its barrier: in shared memory inside a node, by Gloo between nodes.

Between nodes messages travel only along rails (see `Topology`), so that a rank sends N of them instead of W. The ranks
of a node then share what came that way in memory. If nodes have different numbers of ranks, everything goes over Gloo.

Letters: W ranks, N nodes, L ranks of a node, H integers of a message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from drb.distributed.peers import Peers
from drb.exchange.node_gather import NodeGather
from drb.exchange.topology import Topology
from drb.types import Int64Array

_WORDS = 8  # that there is room for in a message, until a longer one comes

_log = logging.getLogger("drb")


class CountsGather:
    """An all-gather of small messages, which is also a barrier. Collective over peers, as is everything here.

    nodes: names every rank's node. needs_memory: a node without room in shared memory is an error (ValueError, on all
    ranks). Otherwise all messages then go over Gloo, and rank 0 says so.

    gather_counts: every rank's message, int64 [W, H], valid until the next call, as a function of one's own, int64 [H],
    with H alike on all ranks. Nobody returns before everybody has called.

    node_peers, rail_peers: the ranks of this rank's node, and of its rail; `peers` itself where that is everyone.
    """

    def __init__(self, peers: Peers, nodes: Sequence[object], *, needs_memory: bool) -> None:
        self._peers = peers
        self.topology = topology = Topology(nodes, peers.rank)
        self.node_peers = self._those(topology.neighbours)
        self.rail_peers = self._those(topology.rail)
        self._rails = np.array(topology.rails)
        num_nodes = len(topology.rail)
        self._in_memory: NodeGather | None = None
        if topology.has_rails and len(topology.neighbours) > 1:
            self._in_memory = self._open_memory(_WORDS * num_nodes, needs_memory)
        self.gather_counts: Callable[[Int64Array], Int64Array] = self._gather_between_nodes
        if self._in_memory is None:
            self.gather_counts = peers.gather_counts
        elif num_nodes == 1:
            self.gather_counts = self._in_memory.gather_counts

    def _gather_between_nodes(self, message: Int64Array) -> Int64Array:
        assert self._in_memory is not None
        along_rail = self.rail_peers.gather_counts(message)
        of_rails = self._in_memory.gather_counts(along_rail.reshape(-1))
        messages = np.empty((self._peers.world_size, len(message)), np.int64)
        messages[self._rails] = of_rails.reshape(*self._rails.shape, len(message))
        return messages

    def close(self) -> None:
        """Only where every operation has ended well."""
        for group in (self.node_peers, self.rail_peers):
            if group is not self._peers:
                group.close()

    def _those(self, ranks: list[int]) -> Peers:
        return self._peers if len(ranks) == self._peers.world_size else self._peers.subset(ranks)

    def _open_memory(self, most_words: int, needs_memory: bool) -> NodeGather | None:
        gather, problem = None, ""
        try:
            gather = NodeGather(self.node_peers, most_words)
        except (OSError, ValueError) as error:
            problem = str(error)
        problems = [p for p in self._peers.gather_json(problem, "shared memory") if p]
        if not problems:
            return gather
        if needs_memory:
            raise ValueError(problems[0])
        if self._peers.rank == 0:
            _log.warning(
                "ranks of a node exchange counts over Gloo, which takes longer, because shared memory is missing: %s",
                problems[0],
            )
        return None
