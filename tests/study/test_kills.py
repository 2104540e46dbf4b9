"""A study of real trainings that is killed at random moments, each time by the kernel, and started again at once."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from programs import ROOT

STUDY = """\
# Does it matter that it is killed?
title: Killed
settings: [experiment=digits, tracking=none, scenario.num_tasks=3, training.epochs=20]
ranks: 2
seeds: [0]
points:
  rehearsal: [strategy=er]
  incremental: [strategy=finetune]
"""
KILLS = 10


def command(folder: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "drb.cli", "study", "killed.yaml", f"--out={folder}", *options]


def numbers(folder: Path) -> dict[str, Any]:
    """What the page's numbers are made of, but for times."""
    learnt = {}
    for file in sorted(folder.rglob("summary.json")):
        summary = json.loads(file.read_text())
        kept = ("accuracy_matrix", "acc", "bwt", "forgetting", "steps", "samples", "world_size", "seed")
        learnt[str(file.relative_to(folder))] = {key: summary[key] for key in kept}
    with open(folder / "table.csv") as table:
        shown = [
            {key: row[key] for key in row if key.startswith(("point", "runs", "acc", "bwt"))}
            for row in csv.DictReader(table)
        ]
    return {"learnt": learnt, "table": shown}


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_study_killed_ten_times_learns_and_shows_what_one_never_stopped_does(tmp_path: Path):
    """The study that is never stopped has its ranks from mpirun, where there is one."""
    (tmp_path / "killed.yaml").write_text(STUDY)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = "mpirun" if (Path(sys.executable).parent / "mpirun").exists() or shutil.which("mpirun") else "torchrun"
    whole = command("whole", f"--launcher={launcher}")
    subprocess.run(whole, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    moments, done = random.Random(5), []
    for _ in range(KILLS):
        study = subprocess.Popen(command("killed"), cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
        try:
            study.wait(moments.uniform(2, 9))
        except subprocess.TimeoutExpired:
            study.kill()
        code = study.wait()
        assert code in (0, -signal.SIGKILL)
        done.append(len(list((tmp_path / "killed").rglob("summary.json"))))
    assert done[0] < 2, done  # it was killed before its end
    subprocess.run(command("killed"), cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    page = (tmp_path / "killed/page.html").read_text()
    assert 'class="failed"' not in page
