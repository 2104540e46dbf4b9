"""Models: a body from this package, torchvision or a user, with a head that grows. One file per architecture.

To add one, derive a class from `Model`; `drb.registry` says how it is found.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from drb.registry import Registry
from drb.seeding import derive_seed
from drb.training.models.base import Model
from drb.training.models.network import GrowingHead, Network
from drb.training.models.outputs import Outputs, saved_outputs
from drb.training.models.weights import LoadReport, load_weights, read_weights, torchvision_weights
from drb.variant import name_of

__all__ = ["MODELS", "GrowingHead", "LoadReport", "Model", "Network", "Outputs", "build_model"]

MODELS: Registry[Model] = Registry("model", Model, package=__name__, entry_points="drb.models")

_log = logging.getLogger(__name__)


def build_model(
    given: str | type[Model] | Model,
    image_shape: tuple[int, ...],
    num_classes: int,
    *,
    seed: int = 0,
    init: str = "random",
    outputs: Outputs | None = None,
    **options: Any,
) -> Network:
    """The network of a model, for samples of `image_shape`, [C, H, W] of images.

    Args:
        given: the model's name, its class or an object of it.
        num_classes: rows of the head to start with, at least 1.
        seed: the only thing random weights depend on; torch's own generators are left as they were.
        init: random, torchvision (pretrained; downloaded) or a path: of a file of weights, a run or a checkpoint.
            What does not fit is logged in one warning and kept in `Network.load_report`.
        outputs: what the outputs mean; the head of another run is then taken by the names of classes.
        options: options of the model, unless it is an object.
    Raises:
        ValueError: an unknown name or option, or weights that cannot be had or do not fit at all.
    """
    model = MODELS.build(given, options)
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "model"))
        network = model.build(image_shape, num_classes, seed)
    if init != "random":
        name = name_of(model)
        weights = torchvision_weights(name) if init == "torchvision" else read_weights(Path(init))
        origin, others = (f"torchvision's {name}", None) if init == "torchvision" else (init, saved_outputs(Path(init)))
        network.load_report = load_weights(network, weights, origin, outputs, others)
        _log.log(logging.INFO if network.load_report.complete else logging.WARNING, "%s", network.load_report)
    return network
