"""How long a checkpoint stops training: one per 50 steps, a full buffer of 2,000 images of 224x224x3 bytes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.gpu.jobs import synchronize
from drb import Rehearsal
from drb.checkpoint import Checkpointer, CheckpointSettings, StopSignals
from drb.distributed.world import World
from drb.training import Sgd
from drb.training.learner import Learner
from drb.training.models import build_model

EVERY, SAVES = 50, 3
_CLASSES = 1000


class _Run:
    """A run on ImageNet, as far as a checkpoint sees it."""

    def __init__(self, model: str, folder: str, device: torch.device, tiny: bool) -> None:
        self.exemplars, self.rows, r, side = (20, 4, 2, 32) if tiny else (2000, 56, 7, 224)
        shape, self._device = (3, side, side), device
        world = World(0, 1, device=device)
        network = build_model(model, shape, _CLASSES)
        self._learner = Learner(network, Sgd(momentum=0.9), world, precision="bf16", channels_last=True)
        self._starting = build_model(model, shape, _CLASSES).state_dict()
        where = {"device": "cuda"} if device.type == "cuda" else {}
        self.rehearsal = Rehearsal(self.exemplars, r, batch_size=self.rows, verbose=False, **where)
        images = torch.randint(0, 256, (self.rows, *shape), dtype=torch.uint8)
        self._images = images.pin_memory() if device.type == "cuda" else images
        self._next_id = 0
        settings = CheckpointSettings(every_steps=1, keep_last=2, signals=[])
        self.saver = Checkpointer(settings, Path(folder), world, signals=StopSignals([]))
        self.saver.begin_task(0)

    def extend(self) -> Any:
        ids = torch.arange(self._next_id, self._next_id + self.rows)
        self._next_id += self.rows
        return self.rehearsal.extend({"image": self._images, "label": ids % _CLASSES, "sample_id": ids})

    def steps(self, count: int) -> None:
        for _ in range(count):
            batch = {name: value.to(self._device, non_blocking=True) for name, value in self.extend().items()}
            images = batch["image"].to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)
            self._learner.backward(partial(self._loss, images, batch["label"]))
            self._learner.step()

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self._learner.forward(images), labels)

    def state(self) -> dict[str, Any]:
        weights = self._learner.network.state_dict()
        return {
            "trainer": {"steps": 0},
            "model": {
                **{f"network.{name}": value for name, value in weights.items()},
                **{f"starting.{name}": value for name, value in self._starting.items()},
            },
            "optimizer": self._learner.state_dict(),
            "rank": {"statistics": self._learner.statistics(), "rehearsal": self.rehearsal.state_dict(lazy=True)},
            "constant": ["model|starting."],
        }


def measure(
    models: list[str],
    device: torch.device,
    keep: Callable[[dict[str, Any]], object] = lambda found: None,
    *,
    tiny: bool = False,
) -> dict[str, Any]:
    """Figures by model. keep: is given all figures so far after each model."""
    torch.set_num_threads(1)
    found = {}
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            found[model] = _measure(model, folder, device, tiny)
        shown = {name: value for name, value in found[model].items() if name not in ("state_ms", "parts_ms")}
        print(f"   {model}: {shown}", flush=True)
        keep(found)
    return found


def _measure(model: str, folder: str, device: torch.device, tiny: bool) -> dict[str, Any]:
    run, every = _Run(model, folder, device, tiny), 2 if tiny else EVERY
    while len(run.rehearsal.sample_ids()) < run.exemplars:
        run.extend()

    def interval() -> float:
        synchronize(device)
        seconds = _seconds(partial(run.steps, every))
        return seconds + _seconds(partial(synchronize, device))

    run.steps(3)
    start_s = _seconds(partial(run.saver.visit, 0, run.state))  # memory is reserved, as after a run's first step
    plain, pauses, during = [interval()], [], []
    for number in range(1, SAVES + 1):
        run.steps(2 if tiny else 8)
        synchronize(device)
        pauses.append(_seconds(partial(run.saver.visit, number, run.state)))
        during.append(interval())
        run.saver.finish()
    plain.append(interval())
    run.rehearsal.close()
    interval_s = statistics.median(plain)
    return {
        "step_ms": 1e3 * interval_s / every,
        "start_ms": 1e3 * start_s,
        "pause_ms": [1e3 * pause for pause in pauses],
        "first_share": pauses[0] / interval_s,
        "later_share": max(pauses[1:]) / interval_s,
        "share_while_writing": statistics.median(during) / interval_s - 1,
    }


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
