"""Whether minibatches follow the order that an `OwnerSampler` gave: a sampler that is sharded twice is found at once.

Libraries that prepare a loader for many ranks may shard its sampler once more. Each rank then sees a part of its own
samples only, and nothing else tells: ids and owners are right. But a loader keeps the order of its sampler, so two
minibatches of the same iteration lie one behind the other, wherever the first one begins.
"""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import dataclass

import numpy as np

from drb.types import Int64Array

_CHECKED_MINIBATCHES = 3


@dataclass(eq=False)
class Iteration:
    """The last iteration of a sampler, which keeps it.

    order: the indices that it gives, int64 [n]. checked: whether minibatches must follow it.
    next: where in `order` the next minibatch has to begin; None before the first.
    """

    order: Int64Array
    checked: bool
    next: int | None = None

    def __post_init__(self) -> None:
        _recent.append(weakref.ref(self))


_recent: deque[weakref.ref[Iteration]] = deque(maxlen=8)  # of this process: several loaders may be open
_first_ids: set[int] = {0}  # of `with_ids`: ids are these and the sampler's indices


def note_first_id(first_id: int) -> None:
    """Some ids count from here on."""
    _first_ids.add(first_id)


class OrderCheck:
    """Looks at the first minibatches of a rehearsal."""

    def __init__(self) -> None:
        self._left = _CHECKED_MINIBATCHES

    def check(self, sample_ids: Int64Array) -> None:
        """Look at a minibatch's ids, int64 [B].

        Raises:
            ValueError: they are a sampler's, but not in its order.
        """
        if not self._left or not len(sample_ids):
            return
        is_of_a_sampler = False
        for reference in reversed(_recent):
            iteration = reference()
            indices = None if iteration is None else _indices(iteration.order, sample_ids)
            if iteration is None or indices is None:
                continue
            is_of_a_sampler = True
            first = _begin(iteration, indices) if iteration.checked else 0
            if first is not None:
                iteration.next = first + len(indices)
                self._left -= 1
                return
        if is_of_a_sampler:
            raise ValueError(
                "the minibatch does not follow the order of its OwnerSampler: something has sharded the sampler again "
                "(accelerate's prepare, Lightning's use_distributed_sampler), so that samples would never be seen; "
                "leave the loader as it is, or say OwnerSampler(check=False) if minibatches are reordered on purpose"
            )
        self._left -= 1


def _indices(order: Int64Array, sample_ids: Int64Array) -> Int64Array | None:
    """What a sampler gave for these ids, int64 [B]; None if they are not all its own."""
    for first_id in _first_ids:
        indices: Int64Array = sample_ids - first_id
        if np.isin(indices, order).all():
            return indices
    return None


def _begin(iteration: Iteration, indices: Int64Array) -> int | None:
    """Where these indices lie in an iteration, one behind the other and behind those before; None if they do not."""
    starts = np.flatnonzero(iteration.order == indices[0]) if iteration.next is None else [iteration.next]
    for start in starts:
        if np.array_equal(iteration.order[start : start + len(indices)], indices):
            return int(start)
    return None
