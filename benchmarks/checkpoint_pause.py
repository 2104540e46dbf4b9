"""Claim: a checkpoint stops training for less than 5 % of the time between two, at one per 50 steps of ResNet-18.

Two ranks with full buffers of 2,000 images of 3x224x224 bytes each. Measured: a real training step (DDP, SGD with
momentum, so that there is a state to save), the pause of the training thread at each checkpoint, how long the write
then takes in the background, what it writes, and steps that are taken meanwhile. Between two checkpoints the buffers
get what 50 steps bring; the gradients of these steps are left out, for time's sake. The first checkpoint writes whole
buffers.

    python benchmarks/checkpoint_pause.py
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import record
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from drb import Rehearsal
from drb.checkpoint import Checkpointer, CheckpointSettings, StopSignals
from drb.distributed.world import World
from drb.training import Sgd
from drb.training.learner import Learner
from drb.training.models import build_model
from drb.types import Minibatch

EVERY, SAVES, STEPS = 50, 5, 3
TARGET = 0.05  # of the time between two
CLASSES, SHAPE = 1000, (3, 224, 224)


class Job:
    """A run on ImageNet, as far as a checkpoint sees it."""

    def __init__(self, rank: int, options: argparse.Namespace) -> None:
        self.batch, self.rank = options.batch, rank
        self.learner = Learner(build_model("resnet18", SHAPE, CLASSES), Sgd(momentum=0.9), World(rank, 2))
        self.starting = build_model("resnet18", SHAPE, CLASSES).state_dict()
        self.rehearsal = Rehearsal(options.exemplars, 4, batch_size=self.batch, asynchronous=True, verbose=False)
        self.images = torch.randint(0, 256, (self.batch, *SHAPE), dtype=torch.uint8)
        self.next_id = rank << 40

    def extend(self) -> Minibatch:
        ids = torch.arange(self.next_id, self.next_id + self.batch)
        self.next_id += self.batch
        return self.rehearsal.extend({"image": self.images, "label": ids % CLASSES, "sample_id": ids})

    def step(self) -> None:
        batch = self.extend()
        images = batch["image"].float() / 255
        self.learner.backward(lambda: F.cross_entropy(self.learner.forward(images), batch["label"]))
        self.learner.step()

    def state(self) -> dict[str, Any]:
        weights = self.learner.network.state_dict()
        return {
            "trainer": {"steps": 0},
            "model": _below("network", weights) | _below("starting", self.starting),
            "optimizer": self.learner.state_dict(),
            "rank": {"statistics": self.learner.statistics(), "rehearsal": self.rehearsal.state_dict(lazy=True)},
        }


def _below(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in values.items()}


def measure(rank: int, options: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    settings = CheckpointSettings(every_steps=1, keep_last=2, signals=[])
    saver = Checkpointer(settings, Path(folder), World(rank, 2), signals=StopSignals([]))
    saver.begin_task(0)
    job = Job(rank, options)
    while len(job.rehearsal.sample_ids()) < options.exemplars:
        job.extend()
    job.step()
    steps = [seconds(job.step) for _ in range(STEPS)]
    pauses, during = [], []
    for number in range(1, SAVES + 1):
        for _ in range(EVERY):
            job.extend()
        dist.barrier()
        assert len(job.rehearsal.sample_ids()) == options.exemplars
        pauses.append(seconds(partial(saver.visit, number, job.state)))
        if number == SAVES:
            during = [seconds(job.step) for _ in range(STEPS)]
        saver.finish()
        writes.append((saver.tally.write_seconds, saver.tally.bytes))
    job.rehearsal.close()
    everyone: list[Any] = [None, None]
    dist.all_gather_object(everyone, (pauses, steps, during))
    if rank == 0:
        report(options, everyone)
    dist.destroy_process_group()


writes: list[tuple[float, int]] = []  # of this process, summed up so far


def report(options: argparse.Namespace, everyone: list[Any]) -> None:
    step_s = statistics.median(seconds for _, steps, _ in everyone for seconds in steps)
    pauses = [max(of_ranks) for of_ranks in zip(*(pauses for pauses, _, _ in everyone), strict=True)]
    totals = [(0.0, 0), *writes]
    record.save(
        "checkpoint_pause",
        {
            "ranks": 2,
            "exemplars_per_rank": options.exemplars,
            "minibatch": [options.batch, 4],
            "step_seconds": step_s,
            "interval_seconds": EVERY * step_s,
            "pause_seconds": pauses,  # of the slower rank; the first copies into memory that is new
            "largest_share_of_interval": max(pauses) / (EVERY * step_s),
            "target": TARGET,
            "holds": max(pauses) < TARGET * EVERY * step_s,
            "write_seconds": [b[0] - a[0] for a, b in zip(totals, writes, strict=False)],
            "written_megabytes": [(b[1] - a[1]) / 1e6 for a, b in zip(totals, writes, strict=False)],
            "step_seconds_while_writing": [seconds for _, _, during in everyone for seconds in during],
        },
    )


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exemplars", type=int, default=2000, help="per rank")
    parser.add_argument("--batch", type=int, default=16, help="rows of a minibatch; smaller ones make shorter steps")
    parser.add_argument("--folder", help="on the file system to be measured; by default a temporary one")
    options = parser.parse_args()
    where = tempfile.mkdtemp(dir=options.folder)
    try:
        mp.spawn(measure, (options, where), 2)
    finally:
        shutil.rmtree(where)
