"""The scaling plot of a study: throughput, efficiency and, if the study has a target, the time to it, by ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from drb.study.drawing import colours, error_of
from drb.study.statistics import PointResults, Statistic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

_NEAR_THE_AXIS = 0.1  # an efficiency that leaves no room for its number below
_DOTTED: Any = {"linestyle": ":", "linewidth": 1}
Lines: TypeAlias = dict[str, dict[int, Statistic]]
"""A number of the points that differ in their ranks alone: by what they share, then by ranks in ascending order."""


def by_ranks(points: Sequence[PointResults], key: str) -> Lines:
    """The statistic of a number in the summaries, `key` as in `PointResults.statistic`, where there is one."""
    lines: Lines = {}
    for point in sorted(points, key=lambda each: each.point.ranks):
        found = point.statistic(key)
        if found is not None:
            lines.setdefault(point.point.label.rpartition(" · W=")[0], {})[point.point.ranks] = found
    return lines


def efficiencies(line: dict[int, Statistic]) -> dict[int, float]:
    """Throughput per rank divided by that on the fewest ranks, by ranks."""
    fewest = next(iter(line))
    return {ranks: found.mean / ranks / (line[fewest].mean / fewest) for ranks, found in line.items()}


def scaling(points: Sequence[PointResults]) -> Figure:
    """A figure of its own for `draw_scaling`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.2 if by_ranks(points, "seconds_to_target") else 9.6, 4.2))
    draw_scaling(figure, points)
    return figure


def draw_scaling(figure: FigureBase, points: Sequence[PointResults]) -> None:
    """Throughput beside the ideal; efficiency; and the seconds of training to the target beside the ideal."""
    speeds, times = by_ranks(points, "samples_per_second"), by_ranks(points, "seconds_to_target")
    speed, efficiency, *time = figure.subplots(1, 3 if times else 2)
    counts = sorted({point.point.ranks for point in points})
    for axes in (speed, efficiency, *time):
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xlabel("ranks")
        axes.grid(True)
    colour_of = dict(zip(speeds, colours(len(speeds)), strict=True))
    _beside_the_ideal(speed, speeds, colour_of, speeds_up=True)
    speed.set_ylabel("samples per second, all ranks")
    speed.set_title("Throughput (dotted: ideal)", loc="left")
    speed.legend()
    _efficiency(efficiency, speeds, colour_of)
    if times:
        _beside_the_ideal(time[0], times, colour_of, speeds_up=False)
        time[0].set_ylabel("seconds of training")
        time[0].set_title(f"Time to a score of {points[0].point.target:g}", loc="left")


def _beside_the_ideal(axes: Axes, lines: Lines, colour_of: Mapping[str, str], *, speeds_up: bool) -> None:
    """Bars of one deviation, and where the number would be if twice the ranks doubled it, or halved it."""
    from matplotlib.ticker import LogLocator, NullLocator

    for label, line in lines.items():
        colour, ranks, means = colour_of[label], list(line), [found.mean for found in line.values()]
        bars = [error_of(found) for found in line.values()]
        axes.errorbar(ranks, means, bars, color=colour, marker="o", capsize=3, label=label)
        ideal = [means[0] * (count / ranks[0] if speeds_up else ranks[0] / count) for count in ranks]
        axes.plot(ranks, ideal, color=colour, **_DOTTED)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:.3g}")


def _efficiency(axes: Axes, speeds: Lines, colour_of: Mapping[str, str]) -> None:
    from matplotlib.ticker import PercentFormatter

    lines = {label: efficiencies(line) for label, line in speeds.items()}
    for label, shares in lines.items():
        colour = colour_of[label]
        axes.plot(list(shares), list(shares.values()), color=colour, marker="o", label=label)
        for place in list(shares.items())[1:]:
            is_highest = place[1] == max(other.get(place[0], 0.0) for other in lines.values())
            offset, side = ((0, 7), "center") if is_highest else ((0, -14), "center")  # two lines' numbers are apart
            if not is_highest and place[1] < _NEAR_THE_AXIS:
                offset, side = (-8, -4), "right"
            text = f"{place[1]:.0%}"
            axes.annotate(text, place, offset, textcoords="offset points", ha=side, fontsize=9, color=colour)
    axes.set_ylim(0, 1.15 * max(1.0, axes.get_ylim()[1]))
    axes.axhline(1.0, color="#7F7F7F", **_DOTTED)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_title("Parallel efficiency", loc="left")
