"""What runs leave: the outcome of a case, and the run that nothing broke, which it is compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from faults.damage import checkpoints
from faults.plan import Fault
from faults.ranks import run_ranks

TIMEOUT_S = 8
_START = ["experiment=digits", "scenario.num_tasks=4", "training.epochs=1", "optimizer.momentum=0.9"]
_SHARED = ["training.batch_size=12", "rehearsal.capacity=120", "rehearsal.exemplars=12"]  # over all ranks
JOB = [*_START, *_SHARED, "checkpoint.every_steps=6", "checkpoint.at_task_end=true", "training.log_every=5"]


@dataclass
class Outcome:
    """What a case showed. problems: empty if all that is promised was kept."""

    fault: Fault
    message: str = ""
    seconds: float = 0.0
    lost: int = 0
    orphans: int = 0
    leaks: int = 0
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "fault": self.fault.to_json()}

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> Outcome:
        return cls(**{**content, "fault": Fault(**content["fault"])})


@dataclass(frozen=True)
class Reference:
    """A run that nothing broke. ids: what is stored on all ranks together in the checkpoint of each name."""

    matrix: list[Any]
    counts: list[Any]
    ids: dict[str, list[int]]


def run_reference(world_size: int, folder: Path) -> Reference:
    run_dir = folder / "run"
    arguments = [*JOB, "tracking=none", f"hydra.run.dir={run_dir}", "checkpoint.keep_last=1000"]
    ended = run_ranks(arguments, world_size, folder / "logs")
    if any(end.code != 0 for end in ended.ranks):
        raise RuntimeError(f"the run that nothing breaks failed: {ended.ranks[0].err}")
    matrix, counts = result_of(run_dir)
    return Reference(matrix, counts, {path.name: stored_ids(path) for path in checkpoints(run_dir)})


def stored_ids(checkpoint: Path) -> list[int]:
    """Sample ids in all ranks' buffers, sorted."""
    from drb.checkpoint import read_rank_states

    ids: list[int] = []
    for state in read_rank_states(checkpoint):
        rehearsal = state["rehearsal"]
        if "buffer" in rehearsal:
            ids += np.asarray(rehearsal["buffer"]["columns"]["sample_id"]).tolist()
    return sorted(ids)


def result_of(run_dir: Path) -> tuple[list[Any], list[Any]]:
    """Accuracy matrix, and exemplars of each stratum at the end of each task."""
    summary = json.loads((run_dir / "summary.json").read_text())
    return summary["accuracy_matrix"], [entry.get("counts") for entry in summary["history"]]
