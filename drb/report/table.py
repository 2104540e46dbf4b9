"""One table of several runs: a row per run, so that runs are compared down a column. At most 100 characters wide.

Of many tasks a few are shown, evenly spread, the first and the last among them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from drb.report import Summary

_MAX_TASK_COLUMNS = 6
_MAX_NAME = 18
_UNKNOWN = "-"


def print_table(summaries: Sequence[Summary], file: TextIO | None = None) -> None:
    """Print to stdout or file: with lines and bold heads on a terminal, else plain text."""
    file = sys.stdout if file is None else file
    if not file.isatty():
        print(plain_table(summaries), file=file)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, caption=_caption(summaries), caption_justify="left", pad_edge=False)
    head, *rows = _cells(summaries)
    for column, title in enumerate(head):
        style = "bold" if title == "ACC" else None
        table.add_column(title, justify="left" if column == 0 else "right", no_wrap=True, style=style)
    for row in rows:
        table.add_row(*row)
    Console(file=file).print(table)


def plain_table(summaries: Sequence[Summary]) -> str:
    """The table as aligned text, without colours or a trailing newline."""
    cells = _cells(summaries)
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in cells]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:], "", _caption(summaries)])


def _cells(summaries: Sequence[Summary]) -> list[list[str]]:
    """The head and one row per run."""
    if not summaries:
        raise ValueError("there is no run to show; give at least one summary.json")
    tasks = _shown_tasks(max(len(summary["history"]) for summary in summaries))
    first = [f"task {task + 1}" if task == tasks[0] else str(task + 1) for task in tasks]
    return [
        ["run", *first, "ACC", "BWT", "forgetting", "runtime", "waited"],
        *([_shorten(summary["name"]), *_row(summary, tasks)] for summary in summaries),
    ]


def _row(summary: Summary, tasks: Sequence[int]) -> list[str]:
    after = {entry["task"]: entry["acc"] for entry in summary["history"]}
    rehearsal = summary.get("rehearsal")
    return [
        *(_percent(after.get(task)) for task in tasks),
        _percent(summary["acc"]),
        _percent(summary["bwt"], signed=True),
        _percent(summary["forgetting"]),
        _seconds(summary["train_seconds"]),
        _seconds(rehearsal["wait_seconds"] if rehearsal else None),
    ]


def _caption(summaries: Sequence[Summary]) -> str:
    tasks = max(len(summary["history"]) for summary in summaries)
    return (
        f"Accuracies in %, the mean over the tasks seen after each of {tasks} tasks. runtime: seconds of training;\n"
        "waited: seconds of it that training waited for rehearsal."
    )


def _shown_tasks(num_tasks: int) -> list[int]:
    if num_tasks <= _MAX_TASK_COLUMNS:
        return list(range(num_tasks))
    last, gaps = num_tasks - 1, _MAX_TASK_COLUMNS - 1
    return [round(last * step / gaps) for step in range(_MAX_TASK_COLUMNS)]


def _percent(fraction: float | None, signed: bool = False) -> str:
    return _UNKNOWN if fraction is None else f"{100 * fraction:{'+' if signed else ''}.1f}"


def _seconds(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"
