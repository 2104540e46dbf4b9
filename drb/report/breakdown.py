"""Where the time of a step went: two stacked bars per run, the training thread's parts and a round's."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from drb.report import Summary

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
_TOO_NARROW = 0.06  # of the longest bar, for a number to be written into a part


def breakdown(summaries: Sequence[Summary]) -> Figure | None:
    """Milliseconds per step, stacked; None unless a summary has a breakdown."""
    from matplotlib.figure import Figure

    bars = [bar for summary in summaries if (summary.get("breakdown") or {}).get("steps") for bar in _bars(summary)]
    if not bars:
        return None
    figure = Figure(figsize=(8.6, 1.9 + 0.5 * len(bars)))
    axes = figure.add_subplot()
    longest = max(sum(parts.values()) for _, parts in bars)
    seen: set[str] = set()
    for index, (_, parts) in enumerate(bars):
        _stack(axes, index, parts, longest, seen)
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds per step, mean over the run, rank 0")
    axes.grid(True, axis="x")
    axes.tick_params(axis="y", length=0)
    axes.set_title("Where the time of a step goes (a round runs beside the next step)", loc="left")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, columnspacing=1.4, handlelength=1.2)
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


def _stack(axes: Axes, index: int, parts: Mapping[str, float], longest: float, seen: set[str]) -> None:
    left = 0.0
    for name, width in parts.items():
        if not width:
            continue
        label, colour = _PARTS[name]
        shown = "_nolegend_" if name in seen else label
        seen.add(name)
        axes.barh(index, width, 0.7, left, color=colour, edgecolor="white", linewidth=0.5, label=shown)
        if width > _TOO_NARROW * longest:
            dark = name in ("rows", "index", "wait", "round", "admission")
            axes.text(
                left + width / 2,
                index,
                f"{width:.3g}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
        left += width
