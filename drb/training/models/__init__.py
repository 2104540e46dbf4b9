"""Models by name: a body from this package or torchvision, with a head that grows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from drb.options import choose
from drb.seeding import derive_seed
from drb.training.models.cnn import cnn
from drb.training.models.mlp import mlp
from drb.training.models.network import GrowingHead, Network
from drb.training.models.resnet import resnet18, resnet50
from drb.training.models.weights import LoadReport, load_weights, read_weights, torchvision_weights

__all__ = ["MODELS", "GrowingHead", "LoadReport", "Network", "build_model"]

MODELS: dict[str, Callable[..., Network]] = {"mlp": mlp, "cnn": cnn, "resnet18": resnet18, "resnet50": resnet50}

_log = logging.getLogger(__name__)


def build_model(
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    seed: int = 0,
    init: str = "random",
    **options: Any,
) -> Network:
    """The model called `name`, for images of `image_shape` [C, H, W].

    Args:
        num_classes: rows of the head to start with, at least 1.
        seed: the only thing random weights depend on; torch's own generators are left as they were.
        init: random, torchvision (pretrained; downloaded) or the path of a .safetensors or torch file of weights.
            What does not fit is logged in one warning and kept in `Network.load_report`.
        options: keyword arguments of the model's function (see `MODELS`).
    Raises:
        ValueError: an unknown name or option, or weights that cannot be had or do not fit at all.
    """
    build = choose("model", MODELS, name, options, given=("image_shape", "num_classes", "seed"))
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "model"))
        network = build(image_shape, num_classes, seed, **options)
    if init != "random":
        weights = torchvision_weights(name) if init == "torchvision" else read_weights(Path(init))
        network.load_report = load_weights(network, weights, f"torchvision's {name}" if init == "torchvision" else init)
        _log.log(logging.INFO if network.load_report.complete else logging.WARNING, "%s", network.load_report)
    return network
