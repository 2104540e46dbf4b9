"""Epochs over what is stored, for phases without rows of the stream: minibatches that exemplars alone will fill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import numpy as np

from drb.data.epochs import Segment
from drb.types import Int64Array, Minibatch


class Deal(Protocol):
    """An epoch, or what is left of it: minibatches per rank, their rows, and the share that is over."""

    @property
    def num_batches(self) -> int: ...
    @property
    def share_seen(self) -> float: ...
    def rows(self) -> Int64Array: ...


class Loader(Protocol):
    """What a phase iterates: a `TaskLoader` or `MixedLoader` of `drb.data`, or `StoredRows`."""

    num_batches: int

    def deal(self, epoch: int, earlier: Sequence[Segment] = ()) -> Deal: ...
    def epoch(self, epoch: int, start: int = 0, earlier: Sequence[Segment] = ()) -> Iterator[Minibatch]: ...


@dataclass
class StoredDeal:
    """Minibatches of no rows. share_seen: of the exemplars that the epoch draws."""

    num_batches: int
    share_seen: float

    def rows(self) -> Int64Array:
        return np.zeros(self.num_batches, np.int64)


class StoredRows:
    """Minibatches without rows, so many that their exemplars are as many as are stored.

    num_batches: per epoch, the same on every rank.
    """

    def __init__(self, num_stored: int, exemplars: int, *, world_size: int, example: Minibatch) -> None:
        """
        Args:
            num_stored: exemplars of all ranks. exemplars: that each rank gets with a minibatch.
            example: a minibatch, whose fields are used.
        """
        self._num_stored = num_stored
        self._exemplars = exemplars
        self._world_size = world_size
        self._empty = {name: field[:0] for name, field in example.items()}
        self.num_batches = self.deal(0).num_batches

    def deal(self, epoch: int, earlier: Sequence[Segment] = ()) -> StoredDeal:
        """What is left of an epoch after `earlier` segments of other numbers of ranks."""
        seen = self._exemplars * sum(segment.minibatches * segment.world_size for segment in earlier)
        left = max(0, self._num_stored - seen)
        batches = -(-left // (self._exemplars * self._world_size))
        return StoredDeal(batches, 1 - left / max(1, self._num_stored))

    def epoch(self, epoch: int, start: int = 0, earlier: Sequence[Segment] = ()) -> Iterator[Minibatch]:
        """Minibatches of no rows from number `start` on."""
        return repeat(self._empty, self.deal(epoch, earlier).num_batches - start)
