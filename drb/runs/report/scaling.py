"""How runs scale with the number of ranks: a table and a plot of throughput and parallel efficiency.

Runs of one strategy on one number of ranks, such as several seeds, are averaged. Efficiency is the throughput per rank
divided by that of the strategy's runs on the fewest ranks. Besides what `drb.runs.report` lists, summaries need
world_size and samples_per_second (of the stream, all ranks together).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from drb.runs.report import Summary
from drb.runs.report.plots import STYLE, save, strategy_colours


@dataclass(frozen=True)
class ScalingPoint:
    """The mean of the runs of one strategy on one number of ranks; acc is a fraction, None if no run has one."""

    strategy: str
    ranks: int
    runs: int
    samples_per_second: float
    efficiency: float
    acc: float | None


def scaling_points(summaries: Sequence[Summary]) -> list[ScalingPoint]:
    """One point per strategy and number of ranks. Runs without a throughput are left out."""
    groups: dict[str, dict[int, list[Summary]]] = defaultdict(lambda: defaultdict(list))
    for summary in summaries:
        if summary.get("samples_per_second"):
            groups[summary["strategy"]][summary["world_size"]].append(summary)
    points = []
    for strategy, by_ranks in groups.items():
        speed = {ranks: fmean(run["samples_per_second"] for run in by_ranks[ranks]) for ranks in sorted(by_ranks)}
        fewest = min(speed)
        for ranks, samples_per_second in speed.items():
            accuracies = [run["acc"] for run in by_ranks[ranks] if run["acc"] is not None]
            efficiency = samples_per_second / ranks / (speed[fewest] / fewest)
            acc = fmean(accuracies) if accuracies else None
            points.append(ScalingPoint(strategy, ranks, len(by_ranks[ranks]), samples_per_second, efficiency, acc))
    return points


def scaling_table(points: Sequence[ScalingPoint]) -> str:
    """The points as aligned text."""
    rows = [["strategy", "ranks", "runs", "samples/s", "efficiency", "ACC"]]
    for point in points:
        acc = "-" if point.acc is None else f"{100 * point.acc:.1f}"
        numbers = [point.ranks, point.runs, f"{point.samples_per_second:,.0f}", f"{100 * point.efficiency:.0f} %", acc]
        rows.append([point.strategy, *map(str, numbers)])
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
        for strategy in dict.fromkeys(point.strategy for point in points):
            own = [point for point in points if point.strategy == strategy]
            per_rank = own[0].samples_per_second / own[0].ranks
            colour = colours[strategy]
            label = f"{strategy} ({100 * own[-1].efficiency:.0f} % at {own[-1].ranks} ranks)"
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
