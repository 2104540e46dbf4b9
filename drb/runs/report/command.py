"""The command `drb report`: compares runs by the summary.json that each leaves in its run directory."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from drb.runs.report import Summary
from drb.runs.report.metric import matrix_of
from drb.runs.report.table import print_table

_HELP = """\
usage: drb report [--plots FOLDER] RUN...

    RUN      a run directory, one that holds run directories, or a summary.json
    --plots  also draw PNG files into FOLDER

Prints accuracies and runtimes; for runs on different numbers of ranks also how throughput scales.
"""


def main(arguments: Sequence[str]) -> int:
    """Print the report; returns the exit code."""
    arguments = list(arguments)
    if not arguments or {"-h", "--help"} & set(arguments):
        sys.stdout.write(_HELP)
        return 0
    try:
        plots = _take_plots(arguments)
        answers = [_try_to_read(Path(argument)) for argument in arguments]
        summaries = [summary for found, _ in answers for summary in found]
        problems = [problem for _, problem in answers if problem]
        if problems and not summaries:
            raise ValueError(problems[0])
        if not summaries:
            raise ValueError("there is no run to report on; give at least one run directory")
        _print_report(summaries)
        for file in [] if plots is None else _draw(summaries, plots):
            print(f"plot: {file}")
        for problem in problems:
            print(f"drb: left out: {problem}", file=sys.stderr)
    except ValueError as error:
        print(f"drb: error: {error}", file=sys.stderr)
        return 1
    return 0


def _try_to_read(path: Path) -> tuple[list[Summary], str]:
    """The summaries of a path, or none and what is wrong with it: one failed run does not hide the others."""
    try:
        return read_summaries(path), ""
    except ValueError as error:
        return [], str(error)


def read_summaries(path: Path) -> list[Summary]:
    """The summaries of a run, or of all runs below a folder.

    Raises:
        ValueError: there is none, or a file that is no summary.
    """
    if path.is_file():
        files = [path]
    elif (path / "summary.json").exists():
        files = [path / "summary.json"]
    else:
        files = sorted(path.rglob("summary.json"))
    if not files:
        raise ValueError(f"{path} holds no summary.json: it is no run directory, or its run has not finished")
    return [_read(file) for file in files]


def _read(file: Path) -> Summary:
    try:
        summary: Summary = json.loads(file.read_text())
        matrix_of(summary), summary["history"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no summary of a run: {type(error).__name__}: {error}") from None
    return summary


def _take_plots(arguments: list[str]) -> Path | None:
    """Remove --plots FOLDER from the arguments and return the folder; None if it is not there."""
    if "--plots" not in arguments:
        return None
    index = arguments.index("--plots")
    if index + 1 == len(arguments):
        raise ValueError("--plots needs a folder")
    del arguments[index]
    return Path(arguments.pop(index))


def _print_report(summaries: Sequence[Summary]) -> None:
    print_table(summaries)
    if len({summary.get("world_size") for summary in summaries}) > 1:
        from drb.runs.report.scaling import scaling_points, scaling_table

        points = scaling_points(summaries)
        labels = [point.label for point in points]
        if len(set(labels)) == len(labels):  # no runs that are the same but for their ranks
            return
        print(f"\n{scaling_table(points)}")
        print("\nefficiency: throughput per rank against that of the run on the fewest ranks.")


def _draw(summaries: Sequence[Summary], folder: Path) -> list[Path]:
    from drb.runs.report.plots import save_plots
    from drb.runs.report.scaling import save_scaling_plot

    files = save_plots(summaries, folder)
    scaling = save_scaling_plot(summaries, folder)
    return files if scaling is None else [*files, scaling]
