"""The plot of where the time of a step went: two stacked bars per run, for the training thread and for a round."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from drb.runs.report import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PARTS = {
    "load": ("load: waiting for the loader", "#E69F00"),
    "wait": ("wait: for a round", "#D55E00"),
    "round": ("round, on this thread (inline)", "#7F7F7F"),
    "admission": ("admission: who is stored", "#009E73"),
    "copy": ("copy: extend, to the device", "#CC79A7"),
    "train": ("train: the rest", "#B9D5E8"),
    "announce": ("announce: sizes, slowest rank", "#F0E442"),
    "draw": ("draw", "#56B4E9"),
    "index": ("index exchange", "#8C564B"),
    "rows": ("row exchange", "#0072B2"),
}
_DARK = ("wait", "round", "admission", "index", "rows")
_TOO_NARROW = 0.09  # of the longest bar, for a number to be written into a part


def breakdown(summaries: Sequence[Summary]) -> Figure | None:
    """Milliseconds per step, stacked; None unless a summary has a breakdown."""
    from matplotlib.figure import Figure

    bars = [bar for summary in summaries if (summary.get("breakdown") or {}).get("steps") for bar in _bars(summary)]
    if not bars:
        return None
    figure = Figure(figsize=(9.6, 1.9 + 0.5 * len(bars)))
    whole, small = figure.subplots(1, 2, sharey=True, width_ratios=(3, 4))
    labels = [label for label, _ in bars]
    _stack_all(whole, labels, [parts for _, parts in bars])
    _stack_all(small, labels, [{name: ms for name, ms in parts.items() if name != "train"} for _, parts in bars])
    whole.invert_yaxis()
    whole.set_title("Where the time of a step goes", loc="left")
    small.set_title("the same without train, enlarged", loc="left")
    for axes in (whole, small):
        axes.set_xlabel("ms per step, mean of the run")
    drawn = [axes.get_legend_handles_labels() for axes in (whole, small)]
    handles = {label: bar for bars_, labels_ in drawn for bar, label in zip(bars_, labels_, strict=True)}
    shown = [label for label, _ in _PARTS.values() if label in handles]
    figure.legend(
        [handles[label] for label in shown], shown, loc="outside lower center", ncols=3, fontsize=9, columnspacing=1.4
    )
    return figure


def _bars(summary: Summary) -> list[tuple[str, dict[str, float]]]:
    """Each bar's label and its parts in milliseconds per step."""
    told, name = summary["breakdown"], textwrap.shorten(str(summary["name"]), 28, placeholder="…")
    bars = [(f"{name}: training", _per_step(told["training"], told["steps"]))]
    if told["round"] is not None:
        is_inline = told["training"].get("round", 0) > 0
        label = f"{name}: round{' (inline)' if is_inline else ''}"
        bars.append((label, _per_step(told["round"], told["steps"])))
    return bars


def _per_step(seconds: Mapping[str, float], steps: int) -> dict[str, float]:
    return {name: 1000 * max(value, 0.0) / steps for name, value in seconds.items()}


def _stack_all(axes: Axes, labels: Sequence[str], bars: Sequence[Mapping[str, float]]) -> None:
    """One bar below the other, each part in its colour and, where there is room, with its number."""
    longest = max(sum(parts.values()) for parts in bars)
    for index, parts in enumerate(bars):
        left = 0.0
        for name, width in parts.items():
            if width:
                label, colour = _PARTS[name]
                axes.barh(index, width, 0.7, left, color=colour, edgecolor="white", linewidth=0.5, label=label)
            if width > _TOO_NARROW * longest:
                ink = "white" if name in _DARK else "black"
                axes.text(left + width / 2, index, _number(width), ha="center", va="center", fontsize=8, color=ink)
            left += width
    axes.set_yticks(range(len(labels)), labels)
    axes.grid(True, axis="x")
    axes.tick_params(axis="y", length=0)


def _number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1e-3 else f"{value:.1g}"
