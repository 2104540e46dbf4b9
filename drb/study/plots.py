"""The plots of a study: PNG files in its folder. Every point shows the mean over its seeds, with its deviation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from drb.runs.report import Summary
from drb.runs.report.plots import STYLE, accuracy_matrices, save
from drb.study.drawing import MOST_LINES, colours, error_of, finished, legend_below, metric_label, new_figure
from drb.study.scaling_plot import scaling
from drb.study.statistics import PointResults, Statistic, statistic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
            "accuracy_matrix": accuracy_matrices(means) if len(means) <= MOST_LINES else None,
            "stored_when": stored_when(points),
            "breakdown": breakdown(means),
        }
        return [save(figure, folder / f"{name}.png") for name, figure in figures.items() if figure is not None]


def accuracy_against_runtime(points: Sequence[PointResults]) -> Figure:
    """The score over all tasks at the end against training seconds: one marker per point, bars of one deviation."""
    figure, axes = new_figure()
    for point, colour in zip(points, colours(len(points)), strict=True):
        score, seconds = point.statistic("acc"), point.statistic("train_seconds")
        if score is not None and seconds is not None:
            x, y, dx, dy = seconds.mean, score.mean, error_of(seconds), error_of(score)
            axes.errorbar(x, y, xerr=dx, yerr=dy, fmt="o", color=colour, capsize=3, label=point.point.label)
    axes.set(xlabel="training time (s)", ylabel=f"mean {metric_label(points)} at the end")
    axes.set_xlim(left=0)
    axes.set_title("Accuracy against runtime", loc="left")
    return finished(figure, axes, points)


def accuracy_after_each_task(points: Sequence[PointResults]) -> Figure | None:
    """The score over all tasks so far, after each task; a band of one deviation. None if there is one task."""
    from matplotlib.ticker import MaxNLocator

    if max(len(point.summaries[0]["history"]) for point in points) < 2:
        return None
    figure, axes = new_figure()
    for point, colour in zip(points, colours(len(points)), strict=True):
        histories = [summary["history"] for summary in point.summaries]
        entries = list(zip(*histories, strict=False))
        found = [statistic(entry["acc"] for entry in seeds) for seeds in entries]
        line = [(seeds[0]["task"], each) for seeds, each in zip(entries, found, strict=True) if each is not None]
        tasks, means = [task for task, _ in line], [each.mean for _, each in line]
        low = [each.mean - error_of(each) for _, each in line]
        high = [each.mean + error_of(each) for _, each in line]
        axes.plot(tasks, means, color=colour, marker="o", markersize=5, label=point.point.label)
        axes.fill_between(tasks, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.set(xlabel="after task", ylabel=f"mean {metric_label(points)} on the tasks so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Accuracy after each task (band: one standard deviation)", loc="left")
    return finished(figure, axes, points)


def curve(points: Sequence[PointResults], key: str) -> Figure | None:
    """The final score against the values of one setting, with bars of one deviation. None unless they are numbers."""
    values = [point.point.values.get(key) for point in points]
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        return None
    figure, axes = new_figure()
    lines: dict[str, list[tuple[float, Statistic]]] = {}
    for point in points:
        score = point.statistic("acc")
        if score is not None:
            others = [f"{name.rpartition('.')[2]}={v}" for name, v in point.point.values.items() if name != key]
            label = " · ".join([point.point.name, *others])
            lines.setdefault(label, []).append((float(point.point.values[key]), score))
    for (label, line), colour in zip(lines.items(), colours(len(lines)), strict=True):
        x, scores = [value for value, _ in line], [score for _, score in line]
        bars = [error_of(score) for score in scores]
        axes.errorbar(x, [s.mean for s in scores], yerr=bars, color=colour, marker="o", capsize=3, label=label)
    numbers = sorted({float(cast(float, value)) for value in values})
    if numbers[0] > 0 and numbers[-1] / numbers[0] >= 8:
        axes.set_xscale("log")
    axes.set_xticks(numbers, [f"{value:g}" for value in numbers])
    axes.minorticks_off()
    axes.set(xlabel=key, ylabel=f"mean {metric_label(points)} at the end")
    axes.set_title(f"{metric_label(points).capitalize()} against {key} (bars: one standard deviation)", loc="left")
    return finished(figure, axes, points, many=len(lines) > 1)


def stored_when(points: Sequence[PointResults]) -> Figure | None:
    """When the exemplars of the last buffers were stored, over the stream; a band of one deviation. None if unknown."""
    from matplotlib.ticker import PercentFormatter

    counted = [point for point in points if all(_stored_when(summary) for summary in point.summaries)]
    if not counted:
        return None
    figure, axes = new_figure()
    for point, colour in zip(counted, colours(len(counted)), strict=True):
        shares = [[count / sum(counts) for count in counts] for counts in map(_stored_when, point.summaries)]
        found = [cast(Statistic, statistic(part)) for part in zip(*shares, strict=True)]
        middles = [(part + 0.5) / len(found) for part in range(len(found))]
        low, high = [s.mean - error_of(s) for s in found], [s.mean + error_of(s) for s in found]
        axes.plot(middles, [s.mean for s in found], color=colour, marker="o", markersize=4, label=point.point.label)
        axes.fill_between(middles, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.axhline(1 / len(found), color="#7F7F7F", linestyle=":", linewidth=1)
    axes.set(xlabel="stored after this share of the stream", ylabel="share of the buffers at the end")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.grid(True)
    axes.set_title("Age of what is stored (dotted: even over the stream)", loc="left")
    legend_below(figure)
    return figure


def _stored_when(summary: Summary) -> list[int]:
    """Exemplars at the end by when they were stored; empty if there are none, or the summary does not tell."""
    counts: list[int] = summary["history"][-1].get("stored_when") or []
    return counts if any(counts) else []
