"""Several ranks that share one GPU, time-sliced: right rows, and what a step costs. Gradients travel over Gloo."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.gpu.jobs import Data, Job, group, kinds_of, ways_of
from benchmarks.gpu.steps import compared, count_wrong, interleaved

_TIMEOUT_S = 60.0
_WAYS = ("on the gpu", "device=", "stored on the gpu")


def measure(
    job: Job,
    device: torch.device,
    world_sizes: tuple[int, ...],
    turns: int,
    keep: Callable[[dict[str, Any]], object] = lambda found: None,
) -> dict[str, Any]:
    """Ratios over all ranks together, and wrong rows of each way, by the number of ranks.

    keep: is given all figures so far after each number of ranks.
    """
    found = {}
    for world_size in world_sizes:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(_run, (world_size, job, str(device), turns, folder), nprocs=world_size)
            found[str(world_size)] = json.loads(Path(folder, "found.json").read_text())
        print(f"   W={world_size}: {json.dumps(found[str(world_size)])}", flush=True)
        keep(found)
    return found


def _run(rank: int, world_size: int, job: Job, device_name: str, turns: int, folder: str) -> None:
    torch.set_num_threads(1)
    device = torch.device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    chosen = {name: way for name, way in ways_of(job, device).items() if name in _WAYS}
    with group(device, rank, world_size, f"{folder}/store"):
        data = Data(job, device, rank, world_size)
        with kinds_of(job, data, chosen, timeout_s=_TIMEOUT_S, seed=0) as kinds:
            times = interleaved(kinds, job.steps, turns, device)
            wrong = {name: count_wrong(kinds[name], data)["wrong"] for name in chosen}
        everyone: list[Any] = [None] * world_size
        dist.all_gather_object(everyone, (times, wrong))
    if rank == 0:
        together = {
            name: [(statistics.mean(other[name][turn][0] for other, _ in everyone), 0.0) for turn in range(turns)]
            for name in times
        }
        found = {
            "kinds": compared(together, chosen),
            "wrong": {name: sum(other[name] for _, other in everyone) for name in chosen},
        }
        Path(folder, "found.json").write_text(json.dumps(found))
