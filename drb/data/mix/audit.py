"""What a mix has trained on, from its formula: by step, by sample, and in shares.

Nothing was logged for this. The answers hold for the steps that count: where a run went on from an earlier checkpoint,
the steps after it are trained anew, as its metrics are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drb.data.mix.mix import Mix
from drb.data.mix.shares import most_owed
from drb.types import Int64Array


@dataclass(frozen=True)
class Mixture:
    """What one source has got, and what it was asked to get.

    served: samples. asked: the sum of its shares of all segments, in samples. visits: the most often that one of its
    samples came. worst: how far it was off its share at worst, at any step inside a segment, counted from the segment's
    start, in samples. worst_in_run: a bound of the same over the whole run.
    """

    name: str
    served: int
    asked: float
    visits: int
    worst: float
    worst_in_run: float


def samples_of_step(mix: Mix, step: int) -> list[tuple[str, int]]:
    """The samples of a step in their order: the name of the source, and the position in it."""
    rows = mix.rows(step, step + 1)
    names = mix.names
    return [
        (names[source], sample) for source, sample in zip(rows.sources.tolist(), rows.samples.tolist(), strict=True)
    ]


def steps_of_sample(mix: Mix, name: str, sample: int, steps: int) -> Int64Array:
    """The steps below `steps` that had a sample, ascending int64.

    Raises:
        ValueError: no such source, or a position that it never had.
    """
    source = mix.number_of(name)
    count = mix.parts[source].count
    if not 0 <= sample < count:
        raise ValueError(f"source {name!r} has samples 0 to {count - 1}, got {sample}")
    found, stop = [np.empty(0, np.int64)], mix.start_of(steps)
    numbers = mix.parts[source].order.numbers(sample, mix.served(stop)[source])
    for segment, start, end in mix.timeline.parts(0, stop):
        if segment.shares[source]:
            first, last = segment.served_by(source, start), segment.served_by(source, end)
            found.append(segment.position_of(source, numbers[(numbers >= first) & (numbers < last)]))
    return mix.timeline.step_of(np.concatenate(found))


def mixture(mix: Mix, steps: int) -> list[Mixture]:
    """What every source got in the first `steps` steps."""
    stop = mix.start_of(steps)
    return [_mixture(mix, source, stop) for source in range(len(mix.parts))]


def _mixture(mix: Mix, source: int, stop: int) -> Mixture:
    part, asked, worst, worst_in_run = mix.parts[source], 0.0, 0.0, 0.0
    begun = 0
    for segment, start, end in mix.timeline.parts(0, stop):
        share, total, length = segment.shares[source], segment.length, end - start
        inside = most_owed(segment.positions[source], share, total, min(length, total))
        worst = max(worst, inside)
        worst_in_run = max(worst_in_run, abs(asked - begun) + inside)
        asked += length * share / total
        begun = segment.served_by(source, end)
    served = mix.served(stop)[source]
    visits = part.order.epoch_of(served - 1) + 1 if served else 0
    return Mixture(part.name, served, asked, visits, worst, worst_in_run)
