"""Minibatches of a mixed task for one rank: each epoch has a share of each source, by `drb.data.mix`'s formula.

The samples of a global minibatch are the same on any number of ranks. Every rank has as many minibatches; their rows
differ a little between ranks, so that each sample stays on its rank, and few may be empty where minibatches are small.

Letters: G samples of a minibatch on all ranks, D samples of an epoch, W ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from drb.data.datasets import Source, erased_rows
from drb.data.epochs import Segment
from drb.data.loader import split_minibatches
from drb.data.mix.mix import has_fixed_owners
from drb.data.pinned import gatherer
from drb.data.scenarios.task import TaskMix
from drb.types import Allocate, Int64Array, Minibatch


@dataclass(frozen=True)
class MixedDeal:
    """An epoch of `length` samples, of which `done` are over. batch_size: G."""

    length: int
    done: int
    batch_size: int

    @property
    def num_batches(self) -> int:
        return -(-(self.length - self.done) // self.batch_size)

    @property
    def share_seen(self) -> float:
        return self.done / self.length

    def bounds(self) -> Int64Array:
        """Where each minibatch begins in the epoch, and the end: int64 [T + 1]."""
        return np.minimum(self.done + np.arange(self.num_batches + 1) * self.batch_size, self.length)

    def rows(self) -> Int64Array:
        """Rows of each minibatch on all ranks together: int64 [T]."""
        return np.diff(self.bounds())


class MixedLoader:
    """Iterates a rank's samples of a mixed task, epoch by epoch.

    num_batches: minibatches of a whole epoch, the same on every rank.
    """

    def __init__(
        self,
        source: Source,
        mix: TaskMix,
        batch_size: int,
        *,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        memory: Allocate | None = None,
    ) -> None:
        """
        Args:
            source: the sources of the mix, one behind the other.
            batch_size: of a rank, on average.
            accumulate: minibatches of an optimisation step.
            memory: allocates the minibatches, see `TaskLoader`.
        Raises:
            ValueError: shares that make no mix, or samples of the source were erased.
        """
        erased = erased_rows(source)
        if erased is not None and erased.any():
            raise ValueError(
                f"{int(erased.sum())} samples of a mixed task have been erased; leave them out of its data"
            )
        self._mix = mix.begin(batch_size * world_size * accumulate, seed)
        self._first = np.cumsum([0, *(part.count for part in self._mix.parts)])[:-1]
        self._length = mix.epoch
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._place: Int64Array = np.arange(len(source))  # of each sample in what this rank keeps
        if source.in_memory and has_fixed_owners(world_size):
            own = self._own()
            self._place[own] = np.arange(len(own))
            source = source.subset(own)
        self._source, self._gather = source, gatherer(source, memory)
        self.num_batches = self.deal(0).num_batches

    def deal(self, epoch: int, earlier: Sequence[Segment] = ()) -> MixedDeal:
        """An epoch, or what is left of it after `earlier` segments of other numbers of ranks."""
        done = sum(each.minibatches * each.batch_size * each.world_size for each in earlier)
        return MixedDeal(self._length, min(done, self._length), self._batch_size * self._world_size)

    def _own(self) -> Int64Array:
        """This rank's samples, positions in the source, int64."""
        parts = self._mix.parts
        numbers = [part.order.owned(0, part.count, self._rank, self._world_size) for part in parts]
        found = [
            part.order.samples(each, self._rank, self._world_size) for part, each in zip(parts, numbers, strict=True)
        ]
        return np.concatenate([first + each for first, each in zip(self._first, found, strict=True)])

    def epoch(self, epoch: int, start: int = 0, earlier: Sequence[Segment] = ()) -> Iterator[Minibatch]:
        """This rank's minibatches of an epoch, from number `start` on."""
        bounds = self.deal(epoch, earlier).bounds()[start:] + epoch * self._length
        rows = self._mix.rows_between(int(bounds[0]), int(bounds[-1]), self._rank, self._world_size)
        order = self._place[self._first[rows.sources] + rows.samples]
        ends = np.searchsorted(rows.positions, bounds).tolist()
        return split_minibatches(self._source, self._gather, order, ends, self._batch_size)
