"""summary.json: what a run did, for tables, plots and other programs. Accuracies are fractions, times seconds."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import socket
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drb.distributed.world import World
from drb.machine import git_commit
from drb.program.config import TrainConfig
from drb.training import Trainer

_REHEARSAL_KEYS = (
    "exemplars",
    "capacity_total",
    "stored_total",
    "distinct_total",
    "bytes_per_rank",
    "extend_seconds",
    "wait_seconds",
    "inline_seconds",
    "round_seconds",
    "worker_cpu_seconds",
    "rounds",
    "exchange",
    "asynchronous",
)
_ACCURACY_KEYS = ("exemplars_mean", "old_accuracy", "old_baseline")  # of exemplars=auto:accuracy


def summarise(
    config: TrainConfig,
    trainer: Trainer,
    rehearsal_stats: Mapping[str, Any] | None,
    checkpoints: Mapping[str, Any] | None,
    energy: Mapping[str, Any] | None,
    data: str,
    world: World,
    arguments: Sequence[str],
) -> dict[str, Any]:
    """Everything in summary.json.

    breakdown: rank 0's seconds by part of a step, see docs/breakdown.md.
    data: where the samples are from, and a hash of what tells them from others.
    train_seconds and train_cpu_seconds (of this process) are those of the training loop: no loading, no evaluation.
    during_seconds: of training, at the evaluations in the midst of tasks.
    cost: rows that went forward and backward, and forward only, per rank (the mean over the ranks); method_bytes are
    those of what the method keeps beside the network and the exemplars' data: importances, averages, stored outputs.
    checkpoints: how many, what was written, and how long rank 0's training waited, also before the run was resumed.
    energy: joules that the run took where the node has counters, see `drb.program.energy`; null where it has none.
    samples_per_second counts the stream's samples on all ranks, without exemplars; nonfinite_steps those of steps
    with a NaN or infinite loss or gradient.
    """
    progress = trainer.progress
    seconds = progress.clock.seconds
    rehearsal = None
    if rehearsal_stats is not None:
        rehearsal = {key: rehearsal_stats.get(key) for key in _REHEARSAL_KEYS}
        rehearsal |= {key: rehearsal_stats[key] for key in _ACCURACY_KEYS if key in rehearsal_stats}
    return {
        "name": config.run_name,
        "strategy": config.strategy.name,
        **trainer.scores.summary(),
        "history": progress.history,
        **({"during_seconds": progress.during_seconds} if progress.during_seconds else {}),
        "train_seconds": seconds,
        "train_cpu_seconds": progress.clock.cpu_seconds,
        "breakdown": progress.breakdown.summary(progress.steps),
        "samples_per_second": progress.rows / seconds if seconds else None,
        "samples": progress.rows,
        "steps": progress.steps,
        "cost": progress.mean_cost,
        "nonfinite_steps": trainer.finite.steps,
        "world_size": world.world_size,
        "device": str(world.device),
        "seed": config.seed,
        "rehearsal": rehearsal,
        "checkpoints": checkpoints,
        "energy": energy,
        "data": data,
        "config": dataclasses.asdict(config),
        "command": ["drb.train", *arguments],
        "versions": versions(),
        "machine": {
            "host": socket.gethostname(),
            "nodes": world.world_size // world.local_world_size,
            "git_commit": git_commit(),
        },
    }


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the summary at the end of a run, or keep it elsewhere if the disk is full or away.

    Raises:
        ValueError: it is elsewhere, and where.
    """
    try:
        write_atomically(path, summary)
    except OSError as error:
        other = Path(tempfile.gettempdir()) / f"drb-{path.parent.name}-{os.getpid()}-summary.json"
        try:
            write_atomically(other, summary)
            where = f"is in {other}"
        except OSError:
            print(json.dumps(summary, allow_nan=False), flush=True)
            where = "was printed"
        raise ValueError(
            f"{path} could not be written: {error.strerror or error}; the run is complete, and its summary {where}"
        ) from error


def write_atomically(path: Path, content: str | Mapping[str, Any]) -> None:
    """A file that is whole or not there: text, or a mapping as JSON."""
    text = content if isinstance(content, str) else json.dumps(content, indent=2, allow_nan=False) + "\n"
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def versions() -> dict[str, str]:
    """The versions of what decides the numbers."""
    try:
        own = version("drb-train")
    except PackageNotFoundError:  # run from a source tree that is not installed
        own = "unknown"
    return {"drb": own, "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
