"""What the plots of a study share: a figure with one pair of axes, its legend, colours, and bars of one deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from drb.runs.report import Summary
from drb.runs.report.metric import is_fraction, metric_of
from drb.study.statistics import PointResults, Statistic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#8C564B", "#000000")
MOST_LINES = 9  # of different colours


def new_figure() -> tuple[Figure, Axes]:
    """A figure and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.4))
    return figure, figure.add_subplot()


def finished(figure: Figure, axes: Axes, points: Sequence[PointResults], *, many: bool = True) -> Figure:
    """The figure with a grid, scores in percent where they are fractions, and a legend below if it has `many` lines."""
    from matplotlib.ticker import PercentFormatter

    axes.grid(True)
    if all(is_fraction(summary) for summary in _first_summaries(points)):
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    if many:
        legend_below(figure)
    return figure


def legend_below(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, columnspacing=1.4, handlelength=1.6)


def metric_label(points: Sequence[PointResults]) -> str:
    """The name of the points' metric."""
    return ", ".join(dict.fromkeys(metric_of(summary) for summary in _first_summaries(points)))


def colours(count: int) -> list[str]:
    """Colours that tell so many lines apart, or dark to light where there are many."""
    if count <= MOST_LINES:
        return list(_COLOURS[:count])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](index / (count - 1))) for index in range(count)]


def error_of(found: Statistic) -> float:
    """The length of an error bar: one standard deviation, 0 if there is one number."""
    return 0.0 if math.isnan(found.std) else found.std


def _first_summaries(points: Sequence[PointResults]) -> list[Summary]:
    return [point.summaries[0] for point in points]
