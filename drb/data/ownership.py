"""Every sample id belongs to one rank, for good: distributed rehearsal buffers stay distinct.

With shards reshuffled over the ranks each epoch, every rank sooner or later sees every sample, and buffers
that keep 'the best M' converge to the same M. Here the owner of sample i is its position in a seeded
permutation, mod W; only the order within a rank changes from epoch to epoch.

Shapes: n samples in the dataset, W ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch.distributed as dist
from torch.utils.data import Sampler

from drb.data.sampler_order import Iteration, Shard
from drb.data.with_ids import require_disjoint
from drb.options import whole_number
from drb.seeding import mix64, permutation
from drb.types import BoolArray, Int64Array
from drb.warn import warn_caller


def owned_indices(num_samples: int, rank: int, world_size: int, seed: int) -> Int64Array:
    """What this rank owns of range(num_samples): int64, disjoint over ranks, sizes equal to within one.

    Raises:
        ValueError: rank is not in [0, world_size), or a rank would own nothing.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, world_size), got rank={rank}, world_size={world_size}")
    if num_samples < world_size:
        raise ValueError(
            f"{num_samples} samples cannot be shared by {world_size} ranks, each needs at least one; "
            "use fewer ranks or a task with more samples"
        )
    return permutation(num_samples, seed, "owner")[rank::world_size]


def owners(num_samples: int, world_size: int, seed: int) -> Int64Array:
    """The rank that owns each of range(num_samples): int64 [n]; `owned_indices` the other way round."""
    ranks = np.empty(num_samples, np.int64)
    ranks[permutation(num_samples, seed, "owner")] = np.arange(num_samples) % world_size
    return ranks


class OwnerTable:
    """The owners of known sample ids; `owner_of` is for `Rehearsal.load_state_dict`."""

    def __init__(self, sample_ids: Int64Array, ranks: Int64Array, *, strangers: int | None = None) -> None:
        """Rank ranks[i] owns sample_ids[i]; the last one counts. int64 [n] each.

        strangers: the number of ranks that ids which are not there are spread over; None: they are an error.
        """
        self._strangers = strangers
        last_first = sample_ids[::-1]
        self._ids, index = np.unique(last_first, return_index=True)
        self._ranks = ranks[::-1][index]

    def owner_of(self, sample_ids: Int64Array) -> Int64Array:
        """int64 [B]. Raises ValueError for an id that is not known."""
        at = np.searchsorted(self._ids, sample_ids).clip(0, max(len(self._ids) - 1, 0))
        unknown = self._ids[at] != sample_ids if len(self._ids) else np.ones(len(sample_ids), np.bool_)
        if self._strangers is not None:
            spread = (mix64(sample_ids.view(np.uint64)) % np.uint64(self._strangers)).astype(np.int64)
            return np.where(unknown, spread, self._ranks[at]) if len(self._ids) else spread
        if unknown.any():
            raise ValueError(
                f"the sample id {sample_ids[unknown][0]} of a stored exemplar is not in the data so far; resume with "
                "the same data"
            )
        ranks: Int64Array = self._ranks[at]
        return ranks


_Earlier: TypeAlias = tuple[tuple[int, int], ...]  # (world size, indices taken by each rank)


class _Part(NamedTuple):
    """An epoch, or what is left of it.

    earlier: what other numbers of ranks took of it. skip: indices that each of these ranks has been given already.
    """

    epoch: int
    earlier: _Earlier = ()
    skip: int = 0


class OwnerSampler(Sampler[int]):
    """A drop-in for torch's `DistributedSampler` that never moves a sample to another rank.

    All ranks give equally many indices. Where n is not a multiple of W, either the ranks with a sample less
    repeat one of their own (drop_last=False) or the others leave one out, another one each epoch.
    """

    def __init__(
        self,
        dataset: Any,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        check: bool = True,
    ) -> None:
        """
        Args:
            dataset: anything with a length.
            check: let a rehearsal require that its first minibatches follow this sampler's order, warn if later ones do
                not, and compare the ranks' samplers (`sampler_order`).
            rank, world_size: of the default process group if None; 0 and 1 without one.
            shuffle: a new order within the rank each epoch; otherwise ascending.
        Raises:
            ValueError: as `owned_indices`, or the dataset concatenates several with the same sample ids.
        """
        require_disjoint(dataset)
        in_group = dist.is_available() and dist.is_initialized()
        self.rank = (dist.get_rank() if in_group else 0) if rank is None else rank
        self.world_size = (dist.get_world_size() if in_group else 1) if world_size is None else world_size
        self.seed = whole_number("the seed of an OwnerSampler", seed)
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.check = check
        self._num_samples = len(dataset)
        owned_indices(self._num_samples, self.rank, self.world_size, self.seed)  # raises what there is to raise
        self._next = _Part(0)
        self._running = _Part(0)  # of the last iteration, or of the state that was loaded after it
        self._has_ended = False  # all of `_running` was asked for
        self._iteration: Iteration | None = None

    def __len__(self) -> int:
        """Indices of the next iteration on each rank: of a whole epoch, or of what a loaded state has left of one."""
        return self._length(self._next)

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is this epoch, or what a loaded state has left of it; later ones count on from there."""
        is_running = epoch == self._running.epoch and not self._has_ended
        self._next = self._running if is_running else _Part(epoch)

    def owner_of(self, sample_ids: Int64Array) -> Int64Array:
        """The rank that each sample belongs to, int64 [n], for `Rehearsal.load_state_dict`.

        sample_ids: indices into the dataset, int64 [n]. Ids that are none, as with `with_ids(dataset, first_id)` or
            ids of one's own, have to be turned into indices: `lambda ids: sampler.owner_of(ids - first_id)`.

        Raises:
            ValueError: one of them is no index of the dataset.
        """
        strange = (sample_ids < 0) | (sample_ids >= self._num_samples)
        if strange.any():
            raise ValueError(
                f"owner_of takes indices of the {self._num_samples} samples, got {int(sample_ids[strange][0])}: "
                "where ids are no indices, give load_state_dict owner_of=lambda ids: sampler.owner_of(…) of theirs"
            )
        ranks: Int64Array = owners(self._num_samples, self.world_size, self.seed)[sample_ids]
        return ranks

    def __iter__(self) -> Iterator[int]:
        part = self._next  # nothing has begun before the first index is asked for
        if part != self._running:
            self._warn_of_rest(part)
        self._next, self._running, self._has_ended = _Part(part.epoch + 1), part, False
        order = self._order(self.rank, self.world_size, part.epoch, part.earlier)[part.skip :]
        self._iteration = Iteration(order, self.check, Shard(self._num_samples, self.seed, self.rank, self.world_size))
        yield from order.tolist()
        self._has_ended = self._has_ended or part == self._running

    def _warn_of_rest(self, following: _Part) -> None:
        """Warn if a loaded state had left something of an epoch that was not given to its end."""
        epoch, earlier, skip = self._running
        if (earlier or skip) and not self._has_ended and self._length(self._running):
            warn_caller(
                f"OwnerSampler: what a loaded state had left of epoch {epoch} was not given to its end, and the next "
                f"iteration is epoch {following.epoch}; to go on inside that epoch, call set_epoch({epoch})"
            )

    # -- state

    def state_dict(self, taken: int) -> dict[str, Any]:
        """Where the epoch is that the last iteration began, or a state loaded since; alike on all ranks.

        taken: how many of its indices each rank has trained on, such as minibatches times the batch size. (A
        DataLoader has asked for more already.)

        Raises:
            ValueError: taken is no whole number, or not in [0, indices of that iteration]; once they have all been
                given it may be more, for a last minibatch that is short.
        """
        length = self._length(self._running)
        taken = whole_number("taken", taken, at_least=0)
        if taken > length and not self._has_ended:
            raise ValueError(
                f"taken must be how many of the {length} indices of this iteration were trained on, got {taken}"
            )
        epoch, earlier, skip = self._running
        earlier = (*earlier, (self.world_size, skip + min(taken, length)))
        return {"epoch": epoch, "earlier": [list(ranks) for ranks in earlier], "of": self._of()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration is what that epoch has left, also on another number of ranks; if nothing, the next epoch.

        What any rank has trained on is not given again (but to fill up a rank that would have fewer than the others,
        unless drop_last), and nothing is left out. On as many ranks the order goes on as it was.

        Raises:
            ValueError: it is no state of an OwnerSampler, or of one with another seed, other settings or other data.
        """
        if not {"epoch", "earlier", "of"} <= set(state):
            raise ValueError(f"not a state of an OwnerSampler: it has {', '.join(map(str, state)) or 'nothing'}")
        for name, value in self._of().items():
            if (saved := state["of"].get(name)) != value:
                raise ValueError(
                    f"the OwnerSampler's state was saved with {name} {saved}, this one has {value}: samples would come "
                    "twice and others never; make it as it was, or begin an epoch without the state"
                )
        *earlier, (world_size, taken) = (tuple(part) for part in state["earlier"])
        if world_size == self.world_size:
            part = _Part(int(state["epoch"]), tuple(earlier), taken)
        else:
            part = _Part(int(state["epoch"]), (*earlier, (world_size, taken)))
        self._running, self._has_ended = part, False
        self._next = part if self._length(part) else _Part(part.epoch + 1)

    def _of(self) -> dict[str, Any]:
        """What must not differ between a state and the sampler that goes on from it."""
        return {
            "samples": self._num_samples,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
        }

    def _length(self, part: _Part) -> int:
        """Indices that each rank is given of this part of an epoch."""
        epoch, earlier, skip = part
        return self._left(earlier, self.world_size, epoch)[1] - skip

    def _order(self, rank: int, world_size: int, epoch: int, earlier: _Earlier) -> Int64Array:
        """A rank's indices in what `earlier` ranks have left of an epoch."""
        left, length = self._left(earlier, world_size, epoch)
        owned = np.sort(owned_indices(self._num_samples, rank, world_size, self.seed))
        own: Int64Array = owned[left[owned]]
        odd = epoch % len(owned)  # whose turn it is to be repeated or left out
        if len(own) < length:
            own = np.append(own, np.resize(np.roll(own if len(own) else owned, -odd), length - len(own)))
        elif len(own) > length:
            own = np.roll(own, -odd - 1)[:length] if earlier else np.delete(own, odd)
        if not self.shuffle:
            return own
        segment = (len(earlier),) if earlier else ()
        own = own[permutation(len(own), self.seed, "epoch", rank, epoch, *segment)]
        return own

    def _left(self, earlier: _Earlier, world_size: int, epoch: int) -> tuple[BoolArray, int]:
        """Which samples `earlier` ranks have left, bool [n]; and how many indices each rank is given of them."""
        left: BoolArray = np.ones(self._num_samples, np.bool_)
        if not earlier:
            smallest, more = divmod(self._num_samples, world_size)
            return left, smallest + int(more > 0 and not self.drop_last)
        for index, (ranks, taken) in enumerate(earlier):
            for rank in range(ranks):
                left[self._order(rank, ranks, epoch, earlier[:index])[:taken]] = False
        sizes = np.bincount(owners(self._num_samples, world_size, self.seed)[left], minlength=world_size)
        return left, int(sizes.min() if self.drop_last else sizes.max())
