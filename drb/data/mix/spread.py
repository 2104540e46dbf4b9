"""Whether every rank has a sample in every step, which follows from the formula before anything is trained.

Letters: T steps, W ranks, x a source's mean number of samples in a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drb.data.mix.mix import Mix, has_fixed_owners
from drb.types import Int64Array

_SAMPLES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Gap:
    """A step in which some ranks have no sample. ranks: those, ascending."""

    step: int
    ranks: list[int]


def span_of(mix: Mix, world_size: int) -> int:
    """How many steps to look through at once, alike on all ranks."""
    return max(1, _SAMPLES_AT_ONCE // max(mix.timeline.paces[-1].batch, world_size))


def first_gap(mix: Mix, first: int, last: int, world_size: int) -> Gap | None:
    """The first of the steps [first, last) in which a rank has no sample; None if there is none.

    The steps must be within the mix (see `Mix.num_steps`). Takes tens of nanoseconds a sample, or nothing where steps
    are large enough for all that comes.
    """
    if has_no_gaps(mix, first, world_size):
        return None
    is_empty = _counts(mix, first, last, world_size) == 0
    if not is_empty.any():
        return None
    step = int(np.argmax(is_empty.any(axis=1)))
    return Gap(first + step, np.flatnonzero(is_empty[step]).tolist())


def has_no_gaps(mix: Mix, first: int, world_size: int) -> bool:
    """Whether steps are large enough from one on, whatever their samples are; False if that cannot be told quickly.

    A source has more than x - 2 samples in a step, so 2W - 1 if x is at least 2W. They come to the ranks in turn, anew
    from every epoch of the source on; there is at most one in the step if the source is as large.
    """
    segment, pace = mix.timeline.segments[-1], mix.timeline.paces[-1]
    if segment.start > mix.start_of(first) or pace.step > first or pace.epoch or not segment.length:
        return False
    if not has_fixed_owners(world_size):
        return pace.batch >= world_size
    return any(
        2 * world_size * segment.length <= pace.batch * share
        and pace.batch * share <= (min(size.count for size in part.order.sizes) - 2) * segment.length
        for part, share in zip(mix.parts, segment.shares, strict=True)
    )


def _counts(mix: Mix, first: int, last: int, world_size: int) -> Int64Array:
    """The samples of each rank in each step, int64 [T, W]."""
    cells = (last - first) * world_size
    counts = np.zeros(cells, np.int64)
    for segment, start, stop in mix.timeline.parts(mix.start_of(first), mix.start_of(last)):
        for source, part in enumerate(mix.parts):
            bounds = segment.served_by(source, start), segment.served_by(source, stop)
            if bounds[0] == bounds[1]:
                continue
            positions = segment.position_of(source, np.arange(*bounds))
            ranks = part.order.ranks(*bounds, world_size) if has_fixed_owners(world_size) else positions % world_size
            counts += np.bincount((mix.timeline.step_of(positions) - first) * world_size + ranks, minlength=cells)
    return counts.reshape(-1, world_size)
