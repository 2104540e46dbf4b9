"""A lineage for people: a table, and one HTML page with the table, the picture and what happened."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from drb.runs.lineage.picture import picture
from drb.runs.lineage.record import Lineage, Version

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
    image = base64.b64encode(picture(lineage)).decode()
    return "\n".join(
        [
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            f"<style>{_CSS}</style></head><body><h1>{title}</h1>",
            f'<img alt="the versions and their accuracy" src="data:image/png;base64,{image}">',
            "<table><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in heading) + "</tr>",
            *cells,
            "</table>",
            "<p>* is current. Accuracies: before the update → after it.</p><h2>What happened</h2><ul>",
            *events,
            "</ul><h2>What each was made with</h2><table><tr><th>version</th><th>settings</th><th>environment</th>"
            "<th>data</th></tr>",
            *map(_made_with, lineage.versions),
            "</table></body></html>\n",
        ]
    )


def _made_with(version: Version) -> str:
    environment = ", ".join(f"{name} {value}" for name, value in version.environment.items())
    cells = [str(version.number), " ".join(version.settings), environment, f"{version.data} ({version.fingerprint})"]
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
