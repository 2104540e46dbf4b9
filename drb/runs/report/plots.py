"""Plots of several runs as PNG files: accuracy against runtime, accuracy matrices, what the rehearsal buffers hold,
where the time of a step went (`drb.runs.report.breakdown_plot`).

A strategy has the same colour in every plot and every report (Okabe and Ito's palette, which colour-blind readers
tell apart); runs of one strategy differ by their markers. matplotlib is imported when something is drawn, draws
without a display, and pyplot's global state is not touched.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from drb.runs.report import Summary
from drb.runs.report.metric import is_fraction, matrix_of, metric_of, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"finetune": "#D55E00", "er": "#0072B2", "from_scratch": "#009E73"}
_MORE_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#8C564B", "#000000")
_MARKERS = "osD^vP*X"
_DPI = 160
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.12,  # inches
    "figure.constrained_layout.w_pad": 0.12,
}


def save_plots(summaries: Sequence[Summary], folder: str | Path) -> list[Path]:
    """Draw every plot that the summaries have data for; returns the files, `folder`/*.png.

    Raises:
        ValueError: no summaries.
    """
    from matplotlib import rc_context

    from drb.runs.report.breakdown_plot import breakdown

    if not summaries:
        raise ValueError("there is no run to plot; give at least one summary.json")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with rc_context(cast(Any, STYLE)):
        figures = {
            "accuracy_runtime": accuracy_against_runtime(summaries),
            "accuracy_matrix": accuracy_matrices(summaries),
            "buffer_fill": buffer_fill(summaries),
            "breakdown": breakdown(summaries),
        }
        return [save(figure, folder / f"{name}.png") for name, figure in figures.items() if figure is not None]


def accuracy_against_runtime(summaries: Sequence[Summary]) -> Figure:
    """Mean accuracy over the seen tasks against training seconds; a line per run, a marker at the end of each task."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(8.0, 4.6))
    axes = figure.add_subplot()
    colours = strategy_colours(summaries)
    for index, summary in enumerate(summaries):
        points = [(entry["seconds"], entry["acc"]) for entry in summary["history"] if entry["acc"] is not None]
        if not points:
            continue
        axes.plot(
            *zip(*points, strict=True),
            color=colours[summary["strategy"]],
            marker=_marker(summaries, index),
            markersize=6.5,
            markeredgecolor="white",
            markeredgewidth=0.8,
            linewidth=1.8,
            label=_label(summary),
        )
    metrics = ", ".join(dict.fromkeys(map(metric_of, summaries)))
    axes.set(xlabel="training time (s)", ylabel=f"mean {metrics} on the tasks seen so far")
    axes.set_xlim(left=0)
    if all(map(is_fraction, summaries)):
        axes.set_ylim(0, 1.04)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.grid(True)
    axes.set_title(f"{metrics.capitalize()} against runtime (one marker per task)", loc="left")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, columnspacing=1.4, handlelength=1.6)
    return figure


def accuracy_matrices(summaries: Sequence[Summary]) -> Figure | None:
    """Heat maps of R side by side: the task trained last downwards, the task tested on to the right."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    runs = [summary for summary in summaries if matrix_of(summary)]
    if not runs:
        return None
    columns = min(len(runs), 3)
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(0.9 + 3.1 * columns, 0.5 + 3.1 * rows))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    images = [_heat_map(axes, summary, _greatest(runs)) for axes, summary in zip(grid, runs, strict=False)]
    for axes in grid[len(runs) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel("after training on task")
    if len({(metric_of(summary), is_fraction(summary)) for summary in runs}) == 1:  # else a scale of one's own each
        percent = PercentFormatter(xmax=1, decimals=0) if is_fraction(runs[0]) else None
        bar = figure.colorbar(images[0], ax=list(grid), shrink=0.7, aspect=25, pad=0.02, format=percent)
        bar.outline.set_visible(False)
        bar.set_label(metric_of(runs[0]))
    return figure


def buffer_fill(summaries: Sequence[Summary]) -> Figure | None:
    """Exemplars stored per stratum at the end of each task, stacked; None unless a history tells its counts."""
    from matplotlib.figure import Figure

    runs = [summary for summary in summaries if any(entry.get("counts") for entry in summary["history"])]
    if not runs:
        return None
    figure = Figure(figsize=(0.6 + 4.2 * len(runs), 3.8))
    for axes, summary in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        _stacked_counts(axes, summary)
    return figure


def strategy_colours(summaries: Sequence[Summary]) -> dict[str, str]:
    """A colour for each strategy; the known ones always have theirs."""
    others = sorted({summary["strategy"] for summary in summaries} - _COLOURS.keys())
    return _COLOURS | {name: _MORE_COLOURS[index % len(_MORE_COLOURS)] for index, name in enumerate(others)}


def _greatest(summaries: Sequence[Summary]) -> float:
    """The greatest score in the matrices of metrics that have no upper bound; dark cells are large scores."""
    scores = [s for summary in summaries for row in matrix_of(summary) for s in row if s is not None]
    return max(scores, default=1.0)


def _heat_map(axes: Axes, summary: Summary, greatest: float) -> Any:
    import numpy as np

    rows = matrix_of(summary)
    width = max(map(len, rows))
    filled = [[*row, *[None] * (width - len(row))] for row in rows]
    matrix = np.array(filled, dtype=np.float64)  # None becomes NaN, which is left white
    in_percent = is_fraction(summary)
    top = 1.0 if in_percent else greatest
    image = axes.imshow(matrix, vmin=min(0.0, float(np.nanmin(matrix))), vmax=top, cmap="Blues", aspect="equal")
    size = max(matrix.shape)
    if size <= 12:
        for (row, column), value in np.ndenumerate(matrix):
            if not np.isnan(value):
                colour = "white" if value > 0.6 * top else "black"
                text = f"{100 * value:.0f}" if in_percent else f"{value:.2g}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=10 if size <= 6 else 7)
    step = -(-size // 10)
    axes.set_xticks(range(0, matrix.shape[1], step), [str(task + 1) for task in range(0, matrix.shape[1], step)])
    axes.set_yticks(range(0, matrix.shape[0], step), [str(task + 1) for task in range(0, matrix.shape[0], step)])
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(1, matrix.shape[1]) - 0.5, minor=True)  # white lines between cells
    axes.set_yticks(np.arange(1, matrix.shape[0]) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.set_xlabel(f"{metric_of(summary)} on task" + (" (%)" if in_percent else ""))
    axes.set_title(_label(summary))
    return image


def _stacked_counts(axes: Axes, summary: Summary) -> None:
    from matplotlib import colormaps

    entries = summary["history"]
    strata = sorted({stratum for entry in entries for stratum in entry.get("counts", {})}, key=_numeric_first)
    tasks = [entry["task"] for entry in entries]
    bottom = [0] * len(entries)
    many = len(strata) > 20  # more than a legend or the eye can tell apart: old to new as dark to light
    palette = (
        colormaps["viridis"].resampled(len(strata)) if many else colormaps["tab20" if len(strata) > 10 else "tab10"]
    )
    for index, stratum in enumerate(strata):
        heights = [entry.get("counts", {}).get(stratum, 0) for entry in entries]
        axes.bar(
            tasks, heights, 0.8, bottom, color=palette(index % palette.N), label=stratum, edgecolor="white", lw=0.4
        )
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    capacity = (summary.get("rehearsal") or {}).get("capacity_total")
    if capacity:
        axes.axhline(capacity, color="black", linewidth=1, linestyle="--", label="capacity")
    axes.set(xlabel="after task", ylabel="exemplars stored, all ranks")
    axes.set_title(_label(summary), loc="left")
    axes.set_xticks(tasks[:: -(-len(tasks) // 10)])
    axes.set_ylim(0, 1.06 * max([*bottom, capacity or 0]))
    if not many:
        axes.legend(title="stratum", loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, reverse=True)


def _marker(summaries: Sequence[Summary], index: int) -> str:
    """Runs of one strategy get different markers."""
    strategy = summaries[index]["strategy"]
    before = sum(summary["strategy"] == strategy for summary in summaries[:index])
    return _MARKERS[before % len(_MARKERS)]


def _label(summary: Summary) -> str:
    acc = summary["acc"]
    name = textwrap.shorten(str(summary["name"]), 28, placeholder="…")
    return name if acc is None else f"{name} (ACC {shown(summary, acc)}{' %' if is_fraction(summary) else ''})"


def _numeric_first(stratum: str) -> tuple[int, float, str]:
    return (0, float(stratum), "") if stratum.lstrip("-").isdigit() else (1, 0.0, stratum)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG file of 256 colours, a third as large as with all of them, and return its path."""
    from PIL import Image

    content = BytesIO()
    figure.savefig(content, dpi=_DPI)
    with Image.open(content) as image:
        palette = image.convert("RGB").quantize(
            256, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE
        )
    palette.save(path, optimize=True)
    return path
