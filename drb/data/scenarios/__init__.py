"""Scenarios: how a dataset becomes a stream of tasks. One file per scenario.

To add one, derive a class from `Scenario`; `drb.registry` says how it is found.
"""

from __future__ import annotations

from typing import Any

from drb.data.check import check_dataset
from drb.data.datasets import Dataset
from drb.data.scenarios.task import Scenario, Task, hold_out
from drb.registry import Registry
from drb.variant import fresh

SCENARIOS: Registry[Scenario] = Registry("scenario", Scenario, package=__name__, entry_points="drb.scenarios")


def build_scenario(given: str | type[Scenario] | Scenario, dataset: Dataset, *, seed: int, **options: Any) -> Scenario:
    """A scenario over `dataset`: the stream of its tasks.

    Args:
        given: the scenario's name, its class, or an object of it, which is left as it is.
        options: options of the scenario, unless it is an object.
    Raises:
        ValueError: an unknown name or option, or values that make no stream of this dataset; or a dataset whose
            labels or shape cannot be right: see `drb.data.check.check_dataset`.
    """
    check_dataset(dataset)
    scenario = fresh(SCENARIOS.build(given, options))
    scenario.begin(dataset, seed)
    return scenario


__all__ = ["SCENARIOS", "Scenario", "Task", "build_scenario", "hold_out"]
