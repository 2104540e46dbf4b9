"""Where ranks meet in every round and learn each other's few integers: in shared memory inside a node, by Gloo between.

Messages leave a node along the rails alone (see `Places`): N of them per rank instead of W; what came that way is then
put on the node's board. Where nodes have different numbers of ranks, everything goes by Gloo.

Letters: W ranks, N nodes, L ranks of a node, H integers of a message.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from drb.distributed.peers import Peers
from drb.exchange.board import NodeBoard, board_words
from drb.exchange.segment import open_segment
from drb.types import Int64Array

MOST_WORDS = 8  # of a message

_log = logging.getLogger("drb")


class Meeting:
    """nodes: names every rank's node. Collective over peers, as is everything here.

    needs_memory: a node without room in shared memory is an error (ValueError, on all ranks); otherwise the ranks meet
    by Gloo then, all of them, and rank 0 says so.

    node_peers, rail_peers: the ranks of this rank's node, and of its rail; `peers` itself where that is everyone.
    """

    def __init__(self, peers: Peers, nodes: Sequence[object], *, needs_memory: bool) -> None:
        self._peers = peers
        self.places = places = Places(nodes, peers.rank)
        self.node_peers = self._those(places.neighbours)
        self.rail_peers = self._those(places.rail)
        self._rails = np.array(places.rails)
        self._num_nodes = len(places.rail)
        self._board: NodeBoard | None = None
        if places.has_rails and len(places.neighbours) > 1:
            self._board = self._open_board(MOST_WORDS * self._num_nodes, needs_memory)

    def gather_counts(self, message: Int64Array) -> Int64Array:
        """Every rank's message, int64 [W, H], valid until the next call; nobody returns before everybody has called."""
        if self._board is None:
            return self._peers.gather_counts(message)
        if self._num_nodes == 1:
            return self._board.gather_counts(message)
        along_rail = self.rail_peers.gather_counts(message)
        of_rails = self._board.gather_counts(along_rail.reshape(-1))
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

    def _open_board(self, most_words: int, needs_memory: bool) -> NodeBoard | None:
        num_words, board, problem = board_words(self.node_peers.world_size, most_words), None, ""
        try:
            segment = open_segment(self.node_peers, num_words, [(0, num_words)])
            board = NodeBoard(self.node_peers, segment.words[:num_words], most_words)
        except (OSError, ValueError) as error:
            problem = str(error)
        problems = [p for p in self._peers.gather_json(problem, "board") if p]
        if not problems:
            return board
        if needs_memory:
            raise ValueError(problems[0])
        if self._peers.rank == 0:
            _log.warning("ranks of a node meet by Gloo, which takes longer, for want of shared memory: %s", problems[0])
        return None


class Places:
    """The places of ranks as one rank sees them. nodes: anything that names a rank's node, by rank.

    neighbours:    ranks of this rank's node, ascending
    rail:          the ranks that partner one another, one per node and this one among them, ascending; all ranks if
                   nodes have different numbers of ranks (has_rails is False)
    rails:         of each neighbour, by its place in `neighbours`
    partner:       int64 [W], place in `rail` of the rank that answers for each rank's node
    index_in_node: int64 [W], each rank's place among its neighbours
    """

    def __init__(self, nodes: Sequence[object], rank: int) -> None:
        members: dict[object, list[int]] = {}
        for other, node in enumerate(nodes):
            members.setdefault(node, []).append(other)
        self.neighbours = members[nodes[rank]]
        self.has_rails = len({len(ranks) for ranks in members.values()}) == 1
        number = self.neighbours.index(rank)
        if self.has_rails:
            self.rails = [sorted(ranks) for ranks in zip(*members.values(), strict=True)]
        else:
            self.rails = [list(range(len(nodes)))] * len(self.neighbours)
        self.rail = self.rails[number]
        answers = {node: ranks[number % len(ranks)] for node, ranks in members.items()}
        self.partner: Int64Array = np.array([self.rail.index(answers[node]) for node in nodes], np.int64)
        self.index_in_node: Int64Array = np.array([members[node].index(r) for r, node in enumerate(nodes)], np.int64)
