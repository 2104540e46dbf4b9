"""The order of a run over several sources: which samples each step has, and which rank trains them.

The order is a function of (seed, step) and of what was asked (`drb.data.mix.timeline`), not of the number of ranks. It
goes on anywhere from a few hundred bytes, and a change of shares or a source added or grown alters only what follows.

Letters: t a step, g a position in the run, j a sample's number in its source, W ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from drb.data.mix.order import VIRTUAL_OWNERS, MixedPart, Size, SourceOrder, StreamOrder
from drb.data.mix.shares import integer_shares
from drb.data.mix.timeline import Change, Pace, Segment, Timeline
from drb.options import whole_number
from drb.types import Int64Array


@dataclass(frozen=True)
class Rows:
    """Samples in the order in which they are trained: int64 [m] each.

    steps: the step of each; positions: its place in the run; sources: the number of its source; samples: its position
    in that source; numbers: how many samples the source had served before it.
    """

    steps: Int64Array
    positions: Int64Array
    sources: Int64Array
    samples: Int64Array
    numbers: Int64Array

    def __len__(self) -> int:
        return len(self.steps)


class Mix:
    """Several sources in one order. Steps may be asked for in any order and as often as wanted.

    parts: the sources, by number. changes: which shares were asked for, by step. timeline: what follows from that.
    """

    def __init__(self, seed: int = 0) -> None:
        """Begin a mix without sources: `add` them, then `change` the shares."""
        self.seed = whole_number("the seed of a mix", seed)
        self.parts: list[MixedPart] = []
        self.timeline = Timeline()
        self.changes: list[Change] = []

    # -- what is asked

    def add(self, name: str, count: int | None, *, max_visits: int | None = None, fingerprint: str = "") -> None:
        """Make a source known; it is served from the next `change` on that gives it a share.

        Args:
            count: its samples; None for a stream, whose samples come once each, in their own order.
        Raises:
            ValueError: the name is taken, a number is no integer or below 1, or a stream has max_visits.
        """
        if name in self.names:
            raise ValueError(f"two sources of a mix are called {name!r}; give each a name of its own")
        if count is None and max_visits is not None:
            raise ValueError(f"source {name!r} is a stream, whose samples come once each; leave out its max_visits")
        if count is not None and count < 1:
            raise ValueError(f"source {name!r} needs at least one sample, got {count}")
        if max_visits is not None:
            max_visits = whole_number(f"max_visits of source {name!r}", max_visits, at_least=1)
        order = StreamOrder() if count is None else SourceOrder(self.seed, len(self.parts), [Size(0, count)])
        self.parts.append(MixedPart(name, max_visits, order, [fingerprint]))
        self.timeline.segments = [
            replace(each, shares=(*each.shares, 0), served=(*each.served, 0)) for each in self.timeline.segments
        ]

    def grow(self, name: str, count: int, step: int, fingerprint: str = "") -> None:
        """From its first epoch that begins at or after a step, a source has `count` samples: the old ones and new ones.

        Raises:
            ValueError: the source is unknown, or would shrink.
        """
        part = self.parts[self.number_of(name)]
        start = self.start_of(step)
        number = self.served(start)[self.number_of(name)]
        if part.order.sizes[-1].first > number:  # a growth that has not taken effect
            part.order.sizes.pop()
            part.fingerprints.pop()
        if count < part.count:
            raise ValueError(
                f"source {name!r} has {count} samples and had {part.count}: samples that are gone leave holes in the "
                "order; keep them, or add what is left as a source of another name"
            )
        first = part.order.epoch_end(number)
        part.order = SourceOrder(
            self.seed, self.number_of(name), [*part.order.sizes, Size(first, count, part.order.epoch_of(first))]
        )
        part.fingerprints.append(fingerprint)
        self._plan_after(start)

    def change(
        self,
        step: int,
        shares: Mapping[str, int | float] | None = None,
        *,
        batch_size: int | None = None,
        epoch: int = 0,
        at_period_end: bool = False,
    ) -> None:
        """From a step on, serve sources by these shares, with so many samples in a step.

        Args:
            step: what comes before it stays as it is. The first change is at step 0.
            shares: by name, see `integer_shares`; sources without one are not served. None: as before.
            batch_size: of all ranks together; None: as before.
            epoch: with batch_size, samples after which a step is short (see `Pace`).
            at_period_end: wait for the end of the period that the step is in.
        Raises:
            ValueError: unknown sources, shares that make no mix, or a step before an earlier change.
        """
        if batch_size is not None:
            batch_size = whole_number("the batch size of a mix", batch_size, at_least=1)
        if not self.timeline.paces:
            assert shares is not None
            assert batch_size is not None
            assert step == 0
            self.timeline.paces = [Pace(0, 0, batch_size, epoch)]
            self.changes = [Change(0, integer_shares(shares))]
            self.timeline.segments = [Segment(0, self._by_number(self.changes[0]), (0,) * len(self.parts))]
            self._plan_ends(None)
            return
        if shares is not None:
            self._change_shares(Change(step, integer_shares(shares), at_period_end=at_period_end))
        if batch_size is not None:
            start = self.start_of(step)
            if step < self.timeline.paces[-1].step:
                raise ValueError(f"the batch size changed at step {self.timeline.paces[-1].step}, after step {step}")
            later = self.cut(step)  # their steps begin elsewhere now
            earlier = [each for each in self.timeline.paces if each.step < step]
            self.timeline.paces = [*earlier, Pace(step, start, batch_size, epoch)]
            for change in later:
                self._change_shares(change)

    def cut(self, step: int) -> list[Change]:
        """Forget the changes of shares that were asked for from steps after this one on, and return them."""
        later = [each for each in self.changes if each.step > step]
        if later:
            self.changes = self.changes[: -len(later)]
            start = self.changes[-1].start
            self.timeline.segments = [each for each in self.timeline.segments if each.start <= start]
            self._plan_ends(None)
        return later

    def changes_from(self, step: int) -> list[Change]:
        """The shares asked for at a step, as if from this step on, and the changes after it."""
        now = [each for each in self.changes if each.step <= step][-1]
        return [replace(now, step=step), *(each for each in self.changes if each.step > step)]

    def _change_shares(self, change: Change) -> None:
        shares, position = self._by_number(change), self.start_of(change.step)
        if position < self.changes[-1].start:
            raise ValueError(
                f"the shares were changed after step {change.step} already; change them from a later step on"
            )
        if self.num_steps is not None and change.step > self.num_steps:
            raise ValueError(
                f"all sources have had their last visit after {self.num_steps} steps, before the change at step "
                f"{change.step}; raise max_visits, or change the shares earlier"
            )
        segment = self.timeline.segment_at(position)
        if change.at_period_end and segment.length:
            position = segment.start - (segment.start - position) // segment.length * segment.length
        served = tuple(self.served(position))
        earlier = [each for each in self.timeline.segments if each.start < position]
        self.timeline.segments = [*earlier, Segment(position, shares, served)]
        self.changes = [*(each for each in self.changes if each.start < position), replace(change, start=position)]
        self._plan_ends(None)

    def _plan_after(self, position: int) -> None:
        """Lay out again what comes after a position: the changes asked for, and the ends of sources between them."""
        segments = self.timeline.segments
        coming = [each for each in segments if each.start > position and not each.ended]
        self.timeline.segments = [each for each in segments if each.start <= position]
        for change in coming:
            self._plan_ends(change.start)
            self.timeline.segments.append(replace(change, served=tuple(self.served(change.start))))
        self._plan_ends(None)

    def _plan_ends(self, until: int | None) -> None:
        """Begin a segment wherever sources have their last visit, before a position; None: however late."""
        while (segment := self.timeline.segments[-1]).length:
            ends = self._ends_in(segment)
            position = min(ends.values(), default=None)
            if position is None or (until is not None and position >= until):
                return
            going_on = [0 if ends.get(source) == position else share for source, share in enumerate(segment.shares)]
            divisor = max(math.gcd(*going_on), 1)
            served = tuple(segment.served_by(source, position) for source in range(len(self.parts)))
            is_new = position > segment.start
            if not is_new:
                self.timeline.segments.pop()
            ended = is_new or segment.ended
            shares = tuple(share // divisor for share in going_on)
            self.timeline.segments.append(Segment(position, shares, served, ended))

    def _ends_in(self, segment: Segment) -> dict[int, int]:
        """The position behind the last visit of each source that the segment serves."""
        ends = {}
        for source, part in enumerate(self.parts):
            if segment.shares[source] and part.last is not None:
                is_over = segment.served[source] >= part.last
                last = np.array([part.last - 1])
                ends[source] = segment.start if is_over else int(segment.position_of(source, last)[0]) + 1
        return ends

    def _by_number(self, change: Change) -> tuple[int, ...]:
        for name in change.shares:
            self.number_of(name)
        return tuple(change.shares.get(name, 0) for name in self.names)

    # -- what follows

    @property
    def names(self) -> list[str]:
        return [part.name for part in self.parts]

    def number_of(self, name: str) -> int:
        """Raises ValueError if no source is called that."""
        if name not in self.names:
            raise ValueError(f"the mix has no source {name!r}; its sources: {', '.join(self.names) or 'none'}")
        return self.names.index(name)

    @property
    def num_steps(self) -> int | None:
        """Steps until all sources have had their last visit; None if some may be visited for ever."""
        end = self.timeline.end
        if end is None:
            return None
        return int(self.timeline.step_of(np.array([end - 1]))[0]) + 1 if end else 0

    def start_of(self, step: int) -> int:
        """The position at which a step begins; that of the end if there are fewer steps."""
        start = int(self.timeline.starts(np.array([step]))[0])
        return start if self.timeline.end is None else min(start, self.timeline.end)

    def served(self, position: int) -> list[int]:
        """How many samples each source has served before a position."""
        segment = self.timeline.segment_at(position)
        return [segment.served_by(source, position) for source in range(len(self.parts))]

    def rows(self, first: int, last: int, rank: int = 0, world_size: int = 1) -> Rows:
        """What a rank trains in the steps [first, last); all samples if there is one rank.

        If `has_fixed_owners(world_size)`, a sample is of the same rank whenever it comes; otherwise positions are dealt
        in turn.
        """
        return self.rows_between(self.start_of(first), self.start_of(last), rank, world_size)

    def rows_between(self, first: int, last: int, rank: int = 0, world_size: int = 1) -> Rows:
        """What a rank trains of the positions [first, last), see `rows`."""
        found = [
            self._rows_of(segment, source, start, stop, rank, world_size)
            for segment, start, stop in self.timeline.parts(first, last)
            for source in range(len(self.parts))
            if segment.shares[source]
        ]
        columns = [np.concatenate([np.empty(0, np.int64), *column]) for column in zip(*found, strict=True)]
        if not found:
            columns = [np.empty(0, np.int64)] * 4
        order = np.argsort(columns[0])
        positions, sources, samples, numbers = (column[order] for column in columns)
        return Rows(self.timeline.step_of(positions), positions, sources, samples, numbers)

    def _rows_of(
        self, segment: Segment, source: int, start: int, stop: int, rank: int, world_size: int
    ) -> tuple[Int64Array, ...]:
        """Positions, source, samples and numbers of one source in [start, stop) of a segment."""
        order = self.parts[source].order
        first, last = segment.served_by(source, start), segment.served_by(source, stop)
        has_owners = has_fixed_owners(world_size)
        numbers = order.owned(first, last, rank, world_size) if has_owners else np.arange(first, last)
        positions = segment.position_of(source, numbers)
        if not has_owners:
            own = positions % world_size == rank
            positions, numbers = positions[own], numbers[own]
        whose = (rank, world_size) if has_owners else (0, 1)
        return positions, np.full(len(numbers), source), order.samples(numbers, *whose), numbers


def has_fixed_owners(world_size: int) -> bool:
    """Whether every sample stays on one of so many ranks: they must divide the 48 virtual owners."""
    return VIRTUAL_OWNERS % world_size == 0
