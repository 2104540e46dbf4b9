"""The whole program: `drb train` with er against finetune on b + r rows, milliseconds per step of its second task.

It needs the extra [train], for Hydra, and takes minutes, so it runs only when asked for: `--only program`. Both train
on as many rows in a step, images of random bytes from the cache on disk; the buffers are full by the second task.
"""

from __future__ import annotations

import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TASKS, TURNS = 2, 3
KINDS = {
    "finetune": ["strategy=finetune"],
    "er": ["strategy=er"],
    "er, stored on the gpu": ["strategy=er", "rehearsal.storage=device"],
}


@dataclass(frozen=True)
class Job:
    """Letters: b rows of a minibatch, r exemplars of a step. images: of both tasks. epochs: over each task."""

    model: str
    side: int
    b: int
    r: int
    images: int
    epochs: int
    capacity: int = 1000

    @property
    def name(self) -> str:
        return f"{self.model} {self.b}+{self.r}"

    def steps(self, rows: int) -> int:
        return self.epochs * math.ceil(self.images / TASKS / rows)


JOBS = (Job("resnet50", 224, 256, 32, 8192, 4), Job("resnet50", 224, 56, 7, 8192, 2))
TINY = (Job("cnn", 16, 12, 4, 192, 1, capacity=20),)


def measure(
    within_s: float = math.inf,
    keep: Callable[[dict[str, Any]], object] = lambda found: None,
    *,
    tiny: bool = False,
) -> dict[str, Any]:
    """Milliseconds per step of every run and ratios of medians, by job; a note instead where Hydra is not installed.

    Args:
        within_s: no run begins that would end later, judged by the longest so far; each kind runs once in any case.
        keep: is given all figures so far after each run.
    """
    if importlib.util.find_spec("hydra") is None:
        return {"left out": "it needs Hydra: pip install 'drb-train[train]'"}
    jobs, kinds = (TINY, list(KINDS)[:2]) if tiny else (JOBS, list(KINDS))
    found: dict[str, Any] = {job.name: {"ms": {kind: [] for kind in kinds}} for job in jobs}
    end, longest_s = time.monotonic() + within_s, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(1 if tiny else TURNS):
            for job in jobs:
                for kind in kinds:
                    start = time.monotonic()
                    if turn and start + longest_s > end:
                        return found
                    run_dir = Path(folder, f"{job.name}-{kind}-{turn}".replace(" ", "-").replace(",", ""))
                    ms = run(job, kind, Path(folder, "cache"), run_dir, tiny=tiny)
                    longest_s = max(longest_s, time.monotonic() - start)
                    found[job.name]["ms"][kind].append(round(ms, 3))
                    found[job.name]["ratio"] = ratios(found[job.name]["ms"])
                    print(f"   {job.name} {kind}: {ms:.2f} ms a step, {time.monotonic() - start:.0f} s", flush=True)
                    keep(found)
    return found


def run(job: Job, kind: str, cache: Path, run_dir: Path, *, tiny: bool) -> float:
    """Milliseconds per step of the second task, training alone: without evaluation."""
    rows = job.b if kind != "finetune" else job.b + job.r
    done = subprocess.run(
        [sys.executable, "-m", "drb.train", *settings(job, kind, rows, cache, tiny=tiny), f"hydra.run.dir={run_dir}"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{job.name} {kind} failed: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    task = json.loads((run_dir / "summary.json").read_text())["history"][1]
    return float(1e3 * task["seconds"] / job.steps(rows))


def settings(job: Job, kind: str, rows: int, cache: Path, *, tiny: bool) -> list[str]:
    """The program's settings for one run."""
    return [
        "experiment=none",
        "dataset=synthetic",
        f"dataset.num_train={job.images}",
        "dataset.num_test=64",
        "dataset.num_classes=4",
        f"dataset.image_shape=[3,{job.side},{job.side}]",
        f"dataset.cache_dir={cache}",
        "scenario=class_incremental",
        f"scenario.num_tasks={TASKS}",
        "scenario.classes_per_task=2",
        f"model={job.model}",
        f"training.batch_size={rows}",
        f"training.epochs={job.epochs}",
        "optimizer.lr=0.01",
        "tracking=none",
        "checkpoint=none",
        *([] if tiny else ["device=cuda", "training.precision=bf16", "training.channels_last=true"]),
        *KINDS[kind],
        *([] if kind == "finetune" else [f"rehearsal.exemplars={job.r}", f"rehearsal.capacity={job.capacity}"]),
    ]


def ratios(ms: dict[str, list[float]]) -> dict[str, float]:
    """Each kind's median against finetune's, once both have run."""
    if not ms["finetune"]:
        return {}
    plain = statistics.median(ms["finetune"])
    return {kind: statistics.median(runs) / plain for kind, runs in ms.items() if runs and kind != "finetune"}
