"""A scaling study on one page, A4 and PDF, as an application for computing time wants it: plots, table, what made it.

It has no time of its making in it: the same results give the same page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from drb.runs.report.plots import STYLE
from drb.study.definition import Study
from drb.study.results import Result, mixture, origins
from drb.study.scaling_plot import draw_scaling
from drb.study.statistics import PointResults
from drb.study.table import rows

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

SHEET = "scaling.pdf"
_A4_INCHES = (11.69, 8.27)
_MOST_ROWS = 12  # of the table; the rest is in table.csv
_FACTS = ("host", "nodes", "device", "data", "drb", "python", "torch", "numpy", "git commit")


def write_sheet(study: Study, points: Sequence[PointResults], results: Sequence[Result], folder: Path) -> Path | None:
    """Write `scaling.pdf` into the folder; None, and no file, unless runs on several numbers of ranks are done."""
    points = [point for point in points if point.summaries]
    if len({point.point.ranks for point in points}) < 2:
        return None
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(cast(Any, {**STYLE, "pdf.fonttype": 42})):
        figure = Figure(figsize=_A4_INCHES)
        head, plots, table, foot = cast(Any, figure.subfigures(4, 1, height_ratios=(1.0, 4.0, 2.6, 1.2)))
        _write(head, 0.72, study.title, fontsize=20, fontweight="bold")
        _write(head, 0.22, study.question, fontsize=11)
        draw_scaling(plots, points)
        _draw_table(table, rows(points))
        _write(foot, 0.95, _made_with(study, results), fontsize=7.5, color="#444444")
        figure.savefig(folder / SHEET, metadata={"CreationDate": None, "Title": study.title})
    return folder / SHEET


def _write(figure: SubFigure, top: float, text: str, **style: Any) -> None:
    figure.text(0.04, top, text, va="top", ha="left", **style)


def _draw_table(figure: SubFigure, cells: Sequence[Sequence[str]]) -> None:
    """The first rows of the table, without the columns that are of no use beside scaling."""
    head, *body = cells
    shown = [place for place, name in enumerate(head) if not name.startswith(("backward", "forgetting", "rows"))]
    axes = figure.add_subplot()
    axes.set_axis_off()
    table = axes.table(
        [[row[place] for place in shown] for row in body[:_MOST_ROWS]],
        colLabels=[head[place] for place in shown],
        cellLoc="right",
        loc="upper center",
        edges="horizontal",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    table.auto_set_column_width(range(len(shown)))
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor("#bbbbbb")
        cell.set_text_props(fontweight="bold" if row == 0 else "normal", ha="left" if column == 0 else "right")


def _made_with(study: Study, results: Sequence[Result]) -> str:
    found = origins(results)
    facts = "; ".join(f"{name}: {', '.join(found[name])}" for name in _FACTS if name in found)
    seeds = ", ".join(map(str, study.seeds))
    target = study.points[0].target
    lines = [
        f"Mean ± standard deviation over the seeds {seeds}. Throughput counts samples of the stream, all ranks "
        "together; training time has no loading and no evaluation in it."
        + ("" if target is None else f" Time to {target:g}: until the mean score over all tasks has reached it."),
        *filter(None, [mixture(results)]),
        f"Made by drb with {facts}.",
        f"One of the runs: {results[-1].command}",
    ]
    return "\n".join(textwrap.fill(line, 190) for line in lines)
