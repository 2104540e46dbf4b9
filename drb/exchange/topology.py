"""Which ranks share a node, and which ranks are partners between nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from drb.types import Int64Array


class Topology:
    """The ranks and their nodes as one rank sees them. nodes: anything that names a rank's node, by rank.

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
