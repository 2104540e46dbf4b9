"""Several datasets mixed for anyone's training loop: a map-style dataset, and the sampler that goes with it.

    mixed = drb.MixedSource([("new", new, 3), ("base", base, 1)], batch_size=256, seed=0)
    loader = DataLoader(mixed, batch_sampler=mixed.sampler(), num_workers=4)

A sample's id, which is also its index, is the number of its source times 2⁴⁴ plus its position there: unique, and the
same however the sources grow and whatever is added.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch.distributed as dist
from torch.utils.data import Dataset, Sampler

from drb.data.mix.following import Part, Plan, Wanted, begin, follow, has_length, readable
from drb.data.mix.mix import Rows, has_fixed_owners
from drb.data.mix.spread import Gap, first_gap, span_of
from drb.data.mix.state import mix_from, state_of
from drb.data.with_ids import with_ids
from drb.options import whole_number

_SOURCE_BITS = 44
_NAMED_AT_MOST = 8
_BLOCK_ROWS = 8192  # of one rank, computed at once: the cost of the calls is spread over many steps


class MixedSource(Dataset[dict[str, Any]]):
    """Several datasets in one order that is a formula of (seed, step): the same on any number of ranks.

    In every prefix each source has its share to within a sample; every source is gone through in epochs, each in
    another order. Items are as `drb.with_ids` makes them, with `sample_id`; `name_of` tells whose they are.
    """

    def __init__(
        self,
        parts: Sequence[Part | tuple[Any, ...]],
        *,
        batch_size: int,
        seed: int = 0,
        schedule: Mapping[int, Mapping[str, int | float]] | None = None,
    ) -> None:
        """
        Args:
            parts: the sources, see `Part`; tuples of its fields will do.
            batch_size: samples of a step on all ranks together.
            schedule: other shares from later steps on, {step: {name: share}}, where the first step is 0; a source that
                one of them does not name is not served from that step on.
        Raises:
            ValueError: shares that make no mix, a name that comes twice or is unknown, a dataset without samples, an
                iterator, or a number that is no integer or below 1.
        """
        self._parts = [Part(*part) for part in parts]
        self._sources = {part.name: readable(part) for part in self._parts}
        counts = [len(self._sources[part.name]) if has_length(part) else None for part in self._parts]
        wanted = [Wanted(part.name, count, *part[2:]) for part, count in zip(self._parts, counts, strict=True)]
        self._plan = Plan(wanted, batch_size, schedule or {})
        self._step = 0
        self._begun: set[tuple[int, int]] = set()
        self._was_iterated = False  # workers of a loader that persist keep a copy
        self.mix = begin(self._plan, seed)
        self._seed = self.mix.seed
        self._use_datasets()

    def __len__(self) -> int:
        """The samples of all sources.

        Raises:
            TypeError: one of them is a stream.
        """
        return sum(map(len, self._datasets.values()))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A sample by its id."""
        source, position = divmod(index, 1 << _SOURCE_BITS)
        if source not in self._datasets or not 0 <= position < self.mix.parts[source].count:
            raise IndexError(f"{index} is no sample id of this mix; its indices are what `MixedSource.sampler` gives")
        return {**self._datasets[source][position], "sample_id": index}

    def name_of(self, sample_id: int) -> tuple[str, int]:
        """The source that a sample is from, and its position there."""
        source, position = divmod(int(sample_id), 1 << _SOURCE_BITS)
        return self.mix.names[source], position

    def sampler(
        self,
        rank: int | None = None,
        world_size: int | None = None,
        *,
        steps: int | None = None,
        rehearsed: bool = False,
    ) -> MixSampler:
        """The sampler of minibatches for a DataLoader's `batch_sampler`.

        Args:
            rank, world_size: of the default process group, when an iteration begins, if None; 0 and 1 without one.
            steps: how many an iteration has; None: until all sources have had their last visit, which may be never.
            rehearsed: whether these minibatches are offered to a rehearsal, which needs samples that stay on a rank.
        Raises:
            ValueError: rehearsed, and the number of ranks does not divide 48; or a rank would have no sample in one of
                the first steps (about a million samples are looked at; a later one is refused on all ranks alike).
        """
        return MixSampler(self, rank, world_size, steps, rehearsed)

    def begin_pass(self, rank: int, world_size: int) -> None:
        """Note that a rank is given the steps from `step` on: a sampler does so when its iteration begins.

        Raises:
            ValueError: the rank was given them before, and would train them again.
        """
        if (rank, world_size) in self._begun:
            raise ValueError(
                f"rank {rank} of {world_size} was given the steps of this mix from {self._step} on already; tell the "
                "mix before another pass how many have been trained in all: mixed.load_state_dict(mixed.state_dict(n))"
            )
        self._begun.add((rank, world_size))
        self._was_iterated = True

    # -- state

    @property
    def step(self) -> int:
        """The step that the next iteration of a sampler begins with."""
        return self._step

    def state_dict(self, step: int) -> dict[str, Any]:
        """All that is needed to go on, as JSON has it: a few hundred bytes, alike on all ranks.

        step: how many steps have been trained since the beginning. (A DataLoader has asked for more already.)

        Raises:
            ValueError: the step is no integer, below 0, or more than the mix has.
        """
        trained, there_are = _trained(step), self.mix.num_steps
        if there_are is not None and trained > there_are:
            raise ValueError(f"the mix has {there_are} steps in all, and {trained} cannot have been trained")
        return {**state_of(self.mix), "step": trained}

    def load_state_dict(self, state: Mapping[str, Any], *, changes: str = "refuse") -> None:
        """Go on at a state's step, also on another number of ranks. Samplers made before go on there, too.

        Args:
            changes: what to do if sources, shares or batch size are not those of the state. "refuse", or "allow": the
                new shares, schedule and batch size hold from this step on; sources that have grown serve their new
                samples from their next epoch on; new sources join; sources that are not given any more are not served
                any more.
        Raises:
            ValueError: a state of something else or of another seed, differences that are not allowed, or a source that
                has shrunk.
        """
        if changes not in ("refuse", "allow"):
            raise ValueError(f"changes must be refuse or allow, got {changes!r}")
        mix, step = mix_from(state), _trained(state.get("step"))
        if mix.seed != self._seed:
            raise ValueError(f"the seed is {self._seed}, and the mix was begun with {mix.seed}; give seed={mix.seed}")
        follow(mix, step, self._plan, allow=changes == "allow")
        if self._was_iterated and any(
            mix.number_of(part.name) != self.mix.number_of(part.name) for part in self._parts
        ):
            raise ValueError(
                "the state numbers the sources in another order than this MixedSource, whose samples loaders have been "
                "given already; load the state into a new one"
            )
        self.mix, self._step = mix, step
        self._begun.clear()
        self._use_datasets()

    def _use_datasets(self) -> None:
        """Find each source's dataset by its number in the mix."""
        numbers = [self.mix.number_of(part.name) for part in self._parts]
        self._datasets: dict[int, Any] = {
            number: with_ids(self._sources[part.name], number << _SOURCE_BITS)
            for number, part in zip(numbers, self._parts, strict=True)
        }


def _trained(step: Any) -> int:
    return whole_number("the number of steps that have been trained", step, at_least=0)


class MixSampler(Sampler[list[int]]):
    """The minibatches of one rank, one for each step, as lists of sample ids.

    An iteration begins at the mix's `step`. How many of its minibatches are trained only the loop knows, so before
    another one it has to say: `mixed.load_state_dict(mixed.state_dict(step))`.

    Ranks have G/W samples in a step on average, and in a single step up to as many more or fewer as there are sources,
    so that each sample can stay on its rank. Divide the sum of a minibatch's losses by G/W, and DDP's average is right.
    """

    def __init__(
        self, mixed: MixedSource, rank: int | None, world_size: int | None, steps: int | None, rehearsed: bool
    ) -> None:
        self._mixed, self._rehearsed, self._given = mixed, rehearsed, (rank, world_size)
        self._steps = None if steps is None else whole_number("steps of a sampler", steps, at_least=0)
        self._find_place()
        self._require_none(self._look_ahead(mixed.step)[1])

    def __len__(self) -> int:
        """Minibatches of the next iteration.

        Raises:
            TypeError: it never ends.
        """
        last = self._last()
        if last is None:
            raise TypeError("this mix never ends, so its sampler has no length; give steps= or max_visits")
        return max(last - self._mixed.step, 0)

    def __iter__(self) -> Iterator[list[int]]:
        self._find_place()  # trainers such as Lightning's open the process group after loaders were made
        self._mixed.begin_pass(self.rank, self.world_size)
        mix, block = self._mixed.mix, 1
        for step, last in self._spans():
            while step < last:
                stop = min(step + block, last)
                rows = mix.rows(step, stop, self.rank, self.world_size)
                yield from _minibatches(rows, step, stop)
                block = min(2 * block, max(1, _BLOCK_ROWS * (stop - step) // max(len(rows), 1)))
                step = stop

    def _find_place(self) -> None:
        """Set rank and world_size: as given, else those of the default process group as it is now."""
        in_group = dist.is_available() and dist.is_initialized()
        rank, world_size = self._given
        self.rank = (dist.get_rank() if in_group else 0) if rank is None else rank
        self.world_size = (dist.get_world_size() if in_group else 1) if world_size is None else world_size
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must be in [0, world_size), got rank={self.rank}, world_size={self.world_size}")
        if self._rehearsed and not has_fixed_owners(self.world_size):
            raise ValueError(
                f"on {self.world_size} ranks samples of a mix change their rank, so that buffers would fill with the "
                "same ones; use a number of ranks that divides 48, or do not offer these minibatches to a rehearsal"
            )

    def _spans(self) -> Iterator[tuple[int, int]]:
        """The steps of an iteration in parts, [first, stop), in all of which every rank has samples.

        Raises:
            ValueError: a rank has none in the next step; on all ranks at the same step, so that none waits for another.
        """
        last, step = self._last(), self._mixed.step
        while last is None or step < last:
            stop, gap = self._look_ahead(step)
            if step < stop:
                yield step, stop
            self._require_none(gap)
            step = stop

    def _look_ahead(self, step: int) -> tuple[int, Gap | None]:
        """The end of the steps from this one on in which every rank has samples, as far as was looked, and the gap."""
        mix, last = self._mixed.mix, self._last()
        stop = step + span_of(mix, self.world_size)
        stop = stop if last is None else min(stop, last)
        gap = first_gap(mix, step, stop, self.world_size)
        return (stop if gap is None else gap.step), gap

    def _require_none(self, gap: Gap | None) -> None:
        if gap is not None:
            ranks = ", ".join(map(str, gap.ranks[:_NAMED_AT_MOST])) + (", …" if len(gap.ranks) > _NAMED_AT_MOST else "")
            raise ValueError(
                f"of {self.world_size} ranks, these would have no sample in step {gap.step}: {ranks}; use a larger "
                "batch_size or fewer ranks, or let steps= end before"
            )

    def _last(self) -> int | None:
        """The step before which an iteration ends."""
        ends = [self._mixed.mix.num_steps, None if self._steps is None else self._mixed.step + self._steps]
        return min((end for end in ends if end is not None), default=None)


def _minibatches(rows: Rows, first: int, stop: int) -> Iterator[list[int]]:
    """The sample ids of each of the steps [first, stop)."""
    ids = ((rows.sources << _SOURCE_BITS) + rows.samples).tolist()
    bounds = np.searchsorted(rows.steps, np.arange(first, stop + 1)).tolist()
    return (ids[start:end] for start, end in itertools.pairwise(bounds))
