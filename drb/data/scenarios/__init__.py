"""Scenarios by name: how a dataset becomes a stream of tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drb.data.datasets import Dataset
from drb.data.scenarios.class_incremental import ClassIncremental
from drb.data.scenarios.domain_incremental import DomainIncremental
from drb.data.scenarios.instance_incremental import InstanceIncremental
from drb.data.scenarios.task import Scenario, Task
from drb.data.scenarios.task_incremental import TaskIncremental
from drb.options import choose

__all__ = [
    "SCENARIOS",
    "ClassIncremental",
    "DomainIncremental",
    "InstanceIncremental",
    "Scenario",
    "Task",
    "TaskIncremental",
    "build_scenario",
]

SCENARIOS: dict[str, Callable[..., Scenario]] = {
    "class_incremental": ClassIncremental,
    "domain_incremental": DomainIncremental,
    "instance_incremental": InstanceIncremental,
    "task_incremental": TaskIncremental,
}


def build_scenario(name: str, dataset: Dataset, *, seed: int, validation: float = 0.0, **options: Any) -> Scenario:
    """The scenario called `name` over `dataset`.

    Args:
        validation: share of each task's training samples that is held out for validation.
        options: keyword arguments of the scenario's class.
    Raises:
        ValueError: an unknown name or option, or values that make no stream of this dataset.
    """
    scenario = choose("scenario", SCENARIOS, name, options, given=("dataset", "seed", "validation"))
    return scenario(dataset, seed=seed, validation=validation, **options)
