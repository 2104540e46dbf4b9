"""The plots of a study: PNG files in its folder. Every point shows the mean over its seeds, with its deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from drb.runs.report import Summary
from drb.runs.report.metric import is_fraction, metric_of
from drb.runs.report.plots import STYLE, accuracy_matrices, save
from drb.study.statistics import PointResults, Statistic, statistic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#8C564B", "#000000")
_MOST_LINES = 9  # of different colours


def save_study_plots(points: Sequence[PointResults], folder: Path) -> list[Path]:
    """Draw every plot that the results have data for; returns the files, `folder`/*.png."""
    from matplotlib import rc_context

    from drb.runs.report.breakdown_plot import breakdown

    points = [point for point in points if point.summaries]
    if not points:
        return []
    means = [summary for point in points if (summary := point.mean_summary) is not None]
    scales = len({point.point.ranks for point in points}) > 1
    folder.mkdir(parents=True, exist_ok=True)
    with rc_context(cast(Any, STYLE)):
        figures: dict[str, Figure | None] = {"scaling": scaling(points) if scales else None}
        for key in dict.fromkeys(key for point in points for key in point.point.values):
            figures[f"curve_{key}"] = curve(points, key)
        figures |= {
            "accuracy_runtime": accuracy_against_runtime(points),
            "accuracy_tasks": accuracy_after_each_task(points),
            "accuracy_matrix": accuracy_matrices(means) if len(means) <= _MOST_LINES else None,
            "breakdown": breakdown(means),
        }
        return [save(figure, folder / f"{name}.png") for name, figure in figures.items() if figure is not None]


def accuracy_against_runtime(points: Sequence[PointResults]) -> Figure:
    """The score over all tasks at the end against training seconds: one marker per point, bars of one deviation."""
    figure, axes = _figure()
    for point, colour in zip(points, _colours(points), strict=True):
        score, seconds = point.statistic("acc"), point.statistic("train_seconds")
        if score is not None and seconds is not None:
            x, y, dx, dy = seconds.mean, score.mean, _error(seconds), _error(score)
            axes.errorbar(x, y, xerr=dx, yerr=dy, fmt="o", color=colour, capsize=3, label=point.point.label)
    axes.set(xlabel="training time (s)", ylabel=f"mean {_metric(points)} at the end")
    axes.set_xlim(left=0)
    axes.set_title("Accuracy against runtime", loc="left")
    return _finished(figure, axes, points)


def accuracy_after_each_task(points: Sequence[PointResults]) -> Figure | None:
    """The score over all tasks so far, after each task; a band of one deviation. None if there is one task."""
    from matplotlib.ticker import MaxNLocator

    if max(len(point.summaries[0]["history"]) for point in points) < 2:
        return None
    figure, axes = _figure()
    for point, colour in zip(points, _colours(points), strict=True):
        histories = [summary["history"] for summary in point.summaries]
        entries = list(zip(*histories, strict=False))
        found = [statistic(entry["acc"] for entry in seeds) for seeds in entries]
        line = [(seeds[0]["task"], each) for seeds, each in zip(entries, found, strict=True) if each is not None]
        tasks, means = [task for task, _ in line], [each.mean for _, each in line]
        low = [each.mean - _error(each) for _, each in line]
        high = [each.mean + _error(each) for _, each in line]
        axes.plot(tasks, means, color=colour, marker="o", markersize=5, label=point.point.label)
        axes.fill_between(tasks, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.set(xlabel="after task", ylabel=f"mean {_metric(points)} on the tasks so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Accuracy after each task (band: one standard deviation)", loc="left")
    return _finished(figure, axes, points)


def curve(points: Sequence[PointResults], key: str) -> Figure | None:
    """The final score against the values of one setting, with bars of one deviation. None unless they are numbers."""
    values = [point.point.values.get(key) for point in points]
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        return None
    figure, axes = _figure()
    lines: dict[str, list[tuple[float, Statistic]]] = {}
    for point in points:
        score = point.statistic("acc")
        if score is not None:
            others = [f"{name.rpartition('.')[2]}={v}" for name, v in point.point.values.items() if name != key]
            label = " · ".join([point.point.name, *others])
            lines.setdefault(label, []).append((float(point.point.values[key]), score))
    for (label, line), colour in zip(lines.items(), _cycled(len(lines)), strict=True):
        x, scores = [value for value, _ in line], [score for _, score in line]
        bars = [_error(score) for score in scores]
        axes.errorbar(x, [s.mean for s in scores], yerr=bars, color=colour, marker="o", capsize=3, label=label)
    numbers = sorted({float(cast(float, value)) for value in values})
    if numbers[0] > 0 and numbers[-1] / numbers[0] >= 8:
        axes.set_xscale("log")
    axes.set_xticks(numbers, [f"{value:g}" for value in numbers])
    axes.minorticks_off()
    axes.set(xlabel=key, ylabel=f"mean {_metric(points)} at the end")
    axes.set_title(f"{_metric(points).capitalize()} against {key} (bars: one standard deviation)", loc="left")
    return _finished(figure, axes, points, many=len(lines) > 1)


def scaling(points: Sequence[PointResults]) -> Figure:
    """Throughput beside the ideal, and efficiency: throughput per rank against that on the fewest ranks."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(9.6, 4.2))
    speed, efficiency = figure.subplots(1, 2)
    groups: dict[str, list[tuple[int, Statistic]]] = {}
    for point in points:
        found = point.statistic("samples_per_second")
        if found is not None:
            groups.setdefault(point.point.label.rpartition(" · W=")[0], []).append((point.point.ranks, found))
    for (label, line), colour in zip(groups.items(), _cycled(len(groups)), strict=True):
        line.sort(key=lambda entry: entry[0])
        ranks, means = [count for count, _ in line], [found.mean for _, found in line]
        per_rank = means[0] / ranks[0]
        speed.errorbar(ranks, means, [_error(f) for _, f in line], color=colour, marker="o", capsize=3, label=label)
        speed.plot(ranks, [per_rank * count for count in ranks], color=colour, linestyle=":", linewidth=1)
        shares = [mean / count / per_rank for count, mean in zip(ranks, means, strict=True)]
        efficiency.plot(ranks, shares, color=colour, marker="o", label=label)
        for count, share in zip(ranks[1:], shares[1:], strict=True):
            efficiency.annotate(
                f"{share:.0%}", (count, share), (0, 7), textcoords="offset points", ha="center", fontsize=9
            )
    counts = sorted({point.point.ranks for point in points})
    for axes in (speed, efficiency):
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xlabel("ranks")
        axes.grid(True)
    speed.set_yscale("log", base=2)
    speed.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    speed.set_ylabel("samples per second, all ranks")
    speed.set_title("Throughput (dotted: ideal)", loc="left")
    efficiency.set_ylim(0, 1.15 * max(1.0, efficiency.get_ylim()[1]))
    efficiency.axhline(1.0, color="#7F7F7F", linestyle=":", linewidth=1)
    efficiency.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    efficiency.set_title("Parallel efficiency", loc="left")
    speed.legend()
    return figure


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.4))
    return figure, figure.add_subplot()


def _finished(figure: Figure, axes: Axes, points: Sequence[PointResults], *, many: bool = True) -> Figure:
    from matplotlib.ticker import PercentFormatter

    axes.grid(True)
    if all(is_fraction(summary) for summary in _first_summaries(points)):
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    if many:
        figure.legend(loc="outside lower center", ncols=3, fontsize=9, columnspacing=1.4, handlelength=1.6)
    return figure


def _first_summaries(points: Sequence[PointResults]) -> list[Summary]:
    return [point.summaries[0] for point in points]


def _metric(points: Sequence[PointResults]) -> str:
    return ", ".join(dict.fromkeys(metric_of(summary) for summary in _first_summaries(points)))


def _colours(points: Sequence[PointResults]) -> list[str]:
    """Colours that tell apart, or dark to light along a study of many points."""
    return _cycled(len(points))


def _cycled(count: int) -> list[str]:
    if count <= _MOST_LINES:
        return list(_COLOURS[:count])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](index / (count - 1))) for index in range(count)]


def _error(found: Statistic) -> float:
    return 0.0 if math.isnan(found.std) else found.std
