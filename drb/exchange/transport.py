"""The choice of an exchange: what each one needs, and how it is opened."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from drb.distributed.peers import Peers
from drb.exchange.base import Exchange
from drb.types import Int64Array
from drb.variant import Variant


@dataclass(frozen=True)
class Sizes:
    """What all ranks have agreed on. capacities, rows (with spare ones): int64 [W].

    words: of a row. exemplars: the most of a step. at_once: the most that one round fetches. num_blocks: to fetch into.
    folder: of this node's disk, where rows lie in a file; None: in memory.
    """

    capacities: Int64Array
    rows: Int64Array
    words: int
    exemplars: int
    at_once: int
    num_blocks: int
    folder: str | None = None


class Transport(Variant):
    """A way for rows to get from one rank's buffer to another rank.

    one_rank: it serves a single rank.
    one_node: all ranks must share one node.
    from_gpu_to_gpu: exemplars must be wanted on a GPU, by every rank.
    in_shared_memory: the buffers' rows lie in the node's shared memory.
    in_files: the buffers' rows may lie in files, in `Sizes.folder`.
    meets_in_memory: a round waits for no socket, unless it counts strata.
    least_depth: rounds that must be in flight at least.
    """

    one_rank: ClassVar[bool] = False
    one_node: ClassVar[bool] = False
    from_gpu_to_gpu: ClassVar[bool] = False
    in_shared_memory: ClassVar[bool] = False
    in_files: ClassVar[bool] = False
    meets_in_memory: ClassVar[bool] = False
    least_depth: ClassVar[int] = 1

    def check(self) -> None:
        """Raise ValueError if this process lacks what the transport needs, such as MPI. Called on every rank."""

    @abc.abstractmethod
    def open(self, peers: Peers, nodes: Sequence[str], sizes: Sizes) -> Exchange:
        """The exchange of this rank. Collective.

        Args:
            nodes: the name of every rank's node, by rank.
        """
