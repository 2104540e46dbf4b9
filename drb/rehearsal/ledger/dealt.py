"""The ids of the samples that a rank was offered, as a formula of what its loader was asked for.

Letters: n samples of a task, T minibatches of an epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from drb.data.epochs import Deal, Segment
from drb.data.ownership import owned_indices
from drb.types import Int64Array


@dataclass(frozen=True)
class Dealing:
    """What a `TaskLoader` was asked for: see its `epoch`. seed: the loader's. batch_size: b. start: a minibatch."""

    seed: int
    world_size: int
    batch_size: int
    epoch: int
    start: int = 0
    earlier: tuple[Segment, ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Dealing:
        """What `asdict` made plain."""
        return cls(**{**values, "earlier": tuple(Segment(**part) for part in values["earlier"])})


@dataclass(frozen=True)
class Stretch:
    """Consecutive minibatches of a run.

    begin: the rehearsal's step with the first of them. minibatches: how many there are, unless the run ends before.
    taken: optimisation steps before it. accumulate: minibatches of an optimisation step. task: its number in the list
    of tasks; -1 without one. dealing: None for minibatches without rows, such as those of a phase on stored rows.
    """

    begin: int
    minibatches: int
    taken: int
    accumulate: int
    task: int
    dealing: Dealing | None

    @property
    def end(self) -> int:
        """The step after the last."""
        return self.begin + self.minibatches

    def optimisation_step(self, step: int) -> int:
        """The number of the optimisation step, from 1 on, that a step of the rehearsal is part of."""
        return self.taken + (step - self.begin) // self.accumulate + 1

    def steps_of(self, number: int) -> range:
        """The rehearsal's steps of an optimisation step; none if it is not of this stretch."""
        first = self.begin + (number - 1 - self.taken) * self.accumulate
        return range(max(first, self.begin), max(self.begin, min(first + self.accumulate, self.end)))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Stretch:
        """What `to_json` gave."""
        dealing = values["dealing"]
        return cls(**{**values, "dealing": None if dealing is None else Dealing.of(dealing)})


class DealtStream:
    """What one rank was offered in some stretches. The samples of a stretch are computed when they are asked for.

    tasks: the sample ids of each task in the order of its source, int64 [n] each.
    """

    def __init__(self, rank: int, tasks: Sequence[Int64Array]) -> None:
        self.stretches: list[Stretch] = []
        self._rank = rank
        self._tasks = tasks
        self._known: tuple[Stretch, Int64Array, Int64Array] | None = None  # of the last one: ids, and bounds in them

    def ids(self, begin: int, end: int) -> tuple[Int64Array, Int64Array] | None:
        """The ids of steps begin … end - 1, one behind the other, and the rows of each; None if some are not known."""
        if begin == end:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        parts, rows, at = [], [], begin
        for stretch in self.stretches:
            if stretch.begin <= at < stretch.end and at < end:
                last = min(end, stretch.end)
                ids, bounds = self._of(stretch)
                first, stop = at - stretch.begin, last - stretch.begin
                parts.append(ids[bounds[first] : bounds[stop]])
                rows.append(np.diff(bounds[first : stop + 1]))
                at = last
        return (np.concatenate(parts), np.concatenate(rows)) if at == end else None

    def _of(self, stretch: Stretch) -> tuple[Int64Array, Int64Array]:
        if self._known is None or self._known[0] is not stretch:
            self._known = (stretch, *self._compute(stretch))
        return self._known[1:]

    def _compute(self, stretch: Stretch) -> tuple[Int64Array, Int64Array]:
        """The ids of a stretch, and where each of its minibatches begins in them."""
        dealing = stretch.dealing
        if dealing is None:
            return np.empty(0, np.int64), np.zeros(stretch.minibatches + 1, np.int64)
        ids = self._tasks[stretch.task]
        deal = Deal(
            len(ids),
            dealing.world_size,
            dealing.batch_size,
            seed=dealing.seed,
            epoch=dealing.epoch,
            earlier=dealing.earlier,
        )
        owned = owned_indices(len(ids), self._rank, dealing.world_size, dealing.seed)
        bounds = deal.bounds(self._rank)[dealing.start :]
        order = deal.order(self._rank)[bounds[0] : bounds[-1]]
        return ids[owned[order]], bounds - bounds[0]
