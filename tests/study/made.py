"""Studies whose runs are made up: a launch that writes what a training run would leave, in milliseconds."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from drb.study.command import main
from drb.study.definition import StudyRun, load_study
from drb.study.launch import OUTPUT, run_study
from drb.study.page import write_page

STUDY = """\
# Does more help?
title: Made up
settings: [experiment=digits]
ranks: [1, 2]
seeds: [0, 1, 2]
target: 0.21
points:
  rehearsal: [strategy=er]
  broken: [strategy=finetune]
vary:
  rehearsal.capacity: [100, 200]
"""


def summary_of(run: StudyRun, acc: float | None = None) -> dict:
    """A summary of which every number is known: the accuracy, if it is not given, is capacity / 1000 + seed / 100."""
    acc = run.point.values["rehearsal.capacity"] / 1000 + run.seed / 100 if acc is None else acc
    parts = {"load": 0.1, "copy": 0.1, "train": 0.8}
    return {
        "name": run.name,
        "strategy": "er",
        "metric": "accuracy",
        "acc": acc,
        "bwt": -0.1,
        "forgetting": 0.1,
        "accuracy_matrix": [[1.0, None], [acc, acc]],
        "history": [
            {"task": 1, "seconds": 1.0, "acc": 1.0},
            {"task": 2, "seconds": 2.0, "acc": acc, "stored_when": [3, 1]},
        ],
        "during": [[5, 0.9], [15, acc]],
        "during_seconds": [0.5, 1.5],
        "config": {},
        "train_seconds": 2.0,
        "samples_per_second": 100.0 * run.point.ranks**0.5,
        "breakdown": {"steps": 10, "training": parts, "round": None, "setup": 0.0},
        "world_size": run.point.ranks,
        "device": "cpu",
        "seed": run.seed,
        "rehearsal": None,
        "versions": {"drb": "0"},
        "machine": {"host": "here", "git_commit": "abc"},
    }


def launch(run: StudyRun, run_dir: Path) -> int:
    """Takes a few milliseconds between what it writes, so that it can be killed anywhere; `broken` fails."""
    (run_dir / OUTPUT).write_text("some lines\n\ndrb: error: it is <broken>\n")
    time.sleep(0.002)
    if run.point.name == "broken":
        return 3
    unfinished = run_dir / ".summary"
    unfinished.write_text(json.dumps(summary_of(run)))
    time.sleep(0.002)
    unfinished.replace(run_dir / "summary.json")
    return 0


def carry_out(file: Path, folder: Path, killed: tuple[int, float] | None = None) -> None:
    """The whole study, as `drb study` does it.

    killed: the kernel ends this process so many seconds after it has started so many runs.
    """
    left = [0 if killed is None else killed[0]]

    def launch_or_die(run: StudyRun, run_dir: Path) -> int:
        left[0] -= 1
        if killed is not None and left[0] == 0:
            signal.setitimer(signal.ITIMER_REAL, killed[1])  # SIGALRM, which nobody handles
        return launch(run, run_dir)

    study = load_study(str(file))
    results = run_study(study, folder, launch_or_die, lambda line: None)
    write_page(study, results, folder)


__all__ = ["STUDY", "carry_out", "launch", "main", "summary_of"]
