"""The table of a study: one row per point, each number with its standard deviation and n."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from drb.runs.report.metric import is_fraction, metric_of
from drb.study.statistics import PointResults, Statistic


@dataclass(frozen=True)
class Column:
    """A column: its heading, the key of its number in summaries, what that is multiplied by, and its digits.

    optional: the column is left out where all numbers are 0.
    """

    heading: str
    key: str
    factor: float = 1.0
    digits: int = 1
    optional: bool = False


def columns(points: Sequence[PointResults]) -> list[Column]:
    """The columns that at least one point has a number for; what methods cost besides, if that of one is not 0."""
    summary = next((summary for point in points for summary in point.summaries), None)
    if summary is None:
        return []
    fraction = is_fraction(summary)
    unit, factor, digits = (" (%)", 100.0, 1) if fraction else ("", 1.0, 4)
    wanted = [
        Column(f"{metric_of(summary)}{unit}", "acc", factor, digits),
        Column(f"backward transfer{unit}", "bwt", factor, digits),
        Column(f"forgetting{unit}", "forgetting", factor, digits),
        Column("training (s)", "train_seconds"),
        Column("samples/s", "samples_per_second", digits=0),
        Column("seconds to target", "seconds_to_target"),
        Column("rows trained per rank", "cost.rows_trained", digits=0),
        Column("rows forward only per rank", "cost.rows_forward", digits=0, optional=True),
        Column("memory of the method (kB)", "cost.method_bytes", 1e-3, 0, optional=True),
        Column("energy per sample (J)", "energy.joules_per_sample", digits=4),
    ]
    return [column for column in wanted if any(_shows(column, point.statistic(column.key)) for point in points)]


def rows(points: Sequence[PointResults]) -> list[list[str]]:
    """The head, then a row per point: its label, ranks, n of its runs, and each number as mean ± deviation."""
    shown = columns(points)
    head = ["point", "ranks", "runs", *(column.heading for column in shown)]
    return [head, *([*_facts(point), *(_cell(point, column) for column in shown)] for point in points)]


def markdown(points: Sequence[PointResults]) -> str:
    """The table in Markdown."""
    head, *body = rows(points)
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *map(_line, body)]
    return "\n".join(lines) + "\n"


def as_csv(points: Sequence[PointResults]) -> str:
    """The same numbers for other programs: unrounded, with columns of their own for deviation and n."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shown = columns(points)
    heads = [f"{column.key}{suffix}" for column in shown for suffix in ("", "_std", "_n")]
    writer.writerow(["point", "ranks", "runs", *heads])
    for point in points:
        found = [point.statistic(column.key) for column in shown]
        writer.writerow([*_facts(point), *(cell for each in found for cell in _numbers(each))])
    return text.getvalue()


def number(found: Statistic | None, factor: float = 1.0, digits: int = 1) -> str:
    """A statistic as text, for example '80.8 ± 0.4', without the deviation if there is one number."""
    if found is None:
        return "-"
    mean = f"{factor * found.mean:,.{digits}f}"
    return mean if math.isnan(found.std) else f"{mean} ± {factor * found.std:,.{digits}f}"


def _shows(column: Column, found: Statistic | None) -> bool:
    return found is not None and not (column.optional and found.mean == 0)


def _facts(point: PointResults) -> list[str]:
    done, wanted = len(point.summaries), len(point.results)
    return [point.point.label, str(point.point.ranks), str(done) if done == wanted else f"{done} of {wanted}"]


def _cell(point: PointResults, column: Column) -> str:
    found = point.statistic(column.key)
    text, runs = number(found, column.factor, column.digits), len(point.summaries)
    return text if found is None or found.n == runs else f"{text} ({found.n} of {runs} runs)"


def _numbers(found: Statistic | None) -> list[str]:
    return ["", "", "0"] if found is None else [repr(found.mean), repr(found.std), str(found.n)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
