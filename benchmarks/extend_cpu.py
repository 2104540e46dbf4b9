"""Claim: on two ranks, a step's `extend` and its round take at most 200 µs of CPU together.

Minibatches of 56 images of 28x28 and 7 exemplars, from buffers of 1000 that are full; ranks share memory. CPU is that
of the whole process, worker included. Two ways: rounds inline, and rounds on a worker thread. Two settings:

    busy   steps train a small network in between, as in a run: caches are cold and the worker's round overlaps with
           it. The same steps without rehearsal take turns with them, and their CPU is taken off.
    bare   extend after extend, each after a barrier: what is left if nothing else is going on.

    python benchmarks/extend_cpu.py [--quick] [--drb FOLDER]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from checkout import parse_in_checkout
from torch import Tensor, nn

B, R, CAPACITY, SAMPLES = 56, 7, 1000, 8192
STEPS, TARGET_US = 100, 200.0  # of a block
WAYS = {"inline": False, "worker": True}


def _minibatches(rank: int) -> list[dict[str, Tensor]]:
    images = torch.randint(0, 256, (SAMPLES, 1, 28, 28), dtype=torch.uint8)
    ids = torch.randperm(SAMPLES)
    rows = [chosen for chosen in ids.split(B) if len(chosen) == B]
    return [{"image": images[r], "label": r % 10, "sample_id": r + rank * SAMPLES} for r in rows]


class Training:
    """A small network that is trained; the time of a step is alike whatever the minibatch."""

    def __init__(self) -> None:
        self._network = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 10))
        self._optimizer = torch.optim.SGD(self._network.parameters(), lr=0.01, momentum=0.9)
        self._images, self._labels = torch.rand(B + R, 1, 28, 28), torch.randint(0, 10, (B + R,))
        self.gradient = torch.zeros(10)  # ranks wait for one another, as DDP's do

    def step(self) -> None:
        self._optimizer.zero_grad()
        nn.functional.cross_entropy(self._network(self._images), self._labels).backward()
        self._optimizer.step()


def cpu_us(step: Callable[[int], None], steps: int) -> float:
    """CPU of this process per step."""
    dist.barrier()
    start = time.process_time()
    for number in range(steps):
        step(number)
    return 1e6 * (time.process_time() - start) / steps


def run_rank(rank: int, world_size: int, scratch: str, blocks: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{scratch}/rendezvous", rank=rank, world_size=world_size)
    import drb

    minibatches, training = _minibatches(rank), Training()
    common: dict[str, Any] = {"exchange": "shared", "verbose": False}
    rehearsals = {way: drb.Rehearsal(CAPACITY, R, asynchronous=worker, **common) for way, worker in WAYS.items()}
    for rehearsal in rehearsals.values():
        for minibatch in minibatches * 2:
            rehearsal.extend(minibatch)

    def bare(way: str | None) -> Callable[[int], None]:
        def step(number: int) -> None:
            dist.barrier()
            if way is not None:
                rehearsals[way].extend(minibatches[number % len(minibatches)])

        return step

    def busy(way: str | None) -> Callable[[int], None]:
        def step(number: int) -> None:
            if way is not None:
                rehearsals[way].extend(minibatches[number % len(minibatches)])
            training.step()
            dist.all_reduce(training.gradient)

        return step

    taken: dict[str, list[float]] = {}
    for _ in range(blocks):
        for setting, steps in (("bare", bare), ("busy", busy)):
            without = cpu_us(steps(None), STEPS)
            for way in WAYS:
                taken.setdefault(f"{setting}, {way}", []).append(cpu_us(steps(way), STEPS) - without)
    dist.barrier()
    for rehearsal in rehearsals.values():
        rehearsal.close()
    Path(f"{scratch}/result-{rank}").write_text(json.dumps(taken))
    dist.destroy_process_group()


def measure(blocks: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        mp.spawn(run_rank, (2, scratch, blocks), nprocs=2)
        ranks = [json.loads(Path(f"{scratch}/result-{rank}").read_text()) for rank in (0, 1)]
    figures: dict[str, Any] = {}
    for name in ranks[0]:
        figures[f"{name}_us"] = statistics.median(taken for rank in ranks for taken in rank[name])
    return {**figures, "target_us": TARGET_US, "holds": all(value <= TARGET_US for value in figures.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    record.save("extend_cpu", measure(10 if parse_in_checkout(parser).quick else 40))


if __name__ == "__main__":
    main()
