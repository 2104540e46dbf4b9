"""Whether minibatches follow the order that an `OwnerSampler` gave, and whether the ranks' samplers belong together.

Libraries that prepare a loader for many ranks may shard its sampler once more. Each rank then sees a part of its own
samples only, and nothing else tells: ids and owners are right. But a loader keeps the order of its sampler, so each
minibatch begins where the one before ended. A sampler that is sharded twice breaks that in the first two steps, which
is an error; minibatches that are skipped or repeated later are warned about once, because training may go on.

Letters: B rows of a minibatch, n samples in the dataset.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from drb.types import Int64Array
from drb.warn import warn_caller

_MUST_FOLLOW = 3  # minibatches
_SEARCHES = 3  # for minibatches of no known place, until a sampler is iterated again


@dataclass(frozen=True)
class Shard:
    """What a sampler gives: the samples of one of `world_size` ranks, of `num_samples` that `seed` divides.

    first_id: the sample id of index 0.
    """

    num_samples: int
    seed: int
    rank: int
    world_size: int
    first_id: int = 0


@dataclass(eq=False)
class Iteration:
    """An iteration of a sampler, which keeps its last one.

    order: the indices that it gives, int64 [n]. checked: whether minibatches must follow it. claimed: whether some
    rehearsal's minibatches did.
    """

    order: Int64Array
    checked: bool
    shard: Shard
    claimed: bool = False

    def __post_init__(self) -> None:
        _recent.append(weakref.ref(self))


_recent: deque[weakref.ref[Iteration]] = deque(maxlen=8)  # of this process: several loaders may be open
_first_ids: set[int] = {0}  # of `with_ids`: ids are these and the sampler's indices


def note_first_id(first_id: int) -> None:
    """Some ids count from here on."""
    _first_ids.add(first_id)


def shard_of(sample_ids: Int64Array) -> Shard | None:
    """The shard of the newest sampler that gave these ids, int64 [B]; None if none did, or it is not checked."""
    for iteration in _alive():
        first_id = _first_id(iteration, sample_ids) if len(sample_ids) else None
        if first_id is not None:
            return replace(iteration.shard, first_id=first_id) if iteration.checked else None
    return None


def require_one_division(shards: Sequence[Shard | None]) -> None:
    """Require that the ranks' samplers divide the same samples into disjoint shards.

    Args:
        shards: by rank; None for a rank whose ids are of no sampler.
    Raises:
        ValueError: two ranks' samplers differ in seed or number of samples, or give the same samples.
    """
    known = [(rank, shard) for rank, shard in enumerate(shards) if shard is not None]
    for (rank, shard), (other, theirs) in itertools.combinations(known, 2):
        if shard.first_id != theirs.first_id:  # other data
            continue
        for name in ("num_samples", "seed", "world_size"):
            one, two = getattr(shard, name), getattr(theirs, name)
            if one != two:
                raise ValueError(
                    f"the OwnerSamplers of ranks {rank} and {other} have {name} {one} and {two}: some samples would be "
                    "seen twice and others never; make them alike"
                )
        if shard.rank == theirs.rank:
            raise ValueError(
                f"the OwnerSamplers of ranks {rank} and {other} both give the samples of rank {shard.rank} of "
                f"{shard.world_size}: make them after the process group, or give rank= and world_size="
            )


@dataclass(eq=False)
class _Place:
    """Where in an iteration the next minibatch has to begin; None before the first. ids: what it gives, int64 [n]."""

    iteration: weakref.ref[Iteration]
    order: Int64Array
    checked: bool
    ids: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    next: int | None = None

    def follows(self, sample_ids: Int64Array) -> bool:
        """Whether these ids, int64 [B], come next; then the ones behind them do."""
        if self.next is None:
            first_id = int(sample_ids[0] - self.order[0]) if len(self.order) else -1
            if first_id not in _first_ids:
                return False
            begins = np.array_equal(self.order[: len(sample_ids)] + first_id, sample_ids)
            return begins and self.begin(first_id, 0, len(sample_ids))
        end = self.next + len(sample_ids)
        if self.ids[self.next : end].tobytes() != sample_ids.tobytes():  # a third of the time of array_equal
            return False
        self.next = end
        return True

    def shard(self) -> Shard | None:
        """What it gives, once its first minibatch has come; None if it is not checked."""
        iteration = self.iteration()
        if iteration is None or not self.checked or not len(self.order):
            return None
        return replace(iteration.shard, first_id=int(self.ids[0] - self.order[0]))

    def begins_inside(self, sample_ids: Int64Array, first_id: int) -> bool:
        """Whether these ids, int64 [B], are somewhere in it, one behind the other; then it goes on behind them."""
        for start in np.flatnonzero(self.order == sample_ids[0] - first_id):
            if np.array_equal(self.order[start : start + len(sample_ids)] + first_id, sample_ids):
                return self.begin(first_id, int(start), len(sample_ids))
        return False

    def begin(self, first_id: int, start: int, count: int) -> bool:
        """The next minibatch begins behind these `count` samples."""
        self.ids = self.order + first_id if first_id else self.order
        self.next = start + count
        return True


class OrderCheck:
    """Looks at the minibatches of a rehearsal.

    shard: what the last minibatch is of; None if it is of no sampler, or of one that is not checked.
    """

    def __init__(self) -> None:
        self.shard: Shard | None = None
        self._must_follow = _MUST_FOLLOW
        self._searches = _SEARCHES
        self._places: list[_Place] = []
        self._own: weakref.WeakSet[Iteration] = weakref.WeakSet()
        self._current: _Place | None = None
        self._has_warned = False

    def check(self, sample_ids: Int64Array) -> None:
        """Look at a minibatch's ids, int64 [B], contiguous.

        Raises:
            ValueError: they are a sampler's, but not in its order.
        """
        if not len(sample_ids):
            return
        if _recent and (self._current is None or not self._current.follows(sample_ids)):
            self._current = self._find(sample_ids)
            shard = None if self._current is None else self._current.shard()
            if shard != self.shard:
                self.shard = shard
        self._must_follow = max(self._must_follow - 1, 0)

    def _find(self, sample_ids: Int64Array) -> _Place | None:
        """The place that these ids have in some iteration; None if they are of none."""
        self._update_places()
        for place in self._places:
            if place.follows(sample_ids):
                self._claim(place)
                return place
        if not self._searches:
            return None
        self._searches -= 1
        broken = None
        for place in self._places:
            iteration = place.iteration()
            first_id = None if iteration is None else _first_id(iteration, sample_ids)
            if iteration is None or first_id is None:
                continue
            if place.next is None and place.begins_inside(sample_ids, first_id):
                self._claim(place)
                return place
            if not place.checked:
                return None
            if iteration.claimed and iteration not in self._own:
                continue  # another rehearsal's loader, which this one's minibatches need not come from
            broken = broken or (place, first_id)
        if broken is not None:
            self._complain(*broken, sample_ids)
        return None

    def _claim(self, place: _Place) -> None:
        """This rehearsal's minibatches are of that iteration."""
        iteration = place.iteration()
        if iteration is not None:
            iteration.claimed = True
            self._own.add(iteration)

    def _update_places(self) -> None:
        """Forget iterations that are over, and add the ones that have begun."""
        known = {place.iteration() for place in self._places}
        new = [iteration for iteration in _alive() if iteration not in known]
        if new:
            self._searches = _SEARCHES
        for iteration in reversed(new):  # the newest comes first
            self._places.insert(0, _Place(weakref.ref(iteration), iteration.order, iteration.checked))
        self._places = [place for place in self._places if place.iteration() is not None]

    def _complain(self, place: _Place, first_id: int, sample_ids: Int64Array) -> None:
        """These ids do not come next: an error in the first minibatches, and a warning later."""
        if self._must_follow:
            if len(np.unique(sample_ids)) < len(sample_ids):
                raise ValueError(
                    f"the sample ids of the minibatch are not distinct, {sample_ids[:4].tolist()} …, and its sampler "
                    "gives every sample once: give every sample an id of its own, as with_ids does"
                )
            raise ValueError(
                "the minibatch does not follow the order of its OwnerSampler: something has sharded the sampler again "
                "(accelerate's prepare, Lightning's use_distributed_sampler), so that samples would never be seen; "
                "leave the loader as it is, or say OwnerSampler(check=False) if minibatches are reordered on purpose, "
                "or come from another loader of the data"
            )
        start = int(np.flatnonzero(place.order == sample_ids[0] - first_id)[0])
        expected = place.next or 0
        place.begin(first_id, start, len(sample_ids))
        if not self._has_warned:
            self._has_warned = True
            what = f"{start - expected} samples were left out" if start > expected else "samples come a second time"
            warn_caller(
                f"the minibatches no longer follow the order of their OwnerSampler: {what}; "
                "say OwnerSampler(check=False) if that is on purpose"
            )


def _alive() -> list[Iteration]:
    """The iterations that samplers keep, newest first."""
    return [iteration for reference in reversed(_recent) if (iteration := reference()) is not None]


def _first_id(iteration: Iteration, sample_ids: Int64Array) -> int | None:
    """The id of index 0 with which all of these ids are of an iteration; None if there is none."""
    for first_id in _first_ids:
        if np.isin(sample_ids - first_id, iteration.order).all():
            return first_id
    return None
