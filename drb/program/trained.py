"""What a finished run leaves of its network, for other programs and runs: `model.safetensors` and `model.json`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from drb.data.datasets import Dataset
from drb.program.build import normalisation
from drb.program.config import TrainConfig
from drb.program.config.variants import build_variant
from drb.training.models.saved import save_network
from drb.variant import options_of


def save_trained_network(
    run_dir: Path, config: TrainConfig, dataset: Dataset, network: nn.Module, say: Callable[[str], None]
) -> list[Path]:
    """Write the network that was evaluated; the paths of the files. A disk that is full does not fail the run."""
    try:
        return save_network(run_dir, network, describe_network(config, dataset, network))
    except OSError as error:
        say(f"warning: the trained network could not be written into {run_dir}: {error.strerror or error}")
        return []


def describe_network(config: TrainConfig, dataset: Dataset, network: nn.Module) -> dict[str, Any]:
    """What `load_network` needs, and what users must know: how images are normalised, and what outputs mean.

    classes: the names of the classes by output; None where outputs are numbered by their first appearance.
    """
    model = build_variant("model", config.model)
    mean, std = normalisation(config, dataset)
    is_natural = getattr(config.scenario, "class_order", "natural") == "natural"
    return {
        "model": {"name": config.model.name, **{name: getattr(model, name) for name in options_of(type(model))}},
        "image_shape": list(dataset.image_shape),
        "num_outputs": network.num_classes,
        "classes": list(dataset.identity.classes) or None if is_natural else None,
        "mean": list(mean),
        "std": list(std),
        "dataset": config.dataset.name,
        "strategy": config.strategy.name,
        "seed": config.seed,
    }
