"""Whole training steps of several kinds, interleaved in one run on W ranks: what `overlap` and `incremental` compare.

Kinds of step, each with a network, a DDP and an optimizer of its own, on the same data:

    plain      DDP on minibatches of b + r
    plain (A)  the same once more: what two equal things differ by here
    rehearsal  DDP on minibatches of b, extended by r exemplars, with drb's defaults; there may be several, with other
               options
    lower      DDP on minibatches of b: plain incremental training

They take turns in blocks of a few steps, in another order each time. A ratio is that of a block's time per step to
its turn's plain block, of both ranks together (they wait for one another): paired, so that a slower machine slows
both.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from interleaved import upper_bound
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from drb import Rehearsal
from drb.training.models import build_model

B, R, SAMPLES, CAPACITY = 56, 7, 2048, 1000


@dataclass(frozen=True)
class Job:
    """model: of drb.training.models; shape: of an image; steps: of a block."""

    model: str
    shape: tuple[int, int, int]
    steps: int


JOBS = {
    "resnet18": Job("resnet18", (3, 64, 64), 1),
    "cnn": Job("cnn", (3, 32, 32), 8),
    "mlp": Job("mlp", (1, 28, 28), 60),
}


class Kind:
    """One way to train; `step` trains on the next minibatch."""

    def __init__(self, job: Job, images: Tensor, labels: Tensor, batch_size: int, rehearsal: Rehearsal | None) -> None:
        network = build_model(job.model, job.shape, 10, seed=0)
        self._model = DistributedDataParallel(network)
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=0.01, momentum=0.9)
        self._minibatches = _minibatches(images, labels, batch_size)
        self.rehearsal = rehearsal

    def step(self) -> None:
        batch = next(self._minibatches)
        if self.rehearsal is not None:
            batch = self.rehearsal.extend(batch)
        loss = F.cross_entropy(self._model(batch["image"].float().div_(255)), batch["label"])
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


def _minibatches(images: Tensor, labels: Tensor, batch_size: int) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    while True:
        for rows in torch.randperm(len(labels), generator=generator).split(batch_size):
            if len(rows) == batch_size:
                yield {"image": images[rows], "label": labels[rows], "sample_id": rows + dist.get_rank() * SAMPLES}


def _run_rank(
    rank: int, world_size: int, scratch: str, job: Job, blocks: int, rehearsals: dict[str, dict[str, Any]]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{scratch}/rendezvous", rank=rank, world_size=world_size)
    torch.manual_seed(rank)
    images = torch.randint(0, 256, (SAMPLES, *job.shape), dtype=torch.uint8)
    labels = torch.randint(0, 10, (SAMPLES,))
    kinds = {
        "plain": Kind(job, images, labels, B + R, None),
        "plain (A)": Kind(job, images, labels, B + R, None),
        "lower": Kind(job, images, labels, B, None),
    }
    common = {"capacity": CAPACITY, "exemplars": R, "seed": 0, "verbose": False}
    with ExitStack() as stack:
        opened = {name: stack.enter_context(Rehearsal(**(common | options))) for name, options in rehearsals.items()}
        kinds |= {name: Kind(job, images, labels, B, rehearsal) for name, rehearsal in opened.items()}
        times = _take_turns(kinds, job.steps, blocks)
        stats = {name: rehearsal.stats() for name, rehearsal in opened.items()}
    everyone: list[Any] = [None] * world_size
    dist.all_gather_object(everyone, times)
    if rank == 0:
        Path(scratch, "result").write_text(json.dumps({"times": everyone, "stats": stats}))
    dist.destroy_process_group()
    os._exit(0)  # Gloo's threads may abort a process that has done its work and takes its time to end


def _take_turns(kinds: dict[str, Kind], steps: int, blocks: int) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU of the process) seconds per step, by kind and block. The ranks start each block together."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    order = list(kinds)
    shuffle = random.Random(0).shuffle  # alike on all ranks
    for block in range(-1, blocks):
        shuffle(order)
        for name in order:
            if steps > 1:  # one that takes seconds leaves nothing behind that could be seen in the next
                kinds[name].step()
            dist.barrier()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(steps):
                kinds[name].step()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if block >= 0:
                times[name].append((wall / steps, cpu / steps))
    return times


def run(
    job: Job, blocks: int, world_size: int = 2, rehearsals: dict[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Per-step seconds of every kind, [ranks][kind][block] (wall, CPU), and rank 0's statistics of each rehearsal.

    rehearsals: by name, options of `drb.Rehearsal`; by default one, "rehearsal".
    """
    with tempfile.TemporaryDirectory() as scratch:
        arguments = (world_size, scratch, job, blocks, rehearsals or {"rehearsal": {}})
        mp.spawn(_run_rank, arguments, nprocs=world_size)
        result: dict[str, Any] = json.loads(Path(scratch, "result").read_text())
    return result


def paired(times: list[dict[str, Any]], kind: str, against: str, which: int) -> dict[str, float]:
    """The ratio of two kinds, block by block, all ranks together; which: 0 wall, 1 CPU."""

    def of(name: str) -> Callable[[int], float]:
        return lambda block: sum(rank[name][block][which] for rank in times)

    mine, theirs = of(kind), of(against)
    ratios = [mine(block) / theirs(block) for block in range(len(times[0][kind]))]
    return {"median": statistics.median(ratios), "upper_95": upper_bound(ratios)}
