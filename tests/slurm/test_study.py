"""`drb study --slurm` on a real scheduler: arrays, a page behind them, and what is not submitted twice."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from programs import ROOT
from slurm.jobs import Cluster, Job, call
from study.made import main, summary_of

from drb.study.definition import check_study, load_study
from drb.study.results import read_results

STUDY = """\
# Do jobs make a study?
title: Made by jobs
settings: [experiment=digits, tracking=none, scenario.num_tasks=3, training.epochs=25]
ranks: [1, 2]
points:
  good: [strategy=er]
  broken: [strategy=finetune, dataset.root=/nowhere, dataset=image_folder]
"""
# In Python's place: it makes up what a run leaves, and fails for `broken`.
STAND_IN = """\
#!/usr/bin/env bash
for argument; do case $argument in hydra.run.dir=*) folder=${argument#*=} ;; esac; done
folder=${folder//\\"/}
point=$(basename "$(dirname "$folder")")
case $point in
broken*) echo "drb: error: there is no /nowhere" >&2; exit 1 ;;
esac
echo "$@" >> started
cp "made/$point.json" "$folder/summary.json"
"""


@pytest.fixture
def folder(cluster: Cluster, request, monkeypatch) -> Path:
    """Where a user stands who has written the study."""
    folder = cluster.folder / request.node.name
    (folder / "made").mkdir(parents=True)
    (folder / "jobs.yaml").write_text(STUDY)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


def submit(capsys, *options: str) -> tuple[str, list[Job]]:
    """What `drb study --slurm` says, and the jobs that it names."""
    file = f"--batch-file={ROOT}/slurm/train_srun.sbatch"
    sizes = ["--sbatch=--cpus-per-task=1 --time=5 --hold", "--ranks-per-node=1"]
    assert main(["jobs.yaml", "--out=out", "--slurm", file, *sizes, *options]) == 0
    said = capsys.readouterr().out
    jobs = [Job(number, Path.cwd()) for number in re.findall(r"^job (\d+)", said, re.MULTILINE)]
    return said, jobs


def release(jobs: list[Job]) -> None:
    for job in jobs:
        call("scontrol", "release", job.id)


def test_a_study_is_submitted_once_and_goes_on_where_it_was(folder: Path, capsys, monkeypatch):
    (folder / "python").write_text(STAND_IN)
    (folder / "python").chmod(0o755)
    monkeypatch.setenv("DRB_PYTHON", str(folder / "python"))
    study = load_study("jobs.yaml")
    configs = {label: asdict(config) for label, config in check_study(study).items()}
    for run in study.runs:
        made = {**summary_of(run, acc=0.5), "config": configs[run.point.label]}
        (folder / "made" / f"{run.point.folder}.json").write_text(json.dumps(made))

    said, jobs = submit(capsys)
    assert "4 runs, 0 of them done, 0 in the queue, in out" in said
    assert submit(capsys) == ("Made by jobs: 4 runs, 0 of them done, 4 in the queue, in out\nnothing to submit\n", [])
    *arrays, page = jobs
    call("scancel", f"{arrays[0].id}_0")  # somebody does not want it to begin
    release(jobs)
    assert page.wait(60)["JobState"] == "FAILED"  # as some runs did
    results = read_results(study, Path("out"))
    states = {result.run.point.folder: result.status for result in results}
    assert states == {"good-W=1": "open", "good-W=2": "done", "broken-W=1": "failed", "broken-W=2": "failed"}
    text = (folder / "out/page.html").read_text()
    assert "1 of 4 runs have not ended yet" in text
    assert text.count("drb: error: there is no /nowhere (all it said: out/slurm/jobs-") == 2
    started = (folder / "started").read_text()
    assert started.count('name="good · W=2 · seed 0"') == 2  # once by each rank
    assert "W=1" not in started
    assert "seed=0" in started
    assert "seed=1" not in started  # an array's number is no seed here

    said, jobs = submit(capsys)
    assert "4 runs, 1 of them done, 0 in the queue" in said
    assert re.findall(r": (\d) runs?, on (\d) rank", said) == [("2", "1"), ("1", "2")]
    for job in jobs:
        call("scancel", job.id)


def test_what_cannot_be_submitted_is_refused(folder: Path, capsys, monkeypatch):
    (folder / "old.sbatch").write_text("#!/usr/bin/env bash\n")
    for_3 = ("training.batch_size=48", "rehearsal.exemplars=48")
    refused = {
        ("--batch-file=none.sbatch",): "none.sbatch: No such file or directory; give a copy of slurm/train.sbatch",
        ("--batch-file=old.sbatch",): "old.sbatch does not read DRB_ARGUMENTS",
        ("--ranks=3", "--ranks-per-node=2", *for_3): "3 ranks do not fill nodes of 2 ranks each; .*--ranks-per-node=1",
        ("--at-once=0",): "--at-once must be at least 1, got 0",
        ("--sbatch=--partition=none",): "Slurm does not take a job: sbatch: error: .*nvalid partition",
    }
    for options, expected in refused.items():
        file = [] if "--batch" in options[0] else [f"--batch-file={ROOT}/slurm/train.sbatch"]
        assert main(["jobs.yaml", "--out=out", "--slurm", *file, *options]) == 1
        assert re.search(expected, capsys.readouterr().err)
    monkeypatch.setenv("PATH", "")
    assert main(["jobs.yaml", "--out=out", "--slurm", f"--batch-file={ROOT}/slurm/train.sbatch"]) == 1
    assert "there is no sbatch here" in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.timeout(400)
def test_trainings_as_jobs_end_as_they_do_here_also_when_they_are_interrupted(folder: Path, capsys, monkeypatch):
    monkeypatch.setenv("DRB_PYTHON", sys.executable)
    (folder / "jobs.yaml").write_text(f"{STUDY}  stopped: [strategy=er_ace, training.epochs=60]\n")
    _, jobs = submit(capsys)
    release(jobs)
    task, run_dir = Job(f"{jobs[1].id}_5", folder), folder / "out/stopped-W=2/seed-0"
    task.wait_for(lambda: (run_dir / "config.yaml").exists(), 150)
    task.signal("USR2", "--batch")
    task.wait_for(lambda: task.show()["Restarts"] == "1", 60)
    assert jobs[-1].wait(250)["JobState"] == "FAILED"  # as `broken` did
    assert main(["jobs.yaml", "--out=here"]) == 1
    learnt = numbers_of(folder / "here")
    assert len(learnt) == 4
    assert numbers_of(folder / "out") == learnt
    assert "needs a folder /nowhere/train" in (folder / "out/page.html").read_text()


def numbers_of(folder: Path) -> dict[str, Any]:
    """What the runs of a study have learnt."""
    summaries = {file.parent.parent.name: json.loads(file.read_text()) for file in folder.glob("*/seed-0/summary.json")}
    return {name: (each["accuracy_matrix"], each["steps"], each["world_size"]) for name, each in summaries.items()}
