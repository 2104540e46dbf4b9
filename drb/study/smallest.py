"""The smallest capacity that accuracy allows, among those that a study has trained with.

A capacity is allowed if it and every larger one score at most so much below the largest capacity, on average over the
seeds that both were trained with. Nothing is guessed between the capacities of the study.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drb.runs.report.metric import higher_is_better, is_fraction
from drb.study.definition import Point
from drb.study.statistics import PointResults

CAPACITY = "rehearsal.capacity"


@dataclass(frozen=True)
class Loss:
    """How much lower a capacity scores than the largest: the mean over n seeds, and its standard error."""

    capacity: int
    mean: float
    error: float
    n: int


def smallest_capacities(points: Sequence[PointResults], within: float) -> list[str]:
    """Return a line for each kind of point: the smallest allowed capacity, and what every capacity lost.

    Args:
        within: how much lower a score may be: in percent for fractions such as accuracy, else in the score's units.
    Raises:
        ValueError: the study does not vary the capacity, as numbers; or the largest one has no finished run.
    """
    check_within([point.point for point in points], within)
    kinds: dict[tuple[Any, ...], list[PointResults]] = {}
    for point in points:
        kinds.setdefault(_kind(point.point), []).append(point)
    return [_line(kind, within) for kind in kinds.values()]


def check_within(points: Sequence[Point], within: float) -> None:
    """Raise ValueError unless the points can be compared by their capacities, and scores by this difference."""
    if not 0 <= within < math.inf:
        raise ValueError(f"--within must be a number of at least 0, got {within:g}")
    kinds: dict[tuple[Any, ...], list[Any]] = {}
    for point in points:
        kinds.setdefault(_kind(point), []).append(point.values.get(CAPACITY))
    for (name, *_), capacities in kinds.items():
        if len(capacities) < 2 or not all(isinstance(capacity, int) for capacity in capacities):
            raise ValueError(
                f"--within compares capacities, and this study does not train {name} with several numbers of "
                f"exemplars: give it vary: {{{CAPACITY}: [100, 200, 400]}}"
            )


def _kind(point: Point) -> tuple[Any, ...]:
    """What points have in common that differ in capacity alone."""
    others = sorted((key, str(value)) for key, value in point.values.items() if key != CAPACITY)
    return (point.name, point.ranks, *others)


def _line(points: Sequence[PointResults], within: float) -> str:
    ordered = sorted(points, key=lambda point: int(point.point.values[CAPACITY]))
    losses = [_loss(point, ordered[-1]) for point in ordered]
    allowed = [loss.mean <= within for loss in losses]
    first = next(at for at in range(len(losses)) if all(allowed[at:]))
    told = "; ".join(f"{loss.capacity}: {-loss.mean:+.2f} ± {loss.error:.2f} (n={loss.n})" for loss in losses[:-1])
    label = ordered[-1].point.label.replace(f"capacity={losses[-1].capacity}", "").rstrip(" ·")
    return (
        f"{label}: {CAPACITY}={losses[first].capacity} is the smallest within {within:g} of {losses[-1].capacity} "
        f"({told})"
    )


def _loss(point: PointResults, largest: PointResults) -> Loss:
    scores, best = _scores(point), _scores(largest)
    shared = sorted(scores.keys() & best.keys())
    if not shared:
        raise ValueError(
            f"--within needs finished runs of {point.point.label} and {largest.point.label} with the same seeds, and "
            "there are none yet"
        )
    differences = [best[seed] - scores[seed] for seed in shared]
    error = statistics.stdev(differences) / math.sqrt(len(shared)) if len(shared) > 1 else math.nan
    return Loss(int(point.point.values[CAPACITY]), statistics.fmean(differences), error, len(shared))


def _scores(point: PointResults) -> dict[int, float]:
    """The final score by seed, in percent if it is a fraction; the larger the better."""
    found = {}
    for summary in point.summaries:
        scale = 100.0 if is_fraction(summary) else 1.0
        sign = 1.0 if higher_is_better(summary) else -1.0
        found[int(summary["seed"])] = sign * scale * float(summary["acc"])
    return found
