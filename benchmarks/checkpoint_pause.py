"""How long training waits for a checkpoint, and what agreeing on one costs a step.

    python benchmarks/checkpoint_pause.py --exemplars 2000 --ranks 2

Prints one line of JSON. `pause_s` is the slowest rank's, of saving a ResNet-18 with momentum and buffers of images of
3x224x224 bytes; `ask_us` the cost of one exchange of wishes, of which there are about five per second.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from drb.checkpoint import Checkpointer, CheckpointSettings, StopSignals
from drb.checkpoint.agreement import Agreement, Wish
from drb.models import build_model
from drb.world import World


def measure(rank: int, ranks: int, exemplars: int, folder: str) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    saver = Checkpointer(
        CheckpointSettings(every_steps=1, keep_last=1, signals=[]),
        Path(folder),
        World(rank, ranks),
        signals=StopSignals([]),
    )
    saver.begin_task(0)
    state = job(exemplars)
    pauses = []
    for step in range(1, 4):
        before = saver.seconds
        saver.visit(step, lambda: state)
        pauses.append(saver.seconds - before)
    size = sum(path.stat().st_size for path in Path(folder, "checkpoints").rglob("*") if path.is_file())
    ask_us = cost_of_asking(ranks)
    if rank == 0:
        result = {
            "ranks": ranks,
            "exemplars_per_rank": exemplars,
            "checkpoint_mb": round(size / 1e6),
            "pause_s": [round(pause, 2) for pause in pauses],
            "mb_per_s": round(size / 1e6 / min(pauses)),
            "ask_us": round(ask_us, 1),
            "torch": torch.__version__,
            "machine": f"{platform.machine()}, {mp.cpu_count()} cores",
            "command": " ".join(sys.argv),
        }
        print(json.dumps(result))


def job(exemplars: int) -> dict[str, Any]:
    """What a run on ImageNet has to save."""
    network = build_model("resnet18", (3, 224, 224), 1000)
    momenta = {name: {"momentum_buffer": torch.zeros_like(value)} for name, value in network.named_parameters()}
    weights = network.state_dict()
    words = 3 * 224 * 224 // 8 + 5
    return {
        "trainer": {"steps": 1},
        "model": {f"{kind}.{name}": value for kind in ("network", "starting") for name, value in weights.items()},
        "optimizer": {"optimizer": momenta},
        "rank": {"rehearsal": {"rows": np.zeros((exemplars, words), np.int64)}},
    }


def cost_of_asking(ranks: int, steps: int = 2000) -> float:
    """Microseconds of this thread per exchange, started at one step and read at the next."""
    agreement = Agreement(Wish, dist.new_group(backend="gloo") if ranks > 1 else None, every_s=0.0)
    seconds = 0.0
    for step in range(1, steps):
        if ranks > 1:
            dist.barrier()
        start = time.perf_counter()
        agreement.visit(step)
        seconds += time.perf_counter() - start
    return seconds / (steps / 2 if ranks > 1 else steps) * 1e6


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exemplars", type=int, default=2000)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--folder", help="on the file system to be measured; by default a temporary one")
    arguments = parser.parse_args()
    where = tempfile.mkdtemp(dir=arguments.folder)
    try:
        mp.spawn(measure, (arguments.ranks, arguments.exemplars, where), arguments.ranks)
    finally:
        shutil.rmtree(where)
