"""Minibatches of one task for one rank: only its own samples, in a new order each epoch.

Every rank has equally many minibatches, as DDP needs, and none is empty. Shards differ by at most one
sample, so where a rank's last sample would need a minibatch of its own, the last one takes b + 1 rows
instead: per epoch every sample is seen exactly once, none is repeated or left out.

Shapes: n samples in the task, W ranks, b rows asked for, B rows of a minibatch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from drb.datasets import Source, TensorSource
from drb.ownership import owned_indices
from drb.seeding import permutation
from drb.types import Int64Array, Minibatch

_BLOCK_BYTES = 1 << 20  # gathered at once from memory: fits the cache, and spreads the cost of the calls
_AHEAD = 3  # minibatches that are decoded ahead of training


class TaskLoader:
    """Iterates a rank's own shard of a task, epoch by epoch.

    num_batches: minibatches per epoch, the same on every rank.
    max_rows: rows of the largest minibatch on any rank, batch_size or batch_size + 1.
    """

    def __init__(self, source: Source, batch_size: int, *, rank: int = 0, world_size: int = 1, seed: int = 0) -> None:
        """Keep this rank's samples of `source` and, if in memory, copies of no others.

        Raises:
            ValueError: batch_size below 1, or fewer samples than ranks.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._shard = source.subset(owned_indices(len(source), rank, world_size, seed))
        self._batch_size = batch_size
        self._rank = rank
        self._seed = seed
        smallest, larger_ranks = divmod(len(source), world_size)
        self._shard_sizes = smallest + (np.arange(world_size) < larger_ranks)
        self.num_batches = -(-smallest // batch_size)
        self.max_rows = batch_size + int(larger_ranks > 0 and smallest % batch_size == 0)

    def rows_per_rank(self, step: int) -> Int64Array:
        """Rows of the minibatch at `step` of an epoch on each rank, int64 [W]."""
        if step < self.num_batches - 1:
            return np.full_like(self._shard_sizes, self._batch_size)
        return self._shard_sizes - (self.num_batches - 1) * self._batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Minibatch]:
        """The minibatches of an epoch from number `start` on; a function of the arguments and the seed alone.

        Minibatches are views of memory that is never written again. Data that is read from files is decoded
        ahead in the background; an error there is raised here, and closing the iterator ends the threads.

        Raises:
            ValueError: start is not in [0, num_batches]; while iterating, a file that cannot be decoded.
        """
        if not 0 <= start <= self.num_batches:
            raise ValueError(f"start must be in [0, {self.num_batches}], the minibatches of an epoch, got {start}")
        order = permutation(len(self._shard), self._seed, "epoch", self._rank, epoch)
        if isinstance(self._shard, TensorSource):
            return self._from_memory(self._shard, order, start)
        return self._decoded_ahead(order, start)

    def _from_memory(self, shard: TensorSource, order: Int64Array, start: int) -> Iterator[Minibatch]:
        """Gather blocks of minibatches and split them: 3 µs per minibatch of small images instead of 7."""
        row_bytes = sum(column[:1].nbytes for column in shard.columns.values())
        steps_per_block = max(1, _BLOCK_BYTES // (row_bytes * self._batch_size))
        for first in range(start, self.num_batches, steps_per_block):
            bounds = [self._bound(step) for step in range(first, min(first + steps_per_block, self.num_batches) + 1)]
            sizes = np.diff(bounds).tolist()
            block = shard.gather(order[bounds[0] : bounds[-1]])
            for columns in zip(*(column.split_with_sizes(sizes) for column in block.values()), strict=True):
                yield dict(zip(block, columns, strict=True))

    def _decoded_ahead(self, order: Int64Array, start: int) -> Iterator[Minibatch]:
        pool = ThreadPoolExecutor(1, thread_name_prefix="drb-prefetch")
        pending: deque[Future[Minibatch]] = deque()
        try:
            for step in range(start, self.num_batches):
                pending.append(pool.submit(self._shard.gather, order[self._bound(step) : self._bound(step + 1)]))
                if len(pending) > _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _bound(self, step: int) -> int:
        """Position in the epoch at which the minibatch `step` begins."""
        return step * self._batch_size if step < self.num_batches else len(self._shard)
