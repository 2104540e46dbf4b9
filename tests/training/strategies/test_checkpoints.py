"""Teachers, means and herded exemplars in files: a run that goes on from a checkpoint ends bit-identically."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from checkpoint.runs import run
from ranks import run_ranks

from drb.checkpoint import CheckpointSettings

STEP = 9  # inside the second of three tasks
CASES: dict[str, dict[str, Any]] = {
    "lwf": {"strategy": "lwf"},
    "icarl": {"strategy": "icarl", "rehearsal": {"admission": "closed", "batch_size": 12}},
}

ROWS = {"training": {"batch_size": 11}}  # no minibatch of one row, from which a batch norm has no statistics


def whole_and_resumed(rank: int, world_size: int, folder: str) -> dict[str, Any]:
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # no machine crashes here
    results = {}
    for name, options in CASES.items():
        options = options | {"model": "batch_norm", "save_at": (STEP,), **ROWS}
        for which, resume in (("whole", "never"), ("resumed", checkpoint(folder, name))):
            settings = CheckpointSettings(every_steps=1, keep_last=9, signals=[], resume=resume)
            results[f"{name} {which}"] = run(rank, world_size, Path(folder, f"{name}-{which}"), settings, options)
    return results


def alone(rank: int, world_size: int, folder: str, name: str) -> dict[str, Any]:
    settings = CheckpointSettings(every_steps=1, keep_last=9, signals=[], resume=checkpoint(folder, name))
    options = CASES[name] | {"model": "batch_norm", **ROWS}
    options["rehearsal"] = options["rehearsal"] | {"capacity": 40}
    return run(rank, world_size, Path(folder, "alone"), settings, options)


def checkpoint(folder: str, name: str) -> str:
    return str(Path(folder, f"{name}-whole/checkpoints/step-{STEP:010d}"))


def test_runs_go_on_from_files():
    with tempfile.TemporaryDirectory() as folder:
        ranks = run_ranks(whole_and_resumed, 2, folder, timeout=100)
        (fewer,) = run_ranks(alone, 1, folder, "icarl", timeout=60)
    for result in ranks:
        for name in CASES:
            whole, resumed = result[f"{name} whole"], result[f"{name} resumed"]
            same = ("weights", "optimizer", "scores", "random", "steps")
            assert [whole[key] for key in same] == [resumed[key] for key in same]
            assert whole.get("ids") == resumed.get("ids")
            assert whole.get("buffer") == resumed.get("buffer")
    assert len(set(fewer["ids"])) == 40 // 6 * 6
