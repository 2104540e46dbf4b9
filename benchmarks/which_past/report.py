"""Makes of runs/which_past/*.jsonl: tables, docs/images/which_past.png and benchmarks/results/which_past.json.

All differences are paired by seed: means ± standard errors, in points of accuracy.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.which_past.points import POINTS, SHARES
from benchmarks.which_past.streams import STREAMS

FOLDER = Path("runs/which_past")
ROOT = Path(__file__).resolve().parents[2]
CLASS_SHARE = 4 / 36  # of the loss, where every row counts alike
FORWARD = 1 / 3  # of a row's forward and backward: the former alone
CLUSTERING = {"flipped": 20 * 784, "turned": 20 * 784, "series": 20 * 13}  # multiplications for a row
NETWORK = {"flipped": 784 * 100 + 1300, "turned": 784 * 100 + 1000, "series": 24 * 100 + 2200}

_COLOURS = ("C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9", "black", "gold")

Run = dict[str, Any]


class Results:
    """The runs of a stream by point and seed, and which of its clusters are damaged."""

    def __init__(self, stream: str, file: Path, pilot: dict[str, Any]) -> None:
        self.stream, self.damaged, self.worst = stream, pilot["damaged"], pilot["worst"]
        self.runs: dict[str, dict[int, Run]] = {}
        for line in file.read_text().splitlines():
            run = json.loads(line)
            self.runs.setdefault(run["point"], {})[run["seed"]] = run

    def values(self, point: str, of: Callable[[Run], float]) -> dict[int, float]:
        return {seed: of(run) for seed, run in sorted(self.runs[point].items())}

    def mean(self, point: str, of: Callable[[Run], float], scale: float = 100) -> dict[str, float]:
        return mean([scale * each for each in self.values(point, of).values()])

    def difference(self, point: str, base: str, of: Callable[[Run], float], scale: float = 100) -> dict[str, float]:
        """Of a point from another, by seed."""
        here, there = self.values(point, of), self.values(base, of)
        return mean([scale * (here[seed] - there[seed]) for seed in here.keys() & there.keys()])

    def on_damaged(self, run: Run) -> float:
        """The accuracy on old test samples of damaged clusters."""
        tests = [run["tests_clusters"][k] for k in self.damaged]
        right = [run["accuracy_clusters"][k] for k in self.damaged]
        return sum(n * share for n, share in zip(tests, right, strict=True)) / sum(tests)

    def drawn(self, run: Run) -> float:
        return sum(run["drawn_clusters"][k] for k in self.damaged)

    def drawn_worst(self, run: Run) -> float:
        return float(run["drawn_clusters"][self.worst])

    def times_uniform(self, point: str, of: Callable[[Run], float]) -> dict[str, float]:
        """How often as uniform, by seed."""
        here, there = self.values(point, of), self.values("uniform", of)
        return mean([here[seed] / there[seed] for seed in here.keys() & there.keys()])

    def cost(self, run: Run) -> float:
        """Of a run, in rows that went forward and backward."""
        return float(run["rows_trained"] + FORWARD * run["rows_forward"])

    def cost_of_clusters(self, run: Run) -> float:
        """Of k-means, once for a base, by its multiplications, in the same unit."""
        return FORWARD * float(run["rows_clustered"]) * CLUSTERING[self.stream] / NETWORK[self.stream]


def old(run: Run) -> float:
    return float(run["accuracy_old"])


def new(run: Run) -> float:
    return float(run["accuracy_new"])


def mean(values: Sequence[float]) -> dict[str, float]:
    """Their mean, its standard error and how many there are."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return {"mean": statistics.mean(values), "error": error, "runs": len(values)}


def row_of(results: Results, point: str) -> dict[str, Any]:
    unit = statistics.mean(results.values("uniform", results.cost).values())
    return {
        "old": results.mean(point, old),
        "new": results.mean(point, new),
        "damaged": results.mean(point, results.on_damaged),
        "old_gain": results.difference(point, "uniform", old),
        "new_gain": results.difference(point, "uniform", new),
        "damaged_gain": results.difference(point, "uniform", results.on_damaged),
        "drawn": results.times_uniform(point, results.drawn),
        "drawn_worst": results.times_uniform(point, results.drawn_worst),
        "cost": statistics.mean(results.values(point, results.cost).values()) / unit,
        "cost_of_clusters": statistics.mean(results.values(point, results.cost_of_clusters).values()) / unit,
        "cpu_seconds": statistics.median(results.values(point, lambda run: run["cpu_seconds"]).values()),
        "rows": statistics.mean(results.values(point, lambda run: run["rows_trained"]).values()),
    }


def curve(results: Results, proportions: str) -> list[str]:
    """The points of a sweep of w, by ascending w."""
    by_share = {CLASS_SHARE: proportions, **{share: f"{proportions}, w = {share}" for share in SHARES}}
    return [by_share[share] for share in sorted(by_share) if by_share[share] in results.runs]


def at_equal_new(results: Results, point: str) -> dict[str, Any] | None:
    """Old accuracy beyond the best that the uniform draw has with some w and no less accuracy on the new, on average.

    Between two values of w lies the mixture of both, by seed. None if the sweep has nothing as good on the new.
    """
    wanted, points = results.mean(point, new)["mean"], curve(results, "uniform")
    level = {each: results.mean(each, new)["mean"] for each in points}
    mixtures = [(each, each, 0.0) for each in points if level[each] >= wanted]
    for low, high in itertools.pairwise(points):
        if (level[low] - wanted) * (level[high] - wanted) < 0:
            mixtures.append((low, high, (wanted - level[low]) / (level[high] - level[low])))
    if not mixtures:
        return None

    def by_seed(low: str, high: str, part: float) -> dict[int, float]:
        first, second = results.values(low, old), results.values(high, old)
        return {seed: (1 - part) * first[seed] + part * second[seed] for seed in first.keys() & second.keys()}

    best = max(mixtures, key=lambda mixture: statistics.mean(by_seed(*mixture).values()))
    own, theirs = results.values(point, old), by_seed(*best)
    return {**mean([100 * (own[seed] - theirs[seed]) for seed in own.keys() & theirs.keys()]), "between": best[:2]}


def figures_of(results: Results) -> dict[str, Any]:
    points = [point for point in POINTS if point in results.runs]
    figures: dict[str, Any] = {point: row_of(results, point) for point in points}
    for point in points:
        if not point.startswith("uniform"):
            figures[point]["old_gain_at_equal_new"] = at_equal_new(results, point)
    return figures


def verdicts(results: Results, figures: dict[str, Any]) -> dict[str, Any]:
    """What issue and page claim of mix_cd over clusters."""
    mix, half = figures["mix_cd"], "mix_cd, w = 0.2"
    old_loss, new_loss = (results.difference(half, "uniform, r = 8, w = 0.2", of) for of in (old, new))
    same = {n: results.difference(half, "mix_cd, r = 8, w = 0.2", of) for n, of in (("old", old), ("new", new))}
    gain = mix["damaged_gain"]
    return {
        "damaged clusters are rehearsed at least 1.4 times as often": mix["drawn"]
        | {"holds": mix["drawn"]["mean"] >= 1.4},
        "the worst at least twice": mix["drawn_worst"] | {"holds": mix["drawn_worst"]["mean"] >= 2},
        "ends higher on damaged clusters": gain | {"holds": gain["mean"] > 2 * gain["error"]},
        "half the rows, old": old_loss | {"holds": old_loss["mean"] >= -0.5},
        "half the rows, new": new_loss | {"holds": new_loss["mean"] >= -0.5},
        "half the rows against all with mix_cd": same,
    }


def show(number: dict[str, float] | None, digits: int = 1, sign: bool = True) -> str:
    if number is None:
        return "-"
    form = f"{'+' if sign else ''}.{digits}f"
    return f"{number['mean']:{form}} ± {number['error']:.{digits}f}"


def table(figures: dict[str, Any]) -> str:
    head = [
        "",
        "old, %",
        "new, %",
        "damaged, %",
        "old, against uniform",
        "the same at equal new",
        "draws in damaged",
        "in the worst",
        "cost",
    ]
    lines = [head, ["---"] * len(head)]
    for point, row in figures.items():
        equal = row.get("old_gain_at_equal_new")
        cells = [f"{row['old']['mean']:.1f}", f"{row['new']['mean']:.1f}", show(row["damaged"], sign=False)]
        gains = [
            "" if point == "uniform" else show(row["old_gain"]),
            show(equal) if "old_gain_at_equal_new" in row else "",
        ]
        once = row["cost_of_clusters"]
        cost = f"{row['cost']:.2f}" + (f" + {once:.2f}" if once else "")
        drawn = [f"{row[key]['mean']:.2f}" for key in ("drawn", "drawn_worst")]
        lines.append([f"`{point}`", *cells, *gains, *drawn, cost])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(all_results: dict[str, Results], file: Path) -> None:
    """Old against new accuracy: the sweeps of w as lines, every other point by itself."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(all_results), figsize=(5.2 * len(all_results), 4.6), layout="constrained")
    for axis, (name, results) in zip(axes, all_results.items(), strict=True):
        for proportions, colour in (("uniform", "tab:grey"), ("mix_cd", "tab:blue")):
            _errorbar(axis, results, curve(results, proportions), colour, f"{proportions}, w = 0.05 to 0.5")
        rest = [p for p in POINTS if p in results.runs and " w = " not in p and p not in ("uniform", "mix_cd")]
        for number, point in enumerate(rest):
            _errorbar(axis, results, [point], _COLOURS[number % len(_COLOURS)], point, marker="osD^v<>PX*"[number % 10])
        axis.set(title=name, xlabel="accuracy on the new, %", ylabel="accuracy on the old, %")
        axis.grid(alpha=0.3)
    axes[-1].legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=110)


def _errorbar(axis: Any, results: Results, points: list[str], colour: str, label: str, marker: str = "o") -> None:
    x, y = ([results.mean(point, of) for point in points] for of in (new, old))
    style = "-" if len(points) > 1 else "none"
    axis.errorbar(
        [each["mean"] for each in x],
        [each["mean"] for each in y],
        [each["error"] for each in y],
        [each["error"] for each in x],
        color=colour,
        marker=marker,
        linestyle=style,
        label=label,
        markersize=4,
        linewidth=1,
    )


def report() -> None:
    """Write all of it, and print the tables."""
    pilot = json.loads((record.RESULTS / "which_past_pilot.json").read_text())["figures"]
    files = {name: FOLDER / f"{name}.jsonl" for name in STREAMS}
    found = {name: Results(name, file, pilot[name]) for name, file in files.items() if file.exists()}
    figures = {name: figures_of(results) for name, results in found.items()}
    for name, of in figures.items():
        print(f"\n{name}\n\n{table(of)}", file=sys.stderr)
    claims = {name: verdicts(results, figures[name]) for name, results in found.items()}
    for file in sorted(FOLDER.glob("*-ranks.jsonl")):
        name = file.stem.split("-")[0]
        claims[file.stem] = {"mix_cd": row_of(Results(name, file, pilot[name]), "mix_cd")}
    picture(found, ROOT / "docs/images/which_past.png")
    record.save("which_past", {"claims": claims, **figures})
