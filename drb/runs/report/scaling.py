"""How runs scale with the number of ranks: a table and a plot of throughput and parallel efficiency.

Runs on one number of ranks that differ in nothing but their seed are averaged. Efficiency is the throughput per rank
divided by that of the same runs on the fewest ranks. Besides what `drb.runs.report` lists, summaries need world_size
and samples_per_second (of the stream, all ranks together), and config to tell runs of one strategy apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from drb.runs.report import Summary
from drb.runs.report.grouping import groups
from drb.runs.report.plots import STYLE, save, strategy_colours


@dataclass(frozen=True)
class ScalingPoint:
    """The mean of equal runs on one number of ranks.

    Attributes:
        label: what the runs are: their strategy, and the settings that tell them from other runs of it.
        acc: a fraction, None if no run has one.
    """

    label: str
    strategy: str
    ranks: int
    runs: int
    samples_per_second: float
    efficiency: float
    acc: float | None


def scaling_points(summaries: Sequence[Summary]) -> list[ScalingPoint]:
    """One point per group of equal runs and number of ranks. Runs without a throughput are left out."""
    points = []
    for label, members in groups([summary for summary in summaries if summary.get("samples_per_second")]).items():
        by_ranks: dict[int, list[Summary]] = defaultdict(list)
        for summary in members:
            by_ranks[summary["world_size"]].append(summary)
        speed = {ranks: fmean(run["samples_per_second"] for run in by_ranks[ranks]) for ranks in sorted(by_ranks)}
        fewest = min(speed)
        for ranks, samples_per_second in speed.items():
            accuracies = [run["acc"] for run in by_ranks[ranks] if run["acc"] is not None]
            efficiency = samples_per_second / ranks / (speed[fewest] / fewest)
            acc = fmean(accuracies) if accuracies else None
            strategy = members[0]["strategy"]
            points.append(
                ScalingPoint(label, strategy, ranks, len(by_ranks[ranks]), samples_per_second, efficiency, acc)
            )
    return points


def scaling_table(points: Sequence[ScalingPoint]) -> str:
    """The points as aligned text."""
    rows = [["runs of", "ranks", "runs", "samples/s", "efficiency", "ACC"]]
    for point in points:
        acc = "-" if point.acc is None else f"{100 * point.acc:.1f}"
        numbers = [point.ranks, point.runs, f"{point.samples_per_second:,.0f}", f"{100 * point.efficiency:.0f} %", acc]
        rows.append([point.label, *map(str, numbers)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def save_scaling_plot(summaries: Sequence[Summary], folder: Path) -> Path | None:
    """Draw folder/scaling.png: throughput against ranks beside the ideal. None if there is one number of ranks."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    points = scaling_points(summaries)
    ranks = sorted({point.ranks for point in points})
    if len(ranks) < 2:
        return None
    colours = strategy_colours(summaries)
    with rc_context(cast(Any, STYLE)):
        figure = Figure(figsize=(6.4, 4.4))
        axes = figure.add_subplot()
        for name in dict.fromkeys(point.label for point in points):
            own = [point for point in points if point.label == name]
            per_rank = own[0].samples_per_second / own[0].ranks
            colour = colours[own[0].strategy]
            label = f"{name} ({100 * own[-1].efficiency:.0f} % at {own[-1].ranks} ranks)"
            x = [point.ranks for point in own]
            axes.plot(x, [point.samples_per_second for point in own], color=colour, marker="o", label=label)
            axes.plot(x, [per_rank * count for count in x], color=colour, linestyle=":", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(ranks, [str(count) for count in ranks])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set(xlabel="ranks", ylabel="samples per second, all ranks")
        axes.grid(True)
        axes.set_title("Throughput against ranks (dotted: ideal)", loc="left")
        axes.legend()
        return save(figure, folder / "scaling.png")
