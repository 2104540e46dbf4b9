"""A lineage for people: a table, a plot of accuracy over the versions, and one HTML page with both."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, cast

from drb.runs.lineage.record import Lineage, Version
from drb.runs.report.plots import STYLE

_CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3em 0.8em; border-bottom: 1px solid #ddd; text-align: left; } th { border-bottom: 2px solid #888; }
.current td { font-weight: 600; } .failed { color: #b00020; } img { max-width: 100%; }
"""


def rows_of(lineage: Lineage) -> list[list[str]]:
    """The table's cells: a heading, then a row for each version, the oldest first."""
    names = list(dict.fromkeys(name for version in lineage.versions for name in version.after))
    heading = ["version", "from", "data", "samples", *names, "steps", "outcome"]
    return [heading, *(_row(lineage, version, names) for version in lineage.versions)]


def _row(lineage: Lineage, version: Version, names: Sequence[str]) -> list[str]:
    outcome = "promoted" if version.promoted else "candidate: " + "; ".join(version.failed)
    return [
        f"{version.number}{' *' if version.number == lineage.current else ''}",
        "" if version.parent is None else str(version.parent),
        Path(version.data).name,
        str(version.samples),
        *(_change(version, name) for name in names),
        str(version.steps),
        outcome,
    ]


def _change(version: Version, name: str) -> str:
    if name not in version.after:
        return ""
    before = f"{100 * version.before[name]:.1f} → " if name in version.before else ""
    return f"{before}{100 * version.after[name]:.1f} %"


def as_text(lineage: Lineage) -> str:
    """The table, aligned; * marks the current version."""
    rows = rows_of(lineage)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def plot(lineage: Lineage) -> bytes:
    """A PNG of the accuracy on each evaluation set over the versions that were promoted; others are crosses."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context(cast(Any, STYLE)):
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for name in dict.fromkeys(name for version in lineage.versions for name in version.after):
            known = [version for version in lineage.versions if name in version.after]
            promoted = [version for version in known if version.promoted]
            others = [version for version in known if not version.promoted]
            (line,) = axes.plot(*_points(promoted, name), marker="o", label=name)
            axes.plot(*_points(others, name), marker="x", linestyle="", color=line.get_color())
        axes.set(xlabel="version (crosses: not promoted)", ylabel="accuracy, %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    return content.getvalue()


def _points(versions: Sequence[Version], name: str) -> tuple[list[int], list[float]]:
    return [version.number for version in versions], [100 * version.after[name] for version in versions]


def page(lineage: Lineage) -> str:
    """One HTML page that needs no other file."""
    heading, *rows = rows_of(lineage)
    cells = [
        f"<tr{' class=current' if version.number == lineage.current else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[:-1])
        + f"<td{'' if version.promoted else ' class=failed'}>{escape(row[-1])}</td></tr>"
        for version, row in zip(lineage.versions, rows, strict=True)
    ]
    events = [
        f"<li>{escape(event['time'])} version {event['version']} {escape(event['what'])}</li>"
        for event in lineage.events
    ]
    title = f"Lineage {escape(lineage.folder.name)}"
    image = base64.b64encode(plot(lineage)).decode()
    return "\n".join(
        [
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            f"<style>{_CSS}</style></head><body><h1>{title}</h1>",
            f'<img alt="accuracy over versions" src="data:image/png;base64,{image}">',
            "<table><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in heading) + "</tr>",
            *cells,
            "</table>",
            "<p>* is current. Accuracies: before the update → after it.</p><h2>What happened</h2><ul>",
            *events,
            "</ul></body></html>\n",
        ]
    )
