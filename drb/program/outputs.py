"""What the outputs of a run's network mean, from its configuration and data."""

from __future__ import annotations

from drb.data.datasets import Dataset
from drb.data.scenarios import build_scenario
from drb.program.config import TrainConfig
from drb.program.config.variants import build_variant
from drb.rehearsal.settings import LABEL
from drb.training.models.outputs import Outputs


def names_of_strata(config: TrainConfig, outputs: Outputs | None) -> tuple[str, ...]:
    """What exemplars are grouped by, by its number; empty if the groups have no names.

    outputs: of the network: exemplars are grouped by class, unless rehearsal.stratum says otherwise.
    """
    return outputs.names if outputs is not None and config.rehearsal.stratum == LABEL else ()


def outputs_of(config: TrainConfig, dataset: Dataset) -> Outputs | None:
    """The class of each output that the network may have; None if outputs are no classes."""
    if build_variant("objective", config.objective).class_field is None:
        return None
    scenario = build_scenario(build_variant("scenario", config.scenario), dataset, seed=config.seed)
    order, names = scenario.class_order_of_outputs, dataset.identity.classes
    labels = range(dataset.num_classes) if order is None else order.tolist()
    return Outputs(tuple(names[y] if y < len(names) else str(y) for y in labels), config.dataset.name)
