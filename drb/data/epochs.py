"""How an epoch's samples are dealt to the ranks, also when their number changes half-way.

A sample is known by its *place*, its position in the seeded permutation that decides owners: place p belongs to rank
p mod W. A whole epoch gives every rank its own places in a new order. What an epoch has left after it was stopped
belongs to the owners that the new number of ranks makes, who hold unequal parts of it: all get as many minibatches as
the largest part needs, each spread evenly over them, so some may be smaller than b, and few, of the smallest parts,
empty. Over the epoch every sample is seen exactly once, however often the number of ranks changes.

Shapes: n samples, W ranks, b rows asked for, T minibatches of each rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from drb.seeding import permutation
from drb.types import BoolArray, Int64Array


@dataclass(frozen=True)
class Segment:
    """A part of an epoch that is over: so many minibatches on each of world_size ranks, for batch_size rows."""

    world_size: int
    batch_size: int
    minibatches: int


class Deal:
    """An epoch, or what is left of it after `earlier` segments. A function of the arguments alone.

    num_batches: T, the same on every rank; 0 if nothing is left.
    sizes: samples of each rank, int64 [W].
    """

    def __init__(
        self,
        num_samples: int,
        world_size: int,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        earlier: Sequence[Segment] = (),
    ) -> None:
        self._world_size = world_size
        self._batch_size = batch_size
        self._seed = (seed, epoch)
        self._num_earlier = len(earlier)
        self._num_samples = num_samples
        self._unseen: BoolArray | None = None  # by place, int64 [n]; None for all
        if not earlier:
            smallest, larger_ranks = divmod(num_samples, world_size)
            self.sizes: Int64Array = smallest + (np.arange(world_size) < larger_ranks)
            # where the last sample of a rank would need a minibatch of its own, the last one takes b + 1 rows instead
            self.num_batches = -(-smallest // batch_size)
            return
        *before, last = earlier
        deal = Deal(num_samples, last.world_size, last.batch_size, seed=seed, epoch=epoch, earlier=before)
        self._unseen = deal.unseen_after(last.minibatches)
        self.sizes = np.bincount(np.flatnonzero(self._unseen) % world_size, minlength=world_size)
        self.num_batches = -(-int(self.sizes.max()) // batch_size)

    @property
    def share_seen(self) -> float:
        """The share of the epoch's samples that were seen before this deal."""
        return 1 - int(self.sizes.sum()) / self._num_samples

    def order(self, rank: int) -> Int64Array:
        """This rank's samples as it sees them: indices into what it owns, `owned_indices`; int64 [sizes[rank]]."""
        seed, epoch = self._seed
        if self._unseen is None:
            return permutation(int(self.sizes[rank]), seed, "epoch", rank, epoch)
        own = np.flatnonzero(self._unseen[rank :: self._world_size])
        return own[permutation(len(own), seed, "epoch", rank, epoch, self._num_earlier)]

    def bounds(self, rank: int) -> Int64Array:
        """Where each minibatch begins in `order`, and the end: int64 [T + 1]."""
        size, steps = int(self.sizes[rank]), np.arange(self.num_batches + 1)
        if self._unseen is not None:
            return steps * size // max(self.num_batches, 1)
        bounds = steps * self._batch_size
        bounds[-1] = size
        return bounds

    def rows(self) -> Int64Array:
        """Rows of each minibatch on all ranks together: int64 [T]."""
        bounds: Int64Array = sum((self.bounds(rank) for rank in range(self._world_size)), np.zeros(1, np.int64))
        return np.diff(bounds)

    def unseen_after(self, minibatches: int) -> BoolArray:
        """Which places no rank has seen after so many minibatches on each: bool [n]."""
        unseen = np.ones(self._num_samples, np.bool_) if self._unseen is None else self._unseen.copy()
        for rank in range(self._world_size):
            seen = self.order(rank)[: self.bounds(rank)[minibatches]]
            unseen[seen * self._world_size + rank] = False
        return unseen
