"""How good stored networks are on named sets of samples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from drb.data.datasets import Source
from drb.data.source import channel_axis
from drb.training.models.outputs import DESCRIPTION_FILE
from drb.training.models.saved import load_network

_ROWS = 512


def accuracies(folder: Path, eval_sets: Mapping[str, Source]) -> dict[str, float]:
    """The accuracy of a run's network on each set, a fraction. A class that the network does not know counts as wrong.

    Raises:
        ValueError: the folder holds no network, or one for other samples.
    """
    return accuracies_of(load_network(folder), json.loads((folder / DESCRIPTION_FILE).read_text("utf-8")), eval_sets)


def accuracies_of(
    network: nn.Module, description: Mapping[str, Any], eval_sets: Mapping[str, Source]
) -> dict[str, float]:
    """The accuracy of a network in evaluation mode, as `accuracies`; description: of model.json."""
    shape = tuple(description["image_shape"])
    found = {}
    for name, source in eval_sets.items():
        right = 0
        for start in range(0, len(source), _ROWS):
            batch = source.gather(np.arange(start, min(start + _ROWS, len(source))))
            samples = batch["image"]
            if tuple(samples.shape[1:]) != shape:
                raise ValueError(
                    f"the evaluation set {name} has samples {list(samples.shape[1:])}, the network takes {list(shape)}"
                )
            with torch.inference_mode():
                outputs = network(_normalised(samples, description["mean"], description["std"]))
            right += int((outputs.argmax(1) == batch["label"]).sum())
        found[name] = right / len(source)
    return found


def export_program(folder: Path) -> Path:
    """Write a run's network as `model.pt2` (torch.export), which takes any number of normalised samples; its path."""
    network, description = load_network(folder), json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    example = torch.zeros(2, *description["image_shape"])
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(network, (example,), dynamic_shapes=({0: rows},))
    path = folder / "model.pt2"
    unfinished = path.with_name(".writing.model.pt2")
    torch.export.save(program, unfinished)
    unfinished.replace(path)
    return path


def _normalised(samples: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    values = samples.float() / 255 if samples.dtype == torch.uint8 else samples.float()
    view = [1] * values.dim()
    view[channel_axis(values.dim())] = -1
    return (values - torch.tensor(mean).view(view)) / torch.tensor(std).view(view)
