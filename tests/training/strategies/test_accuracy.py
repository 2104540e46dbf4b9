"""Every method reaches on two ranks what it reaches on one: handwritten digits, five tasks, equal rows in total."""

from __future__ import annotations

import functools
import math
import statistics
from typing import Any

import pytest
from ranks import run_cases
from training.method.runs import open_rehearsal
from training.parts import small_trainer

from drb.data.datasets import load_dataset
from drb.distributed.world import World
from drb.training.method.method import Method
from drb.training.models import Network, build_model
from drb.training.optimizers import Sgd
from drb.training.strategies import STRATEGIES

pytestmark = [pytest.mark.full, pytest.mark.timeout(400)]

METHODS = sorted({*STRATEGIES} - {"from_scratch"})
ROWS, CAPACITY, SEEDS, SHAPE, CLASSES = 16, 200, range(4), (1, 8, 8), 10
T = 5  # standard errors; by chance one of 400 differences of four and four runs is larger (Student's t)


def network(num_outputs: int, task: int, seed: int) -> Network:
    return build_model("mlp", SHAPE, num_outputs, seed=100 * seed + task, hidden=[32])


def accuracy(rank: int, world_size: int, name: str, seed: int) -> float:
    """After the last task, on all classes."""
    strategy = STRATEGIES.build(name)
    method, rehearsal = Method(strategy, []), None
    if method.draws.total:
        rehearsal = open_rehearsal(
            method,
            CAPACITY // world_size,
            ROWS // world_size,
            exemplars=ROWS // world_size,
            shape=SHAPE,
            classes=CLASSES,
            seed=seed,
        )
    trainer = small_trainer(
        load_dataset("digits"),
        strategy,
        world=World(rank, world_size),
        rehearsal=rehearsal,
        num_exemplars=ROWS // world_size,
        network=functools.partial(network, seed=seed),
        optimizer=Sgd(lr=0.05),
        scenario_options={"classes_per_task": 2},
        seed=seed,
        batch_size=ROWS // world_size,
        epochs=2,
    )
    trainer.run()
    if rehearsal is not None:
        rehearsal.close()
    return statistics.fmean(trainer.scores.main.rows()[-1])


@functools.cache
def accuracies(world_size: int) -> dict[str, list[Any]]:
    cases = {f"{name} {seed}": (name, seed) for name in METHODS for seed in SEEDS}
    return run_cases(accuracy, world_size, cases, timeout=300)


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_reach_what_one_does(name):
    one, two = ([accuracies(ranks)[f"{name} {seed}"][0] for seed in SEEDS] for ranks in (1, 2))
    difference = statistics.fmean(one) - statistics.fmean(two)
    noise = math.sqrt((statistics.variance(one) + statistics.variance(two)) / len(SEEDS))
    assert abs(difference) < T * noise + 0.005, (one, two)
    assert min(statistics.fmean(one), statistics.fmean(two)) > 0.15
