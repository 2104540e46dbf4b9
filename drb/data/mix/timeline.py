"""What was asked of a mix from when on: the few numbers from which the order of a whole run follows.

Positions g = 0, 1, 2, … number the samples of the run. A *segment* begins wherever the shares change, and knows how
many samples each source had served by then; nothing else is carried over, so a change neither loses nor repeats one.
A *pace* begins wherever the number of samples in a step changes, and says which positions a step has.

Letters: g a position, t a step, G samples of a step on all ranks together, D samples of a period.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from drb.data.mix.shares import period
from drb.types import Int64Array


@dataclass(frozen=True)
class Change:
    """From a step on, these shares are asked for: integers without a common divisor, by name.

    start: the position from which they hold. at_period_end: that is the end of the period that the step is in.
    """

    step: int
    shares: Mapping[str, int]
    start: int = 0
    at_period_end: bool = False


@dataclass(frozen=True)
class Segment:
    """From position `start` on, sources are served by these shares.

    shares: by source number, integers without a common divisor; all 0 for the end of the mix.
    served: how many samples each source had served before, by source number.
    ended: True if it begins because a source has reached its last visit, and not because somebody asked.
    """

    start: int
    shares: tuple[int, ...]
    served: tuple[int, ...]
    ended: bool = False

    @cached_property
    def length(self) -> int:
        """D."""
        return sum(self.shares)

    @cached_property
    def positions(self) -> tuple[Int64Array, ...]:
        """When each source is served within a period, ascending int64 [its share]."""
        return period(self.shares) if self.length else tuple(np.empty(0, np.int64) for _ in self.shares)

    def served_by(self, source: int, position: int) -> int:
        """How many samples a source has served before a position in this segment, in the whole run."""
        if not self.shares[source]:
            return self.served[source]
        periods, within = divmod(position - self.start, self.length)
        in_period = int(np.searchsorted(self.positions[source], within))
        return self.served[source] + periods * self.shares[source] + in_period

    def position_of(self, source: int, numbers: Int64Array) -> Int64Array:
        """The position at which a source serves each of its numbers, int64 [m], if the segment lasts that long."""
        periods, within = np.divmod(numbers - self.served[source], self.shares[source])
        found: Int64Array = self.start + periods * self.length + self.positions[source][within]
        return found

    def sources_of(self, start: int, stop: int) -> Int64Array:
        """The source of each position in [start, stop), int64."""
        turns = np.empty(self.length, np.int64)
        for source, positions in enumerate(self.positions):
            turns[positions] = source
        return turns[np.arange(start - self.start, stop - self.start) % self.length]


@dataclass(frozen=True)
class Pace:
    """From step `step` on, which begins at position `start`, steps have `batch` samples.

    epoch: samples after which the last step of an epoch is short; 0: steps go on across epochs.
    """

    step: int
    start: int
    batch: int
    epoch: int = 0

    def starts(self, steps: Int64Array) -> Int64Array:
        """The position at which each of these steps begins."""
        since = steps - self.step
        if not self.epoch:
            return since * self.batch + self.start
        epochs, within = np.divmod(since, self.steps_per_epoch)
        starts: Int64Array = self.start + epochs * self.epoch + within * self.batch
        return starts

    def step_of(self, positions: Int64Array) -> Int64Array:
        """The step that each position is in."""
        since = positions - self.start
        if not self.epoch:
            return self.step + since // self.batch
        epochs, within = np.divmod(since, self.epoch)
        steps: Int64Array = self.step + epochs * self.steps_per_epoch + within // self.batch
        return steps

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.epoch // self.batch)


@dataclass
class Timeline:
    """Segments and paces in their order; the last of each goes on for ever."""

    segments: list[Segment] = field(default_factory=list)
    paces: list[Pace] = field(default_factory=list)

    def segment_at(self, position: int) -> Segment:
        return next(each for each in reversed(self.segments) if each.start <= position)

    def parts(self, start: int, stop: int) -> list[tuple[Segment, int, int]]:
        """The segments in [start, stop), with the positions that each has of it."""
        ends = [*(each.start for each in self.segments[1:]), stop]
        parts = [(each, max(start, each.start), min(stop, end)) for each, end in zip(self.segments, ends, strict=True)]
        return [part for part in parts if part[1] < part[2] and part[0].length]

    @property
    def end(self) -> int | None:
        """The position at which all sources have had their last visit; None if some may be visited for ever."""
        return self.segments[-1].start if not self.segments[-1].length else None

    def starts(self, steps: Int64Array) -> Int64Array:
        """The position at which each step begins, int64 [n]; steps ascend."""
        return _by_pace(steps, self.paces, [each.step for each in self.paces], Pace.starts)

    def step_of(self, positions: Int64Array) -> Int64Array:
        """The step that each position is in, int64 [n]; positions ascend."""
        return _by_pace(positions, self.paces, [each.start for each in self.paces], Pace.step_of)


def _by_pace(values: Int64Array, paces: Sequence[Pace], firsts: Sequence[int], apply: object) -> Int64Array:
    assert callable(apply)
    bounds = [0, *np.searchsorted(values, np.array(firsts[1:], np.int64)).tolist(), len(values)]
    parts = [apply(pace, values[start:stop]) for pace, start, stop in zip(paces, bounds, bounds[1:], strict=False)]
    result: Int64Array = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return result
