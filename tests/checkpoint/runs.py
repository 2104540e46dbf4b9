"""Small training runs on W ranks, saved at every step, and what must be equal after one was resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from drb.checkpoint import Checkpointer, CheckpointSettings, StateParts, StopSignals
from drb.data.datasets import load_dataset
from drb.data.scenarios import build_scenario
from drb.distributed.world import World
from drb.program.rehearsal_ledger import RunLedger
from drb.rehearsal.rehearsal import Rehearsal
from drb.seeding import derive_seed
from drb.training import OPTIMIZERS, SCHEDULES, Monitor, Trainer, TrainingSettings
from drb.training.augment import Preprocess
from drb.training.models import Network, build_model
from drb.training.models.network import GrowingHead
from drb.training.strategies import STRATEGIES

IMAGE_SHAPE = (1, 6, 6)
SEED = 5


class SaverAt(Checkpointer):
    """Saves after these steps (and, if told to, at the ends of tasks); with `every_steps=1`."""

    steps: frozenset[int] = frozenset()

    def visit(self, step: int, state: Callable[[], StateParts]) -> None:
        if step in self.steps:
            super().visit(step, state)


class SmallBatchNorm(nn.Sequential):
    """A body with what global generators and ranks' own statistics decide: dropout and batch norm."""

    def __init__(self) -> None:
        layers = (nn.Flatten(), nn.Linear(36, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        super().__init__(*layers)


def make_network(name: str, num_classes: int, task: int) -> Network:
    seed = derive_seed(SEED, "weights", task)
    if name != "batch_norm":
        return build_model(name, IMAGE_SHAPE, num_classes, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(SmallBatchNorm(), GrowingHead(16, num_classes, seed=seed))


class Losses(Monitor):
    """Keeps what would be logged, by step."""

    def __init__(self) -> None:
        super().__init__()
        self.points: dict[int, tuple[float, float]] = {}

    def log_interval(self, metrics: dict[str, float], rehearsal: Rehearsal | None, step: int) -> None:
        assert step not in self.points
        self.points[step] = (metrics["train/loss"], metrics["train/learning_rate"])


def run(
    rank: int, world_size: int, run_dir: Path, settings: CheckpointSettings | None, options: dict[str, Any]
) -> dict[str, Any]:
    """Train 3 tasks of 2 classes, going on from a checkpoint if there is one.

    options: of what differs from the defaults here; save_at: steps; ledger: whether there is one.
    """
    torch.manual_seed(rank)
    world = World(rank, world_size)
    strategy = STRATEGIES.build(options.get("strategy", "er"))
    dataset = load_dataset("synthetic", image_shape=IMAGE_SHAPE, num_classes=6, num_train=198, num_test=60, seed=1)
    monitor = Losses()
    saver = None
    if settings is not None:
        saver = SaverAt(settings, run_dir, world, signals=StopSignals([]))
        saver.steps = frozenset(options.get("save_at", ()))
    rehearsal = None
    if strategy.needs().exemplars != "none":
        given = {"capacity": 20, "exemplars": 3, "asynchronous": True, "batch_size": 9} | options.get("rehearsal", {})
        rehearsal = Rehearsal(**given, seed=SEED, verbose=False)
    trainer = Trainer(
        build_scenario(
            options.get("scenario", "class_incremental"),
            dataset,
            seed=SEED,
            **options.get("stream", {"classes_per_task": 2}),
        ),
        partial(make_network, options.get("model", "mlp")),
        Preprocess(mean=[0.3], std=[0.3], crop_padding=1, flip=True),
        strategy,
        terms=options.get("terms", ()),
        world=world,
        training=TrainingSettings(**{"epochs": 2, "batch_size": 8, "log_every": 3} | options.get("training", {})),
        optimizer=_built(OPTIMIZERS, options.get("optimizer", {"name": "sgd", "lr": 0.05, "momentum": 0.9})),
        schedule=_built(SCHEDULES, options.get("schedule", {"name": "constant"})),
        rehearsal=rehearsal,
        monitor=monitor,
        saver=saver,
        seed=SEED,
    )
    saved = None if saver is None else saver.find()
    if saved is not None:
        trainer.load_state_dict(saved.state)
    ledger = RunLedger()
    if saver is not None and options.get("ledger"):
        saver.begin_run({}, ledger.start_flush)
        ledger.begin(run_dir, rehearsal, trainer, world, log=True)
    try:
        trainer.run()
    except KeyboardInterrupt:  # it stands for a kill, but the checkpoint that is being written gets its name
        assert saver is not None
        saver.finish()
        raise
    result = {
        "weights": _digest(trainer.network.state_dict()),
        "optimizer": _digest(trainer.state_dict()["optimizer"]),
        "scores": trainer.scores.state_dict(),
        "losses": monitor.points,
        "counts": [entry.get("counts") for entry in trainer.progress.history],
        "random": float(torch.rand(())),
        "steps": (trainer.steps, trainer.progress.rows),
    }
    if rehearsal is not None:
        state = rehearsal.state_dict()
        result["buffer"] = _digest(state["buffer"]) if "buffer" in state else None
        result["ids"] = rehearsal.sample_ids().tolist()
        result["rounds"] = rehearsal.stats()["rounds"]
        rehearsal.close()
    ledger.finish()
    return result


def _digest(state: Any) -> str:
    """Of every bit of a nested state."""
    digest = hashlib.blake2b(digest_size=8)
    _feed(digest, state)
    return digest.hexdigest()


def _feed(digest: Any, state: Any) -> None:
    if isinstance(state, dict):
        for key in sorted(state):
            digest.update(str(key).encode())
            _feed(digest, state[key])
    elif isinstance(state, torch.Tensor):
        digest.update(state.contiguous().numpy().tobytes())
    elif isinstance(state, np.ndarray):
        digest.update(state.tobytes())
    elif isinstance(state, np.generic):
        digest.update(repr(state.item()).encode())
    else:
        digest.update(repr(state).encode())


def _built(variants: Any, options: dict[str, Any]) -> Any:
    return variants.build(options["name"], {name: value for name, value in options.items() if name != "name"})
