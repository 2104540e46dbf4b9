"""A NaN or infinite loss or gradient: ranks decide alike, a bad update is neither made nor saved, and it is counted."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from ranks import collect_ranks, run_ranks
from torch import nn
from training.parts import make_network, preprocess, small_dataset, weights

from drb.checkpoint import Checkpointer, CheckpointSettings, StopSignals
from drb.data.scenarios import build_scenario
from drb.distributed.world import World
from drb.train import main
from drb.training import Constant, Monitor, Sgd, Trainer, TrainingSettings
from drb.training.finite import NonFiniteError
from drb.training.models import Network
from drb.training.models.network import GrowingHead
from drb.training.strategies import Finetune


class Broken(Finetune):
    """Cross-entropy, but on some ranks some of the batches, counted from 1, are broken.

    kind: loss (NaN), infinite (the loss alone: its gradient is finite) or gradient (the loss is finite).
    """

    rank: int
    ranks: tuple[int, ...]
    batches: tuple[int, ...]
    kind: str = "loss"

    def __post_init__(self) -> None:
        self._broken = self.batches if self.rank in self.ranks else ()
        self._count = 0
        self._before: list[dict[str, np.ndarray]] = []
        self._network: nn.Module | None = None

    @property
    def before(self) -> list[dict[str, np.ndarray]]:
        """Weights before each batch."""
        return self._before

    def begin_task(self, task):
        self._network = task.network

    def loss(self, batch):
        self._count += 1
        if self._network is not None:  # not after a resume inside the task
            self._before.append(weights(self._network))
        value = super().loss(batch)
        if self._count not in self._broken:
            return value
        if self.kind == "loss":
            return value * math.nan
        if self.kind == "infinite":
            return value + math.inf
        return value + (batch.outputs().sum() * 0).sqrt()  # the derivative of the root at 0


class Lines(Monitor):
    def __init__(self):
        super().__init__()
        self.lines, self.points = [], {}

    def say(self, line):
        self.lines.append(line)

    def log_interval(self, metrics, rehearsal, step):
        self.points[step] = metrics


def batch_norm_network(num_classes, task):
    torch.manual_seed(task)
    return Network(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8)), GrowingHead(8, num_classes, seed=task)
    )


def build(rank, world_size, strategy, *, at_once=None, network=make_network, saver=None, **training):
    """A trainer of 2 tasks of 5 steps on each rank."""
    world = World(rank, world_size)
    trainer = Trainer(
        build_scenario("class_incremental", small_dataset(40 * world_size), seed=0, num_tasks=2),
        network,
        preprocess(),
        strategy,
        world=world,
        training=TrainingSettings(**{"batch_size": 4, "log_every": 4} | training),
        optimizer=Sgd(lr=0.05, momentum=0.9),
        schedule=Constant(),
        monitor=Lines(),
        saver=saver,
    )
    if at_once is not None:
        trainer.finite._at_once = at_once
    return trainer


def train(rank, world_size, ranks, batches, kind, options):
    """What a rank ended with: error, weights before each batch and at the end, and what was counted and said."""
    strategy = Broken(rank=rank, ranks=ranks, batches=batches, kind=kind)
    trainer = build(rank, world_size, strategy, **options)
    error = None
    try:
        trainer.run()
    except NonFiniteError as raised:
        error = str(raised)
    monitor = trainer._reporter.monitor
    return error, strategy.before, weights(trainer.network), trainer.finite.steps, monitor.lines, monitor.points


def same(one, other):
    return all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)


def is_finite(state):
    return all(np.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize(
    ("kind", "options"),
    [("loss", {"accumulate": 2}), ("infinite", {}), ("gradient", {"clip_norm": 0.5})],
    ids=["accumulated", "infinite", "clipped"],
)
def test_stop_ends_all_ranks_at_the_step_before_its_update(kind, options):
    step = 3 if "accumulate" not in options else 2
    batches = (3,)
    results = run_ranks(train, 2, (1,), batches, kind, {"on_nonfinite": "stop", **options})
    cause = "the gradients were not finite" if kind == "gradient" else "the loss of rank 1 was not finite"
    for error, before, end, *_ in results:
        assert error.startswith(f"optimisation step {step}: {cause}")
        assert "training.on_nonfinite=skip" in error
        assert same(before[2], end)
        assert is_finite(end)


@pytest.mark.parametrize(("kind", "options"), [("infinite", {"clip_norm": 0.5}), ("gradient", {})])
def test_skip_leaves_the_update_out_on_all_ranks(kind, options):
    results = run_ranks(train, 2, (0,), (2, 3), kind, {"on_nonfinite": "skip", **options})
    for error, before, end, steps, _, points in results:
        assert error is None
        assert steps == 2
        assert same(before[1], before[3])  # before steps 2 and 4
        assert not same(before[3], before[4])
        assert is_finite(end)
        assert points[4]["train/nonfinite_steps"] == 2
        assert math.isfinite(points[4]["train/loss"])
        assert points[4]["train/loss"] < 3  # the mean of the steps that were made
    assert same(results[0][2], results[1][2])
    lines = results[0][4]
    assert len(lines) == 1  # not one per step
    whose = "the gradients were not finite" if kind == "gradient" else "the loss of rank 0 was not finite"
    assert lines[0].startswith(f"2 of the last steps, up to step 4: {whose}")


def test_ignore_goes_on_and_counts():
    error, _, end, steps, lines, _ = train(0, 1, (0,), (3,), "loss", {"on_nonfinite": "ignore"})
    assert error is None
    assert steps == 10 - 2  # nothing is finite from then on
    assert not is_finite(end)
    assert "updates were made all the same" in lines[0]


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_outcome_that_stays_on_the_device_is_noticed_with_its_step(world_size):
    """As on a GPU: read only where the host waits anyway."""
    options = {"on_nonfinite": "stop", "at_once": False}
    for error, *_ in run_ranks(train, world_size, (world_size - 1,), (3,), "loss", options):
        expected = rf"optimisation step 3 \(noticed after step 4\): the loss of rank {world_size - 1} was not finite"
        assert re.match(expected, error)
    options["on_nonfinite"] = "ignore"
    error, *_, steps, lines, points = train(0, 1, (0,), (3,), "loss", options)
    assert (error, steps, points[4]["train/nonfinite_steps"]) == (None, 8, 2)
    assert lines[0].startswith("2 of the last steps, up to step 4: the loss of rank 0")


def test_running_statistics_that_met_a_nan_are_taken_back():
    trainer = build(0, 1, Finetune(), network=batch_norm_network, on_nonfinite="skip")
    images = trainer._components.preprocess
    prepare, calls = images.train, []

    def broken(images, generator):
        calls.append(1)
        return prepare(images, generator) * (math.nan if len(calls) == 3 else 1.0)

    images.train = broken
    trainer.run()
    assert trainer.finite.steps == 1
    assert is_finite(weights(trainer.network))


def save_and_fail(rank, world_size, run_dir, policy, at_once):
    world = World(rank, world_size)
    saver = Checkpointer(CheckpointSettings(every_steps=1, keep_last=20), run_dir, world, signals=StopSignals([]))
    batches = (4,) if policy == "stop" else (1,)  # the broken batch is the first one after the resume
    strategy = Broken(rank=rank, ranks=(1,), batches=batches)
    trainer = build(rank, world_size, strategy, saver=saver, on_nonfinite=policy, at_once=at_once)
    with saver:  # which lets a write in flight end, whatever happens
        saved = saver.find()
        if saved is not None:
            trainer.load_state_dict(saved.state)
        trainer.run()
    return trainer.finite.steps, trainer.steps, weights(trainer.network)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_bad_step_is_never_saved_and_the_run_can_go_on_without_it(at_once, tmp_path):
    _, failures = collect_ranks(save_and_fail, 2, tmp_path, "stop", at_once, timeout=60)
    assert failures.keys() == {0, 1}
    for failure in failures.values():
        assert "NonFiniteError: optimisation step 4: the loss of rank 1 was not finite" in failure
    saved = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())  # nothing half written either
    assert saved == ["step-0000000001", "step-0000000002", "step-0000000003"]
    for bad, steps, end in run_ranks(save_and_fail, 2, tmp_path, "skip", True, timeout=60):
        assert (bad, steps) == (1, 10)
        assert is_finite(end)


def test_the_program_ends_with_one_line(tmp_path, capsys):
    arguments = ["experiment=digits", "tracking=none", "optimizer.lr=1e30", f"hydra.run.dir={tmp_path}"]
    assert main(arguments) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1
    assert re.match(r"drb: error: optimisation step \d+: .* was not finite", error[0])
    assert not (tmp_path / "summary.json").exists()
