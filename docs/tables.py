"""Tables of pages that mkdocs makes from the results of studies at every build.

A page has a line `<!-- study NAME base=POINT -->`; the numbers are those of `docs/studies/NAME/table.csv`, which
`drb study NAME` wrote. Accuracies are means ± standard errors, costs are in units of the point `base`.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STUDIES = Path(__file__).resolve().parent / "studies"
_MARK = re.compile(r"<!-- study (\S+) base=(.+?) -->")
Row = dict[str, str]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put tables where the page asks for them; mkdocs calls it for each page."""
    return _MARK.sub(lambda mark: study_table(STUDIES / mark[1] / "table.csv", mark[2]), markdown)


def study_table(file: Path, base: str) -> str:
    """A row for each point of which runs were made, with a column of accuracies for each number of ranks.

    Args:
        base: the point whose cost is 1, and of whose accuracy the others have a share.
    """
    with file.open(newline="", encoding="utf-8") as lines:
        made = [row for row in csv.DictReader(lines) if int(row["acc_n"])]
    ranks = sorted({int(row["ranks"]) for row in made})
    points: dict[str, dict[int, Row]] = {}
    for row in made:
        points.setdefault(row["point"].split(" · W=")[0], {})[int(row["ranks"])] = row
    head = ["", *(f"{w} rank{'s' * (w > 1)}, %" for w in ranks), "runs", "backward transfer, %", "cost", "memory, kB"]
    cells = [head, ["---"] * len(head), *(list(_cells(name, of, ranks, points[base])) for name, of in points.items())]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _cells(name: str, of_ranks: dict[int, Row], ranks: list[int], base: dict[int, Row]) -> Iterator[str]:
    first = next(iter(of_ranks.values()))
    yield name
    for w in ranks:
        yield _mean(of_ranks[w], "acc") if w in of_ranks else "-"
    yield " and ".join(of_ranks[w]["acc_n"] if w in of_ranks else "0" for w in ranks)
    yield _mean(first, "bwt")
    yield _cost(first, base)
    yield f"{_number(first, 'cost.method_bytes') / 1e3:.0f}"


def _mean(row: Row, key: str) -> str:
    """The mean in percent, with its standard error if there is more than one run; '-' if no run has that number."""
    mean, n = 100 * _number(row, key), int(row[f"{key}_n"])
    if not n:
        return "-"
    return f"{mean:.1f}" if n < 2 else f"{mean:.2f} ± {100 * float(row[f'{key}_std']) / math.sqrt(n):.2f}"


def _cost(row: Row, base: dict[int, Row]) -> str:
    """Rows trained, and those that went forward only, on all ranks, in units of the rows that the base trains on."""
    of_base = next(iter(base.values()))
    unit = _number(of_base, "cost.rows_trained") * int(of_base["ranks"])
    trained, forward = (_number(row, f"cost.rows_{kind}") * int(row["ranks"]) / unit for kind in ("trained", "forward"))
    return f"{trained:.2f}" + (f" + {forward:.2f}" if forward else "")


def _number(row: Row, key: str) -> float:
    return float(row.get(key) or 0)
