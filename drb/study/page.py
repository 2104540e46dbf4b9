"""The page of a study: one HTML file that needs no other, made of what the study's folder holds.

It has no time of its making in it: the same results give the same page, byte for byte.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from drb.program.summary import write_atomically
from drb.study.definition import Study
from drb.study.plots import save_study_plots
from drb.study.results import Result, mixture, origins
from drb.study.sheet import write_sheet
from drb.study.statistics import PointResults, by_point
from drb.study.table import as_csv, markdown, rows

PAGE, TABLE, NUMBERS = "page.html", "table.md", "table.csv"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; max-width: 1240px; margin: 2em auto; padding: 0 1em; }
h1 { margin-bottom: 0.2em; } h2 { margin-top: 1.8em; font-size: 1.15em; }
.question { font-size: 1.1em; color: #444; margin-top: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3em 0.8em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #888; vertical-align: bottom; white-space: normal; }
.wide { overflow-x: auto; } .failed { color: #b00020; } .note { color: #666; font-size: 0.9em; }
figure { margin: 1.4em 0; } img { max-width: 100%; } code, pre { font: 12.5px/1.5 ui-monospace, monospace; }
pre { background: #f6f6f6; padding: 0.8em; overflow-x: auto; }
"""


def write_page(study: Study, results: Sequence[Result], folder: Path) -> list[Path]:
    """Write the page, its PNG files, its table and, of a scaling study, a PDF; returns all files, the page first."""
    points = by_point(results)
    plots = save_study_plots(points, folder)
    write_atomically(folder / TABLE, markdown(points))
    write_atomically(folder / NUMBERS, as_csv(points))
    write_atomically(folder / PAGE, _html(study, points, results, plots))
    sheet = write_sheet(study, points, results, folder)
    return [folder / PAGE, folder / TABLE, folder / NUMBERS, *plots, *([sheet] if sheet else [])]


def _html(study: Study, points: Sequence[PointResults], results: Sequence[Result], plots: Sequence[Path]) -> str:
    title = escape(study.title)
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
        f'<h1>{title}</h1>\n<p class="question">{escape(study.question)}</p>',
        *_warnings(results),
        "<h2>Results</h2>",
        _table(rows(points)),
        f'<p class="note">Mean ± standard deviation over {_seeds(study)}; accuracy is the mean over all tasks at the '
        "end. Training time has no loading and no evaluation in it. samples/s: of the stream, all ranks together."
        f"{_target(study)}</p>",
        *(_figure(plot) for plot in plots),
        "<h2>Commands</h2>",
        '<p class="note">Each number above is the mean of the runs of its point; a line below repeats one.</p>',
        f"<pre>{escape(chr(10).join(result.command for result in results))}</pre>",
        "<h2>Made with</h2>",
        _table([["", ""], *([name, ", ".join(values)] for name, values in origins(results).items())]),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _warnings(results: Sequence[Result]) -> Iterator[str]:
    """What to know before the numbers are read: runs without a result, and runs that were made otherwise."""
    failed = [result for result in results if result.status == "failed"]
    left = sum(result.status == "open" for result in results)
    if left:
        yield f'<p class="failed">{left} of {len(results)} runs have not ended yet; the same command goes on.</p>'
    if mixed := mixture(results):
        yield f'<p class="failed">{escape(mixed)} See the end of this page.</p>'
    if failed:
        yield '<p class="failed">Failed, and not in any number below:</p><ul class="failed">'
        yield from (f"<li>{escape(result.run.name)}: {escape(result.error)}</li>" for result in failed)
        yield "</ul>"


def _target(study: Study) -> str:
    """What the target means, if the study has one."""
    target = study.points[0].target
    if target is None:
        return ""
    return (
        f" Seconds to target: of training, until the mean score over all tasks has reached {target:g} in the last "
        "task; in brackets how many runs have, unless all."
    )


def _seeds(study: Study) -> str:
    if len(study.seeds) == 1:
        return f"one run (seed {study.seeds[0]})"
    return f"{len(study.seeds)} runs (seeds {', '.join(map(str, study.seeds))})"


def _table(cells: Sequence[Sequence[str]]) -> str:
    head, *body = cells
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>"] if any(head) else []
    lines += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _figure(plot: Path) -> str:
    data = base64.b64encode(plot.read_bytes()).decode()
    return f'<figure><img alt="{plot.stem.replace("_", " ")}" src="data:image/png;base64,{data}"></figure>'
