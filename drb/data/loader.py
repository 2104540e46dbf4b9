"""Minibatches of one task for one rank: only its own samples, in a new order each epoch.

Every rank has equally many minibatches, as DDP needs. Shards differ by at most one sample, so where a rank's last
sample would need a minibatch of its own, the last one takes b + 1 rows instead: per epoch every sample is seen exactly
once, none is repeated or left out, and no minibatch is empty. (What an epoch has left after the number of ranks has
changed is dealt anew; there a minibatch may be empty: `drb.data.epochs`.)

Shapes: n samples in the task, W ranks, b rows asked for, B rows of a minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from drb.data.datasets import Source, TensorSource, erased_rows, is_mapped
from drb.data.epochs import Deal, Segment
from drb.data.ownership import owned_indices
from drb.data.pinned import gatherer
from drb.data.prefetch import gather_ahead
from drb.types import Allocate, Int64Array, Minibatch

_BLOCK_BYTES = 1 << 20  # gathered at once from memory: fits the cache, and spreads the cost of the calls


class TaskLoader:
    """Iterates a rank's own shard of a task, epoch by epoch.

    num_batches: minibatches per epoch, the same on every rank.
    max_rows: rows of the largest minibatch on any rank, batch_size or batch_size + 1.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        memory: Allocate | None = None,
    ) -> None:
        """Keep this rank's samples of `source` and, if in memory, copies of no others.

        Args:
            memory: allocates the minibatches, page-locked for a GPU (`drb.data.pinned`); None: ordinary memory.
        Raises:
            ValueError: batch_size below 1, or fewer samples than ranks.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._shard = source.subset(owned_indices(len(source), rank, world_size, seed))
        self._gather = gatherer(self._shard, memory)
        self._num_samples = len(source)
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self._seed = seed
        self.num_batches = self.deal(0).num_batches
        smallest, larger_ranks = divmod(len(source), world_size)
        self.max_rows = batch_size + int(larger_ranks > 0 and smallest % batch_size == 0)

    def deal(self, epoch: int, earlier: Sequence[Segment] = ()) -> Deal:
        """Who sees what in an epoch, or in what is left of it after `earlier` segments, trained by other ranks."""
        return Deal(
            self._num_samples, self._world_size, self._batch_size, seed=self._seed, epoch=epoch, earlier=earlier
        )

    def epoch(self, epoch: int, start: int = 0, earlier: Sequence[Segment] = ()) -> Iterator[Minibatch]:
        """The minibatches of an epoch from number `start` on; a function of the arguments and the seed alone.

        Minibatches are views of memory that is never written again. What lies in files is gathered (and decoded)
        ahead in the background; an error there is raised here, and closing the iterator ends the threads.

        Args:
            earlier: as `deal`; minibatches are then numbered from the last change on.
        Raises:
            ValueError: start is not one of the minibatches; while iterating, a file that cannot be read or decoded.
        """
        deal = self.deal(epoch, earlier)
        if not 0 <= start <= deal.num_batches:
            raise ValueError(f"start must be in [0, {deal.num_batches}], the minibatches of an epoch, got {start}")
        order, bounds = deal.order(self._rank), deal.bounds(self._rank)[start:]
        order = self._without_erased(order)
        return split_minibatches(self._shard, self._gather, order, bounds.tolist(), self._batch_size)

    def _without_erased(self, order: Int64Array) -> Int64Array:
        """Where the cache has lost a sample for good, the rank's next one in this order: all numbers stay."""
        erased = erased_rows(self._shard)
        if erased is None or not erased[order].any():
            return order
        left = np.flatnonzero(~erased[order])
        if not len(left):  # of what is left of an epoch; any other sample of the rank will do
            others = np.flatnonzero(~erased)
            if not len(others):
                raise ValueError(f"all {len(self._shard)} samples of rank {self._rank} in this task have been erased")
            return others[np.arange(len(order)) % len(others)]
        return order[left[np.searchsorted(left, np.arange(len(order))) % len(left)]]


def split_minibatches(
    source: Source,
    gather: Callable[[Int64Array], Minibatch],
    order: Int64Array,
    bounds: Sequence[int],
    batch_size: int,
) -> Iterator[Minibatch]:
    """Yield order[bounds[i] : bounds[i + 1]] of a source for each i, gathered in blocks of minibatches that are split.

    Args:
        gather: as `source.gather`, into whatever memory.
    """
    size, at_once = 1, False
    if len(order) and (isinstance(source, TensorSource) or is_mapped(source)):
        row_bytes = sum(column.nbytes for column in source.gather(order[:1]).values())
        size = max(1, _BLOCK_BYTES // max(1, row_bytes * batch_size))
        # 3 µs per minibatch of small images in memory; handing it over by a thread would cost more than that
        at_once = isinstance(source, TensorSource) or row_bytes * batch_size < _BLOCK_BYTES
    blocks = [bounds[first : first + size + 1] for first in range(0, len(bounds) - 1, size)]
    parts = (order[block[0] : block[-1]] for block in blocks)
    gathered = map(gather, parts) if at_once else gather_ahead(gather, parts)
    try:
        for minibatch, block in zip(gathered, blocks, strict=True):
            sizes = np.diff(block).tolist()
            for columns in zip(*(column.split_with_sizes(sizes) for column in minibatch.values()), strict=True):
                yield dict(zip(minibatch, columns, strict=True))
    finally:
        if isinstance(gathered, Generator):
            gathered.close()
