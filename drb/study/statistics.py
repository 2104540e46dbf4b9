"""Mean, standard deviation and n over the seeds of a point, and a summary of their mean for plots."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drb.runs.report import Summary
from drb.runs.report.metric import matrix_of, metric_of
from drb.study.definition import Point
from drb.study.quality import seconds_to
from drb.study.results import Result


@dataclass(frozen=True)
class Statistic:
    """The mean of n numbers and their standard deviation (of a sample: divided by n - 1; NaN if n is 1)."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class PointResults:
    """All runs of a point, and the summaries of those that are done."""

    point: Point
    results: tuple[Result, ...]

    @property
    def summaries(self) -> list[Summary]:
        """Those of the runs that are done, with `seconds_to_target` where the study has a target."""
        return [
            {**result.summary, "seconds_to_target": seconds_to(self.point.target, result.summary)}
            for result in self.results
            if result.summary is not None
        ]

    def statistic(self, key: str) -> Statistic | None:
        """The statistic of a number in the summaries; None if no run has it.

        key: its dotted name there, such as cost.rows_trained.
        """
        return statistic(_value(summary, key) for summary in self.summaries)

    @property
    def mean_summary(self) -> Summary | None:
        """A summary in which every score and time is the mean over the seeds; None if no run is done."""
        return mean_summary(self.point.label, self.summaries) if self.summaries else None


def by_point(results: Sequence[Result]) -> list[PointResults]:
    """The results of each point, in the study's order."""
    points = {result.run.point.label: result.run.point for result in results}
    return [
        PointResults(point, tuple(result for result in results if result.run.point.label == label))
        for label, point in points.items()
    ]


def statistic(values: Iterable[float | None]) -> Statistic | None:
    """The statistic of the numbers among the values; None if there is none."""
    numbers = [float(value) for value in values if value is not None]
    if not numbers:
        return None
    std = statistics.stdev(numbers) if len(numbers) > 1 else math.nan
    return Statistic(statistics.fmean(numbers), std, len(numbers))


def mean_summary(name: str, summaries: Sequence[Summary]) -> Summary:
    """The first summary with its scores, times, R and breakdown averaged over all.

    A cell or an entry that some run lacks is averaged over those that have it.
    """
    first = summaries[0]
    scores = ("acc", "bwt", "forgetting", "train_seconds", "samples_per_second")
    matrix = f"{metric_of(first)}_matrix"
    return {
        **first,
        "name": name,
        **{key: _mean(summary.get(key) for summary in summaries) for key in scores},
        matrix: _mean_of_lists([matrix_of(summary) for summary in summaries]),
        "history": [
            _mean_entry(entries) for entries in zip(*(summary["history"] for summary in summaries), strict=False)
        ],
        "breakdown": _mean_of_mappings([summary["breakdown"] for summary in summaries if summary.get("breakdown")]),
    }


def _mean_entry(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "task": entries[0]["task"],
        "seconds": _mean(entry["seconds"] for entry in entries),
        "acc": _mean(entry["acc"] for entry in entries),
    }


def _mean_of_lists(lists: Sequence[Any]) -> Any:
    """Numbers, or lists of such of any depth, averaged place by place."""
    if not isinstance(lists[0], list):
        return _mean(lists)
    return [_mean_of_lists(places) for places in zip(*lists, strict=False)]


def _mean_of_mappings(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not mappings:
        return None
    return {key: _mean_of(key, mappings) for key in mappings[0]}


def _mean_of(key: str, mappings: Sequence[Mapping[str, Any]]) -> Any:
    values = [mapping[key] for mapping in mappings]
    if isinstance(values[0], Mapping):
        return _mean_of_mappings(values)
    return _mean(values)


def _mean(values: Iterable[float | None]) -> float | None:
    found = statistic(values)
    return None if found is None else found.mean


def _value(summary: Summary, key: str) -> float | None:
    value: Any = summary
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if value is None else float(value)
