"""The batch files on a real scheduler: one world over two nodes, requeued when told to stop, ended by a failure.

Slurm lets a requeued job wait for a while, so the job that is interrupted is the first to be submitted and the last to
be looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from programs import ROOT, start_ranks
from slurm.jobs import Cluster, Job, call
from warm_python import warm_python

TINY = ["experiment=digits", "tracking=none", "scenario.num_tasks=1", "training.epochs=1"]
RUN = ["experiment=digits", "tracking=none", "scenario.num_tasks=3", "training.epochs=25"]  # seconds per task
RESULTS = ("accuracy_matrix", "acc", "bwt", "forgetting", "samples", "steps", "world_size")


@pytest.fixture(scope="module")
def interrupted(cluster: Cluster) -> Job:
    """A job that was told to stop in the middle, as by `#SBATCH --signal`."""
    job = cluster.submit("train.sbatch", *RUN, "hydra.run.dir=runs/mine")  # which the file follows
    job.wait_for(lambda: "after task 1" in job.output, 60)
    job.signal("USR2", "--batch")
    job.wait_for(lambda: job.show()["Restarts"] == "1", 30)
    return job


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the same run gives on two ranks of this machine, without Slurm and never interrupted."""
    folder = tmp_path_factory.mktemp("local")
    ended = [rank.wait(100) for rank in start_ranks(2, [*RUN, "hydra.run.dir=run"], folder)]
    assert [rank.code for rank in ended] == [0, 0], ended
    return results(json.loads((folder / "run/summary.json").read_text()))


def results(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: summary[key] for key in RESULTS}


def rank_process(job: Job, rank: int) -> int:
    """The process id of a job's rank: the virtual nodes' processes are this machine's."""
    wanted = {f"SLURM_JOB_ID={job.id}".encode(), f"RANK={rank}".encode()}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                return int(folder.name)
    raise AssertionError(f"job {job.id} has no rank {rank}")


def test_a_job_that_is_told_to_stop_checkpoints_and_is_requeued(interrupted: Job):
    assert (interrupted.folder / "runs/mine/INTERRUPTED").exists()
    assert not (interrupted.folder / "runs/mine/summary.json").exists()
    assert "after task 3" not in interrupted.output


def test_two_nodes_are_one_world_and_learn_what_two_ranks_of_one_learn(cluster: Cluster, expected: dict[str, Any]):
    job = cluster.submit("train_srun.sbatch", *RUN)
    assert job.wait()["JobState"] == "COMPLETED", job.output
    assert "the ranks are on 2 nodes" in job.output
    assert job.output.count("\nafter task 2") == 1  # rank 0 alone speaks
    assert results(job.summary) == expected


def test_a_failing_rank_ends_the_job_within_seconds(cluster: Cluster):
    job = cluster.submit("train_srun.sbatch", *RUN, "training.epochs=1000")
    job.wait_for(lambda: "; rounds " in job.output, 60)
    killed = time.monotonic()
    os.kill(rank_process(job, 1), signal.SIGKILL)
    state = job.wait(30)
    assert time.monotonic() - killed < 15
    assert state["JobState"] == "FAILED"
    assert state["ExitCode"] != "0:0"
    assert state["Restarts"] == "0"


def test_a_preempted_job_checkpoints_and_restarts_are_capped(cluster: Cluster):
    job = cluster.submit("train.sbatch", *RUN, "training.epochs=1000", DRB_MAX_RESTARTS="0")
    job.wait_for(lambda: "; rounds " in job.output, 60)
    job.signal("TERM")  # to the steps but not to the batch script, as a preemption with grace time does
    assert job.wait(30)["JobState"] == "FAILED", job.output
    assert job.output.splitlines()[-1] == (
        "drb: error: interrupted, and not requeued: it was 0 times before (DRB_MAX_RESTARTS=0); to go on: sbatch "
        f"[the same options] {ROOT}/slurm/train.sbatch {' '.join(RUN)} training.epochs=1000 "
        f"hydra.run.dir=runs/slurm-{job.id}"
    )
    assert "Traceback" not in job.output
    assert (job.run_dir / "INTERRUPTED").exists()
    assert list((job.run_dir / "checkpoints").glob("step-*"))


def test_an_array_runs_one_seed_per_job(cluster: Cluster):
    """One of them as a user starts it, by a cold Python."""
    python = script(
        cluster.folder / "python.sh",
        f'[[ $SLURM_ARRAY_TASK_ID != 3 ]] || exec {sys.executable} "$@"',
        f'exec {warm_python()} "$@"',
    )
    options = ("--array=3,5", "--nodes=1")
    first = cluster.submit("train_srun.sbatch", *TINY, options=options, DRB_PYTHON=str(python))
    jobs = [Job(f"{first.id}_{seed}", first.folder) for seed in (3, 5)]
    assert [job.wait()["JobState"] for job in jobs] == ["COMPLETED", "COMPLETED"]
    assert [job.summary["seed"] for job in jobs] == [3, 5]


def test_a_requeued_job_ends_as_one_that_was_never_interrupted(interrupted: Job, expected: dict[str, Any]):
    assert interrupted.wait()["JobState"] == "COMPLETED", interrupted.output
    assert "restart 1:" in interrupted.output
    assert interrupted.output.count("\nafter task 1") == 1  # it did not begin anew
    assert results(json.loads((interrupted.folder / "runs/mine/summary.json").read_text())) == expected
    assert not (interrupted.folder / "runs/mine/INTERRUPTED").exists()


def test_a_time_limit_shorter_than_the_signals_lead_is_refused(cluster: Cluster):
    job = cluster.submit("train.sbatch", *TINY, options=("--time=2",))
    assert job.wait()["JobState"] == "FAILED", job.output
    assert job.output.startswith("drb: error: the time limit, 2:00, leaves no time to train")
    assert job.output.count("\n") == 1


@pytest.fixture(scope="module")
def stuck(cluster: Cluster) -> Path:
    """A script in Python's place that is interrupted at step 7 whenever it is started."""
    return script(
        cluster.folder / "stuck.sh",
        "for argument; do case $argument in hydra.run.dir=*) folder=${argument#*=} ;; esac; done",
        'folder=${folder//\\"/}',  # Hydra is given it in quotes
        "echo '{\"step\": 7}' > $folder/INTERRUPTED; exit 75",
    )


def script(file: Path, *lines: str) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(["#!/usr/bin/env bash", *lines, ""]))
    file.chmod(0o755)
    return file


def test_a_site_that_refuses_to_requeue_leaves_the_command_that_goes_on(cluster: Cluster, stuck: Path):
    refusing = script(
        cluster.folder / "refusing/scontrol",
        '[[ $1 != requeue ]] || { echo "requeue: Access/permission denied" >&2; exit 1; }',
        f'exec {shutil.which("scontrol")} "$@"',
    )
    paths = {"DRB_PYTHON": str(stuck), "PATH": f"{refusing.parent}:{os.environ['PATH']}"}
    jobs = [
        cluster.submit(file, *TINY, options=("--nodes=1",), **paths) for file in ("train.sbatch", "train_srun.sbatch")
    ]
    for job, file in zip(jobs, ("train.sbatch", "train_srun.sbatch"), strict=True):
        assert job.wait()["JobState"] == "FAILED", job.output
        assert job.show()["Restarts"] == "0"
        assert job.output.splitlines()[-1] == (
            f"drb: error: interrupted, and not requeued: the site refuses it; to go on: sbatch [the same options] "
            f"{ROOT}/slurm/{file} {' '.join(TINY)} hydra.run.dir=runs/slurm-{job.id}"
        )


def test_restarts_without_progress_end(cluster: Cluster, stuck: Path):
    """The port is in use at first."""
    options = ("--begin=now+1hour", "--nodes=1")
    job = cluster.submit("train_srun.sbatch", options=options, DRB_PYTHON=str(stuck))
    with socket.create_server(("", 15000 + int(job.id) * 16 % 15000)):
        call("scontrol", "update", f"JobId={job.id}", "StartTime=now")
        job.wait_for(lambda: "requeueing job" in job.output, 30)
    assert f":{15000 + (int(job.id) * 16 % 15000 + 1237) % 15000}, in " in job.output
    assert job.wait(90)["JobState"] == "FAILED", job.output
    assert job.show()["Restarts"] == "1"
    assert "not requeued: it made no step since it was last started (step 7); to go on: sbatch" in job.output
