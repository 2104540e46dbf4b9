"""One table of several runs: a row per run, so that runs are compared down a column; as wide as there is room.

Ranks, model and seed have a column each if the runs differ in them, else they are said once below. Of many tasks a few
are shown, evenly spread, the first and the last among them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from drb.runs.report import Summary
from drb.runs.report.grouping import run_labels
from drb.runs.report.metric import described, shown

_MAX_TASK_COLUMNS = 6
_MAX_NAME = 40
_UNKNOWN = "-"


def print_table(summaries: Sequence[Summary], file: TextIO | None = None) -> None:
    """Print to stdout or file: with colours and as wide as a terminal allows, else as plain text."""
    file = sys.stdout if file is None else file
    if not file.isatty():
        print(plain_table(summaries), file=file)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=file)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0, 0, 1), pad_edge=False)
    head, *rows = _fitting_cells(summaries, console.width)
    for column, title in enumerate(head):
        style = "bold" if title == "ACC" else None
        table.add_column(title, justify="left" if column == 0 else "right", no_wrap=True, style=style)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(_caption(summaries), style="dim", highlight=False)


def plain_table(summaries: Sequence[Summary], width: int = 100) -> str:
    """The table as aligned text, without colours or a trailing newline."""
    cells = _fitting_cells(summaries, width)
    widths = _column_widths(cells)
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:], "", _caption(summaries)])


def _fitting_cells(summaries: Sequence[Summary], width: int) -> list[list[str]]:
    """The head and one row per run, with as many task columns as fit, at least the first and the last."""
    if not summaries:
        raise ValueError("there is no run to show; give at least one summary.json")
    for task_columns in range(_MAX_TASK_COLUMNS, 1, -1):
        cells = _cells(summaries, task_columns)
        widths = _column_widths(cells)
        if sum(widths) + 2 * (len(widths) - 1) <= width:
            break
    return cells


def _column_widths(cells: list[list[str]]) -> list[int]:
    return [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]


def _cells(summaries: Sequence[Summary], task_columns: int) -> list[list[str]]:
    tasks = _shown_tasks(_num_tasks(summaries), task_columns)
    first = [f"task {task + 1}" if task == tasks[0] else str(task + 1) for task in tasks]
    facts = {name: values for name, values in _facts(summaries).items() if len(set(values)) > 1}
    labels = run_labels(summaries, besides=[_SETTING_OF[name] for name in facts if name in _SETTING_OF])
    return [
        ["run", *facts, *first, "ACC", "BWT", "forgetting", "runtime", "waited"],
        *(
            [_shorten(label), *own, *_row(run, tasks)]
            for label, run, *own in zip(labels, summaries, *facts.values(), strict=True)
        ),
    ]


_SETTING_OF = {"model": "model.name"}


def _facts(summaries: Sequence[Summary]) -> dict[str, list[str]]:
    """Each run's number of ranks, its model and its seed."""
    models = [(summary.get("config") or {}).get("model", {}).get("name") for summary in summaries]
    facts = {
        "ranks": [summary.get("world_size") for summary in summaries],
        "model": models,
        "seed": [summary.get("seed") for summary in summaries],
    }
    return {name: [_UNKNOWN if value is None else str(value) for value in values] for name, values in facts.items()}


def _common_facts(summaries: Sequence[Summary]) -> str:
    """What all runs have in common, for example 'ranks 2, model mlp, seed 0'; empty if nothing is known."""
    facts = {name: set(values) for name, values in _facts(summaries).items()}
    return ", ".join(f"{name} {next(iter(v))}" for name, v in facts.items() if len(v) == 1 and v != {_UNKNOWN})


def _row(summary: Summary, tasks: Sequence[int]) -> list[str]:
    after = {entry["task"] - 1: entry["acc"] for entry in summary["history"]}
    rehearsal = summary.get("rehearsal")
    return [
        *(_score(summary, after.get(task)) for task in tasks),
        _score(summary, summary["acc"]),
        _score(summary, summary["bwt"], signed=True),
        _score(summary, summary["forgetting"]),
        _seconds(summary["train_seconds"]),
        _seconds(rehearsal["wait_seconds"] + rehearsal.get("inline_seconds", 0.0) if rehearsal else None),
    ]


def _num_tasks(summaries: Sequence[Summary]) -> int:
    return max(len(summary["history"]) for summary in summaries)


def _caption(summaries: Sequence[Summary]) -> str:
    common = _common_facts(summaries)
    return (
        f"{described(summaries)}: the mean over the tasks seen, after each of {_num_tasks(summaries)} tasks.\n"
        "runtime: training alone; waited: the part of it spent in rounds of rehearsal or waiting for them."
        + (f"\nall runs: {common}" if common else "")
    )


def _shown_tasks(num_tasks: int, most: int) -> list[int]:
    """Tasks evenly spread from the first to the last."""
    if num_tasks <= most:
        return list(range(num_tasks))
    return [round((num_tasks - 1) * step / (most - 1)) for step in range(most)]


def _score(summary: Summary, value: float | None, signed: bool = False) -> str:
    return _UNKNOWN if value is None else shown(summary, value, signed=signed)


def _seconds(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"
