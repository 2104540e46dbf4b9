"""A run that was stopped and resumed ends bit for bit as one that never stopped."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from ranks import run_ranks

from drb.checkpoint import CheckpointSettings

# 66 samples a task: on two ranks 5 minibatches an epoch, of which the last has 1 row; 10 a task, 30 in all
AT_RANDOM = tuple(random.Random(4).sample(range(1, 31), 6))
TASK_ENDS = ("er asynchronous", "er of tasks, balanced", "from scratch")  # of the sample: resumed from there, too
ACCUMULATING = {
    "strategy": "er",
    "training": {"accumulate": 2, "batch_size": 8, "clip_norm": 1.0},
    "schedule": {"name": "step", "milestones": [1.0], "warmup_epochs": 0.5},
}  # 3 steps an epoch, 6 a task
JOBS: dict[str, dict[str, Any]] = {
    "er asynchronous": {"save_at": AT_RANDOM[:3]},
    "er inline": {"rehearsal": {"asynchronous": False, "exchange": "collective"}, "save_at": AT_RANDOM[3:6]},
    "er accumulating": ACCUMULATING | {"save_at": (3, 8)},
    "er of tasks, balanced": {
        "scenario": "task_incremental",
        "rehearsal": {"admission": "class_balanced", "proportions": "balanced"},
        "optimizer": {"name": "adam", "lr": 0.01},
        "schedule": {"name": "cosine", "span": "run", "total_epochs": 6},
        "save_at": (2, 14),
    },
    "er of domains": {
        "scenario": "domain_incremental",
        "stream": {"num_tasks": 2},
        "training": {"epochs": 1, "batch_size": 32},
        "rehearsal": {"proportions": "stream", "admission": "fifo", "batch_size": 33},
        "save_at": (3, 5),
    },
    "finetune": {"strategy": "finetune", "model": "batch_norm", "training": {"batch_size": 11}, "save_at": (6,)},
    "from scratch": {
        "strategy": "from_scratch",
        "model": "batch_norm",
        "training": {"batch_size": 11},
        "save_at": (2, 14),
    },
}


def compare(rank: int, world_size: int, folder: str, jobs: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """For each job what differs, by the checkpoint that a run went on from."""
    from checkpoint.runs import run

    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # no machine crashes here
    differences: dict[str, list[str]] = {}
    for name, job in jobs.items():
        root = Path(folder, name)
        expected = run(rank, world_size, root / "never", None, job)
        saving = CheckpointSettings(every_steps=1, keep_last=1000, signals=[], at_task_end=job.get("at_task_end", True))
        found = [
            f"saving: {key}"
            for key, value in run(rank, world_size, root, saving, job).items()
            if value != expected[key]
        ]
        checkpoints = sorted((root / "checkpoints").iterdir())
        for checkpoint in checkpoints:
            resuming = CheckpointSettings(resume=str(checkpoint), at_task_end=False, signals=[])
            resumed = run(rank, world_size, root / f"from {checkpoint.name}", resuming, job)
            first = int(checkpoint.name.split("-")[1])
            points = {step: point for step, point in expected["losses"].items() if step > first}
            found += [
                f"{checkpoint.name}: {key}"
                for key, value in resumed.items()
                if value != (expected | {"losses": points})[key]
            ]
        differences[f"{name}, {len(checkpoints)} checkpoints"] = found
    return differences


def checked(world_size: int, jobs: dict[str, dict[str, Any]]) -> list[int]:
    """Runs the jobs; how many checkpoints each was resumed from."""
    with tempfile.TemporaryDirectory() as folder:
        per_rank = run_ranks(compare, world_size, folder, jobs, timeout=110)
    assert per_rank == [{name: [] for name in differences} for differences in per_rank]
    return [int(name.split()[-2]) for name in per_rank[0]]


def test_two_ranks_resume_bit_identically_wherever_they_were_stopped():
    """A sample of `test_so_they_do_in_every_job`: the last of the steps of each job, and ends of tasks of some."""
    jobs = {
        name: {**job, "save_at": job["save_at"][-1:], "at_task_end": name in TASK_ENDS} for name, job in JOBS.items()
    }
    assert checked(2, jobs) == [4 if name in TASK_ENDS else 2 for name in jobs]  # all at the end of the run


@pytest.mark.full
def test_so_they_do_in_every_job():
    assert checked(2, JOBS) == [len(job["save_at"]) + (2 if "domains" in name else 3) for name, job in JOBS.items()]


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize(
    ("job", "checkpoints"),
    [
        ({"save_at": (2, 11), "at_task_end": False}, 3),
        pytest.param({"save_at": (2, 8, 11)}, 6, marks=pytest.mark.full),
    ],
)
def test_so_do_one_and_three(world_size, job, checkpoints):
    # three values are added in an order that depends on where DDP puts them: it must be the same order again
    assert checked(world_size, {"er": job}) == [checkpoints]


@pytest.mark.full
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["er asynchronous", "er inline"])
@pytest.mark.parametrize("first", [1, 11, 21])
def test_so_they_do_after_every_step(name, first):
    steps = range(first, first + 10)
    assert checked(2, {name: {**JOBS[name], "save_at": steps}}) == [len(steps) + 3]
