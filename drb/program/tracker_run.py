"""Which of the tracker's runs a run logs to: the same one however often it is started again.

A checkpoint knows it. Before the first checkpoint the file `tracking.json` in the run directory does: a run that was
killed that early repeats its first steps, which the tracker then leaves out.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from drb.checkpoint import Saved
from drb.data.datasets import Dataset
from drb.distributed.world import World
from drb.machine import git_commit
from drb.program.config import TrainConfig
from drb.program.config.resume import require_same_config
from drb.program.config.variants import build_variant
from drb.program.summary import versions, write_atomically
from drb.tracking import PARENT, Data, NullTracker, Tracker, TrackerBuilder, UnknownRunError

_log = logging.getLogger(__name__)
_RECORD = "tracking.json"


def open_tracker_of(config: TrainConfig, run_dir: Path, world: World, saved: Saved | None) -> Tracker:
    """saved: what the run goes on from, if anything; if that is another run's, the tracker's run is a new one."""
    if saved is not None:
        is_own = saved.path.resolve().is_relative_to(run_dir.resolve())
        run_id = saved.facts["tracking_run_id"] if is_own else None
    else:
        run_id = _recorded(config, run_dir) if world.is_main else None
    try:
        tracker = _open(config, run_dir, world, run_id)
    except UnknownRunError as error:
        _log.warning("tracking: %s; from here on it is tracked as a new run", error)
        tracker = _open(config, run_dir, world, None)
    if tracker.run_id is not None:
        write_atomically(run_dir / _RECORD, {"run_id": tracker.run_id, "config": dataclasses.asdict(config)})
    return tracker


def _open(config: TrainConfig, run_dir: Path, world: World, run_id: str | None) -> Tracker:
    if not (config.tracking.enabled and world.is_main):
        return NullTracker()
    builder: TrackerBuilder = build_variant("tracking", config.tracking)
    return builder.open(config.tracking.experiment, config.run_name, run_dir, run_id)


def tags_of(config: TrainConfig, world: World, arguments: Sequence[str]) -> dict[str, str]:
    """What the tracker's runs are searched and grouped by.

    DRB_STUDY and DRB_PARENT_RUN in the environment say which study the run belongs to, and that study's tracked run.
    """
    commit, job = git_commit(), os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    known: dict[str, object] = {
        "study": os.environ.get("DRB_STUDY"),
        PARENT: os.environ.get("DRB_PARENT_RUN"),
        "strategy": config.strategy.name,
        "world_size": world.world_size,
        "nodes": world.world_size // world.local_world_size,
        "seed": config.seed,
        "host": socket.gethostname(),
        "git_commit": commit,
        "slurm_job": job,
        **{f"version_{name}": version for name, version in versions().items()},
        "command": " ".join(["drb.train", *arguments]),
        "mlflow.source.name": "drb.train",  # MLflow shows what follows the last slash
        "mlflow.source.type": "JOB" if job else "LOCAL",
        "mlflow.source.git.commit": commit,
    }
    return {name: str(value) for name, value in known.items() if value is not None}


def data_of(config: TrainConfig, dataset: Dataset) -> Data:
    """What the tracker shows as the run's data set."""
    sizes = {"train": len(dataset.train), "test": len(dataset.test), "classes": dataset.num_classes}
    digest = dataset.identity.fingerprint.rpartition(" ")[2]
    root = getattr(config.dataset, "root", None)
    source = {"dataset": config.dataset.name, **({} if root is None else {"root": str(root)})}
    return Data(config.dataset.name, digest, json.dumps(source), json.dumps(sizes))


def _recorded(config: TrainConfig, run_dir: Path) -> str | None:
    """The run that an earlier start of the same run made in the same store."""
    if not config.checkpoint.enabled or config.checkpoint.resume != "auto":
        return None
    try:
        record = json.loads((run_dir / _RECORD).read_text())
        require_same_config(record["config"], dataclasses.asdict(config), _RECORD)
        run_id: str = record["run_id"]
        return run_id if record["config"]["tracking"] == dataclasses.asdict(config.tracking) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
