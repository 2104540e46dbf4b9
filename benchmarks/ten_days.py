"""Claim: ten days of updates, some killed, refused or gone back from, learn as well as one run that nothing disturbs.

Each seed plays examples/ten_days.py on two ranks: day 3 is killed and goes on; day 5 first brings swapped
labels, and its gate fails; day 7 is killed on two ranks and goes on on one; day 8 first brings pictures that are
upside down, which no gate notices, and is rolled back. Against it, one run of the ten good files in the same order,
with the same settings, seed and buffer (`drb train scenario=arrivals`). Accuracy is that on the test samples of all ten
files.

    python -m benchmarks.ten_days                five seeds
    python -m benchmarks.ten_days 3 4 --add      these two, beside what benchmarks/results/ten_days.json has
    python -m benchmarks.ten_days 0 --keep DIR   with MLflow; leaves DIR/state, DIR/days and DIR/mlflow.db
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import record
from benchmarks.commands import Command, preload
from drb.data.datasets import load_dataset
from drb.program.evaluating import accuracies
from drb.runs.lineage.record import Lineage, read_lineage

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "examples/update.yaml"
SETTINGS: list[str] = yaml.safe_load(CONFIG.read_text())["settings"]
MAY_FALL: float = yaml.safe_load(CONFIG.read_text())["gates"]["base"]["may_fall"]  # points, in a day
TARGET = -2.0  # standard errors


@dataclass(frozen=True)
class Day:
    """One day's command. killed: in the midst of training, and given again on `again` ranks.

    fails: its gate must fail. gone_back_from: rolled back the next morning.
    """

    file: str
    killed: bool = False
    again: int = 2
    fails: bool = False
    gone_back_from: bool = False


STORY = [
    Day("day01"),
    Day("day02"),
    Day("day03", killed=True),
    Day("day04"),
    Day("day05_mislabelled", fails=True),
    Day("day05"),
    Day("day06"),
    Day("day07", killed=True, again=1),
    Day("day08_upside_down", gone_back_from=True),
    Day("day08"),
    Day("day09"),
    Day("day10"),
]


def play(folder: Path, seed: int, settings: Sequence[str]) -> tuple[Lineage, list[str]]:
    """The lineage of the ten days in `folder`/state, and the paths of the ten good files."""
    days, state = folder / "days", folder / "state"
    subprocess.run([sys.executable, str(ROOT / "examples/ten_days.py"), str(days), "--seed", str(seed)], check=True)
    for day in STORY:
        number = 1 if (lineage := read_lineage(state)) is None else len(lineage.versions) + 1
        options = ["--config", str(CONFIG), *settings]
        update = ["update", "--state", str(state), "--data", str(days / f"{day.file}.npz"), *options]
        if day.killed:
            _kill_in_midst(Command(update, 2), state / f"versions/{number:04}")
            assert read_lineage(state) == lineage
        Command(update, day.again).wait()
        version = read_lineage(state).versions[-1]  # type: ignore[union-attr]
        assert version.promoted != day.fails, version
        if day.gone_back_from:
            Command(["rollback", str(state)]).wait()
        print(f"seed {seed}, {day.file}: {version.after}", file=sys.stderr, flush=True)
    played = read_lineage(state)
    assert played is not None
    assert played.current is not None
    return played, played.version(played.current).files


def uninterrupted(folder: Path, seed: int, files: Sequence[str]) -> Path:
    """The directory of one run that has the ten files as its tasks."""
    run_dir = folder / "uninterrupted"
    data = ["dataset=arrivals", f"dataset.files=[{','.join(files)}]", "scenario=arrivals", f"hydra.run.dir={run_dir}"]
    Command(["train", *SETTINGS, *data, f"seed={seed}", "tracking=none"], 2).wait()
    return run_dir


def compare(seed: int, keep: Path | None) -> dict[str, Any]:
    """One seed's figures. keep: a folder that is left, and in which the lineage is tracked."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        tracking = f"tracking.uri=sqlite:///{folder}/mlflow.db" if keep else "tracking=none"
        lineage, files = play(folder, seed, [f"seed={seed}", tracking])
        return {"seed": seed, **figures_of(lineage, uninterrupted(folder, seed, files), files)}


def summary_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    differences = [row["accuracy"] - row["uninterrupted_accuracy"] for row in rows]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    mean, fall = statistics.mean(differences), max(row["largest_fall_points"] for row in rows)
    return {
        "settings": SETTINGS,
        "seeds": list(rows),
        "paired_difference": {
            "mean": mean,
            "standard_error": error,
            "target": "at least -2 standard errors",
            "holds": mean >= TARGET * error,
        },
        "base": {"largest_fall_points": fall, "target": MAY_FALL, "holds": fall <= MAY_FALL},
    }


def figures_of(lineage: Lineage, other: Path, files: Sequence[str]) -> dict[str, Any]:
    tests = {"all": load_dataset("arrivals", files=list(files)).test}
    line = lineage.line_of(lineage.current)
    falls = [version.before["base"] - version.after["base"] for version in line if "base" in version.before]
    return {
        "accuracy": accuracies(lineage.folder / "current", tests)["all"],
        "uninterrupted_accuracy": accuracies(other, tests)["all"],
        "largest_fall_points": 100 * max(falls),
        "versions": len(lineage.versions),
        "in_line": len(line),
        "world_sizes": [version.environment["world_size"] for version in lineage.versions],
    }


def _kill_in_midst(command: Command, run_dir: Path) -> None:
    """Kill all ranks once they have saved a checkpoint."""
    while not list(run_dir.glob("checkpoints/step-*")):
        if command.has_ended:
            raise RuntimeError(f"it ended before it had saved: {command.wait()}")
        time.sleep(0.005)
    command.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="*", help="0 1 2 3 4 if none are given")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--add", action="store_true", help="keep the seeds that the results have already")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="track in MLflow, and leave the files of one seed here"
    )
    options = parser.parse_args()
    preload()
    known = json.loads((record.RESULTS / "ten_days.json").read_text())["figures"]["seeds"] if options.add else []
    rows = {row["seed"]: row for row in known}
    for seed in options.seeds or range(1 if options.quick else 5):
        rows[seed] = compare(seed, options.keep.absolute() if options.keep else None)
    record.save("ten_days", summary_of([rows[seed] for seed in sorted(rows)]), adds=options.add)


if __name__ == "__main__":
    main()
