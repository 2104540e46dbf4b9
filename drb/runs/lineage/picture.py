"""A lineage as a picture: which version went on from which, and the accuracy of each on every evaluation set."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from drb.runs.lineage.record import Lineage, Version
from drb.runs.report.plots import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_IN_LINE, _OTHER = "#1c1c1c", "#9a9a9a"
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def picture(lineage: Lineage) -> bytes:
    """A PNG. Versions that the current one goes back to are dots with lines; candidates are crosses, and what was
    rolled back is a ring."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(cast(Any, STYLE)):
        width = min(16.0, max(7.0, 1.5 + 0.6 * len(lineage.versions)))
        figure = Figure(figsize=(width, 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3.2))
        _draw_line(above, lineage)
        _draw_accuracies(below, lineage)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=140, metadata={"Software": None})
    return content.getvalue()


def _draw_line(axes: Axes, lineage: Lineage) -> None:
    """Versions from left to right; those that are not in the line of the current one hang below it."""
    line = {version.number for version in lineage.line_of(lineage.current)}
    height = {version.number: 0.0 if version.number in line else -1.0 for version in lineage.versions}
    for version in lineage.versions:
        colour = _IN_LINE if version.number in line else _OTHER
        if version.parent is not None:
            ends = [version.parent, version.number]
            axes.plot(ends, [height[number] for number in ends], color=colour, linewidth=1.2, zorder=1)
        marker, face = _marker(version, line, colour)
        axes.scatter(
            [version.number], [height[version.number]], marker=marker, s=70, color=face, edgecolors=colour, zorder=2
        )
        axes.annotate(
            str(version.number),
            (version.number, height[version.number]),
            (0, 8),
            textcoords="offset points",
            ha="center",
        )
    if lineage.current is not None:
        axes.annotate(
            "current", (lineage.current, 0.0), (0, -17), textcoords="offset points", ha="center", color="#009E73"
        )
    axes.set_ylim(-1.6, 0.9)
    axes.axis("off")


def _marker(version: Version, line: set[int], colour: str) -> tuple[str, str]:
    """A marker and the colour of its face."""
    if not version.promoted:
        return "X", colour
    return "o", colour if version.number in line else "white"


def _draw_accuracies(axes: Axes, lineage: Lineage) -> None:
    line = lineage.line_of(lineage.current)[::-1]
    members = {version.number for version in line}
    names = list(dict.fromkeys(name for version in lineage.versions for name in version.after))
    for index, name in enumerate(names):
        colour = _COLOURS[index % len(_COLOURS)]
        axes.plot(*_points(line, name), marker="o", label=name, color=colour)
        for version in lineage.versions:
            if version.number not in members and name in version.after:
                marker, face = _marker(version, members, colour)
                axes.scatter(*_points([version], name), marker=marker, color=face, edgecolors=colour, zorder=3)
    axes.set(ylabel="accuracy, %")
    axes.set_xticks(
        [version.number for version in lineage.versions],
        [Path(version.data).stem for version in lineage.versions],
        rotation=35,
        ha="right",
        rotation_mode="anchor",
    )
    axes.grid(axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(names))
    key = "dots: the line of the current version; X: a gate failed; ring: rolled back"
    axes.set_title(key, loc="right", color="#666666", fontsize=9)


def _points(versions: Sequence[Version], name: str) -> tuple[list[int], list[float]]:
    known = [version for version in versions if name in version.after]
    return [version.number for version in known], [100 * version.after[name] for version in known]
