"""A small trainer over synthetic images, and a strategy that keeps what it was shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from drb.data.datasets import Dataset, load_dataset
from drb.data.scenarios import build_scenario
from drb.distributed.world import World
from drb.training import Constant, OptimizerBuilder, Schedule, Sgd, Trainer, TrainingSettings
from drb.training.augment import Preprocess
from drb.training.method.batch import Batch
from drb.training.method.needs import Needs
from drb.training.method.tasks import CurrentTask, FinishedTask
from drb.training.models import Network, build_model
from drb.training.strategies import STRATEGIES, Strategy

Array = npt.NDArray[np.float32]
SHAPE = (1, 4, 4)


def small_dataset(num_train: int, num_classes: int = 4) -> Dataset:
    return load_dataset(
        "synthetic", image_shape=list(SHAPE), num_classes=num_classes, num_train=num_train, num_test=4 * num_classes
    )


def preprocess() -> Preprocess:
    return Preprocess(mean=[0.25], std=[0.2])


def make_network(num_classes: int, task: int) -> Network:
    return build_model("mlp", SHAPE, num_classes, seed=100 + task, hidden=[8])


class Recording(Strategy):
    """A strategy that also keeps the labels and ids of every batch, and the weights at each task's start and end."""

    base: str

    def __post_init__(self) -> None:
        self._strategy = STRATEGIES.build(self.base)
        self._batches: list[tuple[Tensor, Tensor]] = []
        self._starts: list[dict[str, Array]] = []
        self._ends: list[dict[str, Array]] = []

    def needs(self) -> Needs:
        return self._strategy.needs()

    def loss(self, batch: Batch) -> Tensor:
        self.batches.append((batch["sample_id"].clone(), batch["label"].clone()))
        return self._strategy.loss(batch)

    def begin_task(self, task: CurrentTask) -> None:
        self.starts.append(weights(task.network))

    def end_task(self, task: FinishedTask) -> None:
        self.ends.append(weights(task.network))

    @property
    def batches(self) -> list[tuple[Tensor, Tensor]]:
        return self._batches

    @property
    def starts(self) -> list[dict[str, Array]]:
        return self._starts

    @property
    def ends(self) -> list[dict[str, Array]]:
        return self._ends


def weights(network: nn.Module) -> dict[str, Array]:
    """Copies, as arrays: tensors do not outlive the rank that sends them."""
    return {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}


def small_trainer(
    dataset: Dataset,
    strategy: Any,
    *,
    world: World | None = None,
    scenario: str = "class_incremental",
    rehearsal: Any = None,
    num_exemplars: int | None = None,
    optimizer: OptimizerBuilder | None = None,
    schedule: Schedule | None = None,
    num_outputs: int | None = None,
    terms: Any = (),
    objective: Any = None,
    network: Any = make_network,
    seed: int = 0,
    scenario_options: dict[str, Any] | None = None,
    on_step: Any = None,
    **training: Any,
) -> Trainer:
    return Trainer(
        build_scenario(scenario, dataset, seed=0, **(scenario_options or {"num_tasks": 2})),
        network,
        preprocess(),
        strategy,
        terms=terms,
        objective=objective,
        seed=seed,
        world=world or World(),
        training=TrainingSettings(**training),
        optimizer=optimizer or Sgd(lr=0.1, momentum=0.9),
        schedule=schedule or Constant(),
        rehearsal=rehearsal,
        num_exemplars=num_exemplars,
        num_outputs=num_outputs,
        on_step=on_step,
    )


def close(left: dict[str, Array], right: dict[str, Array], tolerance: float = 1e-6) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_allclose(value, right[name], rtol=0, atol=tolerance)
