"""A run directory belongs to one run: only one process uses it at a time, and results of another run stay.

All functions are collective. Rank 0 looks, for all: a file system may show the ranks' nodes different things.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from drb.checkpoint import CheckpointError, RunLock
from drb.checkpoint.checkpointer import PATIENCE_S
from drb.checkpoint.lock import lock_run
from drb.distributed.agreement import raise_on_all_ranks, value_of_main
from drb.distributed.world import World
from drb.program.config import TrainConfig
from drb.program.config.resume import has_more_tasks, require_same_config

HOLDER = "a training run"


def claim(run_dir: Path, world: World, timeout_s: float) -> RunLock | None:
    """Make the run directory and lock it, on rank 0. Collective.

    A process of this run that was killed may hold the lock for a while, which is waited for.

    Raises:
        ValueError: another run uses the directory, or it cannot be made; on all ranks.
    """
    lock, problem = None, None
    if world.is_main:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            lock = lock_run(run_dir, HOLDER, patience_s=min(PATIENCE_S, 0.7 * timeout_s))
        except CheckpointError as error:
            problem = str(error)
        except OSError as error:
            problem = f"the run directory {run_dir} cannot be used: {error.strerror or error}; set hydra.run.dir"
    raise_on_all_ranks("drb/claim", problem, world)
    return lock


def is_finished(config: TrainConfig, run_dir: Path, world: World) -> bool:
    """Whether there is nothing left to do: a scheduler may start a job again that has just ended.

    A run without checkpoints may be done again, but not in the directory of another one. A run that has more tasks now
    goes on.

    Raises:
        ValueError: the directory holds another run; on all ranks.
    """
    summary, outcome = run_dir / "summary.json", "no"
    if world.is_main and config.checkpoint.resume != "never" and summary.exists():
        try:
            content = json.loads(summary.read_text())
            before, done = content["config"], len(content.get("task_names", ()))
            require_same_config(before, dataclasses.asdict(config), str(summary), done)
            same_start = (
                before["checkpoint"]["resume"] == config.checkpoint.resume or config.checkpoint.resume == "auto"
            )
            goes_on = has_more_tasks(before, dataclasses.asdict(config), done)
            outcome = "yes" if config.checkpoint.enabled and same_start and not goes_on else "no"
        except ValueError as error:
            outcome = str(error)
    outcome = value_of_main("finished", outcome, world)
    if outcome not in ("yes", "no"):
        raise ValueError(outcome)
    return outcome == "yes"
