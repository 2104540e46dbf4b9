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
from drb.program.outputs import outputs_of
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

    classes: the names of the classes by output; None where an output is the class of its number, or no class at all
    (`has_classes` is false then).
    """
    model = build_variant("model", config.model)
    mean, std = normalisation(config, dataset)
    outputs = outputs_of(config, dataset)
    num_outputs: Any = network.num_classes
    names = [] if outputs is None else list(outputs.names[:num_outputs])
    is_numbered = not dataset.identity.classes and names == [str(output) for output in range(len(names))]
    return {
        "model": {"name": config.model.name, **{name: getattr(model, name) for name in options_of(type(model))}},
        "image_shape": list(dataset.image_shape),
        "num_outputs": num_outputs,
        "has_classes": outputs is not None,
        "classes": None if is_numbered else names or None,
        "mean": list(mean),
        "std": list(std),
        "dataset": config.dataset.name,
        "strategy": config.strategy.name,
        "seed": config.seed,
    }
